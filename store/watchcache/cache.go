// Package watchcache is one resource in memory: the current objects in key order, the recent changes, and those who
// watch. It knows neither etcd nor Kubernetes; store feeds it the changes of one etcd watch, in order, and reads it.
// Only store imports it.
//
// Readers walk a copy-on-write snapshot and never stop the feed. A watcher gets a reference to each change that may
// concern it (by scope, found through an index) and decides in its own goroutine whether it does; one that does not
// keep up loses its place, and nobody waits for it.
package watchcache

import (
	"context"
	"errors"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/btree"
)

// Limits bound what the cache keeps besides the objects themselves. Zero fields take the defaults.
type Limits struct {
	// Changes and Bytes bound the recent changes kept for watches that resume (defaults 65,536 and 48 MiB of encoded
	// objects); Age is when even fewer are dropped, down to Keep (default 128). It is 75 seconds by default, as upstream's:
	// whoever asks for bookmarks has a place that is younger.
	Changes int
	Bytes   int
	Age     time.Duration
	Keep    int
	// Queue is how many changes may wait for one watcher before it is dropped (default 4,096).
	Queue int
	// Bookmarks is the time between bookmarks (default 1 minute).
	Bookmarks time.Duration
	// Snapshots and SnapshotAge bound the old snapshots kept for lists that are read in pages (defaults 8, 5 minutes).
	Snapshots   int
	SnapshotAge time.Duration
}

// Config says what the cache must know about its objects. T is immutable once it is in the cache.
type Config[T any] struct {
	// Key is the object's place in the order, "name" or "namespace/name". Revision is the one that wrote it. Size is what it
	// weighs against Limits.Bytes; nil means nothing.
	Key      func(*T) string
	Revision func(*T) int64
	Size     func(*T) int
	// Departed returns a copy of o that says revision: how a deletion shows an object.
	Departed func(o *T, revision int64) *T
	// Index is the value of one field by which many watchers select ("spec.nodeName"). Nil: no index.
	Index func(*T) string
	// Progress asks whoever feeds the cache to call Progress soon, before bookmarks go out. Nil: bookmarks carry what is known.
	Progress func()
	Limits   Limits
}

// Errors that end a wait or a watch.
var (
	ErrClosed = errors.New("watch cache is closed")
	// ErrExpired ends a watch whose changes are gone: it starts too far back, it was too slow, or the feed lost its place.
	ErrExpired = errors.New("changes are no longer known")
)

// Cache is the resource. Safe for concurrent use; the feeding methods Reset, Apply and Progress are for one goroutine.
type Cache[T any] struct {
	c Config[T]

	revision atomic.Int64 // everything up to here is in; written with mu held
	mu       sync.RWMutex // guards all below
	closed   bool
	tree     *btree.BTreeG[entry[T]]
	shared   *btree.BTreeG[entry[T]] // clone of tree for readers; nil when tree changed since
	changed  int64                   // revision of the last change of tree
	recent   ring[T]
	retained []retained[T] // oldest first
	waiters  []waiter
	watchers watchers[T]
	trim     *time.Timer // drops recent changes and retained snapshots by age; nil when none is due
	beat     *time.Timer // next bookmarks; nil when nobody wants any
	due      bool        // bookmarks go out with the next Progress
}

type entry[T any] struct {
	key string
	obj *T
}

type waiter struct {
	revision int64
	done     chan struct{}
}

// New returns an empty cache at revision 0.
func New[T any](c Config[T]) *Cache[T] {
	l := &c.Limits
	for _, d := range []struct {
		field *int
		value int
	}{{&l.Changes, 65536}, {&l.Bytes, 48 << 20}, {&l.Keep, 128}, {&l.Queue, 4096}, {&l.Snapshots, 8}} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{{&l.Age, 75 * time.Second}, {&l.Bookmarks, time.Minute}, {&l.SnapshotAge, 5 * time.Minute}} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	return &Cache[T]{c: c, tree: newTree[T](), watchers: newWatchers[T]()}
}

// newTree makes an empty tree. 32 children a node keep a copied path small and the tree three levels deep at 150,000.
func newTree[T any]() *btree.BTreeG[entry[T]] {
	return btree.NewG(32, func(a, b entry[T]) bool { return a.key < b.key })
}

