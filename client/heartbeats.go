package client

import (
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/cache"
)

// Heartbeats notes when each node's Lease was last seen to be renewed, by this process's clock: a node whose own clock is wrong is
// neither dead nor immortal for it. What it finds at the start counts as renewed then, as in upstream's node lifecycle controller.
// Safe for concurrent use. The zero value is ready.
type Heartbeats struct {
	mu   sync.Mutex
	seen map[string]heartbeat // by node; guarded by mu
}

type heartbeat struct {
	renewed time.Time // as the Lease says
	at      time.Time // when we learned of it
}

// Handler takes the events of the Lease informer. A heartbeat costs it one map write.
func (h *Heartbeats) Handler() cache.ResourceEventHandler {
	note := func(obj any) {
		if l, ok := obj.(*coordinationv1.Lease); ok {
			h.note(l)
		}
	}
	return cache.ResourceEventHandlerFuncs{AddFunc: note, UpdateFunc: func(_, obj any) { note(obj) }, DeleteFunc: func(obj any) {
		if unknown, ok := obj.(cache.DeletedFinalStateUnknown); ok {
			obj = unknown.Obj
		}
		if l, ok := obj.(*coordinationv1.Lease); ok && l.Namespace == corev1.NamespaceNodeLease {
			h.mu.Lock()
			defer h.mu.Unlock()
			delete(h.seen, l.Name)
		}
	}}
}

func (h *Heartbeats) note(l *coordinationv1.Lease) {
	if l.Namespace != corev1.NamespaceNodeLease || l.Spec.RenewTime == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.seen == nil {
		h.seen = map[string]heartbeat{}
	}
	if old, ok := h.seen[l.Name]; !ok || !old.renewed.Equal(l.Spec.RenewTime.Time) {
		h.seen[l.Name] = heartbeat{renewed: l.Spec.RenewTime.Time, at: time.Now()}
	}
}

// Last returns when the node's Lease was last seen to be renewed; zero when it has none.
func (h *Heartbeats) Last(node string) time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.seen[node].at
}
