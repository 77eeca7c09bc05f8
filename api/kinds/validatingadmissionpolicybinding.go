package kinds

import (
	"slices"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// ValidatingAdmissionPolicyBindings is admissionregistration.k8s.io/v1 validatingadmissionpolicybindings: where a policy applies, and with
// which parameters.
func ValidatingAdmissionPolicyBindings() *Kind {
	return &Kind{
		GroupVersionKind: admissionv1.SchemeGroupVersion.WithKind("ValidatingAdmissionPolicyBinding"),
		Plural:           "validatingadmissionpolicybindings",
		Singular:         "validatingadmissionpolicybinding",
		Categories:       []string{"api-extensions"},
		Verbs:            all,
		New:              func() runtime.Object { return new(admissionv1.ValidatingAdmissionPolicyBinding) },
		NewList:          func() runtime.Object { return new(admissionv1.ValidatingAdmissionPolicyBindingList) },
		StoragePrefix:    "validatingadmissionpolicybindings",
		Default:          defaulting(func(b *admissionv1.ValidatingAdmissionPolicyBinding) { defaultMatchResources(b.Spec.MatchResources) }),
		PrepareForCreate: onCreate(func(b *admissionv1.ValidatingAdmissionPolicyBinding) { b.Generation = 1 }),
		PrepareForUpdate: onUpdate(func(b, old *admissionv1.ValidatingAdmissionPolicyBinding) {
			if !apiequality.Semantic.DeepEqual(b.Spec, old.Spec) {
				b.Generation = old.Generation + 1
			}
		}),
		Validate: checking(func(b *admissionv1.ValidatingAdmissionPolicyBinding) field.ErrorList {
			return append(validateRegistration(&b.ObjectMeta, nil), validateValidatingBinding(&b.Spec)...)
		}),
		ValidateUpdate: checkingUpdate(func(b, old *admissionv1.ValidatingAdmissionPolicyBinding) field.ErrorList {
			return append(validateRegistration(&b.ObjectMeta, &old.ObjectMeta), validateValidatingBinding(&b.Spec)...)
		}),
		Warnings: warningsOf(func(b, old *admissionv1.ValidatingAdmissionPolicyBinding) []string {
			return warnStaticSuffix(&b.ObjectMeta, old != nil)
		}),
		ValidateName:     NameIsDNSSubdomain,
		FieldLabels:      metaFieldLabels,
		SelectableFields: clusterMetaFields,
		Columns:          policyBindingColumns(),
		Row: row(func(b *admissionv1.ValidatingAdmissionPolicyBinding, now time.Time) []any {
			return []any{b.Name, b.Spec.PolicyName, paramRefCell(b.Spec.ParamRef), age(b.CreationTimestamp, now)}
		}),
	}
}

func validateValidatingBinding(s *admissionv1.ValidatingAdmissionPolicyBindingSpec) field.ErrorList {
	errs := validatePolicyName(s.PolicyName)
	errs = append(errs, validateParamRef(s.ParamRef, specPath.Child("paramRef"))...)
	errs = append(errs, validateMatchResources(s.MatchResources, specPath.Child("matchResources"))...)
	return append(errs, validateActions(s.ValidationActions)...)
}

var validationActions = []admissionv1.ValidationAction{admissionv1.Audit, admissionv1.Deny, admissionv1.Warn}

func validateActions(actions []admissionv1.ValidationAction) (errs field.ErrorList) {
	path := specPath.Child("validationActions")
	for i := range actions {
		errs = append(errs, choice(&actions[i], validationActions, path.Index(i))...)
		if slices.Contains(actions[:i], actions[i]) {
			errs = append(errs, field.Duplicate(path.Index(i), actions[i]))
		}
	}
	if slices.Contains(actions, admissionv1.Deny) && slices.Contains(actions, admissionv1.Warn) {
		errs = append(errs, field.Invalid(path, actions, "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)"))
	}
	if len(actions) == 0 {
		errs = append(errs, field.Required(path, ""))
	}
	return errs
}
