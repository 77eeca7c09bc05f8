package plugins

import "math"

// NodeResourcesBalancedAllocation prefers nodes whose CPU and memory would be used in equal shares.
type NodeResourcesBalancedAllocation struct{}

// Name implements Plugin.
func (NodeResourcesBalancedAllocation) Name() string { return "NodeResourcesBalancedAllocation" }

// Weight implements Score.
func (NodeResourcesBalancedAllocation) Weight() int64 { return 1 }

// Score implements Score. With two resources the standard deviation of their shares is half their difference.
func (NodeResourcesBalancedAllocation) Score(pod *Pod, node *Node) int64 {
	if pod.Requests.MilliCPU == 0 && pod.Requests.Memory == 0 {
		return 0 // upstream skips best-effort pods: they change nothing
	}
	after := share(node.Requested.MilliCPU+pod.Requests.MilliCPU, node.Allocatable.MilliCPU) - share(node.Requested.Memory+pod.Requests.Memory, node.Allocatable.Memory)
	return int64((1 - math.Abs(after)/2) * MaxScore)
}

func share(used, capacity int64) float64 {
	if capacity == 0 {
		return 0
	}
	return min(1, float64(used)/float64(capacity))
}

// Normalize implements Score.
func (NodeResourcesBalancedAllocation) Normalize(*Pod) Normalization { return AsIs }
