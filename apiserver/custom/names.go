package custom

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
)

// taken are the names that are given out in one group.
type taken struct{ resources, kinds map[string]bool }

// takenIn gathers the names that every definition of a group has been given.
func takenIn(group string, definitions []*apiextensionsv1.CustomResourceDefinition) taken {
	t := taken{map[string]bool{}, map[string]bool{}}
	for _, d := range definitions {
		if d.Spec.Group != group {
			continue
		}
		a := d.Status.AcceptedNames
		for _, n := range append([]string{a.Plural, a.Singular}, a.ShortNames...) {
			t.resources[n] = true
		}
		t.kinds[a.Kind], t.kinds[a.ListKind] = true, true
	}
	return t
}

// name gives d the names that it asks for as far as nobody of its group has them, and says what came of it.
func name(d *apiextensionsv1.CustomResourceDefinition, t taken) {
	c := apiextensionsv1.CustomResourceDefinitionCondition{Type: apiextensionsv1.NamesAccepted, Status: apiextensionsv1.ConditionTrue, Reason: "NoConflicts", Message: "no conflicts found"}
	refuse := func(reason, message string) {
		c.Status, c.Reason, c.Message = apiextensionsv1.ConditionFalse, reason, message
	}
	asked, got := d.Spec.Names, &d.Status.AcceptedNames
	settle := func(want string, have *string, taken map[string]bool, reason string) {
		if want != *have && taken[want] {
			refuse(reason, inUse(want))
			return
		}
		*have = want
	}
	settle(asked.Plural, &got.Plural, t.resources, "PluralConflict")
	settle(asked.Singular, &got.Singular, t.resources, "SingularConflict")
	var clashes []string
	for _, s := range asked.ShortNames {
		if !slices.Contains(got.ShortNames, s) && t.resources[s] && !slices.Contains(clashes, inUse(s)) {
			clashes = append(clashes, inUse(s))
		}
	}
	switch len(clashes) {
	case 0:
		got.ShortNames = asked.ShortNames
	case 1:
		refuse("ShortNamesConflict", clashes[0])
	default:
		refuse("ShortNamesConflict", "["+strings.Join(clashes, ", ")+"]")
	}
	settle(asked.Kind, &got.Kind, t.kinds, "KindConflict")
	settle(asked.ListKind, &got.ListKind, t.kinds, "ListKindConflict")
	got.Categories = asked.Categories
	apihelpers.SetCRDCondition(d, c)
	if condition(d, apiextensionsv1.Established) {
		return
	}
	e := apiextensionsv1.CustomResourceDefinitionCondition{Type: apiextensionsv1.Established, Status: apiextensionsv1.ConditionFalse, Reason: "NotAccepted", Message: "not all names are accepted"}
	if c.Status == apiextensionsv1.ConditionTrue {
		e.Reason, e.Message = "Installing", "the initial names have been accepted"
	}
	apihelpers.SetCRDCondition(d, e)
}

func inUse(name string) string { return fmt.Sprintf("%q is already in use", name) }

// named tells whether d has just the names that it asks for.
func named(d *apiextensionsv1.CustomResourceDefinition) bool {
	return apiequality.Semantic.DeepEqual(d.Spec.Names, d.Status.AcceptedNames)
}
