package scheduler

import (
	"context"
	"strconv"

	corev1 "k8s.io/api/core/v1"

	"wherry.dev/wherry/lifecycle"
	"wherry.dev/wherry/scheduler/plugins"
	"wherry.dev/wherry/trace"
)

// decide gives one pod its node, or says why there is none.
func (s *scheduler) decide(ctx context.Context, w *waiting) {
	c := s.class(w.pod)
	slot := s.choose(w, c)
	if slot < 0 {
		r := c.explain(s.snapshot, w.pod)
		if s.snapshot.nodes > 0 {
			found, message := s.preempt(w, c)
			if found != nil && len(found.victims) == 0 { // only claims of lesser pods stood in the way
				for _, uid := range found.nominated {
					s.denominate(ctx, uid)
				}
				s.queue.activate(w)
				return
			}
			r.message += " preemption: " + message
			if found != nil {
				s.evict(ctx, w, found)
			}
		}
		s.refuse(ctx, w, r)
		return
	}
	w.nominated, w.victims = "", nil
	node := s.snapshot.slots[slot].Name
	s.snapshot.setPod(w.pod, node, true)
	s.inFlight++
	pod := w.pod.Pod
	span := s.span(w, trace.OK, "", []trace.Attr{{Key: "node", Value: node}, {Key: "attempts", Value: strconv.Itoa(w.attempts)}})
	s.work.Go(func() { s.bind(ctx, w, span, pod, node) })
}

// choose returns the slot that suits best, and -1 when there is none. A nominated pod takes the node that was cleared for it.
func (s *scheduler) choose(w *waiting, c *class) int {
	if w.nominated == "" {
		c.refresh(s.snapshot, w.pod)
		return c.best(w.pod, s.random)
	}
	// The room that is kept for it is free to it alone.
	s.vacate(w)
	c.refresh(s.snapshot, w.pod)
	if slot, ok := s.snapshot.index[w.nominated]; ok && c.fits[slot] {
		return slot
	}
	return c.best(w.pod, s.random)
}

// class returns the remembered answers for pods like this one.
func (s *scheduler) class(pod *plugins.Pod) *class {
	s.turn++
	c, ok := s.classes[pod.Class]
	if !ok {
		if len(s.classes) >= classesKept {
			s.forgetOldest()
		}
		c = newClass(pod, s.filters, s.scores)
		s.classes[pod.Class] = c
	}
	c.lastUsed = s.turn
	return c
}

func (s *scheduler) forgetOldest() {
	oldest, when := "", s.turn+1
	for key, c := range s.classes {
		if c.lastUsed < when {
			oldest, when = key, c.lastUsed
		}
	}
	delete(s.classes, oldest)
}

// refuse parks the pod and tells the user: once for each new reason on the pod, each time as an event (which the API counts up).
func (s *scheduler) refuse(ctx context.Context, w *waiting, r refusal) {
	s.queue.refuse(w, r)
	pod := w.pod.Pod
	s.recorder.Eventf(pod, nil, corev1.EventTypeWarning, "FailedScheduling", "Scheduling", "%s", r.message)
	s.Trace.Record(s.span(w, trace.Waiting, r.message, r.nodes))
	if w.message == r.message && pod.Status.NominatedNodeName == w.nominated {
		return
	}
	w.message = r.message
	nominated := w.nominated
	s.work.Go(func() { s.reportUnschedulable(ctx, pod, r.message, nominated) })
}

// span is the schedule stage of the pod so far; the caller ends it.
func (s *scheduler) span(w *waiting, outcome trace.Outcome, message string, attrs []trace.Attr) trace.Span {
	return trace.Span{
		PodUID: string(w.pod.UID), Namespace: w.pod.Namespace, Pod: w.pod.Name, Stage: lifecycle.Schedule, Component: "scheduler",
		Start: w.since, Outcome: outcome, Message: message, Attrs: attrs,
	}
}
