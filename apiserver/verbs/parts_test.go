package verbs

import (
	"encoding/json"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"pgregory.net/rapid"
)

// merge is what strategicPatch does between conversion and back, on parts or on the whole.
func merge(t testing.TB, pod *corev1.Pod, patch map[string]any, parts bool) (*corev1.Pod, error) {
	meta, err := strategicpatch.NewPatchMetaFromStruct(pod)
	if err != nil {
		t.Fatal(err)
	}
	var view runtime.Object = pod
	fields, ok := touched(pod, patch)
	if parts = parts && ok; parts {
		view = only(pod, fields)
	}
	doc, err := runtime.DefaultUnstructuredConverter.ToUnstructured(view)
	if err != nil {
		t.Fatal(err)
	}
	merged, err := strategicpatch.StrategicMergeMapPatchUsingLookupPatchMeta(doc, runtime.DeepCopyJSON(patch), meta)
	if err != nil {
		return nil, err
	}
	out := &corev1.Pod{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(merged, out, true); err != nil {
		return nil, err
	}
	if parts {
		out = replaced(pod, out, fields).(*corev1.Pod)
	}
	return out, nil
}

// TestPartsAgree compares patches merged into the touched parts with patches merged into the whole.
func TestPartsAgree(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Labels: map[string]string{"a": "b"}, Finalizers: []string{"x"}},
		Spec:   corev1.PodSpec{NodeName: "n", Containers: []corev1.Container{{Name: "c", Image: "i"}, {Name: "d", Image: "j"}}},
		Status: corev1.PodStatus{Phase: "Running", Conditions: []corev1.PodCondition{{Type: "Ready", Status: "True"}, {Type: "Initialized", Status: "True"}}}}
	pieces := []string{
		`{"metadata":{"labels":{"a":null,"c":"d"}}}`, `{"metadata":{"$deleteFromPrimitiveList/finalizers":["x"]}}`, `{"spec":{"nodeName":null}}`,
		`{"spec":{"containers":[{"name":"c","image":"k"}]}}`, `{"spec":{"containers":[{"name":"c","$patch":"delete"}]}}`,
		`{"status":{"conditions":[{"type":"Ready","status":"False"}]}}`, `{"status":null}`, `{"status":{"$patch":"replace","phase":"Failed"}}`,
		`{"spec":{"containers":[{"name":"new","image":"z"}],"$setElementOrder/containers":[{"name":"d"},{"name":"c"},{"name":"new"}]}}`,
		`{"$patch":"replace","metadata":{"name":"q"}}`, `{"unknown":1}`, `{"status":{"unknown":1}}`, `{"apiVersion":"v1","kind":"Pod"}`, `{"spec":5}`,
	}
	rapid.Check(t, func(rt *rapid.T) {
		patch := map[string]any{}
		for _, i := range rapid.SliceOfN(rapid.IntRange(0, len(pieces)-1), 1, 3).Draw(rt, "pieces") {
			if err := json.Unmarshal([]byte(pieces[i]), &patch); err != nil {
				rt.Fatal(err)
			}
		}
		whole, err1 := merge(t, pod, patch, false)
		parts, err2 := merge(t, pod, patch, true)
		if (err1 == nil) != (err2 == nil) || err1 != nil && err1.Error() != err2.Error() {
			rt.Fatalf("%v\n%v", err1, err2)
		}
		a, _ := json.Marshal(whole)
		b, _ := json.Marshal(parts)
		if string(a) != string(b) {
			rt.Fatalf("%v:\n%s\n%s", patch, a, b)
		}
	})
}
