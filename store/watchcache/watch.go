package watchcache

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// Start says where a watch begins.
type Start int

const (
	// StartAt delivers the changes after Options.Revision.
	StartAt Start = iota
	// StartNow delivers the changes that come.
	StartNow
	// StartWithState delivers the current objects as added, in key order, and then the changes.
	StartWithState
)

// Options say what a watcher sees.
type Options[T any] struct {
	Start    Start
	Revision int64 // for StartAt
	// Namespace and Key limit the watch to keys below "Namespace/" and to one key; Index to objects whose indexed field has
	// that value. Empty: no limit.
	Namespace, Key, Index string
	// Match says whether an object is wanted; it runs in the watcher's goroutine. Nil: all are.
	Match func(*T) bool
	// Bookmarks asks for bookmarks; InitialEnd for one that ends the initial state.
	Bookmarks, InitialEnd bool
}

// Kind is what an event says.
type Kind int

const (
	Added Kind = iota
	Modified
	Deleted
	Bookmark
	Failed
)

// Event is one change as its watcher sees it.
type Event[T any] struct {
	Kind     Kind
	Object   *T    // of Added, Modified, Deleted; shared and immutable
	Revision int64 // of Bookmark: everything up to here has been delivered
	// InitialEnd marks the bookmark that ends the initial state.
	InitialEnd bool
	Err        error // of Failed: ErrExpired or ErrClosed, wrapped
}

// batch is how many initial objects Next returns at once.
const batch = 512

// Watcher is one watch. Next is for one goroutine; Stop for any.
type Watcher[T any] struct {
	cache *Cache[T]
	o     Options[T]
	slot  *set[T] // where it is registered; guarded by cache.mu
	place int     // index in slot; guarded by cache.mu

	// Only Next uses these.
	state   *Snapshot[T] // initial objects still to be delivered, from after on; nil when done
	after   string
	backlog []*Change[T] // changes from before the watch began, already taken out of the ring
	out     []Event[T]   // reused
	over    bool

	mu      sync.Mutex   // guards below
	queue   []*Change[T] // waiting
	spare   []*Change[T] // the other of two buffers that take turns
	end     error        // why there will be no more; nil while open
	stopped bool
	wake    chan struct{} // capacity 1: something of the above changed
}

// Watch begins a watch. ErrExpired, wrapped, when the changes since Options.Revision are no longer known.
func (c *Cache[T]) Watch(o Options[T]) (*Watcher[T], error) {
	w := &Watcher[T]{cache: c, o: o, wake: make(chan struct{}, 1)}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, ErrClosed
	}
	switch o.Start {
	case StartAt:
		backlog, ok := c.recent.since(o.Revision)
		if !ok {
			return nil, fmt.Errorf("%w: %d (%d)", ErrExpired, o.Revision, c.recent.floor)
		}
		w.backlog = backlog
	case StartWithState:
		s := c.snapshot()
		w.state = &s
	}
	c.watchers.add(w)
	if o.Bookmarks && c.beat == nil {
		c.arm()
	}
	return w, nil
}

