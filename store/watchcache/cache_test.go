package watchcache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// thing is an object of these tests.
type thing struct {
	key      string
	revision int64
	index    string
	gone     bool // a departed copy
	ballast  []byte
}

func newCache(l Limits) *Cache[thing] {
	return New(Config[thing]{
		Key:      func(o *thing) string { return o.key },
		Revision: func(o *thing) int64 { return o.revision },
		Size:     func(o *thing) int { return len(o.ballast) },
		Departed: func(o *thing, revision int64) *thing {
			return &thing{key: o.key, revision: revision, index: o.index, gone: true}
		},
		Index:  func(o *thing) string { return o.index },
		Limits: l,
	})
}

func put(c *Cache[thing], key, index string) {
	r := c.Revision() + 1
	c.Apply([]Update[thing]{{key, r, &thing{key: key, revision: r, index: index}}})
}

func drop(c *Cache[thing], key string) {
	c.Apply([]Update[thing]{{key, c.Revision() + 1, nil}})
}

func tell(events []Event[thing]) string {
	var out []string
	for _, e := range events {
		switch e.Kind {
		case Bookmark:
			out = append(out, fmt.Sprintf(".%d", e.Revision))
		case Failed:
			out = append(out, "!")
		default:
			out = append(out, fmt.Sprintf("%c%s@%d", "+*-"[e.Kind], e.Object.key, e.Object.revision))
		}
	}
	return strings.Join(out, " ")
}

