package downward

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestField(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "u", Labels: map[string]string{"b": "2", "a": "one\ntwo"}, Annotations: map[string]string{"x.y/z": "v"}},
		Spec: corev1.PodSpec{NodeName: "n", ServiceAccountName: "sa"}}
	for path, want := range map[string]string{
		"metadata.name": "p", "metadata.namespace": "ns", "metadata.uid": "u", "metadata.labels": "a=\"one\\ntwo\"\nb=\"2\"", "metadata.annotations": "x.y/z=\"v\"",
		"metadata.labels['b']": "2", "metadata.labels['absent']": "", "metadata.annotations['x.y/z']": "v", "spec.nodeName": "n", "spec.serviceAccountName": "sa",
	} {
		if got, err := Field(pod, path); err != nil || got != want {
			t.Errorf("%s: %q %v, want %q", path, got, err, want)
		}
	}
	for _, path := range []string{"", "status.podIP", "metadata.name['x']", "metadata.labels[b]", "spec"} {
		if got, err := Field(pod, path); err == nil {
			t.Errorf("%s: %q", path, got)
		}
	}
}

func TestResource(t *testing.T) {
	c := &corev1.Container{Name: "c", Resources: corev1.ResourceRequirements{
		Requests: corev1.ResourceList{"cpu": resource.MustParse("1250m"), "memory": resource.MustParse("65Mi")}, Limits: corev1.ResourceList{"memory": resource.MustParse("1Gi")}}}
	pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{*c}}}
	allocatable := corev1.ResourceList{"cpu": resource.MustParse("3500m"), "memory": resource.MustParse("8Gi")}
	for _, x := range []struct{ name, divisor, want string }{
		{"requests.cpu", "", "2"}, {"requests.cpu", "1m", "1250"}, {"requests.memory", "1Mi", "65"}, {"requests.memory", "10Mi", "7"}, {"limits.memory", "", "1073741824"},
		{"limits.cpu", "", "4"}, {"limits.cpu", "1m", "3500"}, {"requests.ephemeral-storage", "", "0"},
	} {
		ref := &corev1.ResourceFieldSelector{Resource: x.name}
		if x.divisor != "" {
			ref.Divisor = resource.MustParse(x.divisor)
		}
		if got, err := Resource(pod, c, ref, allocatable); err != nil || got != x.want {
			t.Errorf("%s / %s: %q %v, want %s", x.name, x.divisor, got, err, x.want)
		}
	}
	for _, name := range []string{"", "cpu", "limits.gpu", "uses.cpu"} {
		if got, err := Resource(pod, c, &corev1.ResourceFieldSelector{Resource: name}, allocatable); err == nil {
			t.Errorf("%s: %q", name, got)
		}
	}
	if Container(pod, "c") == nil || Container(pod, "d") != nil {
		t.Error("containers by name")
	}
}
