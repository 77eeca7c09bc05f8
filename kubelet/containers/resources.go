package containers

import (
	"strconv"

	v1 "k8s.io/api/core/v1"
	helpers "k8s.io/component-helpers/resource"

	"wherry.dev/wherry/kubelet/runtime"
)

// Bounds of the kernel's CPU controller.
const (
	minShares   = 2
	maxShares   = 262144
	quotaPeriod = 100_000 // microseconds
	minQuota    = 1_000   // microseconds
)

// NodeFacts are the properties of the node that resource settings depend on.
type NodeFacts struct {
	MemoryCapacity int64 // bytes
	CgroupV2       bool
	NoCPUQuota     bool // --cpu-cfs-quota=false
}

// Shares converts CPU to the controller's relative weight.
func Shares(milli int64) int64 {
	if milli == 0 {
		return minShares
	}
	return min(max(milli*1024/1000, minShares), maxShares)
}

// Quota converts a CPU limit to microseconds in each 100 ms; 0 is no limit.
func Quota(milli int64) int64 {
	if milli == 0 {
		return 0
	}
	return max(milli*quotaPeriod/1000, minQuota)
}

// Resources turns a container's requests and limits into what the kernel enforces.
func Resources(pod *v1.Pod, c *v1.Container, n NodeFacts) *runtime.ContainerResources {
	r := &runtime.ContainerResources{OomScoreAdj: OOMScoreAdj(pod, c, n.MemoryCapacity)}
	request, limit := c.Resources.Requests.Cpu(), c.Resources.Limits.Cpu()
	// No request but a limit: the limit is the request. Defaulting usually did that already; static pods may not have been.
	if _, ok := c.Resources.Requests[v1.ResourceCPU]; !ok && !limit.IsZero() {
		request = limit
	}
	r.CpuShares = Shares(request.MilliValue())
	r.CpuPeriod = quotaPeriod
	if !n.NoCPUQuota {
		r.CpuQuota = Quota(limit.MilliValue())
	}
	if m := c.Resources.Limits.Memory().Value(); m > 0 {
		r.MemoryLimitInBytes = m
		r.MemorySwapLimitInBytes = m // memory and swap together: no swap
	}
	if n.CgroupV2 {
		// One process of a container killed for memory, all of them: half a container helps nobody (upstream's default on v2).
		r.Unified = map[string]string{"memory.oom.group": "1"}
	}
	for name, q := range c.Resources.Limits {
		if size, ok := hugepage(name); ok {
			r.HugepageLimits = append(r.HugepageLimits, &runtime.HugepageLimit{PageSize: size, Limit: uint64(q.Value())})
		}
	}
	return r
}

// hugepage tells the page size of a hugepages-* resource as the runtime writes it: 2MB for hugepages-2Mi.
func hugepage(name v1.ResourceName) (string, bool) {
	s, ok := cutPrefix(string(name), v1.ResourceHugePagesPrefix)
	if !ok || len(s) < 3 || s[len(s)-1] != 'i' {
		return "", false
	}
	if _, err := strconv.Atoi(s[:len(s)-2]); err != nil {
		return "", false
	}
	return s[:len(s)-1] + "B", true
}

func cutPrefix(s, prefix string) (string, bool) {
	if len(s) < len(prefix) || s[:len(prefix)] != prefix {
		return s, false
	}
	return s[len(prefix):], true
}

// OOMScoreAdj ranks the container for the kernel's out-of-memory killer, by QoS class as upstream does: guaranteed
// last, best effort first, burstable in between by the share of memory it did not ask for.
func OOMScoreAdj(pod *v1.Pod, c *v1.Container, capacity int64) int64 {
	if pod.Spec.Priority != nil && *pod.Spec.Priority >= systemNodeCritical {
		return -997
	}
	switch QoS(pod) {
	case v1.PodQOSGuaranteed:
		return -997
	case v1.PodQOSBestEffort:
		return 1000
	}
	score := burstableScore(pod, c.Resources.Requests.Memory().Value(), capacity)
	if IsSidecar(c) {
		// A sidecar must not die before the containers it serves.
		for i := range pod.Spec.Containers {
			score = min(score, burstableScore(pod, pod.Spec.Containers[i].Resources.Requests.Memory().Value(), capacity))
		}
	}
	return score
}

const systemNodeCritical = 2_000_001_000 // priority of system-node-critical less the margin, scheduling.k8s.io

func burstableScore(pod *v1.Pod, request, capacity int64) int64 {
	if capacity <= 0 {
		return 999
	}
	// Never as safe as guaranteed, never as exposed as best effort.
	return min(max(1000-1000*request/capacity, 1000-997), 999)
}

// IsSidecar says whether an init container runs beside the others (KEP-753).
func IsSidecar(c *v1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == v1.ContainerRestartPolicyAlways
}

// QoS is the pod's class by its resources (core/v1 PodQOSClass), whatever its status says.
func QoS(pod *v1.Pod) v1.PodQOSClass {
	if pod.Status.QOSClass != "" {
		return pod.Status.QOSClass
	}
	if helpers.IsPodLevelResourcesSet(pod) && pod.Spec.Resources != nil {
		return qosOf([]v1.ResourceRequirements{*pod.Spec.Resources})
	}
	all := make([]v1.ResourceRequirements, 0, len(pod.Spec.Containers)+len(pod.Spec.InitContainers))
	for i := range pod.Spec.Containers {
		all = append(all, pod.Spec.Containers[i].Resources)
	}
	for i := range pod.Spec.InitContainers {
		all = append(all, pod.Spec.InitContainers[i].Resources)
	}
	return qosOf(all)
}

func qosOf(all []v1.ResourceRequirements) v1.PodQOSClass {
	guaranteed, any := true, false
	for _, r := range all {
		for _, name := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory} {
			request, limit := r.Requests[name], r.Limits[name]
			if request.IsZero() {
				request = limit
			}
			if !request.IsZero() || !limit.IsZero() {
				any = true
			}
			if limit.IsZero() || request.Cmp(limit) != 0 {
				guaranteed = false
			}
		}
	}
	switch {
	case !any:
		return v1.PodQOSBestEffort
	case guaranteed:
		return v1.PodQOSGuaranteed
	}
	return v1.PodQOSBurstable
}
