package kinds

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/resource"
)

// QOSClass returns the pod's quality of service class by its CPU and memory requests and limits: Guaranteed when in
// every container both are set and equal, BestEffort when none is set at all, Burstable otherwise. Resources of the pod as a whole
// decide where they are set (KEP-2837). The class in the pod's status, if any, is not looked at.
func QOSClass(pod *corev1.Pod) corev1.PodQOSClass {
	if resource.IsPodLevelResourcesSet(pod) {
		return requirementsQOS(pod.Spec.Resources)
	}
	class := corev1.PodQOSClass("")
	for _, containers := range [...][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			switch c := requirementsQOS(&containers[i].Resources); {
			case c == corev1.PodQOSBurstable:
				return c
			case class == "":
				class = c
			case class != c:
				return corev1.PodQOSBurstable
			}
		}
	}
	if class == "" {
		return corev1.PodQOSBestEffort
	}
	return class
}

// requirementsQOS is the class of one set of requests and limits.
func requirementsQOS(r *corev1.ResourceRequirements) corev1.PodQOSClass {
	if len(r.Requests) == 0 && len(r.Limits) == 0 {
		return corev1.PodQOSBestEffort
	}
	set := 0
	for _, name := range [...]corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		request, limit := r.Requests[name], r.Limits[name]
		if !request.Equal(limit) {
			return corev1.PodQOSBurstable
		}
		if !request.IsZero() {
			set++
		}
	}
	switch set {
	case 0:
		return corev1.PodQOSBestEffort
	case 2:
		return corev1.PodQOSGuaranteed
	}
	return corev1.PodQOSBurstable
}
