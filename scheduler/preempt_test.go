package scheduler

import (
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

// ranked is a pod with a priority, on a node when one is named.
func ranked(name string, milliCPU int64, priority int32, node string, change func(*corev1.Pod)) *corev1.Pod {
	return testPod(name, milliCPU, 0, func(p *corev1.Pod) {
		p.Spec.Priority, p.Spec.NodeName, p.Labels = &priority, node, map[string]string{"app": name}
		if change != nil {
			change(p)
		}
	})
}

func TestPreemption(t *testing.T) {
	started := func(ago time.Duration) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Status.StartTime = &metav1.Time{Time: time.Now().Add(-ago)} }
	}
	budget := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "b"},
		Spec: policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "guarded"}}}}
	never := corev1.PreemptNever
	for name, test := range map[string]struct {
		objects []runtime.Object
		pod     *corev1.Pod
		victims []string
		node    string
		message string // when nobody goes
	}{
		"the node where the least important goes": {
			[]runtime.Object{testNode("n1", 1000, 1<<30, 10, nil), testNode("n2", 1000, 1<<30, 10, nil), ranked("mid", 1000, 5, "n1", nil), ranked("low", 1000, 1, "n2", nil)},
			ranked("high", 500, 10, "", nil), []string{"low"}, "n2", ""},
		"no more than must go, the less important": {
			[]runtime.Object{testNode("n1", 1000, 1<<30, 10, nil), ranked("a", 400, 2, "n1", nil), ranked("b", 400, 1, "n1", nil)},
			ranked("high", 500, 10, "", nil), []string{"b"}, "n1", ""},
		"of equals, the younger": {
			[]runtime.Object{testNode("n1", 1000, 1<<30, 10, nil), ranked("old", 500, 1, "n1", started(time.Hour)), ranked("young", 500, 1, "n1", started(time.Minute))},
			ranked("high", 500, 10, "", nil), []string{"young"}, "n1", ""},
		"a budget is kept where it can be": {
			[]runtime.Object{testNode("n1", 1000, 1<<30, 10, nil), testNode("n2", 1000, 1<<30, 10, nil), ranked("guarded", 1000, 1, "n1", nil), ranked("free", 1000, 5, "n2", nil), budget},
			ranked("high", 500, 10, "", nil), []string{"free"}, "n2", ""},
		"a budget does not save the last one": {
			[]runtime.Object{testNode("n1", 1000, 1<<30, 10, nil), ranked("guarded", 1000, 1, "n1", nil), budget},
			ranked("high", 500, 10, "", nil), []string{"guarded"}, "n1", ""},
		"a host port is given up": {
			[]runtime.Object{testNode("n1", 1000, 1<<30, 10, nil), ranked("holder", 0, 1, "n1", port(80)), ranked("other", 0, 1, "n1", nil)},
			ranked("high", 0, 10, "", port(80)), []string{"holder"}, "n1", ""},
		"nobody has a lower priority": {
			[]runtime.Object{testNode("n1", 1000, 1<<30, 10, nil), ranked("peer", 1000, 10, "n1", nil)},
			ranked("high", 500, 10, "", nil), nil, "", "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."},
		"all who might go would not do": {
			[]runtime.Object{testNode("n1", 1000, 1<<30, 10, nil), ranked("peer", 800, 10, "n1", nil), ranked("low", 200, 1, "n1", nil)},
			ranked("high", 500, 10, "", nil), nil, "", "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 Insufficient cpu."},
		"the node is too small": {
			[]runtime.Object{testNode("n1", 1000, 1<<30, 10, nil), ranked("low", 200, 1, "n1", nil)},
			ranked("high", 5000, 10, "", nil), nil, "", "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."},
		"it would rather wait": {
			[]runtime.Object{testNode("n1", 1000, 1<<30, 10, nil), ranked("low", 1000, 1, "n1", nil)},
			ranked("high", 500, 10, "", func(p *corev1.Pod) { p.Spec.PreemptionPolicy = &never }), nil, "", "0/1 nodes are available: 1 Insufficient cpu. preemption: not eligible due to preemptionPolicy=Never."},
	} {
		t.Run(name, func(t *testing.T) {
			cs, _ := start(t, test.objects...)
			if _, err := cs.CoreV1().Pods("default").Create(t.Context(), test.pod, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			if test.victims == nil {
				pod := await(t, cs, "high", func(p *corev1.Pod) bool { return len(p.Status.Conditions) > 0 })
				if got := pod.Status.Conditions[0].Message; got != test.message {
					t.Errorf("message %q, want %q", got, test.message)
				}
			} else if pod := await(t, cs, "high", func(p *corev1.Pod) bool { return p.Spec.NodeName != "" }); pod.Spec.NodeName != test.node {
				t.Errorf("on %s, want %s", pod.Spec.NodeName, test.node)
			}
			if gone := missing(t, cs, test.objects); !slices.Equal(gone, test.victims) {
				t.Errorf("gone: %v, want %v", gone, test.victims)
			}
		})
	}
}

