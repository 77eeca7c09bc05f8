package verbs

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	apirequest "k8s.io/apiserver/pkg/endpoints/request"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/randfill"

	"wherry.dev/wherry/api/kinds"
)

func filler(seed int64) *randfill.Filler {
	return randfill.New().RandSource(rand.NewSource(seed)).NilChance(.5).NumElements(1, 3).MaxDepth(9).Funcs(
		func(q *resource.Quantity, c randfill.Continue) {
			*q = *resource.NewQuantity(int64(c.Intn(1000)), resource.DecimalSI)
		},
		func(f *metav1.FieldsV1, _ randfill.Continue) { *f = metav1.FieldsV1{} },
		func(m *[]metav1.ManagedFieldsEntry, _ randfill.Continue) { *m = nil },
		func(t *metav1.Time, c randfill.Continue) { *t = metav1.Unix(int64(c.Intn(1<<30)+1), 0) },
		func(t *metav1.MicroTime, c randfill.Continue) {
			*t = metav1.NewMicroTime(time.UnixMicro(int64(c.Intn(1<<50) + 1)))
		},
		func(r *runtime.RawExtension, _ randfill.Continue) { *r = runtime.RawExtension{} },
	)
}

// randomPatch makes a patch of was from bits of was, bits of other, and nulls. Items of lists mostly keep what they are known by.
func randomPatch(r *rand.Rand, was, other any, depth int) any {
	switch {
	case r.Intn(12) == 0:
		return nil
	case r.Intn(8) == 0 && depth > 1:
		return other
	}
	switch was := was.(type) {
	case map[string]any:
		alike, _ := other.(map[string]any)
		out := map[string]any{}
		for _, k := range slices.Sorted(maps.Keys(was)) { // the same patch for one seed
			v := was[k]
			_, text := v.(string)
			if depth == 0 && r.Intn(3) > 0 || depth > 0 && (text && r.Intn(4) == 0 || !text && r.Intn(2) == 0) {
				continue
			}
			if text && r.Intn(8) > 0 {
				out[k] = v
			} else {
				out[k] = randomPatch(r, v, alike[k], depth+1)
			}
		}
		for _, k := range slices.Sorted(maps.Keys(alike)) {
			if _, is := was[k]; !is && r.Intn(3) == 0 {
				out[k] = alike[k]
			}
		}
		return out
	case []any:
		out := []any{}
		for _, i := range r.Perm(len(was)) {
			if r.Intn(2) == 0 {
				out = append(out, randomPatch(r, was[i], nil, depth+1))
			}
		}
		if more, ok := other.([]any); ok {
			for _, v := range more[:min(len(more), r.Intn(3))] {
				at := r.Intn(len(out) + 1)
				out = append(out[:at:at], append([]any{v}, out[at:]...)...)
			}
		}
		return out
	}
	if other != nil && r.Intn(2) == 0 {
		return other
	}
	return was
}

