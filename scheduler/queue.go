package scheduler

import (
	"container/heap"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	corehelper "k8s.io/component-helpers/scheduling/corev1"

	"wherry.dev/wherry/scheduler/plugins"
)

// The pods that want a node. A pod is in one of three places: active (its turn comes by priority, then by age), backing off
// (it failed a moment ago), or parked (nothing that happened since could help it). It belongs to the deciding goroutine.
type queue struct {
	pods   map[types.UID]*waiting
	active activeHeap
	delay  delayHeap
	// An event is offered to these only, so that a long active queue costs it nothing.
	parked map[types.UID]*waiting
	taken  map[types.UID]*waiting
	now    func() time.Time
}

// Back-off after a failed attempt, upstream's defaults.
const (
	initialBackoff = time.Second
	maxBackoff     = 10 * time.Second
	// A parked pod is tried again after this long even if no event helped it (upstream's podMaxInUnschedulablePodsDuration).
	parkedLimit = 5 * time.Minute
)

type place int

const (
	placeActive  place = iota
	placeDelayed       // backing off, or parked with the time at which it is tried anyway
	placeGated         // has scheduling gates: waits for an update
	placeTaken         // being decided or bound
)

// waiting is one pod on its way to a node.
type waiting struct {
	pod      *plugins.Pod
	since    time.Time // when it was first seen: its age, and the start of its span
	attempts int
	place    place
	position int       // in its heap
	until    time.Time // placeDelayed
	parked   bool      // placeDelayed, and only an event or parkedLimit ends it
	failed   time.Time // of the last attempt
	refused  []plugins.Filter
	// missed is set when an event that may help arrives while the pod is being decided: it must not be parked then.
	missed  bool
	message string // last refusal, to avoid writing the same condition again
	// nominated is the node on which others make room for it; victims are who.
	nominated string
	victims   []types.UID
}

func newQueue(now func() time.Time) *queue {
	return &queue{pods: map[types.UID]*waiting{}, parked: map[types.UID]*waiting{}, taken: map[types.UID]*waiting{}, now: now}
}

// set adds a pod or takes in its new version, and returns it.
func (q *queue) set(pod *corev1.Pod) *waiting {
	w, ok := q.pods[pod.UID]
	if !ok {
		w = &waiting{pod: plugins.NewPod(pod), since: q.now(), place: placeGated, position: -1}
		q.pods[pod.UID] = w
		if len(pod.Spec.SchedulingGates) == 0 {
			q.activate(w)
		}
		return w
	}
	old := w.pod
	w.pod = plugins.NewPod(pod)
	gated := len(pod.Spec.SchedulingGates) > 0
	switch {
	case w.place == placeTaken:
		w.missed = w.missed || old.Class != w.pod.Class
	case gated:
		q.take(w)
		delete(q.taken, w.pod.UID)
		w.place = placeGated
	case w.place == placeGated, w.parked && old.Class != w.pod.Class:
		// An update that no rule reads (a status) helps no one.
		q.wake(w)
	case w.place == placeActive:
		heap.Fix(&q.active, w.position)
	}
	return w
}

// remove forgets a pod.
func (q *queue) remove(uid types.UID) *waiting {
	w, ok := q.pods[uid]
	if !ok {
		return nil
	}
	q.take(w)
	delete(q.pods, uid)
	delete(q.taken, uid)
	return w
}

// take takes a pod out of its heap.
func (q *queue) take(w *waiting) {
	switch {
	case w.position < 0:
	case w.place == placeActive:
		heap.Remove(&q.active, w.position)
	case w.place == placeDelayed:
		heap.Remove(&q.delay, w.position)
	}
	w.position = -1
	w.place = placeTaken
	q.taken[w.pod.UID] = w
	if w.parked {
		w.parked = false
		delete(q.parked, w.pod.UID)
	}
}

func (q *queue) activate(w *waiting) {
	q.take(w)
	delete(q.taken, w.pod.UID)
	w.place = placeActive
	heap.Push(&q.active, w)
}

