package objects

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

func secret(version, value string) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s", Namespace: "ns", UID: "u", ResourceVersion: version}, Data: map[string][]byte{"k": []byte(value)}}
}

// api is a server whose watches the test drives.
type api struct {
	*fake.Clientset
	mu      sync.Mutex
	watches []*watch.FakeWatcher
}

func newAPI(objects ...runtime.Object) *api {
	a := &api{Clientset: fake.NewClientset(objects...)}
	a.PrependWatchReactor("secrets", func(clienttesting.Action) (bool, watch.Interface, error) {
		w := watch.NewFake()
		a.mu.Lock()
		a.watches = append(a.watches, w)
		a.mu.Unlock()
		return true, w, nil
	})
	return a
}

func (a *api) last() *watch.FakeWatcher {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.watches[len(a.watches)-1]
}

func (a *api) count(verb string) (n int) {
	for _, x := range a.Actions() {
		if x.GetVerb() == verb {
			n++
		}
	}
	return n
}

// TestOneWatch: many pods share one read and one watch; each is told of changes, and the watch goes with the last.
func TestOneWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPI(secret("1", "v1"))
		told := map[types.UID]int{}
		var mu sync.Mutex
		c := New(a, slog.New(slog.DiscardHandler), func(u types.UID) { mu.Lock(); told[u]++; mu.Unlock() })
		defer c.Close()
		value := func() string {
			s, err := c.Secret(t.Context(), "a", "ns", "s")
			if err != nil {
				return err.Error()
			}
			return string(s.Data["k"])
		}
		for _, u := range []types.UID{"a", "b", "c"} {
			if _, err := c.Secret(t.Context(), u, "ns", "s"); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if a.count("get") != 1 || a.count("watch") != 1 || a.count("list") != 0 {
			t.Errorf("calls: %v", a.Actions())
		}
		c.Release("c")
		a.last().Modify(secret("2", "v2"))
		synctest.Wait()
		if value() != "v2" || told["a"] != 1 || told["b"] != 1 || told["c"] != 0 {
			t.Errorf("value %s, told %v", value(), told)
		}
		a.last().Modify(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "other", Namespace: "ns", ResourceVersion: "3"}}) // a server that ignores selectors
		a.last().Delete(secret("4", "v2"))
		synctest.Wait()
		if value() != `secrets "s" not found` || told["a"] != 2 {
			t.Errorf("deleted: %s, told %v", value(), told)
		}
		// The watch's history is gone: what happened meanwhile is read.
		if err := a.Tracker().Update(corev1.SchemeGroupVersion.WithResource("secrets"), secret("9", "v9"), "ns"); err != nil {
			t.Fatal(err)
		}
		status := apierrors.NewResourceExpired("too old").Status()
		a.last().Error(&status)
		synctest.Wait()
		if value() != "v9" || told["a"] != 3 || a.count("list") != 1 {
			t.Errorf("after an expired watch: %s, told %v, %d lists", value(), told, a.count("list"))
		}
		c.Release("a")
		w := a.last()
		c.Release("b")
		synctest.Wait()
		if c.Len() != 0 || !w.IsStopped() {
			t.Error("watched though nobody uses it")
		}
	})
}

// TestBadServer: a server that ends every watch at once is asked ever less often; a failed first read is not remembered.
func TestBadServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPI(secret("1", "v"))
		var mu sync.Mutex
		fail := true
		a.PrependReactor("get", "secrets", func(clienttesting.Action) (bool, runtime.Object, error) {
			mu.Lock()
			defer mu.Unlock()
			return fail, nil, errors.New("away")
		})
		a.PrependWatchReactor("secrets", func(clienttesting.Action) (bool, watch.Interface, error) {
			return true, watch.NewEmptyWatch(), nil
		})
		c := New(a, slog.New(slog.DiscardHandler), nil)
		if _, err := c.Secret(t.Context(), "a", "ns", "s"); err == nil || apierrors.IsNotFound(err) {
			t.Errorf("failed read: %v", err)
		}
		mu.Lock()
		fail = false
		mu.Unlock()
		if _, err := c.Secret(t.Context(), "a", "ns", "s"); err != nil {
			t.Errorf("second read: %v", err)
		}
		time.Sleep(time.Hour)
		if n := a.count("watch"); n > 140 {
			t.Errorf("%d watches in an hour", n)
		}
		c.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := c.Secret(ctx, "a", "ns", "s"); err == nil {
			t.Error("read from a closed cache")
		}
	})
}
