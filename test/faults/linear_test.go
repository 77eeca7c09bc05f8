package faults

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"

	"wherry.dev/wherry/test/outside"
)

// verb is what a client asks for, of one key.
type verb struct {
	kind    string // get, list, create, update (of a version), patch, delete
	key     int
	value   string // that a write gives
	version string // that an update replaces
}

// outcome is what it was told.
type outcome struct {
	unknown bool   // no answer: a write may take effect at any later time, or never
	done    bool   // a write took effect
	value   string // of reads; empty: absent
	version string // of reads and of writes that took effect, but deletions
}

// state is what a key holds; an empty value is an absent object. version is empty when nobody was told it yet.
type state struct{ value, version string }

// model is one ConfigMap as every client must see it: one value and one version at a time.
var model = (&porcupine.NondeterministicModel{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		byKey := map[int][]porcupine.Operation{}
		for _, o := range history {
			k := o.Input.(verb).key
			byKey[k] = append(byKey[k], o)
		}
		var out [][]porcupine.Operation
		for _, h := range byKey {
			out = append(out, h)
		}
		return out
	},
	Init: func() []any { return []any{state{}} },
	Step: func(s, input, output any) []any {
		return next(s.(state), input.(verb), output.(outcome))
	},
	Equal:             func(a, b any) bool { return a == b },
	DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v → %+v", input, output) },
	DescribeState:     func(s any) string { return fmt.Sprintf("%+v", s) },
}).ToModel()

// next are the states that may follow s; none when the outcome cannot be.
func next(s state, in verb, out outcome) []any {
	if in.kind == "get" || in.kind == "list" {
		switch {
		case out.value != s.value:
			return nil
		case s.value != "" && s.version == "": // now somebody was told
			return []any{state{s.value, out.version}}
		case out.version != s.version:
			return nil
		}
		return []any{s}
	}
	var possible bool // for the write to take effect on s
	after := state{in.value, out.version}
	switch in.kind {
	case "create":
		possible = s.value == ""
	case "patch":
		possible = s.value != ""
	case "update":
		possible = s.value != "" && (s.version == "" || s.version == in.version)
	case "delete":
		possible, after = s.value != "", state{}
	}
	switch {
	case out.unknown:
		if possible {
			return []any{s, after}
		}
		return []any{s}
	case out.done && possible:
		return []any{after}
	case !out.done && (!possible || in.kind == "update" && s.version == ""):
		return []any{s}
	}
	return nil
}

// The model must be able to say no.
func TestModelRefuses(t *testing.T) {
	at := func(from, to int64, in verb, out outcome) porcupine.Operation {
		return porcupine.Operation{Input: in, Output: out, Call: from, Return: to}
	}
	made := at(0, 1, verb{kind: "create", value: "a"}, outcome{done: true, version: "1"})
	lost := at(0, math.MaxInt64, verb{kind: "patch", value: "b"}, outcome{unknown: true})
	read := func(from int64, value, version string) porcupine.Operation {
		return at(from, from+1, verb{kind: "get"}, outcome{value: value, version: version})
	}
	for name, test := range map[string]struct {
		history []porcupine.Operation
		want    bool
	}{
		"read what was written":            {[]porcupine.Operation{made, read(2, "a", "1")}, true},
		"stale read":                       {[]porcupine.Operation{made, read(2, "", "")}, false},
		"another version of the same":      {[]porcupine.Operation{made, read(2, "a", "2")}, false},
		"an unknown write may come late":   {[]porcupine.Operation{made, lost, read(2, "a", "1"), read(4, "b", "7")}, true},
		"but it does not go away again":    {[]porcupine.Operation{made, lost, read(2, "b", "7"), read(4, "a", "1")}, false},
		"update of a version that is gone": {[]porcupine.Operation{made, at(2, 3, verb{kind: "update", value: "c", version: "0"}, outcome{done: true, version: "3"})}, false},
		"refused though it was current":    {[]porcupine.Operation{made, at(2, 3, verb{kind: "update", value: "c", version: "1"}, outcome{})}, false},
	} {
		if got := porcupine.CheckOperations(model, test.history); got != test.want {
			t.Errorf("%s: linearizable is %v", name, got)
		}
	}
}

