package disruption

import (
	"context"
	"fmt"
	"log/slog"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/tools/record"

	"wherry.dev/wherry/internal/testcluster"
)

type suite struct {
	*testing.T
	*testcluster.Cluster
}

func start(t *testing.T) *suite {
	c := testcluster.Start(t)
	c.Run(t, func(ctx context.Context) error {
		return Run(ctx, Config{Client: c.Set, Recorder: record.NewFakeRecorder(1000), Log: slog.New(slog.DiscardHandler)})
	})
	return &suite{t, c}
}

func (s *suite) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// pod makes a running pod, ready or not.
func (s *suite) pod(name string, ready corev1.ConditionStatus, owner *metav1.OwnerReference) {
	s.Helper()
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": "a"}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}, NodeName: "n"}}
	if owner != nil {
		p.OwnerReferences = []metav1.OwnerReference{*owner}
	}
	p, err := s.Kubernetes.CoreV1().Pods("default").Create(s.Context(), p, metav1.CreateOptions{})
	s.must(err)
	p.Status.Phase = corev1.PodRunning
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}}
	_, err = s.Kubernetes.CoreV1().Pods("default").UpdateStatus(s.Context(), p, metav1.UpdateOptions{})
	s.must(err)
}

func (s *suite) budget(spec policyv1.PodDisruptionBudgetSpec) {
	s.Helper()
	spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "a"}}
	_, err := s.Kubernetes.PolicyV1().PodDisruptionBudgets("default").Create(s.Context(),
		&policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: "b"}, Spec: spec}, metav1.CreateOptions{})
	s.must(err)
}

// until waits for a status: expected/desired/healthy/allowed.
func (s *suite) until(want string) {
	s.Helper()
	got := ""
	defer func() {
		if s.Failed() {
			s.Logf("the last status was %s", got)
		}
	}()
	testcluster.Until(s.T, "status "+want, func() bool {
		b, err := s.Kubernetes.PolicyV1().PodDisruptionBudgets("default").Get(s.Context(), "b", metav1.GetOptions{})
		s.must(err)
		st := b.Status
		got = fmt.Sprintf("%d/%d/%d/%d", st.ExpectedPods, st.DesiredHealthy, st.CurrentHealthy, st.DisruptionsAllowed)
		return st.ObservedGeneration == b.Generation && got == want
	})
}

func (s *suite) evict(pod string) error {
	return s.Kubernetes.PolicyV1().Evictions("default").Evict(s.Context(), &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: pod}})
}

func ptr(v intstr.IntOrString) *intstr.IntOrString { return &v }

// What kubectl drain does: evict, be told to wait, and go on when a replacement is ready.
func TestEvictionsWaitForReplacements(t *testing.T) {
	s := start(t)
	s.pod("p1", corev1.ConditionTrue, nil)
	s.pod("p2", corev1.ConditionTrue, nil)
	s.budget(policyv1.PodDisruptionBudgetSpec{MinAvailable: ptr(intstr.FromInt32(1))})
	s.until("2/1/2/1")
	s.must(s.evict("p1"))
	if err := s.evict("p2"); !apierrors.IsTooManyRequests(err) {
		t.Fatalf("the last healthy pod was evicted: %v", err)
	}
	zero := int64(0) // no kubelet here to end it
	if err := s.Kubernetes.CoreV1().Pods("default").Delete(t.Context(), "p1", metav1.DeleteOptions{GracePeriodSeconds: &zero}); err != nil && !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
	s.until("1/1/1/0")
	s.pod("p3", corev1.ConditionFalse, nil)
	s.until("2/1/1/0")
	p, err := s.Kubernetes.CoreV1().Pods("default").Get(t.Context(), "p3", metav1.GetOptions{})
	s.must(err)
	p.Status.Conditions[0].Status = corev1.ConditionTrue
	_, err = s.Kubernetes.CoreV1().Pods("default").UpdateStatus(t.Context(), p, metav1.UpdateOptions{})
	s.must(err)
	s.until("2/1/2/1")
	s.must(s.evict("p2"))
}

// Shares are of what the controllers want, not of what there is.
func TestSharesOfAController(t *testing.T) {
	s := start(t)
	four := int32(4)
	selector := &metav1.LabelSelector{MatchLabels: map[string]string{"app": "a"}}
	template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: selector.MatchLabels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	d, err := s.Kubernetes.AppsV1().Deployments("default").Create(t.Context(), &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "d"},
		Spec: appsv1.DeploymentSpec{Replicas: &four, Selector: selector, Template: template}}, metav1.CreateOptions{})
	s.must(err)
	var owners []*metav1.OwnerReference
	for _, name := range []string{"old", "new"} { // in the middle of a rollout
		two := int32(2)
		rs, err := s.Kubernetes.AppsV1().ReplicaSets("default").Create(t.Context(), &appsv1.ReplicaSet{
			ObjectMeta: metav1.ObjectMeta{Name: name, OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(d, appsv1.SchemeGroupVersion.WithKind("Deployment"))}},
			Spec:       appsv1.ReplicaSetSpec{Replicas: &two, Selector: selector, Template: template}}, metav1.CreateOptions{})
		s.must(err)
		owners = append(owners, metav1.NewControllerRef(rs, appsv1.SchemeGroupVersion.WithKind("ReplicaSet")))
	}
	s.pod("p1", corev1.ConditionTrue, owners[0])
	s.pod("p2", corev1.ConditionTrue, owners[1])
	s.pod("p3", corev1.ConditionTrue, owners[1])
	s.budget(policyv1.PodDisruptionBudgetSpec{MaxUnavailable: ptr(intstr.FromString("50%"))})
	s.until("4/2/3/1")
}

// Pods that nobody controls have no number to take a share of: nothing is allowed.
func TestUnmanagedPods(t *testing.T) {
	s := start(t)
	s.pod("p1", corev1.ConditionTrue, nil)
	s.budget(policyv1.PodDisruptionBudgetSpec{MaxUnavailable: ptr(intstr.FromInt32(1))})
	s.until("0/0/1/0")
	if err := s.evict("p1"); !apierrors.IsTooManyRequests(err) {
		t.Errorf("evicted: %v", err)
	}
}