func mustWatch(t testing.TB, c *Cache[thing], o Options[thing]) *Watcher[thing] {
	t.Helper()
	w, err := c.Watch(o)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func mustNext(t testing.TB, w *Watcher[thing]) string {
	t.Helper()
	events, err := w.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return tell(events)
}

// A change reaches exactly those whose scope it touches, coming or going.
func TestScopes(t *testing.T) {
	c := newCache(Limits{})
	c.Reset(nil, 1)
	defer c.Close()
	watchers := map[string]*Watcher[thing]{}
	for name, o := range map[string]Options[thing]{
		"all": {}, "a": {Namespace: "a"}, "a/1": {Key: "a/1"}, "n": {Index: "n"}, "a and n": {Namespace: "a", Index: "n"},
		"match": {Match: func(o *thing) bool { return o.index == "m" }}, "none": {Namespace: "a/"},
	} {
		o.Start = StartNow
		watchers[name] = mustWatch(t, c, o)
	}
	put(c, "a/1", "n") // 2
	put(c, "b/1", "n") // 3
	put(c, "a/1", "m") // 4
	put(c, "ab/1", "") // 5
	drop(c, "b/1")     // 6
	drop(c, "x/y")     // 7: nothing there
	c.Progress(8)
	for name, want := range map[string]string{
		"all":     "+a/1@2 +b/1@3 *a/1@4 +ab/1@5 -b/1@6",
		"a":       "+a/1@2 *a/1@4",
		"a/1":     "+a/1@2 *a/1@4",
		"n":       "+a/1@2 +b/1@3 -a/1@4 -b/1@6",
		"a and n": "+a/1@2 -a/1@4",
		"match":   "+a/1@4",
	} {
		if got := mustNext(t, watchers[name]); got != want {
			t.Errorf("%s saw %s, want %s", name, got, want)
		}
	}
	if c.Revision() != 8 {
		t.Errorf("revision %d", c.Revision())
	}
	for _, w := range watchers {
		w.Stop()
	}
	ws := &c.watchers
	if n := len(ws.all.list) + len(ws.byNamespace) + len(ws.byKey) + len(ws.byIndex) + ws.marks; n != 0 {
		t.Errorf("%d registrations left", n)
	}
}

// The initial state comes in batches from a snapshot that later changes do not touch, then those changes.
func TestInitialState(t *testing.T) {
	c := newCache(Limits{})
	var objects []*thing
	for i := range 3 * batch {
		objects = append(objects, &thing{key: fmt.Sprintf("a/%05d", i), revision: 1})
	}
	c.Reset(objects, 5)
	defer c.Close()
	w := mustWatch(t, c, Options[thing]{Start: StartWithState, InitialEnd: true})
	drop(c, "a/00000") // 6
	drop(c, "a/01000") // 7
	n := 0
	for {
		events, err := w.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(events) > batch+1 {
			t.Fatalf("%d events at once", len(events))
		}
		for _, e := range events {
			if e.Kind == Bookmark {
				if n != 3*batch || e.Revision != 5 || !e.InitialEnd {
					t.Fatalf("after %d objects: %+v", n, e)
				}
				if got := mustNext(t, w); got != "-a/00000@6 -a/01000@7" {
					t.Fatalf("then %s", got)
				}
				return
			}
			if want := fmt.Sprintf("a/%05d", n); e.Kind != Added || e.Object.key != want {
				t.Fatalf("object %d is %s", n, e.Object.key)
			}
			n++
		}
	}
}

func TestExpired(t *testing.T) {
	c := newCache(Limits{Changes: 3})
	c.Reset(nil, 10)
	defer c.Close()
	for range 5 {
		put(c, "a", "")
	}
	if _, err := c.Watch(Options[thing]{Revision: 11}); !errors.Is(err, ErrExpired) || !strings.Contains(err.Error(), "11 (12)") {
		t.Errorf("watch from 11: %v", err)
	}
	if got := mustNext(t, mustWatch(t, c, Options[thing]{Revision: 12})); got != "*a@13 *a@14 *a@15" {
		t.Errorf("watch from 12 saw %s", got)
	}
	future := mustWatch(t, c, Options[thing]{Revision: 16})
	put(c, "a", "")
	put(c, "a", "")
	if got := mustNext(t, future); got != "*a@17" {
		t.Errorf("watch from 16 saw %s", got)
	}
	c.Reset(nil, 30)
	events, err := future.Next(t.Context())
	if err != nil || len(events) != 1 || !errors.Is(events[0].Err, ErrExpired) {
		t.Errorf("after a reset: %s, %v", tell(events), err)
	}
	if _, err := future.Next(t.Context()); !errors.Is(err, io.EOF) {
		t.Errorf("then: %v", err)
	}
}

// Weight and age bound the recent changes, but for a few; after a storm the memory is given back.
func TestRecentBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(Limits{Bytes: 1 << 20, Age: time.Minute, Keep: 10})
		c.Reset(nil, 1)
		defer c.Close()
		for i := range 5000 {
			r := c.Revision() + 1
			key := fmt.Sprint(i % 7)
			c.Apply([]Update[thing]{{key, r, &thing{key: key, revision: r, ballast: make([]byte, 1<<12)}}})
			time.Sleep(time.Millisecond)
		}
		c.mu.RLock() // against the timer that drops what is old
		n := c.recent.len()
		c.mu.RUnlock()
		if n != 1<<20>>12 {
			t.Errorf("%d changes of 4 KiB within 1 MiB", n)
		}
		time.Sleep(time.Minute + time.Minute/8)
		synctest.Wait()
		if n, room := c.recent.len(), cap(c.recent.buf); n != 10 || room > 64 {
			t.Errorf("%d changes in room for %d after a quiet time", n, room)
		}
		if c.trim != nil {
			t.Error("a timer runs although there is nothing to drop")
		}
		if c.recent.bytes != 10<<12 {
			t.Errorf("%d bytes of 10 changes", c.recent.bytes)
		}
	})
}

// Bookmarks come only to those who ask, only while there is one, and with the progress that was asked for.
func TestBookmarks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(Limits{})
		asked := 0
		c.c.Progress = func() { asked++; c.Progress(c.Revision() + 100) }
		c.Reset(nil, 1)
		defer c.Close()
		w, plain := mustWatch(t, c, Options[thing]{Start: StartNow, Bookmarks: true}), mustWatch(t, c, Options[thing]{Start: StartNow})
		put(c, "a", "")
		begin := time.Now()
		if got := mustNext(t, w); got != "+a@2" {
			t.Errorf("saw %s", got)
		}
		if got := mustNext(t, w); got != ".102" || time.Since(begin) != time.Minute {
			t.Errorf("saw %s after %s", got, time.Since(begin))
		}
		if got := mustNext(t, plain); got != "+a@2" {
			t.Errorf("the other saw %s", got)
		}
		w.Stop()
		time.Sleep(time.Hour)
		if asked != 1 {
			t.Errorf("asked %d times", asked)
		}
	})
}