// linearTime is how long clients work: WHERRY_LINEAR_SECONDS, or 20 s.
func linearTime(t *testing.T) time.Duration {
	text := os.Getenv("WHERRY_LINEAR_SECONDS")
	if text == "" {
		return 20 * time.Second
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("WHERRY_LINEAR_SECONDS=%q: give a number above 0", text)
	}
	return time.Duration(n) * time.Second
}

const (
	linearNamespace = "linear"
	linearKeys      = 12
	linearClients   = 8
	callTimeout     = 3 * time.Second
)

// TestLinearizableUnderKills: clients of three API servers over an etcd of three members create, read, change and delete the same objects while servers and
// members are killed one after the other and started again. What they are told must be explained by one order of all that happened, and every watch must tell
// exactly the history that etcd has.
func TestLinearizableUnderKills(t *testing.T) {
	r := outside.StartReplicas(t, 3, 3, "--disable=scheduler,controllers")
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: linearNamespace}}
	if _, err := r.Servers[0].Kube.CoreV1().Namespaces().Create(t.Context(), namespace, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	truth := recordEtcd(t, r.Etcd, "/registry/configmaps/"+linearNamespace+"/")
	watches := startWatches(t, r)

	ctx, cancel := context.WithTimeout(t.Context(), linearTime(t))
	defer cancel()
	var clients sync.WaitGroup
	h := &history{begin: time.Now(), last: make([]string, linearKeys)}
	for i := range linearClients {
		clients.Go(func() { h.client(ctx, i, r) })
	}
	kills := killInTurn(ctx, r, watches)
	clients.Wait()
	for _, s := range r.Servers {
		s.WaitReady()
	}
	last, err := r.Servers[0].Kube.CoreV1().ConfigMaps(linearNamespace).Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "last"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	watches.finish(t, last.ResourceVersion)
	complete := truth.until(t, last.ResourceVersion)

	known, unknown := h.count()
	t.Logf("%d answers, %d writes without one, %d kills, %d changes in etcd, %d watches made", known, unknown, kills, len(complete), watches.made())
	if known < 100 {
		t.Fatalf("only %d answers: that shows nothing", known)
	}
	if result := porcupine.CheckOperationsTimeout(model, h.operations, 2*time.Minute); result != porcupine.Ok {
		t.Errorf("the history is not linearizable: %s", result)
	}
	watches.check(t, complete)
}

// killInTurn kills every server and every member, one at a time, until ctx ends, and starts it again a moment later. It returns how many it killed.
func killInTurn(ctx context.Context, r *outside.Replicas, w *watches) (kills int) {
	pause := func(d time.Duration) { // how long it works, or is dead; nothing is waited for
		select {
		case <-ctx.Done():
		case <-time.After(d):
		}
	}
	pause(2 * time.Second)
	for i := 0; ctx.Err() == nil; i++ {
		n := i % (len(r.Etcds) + len(r.Servers))
		if n%2 == 0 {
			s := r.Servers[n/2%len(r.Servers)]
			w.killed(n / 2 % len(r.Servers))
			s.Kill()
			pause(time.Second)
			s.Start()
			for s.Ready() != nil {
				time.Sleep(20 * time.Millisecond)
			}
			w.restarted(n / 2 % len(r.Servers))
		} else {
			m := r.Etcds[n/2%len(r.Etcds)]
			m.Kill()
			pause(time.Second)
			m.Start()
			for {
				if _, err := r.Revision(); err == nil {
					break
				}
			}
		}
		kills++
		pause(1500 * time.Millisecond)
	}
	return kills
}

// history gathers what clients asked and were told.
type history struct {
	begin time.Time

	mu         sync.Mutex
	operations []porcupine.Operation // guarded by mu
	last       []string              // a version of each key that somebody saw; guarded by mu
}

