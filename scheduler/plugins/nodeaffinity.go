package plugins

// NodeAffinity honours nodeSelector and node affinity, required and preferred.
type NodeAffinity struct{}

// Name implements Plugin.
func (NodeAffinity) Name() string { return "NodeAffinity" }

// Filter implements Filter.
func (NodeAffinity) Filter(pod *Pod, node *Node) string {
	if !pod.Constrained {
		return ""
	}
	// An affinity that does not parse matches nothing.
	if ok, err := pod.Required.Match(node.Node); !ok || err != nil {
		return "node(s) didn't match Pod's node affinity/selector"
	}
	return ""
}

// Wakes implements Filter.
func (a NodeAffinity) Wakes(pod *Pod, change Change) bool {
	return change.Kind != PodGone && a.Filter(pod, change.Node) == ""
}

// Weight implements Score.
func (NodeAffinity) Weight() int64 { return 2 }

// Score implements Score: the sum of the weights of the preferred terms that match.
func (NodeAffinity) Score(pod *Pod, node *Node) int64 {
	if pod.Preferred == nil {
		return 0
	}
	return pod.Preferred.Score(node.Node)
}

// Normalize implements Score.
func (NodeAffinity) Normalize(pod *Pod) Normalization {
	if pod.Preferred == nil {
		return AsIs
	}
	return Scaled
}
