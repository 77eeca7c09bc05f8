package kinds

import (
	"time"

	policyv1 "k8s.io/api/policy/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// PodDisruptionBudgets is policy/v1 poddisruptionbudgets.
func PodDisruptionBudgets() *Kind {
	return &Kind{
		GroupVersionKind: policyv1.SchemeGroupVersion.WithKind("PodDisruptionBudget"),
		Plural:           "poddisruptionbudgets",
		Singular:         "poddisruptionbudget",
		ShortNames:       []string{"pdb"},
		Namespaced:       true,
		Verbs:            all,
		New:              func() runtime.Object { return new(policyv1.PodDisruptionBudget) },
		NewList:          func() runtime.Object { return new(policyv1.PodDisruptionBudgetList) },
		StoragePrefix:    "poddisruptionbudgets",
		PrepareForCreate: onCreate(func(b *policyv1.PodDisruptionBudget) {
			b.Status = policyv1.PodDisruptionBudgetStatus{}
			b.Generation = 1
		}),
		PrepareForUpdate: onUpdate(func(b, old *policyv1.PodDisruptionBudget) {
			b.Status = old.Status
			if !apiequality.Semantic.DeepEqual(b.Spec, old.Spec) {
				b.Generation = old.Generation + 1
			}
		}),
		Validate: checking(func(b *policyv1.PodDisruptionBudget) field.ErrorList {
			return append(ValidateMeta(&b.ObjectMeta, true, NameIsPathSegment), validateBudget(&b.Spec)...)
		}),
		ValidateUpdate: checkingUpdate(func(b, old *policyv1.PodDisruptionBudget) field.ErrorList {
			return append(ValidateMetaUpdate(&b.ObjectMeta, &old.ObjectMeta), validateBudget(&b.Spec)...)
		}),
		ValidateName: NameIsPathSegment,
		Subresources: map[string]*Subresource{
			"status": {
				Verbs:            viewVerbs,
				PrepareForUpdate: onUpdate(func(b, old *policyv1.PodDisruptionBudget) { b.Spec = old.Spec }),
				ValidateUpdate: checkingUpdate(func(b, old *policyv1.PodDisruptionBudget) field.ErrorList {
					return append(ValidateMetaUpdate(&b.ObjectMeta, &old.ObjectMeta), validateBudgetStatus(b)...)
				}),
			},
		},
		FieldLabels:      metaFieldLabels,
		SelectableFields: namespacedMetaFields,
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("Min Available", "string", "The minimum number of pods that must be available."),
			column("Max Unavailable", "string", "The maximum number of pods that may be unavailable."),
			column("Allowed Disruptions", "integer", "Calculated number of pods that may be disrupted at this time."),
			ageColumn(),
		},
		Row: row(func(b *policyv1.PodDisruptionBudget, now time.Time) []any {
			return []any{b.Name, orNotApplicable(b.Spec.MinAvailable), orNotApplicable(b.Spec.MaxUnavailable), int64(b.Status.DisruptionsAllowed), age(b.CreationTimestamp, now)}
		}),
	}
}

func orNotApplicable(v *intstr.IntOrString) string {
	if v == nil {
		return "N/A"
	}
	return v.String()
}

func validateBudget(s *policyv1.PodDisruptionBudgetSpec) (errs field.ErrorList) {
	if s.MinAvailable != nil && s.MaxUnavailable != nil {
		errs = append(errs, field.Invalid(specPath, *s, "minAvailable and maxUnavailable cannot be both set"))
	}
	var f faults
	if s.MinAvailable != nil {
		f.countOrShare(specRoot.field("minAvailable"), *s.MinAvailable)
		f.atMostAll(specRoot.field("minAvailable"), *s.MinAvailable)
	}
	if s.MaxUnavailable != nil {
		f.countOrShare(specRoot.field("maxUnavailable"), *s.MaxUnavailable)
		f.atMostAll(specRoot.field("maxUnavailable"), *s.MaxUnavailable)
	}
	errs = append(errs, f.list...)
	errs = append(errs, metav1validation.ValidateLabelSelector(s.Selector, metav1validation.LabelSelectorValidationOptions{}, specPath.Child("selector"))...)
	if p := s.UnhealthyPodEvictionPolicy; p != nil {
		switch *p {
		case policyv1.IfHealthyBudget, policyv1.AlwaysAllow:
		default:
			errs = append(errs, field.NotSupported(specPath.Child("unhealthyPodEvictionPolicy"), *p, []policyv1.UnhealthyPodEvictionPolicyType{policyv1.AlwaysAllow, policyv1.IfHealthyBudget}))
		}
	}
	return errs
}

func validateBudgetStatus(b *policyv1.PodDisruptionBudget) (errs field.ErrorList) {
	path := field.NewPath("status")
	errs = append(errs, metav1validation.ValidateConditions(b.Status.Conditions, path.Child("conditions"))...)
	for _, n := range []struct {
		name  string
		value int32
	}{
		{"disruptionsAllowed", b.Status.DisruptionsAllowed}, {"currentHealthy", b.Status.CurrentHealthy},
		{"desiredHealthy", b.Status.DesiredHealthy}, {"expectedPods", b.Status.ExpectedPods},
	} {
		if n.value < 0 {
			errs = append(errs, field.Invalid(path.Child(n.name), int64(n.value), "must be greater than or equal to 0"))
		}
	}
	return errs
}