func (q *queue) postpone(w *waiting, until time.Time, parked bool) {
	q.take(w)
	delete(q.taken, w.pod.UID)
	w.place, w.until, w.parked = placeDelayed, until, parked
	if parked {
		q.parked[w.pod.UID] = w
	}
	heap.Push(&q.delay, w)
}

// next takes the pod whose turn it is; nil when none is ready.
func (q *queue) next() *waiting {
	q.flush()
	if q.active.Len() == 0 {
		return nil
	}
	w := q.active[0]
	q.take(w)
	w.attempts++
	w.missed = false
	return w
}

// flush moves pods whose time has come.
func (q *queue) flush() {
	for now := q.now(); q.delay.Len() > 0 && !q.delay[0].until.After(now); {
		q.activate(q.delay[0])
	}
}

// due returns how long until flush has something to do; negative when nothing waits for the clock.
func (q *queue) due() time.Duration {
	if q.delay.Len() == 0 {
		return -1
	}
	return max(0, q.delay[0].until.Sub(q.now()))
}

// refuse parks a pod that fits nowhere until something may help it.
func (q *queue) refuse(w *waiting, r refusal) {
	w.failed, w.refused = q.now(), r.filters
	if w.missed {
		q.wake(w)
		return
	}
	q.postpone(w, w.failed.Add(parkedLimit), true)
}

// retry puts back a pod whose attempt failed for a reason that is not its own (a bind that the API refused).
func (q *queue) retry(w *waiting) {
	w.failed = q.now()
	q.postpone(w, w.failed.Add(w.backoff()), false)
}

// wake ends a pod's parking, no earlier than its back-off allows.
func (q *queue) wake(w *waiting) {
	if until := w.failed.Add(w.backoff()); w.attempts > 0 && until.After(q.now()) {
		q.postpone(w, until, false)
		return
	}
	q.activate(w)
}

// happened wakes the parked pods that the change may help.
func (q *queue) happened(change plugins.Change) {
	for _, w := range q.taken {
		w.missed = true
	}
	for _, w := range q.parked {
		switch {
		case w.nominated != "" && change.Kind == plugins.PodGone && change.Node != nil && (change.Node.Node == nil || change.Node.Name == w.nominated):
			q.activate(w) // its room is being made; there is nothing to wait for
		case helps(w, change):
			q.wake(w)
		}
	}
}

// helps asks the filters that turned the pod away; with none on record (no nodes at all) any node helps.
func helps(w *waiting, change plugins.Change) bool {
	if len(w.refused) == 0 {
		return change.Kind != plugins.PodGone
	}
	for _, f := range w.refused {
		if f.Wakes(w.pod, change) {
			return true
		}
	}
	return false
}

func (w *waiting) backoff() time.Duration {
	d := initialBackoff
	for i := 1; i < w.attempts && d < maxBackoff; i++ {
		d *= 2
	}
	return min(d, maxBackoff)
}

// activeHeap orders by priority, then by age.
type activeHeap []*waiting

func (h activeHeap) Len() int { return len(h) }
func (h activeHeap) Less(i, j int) bool {
	a, b := corehelper.PodPriority(h[i].pod.Pod), corehelper.PodPriority(h[j].pod.Pod)
	if a != b {
		return a > b
	}
	return h[i].since.Before(h[j].since)
}
func (h activeHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].position, h[j].position = i, j
}
func (h *activeHeap) Push(x any) {
	w := x.(*waiting)
	w.position = len(*h)
	*h = append(*h, w)
}
func (h *activeHeap) Pop() any {
	old := *h
	w := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return w
}

// delayHeap orders by the time at which a pod is tried again.
type delayHeap []*waiting

func (h delayHeap) Len() int           { return len(h) }
func (h delayHeap) Less(i, j int) bool { return h[i].until.Before(h[j].until) }
func (h delayHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].position, h[j].position = i, j
}
func (h *delayHeap) Push(x any) {
	w := x.(*waiting)
	w.position = len(*h)
	*h = append(*h, w)
}
func (h *delayHeap) Pop() any {
	old := *h
	w := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return w
}
