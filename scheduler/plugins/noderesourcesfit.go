package plugins

// NodeResourcesFit keeps nodes from being overcommitted, and prefers those with the most left (LeastAllocated).
type NodeResourcesFit struct{}

// Name implements Plugin.
func (NodeResourcesFit) Name() string { return "NodeResourcesFit" }

// Filter implements Filter. It names the first resource that is short; Shortages names all.
func (NodeResourcesFit) Filter(pod *Pod, node *Node) string {
	if node.Pods+1 > node.MaxPods {
		return "Too many pods"
	}
	need, has, used := &pod.Requests, &node.Allocatable, &node.Requested
	switch {
	case need.MilliCPU > 0 && need.MilliCPU > has.MilliCPU-used.MilliCPU:
		return "Insufficient cpu"
	case need.Memory > 0 && need.Memory > has.Memory-used.Memory:
		return "Insufficient memory"
	case need.EphemeralStorage > 0 && need.EphemeralStorage > has.EphemeralStorage-used.EphemeralStorage:
		return "Insufficient ephemeral-storage"
	}
	for name, amount := range need.Scalar {
		if amount > 0 && amount > has.Scalar[name]-used.Scalar[name] {
			return "Insufficient " + string(name)
		}
	}
	return ""
}

// Shortages lists every reason why the pod does not fit, as upstream counts them in events.
func (NodeResourcesFit) Shortages(pod *Pod, node *Node) []string {
	var reasons []string
	if node.Pods+1 > node.MaxPods {
		reasons = append(reasons, "Too many pods")
	}
	need, has, used := &pod.Requests, &node.Allocatable, &node.Requested
	if need.MilliCPU > 0 && need.MilliCPU > has.MilliCPU-used.MilliCPU {
		reasons = append(reasons, "Insufficient cpu")
	}
	if need.Memory > 0 && need.Memory > has.Memory-used.Memory {
		reasons = append(reasons, "Insufficient memory")
	}
	if need.EphemeralStorage > 0 && need.EphemeralStorage > has.EphemeralStorage-used.EphemeralStorage {
		reasons = append(reasons, "Insufficient ephemeral-storage")
	}
	for name, amount := range need.Scalar {
		if amount > 0 && amount > has.Scalar[name]-used.Scalar[name] {
			reasons = append(reasons, "Insufficient "+string(name))
		}
	}
	return reasons
}

// Relievable implements Relievable: what the node does not have at all, nobody can give back.
func (NodeResourcesFit) Relievable(pod *Pod, node *Node) bool {
	need, has := &pod.Requests, &node.Allocatable
	if need.MilliCPU > has.MilliCPU || need.Memory > has.Memory || need.EphemeralStorage > has.EphemeralStorage {
		return false
	}
	for name, amount := range need.Scalar {
		if amount > has.Scalar[name] {
			return false
		}
	}
	return true
}

// Wakes implements Filter.
func (f NodeResourcesFit) Wakes(pod *Pod, change Change) bool {
	// A pod that went helps only when there is room on its node now.
	return change.Node == nil || change.Node.Node == nil || f.Filter(pod, change.Node) == ""
}

// Weight implements Score.
func (NodeResourcesFit) Weight() int64 { return 1 }

// Score implements Score: the mean over CPU and memory of the share that would be left, in percent.
func (NodeResourcesFit) Score(pod *Pod, node *Node) int64 {
	cpu := leastRequested(node.Ranked.MilliCPU+pod.Ranked.MilliCPU, node.Allocatable.MilliCPU)
	memory := leastRequested(node.Ranked.Memory+pod.Ranked.Memory, node.Allocatable.Memory)
	switch {
	case node.Allocatable.MilliCPU == 0 && node.Allocatable.Memory == 0:
		return 0
	case node.Allocatable.MilliCPU == 0:
		return memory
	case node.Allocatable.Memory == 0:
		return cpu
	}
	return (cpu + memory) / 2
}

func leastRequested(requested, capacity int64) int64 {
	if capacity == 0 || requested > capacity {
		return 0
	}
	return (capacity - requested) * MaxScore / capacity
}

// Normalize implements Score.
func (NodeResourcesFit) Normalize(*Pod) Normalization { return AsIs }
