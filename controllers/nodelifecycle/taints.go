package nodelifecycle

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// wanted are the taints that follow from the node's conditions and spec (upstream's TaintNodesByCondition and TaintBasedEviction).
func wanted(node *corev1.Node) []corev1.Taint {
	var taints []corev1.Taint
	add := func(key string, effect corev1.TaintEffect) {
		taints = append(taints, corev1.Taint{Key: key, Effect: effect})
	}
	for i := range node.Status.Conditions {
		c := &node.Status.Conditions[i]
		switch {
		case c.Type == corev1.NodeReady && c.Status == corev1.ConditionFalse:
			add(corev1.TaintNodeNotReady, corev1.TaintEffectNoSchedule)
			add(corev1.TaintNodeNotReady, corev1.TaintEffectNoExecute)
		case c.Type == corev1.NodeReady && c.Status == corev1.ConditionUnknown:
			add(corev1.TaintNodeUnreachable, corev1.TaintEffectNoSchedule)
			add(corev1.TaintNodeUnreachable, corev1.TaintEffectNoExecute)
		case c.Type == corev1.NodeMemoryPressure && c.Status == corev1.ConditionTrue:
			add(corev1.TaintNodeMemoryPressure, corev1.TaintEffectNoSchedule)
		case c.Type == corev1.NodeDiskPressure && c.Status == corev1.ConditionTrue:
			add(corev1.TaintNodeDiskPressure, corev1.TaintEffectNoSchedule)
		case c.Type == corev1.NodePIDPressure && c.Status == corev1.ConditionTrue:
			add(corev1.TaintNodePIDPressure, corev1.TaintEffectNoSchedule)
		case c.Type == corev1.NodeNetworkUnavailable && c.Status == corev1.ConditionTrue:
			add(corev1.TaintNodeNetworkUnavailable, corev1.TaintEffectNoSchedule)
		}
	}
	if node.Spec.Unschedulable {
		add(corev1.TaintNodeUnschedulable, corev1.TaintEffectNoSchedule)
	}
	return taints
}

// ours are the taints that this controller alone sets and removes.
var ours = []string{
	corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable, corev1.TaintNodeMemoryPressure, corev1.TaintNodeDiskPressure,
	corev1.TaintNodePIDPressure, corev1.TaintNodeNetworkUnavailable, corev1.TaintNodeUnschedulable,
}

func (k *controller) syncTaints(ctx context.Context, node *corev1.Node) error {
	want := wanted(node)
	unreported := readiness(node) == ""
	var taints []corev1.Taint
	same := true
	for _, t := range node.Spec.Taints {
		if !slices.Contains(ours, t.Key) || unreported && t.Key == corev1.TaintNodeNotReady { // admission's stays until the kubelet has spoken
			taints = append(taints, t)
			continue
		}
		if i := slices.IndexFunc(want, func(w corev1.Taint) bool { return w.Key == t.Key && w.Effect == t.Effect }); i >= 0 {
			taints = append(taints, t) // with the time at which it was added
			want = slices.Delete(want, i, i+1)
		} else {
			same = false
		}
	}
	if same && len(want) == 0 {
		return nil
	}
	now := metav1.Now()
	for _, t := range want {
		if t.Effect == corev1.TaintEffectNoExecute {
			t.TimeAdded = &now
		}
		taints = append(taints, t)
	}
	if taints == nil {
		taints = []corev1.Taint{} // an absent list would change nothing
	}
	// The list is atomic: it is replaced as a whole. The resourceVersion keeps a taint that somebody else adds at this moment.
	if err := k.patchNode(ctx, node, map[string]any{"spec": map[string]any{"taints": taints}}); err != nil {
		return fmt.Errorf("taint node %s: %w", node.Name, err)
	}
	return nil
}

func (k *controller) tainted(name string) bool {
	node, err := k.nodes.Get(name)
	return err == nil && slices.ContainsFunc(node.Spec.Taints, noExecute)
}

func noExecute(t corev1.Taint) bool { return t.Effect == corev1.TaintEffectNoExecute }

func (k *controller) enqueuePods(node *corev1.Node) {
	if !slices.ContainsFunc(node.Spec.Taints, noExecute) {
		return
	}
	for _, pod := range k.podsOn(node.Name) {
		k.evict.Add(pod.Namespace + "/" + pod.Name)
	}
}
