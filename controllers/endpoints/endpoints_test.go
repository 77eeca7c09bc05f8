package endpoints_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/tools/record"

	"wherry.dev/wherry/controllers/endpoints"
	"wherry.dev/wherry/controllers/endpointslice"
	"wherry.dev/wherry/internal/testcluster"
	"wherry.dev/wherry/trace"
)

// story is a namespace with both controllers at work, EndpointSlices and Endpoints of the same Services beside each other.
type story struct {
	*testcluster.Cluster
	t *testing.T
}

func start(t *testing.T) *story {
	c := testcluster.Start(t)
	c.Run(t, func(ctx context.Context) error {
		return endpointslice.Run(ctx, endpointslice.Config{Client: c.Set, Trace: trace.Nop{}, Recorder: record.NewFakeRecorder(1000), Log: slog.New(slog.DiscardHandler)})
	})
	c.Run(t, func(ctx context.Context) error {
		return endpoints.Run(ctx, endpoints.Config{Client: c.Set, Log: slog.New(slog.DiscardHandler)})
	})
	s := &story{Cluster: c, t: t}
	if _, err := c.Kubernetes.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	_, err := c.Kubernetes.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	return s
}

// pod makes a pod with an address; one that is ready says so.
func (s *story) pod(name, ip, app string, ready bool) {
	s.t.Helper()
	pods := s.Kubernetes.CoreV1().Pods("default")
	p, err := pods.Create(s.t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": app}},
		Spec: corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "c", Image: "i", Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: 8080}}}}}}, metav1.CreateOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	p.Status.Phase, p.Status.PodIP, p.Status.PodIPs = corev1.PodRunning, ip, []corev1.PodIP{{IP: ip}}
	s.status(p, ready)
}

func (s *story) status(p *corev1.Pod, ready bool) {
	s.t.Helper()
	status := corev1.ConditionFalse
	if ready {
		status = corev1.ConditionTrue
	}
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: status}}
	if _, err := s.Kubernetes.CoreV1().Pods("default").UpdateStatus(s.t.Context(), p, metav1.UpdateOptions{}); err != nil {
		s.t.Fatal(err)
	}
}

