package kinds

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// validatePodResize checks new resources of a pod that is there (KEP-1287, KEP-5419): CPU and memory may change, within the QoS
// class, and no request or limit may go.
func validatePodResize(_ context.Context, obj, old runtime.Object) field.ErrorList {
	pod, oldPod := obj.(*corev1.Pod), old.(*corev1.Pod)
	if _, static := oldPod.Annotations[corev1.MirrorPodAnnotationKey]; static {
		return field.ErrorList{field.Forbidden(field.NewPath(""), "static pods cannot be resized")}
	}
	if isWindows(&oldPod.Spec) {
		return field.ErrorList{field.Forbidden(field.NewPath(""), "windows pods cannot be resized")}
	}
	c := &podCheck{spec: &pod.Spec, allow: allowancesFor(&oldPod.Spec)}
	c.add(ValidateMetaUpdate(&pod.ObjectMeta, &oldPod.ObjectMeta))
	c.pod(pod)
	class := oldPod.Status.QOSClass
	if class == "" {
		class = QOSClass(oldPod)
	}
	if class != QOSClass(pod) {
		c.invalid(&specRoot, pod.Status.QOSClass, "Pod QOS Class may not change as a result of resizing")
	}
	if !isResizable(&oldPod.Status) {
		c.forbidden(&specRoot, "Pod running on node without support for resize")
	}
	rest := pod.Spec // the new specification with CPU and memory as they were
	if podLevelGiven(&pod.Spec) || podLevelGiven(&oldPod.Spec) {
		c.podLevelResize(&rest, &oldPod.Spec)
	}
	if c.containerOrder("containers", pod.Spec.Containers, oldPod.Spec.Containers) && c.containerOrder("initContainers", pod.Spec.InitContainers, oldPod.Spec.InitContainers) {
		c.containerResize(&rest, &oldPod.Spec)
		if !equality.Semantic.DeepEqual(pod.Spec.Volumes, oldPod.Spec.Volumes) {
			c.forbidden(specRoot.field("volumes"), "volumes are immutable on resize when InPlacePodVerticalScalingMemoryBackedVolumes feature gate is disabled")
		}
		if len(c.list) == 0 && !equality.Semantic.DeepEqual(&rest, &oldPod.Spec) {
			c.forbidden(&specRoot, "only cpu and memory resources are mutable")
		}
	}
	return onceEach(c.list)
}

// isResizable reports whether the pod's kubelet knows how to resize, as far as its reports tell.
func isResizable(s *corev1.PodStatus) bool {
	for i := range s.ContainerStatuses {
		if c := &s.ContainerStatuses[i]; c.State.Running != nil {
			return c.Resources != nil
		}
	}
	return true
}

func podLevelGiven(s *corev1.PodSpec) bool {
	return s.Resources != nil && len(s.Resources.Requests)+len(s.Resources.Limits) > 0
}

func (c *podCheck) podLevelResize(rest, old *corev1.PodSpec) {
	at := specRoot.field("resources")
	if old.Resources != nil && rest.Resources == nil {
		c.forbidden(at, "pod-level resources cannot be removed")
		return
	}
	if old.Resources != nil {
		if isRemoved(rest.Resources.Requests, old.Resources.Requests) {
			c.forbidden(at.field("requests"), "pod-level resource requests cannot be removed")
		}
		if isRemoved(rest.Resources.Limits, old.Resources.Limits) {
			c.forbidden(at.field("limits"), "pod-level resource limits cannot be removed")
		}
		rest.Resources = withComputeOf(*old.Resources, *rest.Resources)
	} else {
		rest.Resources = withComputeOf(corev1.ResourceRequirements{}, *rest.Resources)
		if len(rest.Resources.Requests)+len(rest.Resources.Limits)+len(rest.Resources.Claims) == 0 {
			rest.Resources = nil
		}
	}
	if !equality.Semantic.DeepEqual(rest.Resources, old.Resources) {
		c.forbidden(&specRoot, "only cpu and memory resources are mutable at pod-level")
		rest.Resources = old.Resources
	}
}

// containerOrder checks that the containers are the same ones.
func (c *podCheck) containerOrder(name string, containers, old []corev1.Container) bool {
	before := len(c.list)
	w := specRoot.field(name)
	if len(containers) != len(old) {
		c.forbidden(w, name+" may not be added or removed on resize")
		return false
	}
	for i := range old {
		if containers[i].Name != old[i].Name {
			c.forbidden(w.at(i).field("name"), name+" may not be renamed or reordered on resize")
		}
	}
	return len(c.list) == before
}

// containerResize checks each container's change, and puts CPU and memory in rest back to what they were.
func (c *podCheck) containerResize(rest, old *corev1.PodSpec) {
	rest.InitContainers = append([]corev1.Container(nil), rest.InitContainers...)
	for i := range old.InitContainers {
		at, now, before := specRoot.field("initContainers").at(i), &rest.InitContainers[i], &old.InitContainers[i]
		c.nothingRemoved(at.field("resources"), &now.Resources, &before.Resources)
		changed := !equality.Semantic.DeepEqual(now, before)
		now.Resources = *withComputeOf(before.Resources, now.Resources)
		if !equality.Semantic.DeepEqual(now, before) {
			c.forbidden(at, "only cpu and memory resources for init or sidecar containers are mutable")
		}
		if changed && !isSidecar(now) {
			for _, p := range now.ResizePolicy {
				if p.RestartPolicy == corev1.RestartContainer {
					c.forbidden(at, "non-sidecar init containers with a resize policy of RestartContainer cannot be resized")
				}
			}
		}
	}
	rest.Containers = append([]corev1.Container(nil), rest.Containers...)
	for i := range old.Containers {
		now, before := &rest.Containers[i], &old.Containers[i]
		c.nothingRemoved(specRoot.field("containers").at(i).field("resources"), &now.Resources, &before.Resources)
		now.Resources = *withComputeOf(before.Resources, now.Resources)
		if !equality.Semantic.DeepEqual(now, before) {
			c.forbidden(&specRoot, "only cpu and memory resources are mutable")
		}
	}
}

func (c *podCheck) nothingRemoved(w *where, now, before *corev1.ResourceRequirements) {
	if isRemoved(now.Requests, before.Requests) {
		c.forbidden(w.field("requests"), "resource requests cannot be removed")
	}
	if isRemoved(now.Limits, before.Limits) {
		c.forbidden(w.field("limits"), "resource limits cannot be removed")
	}
}

func isRemoved(now, before corev1.ResourceList) bool {
	for name := range before {
		if _, ok := now[name]; !ok {
			return true
		}
	}
	return false
}

// withComputeOf returns r with the CPU and memory of before.
func withComputeOf(before, r corev1.ResourceRequirements) *corev1.ResourceRequirements {
	return &corev1.ResourceRequirements{
		Requests: listWithComputeOf(before.Requests, r.Requests),
		Limits:   listWithComputeOf(before.Limits, r.Limits),
		Claims:   r.Claims,
	}
}

func listWithComputeOf(before, list corev1.ResourceList) corev1.ResourceList {
	if before == nil && list == nil {
		return nil
	}
	result := make(corev1.ResourceList, len(list))
	for name, q := range list {
		if name != corev1.ResourceCPU && name != corev1.ResourceMemory {
			result[name] = q
		}
	}
	for _, name := range [...]corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		if q, ok := before[name]; ok {
			result[name] = q
		}
	}
	return result
}
