package scheduler

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"wherry.dev/wherry/scheduler/plugins"
)

func TestQueueOrderAndWaking(t *testing.T) {
	now := time.Unix(1000, 0)
	q := newQueue(func() time.Time { return now })
	high := int32(100)
	q.set(testPod("first", 0, 0, nil))
	now = now.Add(time.Millisecond)
	q.set(testPod("second", 0, 0, nil))
	q.set(testPod("urgent", 0, 0, func(p *corev1.Pod) { p.Spec.Priority = &high }))
	q.set(testPod("gated", 0, 0, func(p *corev1.Pod) { p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "wait"}} }))
	var order []string
	var last *waiting
	for w := q.next(); w != nil; w = q.next() {
		order = append(order, w.pod.Name)
		last = w
	}
	if want := "[urgent first second]"; want != sprint(order) {
		t.Fatalf("order %v, want %s", order, want)
	}
	q.set(testPod("gated", 0, 0, nil)) // the gate is removed
	if w := q.next(); w == nil || w.pod.Name != "gated" {
		t.Fatalf("a pod whose last gate went is not tried: %v", w)
	}

	// Parked for want of CPU: a pod that goes from a full node does not help, one that makes room does, after the back-off.
	node := &plugins.Node{}
	node.Set(testNode("n", 100, 1<<30, 10, nil))
	last.pod = plugins.NewPod(testPod("second", 200, 0, nil))
	q.refuse(last, refusal{filters: []plugins.Filter{plugins.NodeResourcesFit{}}})
	q.happened(plugins.Change{Kind: plugins.PodGone, Node: node, Pod: testPod("x", 0, 0, nil)})
	if !last.parked {
		t.Error("woken by a pod that left too little room")
	}
	node.Set(testNode("n", 300, 1<<30, 10, nil))
	q.happened(plugins.Change{Kind: plugins.NodeUpdated, Node: node})
	if last.parked {
		t.Error("not woken by room for it")
	}
	if w := q.next(); w != nil {
		t.Errorf("%s is tried before its back-off of %v", w.pod.Name, initialBackoff)
	}
	now = now.Add(initialBackoff)
	if w := q.next(); w != last {
		t.Errorf("not tried after its back-off: %v", w)
	}

	// An event during the attempt itself is not lost.
	q.happened(plugins.Change{Kind: plugins.NodeUpdated, Node: node})
	q.refuse(last, refusal{filters: []plugins.Filter{plugins.NodeResourcesFit{}}})
	if last.parked {
		t.Error("parked although something happened while it was decided")
	}
}

func sprint(s []string) string {
	out := "["
	for i, x := range s {
		if i > 0 {
			out += " "
		}
		out += x
	}
	return out + "]"
}
