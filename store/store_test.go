package store_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"wherry.dev/wherry/embedded/etcd"
	"wherry.dev/wherry/store"
	"wherry.dev/wherry/store/watchcache"
)

// startEtcd runs an etcd that ends with the test.
func startEtcd(t testing.TB) *clientv3.Client {
	t.Helper()
	e, err := etcd.Start(context.Background(), etcd.Config{Dir: t.TempDir(), Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e.Client()
}

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// open opens a store with the mutation detector on, that is closed with the test.
func open(t testing.TB, c store.Config) *store.Store {
	t.Helper()
	if c.Log == nil {
		c.Log = quiet()
	}
	if _, ok := t.(*testing.T); ok && c.DetectMutations == nil {
		c.DetectMutations = func(what string) { t.Error(what) }
	}
	s := store.Open(c)
	t.Cleanup(s.Close)
	return s
}

var podConfig = store.ResourceConfig{
	Prefix:        "pods",
	Namespaced:    true,
	GroupResource: schema.GroupResource{Resource: "pods"},
	Kind:          corev1.SchemeGroupVersion.WithKind("Pod"),
	IndexField:    "spec.nodeName",
	Index:         func(o runtime.Object) string { return o.(*corev1.Pod).Spec.NodeName },
}

func podFields(o runtime.Object) fields.Set {
	p := o.(*corev1.Pod)
	return fields.Set{"metadata.name": p.Name, "metadata.namespace": p.Namespace, "spec.nodeName": p.Spec.NodeName, "status.phase": string(p.Status.Phase)}
}

func storedPodFields(o *store.Object) fields.Set { return podFields(o.Object) }

// pods opens a store over a fresh etcd and returns its pods.
func pods(t testing.TB) (store.Resource, *clientv3.Client) {
	t.Helper()
	c := startEtcd(t)
	return open(t, store.Config{Client: c, SoleWriter: true}).Resource(podConfig), c
}

// both runs test as the only writer of an etcd and as one of several: the answers must be the same.
func both(t *testing.T, limits watchcache.Limits, test func(t *testing.T, r store.Resource, c *clientv3.Client)) {
	for _, sole := range []bool{true, false} {
		t.Run(fmt.Sprintf("sole=%v", sole), func(t *testing.T) {
			c := startEtcd(t)
			if _, err := c.Put(t.Context(), "/registry/older", "v"); err != nil { // so that revision 1 is before the store's time
				t.Fatal(err)
			}
			test(t, open(t, store.Config{Client: c, SoleWriter: sole, Limits: limits}).Resource(podConfig), c)
		})
	}
}

var uid struct {
	sync.Mutex
	n int
}

func newPod(namespace, name string) *corev1.Pod {
	uid.Lock()
	defer uid.Unlock()
	uid.n++
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID(fmt.Sprintf("uid-%d", uid.n)),
		Labels: map[string]string{"app": "web"}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
}

func create(t testing.TB, r store.Resource, namespace, name string) *store.Object {
	t.Helper()
	o, err := r.Create(t.Context(), namespace, name, newPod(namespace, name), 0)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// set updates a label.
func set(t testing.TB, r store.Resource, namespace, name, value string) *store.Object {
	t.Helper()
	o, err := r.Update(t.Context(), namespace, name, nil, false, func(cur *store.Object) (runtime.Object, error) {
		p := cur.Object.(*corev1.Pod).DeepCopy()
		p.Labels = map[string]string{"app": value}
		return p, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func remove(t testing.TB, r store.Resource, namespace, name string) *store.Object {
	t.Helper()
	o, err := r.Delete(t.Context(), namespace, name, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func label(o *store.Object) string { return o.Object.(*corev1.Pod).Labels["app"] }

// within gives a wait its bound.
func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// next collects at least n events.
func next(t testing.TB, w store.Watcher, n int) []store.Event {
	t.Helper()
	var out []store.Event
	for len(out) < n {
		events, err := w.Next(within(t))
		if err != nil {
			t.Fatalf("after %d of %d events: %v", len(out), n, err)
		}
		out = append(out, events...)
	}
	return out
}

func TestCRUD(t *testing.T) {
	both(t, watchcache.Limits{}, func(t *testing.T, r store.Resource, c *clientv3.Client) {
		made := create(t, r, "a", "x")
		got, err := r.Get(t.Context(), "a", "x", "")
		if err != nil || got != made {
			t.Fatalf("get after create: %p %v, want the object of create %p", got, err, made)
		}
		if p := got.Object.(*corev1.Pod); p.ResourceVersion != fmt.Sprint(got.Revision) || p.Kind != "Pod" {
			t.Fatalf("resourceVersion %q, kind %q of revision %d", p.ResourceVersion, p.Kind, got.Revision)
		}
		changed := set(t, r, "a", "x", "two")
		if got, err = r.Get(t.Context(), "a", "x", ""); err != nil || got != changed || label(got) != "two" {
			t.Fatalf("get after update: %v %v", got, err)
		}
		if label(made) != "web" {
			t.Fatal("the update changed the old object")
		}
		gone := remove(t, r, "a", "x")
		if gone.Revision <= changed.Revision || gone.Object.(*corev1.Pod).ResourceVersion != fmt.Sprint(gone.Revision) || label(gone) != "two" {
			t.Fatalf("deleted object at revision %d is %v", gone.Revision, gone.Object)
		}
		if _, err = r.Get(t.Context(), "a", "x", ""); err == nil || err.Error() != `pods "x" not found` {
			t.Fatalf("get after delete: %v", err)
		}
	})
}

// The bytes in etcd are those that upstream would have written.
func TestBytes(t *testing.T) {
	r, c := pods(t)
	p := newPod("a", "x")
	p.ResourceVersion, p.SelfLink = "12", "/me"
	bare := p.DeepCopy()
	bare.ResourceVersion, bare.SelfLink = "", ""
	inner, err := bare.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	want, err := (&runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: "v1", Kind: "Pod"}, Raw: inner}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Create(t.Context(), "a", "x", p, 0); err != nil {
		t.Fatal(err)
	}
	kv, err := c.Get(t.Context(), "/registry/pods/a/x")
	if err != nil || len(kv.Kvs) != 1 {
		t.Fatalf("the key is not there: %v %v", kv, err)
	}
	if got := string(kv.Kvs[0].Value); got != "k8s\x00"+string(want) {
		t.Fatalf("stored %q,\nwant %q", got, "k8s\x00"+string(want))
	}
}

// TestSize: etcd says how large its database is.
func TestSize(t *testing.T) {
	n, err := open(t, store.Config{Client: startEtcd(t)}).Size(t.Context())
	if err != nil || n <= 0 {
		t.Error(n, err)
	}
}
