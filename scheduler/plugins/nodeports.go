package plugins

import corev1 "k8s.io/api/core/v1"

// NodePorts keeps two pods from the same port of a node.
type NodePorts struct{}

// Name implements Plugin.
func (NodePorts) Name() string { return "NodePorts" }

// Filter implements Filter.
func (NodePorts) Filter(pod *Pod, node *Node) string {
	for _, port := range pod.Ports {
		if node.portTaken(port) {
			return "node(s) didn't have free ports for the requested pod ports"
		}
	}
	return ""
}

// Relievable implements Relievable: a port is free when its holder goes.
func (NodePorts) Relievable(*Pod, *Node) bool { return true }

// Wakes implements Filter.
func (p NodePorts) Wakes(pod *Pod, change Change) bool {
	if change.Kind == PodGone {
		return holdsAny(change.Pod, pod.Ports)
	}
	return p.Filter(pod, change.Node) == ""
}

// holdsAny reports whether the pod that went held a port of the same number and protocol.
func holdsAny(gone *corev1.Pod, wanted []HostPort) bool {
	for _, held := range hostPorts(gone) {
		for _, w := range wanted {
			if held.Port == w.Port && held.Protocol == w.Protocol {
				return true
			}
		}
	}
	return false
}
