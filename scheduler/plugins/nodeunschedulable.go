package plugins

import corev1 "k8s.io/api/core/v1"

// NodeUnschedulable keeps pods from cordoned nodes, unless they tolerate the taint that cordoning sets.
type NodeUnschedulable struct{}

var unschedulableTaint = corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}

// Name implements Plugin.
func (NodeUnschedulable) Name() string { return "NodeUnschedulable" }

// Filter implements Filter.
func (NodeUnschedulable) Filter(pod *Pod, node *Node) string {
	if node.Spec.Unschedulable && !tolerates(pod.Spec.Tolerations, &unschedulableTaint) {
		return "node(s) were unschedulable"
	}
	return ""
}

// Wakes implements Filter.
func (NodeUnschedulable) Wakes(_ *Pod, change Change) bool {
	return change.Kind != PodGone && !change.Node.Spec.Unschedulable
}