func port(n int32) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].Ports = []corev1.ContainerPort{{HostPort: n, ContainerPort: n}}
	}
}

// missing names the pods that are no longer there.
func missing(t *testing.T, cs *fake.Clientset, objects []runtime.Object) []string {
	t.Helper()
	var gone []string
	for _, o := range objects {
		p, ok := o.(*corev1.Pod)
		if !ok {
			continue
		}
		if _, err := cs.CoreV1().Pods("default").Get(t.Context(), p.Name, metav1.GetOptions{}); apierrors.IsNotFound(err) {
			gone = append(gone, p.Name)
		} else if err != nil {
			t.Fatal(err)
		}
	}
	return gone
}

// While victims take their time, the room is nobody else's but a still higher pod's, and nobody else has to go.
func TestNominatedRoomIsKept(t *testing.T) {
	cs, _ := start(t, testNode("n1", 1000, 1<<30, 10, nil), ranked("low", 1000, 1, "n1", func(p *corev1.Pod) {
		p.Finalizers = []string{"wherry.dev/test"}
	}))
	cs.PrependReactor("delete", "pods", terminating(cs))
	create := func(p *corev1.Pod) {
		t.Helper()
		if _, err := cs.CoreV1().Pods("default").Create(t.Context(), p, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	create(ranked("high", 1000, 10, "", nil))
	pod := await(t, cs, "high", func(p *corev1.Pod) bool { return p.Status.NominatedNodeName != "" })
	if pod.Status.NominatedNodeName != "n1" || !strings.HasSuffix(pod.Status.Conditions[0].Message, "preemption: found a potential placement for pod on node n1, preempting 1 victims") {
		t.Errorf("nominated %q, %v", pod.Status.NominatedNodeName, pod.Status.Conditions)
	}
	victim := await(t, cs, "low", func(p *corev1.Pod) bool { return p.DeletionTimestamp != nil })
	if !preempted(victim) {
		t.Errorf("the victim does not say why it goes: %v", victim.Status.Conditions)
	}
	create(ranked("sneak", 1000, 5, "", nil))
	await(t, cs, "sneak", func(p *corev1.Pod) bool { return len(p.Status.Conditions) > 0 })
	create(ranked("higher", 1000, 20, "", nil))
	await(t, cs, "higher", func(p *corev1.Pod) bool { return p.Status.NominatedNodeName == "n1" || len(p.Status.Conditions) > 0 })
	await(t, cs, "high", func(p *corev1.Pod) bool { return p.Status.NominatedNodeName == "" })
	if err := cs.CoreV1().Pods("default").Delete(t.Context(), "low", metav1.DeleteOptions{GracePeriodSeconds: new(int64)}); err != nil {
		t.Fatal(err)
	}
	await(t, cs, "higher", func(p *corev1.Pod) bool { return p.Spec.NodeName == "n1" })
	for _, name := range []string{"high", "sneak"} {
		if p, err := cs.CoreV1().Pods("default").Get(t.Context(), name, metav1.GetOptions{}); err != nil || p.Spec.NodeName != "" {
			t.Errorf("%s: %v, on %q", name, err, p.Spec.NodeName)
		}
	}
}

// terminating makes the fake API delete gracefully, as the real one does, unless the grace period is zero.
func terminating(cs *fake.Clientset) clienttesting.ReactionFunc {
	return func(action clienttesting.Action) (bool, runtime.Object, error) {
		d := action.(clienttesting.DeleteActionImpl)
		if o := d.DeleteOptions; o.GracePeriodSeconds != nil && *o.GracePeriodSeconds == 0 {
			return false, nil, nil
		}
		resource := schema.GroupVersionResource{Version: "v1", Resource: "pods"}
		obj, err := cs.Tracker().Get(resource, d.Namespace, d.Name)
		if err != nil {
			return true, nil, err
		}
		pod := obj.(*corev1.Pod).DeepCopy()
		now := metav1.Now()
		pod.DeletionTimestamp = &now
		pod.Generation++
		return true, nil, cs.Tracker().Update(resource, pod, d.Namespace)
	}
}
