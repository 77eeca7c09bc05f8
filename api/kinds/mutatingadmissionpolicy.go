package kinds

import (
	"slices"
	"strings"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/policy/mutating/patch"
)

// MutatingAdmissionPolicies is admissionregistration.k8s.io/v1 mutatingadmissionpolicies (KEP-3962): rules in CEL that
// change objects.
func MutatingAdmissionPolicies() *Kind {
	return &Kind{
		GroupVersionKind: admissionv1.SchemeGroupVersion.WithKind("MutatingAdmissionPolicy"),
		Plural:           "mutatingadmissionpolicies",
		Singular:         "mutatingadmissionpolicy",
		Categories:       []string{"api-extensions"},
		Verbs:            all,
		New:              func() runtime.Object { return new(admissionv1.MutatingAdmissionPolicy) },
		NewList:          func() runtime.Object { return new(admissionv1.MutatingAdmissionPolicyList) },
		StoragePrefix:    "mutatingadmissionpolicies",
		Default: defaulting(func(p *admissionv1.MutatingAdmissionPolicy) {
			defaultTo(&p.Spec.FailurePolicy, admissionv1.Fail)
			defaultMatchResources(p.Spec.MatchConstraints)
		}),
		PrepareForCreate: onCreate(func(p *admissionv1.MutatingAdmissionPolicy) { p.Generation = 1 }),
		PrepareForUpdate: onUpdate(func(p, old *admissionv1.MutatingAdmissionPolicy) {
			if !apiequality.Semantic.DeepEqual(p.Spec, old.Spec) {
				p.Generation = old.Generation + 1
			}
		}),
		Validate: checking(func(p *admissionv1.MutatingAdmissionPolicy) field.ErrorList {
			return append(validateRegistration(&p.ObjectMeta, nil), validateMutatingPolicy(&p.Spec, nil)...)
		}),
		ValidateUpdate: checkingUpdate(func(p, old *admissionv1.MutatingAdmissionPolicy) field.ErrorList {
			return append(validateRegistration(&p.ObjectMeta, &old.ObjectMeta), validateMutatingPolicy(&p.Spec, &old.Spec)...)
		}),
		Warnings: warningsOf(func(p, old *admissionv1.MutatingAdmissionPolicy) []string {
			return warnStaticSuffix(&p.ObjectMeta, old != nil)
		}),
		ValidateName:     NameIsDNSSubdomain,
		FieldLabels:      metaFieldLabels,
		SelectableFields: clusterMetaFields,
		Columns:          policyColumns("Mutations", "Mutation indicates the number of mutations rules defined in this configuration"),
		Row: row(func(p *admissionv1.MutatingAdmissionPolicy, now time.Time) []any {
			return []any{p.Name, int64(len(p.Spec.Mutations)), paramKindCell(p.Spec.ParamKind), age(p.CreationTimestamp, now)}
		}),
	}
}

// validateMutatingPolicy checks a spec, which replaces old if old is not nil.
func validateMutatingPolicy(s, old *admissionv1.MutatingAdmissionPolicySpec) field.ErrorList {
	e := &expressions{stored: map[string]bool{}, composing: true, params: s.ParamKind != nil}
	conditionsKept := false
	if old != nil {
		conditionsKept = apiequality.Semantic.DeepEqual(s.ParamKind, old.ParamKind) && apiequality.Semantic.DeepEqual(s.MatchConditions, old.MatchConditions)
		for _, c := range old.MatchConditions {
			e.stored[c.Expression] = true
		}
		for _, m := range old.Mutations {
			if m.ApplyConfiguration != nil {
				e.stored[m.ApplyConfiguration.Expression] = true
			}
			if m.JSONPatch != nil {
				e.stored[m.JSONPatch.Expression] = true
			}
		}
	}
	errs := requiredChoice(s.FailurePolicy, failurePolicies, specPath.Child("failurePolicy"))
	errs = append(errs, validateParamKind(s.ParamKind, specPath.Child("paramKind"))...)
	errs = append(errs, validateConstraints(s.MatchConstraints)...)
	errs = append(errs, validateMutatingOperations(s.MatchConstraints, specPath.Child("matchConstraints"))...)
	if !conditionsKept {
		errs = append(errs, validateMatchConditions(s.MatchConditions, e, specPath.Child("matchConditions"))...)
	}
	errs = append(errs, validateVariables(s.Variables, e)...)
	if len(s.Mutations) == 0 {
		errs = append(errs, field.Required(specPath.Child("mutations"), "mutations must contain at least one item"))
	}
	for i := range s.Mutations {
		errs = append(errs, validateMutation(&s.Mutations[i], e, specPath.Child("mutations").Index(i))...)
	}
	switch path := specPath.Child("reinvocationPolicy"); {
	case s.ReinvocationPolicy == "":
		errs = append(errs, field.Required(path, ""))
	case !slices.Contains(reinvocationPolicies, s.ReinvocationPolicy):
		errs = append(errs, field.NotSupported(path, s.ReinvocationPolicy, reinvocationPolicies))
	}
	return errs
}

func validateMutation(m *admissionv1.Mutation, e *expressions, path *field.Path) (errs field.ErrorList) {
	apply, json := path.Child("applyConfiguration"), path.Child("jsonPatch")
	check := func(text string, x plugincel.ExpressionAccessor, at *field.Path) field.ErrorList {
		if x.GetExpression() == "" {
			return field.ErrorList{field.Required(at.Child("expression"), "")}
		}
		result := e.compiler().CompileCELExpression(x, plugincel.OptionalVariableDeclarations{HasParams: e.params, HasAuthorizer: true, HasPatchTypes: true}, environmentOf(e.stored[text]))
		return celFault(result.Error, x.GetExpression(), at.Child("expression"))
	}
	switch m.PatchType {
	case "":
		return field.ErrorList{field.Required(path.Child("patchType"), "")}
	case admissionv1.PatchTypeJSONPatch:
		if m.JSONPatch == nil {
			errs = append(errs, field.Required(json, "must be specified when patchType is JSONPatch"))
		} else {
			errs = append(errs, check(m.JSONPatch.Expression, &patch.JSONPatchCondition{Expression: strings.TrimSpace(m.JSONPatch.Expression)}, json)...)
		}
		if m.ApplyConfiguration != nil {
			errs = append(errs, field.Invalid(apply, "{applyConfiguration}", "must not be specified when patchType is JSONPatch"))
		}
	case admissionv1.PatchTypeApplyConfiguration:
		if m.ApplyConfiguration == nil {
			errs = append(errs, field.Required(apply, "must be specified when patchType is ApplyConfiguration"))
		} else {
			errs = append(errs, check(m.ApplyConfiguration.Expression, &patch.ApplyConfigurationCondition{Expression: strings.TrimSpace(m.ApplyConfiguration.Expression)}, apply)...)
		}
		if m.JSONPatch != nil {
			errs = append(errs, field.Invalid(json, "{jsonPatch}", "must not be specified when patchType is ApplyConfiguration"))
		}
	default:
		errs = append(errs, field.NotSupported(path.Child("patchType"), m.PatchType, []admissionv1.PatchType{admissionv1.PatchTypeApplyConfiguration, admissionv1.PatchTypeJSONPatch}))
	}
	return errs
}
