package store_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/storage/value"

	"wherry.dev/wherry/store"
	"wherry.dev/wherry/store/watchcache"
)

func TestWriteErrors(t *testing.T) {
	both(t, watchcache.Limits{}, func(t *testing.T, r store.Resource, c *clientv3.Client) {
		create(t, r, "a", "x")
		wrong, version, decided := types.UID("other"), "1", errors.New("no")
		keep := func(cur *store.Object) (runtime.Object, error) { return cur.Object, nil }
		for _, test := range []struct {
			name string
			do   func() error
			is   func(error) bool
			want string
		}{
			{"create twice", func() error { _, err := r.Create(t.Context(), "a", "x", newPod("a", "x"), 0); return err },
				apierrors.IsAlreadyExists, `pods "x" already exists`},
			{"get absent", func() error { _, err := r.Get(t.Context(), "a", "y", ""); return err }, apierrors.IsNotFound, `pods "y" not found`},
			{"get absent from cache", func() error { _, err := r.Get(t.Context(), "a", "y", "0"); return err }, apierrors.IsNotFound, `pods "y" not found`},
			{"update absent", func() error { _, err := r.Update(t.Context(), "a", "y", nil, false, keep); return err }, apierrors.IsNotFound, `pods "y" not found`},
			{"delete absent", func() error { _, err := r.Delete(t.Context(), "a", "y", nil, nil); return err }, apierrors.IsNotFound, `pods "y" not found`},
			{"update with another UID", func() error {
				_, err := r.Update(t.Context(), "a", "x", &store.Preconditions{UID: &wrong}, false, keep)
				return err
			},
				apierrors.IsConflict, "Precondition failed: UID in precondition: other, UID in object meta: uid-"},
			{"delete with another UID", func() error {
				_, err := r.Delete(t.Context(), "a", "x", &store.Preconditions{UID: &wrong}, nil)
				return err
			},
				apierrors.IsConflict, `Operation cannot be fulfilled on pods "x": StorageError: invalid object, Code: 4, Key: /registry/pods/a/x, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: other, UID in object meta: uid-`},
			{"delete with another version", func() error {
				_, err := r.Delete(t.Context(), "a", "x", &store.Preconditions{ResourceVersion: &version}, nil)
				return err
			},
				apierrors.IsConflict, "Precondition failed: ResourceVersion in precondition: 1, ResourceVersion in object meta: "},
			{"delete refused", func() error {
				_, err := r.Delete(t.Context(), "a", "x", nil, func(*store.Object) error { return decided })
				return err
			},
				func(err error) bool { return errors.Is(err, decided) || apierrors.IsInternalError(err) }, "no"},
			{"update refused with a status", func() error {
				_, err := r.Update(t.Context(), "a", "x", nil, false, func(*store.Object) (runtime.Object, error) {
					return nil, apierrors.NewForbidden(podConfig.GroupResource, "x", decided)
				})
				return err
			}, apierrors.IsForbidden, "no"},
			{"no name", func() error { _, err := r.Get(t.Context(), "a", "", ""); return err }, apierrors.IsBadRequest, "Name parameter required"},
			{"no namespace", func() error { _, err := r.Get(t.Context(), "", "x", ""); return err }, apierrors.IsBadRequest, "Namespace parameter required"},
			{"climbing name", func() error { _, err := r.Get(t.Context(), "a", "..", ""); return err }, apierrors.IsBadRequest, "Name parameter invalid"},
			{"slash", func() error { _, err := r.Create(t.Context(), "a", "x/y", newPod("a", "x/y"), 0); return err }, apierrors.IsBadRequest, "Name parameter invalid"},
			{"climbing namespace", func() error { _, err := r.Get(t.Context(), "..", "x", ""); return err }, apierrors.IsBadRequest, "Namespace parameter invalid"},
			{"too large", func() error {
				p := newPod("a", "huge")
				p.Annotations = map[string]string{"x": strings.Repeat("x", 2<<20)}
				_, err := r.Create(t.Context(), "a", "huge", p, 0)
				return err
			}, apierrors.IsRequestEntityTooLargeError, "request is too large"},
		} {
			t.Run(test.name, func(t *testing.T) {
				if err := test.do(); !test.is(err) || !strings.Contains(err.Error(), test.want) {
					t.Fatalf("%v, want %q", err, test.want)
				}
			})
		}
		mustList(t, r)
		if n := r.Count(); n != 1 {
			t.Fatalf("%d objects after refused writes", n)
		}
	})
}

