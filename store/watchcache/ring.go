package watchcache

import (
	"sort"
	"sync"
	"time"
)

// Change is one step of one object, shared by all watchers. Immutable but for the departed copy.
type Change[T any] struct {
	Revision          int64
	Previous, Current *T // nil: was not there, is no longer there

	key      string
	size     int
	at       time.Time
	bookmark bool // no change at all but a mark in a watcher's queue: everything up to Revision was before it

	once     sync.Once
	departed *T // Previous as of Revision; made by the first watcher that needs it
}

// leave returns the previous object as of the change's revision, which is how watchers see one leave.
func (c *Change[T]) leave(copy func(*T, int64) *T) *T {
	c.once.Do(func() { c.departed = copy(c.Previous, c.Revision) })
	return c.departed
}

// ring holds the recent changes, oldest first.
type ring[T any] struct {
	buf   []*Change[T] // buf[head:] are the changes
	head  int
	bytes int
	floor int64 // every change after floor is here
}

func (r *ring[T]) len() int { return len(r.buf) - r.head }

func (r *ring[T]) reset(floor int64) { *r = ring[T]{floor: floor} }

func (r *ring[T]) push(c *Change[T], l Limits) {
	r.buf = append(r.buf, c)
	r.bytes += c.size
	for r.len() > l.Changes || r.bytes > l.Bytes && r.len() > l.Keep {
		r.pop()
	}
}

// oldest is when the first change came; there must be one.
func (r *ring[T]) oldest() time.Time { return r.buf[r.head].at }

// expire drops what is as old as t or older, but for the last keep changes.
func (r *ring[T]) expire(t time.Time, keep int) {
	for r.len() > keep && !r.oldest().After(t) {
		r.pop()
	}
	if r.len() < cap(r.buf)/4 { // give the memory back after a storm
		r.buf, r.head = append([]*Change[T](nil), r.buf[r.head:]...), 0
	}
}

func (r *ring[T]) pop() {
	c := r.buf[r.head]
	r.buf[r.head] = nil
	r.head++
	r.bytes -= c.size
	r.floor = c.Revision
	if r.head > 64 && r.head > len(r.buf)/2 {
		n := copy(r.buf, r.buf[r.head:])
		clear(r.buf[n:])
		r.buf, r.head = r.buf[:n], 0
	}
}

// since returns the changes after revision, and false if some are gone. The slice is the caller's.
func (r *ring[T]) since(revision int64) ([]*Change[T], bool) {
	if revision < r.floor {
		return nil, false
	}
	live := r.buf[r.head:]
	i := sort.Search(len(live), func(i int) bool { return live[i].Revision > revision })
	return append([]*Change[T](nil), live[i:]...), true
}
