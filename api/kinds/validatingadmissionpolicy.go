package kinds

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	celgo "github.com/google/cel-go/cel"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/client-go/util/jsonpath"
)

// ValidatingAdmissionPolicies is admissionregistration.k8s.io/v1 validatingadmissionpolicies (KEP-3488): rules in CEL that
// refuse objects.
func ValidatingAdmissionPolicies() *Kind {
	return &Kind{
		GroupVersionKind: admissionv1.SchemeGroupVersion.WithKind("ValidatingAdmissionPolicy"),
		Plural:           "validatingadmissionpolicies",
		Singular:         "validatingadmissionpolicy",
		Categories:       []string{"api-extensions"},
		Verbs:            all,
		New:              func() runtime.Object { return new(admissionv1.ValidatingAdmissionPolicy) },
		NewList:          func() runtime.Object { return new(admissionv1.ValidatingAdmissionPolicyList) },
		StoragePrefix:    "validatingadmissionpolicies",
		Default: defaulting(func(p *admissionv1.ValidatingAdmissionPolicy) {
			defaultTo(&p.Spec.FailurePolicy, admissionv1.Fail)
			defaultMatchResources(p.Spec.MatchConstraints)
		}),
		PrepareForCreate: onCreate(func(p *admissionv1.ValidatingAdmissionPolicy) {
			p.Status = admissionv1.ValidatingAdmissionPolicyStatus{}
			p.Generation = 1
		}),
		PrepareForUpdate: onUpdate(func(p, old *admissionv1.ValidatingAdmissionPolicy) {
			p.Status = old.Status
			if !apiequality.Semantic.DeepEqual(p.Spec, old.Spec) {
				p.Generation = old.Generation + 1
			}
		}),
		Validate: checking(func(p *admissionv1.ValidatingAdmissionPolicy) field.ErrorList {
			return append(validateRegistration(&p.ObjectMeta, nil), validateValidatingPolicy(p, nil)...)
		}),
		ValidateUpdate: checkingUpdate(func(p, old *admissionv1.ValidatingAdmissionPolicy) field.ErrorList {
			return append(validateRegistration(&p.ObjectMeta, &old.ObjectMeta), validateValidatingPolicy(p, old)...)
		}),
		Warnings: warningsOf(func(p, old *admissionv1.ValidatingAdmissionPolicy) []string {
			return warnStaticSuffix(&p.ObjectMeta, old != nil)
		}),
		ValidateName: NameIsDNSSubdomain,
		Subresources: map[string]*Subresource{
			"status": {
				Verbs:  viewVerbs,
				Resets: []string{"metadata"},
				PrepareForUpdate: onUpdate(func(p, old *admissionv1.ValidatingAdmissionPolicy) {
					p.Spec = old.Spec
					metav1.ResetObjectMetaForStatus(&p.ObjectMeta, &old.ObjectMeta)
				}),
				ValidateUpdate: checkingUpdate(func(p, old *admissionv1.ValidatingAdmissionPolicy) field.ErrorList {
					return append(ValidateMetaUpdate(&p.ObjectMeta, &old.ObjectMeta), validatePolicyStatus(&p.Status)...)
				}),
			},
		},
		FieldLabels:      metaFieldLabels,
		SelectableFields: clusterMetaFields,
		Columns:          policyColumns("Validations", "Validations indicates the number of validation rules defined in this configuration"),
		Row: row(func(p *admissionv1.ValidatingAdmissionPolicy, now time.Time) []any {
			return []any{p.Name, int64(len(p.Spec.Validations)), paramKindCell(p.Spec.ParamKind), age(p.CreationTimestamp, now)}
		}),
	}
}

const (
	maxAuditAnnotations          = 20
	maxAuditAnnotationExpression = 5 << 10 // bytes
)

var denialReasons = []metav1.StatusReason{metav1.StatusReasonForbidden, metav1.StatusReasonInvalid, metav1.StatusReasonRequestEntityTooLarge}

// validateValidatingPolicy checks p's spec, which replaces old's if old is not nil.
func validateValidatingPolicy(p, old *admissionv1.ValidatingAdmissionPolicy) field.ErrorList {
	s := &p.Spec
	e := &expressions{stored: map[string]bool{}, composing: len(s.Variables) > 0}
	conditionsKept := false
	if old != nil {
		conditionsKept = apiequality.Semantic.DeepEqual(s.ParamKind, old.Spec.ParamKind) && apiequality.Semantic.DeepEqual(s.MatchConditions, old.Spec.MatchConditions)
		for _, c := range old.Spec.MatchConditions {
			e.stored[c.Expression] = true
		}
		for _, v := range old.Spec.Validations {
			e.stored[v.Expression], e.stored[v.MessageExpression] = true, true
		}
		for _, a := range old.Spec.AuditAnnotations {
			e.stored[a.ValueExpression] = true
		}
	}
	e.params = s.ParamKind != nil
	errs := requiredChoice(s.FailurePolicy, failurePolicies, specPath.Child("failurePolicy"))
	errs = append(errs, validateParamKind(s.ParamKind, specPath.Child("paramKind"))...)
	errs = append(errs, validateConstraints(s.MatchConstraints)...)
	if !conditionsKept {
		errs = append(errs, validateMatchConditions(s.MatchConditions, e, specPath.Child("matchConditions"))...)
	}
	errs = append(errs, validateVariables(s.Variables, e)...)
	if len(s.Validations) == 0 && len(s.AuditAnnotations) == 0 {
		const detail = "validations or auditAnnotations must contain at least one item"
		return append(errs, field.Required(specPath.Child("validations"), detail), field.Required(specPath.Child("auditAnnotations"), detail))
	}
	for i := range s.Validations {
		errs = append(errs, validateValidation(&s.Validations[i], e, specPath.Child("validations").Index(i))...)
	}
	path := specPath.Child("auditAnnotations")
	if len(s.AuditAnnotations) > maxAuditAnnotations {
		errs = append(errs, field.Invalid(path, s.AuditAnnotations, fmt.Sprintf("must not have more than %d auditAnnotations", maxAuditAnnotations)))
	}
	keys := map[string]bool{}
	for i := range s.AuditAnnotations {
		a := &s.AuditAnnotations[i]
		errs = append(errs, validateAuditAnnotation(p.Name, a, e, path.Index(i))...)
		if keys[a.Key] {
			errs = append(errs, field.Duplicate(path.Index(i).Child("key"), a.Key))
		}
		keys[a.Key] = true
	}
	return errs
}

