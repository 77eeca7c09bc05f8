package faults

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"wherry.dev/wherry/test/outside"
)

// change is one event: of etcd's history, or as a watch told it.
type change struct {
	kind     watch.EventType
	key      string
	revision int64
}

// etcdHistory is what happened below a prefix, as etcd itself tells it.
type etcdHistory struct {
	mu      sync.Mutex
	changes []change // in order; guarded by mu
	seen    int64    // revision of the last; guarded by mu
}

// recordEtcd follows etcd until the test ends.
func recordEtcd(t *testing.T, c *clientv3.Client, prefix string) *etcdHistory {
	t.Helper()
	now, err := c.Get(t.Context(), prefix)
	if err != nil {
		t.Fatal(err)
	}
	h := &etcdHistory{seen: now.Header.Revision}
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	t.Cleanup(func() { cancel(); done.Wait() })
	done.Go(func() { // the client's watcher finds another member by itself when one dies
		for answer := range c.Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithRev(h.seen+1)) {
			h.mu.Lock()
			for _, e := range answer.Events {
				kind := watch.Modified
				switch {
				case e.Type == mvccpb.Event_DELETE:
					kind = watch.Deleted
				case e.IsCreate():
					kind = watch.Added
				}
				h.changes = append(h.changes, change{kind, string(e.Kv.Key[len(prefix):]), e.Kv.ModRevision})
				h.seen = e.Kv.ModRevision
			}
			h.mu.Unlock()
		}
	})
	return h
}

// until waits for a revision and returns everything up to it.
func (h *etcdHistory) until(t *testing.T, version string) []change {
	t.Helper()
	revision, _ := strconv.ParseInt(version, 10, 64)
	outside.Eventually(t, 20*time.Second, func() error {
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.seen < revision {
			return fmt.Errorf("etcd told of revision %d, not of %d", h.seen, revision)
		}
		return nil
	})
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.changes
}

// watches are clients that watch one server after the other.
type watches struct {
	r       *outside.Replicas
	cancel  context.CancelFunc
	running sync.WaitGroup
	all     []*watcher

	mu     sync.Mutex
	begins map[int]int64 // by server that runs: etcd's revision just after its start; guarded by mu
}

// watcher is one client. Its fields belong to its goroutine until that has ended.
type watcher struct {
	name   string
	of     *watches
	at     int64 // revision up to which it has been told
	told   []change
	gaps   [][2]int64 // after a 410: from what it had seen to what it listed
	made   int
	faults []string
}

// startWatches starts them, each with another choice of servers. They end with finish.
func startWatches(t *testing.T, r *outside.Replicas) *watches {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	w := &watches{r: r, cancel: cancel, begins: map[int]int64{}}
	begin, err := r.Revision()
	if err != nil {
		t.Fatal(err)
	}
	for i := range r.Servers {
		w.restarted(i)
	}
	for i := range 6 {
		one := &watcher{name: fmt.Sprintf("watch %d", i), of: w, at: begin}
		w.all = append(w.all, one)
		w.running.Go(func() {
			for n := i; ctx.Err() == nil; n++ {
				one.follow(ctx, n%len(r.Servers))
			}
		})
	}
	t.Cleanup(func() { cancel(); w.running.Wait() })
	return w
}

// killed notes that a server does not run.
func (w *watches) killed(server int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.begins, server)
}

// restarted notes that a server has started anew: its memory begins not later than now.
func (w *watches) restarted(server int) {
	revision, err := w.r.Revision()
	if err != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.begins[server] = revision
}

func (w *watches) made() (n int) {
	for _, one := range w.all {
		n += one.made
	}
	return n
}

// finish waits until every watch has told of the last change.
func (w *watches) finish(t *testing.T, version string) {
	t.Helper()
	last, _ := strconv.ParseInt(version, 10, 64)
	done := make(chan struct{})
	go func() {
		w.running.Wait()
		close(done)
	}()
	for _, one := range w.all {
		one := one
		outside.Eventually(t, 30*time.Second, func() error {
			w.mu.Lock()
			defer w.mu.Unlock()
			if one.at < last {
				return fmt.Errorf("%s was told of revision %d, not of %d", one.name, one.at, last)
			}
			return nil
		})
	}
	w.cancel()
	<-done
}

// follow watches one server from where the client is until the watch ends.
func (c *watcher) follow(ctx context.Context, server int) {
	c.of.mu.Lock()
	before := c.of.begins[server]
	c.of.mu.Unlock()
	configs := c.of.r.Servers[server].Kube.CoreV1().ConfigMaps(linearNamespace)
	// Not for ever: sometimes a client goes to another server for no reason.
	ctx, cancel := context.WithTimeout(ctx, 4*time.Second)
	defer cancel()
	w, err := configs.Watch(ctx, metav1.ListOptions{ResourceVersion: strconv.FormatInt(c.at, 10), AllowWatchBookmarks: true})
	if err != nil {
		select { // a dead server says so at once
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
		return
	}
	defer w.Stop()
	c.made++
	for e := range w.ResultChan() {
		switch o := e.Object.(type) {
		case *corev1.ConfigMap:
			revision, _ := strconv.ParseInt(o.ResourceVersion, 10, 64)
			if revision <= c.at {
				c.fault("%s of %s at %d after %d was told", e.Type, o.Name, revision, c.at)
			}
			if e.Type == watch.Bookmark {
				c.reach(revision)
				continue
			}
			c.told = append(c.told, change{e.Type, o.Name, revision})
			c.reach(revision)
		case *metav1.Status:
			if o.Code != 410 {
				continue // an etcd that does not answer; the next watch goes on
			}
			c.of.mu.Lock()
			begins := c.of.begins[server]
			c.of.mu.Unlock()
			if begins != 0 && begins == before && c.at >= begins { // it was one process all the time
				text, _ := json.Marshal(o)
				c.fault("server %d sends 410 at revision %d, which it has seen itself: %s", server, c.at, text)
			}
			list, err := configs.List(ctx, metav1.ListOptions{})
			if err != nil {
				return
			}
			revision, _ := strconv.ParseInt(list.ResourceVersion, 10, 64)
			c.gaps = append(c.gaps, [2]int64{c.at, revision})
			c.reach(revision)
			return
		}
	}
}

func (c *watcher) reach(revision int64) {
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	c.at = max(c.at, revision)
}

func (c *watcher) fault(format string, args ...any) {
	c.faults = append(c.faults, fmt.Sprintf(format, args...))
}

// check holds what every watch told against etcd's history.
func (w *watches) check(t *testing.T, truth []change) {
	t.Helper()
	for _, c := range w.all {
		for _, f := range c.faults {
			t.Errorf("%s: %s", c.name, f)
		}
		want := []change(nil)
		for _, e := range truth {
			missed := false
			for _, g := range c.gaps {
				missed = missed || e.revision > g[0] && e.revision <= g[1]
			}
			if !missed {
				want = append(want, e)
			}
		}
		for i := range max(len(want), len(c.told)) {
			if i >= len(want) || i >= len(c.told) || want[i] != c.told[i] {
				t.Errorf("%s told %d changes, etcd has %d; they part at %d: told %v, happened %v", c.name, len(c.told), len(want), i, at(c.told, i), at(want, i))
				break
			}
		}
		t.Logf("%s: %d changes, %d times 410, %d watches", c.name, len(c.told), len(c.gaps), c.made)
	}
}

func at(changes []change, i int) []change {
	return changes[min(i, len(changes)):min(i+3, len(changes))]
}
