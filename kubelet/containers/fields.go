package containers

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Field reads what a fieldRef names (core/v1 ObjectFieldSelector). Addresses come from the caller, who has them
// earlier than the pod's status does.
func Field(pod *v1.Pod, path string, hostIPs, podIPs []string) (string, error) {
	if i := strings.Index(path, "['"); i > 0 && strings.HasSuffix(path, "']") {
		key := path[i+2 : len(path)-2]
		switch path[:i] {
		case "metadata.labels":
			return pod.Labels[key], nil
		case "metadata.annotations":
			return pod.Annotations[key], nil
		}
		return "", fmt.Errorf("fieldPath %q does not support subscript", path)
	}
	first := func(ips []string) string {
		if len(ips) == 0 {
			return ""
		}
		return ips[0]
	}
	switch path {
	case "metadata.name":
		return pod.Name, nil
	case "metadata.namespace":
		return pod.Namespace, nil
	case "metadata.uid":
		return string(pod.UID), nil
	case "metadata.labels":
		return formatMap(pod.Labels), nil
	case "metadata.annotations":
		return formatMap(pod.Annotations), nil
	case "spec.nodeName":
		return pod.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return pod.Spec.ServiceAccountName, nil
	case "status.hostIP":
		return first(hostIPs), nil
	case "status.hostIPs":
		return strings.Join(hostIPs, ","), nil
	case "status.podIP":
		return first(podIPs), nil
	case "status.podIPs":
		return strings.Join(podIPs, ","), nil
	}
	return "", fmt.Errorf("unsupported fieldPath: %v", path)
}

func formatMap(m map[string]string) string {
	lines := make([]string, 0, len(m))
	for k, v := range m {
		lines = append(lines, k+"="+strconv.Quote(v))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// ResourceField reads what a resourceFieldRef names, in units of its divisor, rounded up. A limit which is not set
// is what the node has to give (core/v1 ResourceFieldSelector). node may be nil.
func ResourceField(pod *v1.Pod, c *v1.Container, ref *v1.ResourceFieldSelector, node *v1.Node) (string, error) {
	if ref.ContainerName != "" && ref.ContainerName != c.Name {
		c = find(pod, ref.ContainerName)
		if c == nil {
			return "", fmt.Errorf("container %v not found", ref.ContainerName)
		}
	}
	kind, name, _ := strings.Cut(ref.Resource, ".")
	var q resource.Quantity
	switch kind {
	case "limits":
		var ok bool
		if q, ok = c.Resources.Limits[v1.ResourceName(name)]; (!ok || q.IsZero()) && node != nil {
			switch v1.ResourceName(name) {
			case v1.ResourceCPU, v1.ResourceMemory, v1.ResourceEphemeralStorage:
				q = node.Status.Allocatable[v1.ResourceName(name)]
			}
		}
	case "requests":
		q = c.Resources.Requests[v1.ResourceName(name)]
	default:
		return "", fmt.Errorf("unsupported container resource : %v", ref.Resource)
	}
	divisor := ref.Divisor
	if divisor.IsZero() {
		divisor = resource.MustParse("1")
	}
	if name == string(v1.ResourceCPU) {
		return strconv.FormatInt(ceil(q.MilliValue(), divisor.MilliValue()), 10), nil
	}
	return strconv.FormatInt(ceil(q.Value(), divisor.Value()), 10), nil
}

func ceil(a, b int64) int64 {
	if b == 0 {
		return a
	}
	n := a / b
	if a%b > 0 {
		n++
	}
	return n
}

func find(pod *v1.Pod, name string) *v1.Container {
	for i := range pod.Spec.Containers {
		if pod.Spec.Containers[i].Name == name {
			return &pod.Spec.Containers[i]
		}
	}
	for i := range pod.Spec.InitContainers {
		if pod.Spec.InitContainers[i].Name == name {
			return &pod.Spec.InitContainers[i]
		}
	}
	return nil
}