func TestSnapshots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(Limits{Snapshots: 2})
		c.Reset(nil, 1)
		defer c.Close()
		put(c, "a", "") // 2
		put(c, "b", "") // 3
		c.Progress(7)
		s := c.Snapshot()
		c.Retain(s)
		put(c, "c", "") // 8
		drop(c, "a")    // 9
		walk := func(s Snapshot[thing], prefix, start string) (out string) {
			s.Walk(prefix, start, func(key string, o *thing) bool { out += key; return true })
			return out
		}
		for revision, want := range map[int64]string{3: "ab", 5: "ab", 7: "ab", 9: "bc"} {
			s, ok := c.SnapshotAt(revision)
			if !ok || walk(s, "", "") != want || s.Revision != revision {
				t.Errorf("at %d: %v %q, want %q", revision, ok, walk(s, "", ""), want)
			}
		}
		for _, revision := range []int64{0, 2, 8, 10} {
			if _, ok := c.SnapshotAt(revision); ok {
				t.Errorf("there is a snapshot at %d", revision)
			}
		}
		if got := walk(c.Snapshot(), "", "b\x00"); got != "c" {
			t.Errorf("from after b: %q", got)
		}
		time.Sleep(20 * time.Minute)
		synctest.Wait()
		if len(c.retained) != 0 || c.trim != nil {
			t.Errorf("%d snapshots kept, timer %v", len(c.retained), c.trim)
		}
	})
}

func TestWait(t *testing.T) {
	c := newCache(Limits{})
	c.Reset(nil, 1)
	done := make(chan error)
	for _, r := range []int64{3, 2, 9} {
		go func() { done <- c.Wait(context.Background(), r) }()
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("why")
	cancel(why)
	if err := c.Wait(ctx, 5); !errors.Is(err, why) {
		t.Errorf("wait with an ended context: %v", err)
	}
	c.Progress(4)
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	go c.Close()
	if err := <-done; !errors.Is(err, ErrClosed) {
		t.Errorf("wait in a closed cache: %v", err)
	}
	if err := c.Wait(t.Context(), 9); !errors.Is(err, ErrClosed) {
		t.Errorf("wait in a closed cache: %v", err)
	}
	if _, err := c.Watch(Options[thing]{}); !errors.Is(err, ErrClosed) {
		t.Errorf("watch of a closed cache: %v", err)
	}
}

// Whenever a watch begins and however it is scoped, what it saw leads from its initial state to the state at the end.
func TestHistoryProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := newCache(Limits{Queue: 1 << 20})
		c.Reset(nil, 1)
		defer c.Close()
		type follower struct {
			o     Options[thing]
			w     *Watcher[thing]
			state map[string]string
		}
		var fs []*follower
		scopes := []Options[thing]{{}, {Namespace: "a"}, {Namespace: "b"}, {Key: "a/1"}, {Index: "x"}, {Index: "y", Namespace: "b"},
			{Match: func(o *thing) bool { return o.index != "x" }}}
		model := map[string]string{}
		key := rapid.SampledFrom([]string{"a/1", "a/2", "b/1", "b/2"})
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				k, index := key.Draw(t, "key"), rapid.SampledFrom([]string{"x", "y"}).Draw(t, "index")
				put(c, k, index)
				model[k] = index
			},
			"drop": func(t *rapid.T) {
				k := key.Draw(t, "key")
				drop(c, k)
				delete(model, k)
			},
			"watch": func(t *rapid.T) {
				o := rapid.SampledFrom(scopes).Draw(t, "scope")
				o.Start, o.InitialEnd = StartWithState, true
				w, err := c.Watch(o)
				if err != nil {
					t.Fatal(err)
				}
				fs = append(fs, &follower{o, w, map[string]string{}})
			},
		})
		put(c, "z/end", "end")
		for _, f := range fs {
			ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
			last := int64(0)
			ended := false
			for {
				f.w.mu.Lock()
				waiting := len(f.w.queue) > 0 || f.w.state != nil
				f.w.mu.Unlock()
				if !waiting {
					break
				}
				ready, now := context.WithCancel(ctx)
				now() // what is there is returned all the same
				events, err := f.w.Next(ready)
				if err != nil {
					break
				}
				for _, e := range events {
					old, there := f.state[key2(e)]
					switch {
					case e.Kind == Bookmark:
						ended, last = true, e.Revision
						continue
					case e.Kind == Added && !there, e.Kind == Modified && there:
						f.state[e.Object.key] = e.Object.index
					case e.Kind == Deleted && there && e.Object.gone && e.Object.index == old:
						delete(f.state, e.Object.key)
					default:
						t.Fatalf("event %s with state %v", tell([]Event[thing]{e}), f.state)
					}
					if ended && e.Object.revision <= last {
						t.Fatalf("event of revision %d after %d", e.Object.revision, last)
					}
					if ended {
						last = e.Object.revision
					}
				}
			}
			cancel()
			delete(f.state, "z/end")
			want := map[string]string{}
			for k, index := range model {
				if f.w.match(k, &thing{key: k, index: index}) {
					want[k] = index
				}
			}
			if fmt.Sprint(f.state) != fmt.Sprint(want) {
				t.Fatalf("%+v: history leads to %v, want %v", f.o, f.state, want)
			}
		}
	})
}

