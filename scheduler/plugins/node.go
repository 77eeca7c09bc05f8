package plugins

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Node is one node with what its pods take. The snapshot is its only writer.
type Node struct {
	*corev1.Node // nil while pods are known to be on a node that is not
	Allocatable  Resources
	MaxPods      int64
	Requested    Resources // by its pods, assumed ones included
	Ranked       Resources // the same, as scores count
	Pods         int64
	ports        map[protocolPort]map[string]int // by protocol and port: how many pods hold it on each IP
	images       map[string]int64                // size in bytes by every name of the image
}

type protocolPort struct {
	protocol corev1.Protocol
	port     int32
}

// Set replaces the node object.
func (n *Node) Set(node *corev1.Node) {
	n.Node = node
	n.Allocatable = NewResources(node.Status.Allocatable)
	pods := node.Status.Allocatable[corev1.ResourcePods]
	n.MaxPods = pods.Value()
	n.images = make(map[string]int64, len(node.Status.Images))
	for i := range node.Status.Images {
		for _, name := range node.Status.Images[i].Names {
			n.images[name] = node.Status.Images[i].SizeBytes
		}
	}
}

// Add counts a pod in, or out with sign -1.
func (n *Node) Add(pod *Pod, sign int64) {
	n.Requested.Add(&pod.Requests, sign)
	n.Ranked.Add(&pod.Ranked, sign)
	n.Pods += sign
	for _, port := range pod.Ports {
		key := protocolPort{port.Protocol, port.Port}
		if n.ports == nil {
			n.ports = map[protocolPort]map[string]int{}
		}
		if n.ports[key] == nil {
			n.ports[key] = map[string]int{}
		}
		if n.ports[key][port.IP] += int(sign); n.ports[key][port.IP] <= 0 {
			delete(n.ports[key], port.IP)
		}
		if len(n.ports[key]) == 0 {
			delete(n.ports, key)
		}
	}
}

// portTaken reports whether some pod holds the port on an overlapping address.
func (n *Node) portTaken(p HostPort) bool {
	held := n.ports[protocolPort{p.Protocol, p.Port}]
	if p.IP == "0.0.0.0" {
		return len(held) > 0
	}
	return held[p.IP] > 0 || held["0.0.0.0"] > 0
}

// normalizedImageName adds the tag that a name without one means.
func normalizedImageName(name string) string {
	if strings.LastIndex(name, ":") <= strings.LastIndex(name, "/") {
		return name + ":latest"
	}
	return name
}
