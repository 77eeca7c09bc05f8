package kinds

import (
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Reviews are questions: creating one answers it, and nothing is stored. The answers are the server's.

var createOnly = []string{"create"}

// TokenReviews is authentication.k8s.io/v1 tokenreviews: whose token is this.
func TokenReviews() *Kind {
	return &Kind{
		GroupVersionKind: authenticationv1.SchemeGroupVersion.WithKind("TokenReview"),
		Plural:           "tokenreviews",
		Singular:         "tokenreview",
		Verbs:            createOnly,
		New:              func() runtime.Object { return new(authenticationv1.TokenReview) },
	}
}

// SelfSubjectReviews is authentication.k8s.io/v1 selfsubjectreviews: who am I.
func SelfSubjectReviews() *Kind {
	return &Kind{
		GroupVersionKind: authenticationv1.SchemeGroupVersion.WithKind("SelfSubjectReview"),
		Plural:           "selfsubjectreviews",
		Singular:         "selfsubjectreview",
		Verbs:            createOnly,
		New:              func() runtime.Object { return new(authenticationv1.SelfSubjectReview) },
	}
}

// SubjectAccessReviews is authorization.k8s.io/v1 subjectaccessreviews: may they do this.
func SubjectAccessReviews() *Kind {
	return &Kind{
		GroupVersionKind: authorizationv1.SchemeGroupVersion.WithKind("SubjectAccessReview"),
		Plural:           "subjectaccessreviews",
		Singular:         "subjectaccessreview",
		Verbs:            createOnly,
		New:              func() runtime.Object { return new(authorizationv1.SubjectAccessReview) },
		Validate: checking(func(r *authorizationv1.SubjectAccessReview) field.ErrorList {
			return append(validateReviewSubject(&r.Spec), validateNoMeta(&r.ObjectMeta, "")...)
		}),
	}
}

// SelfSubjectAccessReviews is authorization.k8s.io/v1 selfsubjectaccessreviews: may I do this.
func SelfSubjectAccessReviews() *Kind {
	return &Kind{
		GroupVersionKind: authorizationv1.SchemeGroupVersion.WithKind("SelfSubjectAccessReview"),
		Plural:           "selfsubjectaccessreviews",
		Singular:         "selfsubjectaccessreview",
		Verbs:            createOnly,
		New:              func() runtime.Object { return new(authorizationv1.SelfSubjectAccessReview) },
		Validate: checking(func(r *authorizationv1.SelfSubjectAccessReview) field.ErrorList {
			errs := validateReviewQuestion(r.Spec.ResourceAttributes, r.Spec.NonResourceAttributes)
			return append(errs, validateNoMeta(&r.ObjectMeta, "")...)
		}),
	}
}

// LocalSubjectAccessReviews is authorization.k8s.io/v1 localsubjectaccessreviews: may they do this in this namespace.
func LocalSubjectAccessReviews() *Kind {
	return &Kind{
		GroupVersionKind: authorizationv1.SchemeGroupVersion.WithKind("LocalSubjectAccessReview"),
		Plural:           "localsubjectaccessreviews",
		Singular:         "localsubjectaccessreview",
		Namespaced:       true,
		Verbs:            createOnly,
		New:              func() runtime.Object { return new(authorizationv1.LocalSubjectAccessReview) },
		Validate: checking(func(r *authorizationv1.LocalSubjectAccessReview) field.ErrorList {
			errs := validateReviewSubject(&r.Spec)
			errs = append(errs, validateNoMeta(&r.ObjectMeta, " except for namespace")...)
			if a := r.Spec.ResourceAttributes; a != nil && a.Namespace != r.Namespace {
				errs = append(errs, field.Invalid(specPath.Child("resourceAttributes", "namespace"), a.Namespace, "must match metadata.namespace"))
			}
			if r.Spec.NonResourceAttributes != nil {
				errs = append(errs, field.Invalid(specPath.Child("nonResourceAttributes"), r.Spec.NonResourceAttributes, "disallowed on this kind of request"))
			}
			return errs
		}),
	}
}

// SelfSubjectRulesReviews is authorization.k8s.io/v1 selfsubjectrulesreviews: what may I do in that namespace.
func SelfSubjectRulesReviews() *Kind {
	return &Kind{
		GroupVersionKind: authorizationv1.SchemeGroupVersion.WithKind("SelfSubjectRulesReview"),
		Plural:           "selfsubjectrulesreviews",
		Singular:         "selfsubjectrulesreview",
		Verbs:            createOnly,
		New:              func() runtime.Object { return new(authorizationv1.SelfSubjectRulesReview) },
	}
}

// validateNoMeta refuses metadata: a question has none. exceptFor says so for the namespace of a local one.
func validateNoMeta(m *metav1.ObjectMeta, exceptFor string) field.ErrorList {
	rest := *m
	rest.ManagedFields = nil
	if exceptFor != "" {
		rest.Namespace = ""
	}
	if apiequality.Semantic.DeepEqual(metav1.ObjectMeta{}, rest) {
		return nil
	}
	return field.ErrorList{field.Invalid(metadataPath, *m, "must be empty"+exceptFor)}
}

func validateReviewSubject(s *authorizationv1.SubjectAccessReviewSpec) field.ErrorList {
	errs := validateReviewQuestion(s.ResourceAttributes, s.NonResourceAttributes)
	if s.User == "" && len(s.Groups) == 0 {
		errs = append(errs, field.Invalid(specPath.Child("user"), s.User, "at least one of user or group must be specified"))
	}
	return errs
}

// validateReviewQuestion wants a resource or a path, not both.
func validateReviewQuestion(resource *authorizationv1.ResourceAttributes, path *authorizationv1.NonResourceAttributes) (errs field.ErrorList) {
	if (resource == nil) == (path == nil) {
		errs = append(errs, field.Invalid(specPath, resource, "exactly one of nonResourceAttributes or resourceAttributes must be specified"))
	}
	if resource == nil {
		return errs
	}
	at := specPath.Child("resourceAttributes")
	if f := resource.FieldSelector; f != nil {
		at := at.Child("fieldSelector")
		if f.RawSelector != "" && len(f.Requirements) > 0 {
			errs = append(errs, field.Invalid(at.Child("rawSelector"), f.RawSelector, "may not specified at the same time as requirements"))
		}
		if f.RawSelector == "" && len(f.Requirements) == 0 {
			errs = append(errs, field.Required(at.Child("requirements"), "when spec.resourceAttributes.fieldSelector is specified, requirements or rawSelector is required"))
		}
		for i := range f.Requirements {
			errs = append(errs, metav1validation.ValidateFieldSelectorRequirement(f.Requirements[i], metav1validation.FieldSelectorValidationOptions{AllowUnknownOperatorInRequirement: true}, at.Child("requirements").Index(i))...)
		}
	}
	if l := resource.LabelSelector; l != nil {
		at := at.Child("labelSelector")
		if l.RawSelector != "" && len(l.Requirements) > 0 {
			errs = append(errs, field.Invalid(at.Child("rawSelector"), l.RawSelector, "may not specified at the same time as requirements"))
		}
		if l.RawSelector == "" && len(l.Requirements) == 0 {
			errs = append(errs, field.Required(at.Child("requirements"), "when spec.resourceAttributes.labelSelector is specified, requirements or rawSelector is required"))
		}
		for i := range l.Requirements {
			errs = append(errs, metav1validation.ValidateLabelSelectorRequirement(l.Requirements[i], metav1validation.LabelSelectorValidationOptions{AllowUnknownOperatorInRequirement: true}, at.Child("requirements").Index(i))...)
		}
	}
	return errs
}
