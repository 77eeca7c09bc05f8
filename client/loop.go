package client

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/client-go/util/workqueue"
)

// Loop is the reconcile loop that every controller has: keys go in from event handlers, each key is reconciled by one worker
// at a time, and what fails is tried again with exponential back-off. Adding a key that waits already is free.
type Loop struct {
	name      string
	workers   int
	reconcile func(ctx context.Context, key string) error
	log       *slog.Logger
	queue     workqueue.TypedRateLimitingInterface[string]
	measured  atomic.Pointer[measured] // nil: nobody measures
}

// Back-off of a key that fails, upstream's controllers' defaults.
const (
	loopFirstRetry = 5 * time.Millisecond
	loopLastRetry  = 1000 * time.Second
)

// NewLoop returns a loop; its queue takes keys at once, Run works on them. reconcile must be idempotent; a nil error ends
// the key's back-off.
func NewLoop(name string, workers int, log *slog.Logger, reconcile func(ctx context.Context, key string) error) *Loop {
	return &Loop{name: name, workers: workers, reconcile: reconcile, log: log,
		queue: workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[string](loopFirstRetry, loopLastRetry))}
}

// Add asks for the key to be reconciled. Safe for concurrent use; never blocks.
func (l *Loop) Add(key string) {
	l.measured.Load().add(key)
	l.queue.Add(key)
}

// AddAfter asks for it after a while.
func (l *Loop) AddAfter(key string, d time.Duration) { l.queue.AddAfter(key, d) }

// Run works until ctx ends, and returns when every worker has ended. It must be called, be it with a context that has ended
// already: the queue holds a goroutine until then.
func (l *Loop) Run(ctx context.Context) {
	defer l.queue.ShutDown() // also when a worker saw the end first, and stop came before the queue's turn
	if ctx.Err() != nil {
		return
	}
	m, end := begin(ctx, l.name, l.queue.Len)
	defer end()
	l.measured.Store(m)
	stop := context.AfterFunc(ctx, l.queue.ShutDown)
	defer stop()
	var wg sync.WaitGroup
	for range l.workers {
		wg.Go(func() {
			for l.one(ctx) {
			}
		})
	}
	wg.Wait()
}

func (l *Loop) one(ctx context.Context) bool {
	key, shutdown := l.queue.Get()
	if shutdown {
		return false
	}
	defer l.queue.Done(key)
	m := l.measured.Load()
	m.start(key)
	defer m.done(key)
	err := l.reconcile(ctx, key)
	switch {
	case err == nil:
		l.queue.Forget(key)
	case ctx.Err() != nil:
		return false
	default:
		level := slog.LevelDebug
		if retries := l.queue.NumRequeues(key); retries >= 5 { // conflicts and lagging caches mend themselves before
			level = slog.LevelWarn
		}
		l.log.Log(ctx, level, "reconcile failed; trying again", "controller", l.name, "key", key, "error", err)
		m.retry()
		l.queue.AddRateLimited(key)
	}
	return true
}
