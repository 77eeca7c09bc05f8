package admission

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/admission"
)

// evictionSeconds is how long a pod that says nothing stays on a node that is gone.
const evictionSeconds = int64(300)

// defaultTolerations gives pods 300 s on nodes that are not ready or unreachable.
type defaultTolerations struct{}

func (defaultTolerations) Handles(op admission.Operation) bool {
	return handles(op, admission.Create, admission.Update)
}

// Admit implements admission.MutationInterface.
func (defaultTolerations) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod, ok := podOf(a, "")
	if !ok {
		return nil
	}
	for _, taint := range []string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable} {
		if !slices.ContainsFunc(pod.Spec.Tolerations, func(t corev1.Toleration) bool {
			return (t.Key == taint || t.Key == "") && (t.Effect == corev1.TaintEffectNoExecute || t.Effect == "")
		}) {
			pod.Spec.Tolerations = append(pod.Spec.Tolerations, corev1.Toleration{
				Key: taint, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: new(evictionSeconds)})
		}
	}
	return nil
}

// taintNodes keeps pods off a new node until it has said that it is ready.
type taintNodes struct{}

func (taintNodes) Handles(op admission.Operation) bool { return op == admission.Create }

// Admit implements admission.MutationInterface.
func (taintNodes) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	node, ok := a.GetObject().(*corev1.Node)
	if !ok || a.GetResource().GroupResource() != corev1.Resource("nodes") || a.GetSubresource() != "" {
		return nil
	}
	if !slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool {
		return t.Key == corev1.TaintNodeNotReady && t.Effect == corev1.TaintEffectNoSchedule
	}) {
		node.Spec.Taints = append(node.Spec.Taints, corev1.Taint{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule})
	}
	return nil
}

// extendedResources adds tolerations for the extended resources a pod asks for, so that nodes which have them can be
// tainted with their names. Off by default, as upstream.
type extendedResources struct{}

func (extendedResources) Handles(op admission.Operation) bool {
	return handles(op, admission.Create, admission.Update)
}

// Admit implements admission.MutationInterface.
func (extendedResources) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod, ok := podOf(a, "")
	if !ok {
		return nil
	}
	var names []string
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			for name := range containers[i].Resources.Requests {
				if isExtended(string(name)) {
					names = append(names, string(name))
				}
			}
		}
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		if !slices.ContainsFunc(pod.Spec.Tolerations, func(t corev1.Toleration) bool {
			return t.Key == name && t.Operator == corev1.TolerationOpExists && t.Effect == ""
		}) {
			pod.Spec.Tolerations = append(pod.Spec.Tolerations, corev1.Toleration{Key: name, Operator: corev1.TolerationOpExists})
		}
	}
	return nil
}

// alwaysPull makes every container pull its image, so that nobody runs a private image just because it is there. Off by default, as upstream.
type alwaysPull struct{}

func (alwaysPull) Handles(op admission.Operation) bool {
	return handles(op, admission.Create, admission.Update)
}

// Admit implements admission.MutationInterface.
func (alwaysPull) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod, ok := podOf(a, "")
	if !ok {
		return nil
	}
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			containers[i].ImagePullPolicy = corev1.PullAlways
		}
	}
	return nil
}