// A write that changes nothing writes nothing, whether it says so or not.
func TestUpdateNothing(t *testing.T) {
	both(t, watchcache.Limits{}, func(t *testing.T, r store.Resource, c *clientv3.Client) {
		o := create(t, r, "a", "x")
		for name, decide := range map[string]store.UpdateFunc{
			"same object":  func(cur *store.Object) (runtime.Object, error) { return cur.Object, nil },
			"equal object": func(cur *store.Object) (runtime.Object, error) { return cur.Object.DeepCopyObject(), nil },
		} {
			got, err := r.Update(t.Context(), "a", "x", nil, false, decide)
			if err != nil || got != o {
				t.Fatalf("%s: %v %v, want the very object", name, got, err)
			}
		}
		kv, err := c.Get(t.Context(), "/registry/pods/a/x")
		if err != nil || kv.Kvs[0].Version != 1 {
			t.Fatalf("etcd has version %d, %v", kv.Kvs[0].Version, err)
		}
	})
}

func TestCreateOnUpdate(t *testing.T) {
	both(t, watchcache.Limits{}, func(t *testing.T, r store.Resource, c *clientv3.Client) {
		o, err := r.Update(t.Context(), "a", "x", nil, true, func(cur *store.Object) (runtime.Object, error) {
			if cur != nil {
				return nil, fmt.Errorf("there is %v", cur)
			}
			return newPod("a", "x"), nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := r.Get(t.Context(), "a", "x", ""); err != nil || got != o {
			t.Fatalf("get %v %v", got, err)
		}
	})
}

// Many writers of one key: each change is there, none twice, in either mode and across two stores.
func TestUpdateContended(t *testing.T) {
	c := startEtcd(t)
	one := open(t, store.Config{Client: c}).Resource(podConfig)
	two := open(t, store.Config{Client: c}).Resource(podConfig)
	create(t, one, "a", "x")
	const writers, each = 8, 15
	var wg sync.WaitGroup
	for w := range writers {
		r := one
		if w%2 == 1 {
			r = two
		}
		wg.Go(func() {
			for i := range each {
				_, err := r.Update(t.Context(), "a", "x", nil, false, func(cur *store.Object) (runtime.Object, error) {
					p := cur.Object.(*corev1.Pod).DeepCopy()
					if p.Annotations == nil {
						p.Annotations = map[string]string{}
					}
					p.Annotations[fmt.Sprintf("w%d-%d", w, i)] = "done"
					return p, nil
				})
				if err != nil {
					t.Errorf("writer %d: %v", w, err)
				}
			}
		})
	}
	wg.Wait()
	for _, r := range []store.Resource{one, two} {
		o, err := r.Get(t.Context(), "a", "x", "")
		if err != nil {
			t.Fatal(err)
		}
		if n := len(o.Object.(*corev1.Pod).Annotations); n != writers*each {
			t.Fatalf("%d changes of %d", n, writers*each)
		}
	}
}

// What one API server acknowledged, another one over the same etcd reads at once, by name and in lists.
func TestTwoStores(t *testing.T) {
	c := startEtcd(t)
	one := open(t, store.Config{Client: c}).Resource(podConfig)
	two := open(t, store.Config{Client: c}).Resource(podConfig)
	for i := range 50 {
		name := fmt.Sprint(i)
		o := create(t, one, "a", name)
		l, err := two.List(t.Context(), store.ListOptions{})
		if err != nil || len(l.Items) != i+1 || l.ResourceVersion < o.Revision {
			t.Fatalf("%d objects at %d, %v; want %d at %d or later", len(l.Items), l.ResourceVersion, err, i+1, o.Revision)
		}
		o = set(t, two, "a", name, "two")
		got, err := one.Get(t.Context(), "a", name, "")
		if err != nil || got.Revision != o.Revision || label(got) != "two" {
			t.Fatalf("%v %v, want revision %d", got, err, o.Revision)
		}
	}
	// A decision against a write counts only on the current state: here two's cache may still show the object.
	remove(t, one, "a", "7")
	if _, err := two.Create(t.Context(), "a", "7", newPod("a", "7"), 0); err != nil {
		t.Fatalf("create what another server has just deleted: %v", err)
	}
	remove(t, two, "a", "7")
	if _, err := one.Delete(t.Context(), "a", "7", nil, nil); !apierrors.IsNotFound(err) {
		t.Fatalf("delete what another server has just deleted: %v", err)
	}
}

// Readers in this process always see what its writers were told, although the feed is behind them.
func TestReadYourWrites(t *testing.T) {
	r, _ := pods(t)
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			name := fmt.Sprintf("p%d", w)
			for range 30 {
				o := create(t, r, "a", name)
				if got, err := r.Get(t.Context(), "a", name, ""); err != nil || got != o {
					t.Errorf("get after create: %v %v", got, err)
				}
				o = set(t, r, "a", name, "x")
				l, err := r.List(t.Context(), store.ListOptions{Namespace: "a", Name: name})
				if err != nil || len(l.Items) != 1 || l.Items[0] != o {
					t.Errorf("list after update: %v %v", l, err)
				}
				remove(t, r, "a", name)
				if got, err := r.Get(t.Context(), "a", name, ""); !apierrors.IsNotFound(err) {
					t.Errorf("get after delete: %v %v", got, err)
				}
				if l, err = r.List(t.Context(), store.ListOptions{Namespace: "a", Name: name}); err != nil || len(l.Items) != 0 {
					t.Errorf("list after delete: %v %v", l, err)
				}
			}
		})
	}
	wg.Wait()
}

