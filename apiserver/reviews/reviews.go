// Package reviews answers the API's questions about itself: who is this token, may this user, what may I, who am I.
// Nothing of them is stored. The API server imports it.
package reviews

import (
	"context"
	"fmt"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"
)

// Config names who answers.
type Config struct {
	Tokens     authenticator.Token
	Authorizer authorizer.UnconditionalAuthorizer
	Rules      authorizer.RuleResolver
	// Audiences are the API server's own: those of a TokenReview that names none.
	Audiences []string
}

// Answer takes a review and returns it with its status. The argument is the caller's and left alone. Errors are API errors.
type Answer = func(ctx context.Context, who user.Info, object runtime.Object) (runtime.Object, error)

// New returns the answer of each kind of review.
func New(c Config) map[schema.GroupVersionResource]Answer {
	authn, authz := authenticationv1.SchemeGroupVersion, authorizationv1.SchemeGroupVersion
	return map[schema.GroupVersionResource]Answer{
		authn.WithResource("tokenreviews"):              c.token,
		authn.WithResource("selfsubjectreviews"):        self,
		authz.WithResource("subjectaccessreviews"):      c.access,
		authz.WithResource("localsubjectaccessreviews"): c.localAccess,
		authz.WithResource("selfsubjectaccessreviews"):  c.selfAccess,
		authz.WithResource("selfsubjectrulesreviews"):   c.rules,
	}
}

func wrong(object runtime.Object) error {
	return apierrors.NewBadRequest(fmt.Sprintf("not a review that is expected here: %T", object))
}

// token answers TokenReview.
func (c Config) token(ctx context.Context, _ user.Info, object runtime.Object) (runtime.Object, error) {
	in, ok := object.(*authenticationv1.TokenReview)
	if !ok {
		return nil, wrong(object)
	}
	review := in.DeepCopy()
	if review.Spec.Token == "" {
		return nil, apierrors.NewBadRequest("token is required for TokenReview in authentication")
	}
	review.Status = authenticationv1.TokenReviewStatus{}
	audiences := review.Spec.Audiences
	if len(audiences) == 0 {
		audiences = c.Audiences
	}
	if len(audiences) > 0 {
		ctx = authenticator.WithAudiences(ctx, audiences)
	}
	response, ok, err := c.Tokens.AuthenticateToken(ctx, review.Spec.Token)
	review.Status.Authenticated = ok
	if err != nil {
		review.Status.Error = err.Error()
	}
	if len(audiences) > 0 && ok && len(authenticator.Audiences(audiences).Intersect(response.Audiences)) == 0 {
		// A bootstrap or static token says nothing of audiences: it is the API server's.
		if len(response.Audiences) > 0 || len(authenticator.Audiences(audiences).Intersect(c.Audiences)) == 0 {
			review.Status.Authenticated = false
			review.Status.Error = fmt.Sprintf("unexpected audiences authenticated: %q, want %q", []string(response.Audiences), audiences)
			return review, nil
		}
		response = &authenticator.Response{User: response.User, Audiences: authenticator.Audiences(audiences).Intersect(c.Audiences)}
	}
	if ok && response != nil {
		review.Status.User = userInfo(response.User)
		review.Status.Audiences = response.Audiences
	}
	return review, nil
}

func userInfo(who user.Info) authenticationv1.UserInfo {
	info := authenticationv1.UserInfo{Username: who.GetName(), UID: who.GetUID(), Groups: slices.Clone(who.GetGroups())}
	if extra := who.GetExtra(); len(extra) > 0 {
		info.Extra = make(map[string]authenticationv1.ExtraValue, len(extra))
		for key, value := range extra {
			info.Extra[key] = value
		}
	}
	return info
}

// self answers SelfSubjectReview: kubectl auth whoami.
func self(_ context.Context, who user.Info, object runtime.Object) (runtime.Object, error) {
	in, ok := object.(*authenticationv1.SelfSubjectReview)
	if !ok {
		return nil, wrong(object)
	}
	review := in.DeepCopy()
	review.CreationTimestamp = metav1.Now()
	review.Status.UserInfo = userInfo(who)
	return review, nil
}

// access answers SubjectAccessReview.
func (c Config) access(ctx context.Context, _ user.Info, object runtime.Object) (runtime.Object, error) {
	in, ok := object.(*authorizationv1.SubjectAccessReview)
	if !ok {
		return nil, wrong(object)
	}
	review := in.DeepCopy()
	spec := field.NewPath("spec")
	errs := validateAttributes(spec, review.Spec.ResourceAttributes, review.Spec.NonResourceAttributes)
	if review.Spec.User == "" && len(review.Spec.Groups) == 0 {
		errs = append(errs, field.Invalid(spec.Child("user"), review.Spec.User, `at least one of user or group must be specified`))
	}
	if len(errs) > 0 {
		return nil, apierrors.NewInvalid(authorizationv1.SchemeGroupVersion.WithKind("SubjectAccessReview").GroupKind(), "", errs)
	}
	review.Status = c.decide(ctx, subject(&review.Spec), review.Spec.ResourceAttributes, review.Spec.NonResourceAttributes)
	return review, nil
}

