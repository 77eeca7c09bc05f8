package admit

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func TestResize(t *testing.T) {
	list := func(cpu, memory string) v1.ResourceList {
		return v1.ResourceList{v1.ResourceCPU: resource.MustParse(cpu), v1.ResourceMemory: resource.MustParse(memory)}
	}
	pod := func(name, cpu, memory string) *v1.Pod {
		return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)}, Spec: v1.PodSpec{Containers: []v1.Container{{Name: "c", Resources: v1.ResourceRequirements{Requests: list(cpu, memory)}}}}}
	}
	allocatable := list("2", "4Gi")
	allocatable[v1.ResourcePods] = resource.MustParse("10")
	node := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Status: v1.NodeStatus{Allocatable: allocatable}}
	l := New(func() *v1.Node { return node })
	for _, p := range []*v1.Pod{pod("a", "500m", "1Gi"), pod("b", "1", "1Gi")} {
		if r := l.Admit(p, false); r != nil {
			t.Fatal(r)
		}
	}
	for _, c := range []struct{ cpu, memory, want string }{
		{"3", "1Gi", "Infeasible: Node didn't have enough capacity: cpu, requested: 3000, capacity: 2000"},
		{"500m", "5Gi", "Infeasible: Node didn't have enough capacity: memory, requested: 5368709120, capacity: 4294967296"},
		{"1500m", "1Gi", "Deferred: Node didn't have enough resource: cpu, requested: 1500, used: 1000, capacity: 2000"},
		{"1", "3Gi", ""},
		{"100m", "1Gi", ""},
		{"1", "1Gi", ""}, // what was given back is there again
	} {
		got := ""
		if r := l.Resize(pod("a", c.cpu, c.memory), func() {}); r != nil {
			got = r.Reason + ": " + r.Message
		}
		if got != c.want {
			t.Errorf("%s and %s: %q, want %q", c.cpu, c.memory, got, c.want)
		}
	}
	if r := l.Admit(pod("c", "1m", "1Mi"), false); r == nil || r.Reason != "OutOfcpu" {
		t.Errorf("a pod beside two that have it all: %v", r)
	}
	l.Release("a")
	if r := l.Admit(pod("c", "1", "1Mi"), false); r != nil {
		t.Errorf("after one has gone: %v", r)
	}
	if r := l.Resize(pod("a", "9", "1Gi"), func() {}); r != nil {
		t.Errorf("a pod that is gone: %v", r)
	}
}

// TestFreed: who waits for room is told once, when another gives some back, goes, or the node has grown; who could never have it is not.
func TestFreed(t *testing.T) {
	pod := func(name, cpu string) *v1.Pod {
		return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)}, Spec: v1.PodSpec{Containers: []v1.Container{{Name: "c", Resources: v1.ResourceRequirements{Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse(cpu)}}}}}}
	}
	node := &v1.Node{Status: v1.NodeStatus{Allocatable: v1.ResourceList{v1.ResourceCPU: resource.MustParse("2"), v1.ResourcePods: resource.MustParse("10")}}}
	l := New(func() *v1.Node { return node })
	for _, p := range []*v1.Pod{pod("a", "500m"), pod("b", "1"), pod("c", "500m")} {
		if r := l.Admit(p, false); r != nil {
			t.Fatal(r)
		}
	}
	told := 0
	ask := func(cpu, reason string) {
		t.Helper()
		r := l.Resize(pod("a", cpu), func() { told++ })
		if r == nil && reason != "" || r != nil && r.Reason != reason {
			t.Errorf("%s: %v", cpu, r)
		}
	}
	expect := func(what string, want int) {
		t.Helper()
		if told != want {
			t.Errorf("%s: told %d times, want %d", what, told, want)
		}
		told = 0
	}
	ask("1500m", v1.PodReasonDeferred)
	expect("nothing has changed", 0)
	if r := l.Resize(pod("b", "900m"), nil); r != nil {
		t.Fatal(r)
	}
	expect("another gives back", 1)
	l.Release("c")
	expect("it was told and has not asked again", 0)
	ask("1500m", v1.PodReasonDeferred)
	l.Freed()
	expect("the node has grown", 1)
	ask("1500m", v1.PodReasonDeferred)
	l.Release("b")
	expect("another goes", 1)
	ask("3", v1.PodReasonInfeasible)
	l.Freed()
	expect("what cannot be", 0)
	ask("1500m", "")
	l.Freed()
	expect("what is granted", 0)
}
