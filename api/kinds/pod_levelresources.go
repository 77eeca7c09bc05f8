package kinds

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/resource"
)

// defaultPodLevelResources completes resources that are set for the pod as a whole (KEP-2837). Nothing happens to pods
// that set none. It runs after admission, when all containers are known.
//   - Huge pages that containers limit, and the pod neither limits nor requests, are limited to the containers' sum.
//   - What the pod does not request it requests as its containers do together, else as much as its limit.
//   - What it requests but does not limit is limited to the containers' sum if every container has a limit, and never
//     to less than the request.
func defaultPodLevelResources(pod *corev1.Pod) {
	r := pod.Spec.Resources
	if r == nil || len(r.Requests) == 0 && len(r.Limits) == 0 {
		return
	}
	// Ephemeral containers have no resources, and status has no say.
	containers := &corev1.Pod{Spec: corev1.PodSpec{Containers: pod.Spec.Containers, InitContainers: pod.Spec.InitContainers}}
	limits := resource.AggregateContainerLimits(containers, resource.PodResourcesOptions{})
	requests := resource.AggregateContainerRequests(containers, resource.PodResourcesOptions{})

	for name, limit := range limits {
		if _, requested := r.Requests[name]; !requested && isHugePages(name) {
			setIfMissing(&r.Limits, name, limit)
		}
	}
	for name, request := range requests {
		if resource.IsSupportedPodLevelResource(name) && !isHugePages(name) {
			setIfMissing(&r.Requests, name, request)
		}
	}
	for name, limit := range r.Limits {
		if resource.IsSupportedPodLevelResource(name) {
			setIfMissing(&r.Requests, name, limit)
		}
	}
	for name, request := range r.Requests {
		if !resource.IsSupportedPodLevelResource(name) || !everyContainerLimits(pod, name) {
			continue
		}
		limit, ok := limits[name]
		if !ok {
			continue
		}
		if request.Cmp(limit) > 0 {
			limit = request
		}
		setIfMissing(&r.Limits, name, limit)
	}
}

func setIfMissing(list *corev1.ResourceList, name corev1.ResourceName, q quantity) {
	if _, ok := (*list)[name]; ok {
		return
	}
	if *list == nil {
		*list = corev1.ResourceList{}
	}
	(*list)[name] = q.DeepCopy()
}

func everyContainerLimits(pod *corev1.Pod, name corev1.ResourceName) bool {
	all := true
	eachContainer(&pod.Spec, func(c *corev1.Container) {
		if _, ok := c.Resources.Limits[name]; !ok {
			all = false
		}
	})
	return all
}

func isHugePages(name corev1.ResourceName) bool {
	return strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix)
}
