package apiserver

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	autoscalingapply "k8s.io/client-go/applyconfigurations/autoscaling/v1"
)

// TestScale writes the number of replicas through the subresource scale by each verb, and looks who owns it then.
func TestScale(t *testing.T) {
	_, cs := running(t, nil)
	ctx := context.Background()
	deployments := cs.AppsV1().Deployments("default")
	labels := map[string]string{"app": "web"}
	three := int32(3)
	_, err := deployments.Create(ctx, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: appsv1.DeploymentSpec{Replicas: &three, Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}}}, metav1.CreateOptions{FieldManager: "maker"})
	if err != nil {
		t.Fatal(err)
	}
	// owners lists who owns spec.replicas, and by what.
	owners := func() (list []string) {
		d, err := deployments.Get(ctx, "web", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range d.ManagedFields {
			if strings.Contains(string(e.FieldsV1.Raw), `"f:replicas"`) {
				list = append(list, e.Manager+" "+string(e.Operation)+" "+e.Subresource+" "+e.APIVersion)
			}
		}
		return list
	}
	want := func(replicas int32, generation int64, who string) {
		t.Helper()
		d, err := deployments.Get(ctx, "web", metav1.GetOptions{})
		if err != nil || *d.Spec.Replicas != replicas || d.Generation != generation {
			t.Errorf("replicas %d generation %d, %v; want %d and %d", *d.Spec.Replicas, d.Generation, err, replicas, generation)
		}
		if got := strings.Join(owners(), ", "); got != who {
			t.Errorf("replicas are owned by %q, want %q", got, who)
		}
	}
	want(3, 1, "maker Update  apps/v1")

	scale, err := deployments.GetScale(ctx, "web", metav1.GetOptions{})
	if err != nil || scale.Spec.Replicas != 3 || scale.Status.Selector != "app=web" {
		t.Fatal(scale, err)
	}
	scale.Spec.Replicas = 4
	if _, err := deployments.UpdateScale(ctx, "web", scale, metav1.UpdateOptions{FieldManager: "scaler"}); err != nil {
		t.Fatal(err)
	}
	want(4, 2, "scaler Update scale apps/v1")

	_, err = deployments.ApplyScale(ctx, "web", autoscalingapply.Scale().WithName("web").WithSpec(autoscalingapply.ScaleSpec().WithReplicas(5)), metav1.ApplyOptions{FieldManager: "applier"})
	if !apierrors.IsConflict(err) || !strings.Contains(err.Error(), `conflict with "scaler" with subresource "scale" using autoscaling/v1: .spec.replicas`) {
		t.Errorf("apply over another's number: %v", err)
	}
	scale, err = deployments.ApplyScale(ctx, "web", autoscalingapply.Scale().WithName("web").WithSpec(autoscalingapply.ScaleSpec().WithReplicas(5)), metav1.ApplyOptions{FieldManager: "applier", Force: true})
	if err != nil || scale.Spec.Replicas != 5 {
		t.Fatal(scale, err)
	}
	want(5, 3, "applier Apply scale apps/v1")

	if _, err := deployments.Patch(ctx, "web", types.MergePatchType, []byte(`{"spec":{"replicas":6}}`), metav1.PatchOptions{FieldManager: "patcher"}, "scale"); err != nil {
		t.Fatal(err)
	}
	want(6, 4, "patcher Update scale apps/v1")

	for name, patch := range map[string]string{
		`Invalid value: -1: must be greater than or equal to 0`: `{"spec":{"replicas":-1}}`,
		`Precondition failed: UID in precondition: x`:           `{"metadata":{"uid":"x"},"spec":{"replicas":1}}`,
		`the object has been modified`:                          `{"metadata":{"resourceVersion":"1"},"spec":{"replicas":1}}`,
	} {
		if _, err := deployments.Patch(ctx, "web", types.MergePatchType, []byte(patch), metav1.PatchOptions{}, "scale"); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", patch, err)
		}
	}
	want(6, 4, "patcher Update scale apps/v1")
}

// TestAutoscalerVersions reads what was written as autoscaling/v2 as autoscaling/v1, and writes it back.
func TestAutoscalerVersions(t *testing.T) {
	w, cs := running(t, nil)
	ctx := context.Background()
	code, _, body := w.raw(t, "POST", "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers", admin, map[string]string{"Content-Type": "application/json"},
		`{"apiVersion":"autoscaling/v2","kind":"HorizontalPodAutoscaler","metadata":{"name":"h"},"spec":{"maxReplicas":5,"scaleTargetRef":{"apiVersion":"apps/v1","kind":"Deployment","name":"web"},
		"metrics":[{"type":"Resource","resource":{"name":"memory","target":{"type":"AverageValue","averageValue":"1Gi"}}},{"type":"Resource","resource":{"name":"cpu","target":{"type":"Utilization","averageUtilization":50}}}],
		"behavior":{"scaleDown":{"stabilizationWindowSeconds":3}}}}`)
	if code != 201 {
		t.Fatal(code, body)
	}
	old := cs.AutoscalingV1().HorizontalPodAutoscalers("default")
	h, err := old.Get(ctx, "h", metav1.GetOptions{})
	if err != nil || *h.Spec.TargetCPUUtilizationPercentage != 50 || len(h.Annotations) != 2 {
		t.Fatal(h, err)
	}
	var metrics []autoscalingv1.MetricSpec
	if err := json.Unmarshal([]byte(h.Annotations["autoscaling.alpha.kubernetes.io/metrics"]), &metrics); err != nil || len(metrics) != 1 || metrics[0].Resource.TargetAverageValue.String() != "1Gi" {
		t.Errorf("%v %v", h.Annotations, err)
	}
	h.Spec.MaxReplicas = 7
	if _, err := old.Update(ctx, h, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	stored, err := cs.AutoscalingV2().HorizontalPodAutoscalers("default").Get(ctx, "h", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if s := stored.Spec; s.MaxReplicas != 7 || len(s.Metrics) != 2 || s.Metrics[0].Resource.Name != "memory" || *s.Behavior.ScaleDown.StabilizationWindowSeconds != 3 || len(stored.Annotations) != 0 || stored.Generation != 2 {
		t.Errorf("%+v", stored)
	}
}