var (
	celIdentifier = regexp.MustCompile(`^[_a-zA-Z][_a-zA-Z0-9]*$`)
	celReserved   = []string{"true", "false", "null", "in", "as", "break", "const", "continue", "else", "for", "function", "if", "import", "let",
		"loop", "package", "namespace", "return", "var", "void", "while"}
)

// validateVariables checks spec.variables in order: each may use those before it.
func validateVariables(variables []admissionv1.Variable, e *expressions) (errs field.ErrorList) {
	for i, v := range variables {
		path := specPath.Child("variables").Index(i)
		switch {
		case strings.TrimSpace(v.Name) == "":
			errs = append(errs, field.Required(path.Child("name"), "name is not specified"))
		case !celIdentifier.MatchString(v.Name) || slices.Contains(celReserved, v.Name):
			errs = append(errs, field.Invalid(path.Child("name"), v.Name, "must be a valid CEL identifier"))
		}
		if strings.TrimSpace(v.Expression) == "" {
			errs = append(errs, field.Required(path.Child("expression"), "expression is not specified"))
			continue
		}
		errs = append(errs, e.variable(v.Name, v.Expression, path.Child("expression"))...)
	}
	return errs
}

func validateValidation(v *admissionv1.Validation, e *expressions, path *field.Path) (errs field.ErrorList) {
	if strings.TrimSpace(v.Expression) == "" {
		errs = append(errs, field.Required(path.Child("expression"), "expression is not specified"))
	} else {
		errs = append(errs, e.compile(condition(v.Expression), e.compiler(), true, path.Child("expression"))...)
	}
	switch at := path.Child("messageExpression"); {
	case v.MessageExpression == "":
	case strings.TrimSpace(v.MessageExpression) == "":
		errs = append(errs, field.Invalid(at, v.MessageExpression, "must be non-empty if specified"))
	default:
		errs = append(errs, e.compile(&expression{text: v.MessageExpression, types: []*celgo.Type{celgo.StringType}}, e.compiler(), false, at)...)
	}
	switch text := strings.TrimSpace(v.Message); {
	case v.Message != "" && text == "":
		errs = append(errs, field.Invalid(path.Child("message"), v.Message, "must be non-empty if specified"))
	case strings.ContainsAny(text, "\r\n"):
		errs = append(errs, field.Invalid(path.Child("message"), v.Message, "must not contain line breaks"))
	}
	return append(errs, choice(v.Reason, denialReasons, path.Child("reason"))...)
}

// validateAuditAnnotation checks an annotation of the policy called name.
func validateAuditAnnotation(name string, a *admissionv1.AuditAnnotation, e *expressions, path *field.Path) (errs field.ErrorList) {
	if name == "" {
		errs = append(errs, field.Invalid(path.Child("key"), a.Key, "requires metadata.name be non-empty"))
	} else {
		for _, sentence := range utilvalidation.IsQualifiedName(name + "/" + a.Key) {
			errs = append(errs, field.Invalid(path.Child("key"), name+"/"+a.Key, sentence))
		}
	}
	switch at, text := path.Child("valueExpression"), strings.TrimSpace(a.ValueExpression); {
	case text == "":
		errs = append(errs, field.Required(at, "valueExpression is not specified"))
	case len(text) > maxAuditAnnotationExpression:
		errs = append(errs, field.Required(at, fmt.Sprintf("must not exceed %d bytes in length", maxAuditAnnotationExpression)))
	default:
		x := &expression{text: text, types: []*celgo.Type{celgo.StringType, celgo.NullType}}
		result := e.compiler().CompileCELExpression(x, plugincel.OptionalVariableDeclarations{HasParams: e.params, HasAuthorizer: true}, environmentOf(e.stored[a.ValueExpression]))
		errs = append(errs, celFault(result.Error, a.ValueExpression, at)...)
	}
	return errs
}

func validatePolicyStatus(s *admissionv1.ValidatingAdmissionPolicyStatus) (errs field.ErrorList) {
	path := field.NewPath("status")
	if s.TypeChecking != nil {
		for i, w := range s.TypeChecking.ExpressionWarnings {
			at := path.Child("typeChecking", "expressionWarnings").Index(i)
			if w.Warning == "" {
				errs = append(errs, field.Required(at.Child("warning"), ""))
			}
			ref := strings.TrimSpace(w.FieldRef)
			if ref == "" {
				errs = append(errs, field.Required(at.Child("fieldRef"), ""))
			} else if err := jsonpath.New("spec").Parse("{" + ref + "}"); err != nil {
				errs = append(errs, field.Invalid(at.Child("fieldRef"), ref, fmt.Sprintf("invalid JSONPath: %v", err)))
			}
		}
	}
	return append(errs, metav1validation.ValidateConditions(s.Conditions, path.Child("conditions"))...)
}
