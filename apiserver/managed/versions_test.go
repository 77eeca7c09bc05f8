package managed

import (
	"strings"
	"testing"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"wherry.dev/wherry/api/kinds"
)

// owned is what a manager owns of an object, and through which version; empty when it owns nothing.
func owned(t *testing.T, obj runtime.Object, manager string) string {
	t.Helper()
	m, err := meta.Accessor(obj)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range m.GetManagedFields() {
		if e.Manager == manager {
			return e.APIVersion + " " + string(e.FieldsV1.GetRawBytes())
		}
	}
	return ""
}

// TestVersionsOfOneKind: what was recorded through one version of an autoscaler counts in the other, in which the same field may be another.
func TestVersionsOfOneKind(t *testing.T) {
	types := &Types{}
	old, recent := kinds.HorizontalPodAutoscalersV1(), kinds.HorizontalPodAutoscalers()
	v1, v2 := New(old, "", types), New(recent, "", types)
	config := func(version string, replicas int64, more map[string]any) *unstructured.Unstructured {
		spec := map[string]any{"maxReplicas": replicas, "scaleTargetRef": map[string]any{"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"}}
		for k, v := range more {
			spec[k] = v
		}
		return &unstructured.Unstructured{Object: map[string]any{"apiVersion": version, "kind": "HorizontalPodAutoscaler", "metadata": map[string]any{"name": "a"}, "spec": spec}}
	}
	obj, err := v1.Apply(old.New(), config("autoscaling/v1", 3, map[string]any{"targetCPUUtilizationPercentage": int64(50)}), "one", false)
	if err != nil {
		t.Fatal(err)
	}
	if obj, err = old.Convert(obj, autoscalingv2.SchemeGroupVersion); err != nil {
		t.Fatal(err)
	}
	if _, err := v2.Apply(obj, config("autoscaling/v2", 4, nil), "two", false); !apierrors.IsConflict(err) || !strings.Contains(err.Error(), `conflict with "one": .spec.maxReplicas`) {
		t.Fatalf("another value of what was applied in the other version: %v", err)
	}
	if obj, err = v2.Apply(obj, config("autoscaling/v2", 4, nil), "two", true); err != nil {
		t.Fatal(err)
	}
	if got, want := owned(t, obj, "one"), `autoscaling/v1 {"f:spec":{"f:scaleTargetRef":{},"f:targetCPUUtilizationPercentage":{}}}`; got != want {
		t.Errorf("one is left with\n%s, not\n%s", got, want)
	}
	next := obj.DeepCopyObject().(*autoscalingv2.HorizontalPodAutoscaler)
	next.Spec.Metrics[0].Resource.Target.AverageUtilization = new(int32)
	obj = v2.Update(obj, next, "three")
	if got := owned(t, obj, "one"); strings.Contains(got, "Utilization") {
		t.Errorf("one still owns the share of CPU, which three has set in the other version: %s", got)
	}
}

// TestUpdateSeesAnnotations: who writes version 1 of an autoscaler owns the annotations in which a reader of that version finds the rest.
func TestUpdateSeesAnnotations(t *testing.T) {
	old := kinds.HorizontalPodAutoscalersV1()
	obj := &autoscalingv1.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Name: "a", Annotations: map[string]string{"autoscaling.alpha.kubernetes.io/metrics": "nonsense", "a": "b"}},
		Spec: autoscalingv1.HorizontalPodAutoscalerSpec{MaxReplicas: 3}}
	New(old, "", &Types{}).Update(nil, obj, "m")
	if got := owned(t, obj, "m"); !strings.Contains(got, `"f:a":{}`) || strings.Contains(got, "alpha") {
		t.Errorf("m owns an annotation that cannot be kept, or not the one that can: %s", got)
	}
	if obj.Annotations["autoscaling.alpha.kubernetes.io/metrics"] != "nonsense" {
		t.Error("the object itself was changed")
	}
}

// TestKeepTimes: a write that changes nothing but the times in managed fields leaves them as they were.
func TestKeepTimes(t *testing.T) {
	entry := func(second int64) []metav1.ManagedFieldsEntry {
		at := metav1.NewTime(time.Unix(second, 0))
		fields := &metav1.FieldsV1{}
		fields.SetRawBytes([]byte(`{"f:data":{}}`))
		return []metav1.ManagedFieldsEntry{{Manager: "m", Operation: metav1.ManagedFieldsOperationUpdate, APIVersion: "v1", Time: &at, FieldsType: "FieldsV1", FieldsV1: fields}}
	}
	old := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "a", ManagedFields: entry(1)}, Data: map[string]string{"a": "b"}}
	same := old.DeepCopy()
	same.ManagedFields = entry(2)
	KeepTimes(same, old)
	if same.ManagedFields[0].Time.Unix() != 1 {
		t.Error("nothing has changed, and the time has")
	}
	other := old.DeepCopy()
	other.ManagedFields, other.Data["a"] = entry(2), "c"
	KeepTimes(other, old)
	if other.ManagedFields[0].Time.Unix() != 2 {
		t.Error("something has changed, and the time has not")
	}
}

// TestScaleHasASchema: an applied Scale is held against its type, of kinds that are built in and of others.
func TestScaleHasASchema(t *testing.T) {
	for name, m := range map[string]*Manager{"built in": New(kinds.Deployments(), "scale", &Types{}), "custom": New(&kinds.Kind{Custom: true}, "scale", &Types{})} {
		live := &autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: autoscalingv1.ScaleSpec{Replicas: 1}}
		apply := func(spec map[string]any) error {
			_, err := m.scales().Apply(live, &unstructured.Unstructured{Object: map[string]any{"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": map[string]any{"name": "a"}, "spec": spec}}, "m", true)
			return err
		}
		if err := apply(map[string]any{"replicas": int64(2)}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := apply(map[string]any{"odd": int64(2)}); err == nil || !strings.Contains(err.Error(), ".spec.odd: field not declared in schema") {
			t.Errorf("%s: a field that there is not: %v", name, err)
		}
		if err := apply(map[string]any{"replicas": "x"}); err == nil || !strings.Contains(err.Error(), "expected numeric") {
			t.Errorf("%s: a number that is none: %v", name, err)
		}
	}
}