// Next returns the events that are there, waiting for at least one. The slice is valid until the next call. After Stop,
// and after a Failed event, it returns io.EOF.
func (w *Watcher[T]) Next(ctx context.Context) ([]Event[T], error) {
	clear(w.out)
	w.out = w.out[:0]
	for {
		if w.over {
			return nil, io.EOF
		}
		if w.state != nil {
			w.initial()
			if len(w.out) > 0 {
				return w.out, nil
			}
			continue
		}
		changes, end, stopped := w.backlog, error(nil), false
		if changes != nil {
			w.backlog = nil
		} else {
			w.mu.Lock()
			changes, end, stopped = w.queue, w.end, w.stopped
			w.queue, w.spare = w.spare[:0], nil
			w.mu.Unlock()
		}
		if stopped {
			w.over = true
			return nil, io.EOF
		}
		for _, c := range changes {
			w.see(c)
		}
		w.mu.Lock()
		if w.spare == nil && cap(changes) <= 4*batch { // a buffer that grew in a storm is not kept
			clear(changes)
			w.spare = changes[:0]
		}
		w.mu.Unlock()
		if end != nil {
			w.over = true
			w.out = append(w.out, Event[T]{Kind: Failed, Err: end})
		}
		if len(w.out) > 0 {
			return w.out, nil
		}
		select {
		case <-w.wake:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// initial puts the next objects of the initial state into out.
func (w *Watcher[T]) initial() {
	prefix := ""
	if w.o.Namespace != "" {
		prefix = w.o.Namespace + "/"
	}
	more, last := false, w.after
	if w.o.Key != "" {
		if o := w.state.Get(w.o.Key); o != nil && w.match(w.o.Key, o) {
			w.out = append(w.out, Event[T]{Kind: Added, Object: o})
		}
	} else {
		w.state.Walk(prefix, w.after, func(key string, o *T) bool {
			if len(w.out) == batch {
				more, last = true, key
				return false
			}
			if w.match(key, o) {
				w.out = append(w.out, Event[T]{Kind: Added, Object: o})
			}
			return true
		})
	}
	w.after = last
	if more {
		return
	}
	if w.o.InitialEnd {
		w.out = append(w.out, Event[T]{Kind: Bookmark, Revision: w.state.Revision, InitialEnd: true})
	}
	w.state = nil
}

// see turns a change into what this watcher sees of it, if anything.
func (w *Watcher[T]) see(c *Change[T]) {
	if c.bookmark {
		w.out = append(w.out, Event[T]{Kind: Bookmark, Revision: c.Revision})
		return
	}
	if c.Revision <= w.o.Revision && w.o.Start == StartAt {
		return // a watch that starts in the future
	}
	was := c.Previous != nil && w.match(c.key, c.Previous)
	is := c.Current != nil && w.match(c.key, c.Current)
	switch {
	case is && was:
		w.out = append(w.out, Event[T]{Kind: Modified, Object: c.Current})
	case is:
		w.out = append(w.out, Event[T]{Kind: Added, Object: c.Current})
	case was:
		w.out = append(w.out, Event[T]{Kind: Deleted, Object: c.leave(w.cache.c.Departed)})
	}
}

// match says whether the watcher wants o, which is at key.
func (w *Watcher[T]) match(key string, o *T) bool {
	if w.o.Key != "" && key != w.o.Key {
		return false
	}
	if n := w.o.Namespace; n != "" && !(len(key) > len(n) && key[len(n)] == '/' && strings.HasPrefix(key, n)) {
		return false
	}
	if w.o.Index != "" && w.cache.c.Index(o) != w.o.Index {
		return false
	}
	return w.o.Match == nil || w.o.Match(o)
}

// Stop ends the watch and lets go of what waits for it. It may be called more than once.
func (w *Watcher[T]) Stop() {
	w.cache.mu.Lock()
	w.cache.watchers.remove(w)
	w.cache.mu.Unlock()
	w.mu.Lock()
	w.stopped = true
	w.queue, w.spare = nil, nil
	w.mu.Unlock()
	w.signal()
}

// push hands the watcher a change, and returns false when its queue is full. Callers hold cache.mu.
func (w *Watcher[T]) push(c *Change[T], limit int) bool {
	w.mu.Lock()
	if len(w.queue) >= limit {
		w.end = fmt.Errorf("%w: the watcher is too slow", ErrExpired)
		w.queue, w.spare = nil, nil // what it missed cannot be mended by what it would still see
		w.mu.Unlock()
		w.signal()
		return false
	}
	w.queue = append(w.queue, c)
	first := len(w.queue) == 1
	w.mu.Unlock()
	if first {
		w.signal()
	}
	return true
}

func (w *Watcher[T]) fail(err error) {
	w.mu.Lock()
	if w.end == nil {
		w.end = err
	}
	w.mu.Unlock()
	w.signal()
}

func (w *Watcher[T]) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// arm sets the timer of the next bookmarks. Callers hold mu.
func (c *Cache[T]) arm() {
	c.beat = time.AfterFunc(c.c.Limits.Bookmarks, func() {
		c.mu.Lock()
		c.beat = nil
		wanted := !c.closed && c.watchers.bookmarked() > 0
		if wanted {
			c.arm()
			if c.c.Progress == nil {
				c.bookmark()
			} else {
				c.due = true
			}
		}
		c.mu.Unlock()
		if wanted && c.c.Progress != nil {
			c.c.Progress()
		}
	})
}

// bookmark queues a bookmark for all who want one. Callers hold mu.
func (c *Cache[T]) bookmark() {
	c.due = false
	mark := &Change[T]{Revision: c.revision.Load(), bookmark: true}
	c.watchers.each(func(w *Watcher[T]) {
		if w.o.Bookmarks && !w.push(mark, c.c.Limits.Queue) {
			c.watchers.remove(w)
		}
	})
}
