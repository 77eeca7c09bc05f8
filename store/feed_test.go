package store_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"wherry.dev/wherry/embedded/etcd"
	"wherry.dev/wherry/store"
)

// cuttable is a watcher whose streams the test can end, and hold back from being made again.
type cuttable struct {
	clientv3.Watcher
	mu   sync.Mutex
	cuts []context.CancelFunc
	hold chan struct{} // nil: nothing held back
}

func (c *cuttable) Watch(ctx context.Context, key string, opts ...clientv3.OpOption) clientv3.WatchChan {
	c.mu.Lock()
	hold := c.hold
	c.mu.Unlock()
	if hold != nil {
		<-hold
	}
	ctx, cancel := context.WithCancel(ctx)
	c.mu.Lock()
	c.cuts = append(c.cuts, cancel)
	c.mu.Unlock()
	return c.Watcher.Watch(ctx, key, opts...)
}

// cut ends all streams; new ones wait until the returned function is called.
func (c *cuttable) cut() (release func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hold = make(chan struct{})
	for _, f := range c.cuts {
		f()
	}
	c.cuts = nil
	return sync.OnceFunc(func() { close(c.hold) })
}

func cuttableClient(t *testing.T) (*clientv3.Client, *cuttable) {
	c := startEtcd(t)
	w := &cuttable{Watcher: c.Watcher}
	n := clientv3.NewCtxClient(context.Background())
	n.KV, n.Lease, n.Maintenance, n.Watcher = c.KV, c.Lease, c.Maintenance, w
	return n, w
}

// A watch stream that ends is taken up where it was; nobody who watches the cache notices.
func TestFeedResumes(t *testing.T) {
	c, etcd := cuttableClient(t)
	r := open(t, store.Config{Client: c, SoleWriter: true}).Resource(podConfig)
	create(t, r, "a", "1")
	w := start(t, r, store.WatchOptions{ResourceVersion: fmt.Sprint(mustList(t, r).ResourceVersion)})
	release := etcd.cut()
	defer release()
	create(t, r, "a", "2")
	set(t, r, "a", "1", "x")
	remove(t, r, "a", "2")
	release()
	if got := tell(next(t, w, 3)); got != "+a/2 *a/1 -a/2" {
		t.Fatalf("saw %s", got)
	}
}

// If meanwhile etcd has compacted it away, the state is read anew, and watches end with a 410.
func TestFeedLost(t *testing.T) {
	c, etcd := cuttableClient(t)
	r := open(t, store.Config{Client: c, SoleWriter: true}).Resource(podConfig)
	create(t, r, "a", "1")
	w := start(t, r, store.WatchOptions{ResourceVersion: fmt.Sprint(mustList(t, r).ResourceVersion)})
	release := etcd.cut()
	defer release()
	create(t, r, "a", "2")
	last := remove(t, r, "a", "1")
	if _, err := c.Compact(t.Context(), last.Revision); err != nil {
		t.Fatal(err)
	}
	release()
	if got := tell(next(t, w, 1)); got != "!410" {
		t.Fatalf("saw %s", got)
	}
	if l := mustList(t, r); keys(l) != "a/2" {
		t.Fatalf("list %s", keys(l))
	}
	create(t, r, "a", "3")
	if l := mustList(t, r); keys(l) != "a/2 a/3" {
		t.Fatalf("list %s", keys(l))
	}
}

// A new process over the same directory serves what the old one wrote, under the same revisions.
func TestRestart(t *testing.T) {
	dir := t.TempDir()
	var before []string
	for round := range 3 {
		e, err := etcd.Start(t.Context(), etcd.Config{Dir: dir, Log: quiet()})
		if err != nil {
			t.Fatal(err)
		}
		s := store.Open(store.Config{Client: e.Client(), SoleWriter: true, Log: quiet()})
		r := s.Resource(podConfig)
		var after []string
		for _, o := range mustList(t, r).Items {
			after = append(after, fmt.Sprint(o.Key, "@", o.Revision))
		}
		if fmt.Sprint(after) != fmt.Sprint(before) {
			t.Fatalf("round %d has %v, was %v", round, after, before)
		}
		for i := range 5 {
			create(t, r, "a", fmt.Sprintf("%d-%d", round, i))
		}
		before = nil
		for _, o := range mustList(t, r).Items {
			before = append(before, fmt.Sprint(o.Key, "@", o.Revision))
		}
		w := start(t, r, store.WatchOptions{ResourceVersion: fmt.Sprint(mustList(t, r).ResourceVersion)})
		s.Close()
		if got := tell(next(t, w, 1)); got != "!503" {
			t.Fatalf("watch of a closed store: %s", got)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		if _, err := r.List(ctx, store.ListOptions{ResourceVersion: "999999"}); err == nil || ctx.Err() != nil {
			t.Fatalf("wait in a closed store: %v", err)
		}
		cancel()
		e.Close()
	}
}
