package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"wherry.dev/wherry/client"
)

// parts runs the long-lived parts of one process. When one ends before it is told to, the process is no longer whole: all are
// told to end, and run returns why.
type parts struct {
	log    *slog.Logger
	ctx    context.Context
	cancel context.CancelCauseFunc
	group  sync.WaitGroup
}

func newParts(ctx context.Context, log *slog.Logger) *parts {
	p := &parts{log: log}
	p.ctx, p.cancel = context.WithCancelCause(ctx)
	return p
}

var errEnded = errors.New("ended by itself")

// run starts a part; f blocks until its context ends.
func (p *parts) run(name string, f func(ctx context.Context) error) {
	p.group.Go(func() {
		err := f(p.ctx)
		if p.ctx.Err() != nil {
			// A part that was only beginning finds the informers ended.
			if err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, client.ErrStopped) {
				p.log.Warn("part ended with an error while stopping", "part", name, "error", err)
			}
			return
		}
		if err == nil {
			err = errEnded
		}
		p.cancel(fmt.Errorf("%s: %w", name, err))
	})
}

// stop ends the parts and waits for them; it returns why they ended, nil when they were told to.
func (p *parts) stop() error {
	p.cancel(nil)
	p.group.Wait()
	if cause := context.Cause(p.ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}
