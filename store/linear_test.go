package store_test

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"

	"wherry.dev/wherry/embedded/etcd"
	"wherry.dev/wherry/store"
)

// call and answer are one operation on one key; an empty value is an absent object.
type call struct {
	kind  string // get, list, create, update, delete
	key   int
	value string
}

type answer struct {
	value string // of get and list
	done  bool   // of writes: took effect
}

// register is what a key must look like to everybody: one value at a time.
var register = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		byKey := map[int][]porcupine.Operation{}
		for _, o := range history {
			k := o.Input.(call).key
			byKey[k] = append(byKey[k], o)
		}
		var out [][]porcupine.Operation
		for _, h := range byKey {
			out = append(out, h)
		}
		return out
	},
	Init: func() any { return "" },
	Step: func(state, input, output any) (bool, any) {
		s, in, out := state.(string), input.(call), output.(answer)
		switch in.kind {
		case "create":
			if out.done {
				return s == "", in.value
			}
			return s != "", s
		case "update":
			if out.done {
				return s != "", in.value
			}
			return s == "", s
		case "delete":
			if out.done {
				return s != "", ""
			}
			return s == "", s
		}
		return out.value == s, s
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v → %+v", input, output) },
}

// Reads and writes of several clients at once are linearizable: in a process alone on its etcd, whose reads ask etcd
// nothing, and in two that share one, in process or over gRPC.
func TestLinearizable(t *testing.T) {
	for name, connect := range map[string]func(*testing.T) (clients []*clientv3.Client, sole bool){
		"sole writer": func(t *testing.T) ([]*clientv3.Client, bool) { return []*clientv3.Client{startEtcd(t)}, true },
		"two servers": func(t *testing.T) ([]*clientv3.Client, bool) {
			c := startEtcd(t)
			return []*clientv3.Client{c, c}, false
		},
		"two servers over a socket": func(t *testing.T) ([]*clientv3.Client, bool) {
			socket := filepath.Join(t.TempDir(), "s")
			e, err := etcd.Start(t.Context(), etcd.Config{Dir: t.TempDir(), Listen: socket, Log: quiet()})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { e.Close() })
			var cs []*clientv3.Client
			for range 2 {
				c, err := clientv3.New(clientv3.Config{Endpoints: []string{"unix://" + socket}, DialTimeout: 5 * time.Second, Logger: zap.NewNop()})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { c.Close() })
				cs = append(cs, c)
			}
			return cs, false
		},
	} {
		t.Run(name, func(t *testing.T) {
			cs, sole := connect(t)
			var rs []store.Resource
			for _, c := range cs {
				rs = append(rs, open(t, store.Config{Client: c, SoleWriter: sole}).Resource(podConfig))
			}
			stores := len(rs)
			const clients, each, keys = 6, 120, 3
			var mu sync.Mutex
			var history []porcupine.Operation
			var wg sync.WaitGroup
			begin := time.Now()
			for client := range clients {
				r, random := rs[client%stores], rand.New(rand.NewPCG(uint64(client), 7))
				wg.Go(func() {
					for i := range each {
						in := call{[]string{"get", "list", "create", "update", "delete"}[random.IntN(5)], random.IntN(keys), fmt.Sprintf("v%d-%d", client, i)}
						from := time.Since(begin)
						out, err := operate(t, r, in)
						if err != nil {
							t.Errorf("%+v: %v", in, err)
							return
						}
						mu.Lock()
						history = append(history, porcupine.Operation{ClientId: client, Input: in, Output: out, Call: int64(from), Return: int64(time.Since(begin))})
						mu.Unlock()
					}
				})
			}
			wg.Wait()
			if len(history) != clients*each {
				t.Fatalf("%d operations", len(history))
			}
			if result := porcupine.CheckOperationsTimeout(register, history, 30*time.Second); result != porcupine.Ok {
				t.Fatalf("history is not linearizable: %s", result)
			}
		})
	}
}

func operate(t *testing.T, r store.Resource, in call) (answer, error) {
	name := fmt.Sprint(in.key)
	value := func(o *store.Object) string { return o.Object.(*corev1.Pod).Annotations["value"] }
	switch in.kind {
	case "get":
		o, err := r.Get(t.Context(), "a", name, "")
		if apierrors.IsNotFound(err) {
			return answer{}, nil
		}
		if err != nil {
			return answer{}, err
		}
		return answer{value: value(o)}, nil
	case "list":
		l, err := r.List(t.Context(), store.ListOptions{Namespace: "a"})
		if err != nil {
			return answer{}, err
		}
		for _, o := range l.Items {
			if o.Key == "a/"+name {
				return answer{value: value(o)}, nil
			}
		}
		return answer{}, nil
	case "create":
		p := newPod("a", name)
		p.Annotations = map[string]string{"value": in.value}
		_, err := r.Create(t.Context(), "a", name, p, 0)
		if apierrors.IsAlreadyExists(err) {
			return answer{}, nil
		}
		return answer{done: err == nil}, err
	case "update":
		_, err := r.Update(t.Context(), "a", name, nil, false, func(cur *store.Object) (runtime.Object, error) {
			p := cur.Object.(*corev1.Pod).DeepCopy()
			p.Annotations = map[string]string{"value": in.value}
			return p, nil
		})
		if apierrors.IsNotFound(err) {
			return answer{}, nil
		}
		return answer{done: err == nil}, err
	case "delete":
		_, err := r.Delete(t.Context(), "a", name, nil, nil)
		if apierrors.IsNotFound(err) {
			return answer{}, nil
		}
		return answer{done: err == nil}, err
	}
	panic(in.kind)
}
