// Package flow shares the API server among those who ask (KEP-1040): FlowSchemas sort requests into flows, and flows into priority
// levels, of which each has its part of the seats. When a level is full its requests wait, each flow in a queue of its own, and
// whichever flow has had least is served next; who would wait too long or makes too many wait is told to come back. The API server imports it.
//
// Upstream deals flows out to a fixed number of queues by shuffle sharding, so that it need not remember flows. Here a flow has a queue
// for as long as it has requests, and may fill as much as its hand of queues would have held: the same bounds, without collisions.
package flow

import (
	"context"
	"errors"
	"sync"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
)

// Controller decides who is served now, who waits and who comes back. Safe for concurrent use.
type Controller struct {
	total int // seats

	mu      sync.Mutex
	schemas []*schema         // guarded by mu; in order of precedence
	levels  map[string]*level // guarded by mu; also those that are gone from the configuration and still have requests
	order   []*level          // guarded by mu; the values of levels, sorted by name
	inUse   int               // guarded by mu; seats of all levels that are not exempt
}

// schema is one FlowSchema. Guarded by the controller's mu; object is immutable.
type schema struct {
	object *flowcontrolv1.FlowSchema
	level  *level
	counts counts
}

// counts are what metrics tell of one schema.
type counts struct {
	dispatched, executing, waiting uint64
	rejected                       [reasons]uint64
	waits                          [2]histogram // of requests that waited in vain, and of those that were served
}

// New returns a controller of so many seats, by the given configuration, which it does not change.
func New(seats int, schemas []*flowcontrolv1.FlowSchema, levels []*flowcontrolv1.PriorityLevelConfiguration) *Controller {
	c := &Controller{total: seats, levels: map[string]*level{}}
	c.Configure(schemas, levels)
	return c
}

// Ticket is a request's leave to be served. Immutable.
type Ticket struct {
	// SchemaUID and LevelUID tell how the request was sorted; empty when its configuration is not stored yet.
	SchemaUID, LevelUID string

	controller *Controller
	schema     *schema
	level      *level
	seats      int
	leave      sync.Once
}

// reason is why a request is refused.
type reason int

const (
	full      reason = iota // the level refuses rather than lets wait
	queueFull               // too many of its flow, or of all, wait
	timeOut                 // it has waited too long
	cancelled               // the client has gone
	reasons
)

var reasonNames = [reasons]string{"concurrency-limit", "queue-full", "time-out", "cancelled"}

// ErrTooMany is why a request is not served now.
var ErrTooMany = errors.New("too many requests")

// Enter sorts a request and returns when it may be served, with a Ticket whose Leave must be called when it has been. It waits for at most
// as long as ctx does. seats is asked how much of the server the request takes, if that matters. With ErrTooMany the Ticket only tells
// how the request was sorted.
func (c *Controller) Enter(ctx context.Context, who user.Info, info *request.RequestInfo, seats func() int) (*Ticket, error) {
	c.mu.Lock()
	s := c.sort(who, info)
	t := &Ticket{SchemaUID: string(s.object.UID), LevelUID: string(s.level.object.UID), controller: c, schema: s, level: s.level}
	if s.level.exempt {
		s.counts.dispatched++
		s.counts.executing++
		c.mu.Unlock()
		return t, nil
	}
	t.seats = max(1, min(seats(), s.level.limit()))
	if s.level.waiting == 0 && c.room(s.level, t.seats) {
		c.take(s, t.seats)
		c.mu.Unlock()
		return t, nil
	}
	w, why := s.level.enqueue(s, flowOf(s.object, who, info), t.seats)
	if w == nil {
		s.counts.rejected[why]++
		c.mu.Unlock()
		return t, ErrTooMany
	}
	s.counts.waiting++
	c.mu.Unlock()

	began := time.Now()
	select {
	case <-w.served:
	case <-ctx.Done():
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s.counts.waiting--
	if w.taken { // also when both came at once
		s.counts.waits[1].observe(time.Since(began))
		return t, nil
	}
	s.counts.waits[0].observe(time.Since(began))
	s.level.forget(w)
	c.serveNext() // it may have stood before others that ask for less
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		s.counts.rejected[timeOut]++
	} else {
		s.counts.rejected[cancelled]++
	}
	return t, ErrTooMany
}

// take gives seats to a request of a schema; callers hold mu and have asked room.
func (c *Controller) take(s *schema, seats int) {
	s.counts.dispatched++
	s.counts.executing++
	s.level.inUse += seats
	c.inUse += seats
}

// Leave gives the seats back. Only the first call counts.
func (t *Ticket) Leave() {
	t.leave.Do(func() {
		c := t.controller
		c.mu.Lock()
		defer c.mu.Unlock()
		t.schema.counts.executing--
		if t.level.exempt && t.seats == 0 {
			return
		}
		t.level.inUse -= t.seats
		c.inUse -= t.seats
		c.serveNext()
	})
}

// serveNext lets in those who wait, as long as there is room: first those of levels that use less than is theirs. Callers hold mu.
func (c *Controller) serveNext() {
	for _, borrow := range []bool{false, true} {
		for again := true; again; {
			again = false
			for _, l := range c.order { // one of each level in turn
				if l.waiting == 0 {
					continue
				}
				w := l.next()
				if !borrow && l.inUse+w.seats > l.nominal || !c.room(l, w.seats) {
					continue
				}
				l.dequeue(w)
				c.take(w.schema, w.seats)
				w.taken = true
				close(w.served)
				again = true
			}
		}
	}
}

// room says whether a level has room for so many seats: of its own that it never lends always, of its own that others may have borrowed
// and of others' when they are free. Callers hold mu.
func (c *Controller) room(l *level, seats int) bool {
	switch after := l.inUse + seats; {
	case after <= l.kept || l.inUse == 0 && seats > l.kept && c.inUse < c.total: // who asks for much is served when nobody else of the level is
		return true
	case after > l.limit():
		return false
	}
	free := c.total - c.inUse
	for _, other := range c.order {
		if other != l {
			free -= max(0, other.kept-other.inUse)
		}
	}
	return seats <= free
}