// localAccess answers LocalSubjectAccessReview, which is about one namespace.
func (c Config) localAccess(ctx context.Context, _ user.Info, object runtime.Object) (runtime.Object, error) {
	in, ok := object.(*authorizationv1.LocalSubjectAccessReview)
	if !ok {
		return nil, wrong(object)
	}
	review := in.DeepCopy()
	spec := field.NewPath("spec")
	errs := validateAttributes(spec, review.Spec.ResourceAttributes, review.Spec.NonResourceAttributes)
	if review.Spec.User == "" && len(review.Spec.Groups) == 0 {
		errs = append(errs, field.Invalid(spec.Child("user"), review.Spec.User, `at least one of user or group must be specified`))
	}
	namespace := review.Namespace
	if namespace == "" {
		namespace = request.NamespaceValue(ctx)
	}
	if review.Spec.ResourceAttributes != nil && review.Spec.ResourceAttributes.Namespace != namespace {
		errs = append(errs, field.Invalid(spec.Child("resourceAttributes").Child("namespace"), review.Spec.ResourceAttributes.Namespace, `must match metadata.namespace`))
	}
	if review.Spec.NonResourceAttributes != nil {
		errs = append(errs, field.Invalid(spec.Child("nonResourceAttributes"), review.Spec.NonResourceAttributes, `disallowed on this kind of request`))
	}
	if len(errs) > 0 {
		return nil, apierrors.NewInvalid(authorizationv1.SchemeGroupVersion.WithKind("LocalSubjectAccessReview").GroupKind(), "", errs)
	}
	review.Status = c.decide(ctx, subject(&review.Spec), review.Spec.ResourceAttributes, nil)
	return review, nil
}

// selfAccess answers SelfSubjectAccessReview: kubectl auth can-i.
func (c Config) selfAccess(ctx context.Context, who user.Info, object runtime.Object) (runtime.Object, error) {
	in, ok := object.(*authorizationv1.SelfSubjectAccessReview)
	if !ok {
		return nil, wrong(object)
	}
	review := in.DeepCopy()
	if errs := validateAttributes(field.NewPath("spec"), review.Spec.ResourceAttributes, review.Spec.NonResourceAttributes); len(errs) > 0 {
		return nil, apierrors.NewInvalid(authorizationv1.SchemeGroupVersion.WithKind("SelfSubjectAccessReview").GroupKind(), "", errs)
	}
	review.Status = c.decide(ctx, who, review.Spec.ResourceAttributes, review.Spec.NonResourceAttributes)
	return review, nil
}

// rules answers SelfSubjectRulesReview: kubectl auth can-i --list.
func (c Config) rules(ctx context.Context, who user.Info, object runtime.Object) (runtime.Object, error) {
	in, ok := object.(*authorizationv1.SelfSubjectRulesReview)
	if !ok {
		return nil, wrong(object)
	}
	review := in.DeepCopy()
	if review.Spec.Namespace == "" {
		return nil, apierrors.NewBadRequest("no namespace on request")
	}
	resources, paths, incomplete, err := c.Rules.RulesFor(ctx, who, review.Spec.Namespace)
	review.Status = authorizationv1.SubjectRulesReviewStatus{
		ResourceRules: []authorizationv1.ResourceRule{}, NonResourceRules: []authorizationv1.NonResourceRule{}, Incomplete: incomplete}
	for _, r := range resources {
		review.Status.ResourceRules = append(review.Status.ResourceRules, authorizationv1.ResourceRule{
			Verbs: r.GetVerbs(), APIGroups: r.GetAPIGroups(), Resources: r.GetResources(), ResourceNames: r.GetResourceNames()})
	}
	for _, r := range paths {
		review.Status.NonResourceRules = append(review.Status.NonResourceRules, authorizationv1.NonResourceRule{
			Verbs: r.GetVerbs(), NonResourceURLs: r.GetNonResourceURLs()})
	}
	if err != nil {
		review.Status.EvaluationError = err.Error()
	}
	return review, nil
}

func subject(spec *authorizationv1.SubjectAccessReviewSpec) user.Info {
	info := &user.DefaultInfo{Name: spec.User, UID: spec.UID, Groups: spec.Groups}
	if len(spec.Extra) > 0 {
		info.Extra = make(map[string][]string, len(spec.Extra))
		for key, value := range spec.Extra {
			info.Extra[strings.ToLower(key)] = value
		}
	}
	return info
}

