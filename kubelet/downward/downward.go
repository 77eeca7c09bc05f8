// Package downward reads what a pod may know of itself: fields for downwardAPI volumes and environment variables,
// and the resources of its containers (the Kubernetes downward API).
package downward

import (
	"fmt"
	"math"
	"sort"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Field returns the text of a fieldRef path that comes from metadata or spec: metadata.name, metadata.namespace,
// metadata.uid, metadata.labels, metadata.annotations, metadata.labels['key'], metadata.annotations['key'],
// spec.nodeName, spec.serviceAccountName. Fields of status belong to the caller, who knows the newest.
func Field(pod *corev1.Pod, path string) (string, error) {
	if at := strings.IndexByte(path, '['); at > 0 && strings.HasSuffix(path, "']") && strings.HasPrefix(path[at:], "['") {
		name := path[at+2 : len(path)-2]
		switch path[:at] {
		case "metadata.labels":
			return pod.Labels[name], nil
		case "metadata.annotations":
			return pod.Annotations[name], nil
		}
		return "", fmt.Errorf("fieldPath %q does not support subscript", path)
	}
	switch path {
	case "metadata.name":
		return pod.Name, nil
	case "metadata.namespace":
		return pod.Namespace, nil
	case "metadata.uid":
		return string(pod.UID), nil
	case "metadata.labels":
		return lines(pod.Labels), nil
	case "metadata.annotations":
		return lines(pod.Annotations), nil
	case "spec.nodeName":
		return pod.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return pod.Spec.ServiceAccountName, nil
	}
	return "", fmt.Errorf("unsupported fieldPath: %s", path)
}

// lines is upstream's form of a map: key="escaped value", sorted by key, one a line.
func lines(m map[string]string) string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	var b strings.Builder
	for i, k := range keys {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(k)
		b.WriteByte('=')
		b.WriteString(strconv.Quote(m[k]))
	}
	return b.String()
}

// Resource returns the text of a resourceFieldRef in units of its divisor, rounded up. A limit the container does not
// set is the node's allocatable amount; allocatable may be nil, then such a limit is 0.
func Resource(pod *corev1.Pod, container *corev1.Container, ref *corev1.ResourceFieldSelector, allocatable corev1.ResourceList) (string, error) {
	list, name, ok := strings.Cut(ref.Resource, ".")
	if !ok {
		return "", fmt.Errorf("unsupported container resource: %s", ref.Resource)
	}
	var have corev1.ResourceList
	switch list {
	case "limits":
		have = container.Resources.Limits
	case "requests":
		have = container.Resources.Requests
	default:
		return "", fmt.Errorf("unsupported container resource: %s", ref.Resource)
	}
	resourceName := corev1.ResourceName(name)
	switch {
	case name == "cpu", name == "memory", name == "ephemeral-storage", strings.HasPrefix(name, corev1.ResourceHugePagesPrefix):
	default:
		return "", fmt.Errorf("unsupported container resource: %s", ref.Resource)
	}
	q, set := have[resourceName]
	if list == "limits" && (!set || q.IsZero()) {
		if whole := pod.Spec.Resources; whole != nil {
			q, set = whole.Limits[resourceName], true
		}
		if q.IsZero() {
			q = allocatable[resourceName]
		}
	}
	divisor := ref.Divisor
	if divisor.IsZero() {
		divisor = resource.MustParse("1")
	}
	if name == "cpu" {
		return strconv.FormatInt(int64(math.Ceil(float64(q.MilliValue())/float64(divisor.MilliValue()))), 10), nil
	}
	d := divisor.Value()
	if d <= 0 {
		return "", fmt.Errorf("divisor %s of %s is less than one", divisor.String(), ref.Resource)
	}
	return strconv.FormatInt(int64(math.Ceil(float64(q.Value())/float64(d))), 10), nil
}

// Container finds a container of any kind by name; nil if there is none.
func Container(pod *corev1.Pod, name string) *corev1.Container {
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
