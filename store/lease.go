package store

import (
	"context"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	leaseReuse   = time.Minute // an object lives at most so much longer than asked, and at most leasePercent
	leasePercent = 5
	leaseObjects = 1000 // etcd revokes a lease's keys in one go; more would stall it
)

// leases pools etcd leases: objects whose time ends within a minute of each other share one, as upstream does.
type leases struct {
	client clientv3.Lease
	mu     sync.Mutex
	pool   map[int64]*lease // by seconds asked for; guarded by mu
}

type lease struct {
	id      clientv3.LeaseID
	ends    time.Time
	objects int
}

// get returns a lease that lasts at least ttl seconds from now.
func (l *leases) get(ctx context.Context, ttl int64) (clientv3.LeaseID, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if p := l.pool[ttl]; p != nil && p.objects < leaseObjects && !now.Add(time.Duration(ttl)*time.Second).After(p.ends) {
		p.objects++
		return p.id, nil
	}
	for t, p := range l.pool { // sizes that nobody asks for any more
		if now.After(p.ends) {
			delete(l.pool, t)
		}
	}
	longer := ttl + min(ttl*leasePercent/100, int64(leaseReuse/time.Second))
	r, err := l.client.Grant(ctx, longer)
	if err != nil {
		return 0, err
	}
	if l.pool == nil {
		l.pool = map[int64]*lease{}
	}
	l.pool[ttl] = &lease{id: r.ID, ends: now.Add(time.Duration(longer) * time.Second), objects: 1}
	return r.ID, nil
}
