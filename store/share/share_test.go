package share

import (
	"reflect"
	"syscall"
	"testing"
	"time"
	"unsafe"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"
)

// pod is a pod of a set, as a decoder makes it: nothing of one call's is another's.
func pod(name string) *corev1.Pod {
	fresh := func(s string) string { return string([]byte(s)) }
	yes, wait := true, int64(300)
	p := &corev1.Pod{}
	p.Name, p.Namespace = fresh(name), fresh("shop")
	p.Labels = map[string]string{"app": "web", "hash": "6d4cf56db6"}
	p.OwnerReferences = []metav1.OwnerReference{{APIVersion: fresh("apps/v1"), Kind: fresh("ReplicaSet"), Name: fresh("web"), Controller: &yes}}
	p.ManagedFields = []metav1.ManagedFieldsEntry{
		{Manager: fresh("controller"), FieldsV1: metav1.NewFieldsV1(`{"f:metadata":{}}`)},
		{Manager: fresh("kubelet"), FieldsV1: metav1.NewFieldsV1(`{"f:status":{"k:` + name + `":{}}}`)}}
	p.Spec.Tolerations = []corev1.Toleration{{Key: fresh("node.kubernetes.io/not-ready"), TolerationSeconds: &wait}}
	p.Spec.Volumes = []corev1.Volume{{Name: fresh("token-" + name), VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
		Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: fresh("token")}}}}}}}
	p.Spec.Containers = []corev1.Container{{Name: fresh("app"), Image: fresh("registry.example/app:1"), Args: []string{},
		Resources:     corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("10m")}},
		LivenessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: fresh("/ready"), Port: intstr.FromInt32(80)}}},
		VolumeMounts:  []corev1.VolumeMount{{Name: fresh("token-" + name), MountPath: fresh("/var/run")}}}}
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodConditionType(fresh("Ready")), Status: "True", LastTransitionTime: metav1.NewTime(time.Unix(int64(len(name)), 0))}}
	return p
}

func TestEqualPartsAreShared(t *testing.T) {
	a, b, want := pod("a"), pod("bb"), pod("bb")
	like := a.DeepCopy()
	With(b, a)
	if !reflect.DeepEqual(b, want) {
		t.Fatalf("the object became another: %+v", b)
	}
	if !reflect.DeepEqual(a, like) {
		t.Fatalf("the neighbour was changed: %+v", a)
	}
	ca, cb := &a.Spec.Containers[0], &b.Spec.Containers[0]
	for what, shared := range map[string]bool{
		"namespace":                  unsafe.StringData(a.Namespace) == unsafe.StringData(b.Namespace),
		"labels":                     reflect.ValueOf(a.Labels).Pointer() == reflect.ValueOf(b.Labels).Pointer(),
		"owners":                     &a.OwnerReferences[0] == &b.OwnerReferences[0],
		"fields of the controller":   a.ManagedFields[0].FieldsV1 == b.ManagedFields[0].FieldsV1,
		"manager of differing lists": unsafe.StringData(a.ManagedFields[1].Manager) == unsafe.StringData(b.ManagedFields[1].Manager),
		"tolerations":                &a.Spec.Tolerations[0] == &b.Spec.Tolerations[0],
		"volume's source":            a.Spec.Volumes[0].Projected == b.Spec.Volumes[0].Projected,
		"image":                      unsafe.StringData(ca.Image) == unsafe.StringData(cb.Image),
		"requests":                   reflect.ValueOf(ca.Resources.Requests).Pointer() == reflect.ValueOf(cb.Resources.Requests).Pointer(),
		"probe":                      ca.LivenessProbe == cb.LivenessProbe,
		"path of a differing mount":  unsafe.StringData(ca.VolumeMounts[0].MountPath) == unsafe.StringData(cb.VolumeMounts[0].MountPath),
		"type of a condition":        unsafe.StringData(string(a.Status.Conditions[0].Type)) == unsafe.StringData(string(b.Status.Conditions[0].Type)),
	} {
		if !shared {
			t.Errorf("%s: each has its own", what)
		}
	}
	if cap(b.OwnerReferences) != len(b.OwnerReferences) {
		t.Error("appending to a shared list would write into it")
	}
}

// What obj points to may be others', who read it meanwhile: it is copied and not written.
func TestOnlyTheObjectItselfIsWritten(t *testing.T) {
	inner := pod("bb")
	shallow, want := *inner, inner.DeepCopy()
	container, mount := &inner.Spec.Containers[0], unsafe.StringData(inner.Spec.Containers[0].VolumeMounts[0].MountPath)
	With(&shallow, pod("a"))
	if !reflect.DeepEqual(inner, want) || !reflect.DeepEqual(&shallow, want) {
		t.Error("it became another")
	}
	if &inner.Spec.Containers[0] != container || unsafe.StringData(container.VolumeMounts[0].MountPath) != mount || &shallow.Spec.Containers[0] == container {
		t.Error("what others have was written")
	}
}

