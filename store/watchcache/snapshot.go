package watchcache

import (
	"strings"
	"time"

	"github.com/google/btree"
)

// Snapshot is the resource at one revision. Immutable; walking it stops nobody.
type Snapshot[T any] struct {
	// Revision is when it was taken; it is as true of every revision back to Changed.
	Revision, Changed int64
	tree              *btree.BTreeG[entry[T]]
}

// Snapshot returns the current state. Taking one costs nothing while nothing changes, and a little copying by the next
// changes when something does.
func (c *Cache[T]) Snapshot() Snapshot[T] {
	c.mu.RLock()
	s := Snapshot[T]{c.revision.Load(), c.changed, c.shared}
	c.mu.RUnlock()
	if s.tree != nil {
		return s
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.snapshot()
}

// snapshot is Snapshot for callers that hold mu for writing.
func (c *Cache[T]) snapshot() Snapshot[T] {
	if c.shared == nil {
		c.shared = c.tree.Clone()
	}
	return Snapshot[T]{c.revision.Load(), c.changed, c.shared}
}

// Len is the number of objects.
func (s Snapshot[T]) Len() int { return s.tree.Len() }

// Get returns the object at key, nil when there is none.
func (s Snapshot[T]) Get(key string) *T {
	e, _ := s.tree.Get(entry[T]{key: key})
	return e.obj
}

// Walk calls yield for the objects whose keys begin with prefix, from key start on, in order, until it returns false.
func (s Snapshot[T]) Walk(prefix, start string, yield func(key string, o *T) bool) {
	s.tree.AscendGreaterOrEqual(entry[T]{key: max(prefix, start)}, func(e entry[T]) bool {
		return strings.HasPrefix(e.key, prefix) && yield(e.key, e.obj)
	})
}

// retained is a snapshot kept for a list that goes on in pages.
type retained[T any] struct {
	Snapshot[T]
	used time.Time
}

// Retain keeps s for a while, for SnapshotAt: the rest of a list that is read in pages.
func (c *Cache[T]) Retain(s Snapshot[T]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	for i, r := range c.retained {
		if r.tree == s.tree || r.Changed == s.Changed {
			s.Revision = max(s.Revision, r.Revision)
			c.release(i)
			break
		}
	}
	c.retained = append(c.retained, retained[T]{s, time.Now()})
	if len(c.retained) > c.c.Limits.Snapshots {
		c.release(0)
	}
	c.schedule()
}

// release forgets the i-th retained snapshot. Callers hold mu.
func (c *Cache[T]) release(i int) {
	copy(c.retained[i:], c.retained[i+1:])
	c.retained[len(c.retained)-1] = retained[T]{}
	c.retained = c.retained[:len(c.retained)-1]
}

// SnapshotAt returns the state at exactly revision, if that is now or a retained one.
func (c *Cache[T]) SnapshotAt(revision int64) (Snapshot[T], bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := c.revision.Load(); revision <= now && revision >= c.changed && now > 0 {
		s := c.snapshot()
		s.Revision = revision
		return s, true
	}
	for i, r := range c.retained {
		if r.Changed <= revision && revision <= r.Revision {
			r.used = time.Now()
			c.release(i)
			c.retained = append(c.retained, r)
			s := r.Snapshot
			s.Revision = revision
			return s, true
		}
	}
	return Snapshot[T]{}, false
}
