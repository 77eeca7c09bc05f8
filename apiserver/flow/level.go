package flow

import (
	"math"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
)

// level is one priority level. Guarded by the controller's mu; object is immutable.
type level struct {
	object *flowcontrolv1.PriorityLevelConfiguration
	exempt bool
	// nominal are its seats; kept those of them that nobody else may borrow; borrows what it may have beyond them.
	nominal, kept, borrows int
	// queues is whether requests wait; perFlow and most bound how many do.
	queues        bool
	perFlow, most int

	inUse   int // seats
	waiting int // requests
	flows   map[string]*queue
	virtual float64 // how much each flow that was always waiting has had, in seats
}

// queue are the waiting requests of one flow, oldest first; never empty.
type queue struct {
	key     string
	waiting []*waiter
	had     float64 // in seats, on the level's virtual clock
}

// waiter is one waiting request.
type waiter struct {
	schema *schema
	queue  *queue
	seats  int
	served chan struct{} // closed when it is served
	taken  bool          // guarded by the controller's mu
}

// limit is the most that the level may use at once.
func (l *level) limit() int { return l.nominal + l.borrows }

// configure takes over an object. share is the level's part of all seats.
func (l *level) configure(o *flowcontrolv1.PriorityLevelConfiguration, total, shares int) {
	l.object = o
	l.exempt = o.Spec.Type == flowcontrolv1.PriorityLevelEnablementExempt
	part := func(of int, percent *int32) int {
		if percent == nil {
			return 0
		}
		return int(math.Round(float64(of) * float64(*percent) / 100))
	}
	own, lendable := sharesOf(o)
	l.nominal = int(math.Ceil(float64(total) * float64(own) / float64(max(1, shares))))
	l.kept = l.nominal - part(l.nominal, lendable)
	l.borrows, l.queues, l.perFlow, l.most = 0, false, 0, 0
	limited := o.Spec.Limited
	if l.exempt || limited == nil {
		return
	}
	if l.borrows = total; limited.BorrowingLimitPercent != nil {
		l.borrows = part(l.nominal, limited.BorrowingLimitPercent)
	}
	if q := limited.LimitResponse.Queuing; q != nil && limited.LimitResponse.Type == flowcontrolv1.LimitResponseTypeQueue {
		l.queues = true
		l.perFlow = int(q.HandSize) * int(q.QueueLengthLimit)
		l.most = int(q.Queues) * int(q.QueueLengthLimit)
	}
}

// sharesOf is a level's weight among all, and the percentage of its seats that others may borrow.
func sharesOf(o *flowcontrolv1.PriorityLevelConfiguration) (shares int, lendable *int32) {
	switch {
	case o.Spec.Limited != nil:
		if s := o.Spec.Limited.NominalConcurrencyShares; s != nil {
			return int(*s), o.Spec.Limited.LendablePercent
		}
		return 30, o.Spec.Limited.LendablePercent
	case o.Spec.Exempt != nil:
		if s := o.Spec.Exempt.NominalConcurrencyShares; s != nil {
			return int(*s), o.Spec.Exempt.LendablePercent
		}
	}
	return 0, nil
}

// enqueue lets a request wait, or says why it may not.
func (l *level) enqueue(s *schema, flow string, seats int) (*waiter, reason) {
	if !l.queues {
		return nil, full
	}
	q := l.flows[flow]
	if l.waiting >= l.most || q != nil && len(q.waiting) >= l.perFlow {
		return nil, queueFull
	}
	if q == nil { // who has not waited until now starts where the others are
		q = &queue{key: flow, had: l.virtual}
		l.flows[flow] = q
	}
	w := &waiter{schema: s, queue: q, seats: seats, served: make(chan struct{})}
	q.waiting = append(q.waiting, w)
	l.waiting++
	return w, 0
}

// next is who is served next: the oldest request of the flow that has had least. The level has waiting requests.
func (l *level) next() *waiter {
	var best *queue
	for _, q := range l.flows {
		if best == nil || q.had < best.had || q.had == best.had && q.key < best.key {
			best = q
		}
	}
	return best.waiting[0]
}

// dequeue takes out who is served now.
func (l *level) dequeue(w *waiter) {
	l.virtual = max(l.virtual, w.queue.had)
	w.queue.had += float64(w.seats)
	l.forget(w)
}

// forget takes out a waiting request.
func (l *level) forget(w *waiter) {
	q := w.queue
	for i, one := range q.waiting {
		if one == w {
			q.waiting = append(q.waiting[:i], q.waiting[i+1:]...)
			l.waiting--
			break
		}
	}
	if len(q.waiting) == 0 {
		delete(l.flows, q.key)
	}
}
