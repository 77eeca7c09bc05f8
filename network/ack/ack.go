// Package ack tells the cluster how far a node has come with EndpointSlices (D3): the drain protocol of lifecycle/drain.go, the
// node's side. The proxy and the DNS server report each how far they are; the lower of them is written to the node's Lease, but
// only when an endpoint left, because only then somebody waits. A cluster in which nothing leaves writes nothing.
package ack

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"wherry.dev/wherry/lifecycle"
)

// Tracker joins the reports of a node's parties. Safe for concurrent use.
type Tracker struct {
	mu      sync.Mutex // guards all below, the parties' fields included
	parties []*Party
	wanted  uint64 // the highest revision up to which an endpoint left

	changed chan struct{} // capacity 1
}

// Party is one of those whose progress counts.
type Party struct {
	tracker *Tracker
	reached uint64
}

// NewTracker returns a tracker; it acknowledges nothing that any of its parties has not reached.
func NewTracker() *Tracker { return &Tracker{changed: make(chan struct{}, 1)} }

// Party adds a party. Add all of them before Run.
func (t *Tracker) Party() *Party {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := &Party{tracker: t}
	t.parties = append(t.parties, p)
	return p
}

// Reached reports that everything up to the EndpointSlice resourceVersion is in force, and whether an endpoint left in
// it since the last report. Never blocks. A lower revision than before is ignored.
func (p *Party) Reached(revision uint64, leaving bool) {
	t := p.tracker
	t.mu.Lock()
	p.reached = max(p.reached, revision)
	if leaving {
		t.wanted = max(t.wanted, revision)
	}
	due := t.wanted > 0 && t.lowest() > 0
	t.mu.Unlock()
	if due {
		select {
		case t.changed <- struct{}{}:
		default:
		}
	}
}

// lowest is what all parties have reached. Callers hold mu.
func (t *Tracker) lowest() uint64 {
	if len(t.parties) == 0 {
		return 0
	}
	low := t.parties[0].reached
	for _, p := range t.parties[1:] {
		low = min(low, p.reached)
	}
	return low
}

// Config is what Run needs.
type Config struct {
	// Kubernetes writes the Lease, as this node. Required.
	Kubernetes kubernetes.Interface
	// NodeName is this node's. Required.
	NodeName string
	// Log defaults to slog.Default().
	Log *slog.Logger
}

const (
	retryFirst = 50 * time.Millisecond
	retryMost  = 5 * time.Second
	// callTimeout bounds one write: a waiting pod waits no longer than a few seconds anyway.
	callTimeout = 5 * time.Second
)

// Run writes acknowledgements until ctx ends. While one is under way, others gather for the next.
func (t *Tracker) Run(ctx context.Context, c Config) error {
	log := c.Log
	if log == nil {
		log = slog.Default()
	}
	var written uint64
	retry := retryFirst
	var timer <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.changed:
		case <-timer:
		}
		timer = nil
		t.mu.Lock()
		low, wanted := t.lowest(), t.wanted
		t.mu.Unlock()
		if written >= wanted || low <= written {
			continue
		}
		if err := write(ctx, c, low); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			log.Warn("acknowledge endpoints", "revision", low, "err", err, "retry", retry)
			timer, retry = time.After(retry), min(2*retry, retryMost)
			continue
		}
		written, retry = low, retryFirst
	}
}

// write puts the revision into the node's Lease, which it makes when it is not there.
func write(ctx context.Context, c Config, revision uint64) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	leases := c.Kubernetes.CoordinationV1().Leases(lifecycle.DrainNamespace)
	name := lifecycle.DrainLeasePrefix + c.NodeName
	annotations := map[string]string{lifecycle.ProgrammedAnnotation: strconv.FormatUint(revision, 10)}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": annotations}})
	if err != nil {
		return fmt.Errorf("write lease %s: %w", name, err)
	}
	_, err = leases.Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{})
	if apierrors.IsNotFound(err) {
		_, err = leases.Create(ctx, &coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: lifecycle.DrainNamespace, Annotations: annotations},
			Spec:       coordinationv1.LeaseSpec{HolderIdentity: &c.NodeName},
		}, metav1.CreateOptions{})
	}
	if err != nil {
		return fmt.Errorf("write lease %s: %w", name, err)
	}
	return nil
}
