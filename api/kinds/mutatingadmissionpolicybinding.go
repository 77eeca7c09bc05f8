package kinds

import (
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// MutatingAdmissionPolicyBindings is admissionregistration.k8s.io/v1 mutatingadmissionpolicybindings: where a policy applies, and with
// which parameters.
func MutatingAdmissionPolicyBindings() *Kind {
	return &Kind{
		GroupVersionKind: admissionv1.SchemeGroupVersion.WithKind("MutatingAdmissionPolicyBinding"),
		Plural:           "mutatingadmissionpolicybindings",
		Singular:         "mutatingadmissionpolicybinding",
		Categories:       []string{"api-extensions"},
		Verbs:            all,
		New:              func() runtime.Object { return new(admissionv1.MutatingAdmissionPolicyBinding) },
		NewList:          func() runtime.Object { return new(admissionv1.MutatingAdmissionPolicyBindingList) },
		StoragePrefix:    "mutatingadmissionpolicybindings",
		Default:          defaulting(func(b *admissionv1.MutatingAdmissionPolicyBinding) { defaultMatchResources(b.Spec.MatchResources) }),
		PrepareForCreate: onCreate(func(b *admissionv1.MutatingAdmissionPolicyBinding) { b.Generation = 1 }),
		PrepareForUpdate: onUpdate(func(b, old *admissionv1.MutatingAdmissionPolicyBinding) {
			if !apiequality.Semantic.DeepEqual(b.Spec, old.Spec) {
				b.Generation = old.Generation + 1
			}
		}),
		Validate: checking(func(b *admissionv1.MutatingAdmissionPolicyBinding) field.ErrorList {
			return append(validateRegistration(&b.ObjectMeta, nil), validateMutatingBinding(&b.Spec)...)
		}),
		ValidateUpdate: checkingUpdate(func(b, old *admissionv1.MutatingAdmissionPolicyBinding) field.ErrorList {
			return append(validateRegistration(&b.ObjectMeta, &old.ObjectMeta), validateMutatingBinding(&b.Spec)...)
		}),
		Warnings: warningsOf(func(b, old *admissionv1.MutatingAdmissionPolicyBinding) []string {
			return warnStaticSuffix(&b.ObjectMeta, old != nil)
		}),
		ValidateName:     NameIsDNSSubdomain,
		FieldLabels:      metaFieldLabels,
		SelectableFields: clusterMetaFields,
		Columns:          policyBindingColumns(),
		Row: row(func(b *admissionv1.MutatingAdmissionPolicyBinding, now time.Time) []any {
			return []any{b.Name, b.Spec.PolicyName, paramRefCell(b.Spec.ParamRef), age(b.CreationTimestamp, now)}
		}),
	}
}

func validateMutatingBinding(s *admissionv1.MutatingAdmissionPolicyBindingSpec) field.ErrorList {
	errs := validatePolicyName(s.PolicyName)
	errs = append(errs, validateParamRef(s.ParamRef, specPath.Child("paramRef"))...)
	errs = append(errs, validateMatchResources(s.MatchResources, specPath.Child("matchResources"))...)
	return append(errs, validateMutatingOperations(s.MatchResources, specPath.Child("matchResources"))...)
}