func (c Config) decide(ctx context.Context, who user.Info, resource *authorizationv1.ResourceAttributes, path *authorizationv1.NonResourceAttributes) authorizationv1.SubjectAccessReviewStatus {
	var record authorizer.AttributesRecord
	if resource != nil {
		record = authorizer.AttributesRecord{
			User: who, Verb: resource.Verb, Namespace: resource.Namespace, APIGroup: resource.Group, APIVersion: matchAllIfEmpty(resource.Version),
			Resource: resource.Resource, Subresource: resource.Subresource, Name: resource.Name, ResourceRequest: true,
		}
		setSelectors(&record, resource)
	} else {
		record = authorizer.AttributesRecord{User: who, Verb: path.Verb, Path: path.Path}
	}
	decision, reason, err := c.Authorizer.Authorize(ctx, record)
	status := authorizationv1.SubjectAccessReviewStatus{
		Allowed: decision == authorizer.DecisionAllow, Denied: decision == authorizer.DecisionDeny, Reason: reason}
	if err != nil {
		status.EvaluationError = err.Error()
	}
	return status
}

func matchAllIfEmpty(version string) string {
	if version == "" {
		return "*"
	}
	return version
}

// setSelectors carries the question's selectors into the attributes (KEP-4601). A requirement that is not understood is
// left out: the question then asks for more, never for less.
func setSelectors(record *authorizer.AttributesRecord, resource *authorizationv1.ResourceAttributes) {
	if s := resource.FieldSelector; s != nil {
		if s.RawSelector != "" {
			parsed, err := fields.ParseSelector(s.RawSelector)
			if err != nil {
				record.FieldSelectorParsingErr = err
			} else {
				record.FieldSelectorRequirements = parsed.Requirements()
			}
		}
		for _, r := range s.Requirements {
			switch {
			case r.Operator == metav1.FieldSelectorOpIn && len(r.Values) == 1:
				record.FieldSelectorRequirements = append(record.FieldSelectorRequirements, fields.Requirement{Field: r.Key, Operator: selection.Equals, Value: r.Values[0]})
			case r.Operator == metav1.FieldSelectorOpNotIn && len(r.Values) == 1:
				record.FieldSelectorRequirements = append(record.FieldSelectorRequirements, fields.Requirement{Field: r.Key, Operator: selection.NotEquals, Value: r.Values[0]})
			}
		}
	}
	if s := resource.LabelSelector; s != nil {
		if s.RawSelector != "" {
			parsed, err := labels.ParseToRequirements(s.RawSelector)
			if err != nil {
				record.LabelSelectorParsingErr = err
			} else {
				record.LabelSelectorRequirements = parsed
			}
		}
		for _, r := range s.Requirements {
			var operator selection.Operator
			switch r.Operator {
			case metav1.LabelSelectorOpIn:
				operator = selection.In
			case metav1.LabelSelectorOpNotIn:
				operator = selection.NotIn
			case metav1.LabelSelectorOpExists:
				operator = selection.Exists
			case metav1.LabelSelectorOpDoesNotExist:
				operator = selection.DoesNotExist
			default:
				continue
			}
			if requirement, err := labels.NewRequirement(r.Key, operator, r.Values); err == nil {
				record.LabelSelectorRequirements = append(record.LabelSelectorRequirements, *requirement)
			}
		}
	}
}

func validateAttributes(spec *field.Path, resource *authorizationv1.ResourceAttributes, path *authorizationv1.NonResourceAttributes) field.ErrorList {
	var errs field.ErrorList
	if resource != nil && path != nil {
		errs = append(errs, field.Invalid(spec.Child("nonResourceAttributes"), path, `cannot be specified in combination with resourceAttributes`))
	}
	if resource == nil && path == nil {
		errs = append(errs, field.Invalid(spec.Child("resourceAttributes"), resource, `exactly one of nonResourceAttributes or resourceAttributes must be specified`))
	}
	if resource == nil {
		return errs
	}
	at := spec.Child("resourceAttributes")
	if s := resource.FieldSelector; s != nil {
		errs = append(errs, validateSelector(at.Child("fieldSelector"), s.RawSelector, len(s.Requirements))...)
	}
	if s := resource.LabelSelector; s != nil {
		errs = append(errs, validateSelector(at.Child("labelSelector"), s.RawSelector, len(s.Requirements))...)
	}
	return errs
}

func validateSelector(at *field.Path, raw string, requirements int) field.ErrorList {
	switch {
	case raw != "" && requirements > 0:
		return field.ErrorList{field.Invalid(at.Child("rawSelector"), raw, "may not specified at the same time as requirements")}
	case raw == "" && requirements == 0:
		return field.ErrorList{field.Required(at.Child("requirements"), "when "+at.String()+" is specified, requirements or rawSelector is required")}
	}
	return nil
}
