package store

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// outage tells once, and not once for each of many resources, that etcd cannot be followed, and that it can be again.
// Safe for concurrent use.
type outage struct {
	mu     sync.Mutex
	behind map[string]bool // resources that do not follow etcd; guarded by mu
	since  time.Time       // when the first of them fell behind; guarded by mu
}

// begin notes that resource does not follow etcd, because of err.
func (o *outage) begin(log *slog.Logger, resource string, err error, again time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	level := slog.LevelDebug
	if len(o.behind) == 0 {
		level, o.since, o.behind = slog.LevelWarn, time.Now(), map[string]bool{}
	}
	o.behind[resource] = true
	log.Log(context.Background(), level, "etcd cannot be followed; reads may be refused until it can be", "resource", resource, "error", err, "again", again)
}

// end notes that resource follows etcd.
func (o *outage) end(log *slog.Logger, resource string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.behind[resource] {
		return
	}
	delete(o.behind, resource)
	if len(o.behind) == 0 {
		log.Info("etcd is followed again", "after", time.Since(o.since).Round(time.Millisecond))
	}
}
