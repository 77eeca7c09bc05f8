package kinds

import (
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"pgregory.net/rapid"
)

func TestValidateMeta(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*metav1.ObjectMeta)
		want   string // "path: Type", in order
	}{
		"right":             {func(*metav1.ObjectMeta) {}, ""},
		"no name":           {func(m *metav1.ObjectMeta) { m.Name = "" }, "metadata.name: FieldValueRequired"},
		"bad name":          {func(m *metav1.ObjectMeta) { m.Name = "A_" }, "metadata.name: FieldValueInvalid"},
		"bad generateName":  {func(m *metav1.ObjectMeta) { m.GenerateName = "A_b-" }, "metadata.generateName: FieldValueInvalid"},
		"dash generateName": {func(m *metav1.ObjectMeta) { m.GenerateName = "a-" }, ""},
		"no namespace":      {func(m *metav1.ObjectMeta) { m.Namespace = "" }, "metadata.namespace: FieldValueRequired"},
		"bad label":         {func(m *metav1.ObjectMeta) { m.Labels = map[string]string{"a": "b c"} }, "metadata.labels: FieldValueInvalid"},
		"much annotation":   {func(m *metav1.ObjectMeta) { m.Annotations = map[string]string{"a": strings.Repeat("x", 256<<10)} }, "metadata.annotations: FieldValueTooLong"},
		"owner without uid": {func(m *metav1.ObjectMeta) {
			m.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "X", Name: "x"}}
		}, "metadata.ownerReferences[0].uid: FieldValueRequired"},
		"event as owner": {func(m *metav1.ObjectMeta) {
			m.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Event", Name: "x", UID: "1"}}
		}, "metadata.ownerReferences[0]: FieldValueInvalid"},
		"plain finalizer":     {func(m *metav1.ObjectMeta) { m.Finalizers = []string{"mine"} }, "metadata.finalizers[0]: FieldValueInvalid"},
		"known finalizers":    {func(m *metav1.ObjectMeta) { m.Finalizers = []string{"kubernetes", "orphan", "example.com/mine"} }, ""},
		"opposed finalizers":  {func(m *metav1.ObjectMeta) { m.Finalizers = []string{"orphan", "foregroundDeletion"} }, "metadata.finalizers: FieldValueInvalid"},
		"negative generation": {func(m *metav1.ObjectMeta) { m.Generation = -1 }, "metadata.generation: FieldValueInvalid"},
	} {
		m := &metav1.ObjectMeta{Name: "a", Namespace: "b"}
		c.change(m)
		var got []string
		for _, e := range ValidateMeta(m, true, NameIsDNSSubdomain) {
			got = append(got, e.Field+": "+string(e.Type))
		}
		if strings.Join(slices.Compact(got), ", ") != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	if errs := ValidateMeta(&metav1.ObjectMeta{Name: "system:node", Namespace: "x"}, false, NameIsPathSegment); len(errs) != 1 || errs[0].Field != "metadata.namespace" {
		t.Errorf("a cluster-scoped object with a namespace: %v", errs)
	}
	if msgs := NameIsPathSegment("a/b", false); len(msgs) == 0 {
		t.Error("a slash is right in a path segment")
	}
}

func TestValidateMetaUpdate(t *testing.T) {
	old := metav1.ObjectMeta{Name: "a", Namespace: "b", UID: "1", ResourceVersion: "1", Generation: 2}
	m := *old.DeepCopy()
	m.Name, m.Generation, m.ResourceVersion = "c", 1, ""
	var got []string
	for _, e := range ValidateMetaUpdate(&m, &old) {
		got = append(got, e.Field)
	}
	if want := []string{"metadata.resourceVersion", "metadata.generation", "metadata.name"}; !slices.Equal(got, want) {
		t.Errorf("errors at %q, want %q", got, want)
	}
}

// The quick answers about names may be wrong in one direction only: never right for what is wrong.
func TestQuickNames(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.StringOfN(rapid.RuneFrom([]rune("aZ0-._/ äé\n")), 0, 70, -1).Draw(t, "name")
		if rapid.Bool().Draw(t, "long") {
			s = strings.Repeat(s+"a", 5)
		}
		for name, c := range map[string]struct{ quick, slow bool }{
			"label":          {isDNSLabel(s), len(validation.IsDNS1123Label(s)) == 0},
			"subdomain":      {isDNSSubdomain(s), len(validation.IsDNS1123Subdomain(s)) == 0},
			"qualified name": {isPlainQualifiedName(s), len(validation.IsQualifiedName(s)) == 0},
			"label value":    {isPlainLabelValue(s), len(validation.IsValidLabelValue(s)) == 0},
		} {
			if c.quick != c.slow {
				t.Errorf("%s %q: quick %v, slow %v", name, s, c.quick, c.slow)
			}
		}
	})
}

func TestNameSet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var set nameSet
		model := map[string]bool{}
		for _, name := range rapid.SliceOfN(rapid.StringMatching("[a-e]{0,2}"), 0, 40).Draw(t, "names") {
			if set.add(name) == model[name] {
				t.Fatalf("add(%q) after %v", name, model)
			}
			model[name] = true
			if !set.has(name) {
				t.Fatalf("%q is lost", name)
			}
		}
	})
}
