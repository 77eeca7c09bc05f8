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
		if r := l.Resize(pod("a", c.cpu, c.memory)); r != nil {
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
	if r := l.Resize(pod("a", "9", "1Gi")); r != nil {
		t.Errorf("a pod that is gone: %v", r)
	}
}
