package drain

import (
	"sync"

	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
)

// revision is an EndpointSlice resourceVersion; 0 is none.
type revision uint64

// identity names one pod for ever. The namespace is the slice's: a slice says nothing about pods of other namespaces.
type identity struct {
	namespace, name string
	uid             types.UID
}

// membership is what the slices say of one pod.
type membership struct {
	// in are the slices that name the pod: the revision at which each first said that it terminates, 0 while it does not.
	in map[types.UID]revision
	// left is the highest revision at which a slice stopped naming the pod without having said before that it terminates.
	left revision
}

// waiter is a terminating pod that is not drained yet.
type waiter struct {
	uid types.UID
	// on is the node whose acknowledgement it waits for; empty while it waits for a slice.
	on string
}

// ledger is what the slices say of the pods, and which pods wait. It decides and calls nobody. Safe for concurrent use.
//
// It holds an entry for each pod that a slice names, and for each living pod that a slice has named: that is what keeps the
// revision of a removal which was seen before the pod's own deletion.
type ledger struct {
	mu      sync.Mutex
	pods    map[identity]*membership         // guarded by mu
	bySlice map[types.UID]map[identity]bool  // undoes pods when a slice changes; guarded by mu
	waiting map[types.NamespacedName]*waiter // guarded by mu
	exists  func(identity) bool              // whether the pod is in the cache now; forget follows when it goes
}

func newLedger(exists func(identity) bool) *ledger {
	return &ledger{pods: map[identity]*membership{}, bySlice: map[types.UID]map[identity]bool{}, waiting: map[types.NamespacedName]*waiter{}, exists: exists}
}

// slice takes in a slice as it is at a revision. It returns the waiting pods of which it says something new.
func (l *ledger) slice(s *discoveryv1.EndpointSlice, at revision) (wake []types.NamespacedName) {
	l.mu.Lock()
	defer l.mu.Unlock()
	members := make(map[identity]bool, len(s.Endpoints))
	for i := range s.Endpoints {
		e := &s.Endpoints[i]
		if e.TargetRef == nil || e.TargetRef.Kind != "Pod" {
			continue
		}
		pod := identity{s.Namespace, e.TargetRef.Name, e.TargetRef.UID}
		terminating := e.Conditions.Terminating != nil && *e.Conditions.Terminating
		if members[pod] && terminating {
			continue // named twice (addresses of its own): what terminates least counts
		}
		members[pod] = true
		m := l.pods[pod]
		if m == nil {
			m = &membership{in: make(map[types.UID]revision, 1)}
			l.pods[pod] = m
		}
		switch {
		case !terminating:
			m.in[s.UID] = 0
		case m.in[s.UID] == 0:
			m.in[s.UID] = at
			wake = l.appendWaiting(wake, pod)
		}
	}
	for pod := range l.bySlice[s.UID] {
		if !members[pod] {
			wake = l.leave(wake, pod, s.UID, at)
		}
	}
	if len(members) == 0 {
		delete(l.bySlice, s.UID)
	} else {
		l.bySlice[s.UID] = members
	}
	return wake
}

// sliceGone takes in that a slice was removed at a revision.
func (l *ledger) sliceGone(slice types.UID, at revision) (wake []types.NamespacedName) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for pod := range l.bySlice[slice] {
		wake = l.leave(wake, pod, slice, at)
	}
	delete(l.bySlice, slice)
	return wake
}

// leave takes a pod out of a slice. Callers hold mu.
func (l *ledger) leave(wake []types.NamespacedName, pod identity, slice types.UID, at revision) []types.NamespacedName {
	m := l.pods[pod]
	if m == nil {
		return wake
	}
	if marked := m.in[slice]; marked != 0 {
		at = marked // whoever has reached the mark sends nothing there already
	}
	delete(m.in, slice)
	m.left = max(m.left, at)
	if len(m.in) == 0 && !l.exists(pod) {
		delete(l.pods, pod)
	}
	return l.appendWaiting(wake, pod)
}

func (l *ledger) appendWaiting(wake []types.NamespacedName, pod identity) []types.NamespacedName {
	key := types.NamespacedName{Namespace: pod.namespace, Name: pod.name}
	if w := l.waiting[key]; w != nil && w.uid == pod.uid {
		wake = append(wake, key)
	}
	return wake
}

// await makes the pod wait, and returns the revision that every node must have reached. known says whether any slice has or had
// the pod, marked whether none of them takes it for an ordinary endpoint any more.
func (l *ledger) await(pod identity) (at revision, known, marked bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	key := types.NamespacedName{Namespace: pod.namespace, Name: pod.name}
	if w := l.waiting[key]; w == nil || w.uid != pod.uid {
		l.waiting[key] = &waiter{uid: pod.uid}
	} else {
		w.on = ""
	}
	m := l.pods[pod]
	if m == nil {
		return 0, false, false
	}
	at = m.left
	for _, r := range m.in {
		if r == 0 {
			return 0, true, false
		}
		at = max(at, r)
	}
	return at, true, true
}

// awaitNode notes which node's acknowledgement the pod waits for.
func (l *ledger) awaitNode(pod identity, node string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if w := l.waiting[types.NamespacedName{Namespace: pod.namespace, Name: pod.name}]; w != nil && w.uid == pod.uid {
		w.on = node
	}
}

// waitingFor returns the pods that wait for a node.
func (l *ledger) waitingFor(node string) (wake []types.NamespacedName) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for key, w := range l.waiting {
		if w.on == node {
			wake = append(wake, key)
		}
	}
	return wake
}

// settle ends the wait of a pod.
func (l *ledger) settle(pod identity) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.endWait(pod)
}

// forget drops a pod that is removed. A slice that names it still keeps an entry, until it does no more.
func (l *ledger) forget(pod identity) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.endWait(pod)
	if m := l.pods[pod]; m != nil && len(m.in) == 0 {
		delete(l.pods, pod)
	}
}

// endWait is for callers that hold mu.
func (l *ledger) endWait(pod identity) {
	key := types.NamespacedName{Namespace: pod.namespace, Name: pod.name}
	if w := l.waiting[key]; w != nil && w.uid == pod.uid {
		delete(l.waiting, key)
	}
}
