package plugins

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
)

// TaintToleration keeps pods from nodes with taints that they do not tolerate, and ranks nodes by the soft ones.
type TaintToleration struct{}

// Name implements Plugin.
func (TaintToleration) Name() string { return "TaintToleration" }

// Filter implements Filter.
func (TaintToleration) Filter(pod *Pod, node *Node) string {
	for i := range node.Spec.Taints {
		taint := &node.Spec.Taints[i]
		if taint.Effect != corev1.TaintEffectPreferNoSchedule && !tolerates(pod.Spec.Tolerations, taint) {
			return "node(s) had untolerated taint(s)"
		}
	}
	return ""
}

// Wakes implements Filter.
func (t TaintToleration) Wakes(pod *Pod, change Change) bool {
	return change.Kind != PodGone && t.Filter(pod, change.Node) == ""
}

// Weight implements Score.
func (TaintToleration) Weight() int64 { return 3 }

// Score implements Score: the number of PreferNoSchedule taints that the pod does not tolerate.
func (TaintToleration) Score(pod *Pod, node *Node) int64 {
	var count int64
	for i := range node.Spec.Taints {
		taint := &node.Spec.Taints[i]
		if taint.Effect == corev1.TaintEffectPreferNoSchedule && !tolerates(pod.Spec.Tolerations, taint) {
			count++
		}
	}
	return count
}

// Normalize implements Score.
func (TaintToleration) Normalize(*Pod) Normalization { return Reversed }

func tolerates(tolerations []corev1.Toleration, taint *corev1.Taint) bool {
	for i := range tolerations {
		if tolerations[i].ToleratesTaint(klog.Logger{}, taint, false) {
			return true
		}
	}
	return false
}
