package plugins

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
)

// Resources are amounts in the units the scheduler counts in: milli-CPUs, bytes, and pieces for the rest.
type Resources struct {
	MilliCPU         int64
	Memory           int64
	EphemeralStorage int64
	Scalar           map[corev1.ResourceName]int64 // extended resources and huge pages; nil when there are none
}

// What a container that requests nothing is taken to use when nodes are ranked (upstream's DefaultMilliCPURequest and
// DefaultMemoryRequest), so that pods without requests still spread.
const (
	defaultMilliCPU = 100
	defaultMemory   = 200 << 20
)

var nonZero = corev1.ResourceList{
	corev1.ResourceCPU:    *resource.NewMilliQuantity(defaultMilliCPU, resource.DecimalSI),
	corev1.ResourceMemory: *resource.NewQuantity(defaultMemory, resource.BinarySI),
}

// NewResources converts a resource list. The number of pods is not part of it.
func NewResources(list corev1.ResourceList) Resources {
	var r Resources
	for name, q := range list {
		switch name {
		case corev1.ResourceCPU:
			r.MilliCPU = q.MilliValue()
		case corev1.ResourceMemory:
			r.Memory = q.Value()
		case corev1.ResourceEphemeralStorage:
			r.EphemeralStorage = q.Value()
		case corev1.ResourcePods:
		default:
			if r.Scalar == nil {
				r.Scalar = map[corev1.ResourceName]int64{}
			}
			r.Scalar[name] = q.Value()
		}
	}
	return r
}

// Add adds (sign 1) or takes away (sign -1).
func (r *Resources) Add(o *Resources, sign int64) {
	r.MilliCPU += sign * o.MilliCPU
	r.Memory += sign * o.Memory
	r.EphemeralStorage += sign * o.EphemeralStorage
	for name, v := range o.Scalar {
		if r.Scalar == nil {
			r.Scalar = map[corev1.ResourceName]int64{}
		}
		if r.Scalar[name] += sign * v; r.Scalar[name] == 0 {
			delete(r.Scalar, name)
		}
	}
}

// podRequests returns what the pod asks for, and what it counts for when nodes are ranked. Status counts too: a pod that
// is being resized holds the larger of what it has and what it wants (KEP-1287).
func podRequests(pod *corev1.Pod) (requests, ranked Resources) {
	options := resourcehelper.PodResourcesOptions{UseStatusResources: true}
	requests = NewResources(resourcehelper.PodRequests(pod, options))
	if everyContainerRequests(pod) {
		return requests, requests
	}
	options.NonMissingContainerRequests = nonZero
	return requests, NewResources(resourcehelper.PodRequests(pod, options))
}

func everyContainerRequests(pod *corev1.Pod) bool {
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			requests := containers[i].Resources.Requests
			if _, ok := requests[corev1.ResourceCPU]; !ok {
				return false
			}
			if _, ok := requests[corev1.ResourceMemory]; !ok {
				return false
			}
		}
	}
	return true
}
