package store_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"pgregory.net/rapid"

	"wherry.dev/wherry/store"
	"wherry.dev/wherry/store/watchcache"
)

func start(t testing.TB, r store.Resource, o store.WatchOptions) store.Watcher {
	t.Helper()
	w, err := r.Watch(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Stop)
	return w
}

// tell renders events: +a/1 *a/1 -a/1, | for the end of the initial ones, . for another bookmark.
func tell(events []store.Event) string {
	var out []string
	for _, e := range events {
		switch e.Type {
		case watch.Added:
			out = append(out, "+"+e.Object.Key)
		case watch.Modified:
			out = append(out, "*"+e.Object.Key)
		case watch.Deleted:
			out = append(out, "-"+e.Object.Key)
		case watch.Bookmark:
			if e.InitialEventsEnd {
				out = append(out, "|")
			} else {
				out = append(out, ".")
			}
		case watch.Error:
			out = append(out, fmt.Sprintf("!%d", e.Err.Code))
		}
	}
	return strings.Join(out, " ")
}

// Every way to begin a watch, on the history +a/1 +a/2 *a/1 -a/2, and then +b/3 while it runs.
func TestWatchResourceVersion(t *testing.T) {
	yes, no := true, false
	both(t, watchcache.Limits{}, func(t *testing.T, r store.Resource, c *clientv3.Client) {
		<-r.Ready()
		first := create(t, r, "a", "1").Revision
		create(t, r, "a", "2")
		set(t, r, "a", "1", "two")
		last := remove(t, r, "a", "2").Revision
		mustList(t, r)
		tests := []struct {
			o    store.WatchOptions
			want string
		}{
			{store.WatchOptions{}, "+a/1 +b/3"},
			{store.WatchOptions{ResourceVersion: "0"}, "+a/1 +b/3"},
			{store.WatchOptions{ResourceVersion: fmt.Sprint(first)}, "+a/2 *a/1 -a/2 +b/3"},
			{store.WatchOptions{ResourceVersion: fmt.Sprint(last)}, "+b/3"},
			{store.WatchOptions{ResourceVersion: fmt.Sprint(first), Namespace: "b"}, "+b/3"},
			{store.WatchOptions{ResourceVersion: fmt.Sprint(first), Namespace: "a", Name: "1"}, "*a/1"},
			{store.WatchOptions{ResourceVersion: fmt.Sprint(first), Name: "3"}, "+b/3"},
			{store.WatchOptions{SendInitialEvents: &yes, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan, AllowWatchBookmarks: true}, "+a/1 | +b/3"},
			{store.WatchOptions{SendInitialEvents: &yes, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan, AllowWatchBookmarks: true, ResourceVersion: "0"}, "+a/1 | +b/3"},
			{store.WatchOptions{SendInitialEvents: &yes, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan, AllowWatchBookmarks: true, ResourceVersion: fmt.Sprint(last)}, "+a/1 | +b/3"},
			{store.WatchOptions{SendInitialEvents: &yes, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan}, "+a/1 +b/3"},
			{store.WatchOptions{SendInitialEvents: &no, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan}, "+b/3"},
			{store.WatchOptions{SendInitialEvents: &no, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan, ResourceVersion: "0"}, "+b/3"},
			{store.WatchOptions{SendInitialEvents: &no, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan, ResourceVersion: fmt.Sprint(first)}, "+a/2 *a/1 -a/2 +b/3"},
			{store.WatchOptions{ResourceVersion: "1"}, "!410"},
		}
		watchers := make([]store.Watcher, len(tests))
		for i, test := range tests {
			watchers[i] = start(t, r, test.o)
		}
		create(t, r, "b", "3")
		for i, test := range tests {
			got := next(t, watchers[i], len(strings.Fields(test.want)))
			if tell(got) != test.want {
				t.Errorf("%+v:\n got %s\nwant %s", test.o, tell(got), test.want)
			}
			for _, e := range got {
				if e.Type == watch.Deleted && (e.Object.Revision != last || e.Object.Object.(*corev1.Pod).ResourceVersion != fmt.Sprint(last)) {
					t.Errorf("%+v: deleted at %d, want %d", test.o, e.Object.Revision, last)
				}
				if e.InitialEventsEnd && e.Object.Revision < last {
					t.Errorf("%+v: initial events end at %d, want %d or later", test.o, e.Object.Revision, last)
				}
			}
			if test.want == "!410" {
				if s := got[0].Err; s.Reason != metav1.StatusReasonExpired || !strings.Contains(s.Message, "too old resource version: 1 (") {
					t.Errorf("status %v", s)
				}
				if _, err := watchers[i].Next(t.Context()); !errors.Is(err, io.EOF) {
					t.Errorf("after the error: %v", err)
				}
			}
		}
		for _, o := range []store.WatchOptions{
			{SendInitialEvents: &yes},
			{ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan},
			{ResourceVersion: "x"},
		} {
			if w, err := r.Watch(t.Context(), o); err == nil {
				w.Stop()
				t.Errorf("%+v was accepted", o)
			}
		}
	})
}