func TestNothingToShare(t *testing.T) {
	p := pod("a")
	With(p, p)
	With(p, (*corev1.Pod)(nil))
	With[any](p, &corev1.Service{})
	With[any](map[string]any{}, map[string]any{})
	if !reflect.DeepEqual(p, pod("a")) {
		t.Error("changed")
	}
	empty, none := &corev1.Pod{}, &corev1.Pod{}
	empty.Labels, empty.Spec.Tolerations = map[string]string{}, []corev1.Toleration{}
	With(empty, none)
	With(none, empty)
	if empty.Labels == nil || empty.Spec.Tolerations == nil || none.Labels != nil || none.Spec.Tolerations != nil {
		t.Error("an empty value and none are not the same")
	}
}

// A type that contains itself.
func TestRecursiveType(t *testing.T) {
	schema := func(depth int) *apiextensionsv1.JSONSchemaProps {
		s := &apiextensionsv1.JSONSchemaProps{Type: "string"}
		for range depth {
			s = &apiextensionsv1.JSONSchemaProps{Type: "array", Items: &apiextensionsv1.JSONSchemaPropsOrArray{Schema: s}}
		}
		return s
	}
	a, b, c := schema(5), schema(5), schema(3)
	With(b, a)
	With(c, a)
	if a.Items != b.Items || !reflect.DeepEqual(b, schema(5)) || !reflect.DeepEqual(c, schema(3)) {
		t.Error("not shared, or changed")
	}
}

// some has the shapes of API types, in few values, so that two of them are often equal in part.
type some struct {
	Number  int8
	Text    string
	Flag    bool
	Bytes   []byte
	Words   []string
	Inner   *some
	List    []some
	Labels  map[string]string
	Amounts corev1.ResourceList
	Other   map[string]int
	Any     any
}

func anything(depth int) *rapid.Generator[some] {
	return rapid.Custom(func(t *rapid.T) some {
		word := rapid.SampledFrom([]string{"", "a", "b"})
		s := some{Number: rapid.Int8Range(0, 1).Draw(t, "n"), Text: word.Draw(t, "text"), Flag: rapid.Bool().Draw(t, "flag"),
			Bytes: rapid.SampledFrom([][]byte{nil, {}, {1}, {2}}).Draw(t, "bytes"), Words: rapid.SliceOfN(word, 0, 2).Draw(t, "words"),
			Labels:  rapid.MapOfN(word, word, 0, 2).Draw(t, "labels"),
			Amounts: rapid.SampledFrom([]corev1.ResourceList{nil, {}, {"cpu": resource.MustParse("1")}, {"cpu": resource.MustParse("2")}}).Draw(t, "amounts"),
			Other:   rapid.SampledFrom([]map[string]int{nil, {"a": 1}}).Draw(t, "other"), Any: rapid.SampledFrom([]any{nil, 1, "a"}).Draw(t, "any")}
		if depth > 0 {
			if rapid.Bool().Draw(t, "inner") {
				inner := anything(depth-1).Draw(t, "inner")
				s.Inner = &inner
			}
			s.List = rapid.SliceOfN(anything(depth-1), 0, 2).Draw(t, "list")
		}
		return s
	})
}

func (s some) copied() some {
	out := s
	out.Bytes, out.Words, out.List = append([]byte(nil), s.Bytes...), append([]string(nil), s.Words...), nil
	if s.Bytes != nil && out.Bytes == nil {
		out.Bytes = []byte{}
	}
	if s.Words != nil && out.Words == nil {
		out.Words = []string{}
	}
	if s.List != nil {
		out.List = make([]some, len(s.List))
	}
	for i := range s.List {
		out.List[i] = s.List[i].copied()
	}
	if s.Inner != nil {
		inner := s.Inner.copied()
		out.Inner = &inner
	}
	return out
}

// Whatever the two are: each stays equal to what it was, and so does what the first pointed to.
func TestSharingChangesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := anything(2).Draw(t, "a"), anything(2).Draw(t, "b")
		wantA, wantB := a.copied(), b.copied()
		shallow := b
		With(&b, &a)
		if !reflect.DeepEqual(a, wantA) || !reflect.DeepEqual(b, wantB) || !reflect.DeepEqual(shallow, wantB) {
			t.Fatalf("%+v and %+v became %+v and %+v", wantA, wantB, a, b)
		}
		if reflect.DeepEqual(a, b) && len(b.List) > 0 && &a.List[0] != &b.List[0] && !hasMaps(b.List) {
			t.Fatal("equal lists are not shared")
		}
	})
}

// hasMaps says whether there is one of the maps that are only the same if they are the very same.
func hasMaps(list []some) bool {
	for _, s := range list {
		if s.Other != nil || s.Any != nil || hasMaps(s.List) || s.Inner != nil && hasMaps([]some{*s.Inner}) {
			return true
		}
	}
	return false
}

func BenchmarkWith(b *testing.B) {
	like := pod("web-1")
	pods := make([]corev1.Pod, b.N)
	for i := range pods {
		pods[i] = *pod("web-2")
	}
	b.ReportAllocs()
	var before, after syscall.Rusage
	b.ResetTimer()
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &before)
	for i := range pods {
		With(&pods[i], like)
	}
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &after)
	b.ReportMetric(float64(after.Utime.Nano()-before.Utime.Nano()+after.Stime.Nano()-before.Stime.Nano())/1e3/float64(b.N), "cpu-µs/op")
}
