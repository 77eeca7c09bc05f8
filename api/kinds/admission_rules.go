package kinds

import (
	"fmt"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/cel/environment"
)

// What the kinds of admissionregistration.k8s.io have in common: whom a webhook or policy concerns. The choices are
// sorted, as upstream's sentences list them.
var (
	failurePolicies      = []admissionv1.FailurePolicyType{admissionv1.Fail, admissionv1.Ignore}
	matchPolicies        = []admissionv1.MatchPolicyType{admissionv1.Equivalent, admissionv1.Exact}
	reinvocationPolicies = []admissionv1.ReinvocationPolicyType{admissionv1.IfNeededReinvocationPolicy, admissionv1.NeverReinvocationPolicy}
	ruleScopes           = []admissionv1.ScopeType{admissionv1.AllScopes, admissionv1.ClusterScope, admissionv1.NamespacedScope}
	admissionOperations  = []admissionv1.OperationType{admissionv1.OperationAll, admissionv1.Connect, admissionv1.Create, admissionv1.Delete, admissionv1.Update}
	// A policy cannot change what is being deleted.
	mutatingOperations = []admissionv1.OperationType{admissionv1.OperationAll, admissionv1.Connect, admissionv1.Create, admissionv1.Update}
	paramAbsences      = []admissionv1.ParameterNotFoundActionType{admissionv1.DenyAction, admissionv1.AllowAction}
)

const maxMatchConditions = 64

// validateRegistration checks the metadata that all of these kinds have; old is nil on create.
func validateRegistration(m, old *metav1.ObjectMeta) field.ErrorList {
	if old != nil {
		return append(ValidateMetaUpdate(m, old), validation.ValidateObjectMeta(m, false, validation.NameIsDNSSubdomain, metadataPath)...)
	}
	errs := ValidateMeta(m, false, NameIsDNSSubdomain)
	if strings.HasSuffix(m.Name, staticSuffix) {
		errs = append(errs, field.Invalid(metadataPath.Child("name"), m.Name, staticNames))
	}
	return errs
}

// staticSuffix ends the names that are kept for configurations read from files (KEP-5793).
const staticSuffix = ".static.k8s.io"

const staticNames = `names ending with "` + staticSuffix + `" are reserved for static manifest-based configurations and cannot be managed via the API`

// warnStaticSuffix warns of an object that was made before the suffix was kept.
func warnStaticSuffix(m *metav1.ObjectMeta, update bool) []string {
	if !update || !strings.HasSuffix(m.Name, staticSuffix) {
		return nil
	}
	return []string{"metadata.name: " + staticNames}
}

func defaultTo[T any](p **T, value T) {
	if *p == nil {
		*p = &value
	}
}

func defaultMatchResources(m *admissionv1.MatchResources) {
	if m == nil {
		return
	}
	defaultTo(&m.MatchPolicy, admissionv1.Equivalent)
	defaultTo(&m.NamespaceSelector, metav1.LabelSelector{})
	defaultTo(&m.ObjectSelector, metav1.LabelSelector{})
	for i := range m.ResourceRules {
		defaultTo(&m.ResourceRules[i].Scope, admissionv1.AllScopes)
	}
	for i := range m.ExcludeResourceRules {
		defaultTo(&m.ExcludeResourceRules[i].Scope, admissionv1.AllScopes)
	}
}

// choice checks a pointer to one of several words; nil is right.
func choice[T ~string](value *T, supported []T, path *field.Path) field.ErrorList {
	if value == nil || slices.Contains(supported, *value) {
		return nil
	}
	return field.ErrorList{field.NotSupported(path, *value, supported)}
}

// requiredChoice is choice where nil is Required.
func requiredChoice[T ~string](value *T, supported []T, path *field.Path) field.ErrorList {
	if value == nil {
		return field.ErrorList{field.Required(path, "")}
	}
	return choice(value, supported, path)
}

func validateRuleWithOperations(r *admissionv1.RuleWithOperations, path *field.Path) (errs field.ErrorList) {
	at := path.Child("operations")
	if len(r.Operations) == 0 {
		errs = append(errs, field.Required(at, ""))
	}
	if len(r.Operations) > 1 && slices.Contains(r.Operations, admissionv1.OperationAll) {
		errs = append(errs, field.Invalid(at, r.Operations, "if '*' is present, must not specify other operations"))
	}
	for i := range r.Operations {
		errs = append(errs, choice(&r.Operations[i], admissionOperations, at.Index(i))...)
	}
	for _, list := range []struct {
		name, what string
		values     []string
	}{{"apiGroups", "API groups", r.APIGroups}, {"apiVersions", "API versions", r.APIVersions}} {
		at := path.Child(list.name)
		if len(list.values) == 0 {
			errs = append(errs, field.Required(at, ""))
		}
		if len(list.values) > 1 && slices.Contains(list.values, "*") {
			errs = append(errs, field.Invalid(at, list.values, "if '*' is present, must not specify other "+list.what))
		}
	}
	for i, version := range r.APIVersions { // a group may be empty: the core's
		if version == "" {
			errs = append(errs, field.Required(path.Child("apiVersions").Index(i), ""))
		}
	}
	errs = append(errs, validateRuleResources(r.Resources, path.Child("resources"))...)
	return append(errs, choice(r.Scope, ruleScopes, path.Child("scope"))...)
}