// An object that stops or begins to match a selector is deleted or added for that watcher; both indexed and not.
func TestWatchSelectors(t *testing.T) {
	r, _ := pods(t)
	<-r.Ready()
	from := fmt.Sprint(mustList(t, r).ResourceVersion)
	app, _ := labels.Parse("app=web")
	byLabel := start(t, r, store.WatchOptions{ResourceVersion: from, Selector: store.Selector{Labels: app}})
	byNode := start(t, r, store.WatchOptions{ResourceVersion: from, Selector: store.Selector{Fields: fields.ParseSelectorOrDie("spec.nodeName=n1"), FieldsOf: storedPodFields}})
	unbound := start(t, r, store.WatchOptions{ResourceVersion: from, Selector: store.Selector{Fields: fields.ParseSelectorOrDie("spec.nodeName="), FieldsOf: storedPodFields}})
	phase := start(t, r, store.WatchOptions{ResourceVersion: from, Selector: store.Selector{Fields: fields.ParseSelectorOrDie("status.phase!=Succeeded,spec.nodeName=n1"), FieldsOf: storedPodFields}})

	change := func(f func(*corev1.Pod)) int64 {
		o, err := r.Update(t.Context(), "a", "1", nil, false, func(cur *store.Object) (runtime.Object, error) {
			p := cur.Object.(*corev1.Pod).DeepCopy()
			f(p)
			return p, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return o.Revision
	}
	create(t, r, "a", "1")                                               // web, unbound
	change(func(p *corev1.Pod) { p.Spec.NodeName = "n1" })               // bound
	change(func(p *corev1.Pod) { p.Labels["app"] = "x" })                // no longer web
	done := change(func(p *corev1.Pod) { p.Status.Phase = "Succeeded" }) // done
	change(func(p *corev1.Pod) { p.Labels["app"] = "web" })              // web again
	moved := change(func(p *corev1.Pod) { p.Spec.NodeName = "n2" })      // never happens, but
	remove(t, r, "a", "1")

	for name, test := range map[string]struct {
		w    store.Watcher
		want string
	}{
		"label":  {byLabel, "+a/1 *a/1 -a/1 +a/1 *a/1 -a/1"},
		"node":   {byNode, "+a/1 *a/1 *a/1 *a/1 -a/1"},
		"none":   {unbound, "+a/1 -a/1"},
		"phases": {phase, "+a/1 *a/1 -a/1"},
	} {
		got := next(t, test.w, len(strings.Fields(test.want)))
		if tell(got) != test.want {
			t.Errorf("%s: got %s, want %s", name, tell(got), test.want)
		}
		last := got[len(got)-1]
		switch name { // who leaves a selection is shown as it was, at the revision of leaving
		case "node":
			if p := last.Object.Object.(*corev1.Pod); last.Object.Revision != moved || p.Spec.NodeName != "n1" {
				t.Errorf("left at %d on %s, want %d on n1", last.Object.Revision, p.Spec.NodeName, moved)
			}
		case "phases":
			if last.Object.Revision != done {
				t.Errorf("left at %d, want %d", last.Object.Revision, done)
			}
		}
	}
}

// All watchers get the same objects, which are those that reads return.
func TestWatchShares(t *testing.T) {
	r, _ := pods(t)
	one, two := start(t, r, store.WatchOptions{}), start(t, r, store.WatchOptions{Namespace: "a"})
	o := create(t, r, "a", "1")
	gone := remove(t, r, "a", "1")
	a, b := next(t, one, 2), next(t, two, 2)
	if a[0].Object != o || b[0].Object != o {
		t.Error("the created object was copied")
	}
	if a[1].Object != b[1].Object || a[1].Object.Revision != gone.Revision {
		t.Error("each watcher has its own deleted object")
	}
}

// One who does not read is dropped with a 410, and nobody else notices.
func TestSlowWatcher(t *testing.T) {
	c := startEtcd(t)
	r := open(t, store.Config{Client: c, SoleWriter: true, Limits: watchcache.Limits{Queue: 10}}).Resource(podConfig)
	<-r.Ready()
	slow, quick := start(t, r, store.WatchOptions{}), start(t, r, store.WatchOptions{})
	var seen []store.Event
	for i := range 30 {
		create(t, r, "a", fmt.Sprintf("%02d", i))
		seen = append(seen, next(t, quick, 1)...)
	}
	if len(seen) != 30 {
		t.Fatalf("the quick watcher saw %d of 30", len(seen))
	}
	events := next(t, slow, 1)
	if e := events[len(events)-1]; e.Type != watch.Error || e.Err.Code != 410 || e.Err.Reason != metav1.StatusReasonExpired {
		t.Fatalf("the slow watcher got %s", tell(events))
	}
	if _, err := slow.Next(t.Context()); !errors.Is(err, io.EOF) {
		t.Fatalf("after the error: %v", err)
	}
}

func TestWatchStop(t *testing.T) {
	r, _ := pods(t)
	w := start(t, r, store.WatchOptions{})
	done := make(chan error)
	go func() {
		_, err := w.Next(context.Background())
		done <- err
	}()
	w.Stop()
	w.Stop()
	if err := <-done; !errors.Is(err, io.EOF) {
		t.Fatalf("Next of a stopped watch: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	w = start(t, r, store.WatchOptions{})
	cancel()
	if _, err := w.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("Next with an ended context: %v", err)
	}
}

// Bookmarks come without any change of the resource, and with revisions that others have brought about.
func TestBookmarks(t *testing.T) {
	c := startEtcd(t)
	r := open(t, store.Config{Client: c, SoleWriter: true, Limits: watchcache.Limits{Bookmarks: 20 * time.Millisecond}}).Resource(podConfig)
	with, without := start(t, r, store.WatchOptions{AllowWatchBookmarks: true}), start(t, r, store.WatchOptions{})
	p, err := c.Put(t.Context(), "/registry/other", "v")
	if err != nil {
		t.Fatal(err)
	}
	for {
		e := next(t, with, 1)[0]
		if e.Type != watch.Bookmark || e.InitialEventsEnd {
			t.Fatalf("event %s", tell([]store.Event{e}))
		}
		if e.Object.Revision >= p.Header.Revision {
			// A watch can go on from there.
			create(t, r, "a", "1")
			if got := tell(next(t, start(t, r, store.WatchOptions{ResourceVersion: fmt.Sprint(e.Object.Revision)}), 1)); got != "+a/1" {
				t.Fatalf("from a bookmark: %s", got)
			}
			break
		}
	}
	if got := tell(next(t, without, 1)); got != "+a/1" {
		t.Fatalf("a watcher that did not ask for bookmarks got %s", got)
	}
}

// When etcd has compacted what the feed has still to read, everything is read anew, and watchers are told to do likewise.
func TestCompaction(t *testing.T) {
	c := startEtcd(t)
	r := open(t, store.Config{Client: c, CompactEvery: -1}).Resource(podConfig)
	o := create(t, r, "a", "1")
	for i := range 5 {
		o = set(t, r, "a", "1", fmt.Sprint(i))
	}
	if _, err := c.Compact(t.Context(), o.Revision); err != nil {
		t.Fatal(err)
	}
	// A store that starts on a compacted history has the state, and refuses watches from before it.
	two := open(t, store.Config{Client: c}).Resource(podConfig)
	l := mustList(t, two)
	if keys(l) != "a/1" || label(l.Items[0]) != "4" {
		t.Fatalf("list %v", keys(l))
	}
	if got := tell(next(t, start(t, two, store.WatchOptions{ResourceVersion: fmt.Sprint(o.Revision - 1)}), 1)); got != "!410" {
		t.Fatalf("watch from before the compaction: %s", got)
	}
	if got := tell(next(t, start(t, r, store.WatchOptions{ResourceVersion: fmt.Sprint(o.Revision - 1)}), 1)); got != "*a/1" {
		t.Fatalf("watch from the cache's own memory: %s", got)
	}
}

// The compactor keeps the last interval's history, and speaks upstream's protocol.
func TestCompactor(t *testing.T) {
	c := startEtcd(t)
	s := open(t, store.Config{Client: c, CompactEvery: 30 * time.Millisecond})
	open(t, store.Config{Client: c, CompactEvery: 30 * time.Millisecond}) // another API server
	r := s.Resource(podConfig)
	o := create(t, r, "a", "1")
	for {
		if _, err := c.Get(within(t), "/registry/pods/a/1", clientv3.WithRev(o.Revision)); err != nil {
			break // compacted
		}
		set(t, r, "a", "1", fmt.Sprint(time.Now()))
	}
	kv, err := c.Get(t.Context(), "compact_rev_key")
	if err != nil || len(kv.Kvs) != 1 || kv.Kvs[0].Version < 2 {
		t.Fatalf("compact_rev_key %v %v", kv, err)
	}
	if _, err := r.Get(t.Context(), "a", "1", ""); err != nil {
		t.Fatal(err)
	}
}

// Whatever is written, by one or two stores, at once: each watcher's history, applied to the list it began with, gives the
// list at the end; revisions only grow; and every watcher sees the same.
func TestWatchHistoryProperty(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		c := sharedEtcd(t)
		prefix := fmt.Sprintf("r%d", counter())
		config := podConfig
		config.Prefix = prefix
		var rs []store.Resource
		for range rapid.IntRange(1, 2).Draw(rt, "stores") {
			s := store.Open(store.Config{Client: c, Log: quiet(), CompactEvery: -1, DetectMutations: func(what string) { t.Error(what) }})
			defer s.Close()
			rs = append(rs, s.Resource(config))
		}
		type op struct{ kind, key int }
		ops := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) op {
			return op{rapid.IntRange(0, 2).Draw(rt, "op"), rapid.IntRange(0, 3).Draw(rt, "key")}
		}), 1, 40).Draw(rt, "ops")
		begin := rapid.IntRange(0, len(ops)).Draw(rt, "list after")
		run := func(i int, o op) {
			r, name := rs[i%len(rs)], fmt.Sprint(o.key)
			switch o.kind {
			case 0:
				r.Create(t.Context(), "a", name, newPod("a", name), 0)
			case 1:
				r.Update(t.Context(), "a", name, nil, false, func(cur *store.Object) (runtime.Object, error) {
					p := cur.Object.(*corev1.Pod).DeepCopy()
					p.Annotations = map[string]string{"n": fmt.Sprint(i)}
					return p, nil
				})
			case 2:
				r.Delete(t.Context(), "a", name, nil, nil)
			}
		}
		for i, o := range ops[:begin] {
			run(i, o)
		}
		type history struct {
			r     store.Resource
			state map[string]int64
			w     store.Watcher
			at    int64
			seen  []string
		}
		var hs []*history
		for _, r := range rs {
			for range 2 {
				l, err := r.List(t.Context(), store.ListOptions{})
				if err != nil {
					rt.Fatal(err)
				}
				h := &history{r: r, state: map[string]int64{}, at: l.ResourceVersion}
				for _, o := range l.Items {
					h.state[o.Key] = o.Revision
				}
				if h.w, err = r.Watch(t.Context(), store.WatchOptions{ResourceVersion: fmt.Sprint(l.ResourceVersion)}); err != nil {
					rt.Fatal(err)
				}
				defer h.w.Stop()
				hs = append(hs, h)
			}
		}
		var wg sync.WaitGroup
		for worker := range 4 {
			wg.Go(func() {
				for i := begin + worker; i < len(ops); i += 4 {
					run(i, ops[i])
				}
			})
		}
		wg.Wait()
		end, err := rs[0].Create(t.Context(), "z", "end", newPod("z", "end"), 0)
		if err != nil {
			rt.Fatal(err)
		}
		for _, h := range hs {
			for h.state["z/end"] == 0 {
				events, err := h.w.Next(within(t))
				if err != nil {
					rt.Fatal(err)
				}
				for _, e := range events {
					if e.Object.Revision <= h.at {
						rt.Fatalf("event of revision %d after %d", e.Object.Revision, h.at)
					}
					h.at = e.Object.Revision
					_, there := h.state[e.Object.Key]
					switch {
					case e.Type == watch.Added && !there, e.Type == watch.Modified && there:
						h.state[e.Object.Key] = e.Object.Revision
					case e.Type == watch.Deleted && there:
						delete(h.state, e.Object.Key)
					default:
						rt.Fatalf("%s of %s, which is there: %v", e.Type, e.Object.Key, there)
					}
					h.seen = append(h.seen, fmt.Sprintf("%s %s %d", e.Type, e.Object.Key, e.Object.Revision))
				}
			}
			l, err := h.r.List(t.Context(), store.ListOptions{ResourceVersion: fmt.Sprint(end.Revision), ResourceVersionMatch: metav1.ResourceVersionMatchExact})
			if err != nil {
				rt.Fatal(err)
			}
			listed := map[string]int64{}
			for _, o := range l.Items {
				listed[o.Key] = o.Revision
			}
			if !maps.Equal(listed, h.state) {
				rt.Fatalf("history leads to %v, list says %v", h.state, listed)
			}
			if !slices.Equal(h.seen, hs[0].seen) {
				rt.Fatalf("one saw\n%v\nanother\n%v", hs[0].seen, h.seen)
			}
		}
	})
}

var shared struct {
	sync.Mutex
	client *clientv3.Client
	n      int
}

// sharedEtcd is one etcd for all rounds of a property, ending with t.
func sharedEtcd(t *testing.T) *clientv3.Client {
	shared.Lock()
	defer shared.Unlock()
	if shared.client == nil {
		shared.client = startEtcd(t)
		t.Cleanup(func() { shared.client = nil })
	}
	return shared.client
}

func counter() int {
	shared.Lock()
	defer shared.Unlock()
	shared.n++
	return shared.n
}
