package apiserver

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestEvictionMarksThePod: an evicted pod says that it was, so that its Job does not count it as a failure; a dry run says nothing.
func TestEvictionMarksThePod(t *testing.T) {
	w := start(t, nil)
	cs, ctx := w.client(t, true), t.Context()
	pods := cs.CoreV1().Pods("default")
	pod, err := pods.Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "c", Image: "i"}}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pod.Status.Phase = corev1.PodRunning
	if pod, err = pods.UpdateStatus(ctx, pod, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	evict := func(options *metav1.DeleteOptions) (*corev1.Pod, error) {
		err := cs.PolicyV1().Evictions("default").Evict(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default"}, DeleteOptions: options})
		now, gerr := pods.Get(ctx, "web", metav1.GetOptions{})
		if gerr != nil {
			t.Fatal(gerr)
		}
		return now, err
	}
	if now, err := evict(&metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}}); err != nil || len(now.Status.Conditions) > 0 || now.DeletionTimestamp != nil {
		t.Errorf("dry run: %v, %+v", err, now.Status.Conditions)
	}
	other := "1"
	if now, err := evict(&metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &other}}); !apierrors.IsConflict(err) || len(now.Status.Conditions) > 0 {
		t.Errorf("of another version: %v, %+v", err, now.Status.Conditions)
	}
	now, err := evict(&metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &pod.ResourceVersion}})
	if err != nil || now.DeletionTimestamp == nil {
		t.Fatalf("eviction: %v, %+v", err, now.ObjectMeta)
	}
	if c := now.Status.Conditions; len(c) != 1 || c[0].Type != corev1.DisruptionTarget || c[0].Status != corev1.ConditionTrue || c[0].Reason != "EvictionByEvictionAPI" || c[0].LastTransitionTime.IsZero() {
		t.Errorf("conditions %+v", c)
	}
}