// validateRuleResources checks "pods", "pods/log", "pods/*", "*/scale", "*" and "*/*": none may say again what another says.
func validateRuleResources(resources []string, path *field.Path) (errs field.ErrorList) {
	if len(resources) == 0 {
		errs = append(errs, field.Required(path, ""))
	}
	allOf, everywhere := map[string]bool{}, map[string]bool{} // x of x/*, and y of */y
	plain := false
	for i, r := range resources {
		if r == "" {
			errs = append(errs, field.Required(path.Index(i), ""))
			continue
		}
		resource, sub, has := strings.Cut(r, "/")
		if !has {
			plain = r != "*"
			continue
		}
		if allOf[resource] {
			errs = append(errs, field.Invalid(path.Index(i), r, fmt.Sprintf("if '%s/*' is present, must not specify %s", resource, r)))
		}
		if everywhere[sub] {
			errs = append(errs, field.Invalid(path.Index(i), r, fmt.Sprintf("if '*/%s' is present, must not specify %s", sub, r)))
		}
		allOf[resource] = allOf[resource] || sub == "*"
		everywhere[sub] = everywhere[sub] || resource == "*"
	}
	if len(resources) > 1 && slices.Contains(resources, "*/*") {
		errs = append(errs, field.Invalid(path, resources, "if '*/*' is present, must not specify other resources"))
	}
	if plain && slices.Contains(resources, "*") {
		errs = append(errs, field.Invalid(path, resources, "if '*' is present, must not specify other resources without subresources"))
	}
	return errs
}

// validateMatchResources checks whom a policy or binding concerns; nil is right.
func validateMatchResources(m *admissionv1.MatchResources, path *field.Path) (errs field.ErrorList) {
	if m == nil {
		return nil
	}
	errs = append(errs, requiredChoice(m.MatchPolicy, matchPolicies, path.Child("matchPolicy"))...)
	for _, s := range []struct {
		name     string
		selector *metav1.LabelSelector
	}{{"namespaceSelector", m.NamespaceSelector}, {"objectSelector", m.ObjectSelector}} {
		if s.selector == nil {
			errs = append(errs, field.Required(path.Child(s.name), ""))
			continue
		}
		errs = append(errs, metav1validation.ValidateLabelSelector(s.selector, metav1validation.LabelSelectorValidationOptions{}, path.Child(s.name))...)
	}
	errs = append(errs, validateNamedRules(m.ResourceRules, path.Child("resourceRules"))...)
	return append(errs, validateNamedRules(m.ExcludeResourceRules, path.Child("excludeResourceRules"))...)
}

func validateNamedRules(rules []admissionv1.NamedRuleWithOperations, path *field.Path) (errs field.ErrorList) {
	for i := range rules {
		seen := map[string]bool{}
		for j, name := range rules[i].ResourceNames {
			at := path.Index(i).Child("resourceNames").Index(j)
			for _, sentence := range content.IsPathSegmentName(name) {
				errs = append(errs, field.Invalid(at, name, sentence))
			}
			if seen[name] {
				errs = append(errs, field.Duplicate(at, name))
			}
			seen[name] = true
		}
		errs = append(errs, validateRuleWithOperations(&rules[i].RuleWithOperations, path.Index(i))...)
	}
	return errs
}

// validateConstraints checks spec.matchConstraints of a policy, which must name at least one rule: its types come from there.
func validateConstraints(m *admissionv1.MatchResources) field.ErrorList {
	path := specPath.Child("matchConstraints")
	if m == nil {
		return field.ErrorList{field.Required(path, "")}
	}
	errs := validateMatchResources(m, path)
	if len(m.ResourceRules) == 0 {
		errs = append(errs, field.Required(path.Child("resourceRules"), ""))
	}
	return errs
}

// validateMutatingOperations refuses rules of m about what cannot be changed.
func validateMutatingOperations(m *admissionv1.MatchResources, path *field.Path) (errs field.ErrorList) {
	if m == nil {
		return nil
	}
	for i := range m.ResourceRules {
		for j := range m.ResourceRules[i].Operations {
			errs = append(errs, choice(&m.ResourceRules[i].Operations[j], mutatingOperations, path.Child("resourceRules", "operations"))...)
		}
	}
	return errs
}