func key2(e Event[thing]) string {
	if e.Object == nil {
		return ""
	}
	return e.Object.key
}

// Everything at once, for the race detector.
func TestConcurrent(t *testing.T) {
	c := newCache(Limits{Queue: 64, Bookmarks: time.Millisecond, Snapshots: 2})
	c.Reset(nil, 1)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				w, err := c.Watch(Options[thing]{Start: Start(i % 3), Revision: c.Revision(), Bookmarks: i%2 == 0, InitialEnd: true})
				if err != nil {
					continue
				}
				for range 20 {
					if _, err := w.Next(ctx); err != nil {
						break
					}
				}
				w.Stop()
			}
		})
		wg.Go(func() {
			for ctx.Err() == nil {
				s := c.Snapshot()
				c.Retain(s)
				n := 0
				s.Walk("", "", func(string, *thing) bool { n++; return true })
				if n != s.Len() {
					t.Errorf("walked %d of %d", n, s.Len())
				}
				c.SnapshotAt(s.Revision)
				c.Wait(ctx, s.Revision+1)
			}
		})
	}
	for i := range 5000 {
		if i%3 == 2 {
			drop(c, fmt.Sprint(i%50))
		} else {
			put(c, fmt.Sprint(i%50), "")
		}
		if i%64 == 0 {
			runtime.Gosched()
		}
	}
	cancel()
	wg.Wait()
	c.Close()
}

// BenchmarkDispatch is one change for 1,000 watchers, of whom all, one, or none want it; without their own work.
func BenchmarkDispatch(b *testing.B) {
	for name, scope := range map[string]func(i int) Options[thing]{
		"all":       func(int) Options[thing] { return Options[thing]{} },
		"by index":  func(i int) Options[thing] { return Options[thing]{Index: fmt.Sprint(i)} },
		"elsewhere": func(i int) Options[thing] { return Options[thing]{Namespace: fmt.Sprint("n", i)} },
	} {
		b.Run(name, func(b *testing.B) {
			c := newCache(Limits{Queue: 1 << 30, Changes: 1000})
			c.Reset(nil, 1)
			defer c.Close()
			for i := range 1000 {
				o := scope(i)
				o.Start = StartNow
				w := mustWatch(b, c, o)
				var wg sync.WaitGroup
				ctx, cancel := context.WithCancel(b.Context())
				wg.Go(func() {
					for {
						if _, err := w.Next(ctx); err != nil {
							return
						}
					}
				})
				defer wg.Wait()
				defer cancel()
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				put(c, "a/1", fmt.Sprint(i%1000))
			}
		})
	}
}

// The neighbour is the one whose key begins most like the key, never the object itself.
func TestNear(t *testing.T) {
	c := newCache(Limits{})
	c.Reset(nil, 1)
	defer c.Close()
	if c.Near("a") != nil {
		t.Error("an empty cache has no neighbours")
	}
	put(c, "a/web-1", "")
	if c.Near("a/web-1") != nil {
		t.Error("an object is not its own neighbour")
	}
	put(c, "a/web-3", "")
	put(c, "b/api-1", "")
	for key, want := range map[string]string{
		"a/web-0": "a/web-1", // the first
		"a/web-1": "a/web-3", // there itself
		"a/web-2": "a/web-1", // as like the one as the other
		"a/web-4": "a/web-3",
		"b/api-0": "b/api-1", // more like what follows
		"c":       "b/api-1",
	} {
		if got := c.Near(key); got == nil || got.key != want {
			t.Errorf("near %s is %v, want %s", key, got, want)
		}
	}
}