// Objects with a TTL share leases, keep theirs when they are updated, and go when it ends; everybody notices.
func TestTTL(t *testing.T) {
	t.Parallel()
	c := startEtcd(t)
	r := open(t, store.Config{Client: c, SoleWriter: true}).Resource(podConfig)
	create(t, r, "a", "stays")
	for i := range 3 {
		if _, err := r.Create(t.Context(), "b", fmt.Sprint(i), newPod("b", fmt.Sprint(i)), 3600); err != nil {
			t.Fatal(err)
		}
	}
	leases, err := c.Leases(t.Context())
	if err != nil || len(leases.Leases) != 1 {
		t.Fatalf("leases %v, %v, want one for three objects", leases, err)
	}
	for i := range 3 {
		remove(t, r, "b", fmt.Sprint(i))
		if _, err := r.Create(t.Context(), "a", fmt.Sprint(i), newPod("a", fmt.Sprint(i)), 3); err != nil {
			t.Fatal(err)
		}
	}
	set(t, r, "a", "1", "updated")
	w, err := r.Watch(t.Context(), store.WatchOptions{ResourceVersion: fmt.Sprint(mustList(t, r).ResourceVersion)})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	for _, e := range next(t, w, 3) {
		if e.Type != "DELETED" {
			t.Fatalf("event %v", e)
		}
	}
	if l := mustList(t, r); keys(l) != "a/stays" {
		t.Fatalf("left: %s", keys(l))
	}
	if _, err := r.Get(t.Context(), "a", "1", ""); !apierrors.IsNotFound(err) {
		t.Fatalf("get what has expired: %v", err)
	}
	create(t, r, "a", "1")
}

// A kind with a TTL function gets a new lease with every write.
func TestTTLFunction(t *testing.T) {
	c := startEtcd(t)
	config := podConfig
	config.TTL = func(runtime.Object) time.Duration { return time.Hour }
	r := open(t, store.Config{Client: c, SoleWriter: true}).Resource(config)
	create(t, r, "a", "x")
	set(t, r, "a", "x", "two")
	kv, err := c.Get(t.Context(), "/registry/pods/a/x")
	if err != nil || kv.Kvs[0].Lease == 0 {
		t.Fatalf("no lease after an update: %v %v", kv, err)
	}
}