func validateMatchConditions(conditions []admissionv1.MatchCondition, e *expressions, path *field.Path) (errs field.ErrorList) {
	if len(conditions) > maxMatchConditions {
		errs = append(errs, field.TooMany(path, len(conditions), maxMatchConditions))
	}
	seen := map[string]bool{}
	for i, c := range conditions {
		at := path.Index(i)
		if text := strings.TrimSpace(c.Expression); text == "" {
			errs = append(errs, field.Required(at.Child("expression"), ""))
		} else {
			errs = append(errs, e.compile(condition(text), e.sharedCompiler(), true, at.Child("expression"))...)
		}
		if c.Name == "" {
			errs = append(errs, field.Required(at.Child("name"), ""))
			continue
		}
		for _, sentence := range utilvalidation.IsQualifiedName(c.Name) {
			errs = append(errs, field.Invalid(at.Child("name"), c.Name, sentence))
		}
		if seen[c.Name] {
			errs = append(errs, field.Duplicate(at.Child("name"), c.Name))
		}
		seen[c.Name] = true
	}
	return errs
}

func validateParamKind(k *admissionv1.ParamKind, path *field.Path) (errs field.ErrorList) {
	if k == nil {
		return nil
	}
	at := path.Child("apiVersion")
	group, version, grouped := strings.Cut(k.APIVersion, "/")
	if !grouped {
		group, version = "", group
	}
	switch {
	case k.APIVersion == "":
		errs = append(errs, field.Required(at, ""))
	case strings.Contains(version, "/"):
		errs = append(errs, field.Invalid(at, k.APIVersion, "unexpected GroupVersion string: "+k.APIVersion))
	default:
		if group != "" {
			if s := utilvalidation.IsDNS1123Subdomain(group); len(s) > 0 {
				errs = append(errs, field.Invalid(at, group, strings.Join(s, ",")))
			}
		}
		if version == "" {
			errs = append(errs, field.Invalid(at, k.APIVersion, "version must be specified"))
		} else if s := utilvalidation.IsDNS1035Label(version); len(s) > 0 {
			errs = append(errs, field.Invalid(at, version, strings.Join(s, ",")))
		}
	}
	if k.Kind == "" {
		errs = append(errs, field.Required(path.Child("kind"), ""))
	} else if s := utilvalidation.IsDNS1035Label(strings.ToLower(k.Kind)); len(s) > 0 {
		errs = append(errs, field.Invalid(path.Child("kind"), k.Kind, "may have mixed case, but should otherwise match: "+strings.Join(s, ",")))
	}
	return errs
}

func validateParamRef(r *admissionv1.ParamRef, path *field.Path) (errs field.ErrorList) {
	if r == nil {
		return nil
	}
	if r.Name != "" {
		for _, sentence := range content.IsPathSegmentName(r.Name) {
			errs = append(errs, field.Invalid(path.Child("name"), r.Name, sentence))
		}
		if r.Selector != nil {
			errs = append(errs, field.Forbidden(path.Child("name"), "name and selector are mutually exclusive"))
		}
	}
	if r.Selector != nil {
		errs = append(errs, metav1validation.ValidateLabelSelector(r.Selector, metav1validation.LabelSelectorValidationOptions{}, path.Child("selector"))...)
		if r.Name != "" {
			errs = append(errs, field.Forbidden(path.Child("selector"), "name and selector are mutually exclusive"))
		}
	}
	if r.Name == "" && r.Selector == nil {
		errs = append(errs, field.Required(path, "one of name or selector must be specified"))
	}
	at := path.Child("parameterNotFoundAction")
	if r.ParameterNotFoundAction == nil || *r.ParameterNotFoundAction == "" {
		return append(errs, field.Required(at, ""))
	}
	return append(errs, choice(r.ParameterNotFoundAction, paramAbsences, at)...)
}

// validatePolicyName checks spec.policyName of a binding.
func validatePolicyName(name string) (errs field.ErrorList) {
	path := specPath.Child("policyName")
	if name == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	for _, sentence := range validation.NameIsDNSSubdomain(name, false) {
		errs = append(errs, field.Invalid(path, name, sentence))
	}
	return errs
}

// environmentOf lets an expression that is stored already use what only later versions write anew.
func environmentOf(stored bool) environment.Type {
	if stored {
		return environment.StoredExpressions
	}
	return environment.NewExpressions
}

// paramKindCell and paramRefCell are printed columns of policies and bindings.
func paramKindCell(k *admissionv1.ParamKind) string {
	if k == nil {
		return "<unset>"
	}
	return k.APIVersion + "/" + k.Kind
}

func paramRefCell(r *admissionv1.ParamRef) string {
	switch {
	case r == nil:
	case r.Name != "" && r.Namespace != "":
		return r.Namespace + "/" + r.Name
	case r.Name != "":
		return "*/" + r.Name
	case r.Selector != nil:
		return r.Selector.String()
	}
	return "<unset>"
}

func policyColumns(counted, description string) []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{nameColumn(), column(counted, "integer", description),
		column("ParamKind", "string", "ParamKind specifies the kind of resources used to parameterize this policy"), ageColumn()}
}

func policyBindingColumns() []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{nameColumn(),
		column("PolicyName", "string", "PolicyName indicates the policy definition which the policy binding binded to"),
		column("ParamRef", "string", "ParamRef indicates the param resource which sets the configuration param"), ageColumn()}
}