func loose(t testing.TB, obj runtime.Object) map[string]any {
	t.Helper()
	b, err := json.Marshal(obj)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]any{}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(b, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func mergerOf(k *kinds.Kind) *patcher {
	return &patcher{s: &Served{Kind: k}, r: &Request{Info: &apirequest.RequestInfo{}}, directive: metav1.FieldValidationStrict}
}

// TestMergeAgrees compares what is merged into the object itself with the general machinery, on random patches and on those that clients make.
func TestMergeAgrees(t *testing.T) {
	for _, k := range []*kinds.Kind{kinds.Pods(), kinds.Nodes(), kinds.Services(), kinds.ConfigMaps(), kinds.Deployments(), kinds.EndpointSlices(), kinds.Namespaces()} {
		t.Run(k.Plural, func(t *testing.T) {
			t.Parallel()
			p := mergerOf(k)
			merged, listed := 0, 0
			const rounds = 150
			for seed := range int64(rounds) {
				r := rand.New(rand.NewSource(seed))
				random := func() runtime.Object {
					obj := k.New()
					filler(r.Int63()).Fill(obj)
					obj.GetObjectKind().SetGroupVersionKind(k.GroupVersionKind)
					return obj
				}
				was, other := random(), random()
				a, b := loose(t, was), loose(t, other)
				patch, _ := randomPatch(r, a, b, 0).(map[string]any)
				if seed%4 == 0 { // a client's, of a change to one part
					for _, name := range slices.Sorted(maps.Keys(a)) {
						if r.Intn(2) == 0 {
							b[name] = a[name]
						}
					}
					made, err := strategicpatch.CreateTwoWayMergeMapPatch(a, b, k.New())
					if err != nil {
						continue
					}
					patch = made
				}
				if patch == nil {
					continue
				}
				before := loose(t, was)
				got := was.DeepCopyObject()
				if !mergeInto(got, runtime.DeepCopyJSON(patch)) {
					continue
				}
				merged++
				want, _, err := p.mergeLoosely(was, patch)
				if err != nil {
					t.Fatalf("seed %d: merged what cannot be: %v\n%v", seed, err, patch)
				}
				x, y := fmt.Sprint(loose(t, got)), fmt.Sprint(loose(t, want))
				if x != y || !apiequality.Semantic.DeepEqual(got, want) {
					t.Fatalf("seed %d: %v\n got %s\nwant %s", seed, patch, x, y)
				}
				if fmt.Sprint(loose(t, was)) != fmt.Sprint(before) {
					t.Fatalf("seed %d: the current object was changed", seed)
				}
				if x != fmt.Sprint(before) {
					listed++
				}
			}
			if merged < rounds/8 || listed < rounds/10 {
				t.Errorf("of %d patches %d were merged and %d changed something: the test shows little", rounds, merged, listed)
			}
		})
	}
}

// TestMergeLists goes through the orders in which patched and other items can come.
func TestMergeLists(t *testing.T) {
	p := mergerOf(kinds.Pods())
	types := []string{"A", "B", "C", "D", "E"}
	r := rand.New(rand.NewSource(1))
	for range 3000 {
		pod := &corev1.Pod{}
		for _, i := range r.Perm(len(types))[:r.Intn(5)] {
			pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{Type: corev1.PodConditionType(types[i]), Status: "True", Reason: "old"})
		}
		items := []any{}
		for _, i := range r.Perm(len(types))[:r.Intn(5)] {
			items = append(items, map[string]any{"type": types[i], "reason": "new", "lastProbeTime": nil})
		}
		if len(items) > 0 && r.Intn(20) == 0 {
			items = append(items, items[0])
		}
		patch := map[string]any{"status": map[string]any{"conditions": items}}
		got := pod.DeepCopy()
		if !mergeInto(got, patch) {
			if len(items) < 2 || fmt.Sprint(items[0]) != fmt.Sprint(items[len(items)-1]) {
				t.Fatalf("%v could not be merged", patch)
			}
			continue
		}
		want, _, err := p.mergeLoosely(pod, patch)
		if err != nil {
			t.Fatal(err)
		}
		if x, y := fmt.Sprint(got.Status.Conditions), fmt.Sprint(want.(*corev1.Pod).Status.Conditions); x != y {
			t.Fatalf("%v and %v:\n got %s\nwant %s", pod.Status.Conditions, items, x, y)
		}
	}
}

// TestMergePlans says which kinds could never be merged in place.
func TestMergePlans(t *testing.T) {
	for _, k := range kinds.All() {
		obj := k.New()
		if _, free := obj.(runtime.Unstructured); free || k.Custom {
			continue
		}
		if !mergeInto(obj, map[string]any{"metadata": map[string]any{"labels": map[string]any{"a": "b"}}}) {
			t.Errorf("%s cannot be merged in place", k.Plural)
		}
	}
}

func BenchmarkStrategicMerge(b *testing.B) {
	pod := &corev1.Pod{}
	filler(3).Fill(pod)
	pod.Status.Conditions = []corev1.PodCondition{{Type: "Ready", Status: "False"}, {Type: "Initialized", Status: "True"}}
	p := mergerOf(kinds.Pods())
	patch := map[string]any{"status": map[string]any{"phase": "Running", "podIP": "10.0.0.1",
		"conditions": []any{map[string]any{"type": "Ready", "status": "True", "lastProbeTime": nil, "lastTransitionTime": "2026-01-01T00:00:00Z"}}}}
	for name, merge := range map[string]func() error{
		"loose":    func() error { _, _, err := p.mergeLoosely(pod, patch); return err },
		"in place": func() error { mergeInto(pod.DeepCopyObject(), patch); return nil },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := merge(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