func (s *story) setReady(name string, ready bool) {
	s.t.Helper()
	p, err := s.Kubernetes.CoreV1().Pods("default").Get(s.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	s.status(p, ready)
}

func (s *story) service(change func(*corev1.Service)) {
	s.t.Helper()
	services := s.Kubernetes.CoreV1().Services("default")
	old, err := services.Get(s.t.Context(), "web", metav1.GetOptions{})
	if err != nil {
		v := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "web"}, ClusterIP: corev1.ClusterIPNone,
			Ports: []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromString("web")}, {Name: "other", Port: 81, TargetPort: intstr.FromInt32(9090)}}}}
		change(v)
		_, err = services.Create(s.t.Context(), v, metav1.CreateOptions{})
	} else {
		change(old)
		_, err = services.Update(s.t.Context(), old, metav1.UpdateOptions{})
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// slices describes the Service's EndpointSlices: "ADDRESS ready|serving|terminating..." and its ports, sorted.
func (s *story) slices() string {
	list, err := s.Kubernetes.DiscoveryV1().EndpointSlices("default").List(s.t.Context(), metav1.ListOptions{LabelSelector: labels.Set{"kubernetes.io/service-name": "web"}.String()})
	if err != nil {
		s.t.Fatal(err)
	}
	var out []string
	is := func(b *bool, word string) string {
		if b != nil && *b {
			return " " + word
		}
		return ""
	}
	for _, slice := range list.Items {
		for _, p := range slice.Ports {
			out = append(out, fmt.Sprintf("%s=%d", *p.Name, *p.Port))
		}
		for _, e := range slice.Endpoints {
			out = append(out, e.Addresses[0]+is(e.Conditions.Ready, "ready")+is(e.Conditions.Serving, "serving")+is(e.Conditions.Terminating, "terminating"))
		}
	}
	slices.Sort(out)
	return strings.Join(slices.Compact(out), ", ")
}

// old describes the Service's Endpoints the same way: addresses are ready or not.
func (s *story) old() string {
	e, err := s.Kubernetes.CoreV1().Endpoints("default").Get(s.t.Context(), "web", metav1.GetOptions{})
	if err != nil {
		return "none"
	}
	var out []string
	for _, subset := range e.Subsets {
		for _, p := range subset.Ports {
			out = append(out, fmt.Sprintf("%s=%d", p.Name, p.Port))
		}
		for _, a := range subset.Addresses {
			out = append(out, a.IP+" ready")
		}
		for _, a := range subset.NotReadyAddresses {
			out = append(out, a.IP)
		}
	}
	slices.Sort(out)
	return strings.Join(slices.Compact(out), ", ")
}

// want waits for both.
func (s *story) want(what, slice, old string) {
	s.t.Helper()
	var gotSlice, gotOld string
	defer func() {
		if s.t.Failed() {
			s.t.Logf("EndpointSlices %q, want %q\nEndpoints %q, want %q", gotSlice, slice, gotOld, old)
		}
	}()
	testcluster.Until(s.t, what, func() bool {
		gotSlice, gotOld = s.slices(), s.old()
		return gotSlice == slice && gotOld == old
	})
}

// TestAServicesLife: what clients of both APIs see of one Service from its first pod to its end.
func TestAServicesLife(t *testing.T) {
	s := start(t)
	const ports = ", http=8080, other=9090"
	s.service(func(*corev1.Service) {})
	s.pod("a", "10.0.0.1", "web", true)
	s.pod("b", "10.0.0.2", "web", false)
	s.pod("x", "10.0.0.9", "db", true)
	s.want("a ready and another not", "10.0.0.1 ready serving, 10.0.0.2"+ports, "10.0.0.1 ready, 10.0.0.2"+ports)

	s.setReady("b", true)
	s.want("both ready", "10.0.0.1 ready serving, 10.0.0.2 ready serving"+ports, "10.0.0.1 ready, 10.0.0.2 ready"+ports)

	if err := s.Kubernetes.CoreV1().Pods("default").Delete(t.Context(), "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	s.want("one leaves: it still serves those that it has", "10.0.0.1 serving terminating, 10.0.0.2 ready serving"+ports, "10.0.0.2 ready"+ports)

	zero := int64(0)
	if err := s.Kubernetes.CoreV1().Pods("default").Delete(t.Context(), "a", metav1.DeleteOptions{GracePeriodSeconds: &zero}); err != nil {
		t.Fatal(err)
	}
	s.want("it is gone", "10.0.0.2 ready serving"+ports, "10.0.0.2 ready"+ports)

	s.setReady("b", false)
	s.want("not ready any more", "10.0.0.2"+ports, "10.0.0.2"+ports)
	s.service(func(v *corev1.Service) { v.Spec.PublishNotReadyAddresses = true })
	s.want("published although it is not ready", "10.0.0.2 ready"+ports, "10.0.0.2 ready"+ports)
	s.service(func(v *corev1.Service) { v.Spec.PublishNotReadyAddresses = false })
	s.want("and not any more", "10.0.0.2"+ports, "10.0.0.2"+ports)

	s.service(func(v *corev1.Service) { v.Spec.Selector = map[string]string{"app": "db"} })
	s.want("other pods", "10.0.0.9 ready serving"+ports, "10.0.0.9 ready"+ports)

	if err := s.Kubernetes.CoreV1().Endpoints("default").Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	s.want("somebody deletes what is kept for him", "10.0.0.9 ready serving"+ports, "10.0.0.9 ready"+ports)

	if err := s.Kubernetes.CoreV1().Services("default").Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	s.want("the Service is gone", "", "none")
}