// Reset replaces everything by objects as of revision, because the feed starts or has lost its place. Watches that are
// open end with ErrExpired: what happened in between is not known.
func (c *Cache[T]) Reset(objects []*T, revision int64) {
	entries := make([]entry[T], len(objects))
	for i, o := range objects {
		entries[i] = entry[T]{c.c.Key(o), o}
	}
	sort.Slice(entries, func(i, j int) bool { return entries[i].key < entries[j].key })
	tree := newTree[T]()
	for _, e := range entries {
		tree.ReplaceOrInsert(e)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tree, c.shared, c.changed = tree, nil, revision
	c.recent.reset(revision)
	c.retained = nil
	c.watchers.end(ErrExpired)
	c.advance(revision)
}

// Update is one change as the feed knows it: the new object, or nil for a deletion.
type Update[T any] struct {
	Key      string
	Revision int64
	Object   *T
}

// Apply takes in changes, in the order of their revisions; the last one's is the cache's afterwards. Those that are
// already in are skipped.
func (c *Cache[T]) Apply(updates []Update[T]) {
	if len(updates) == 0 {
		return
	}
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	seen := c.revision.Load()
	for _, u := range updates {
		if u.Revision <= seen {
			continue
		}
		change := &Change[T]{Revision: u.Revision, Current: u.Object, at: now}
		if u.Object == nil {
			old, ok := c.tree.Delete(entry[T]{key: u.Key})
			if !ok {
				continue // created and deleted before the feed's list, or a deletion of nothing
			}
			change.key, change.Previous = old.key, old.obj
		} else {
			old, _ := c.tree.ReplaceOrInsert(entry[T]{u.Key, u.Object})
			change.key, change.Previous = u.Key, old.obj
		}
		c.shared, c.changed = nil, u.Revision
		if c.c.Size != nil {
			if change.Current != nil {
				change.size = c.c.Size(change.Current)
			} else {
				change.size = c.c.Size(change.Previous)
			}
		}
		c.recent.push(change, c.c.Limits)
		c.dispatch(change)
	}
	c.advance(updates[len(updates)-1].Revision)
	c.schedule()
}

// Progress says that nothing happened up to revision but what has been applied.
func (c *Cache[T]) Progress(revision int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	c.advance(revision)
	if c.due {
		c.bookmark()
	}
}

// advance moves the revision and wakes those who wait for it. Callers hold mu.
func (c *Cache[T]) advance(revision int64) {
	if revision <= c.revision.Load() {
		return
	}
	c.revision.Store(revision)
	keep := c.waiters[:0]
	for _, w := range c.waiters {
		if w.revision <= revision {
			close(w.done)
		} else {
			keep = append(keep, w)
		}
	}
	clear(c.waiters[len(keep):])
	c.waiters = keep
}

// Revision is what the cache has reached.
func (c *Cache[T]) Revision() int64 { return c.revision.Load() }

// Wait returns when the cache has reached revision, or with the context's cause, or ErrClosed.
func (c *Cache[T]) Wait(ctx context.Context, revision int64) error {
	if c.revision.Load() >= revision {
		return nil
	}
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return ErrClosed
	}
	if c.revision.Load() >= revision {
		c.mu.Unlock()
		return nil
	}
	done := make(chan struct{})
	c.waiters = append(c.waiters, waiter{revision, done})
	c.mu.Unlock()
	select {
	case <-done:
		if c.revision.Load() < revision {
			return ErrClosed
		}
		return nil
	case <-ctx.Done():
		c.mu.Lock()
		defer c.mu.Unlock()
		for i, w := range c.waiters {
			if w.done == done {
				c.waiters = append(c.waiters[:i], c.waiters[i+1:]...)
				break
			}
		}
		return context.Cause(ctx)
	}
}

// Floor is the revision from which on watches can start: every change after it is known.
func (c *Cache[T]) Floor() int64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.recent.floor
}

// Get returns the object at key, nil when there is none.
func (c *Cache[T]) Get(key string) *T {
	c.mu.RLock()
	defer c.mu.RUnlock()
	e, _ := c.tree.Get(entry[T]{key: key})
	return e.obj
}

// Near returns the object whose key, before or after the given one, begins most like it: neighbours are mostly alike. Nil when there is no other.
func (c *Cache[T]) Near(key string) *T {
	c.mu.RLock()
	defer c.mu.RUnlock()
	var before, after entry[T]
	c.tree.AscendGreaterOrEqual(entry[T]{key: key}, func(e entry[T]) bool { after = e; return e.key == key })
	c.tree.DescendLessOrEqual(entry[T]{key: key}, func(e entry[T]) bool { before = e; return e.key == key })
	if after.key == key {
		after = entry[T]{}
	}
	if before.key == key {
		before = entry[T]{}
	}
	if before.obj == nil || after.obj != nil && alike(after.key, key) > alike(before.key, key) {
		return after.obj
	}
	return before.obj
}

// alike is how many bytes a and b have in common at their beginning.
func alike(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

// Len is the number of objects.
func (c *Cache[T]) Len() int {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.tree.Len()
}

// Close ends every wait and watch. The feed must have stopped.
func (c *Cache[T]) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	c.closed = true
	c.watchers.end(ErrClosed)
	for _, w := range c.waiters {
		close(w.done)
	}
	c.waiters, c.retained = nil, nil
	for _, t := range []*time.Timer{c.trim, c.beat} {
		if t != nil {
			t.Stop()
		}
	}
}

// schedule arms the timer that drops what is too old for when that is, when there is something to drop. Callers hold mu.
func (c *Cache[T]) schedule() {
	spare := c.recent.len() > c.c.Limits.Keep
	if c.trim != nil || c.closed || !spare && len(c.retained) == 0 {
		return
	}
	age := c.c.Limits.Age
	var due time.Time
	if spare {
		due = c.recent.oldest().Add(age)
	}
	if len(c.retained) > 0 {
		if t := c.retained[0].used.Add(c.c.Limits.SnapshotAge); !spare || t.Before(due) {
			due = t
		}
	}
	// Not for each change: what came within an eighth of the age goes together.
	c.trim = time.AfterFunc(max(time.Until(due), age/8), func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.trim = nil
		now := time.Now()
		c.recent.expire(now.Add(-age), c.c.Limits.Keep)
		for len(c.retained) > 0 && now.Sub(c.retained[0].used) >= c.c.Limits.SnapshotAge {
			c.release(0)
		}
		c.schedule()
	})
}

// namespaceOf returns the part of key before the slash, "" for a key without one.
func namespaceOf(key string) string {
	if i := strings.IndexByte(key, '/'); i > 0 {
		return key[:i]
	}
	return ""
}
