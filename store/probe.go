package store

import (
	"context"
	"sync"
	"time"
)

// probeTimeout bounds one question to etcd.
const probeTimeout = 5 * time.Second

// probe asks etcd for its revision on behalf of many readers at once: a reader joins the question that has not been sent
// yet, so that the answer is never older than the reader's own request.
type probe struct {
	read func() (int64, error)

	mu      sync.Mutex
	next    *question // guarded by mu; nil: nobody waits for the one after the running one
	running bool      // guarded by mu
}

type question struct {
	done     chan struct{}
	revision int64 // valid after done
	err      error // valid after done
}

// revision returns a revision that etcd had after the call began. spawn runs the probe's goroutine.
func (p *probe) revision(ctx context.Context, spawn func(func())) (int64, error) {
	p.mu.Lock()
	if p.next == nil {
		p.next = &question{done: make(chan struct{})}
	}
	q := p.next
	if !p.running {
		p.running = true
		spawn(p.run)
	}
	p.mu.Unlock()
	select {
	case <-q.done:
		return q.revision, q.err
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}

// run asks until nobody waits.
func (p *probe) run() {
	for {
		p.mu.Lock()
		q := p.next
		p.next = nil
		if q == nil {
			p.running = false
			p.mu.Unlock()
			return
		}
		p.mu.Unlock()
		q.revision, q.err = p.read()
		close(q.done)
	}
}
