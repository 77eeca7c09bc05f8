package containers

import (
	"fmt"
	"strings"

	v1 "k8s.io/api/core/v1"

	"wherry.dev/wherry/kubelet/downward"
)

// Field reads what a fieldRef names (core/v1 ObjectFieldSelector). Addresses come from the caller, who has them
// earlier than the pod's status does.
func Field(pod *v1.Pod, path string, hostIPs, podIPs []string) (string, error) {
	first := func(ips []string) string {
		if len(ips) == 0 {
			return ""
		}
		return ips[0]
	}
	switch path {
	case "status.hostIP":
		return first(hostIPs), nil
	case "status.hostIPs":
		return strings.Join(hostIPs, ","), nil
	case "status.podIP":
		return first(podIPs), nil
	case "status.podIPs":
		return strings.Join(podIPs, ","), nil
	}
	return downward.Field(pod, path)
}

// ResourceField reads what a resourceFieldRef names, in units of its divisor, rounded up. A limit which is not set
// is what the node has to give (core/v1 ResourceFieldSelector). node may be nil.
func ResourceField(pod *v1.Pod, c *v1.Container, ref *v1.ResourceFieldSelector, node *v1.Node) (string, error) {
	if ref.ContainerName != "" && ref.ContainerName != c.Name {
		c = downward.Container(pod, ref.ContainerName)
		if c == nil {
			return "", fmt.Errorf("container %v not found", ref.ContainerName)
		}
	}
	var allocatable v1.ResourceList
	if node != nil {
		allocatable = node.Status.Allocatable
	}
	return downward.Resource(pod, c, ref, allocatable)
}
