package plugins

// NodeName keeps a pod to the node that its spec names.
type NodeName struct{}

// Name implements Plugin.
func (NodeName) Name() string { return "NodeName" }

// Filter implements Filter.
func (NodeName) Filter(pod *Pod, node *Node) string {
	if pod.Spec.NodeName != "" && pod.Spec.NodeName != node.Name {
		return "node(s) didn't match the requested node name"
	}
	return ""
}

// Wakes implements Filter.
func (NodeName) Wakes(pod *Pod, change Change) bool {
	return change.Kind == NodeAdded && change.Node.Name == pod.Spec.NodeName
}
