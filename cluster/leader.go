package cluster

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// The Leases in kube-system by which the parts of several servers agree on who works: upstream's names and times, so that a scheduler or a controller
// manager of upstream's that runs beside is one of them.
const (
	controllersLease = "kube-controller-manager"
	schedulerLease   = "kube-scheduler"

	leaseDuration = 15 * time.Second // a leader that is not heard of for so long is gone
	renewDeadline = 10 * time.Second // one that could not renew for so long stops
	retryPeriod   = 2 * time.Second
)

// serverID is an API server's identity, made of its machine's name as upstream makes it.
func serverID(host string) string {
	sum := sha256.Sum256([]byte(host))
	return "apiserver-" + strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:16]))
}

// election is one thing that one server of many does.
type election struct {
	kubernetes kubernetes.Interface
	lease      string
	identity   string
	log        *slog.Logger
}

func newElection(k kubernetes.Interface, lease, host string, log *slog.Logger) *election {
	return &election{kubernetes: k, lease: lease, identity: host + "_" + string(uuid.NewUUID()), log: log.With("lease", lease)}
}

// run does work whenever this server is elected, until ctx ends or work fails. work returns when its context has ended and nothing of it goes on: only
// then is the lease given to another.
func (e *election) run(ctx context.Context, work func(context.Context) error) error {
	for ctx.Err() == nil {
		if err := e.term(ctx, work); err != nil {
			return err
		}
	}
	return nil
}

// term waits for one election, and leads until the lease is lost, ctx ends or work fails.
func (e *election) term(ctx context.Context, work func(context.Context) error) error {
	lock := &resourcelock.LeaseLock{LeaseMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: e.lease},
		Client: e.kubernetes.CoordinationV1(), LockConfig: resourcelock.ResourceLockConfig{Identity: e.identity}}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	led, ended := make(chan struct{}), make(chan error, 1)
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{Lock: lock, Name: e.lease,
		LeaseDuration: leaseDuration, RenewDeadline: renewDeadline, RetryPeriod: retryPeriod,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(ctx context.Context) {
				close(led)
				defer cancel()
				e.log.Info("this server is the leader now")
				ended <- work(ctx)
			},
			OnStoppedLeading: func() {},
		}})
	if err != nil {
		return fmt.Errorf("election by lease %s: %w", e.lease, err)
	}
	elector.Run(ctx)
	if !elector.IsLeader() {
		select {
		case <-led: // and lost it
		default:
			return nil
		}
	}
	<-led // it is on its way in a goroutine of its own
	given := ctx.Err() != nil
	err = <-ended
	switch {
	case err != nil && !errors.Is(err, context.Canceled):
	case given:
		err = nil
	default:
		err = nil
		e.log.Warn("this server is not the leader any more: its lease could not be renewed")
	}
	if given {
		e.release(context.WithoutCancel(ctx), lock)
	}
	return err
}

// release lets another server lead at once instead of after the lease has run out.
func (e *election) release(ctx context.Context, lock *resourcelock.LeaseLock) {
	ctx, cancel := context.WithTimeout(ctx, retryPeriod)
	defer cancel()
	record, _, err := lock.Get(ctx)
	if err != nil || record.HolderIdentity != e.identity {
		return
	}
	now := metav1.Now()
	err = lock.Update(ctx, resourcelock.LeaderElectionRecord{LeaderTransitions: record.LeaderTransitions, LeaseDurationSeconds: 1, RenewTime: now, AcquireTime: now})
	if err != nil {
		e.log.Debug("could not release the lease; it runs out by itself", "error", err)
	}
}

// lead runs parts on one server of those that share the store: start gets parts that end when this server is no longer the leader, and a control plane
// whose informers end with them. Alone, it starts them at once and for good.
func (c *controlPlane) lead(p *parts, what, lease string, start func(*controlPlane, *parts)) {
	if !c.settings.Datastore.external() {
		start(c, p)
		return
	}
	e := newElection(c.masters.Kubernetes, lease, c.settings.Node.Name, c.log)
	p.run(what, func(ctx context.Context) error {
		return e.run(ctx, func(ctx context.Context) error {
			term := *c
			masters := *c.masters
			masters.Informers = c.api.InProcess(masterUser()).Informers
			term.masters = &masters
			of := newParts(ctx, c.log)
			start(&term, of)
			masters.Informers.Start(of.ctx.Done())
			<-of.ctx.Done()
			err := of.stop()
			masters.Informers.Shutdown()
			return err
		})
	})
}