func mustList(t testing.TB, r store.Resource) *store.ListResult {
	t.Helper()
	l, err := r.List(t.Context(), store.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// flip is a toy transformer bound to the key, whose old values say that they are stale.
type flip struct{ key byte }

func (f flip) TransformFromStorage(_ context.Context, data []byte, c value.Context) ([]byte, bool, error) {
	key := c.AuthenticatedData()
	if len(data) < 1+len(key) || string(data[1:1+len(key)]) != string(key) {
		return nil, false, errors.New("value of another key")
	}
	out := append([]byte(nil), data[1+len(key):]...)
	for i := range out {
		out[i] ^= data[0]
	}
	return out, data[0] != f.key, nil
}

func (f flip) TransformToStorage(_ context.Context, data []byte, c value.Context) ([]byte, error) {
	out := append([]byte{f.key}, c.AuthenticatedData()...)
	for _, b := range data {
		out = append(out, b^f.key)
	}
	return out, nil
}

// Encrypted values are unreadable in etcd, bound to their key, and re-encrypted by a write of nothing when the key is old.
func TestTransformer(t *testing.T) {
	c := startEtcd(t)
	with := func(key byte) store.Config {
		return store.Config{Client: c, SoleWriter: true, Transformer: func(schema.GroupResource) value.Transformer { return flip{key} }}
	}
	s := store.Open(with(1))
	r := s.Resource(podConfig)
	create(t, r, "a", "x")
	if o := set(t, r, "a", "x", "two"); label(o) != "two" {
		t.Fatal("update of an encrypted object")
	}
	s.Close()
	stored := func() *clientv3.GetResponse {
		kv, err := c.Get(t.Context(), "/registry/pods/a/x")
		if err != nil || len(kv.Kvs) != 1 {
			t.Fatalf("%v %v", kv, err)
		}
		return kv
	}
	if strings.Contains(string(stored().Kvs[0].Value), "uid-") {
		t.Fatal("the value is readable")
	}

	r = open(t, with(2)).Resource(podConfig)
	o, err := r.Get(t.Context(), "a", "x", "")
	if err != nil || label(o) != "two" {
		t.Fatalf("get with the new key: %v %v", o, err)
	}
	again, err := r.Update(t.Context(), "a", "x", nil, false, func(cur *store.Object) (runtime.Object, error) { return cur.Object, nil })
	if err != nil || again.Revision <= o.Revision || stored().Kvs[0].Value[0] != 2 {
		t.Fatalf("rewrite: revision %d after %d, %v", again.Revision, o.Revision, err)
	}
	if _, err := c.Put(t.Context(), "/registry/pods/a/y", string(stored().Kvs[0].Value)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.List(t.Context(), store.ListOptions{ResourceVersion: fmt.Sprint(stored().Header.Revision)}); !apierrors.IsInternalError(err) || !strings.Contains(err.Error(), "value of another key") {
		t.Fatalf("a list with a value moved to another key: %v", err)
	}
	if _, err := r.Get(t.Context(), "a", "y", ""); !apierrors.IsInternalError(err) || !strings.Contains(err.Error(), "value of another key") {
		t.Fatalf("a value moved to another key: %v", err)
	}
}

// JSON values are read, as upstream does.
func TestReadsJSON(t *testing.T) {
	r, c := pods(t)
	p, err := c.Put(t.Context(), "/registry/pods/a/x", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"x","namespace":"a","uid":"u"}}`)
	if err != nil {
		t.Fatal(err)
	}
	o, err := r.Get(t.Context(), "a", "x", fmt.Sprint(p.Header.Revision))
	if err != nil || o.Object.(*corev1.Pod).UID != "u" {
		t.Fatalf("%v %v", o, err)
	}
}

// The detector says who was changed. The store is closed by hand, because that is when it looks.
func TestDetectMutations(t *testing.T) {
	var said []string
	s := open(t, store.Config{Client: startEtcd(t), SoleWriter: true, DetectMutations: func(what string) { said = append(said, what) }})
	r := s.Resource(podConfig)
	create(t, r, "a", "good")
	set(t, r, "a", "good", "other") // objects may share what is equal in them
	create(t, r, "a", "bad")
	mustList(t, r).Items[0].Object.(*corev1.Pod).Labels["app"] = "changed"
	s.Close()
	if len(said) != 1 || !strings.Contains(said[0], "pods a/bad") {
		t.Fatalf("detector said %q", said)
	}
}