func (h *history) count() (known, unknown int) {
	for _, o := range h.operations {
		if o.Output.(outcome).unknown {
			unknown++
		} else {
			known++
		}
	}
	return known, unknown
}

// client works until ctx ends, each call at any of the servers.
func (h *history) client(ctx context.Context, id int, r *outside.Replicas) {
	random := rand.New(rand.NewPCG(uint64(id), 11))
	kinds := []string{"get", "get", "list", "create", "create", "update", "patch", "delete"}
	for i := 0; ctx.Err() == nil; i++ {
		in := verb{kind: kinds[random.IntN(len(kinds))], key: random.IntN(linearKeys), value: fmt.Sprintf("v%d-%d", id, i)}
		h.mu.Lock()
		in.version = h.last[in.key]
		h.mu.Unlock()
		if in.kind == "update" && in.version == "" {
			in.kind = "create"
		}
		server := r.Servers[random.IntN(len(r.Servers))]
		from := time.Since(h.begin)
		out, certain, refused := call(ctx, server.Kube, in)
		to := int64(time.Since(h.begin))
		if !certain {
			if in.kind == "get" || in.kind == "list" || refused {
				continue // a read that was not answered, or a write that nobody heard, says nothing
			}
			out, to = outcome{unknown: true}, math.MaxInt64
		}
		h.mu.Lock()
		if out.version != "" {
			h.last[in.key] = out.version
		}
		h.operations = append(h.operations, porcupine.Operation{ClientId: id, Input: in, Output: out, Call: int64(from), Return: to})
		h.mu.Unlock()
	}
}

// call does one verb once: nobody may repeat it behind our back. certain says that the answer tells what happened, refused that nobody was there to be asked.
func call(ctx context.Context, kube kubernetes.Interface, in verb) (out outcome, certain, refused bool) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	name := fmt.Sprintf("k%d", in.key)
	c := kube.CoreV1().RESTClient()
	object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: linearNamespace, ResourceVersion: ""}, Data: map[string]string{"value": in.value}}
	got := &corev1.ConfigMap{}
	var err error
	switch in.kind {
	case "get":
		err = c.Get().Namespace(linearNamespace).Resource("configmaps").Name(name).MaxRetries(0).Do(ctx).Into(got)
	case "list":
		list := &corev1.ConfigMapList{}
		if err = c.Get().Namespace(linearNamespace).Resource("configmaps").MaxRetries(0).Do(ctx).Into(list); err == nil {
			for _, o := range list.Items {
				if o.Name == name {
					got = &o
				}
			}
		}
	case "create":
		err = c.Post().Namespace(linearNamespace).Resource("configmaps").MaxRetries(0).Body(object).Do(ctx).Into(got)
	case "update":
		object.ResourceVersion = in.version
		err = c.Put().Namespace(linearNamespace).Resource("configmaps").Name(name).MaxRetries(0).Body(object).Do(ctx).Into(got)
	case "patch":
		body, _ := json.Marshal(map[string]any{"data": map[string]string{"value": in.value}})
		err = c.Patch(types.MergePatchType).Namespace(linearNamespace).Resource("configmaps").Name(name).MaxRetries(0).Body(body).Do(ctx).Into(got)
	case "delete":
		err = c.Delete().Namespace(linearNamespace).Resource("configmaps").Name(name).MaxRetries(0).VersionedParams(&metav1.DeleteOptions{}, scheme.ParameterCodec).Do(ctx).Error()
	}
	read := in.kind == "get" || in.kind == "list"
	switch {
	case err == nil && read:
		return outcome{value: got.Data["value"], version: got.ResourceVersion}, true, false
	case err == nil:
		return outcome{done: true, version: got.ResourceVersion}, true, false
	case apierrors.IsNotFound(err) && in.kind != "create", apierrors.IsAlreadyExists(err):
		return outcome{}, true, false
	case apierrors.IsConflict(err) && in.kind == "update":
		return outcome{}, true, false
	}
	var op *net.OpError
	return outcome{}, false, errors.As(err, &op) && op.Op == "dial"
}
