package managed

import (
	"encoding/json"
	"math/rand"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/randfill"

	"wherry.dev/wherry/api/kinds"
)

var podKind = kinds.Pods()

// filler makes pods that decode: unique keys, few elements, no free-form values that the wire could not carry.
func filler(seed int64) *randfill.Filler {
	return randfill.New().RandSource(rand.NewSource(seed)).NilChance(.5).NumElements(1, 3).MaxDepth(9).Funcs(
		func(q *resource.Quantity, c randfill.Continue) {
			*q = *resource.NewQuantity(int64(c.Intn(1000)), resource.DecimalSI)
		},
		func(f *metav1.FieldsV1, _ randfill.Continue) { *f = metav1.FieldsV1{} },
		func(m *[]metav1.ManagedFieldsEntry, _ randfill.Continue) { *m = nil },
		func(t *metav1.Time, c randfill.Continue) { *t = metav1.Unix(int64(c.Intn(1<<30)+1), 0) },
	)
}

// fieldsOf is what the entries say, times left out.
func fieldsOf(t testing.TB, obj runtime.Object) string {
	t.Helper()
	entries := obj.(*corev1.Pod).DeepCopy().ManagedFields
	for i := range entries {
		entries[i].Time = nil
	}
	b, err := json.Marshal(entries)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestCreateAgrees compares what is remembered by shape with the general way, on random pods and on pods of their shape.
func TestCreateAgrees(t *testing.T) {
	types := &Types{}
	fast, full := New(podKind, "", types), New(podKind, "", types)
	owning := 0
	for seed := range int64(150) {
		p := &corev1.Pod{}
		filler(seed).Fill(p)
		want := fieldsOf(t, full.update(full.empty(), p.DeepCopy(), "m"))
		if len(want) > 200 {
			owning++
		}
		for range 2 { // the first one is worked out, the second one remembered
			q := p.DeepCopy()
			q.Name, q.UID = q.Name+"x", q.UID+"y"
			if got := fieldsOf(t, fast.Update(nil, q, "m")); got != want {
				t.Fatalf("seed %d:\n got %s\nwant %s", seed, got, want)
			}
		}
	}
	if owning < 100 {
		t.Errorf("only %d of the random pods had fields to own: the test shows little", owning)
	}
}

// TestUpdateAgrees compares updates of which only the differing parts are looked at with the general way.
func TestUpdateAgrees(t *testing.T) {
	types := &Types{}
	for _, sub := range []string{"", "status"} {
		fast, full := New(podKind, sub, types), New(podKind, sub, types)
		for seed := range int64(100) {
			live := &corev1.Pod{}
			filler(seed).Fill(live)
			live = full.update(full.empty(), live, "creator").(*corev1.Pod)
			other := &corev1.Pod{}
			filler(seed + 1000).Fill(other)
			next := live.DeepCopy()
			switch seed % 5 {
			case 0:
				next.Status = other.Status
			case 1:
				next.Labels, next.Annotations = other.Labels, other.Annotations
			case 2:
				next.Spec = other.Spec
			case 3:
				next.Spec.NodeName, next.Status.Phase = "n", "Running"
				next.ManagedFields = nil
			}
			want := fieldsOf(t, full.update(live.DeepCopy(), next.DeepCopy(), "updater"))
			before := live.DeepCopy()
			if got := fieldsOf(t, fast.Update(live, next, "updater")); got != want {
				t.Fatalf("%q seed %d:\n got %s\nwant %s", sub, seed, got, want)
			}
			if !jsonEqual(t, before, live) {
				t.Fatal("the live object was changed")
			}
		}
	}
}

func jsonEqual(t testing.TB, a, b any) bool {
	x, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	y, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(x) == string(y)
}

func benchPod() *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "default", Labels: map[string]string{"app": "web", "v": "1"}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i", Ports: []corev1.ContainerPort{{ContainerPort: 80, Protocol: "TCP"}}, Env: []corev1.EnvVar{{Name: "A", Value: "1"}}}}}}
}

func BenchmarkCreate(b *testing.B) {
	types := &Types{}
	m := New(podKind, "", types)
	b.Run("shape", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			m.Update(nil, benchPod(), "m")
		}
	})
	b.Run("general", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			m.update(m.empty(), benchPod(), "m")
		}
	})
}

func BenchmarkUpdateStatus(b *testing.B) {
	types := &Types{}
	m := New(podKind, "status", types)
	live := m.update(m.empty(), benchPod(), "m").(*corev1.Pod)
	next := live.DeepCopy()
	next.Status.Phase = "Running"
	b.Run("differing", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			m.Update(live, next.DeepCopy(), "k")
		}
	})
	b.Run("general", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			m.update(live, next.DeepCopy(), "k")
		}
	})
}
