package scheduler

import (
	"fmt"
	"math/rand/v2"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"wherry.dev/wherry/scheduler/plugins"
)

func testNode(name string, milliCPU, memory, pods int64, change func(*corev1.Node)) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), Labels: map[string]string{"kubernetes.io/hostname": name}},
		Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{
			corev1.ResourceCPU: *resource.NewMilliQuantity(milliCPU, resource.DecimalSI), corev1.ResourceMemory: *resource.NewQuantity(memory, resource.BinarySI),
			corev1.ResourcePods: *resource.NewQuantity(pods, resource.DecimalSI)}}}
	if change != nil {
		change(n)
	}
	return n
}

func testPod(name string, milliCPU, memory int64, change func(*corev1.Pod)) *corev1.Pod {
	requests := corev1.ResourceList{}
	if milliCPU > 0 {
		requests[corev1.ResourceCPU] = *resource.NewMilliQuantity(milliCPU, resource.DecimalSI)
	}
	if memory > 0 {
		requests[corev1.ResourceMemory] = *resource.NewQuantity(memory, resource.BinarySI)
	}
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name)},
		Spec: corev1.PodSpec{SchedulerName: corev1.DefaultSchedulerName, Containers: []corev1.Container{{Name: "c", Image: "app", Resources: corev1.ResourceRequirements{Requests: requests}}}}}
	if change != nil {
		change(p)
	}
	return p
}

// naive is the obviously right way: every rule on every node, nothing remembered. It returns all the best nodes.
func naive(s *snapshot, pod *plugins.Pod) map[string]bool {
	filters, scores := plugins.Default()
	var feasible []*plugins.Node
	for _, node := range s.slots {
		if node == nil || node.Node == nil {
			continue
		}
		ok := true
		for _, f := range filters {
			ok = ok && f.Filter(pod, node) == ""
		}
		if ok {
			feasible = append(feasible, node)
		}
	}
	totals := make([]int64, len(feasible))
	for _, score := range scores {
		var highest int64
		for _, node := range feasible {
			highest = max(highest, score.Score(pod, node))
		}
		for i, node := range feasible {
			totals[i] += normalize(score.Score(pod, node), highest, score.Normalize(pod)) * score.Weight()
		}
	}
	best, top := map[string]bool{}, int64(-1)
	for i, node := range feasible {
		if totals[i] > top {
			best, top = map[string]bool{}, totals[i]
		}
		if totals[i] == top {
			best[node.Name] = true
		}
	}
	return best
}

// Whatever happens to nodes and pods, the remembered answers choose one of the nodes that a fresh look would choose, and no node is
// overcommitted.
func TestClassAgreesWithNaive(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		filters, scores := plugins.Default()
		s := newSnapshot()
		classes := map[string]*class{}
		random := rand.New(rand.NewPCG(1, 2))
		kinds := []*corev1.Pod{
			testPod("small", 100, 64<<20, nil),
			testPod("best-effort", 0, 0, nil),
			testPod("large", 900, 512<<20, nil),
			testPod("picky", 100, 0, func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "ssd"} }),
			testPod("tolerant", 50, 0, func(p *corev1.Pod) {
				p.Spec.Tolerations = []corev1.Toleration{{Key: "soft", Operator: corev1.TolerationOpExists}}
			}),
			testPod("port", 10, 0, func(p *corev1.Pod) {
				p.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 80}}
			}),
			testPod("prefers", 10, 0, func(p *corev1.Pod) {
				p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{
					{Weight: 10, Preference: corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "disk", Operator: corev1.NodeSelectorOpExists}}}}}}}
			}),
		}
		placedPods, serial := []types.UID{}, 0
		t.Repeat(map[string]func(*rapid.T){
			"node": func(t *rapid.T) {
				name := fmt.Sprintf("n%d", rapid.IntRange(0, 6).Draw(t, "node"))
				s.setNode(testNode(name, rapid.SampledFrom([]int64{500, 1000, 2000}).Draw(t, "cpu"), 1<<30, rapid.Int64Range(1, 8).Draw(t, "pods"), func(n *corev1.Node) {
					if rapid.Bool().Draw(t, "ssd") {
						n.Labels["disk"] = "ssd"
					}
					if rapid.Bool().Draw(t, "soft") {
						n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: "soft", Effect: corev1.TaintEffectPreferNoSchedule})
					}
					n.Spec.Unschedulable = rapid.IntRange(0, 5).Draw(t, "cordoned") == 0
				}))
			},
			"lose": func(t *rapid.T) { s.removeNode(fmt.Sprintf("n%d", rapid.IntRange(0, 6).Draw(t, "node"))) },
			"gone": func(t *rapid.T) {
				if len(placedPods) > 0 {
					i := rapid.IntRange(0, len(placedPods)-1).Draw(t, "pod")
					s.removePod(placedPods[i])
					placedPods = append(placedPods[:i], placedPods[i+1:]...)
				}
			},
			"schedule": func(t *rapid.T) {
				serial++
				api := rapid.SampledFrom(kinds).Draw(t, "kind").DeepCopy()
				api.UID = types.UID(fmt.Sprint(serial))
				pod := plugins.NewPod(api)
				c := classes[pod.Class]
				if c == nil {
					c = newClass(pod, filters, scores)
					classes[pod.Class] = c
				}
				c.refresh(s, pod)
				slot, want := c.best(pod, random), naive(s, pod)
				if slot < 0 {
					if len(want) > 0 {
						t.Fatalf("no node for %s; a fresh look finds %v", api.Name, want)
					}
					return
				}
				if got := s.slots[slot].Name; !want[got] {
					t.Fatalf("%s goes to %s; a fresh look chooses among %v", api.Name, got, want)
				}
				s.setPod(pod, s.slots[slot].Name, true)
				placedPods = append(placedPods, pod.UID)
				// A node that shrank may hold too much already; a pod that asks for nothing adds nothing to that.
				if n := s.slots[slot]; n.Pods > n.MaxPods || pod.Requests.MilliCPU > 0 && n.Requested.MilliCPU > n.Allocatable.MilliCPU {
					t.Fatalf("%s is overcommitted: %d pods of %d, %dm of %dm", n.Name, n.Pods, n.MaxPods, n.Requested.MilliCPU, n.Allocatable.MilliCPU)
				}
			},
		})
	})
}

func BenchmarkDecide(b *testing.B) {
	for _, nodes := range []int{100, 1000, 5000} {
		b.Run(fmt.Sprint(nodes), func(b *testing.B) {
			filters, scores := plugins.Default()
			s := newSnapshot()
			for i := range nodes {
				s.setNode(testNode(fmt.Sprintf("n%d", i), 1<<30, 1<<50, 1<<40, nil))
			}
			random := rand.New(rand.NewPCG(1, 2))
			pod := plugins.NewPod(testPod("p", 100, 64<<20, nil))
			c := newClass(pod, filters, scores)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				c.refresh(s, pod)
				slot := c.best(pod, random)
				next := *pod
				next.Pod = &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: types.UID(fmt.Sprint(i))}}
				s.setPod(&next, s.slots[slot].Name, true)
			}
		})
	}
}
