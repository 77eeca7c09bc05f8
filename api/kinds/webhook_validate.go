package kinds

import (
	"fmt"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/util/webhook"
)

// The two kinds of webhook differ in one field (reinvocationPolicy), so they share these rules: a validating webhook is
// looked at as a mutating one.
var (
	sideEffects   = []admissionv1.SideEffectClass{admissionv1.SideEffectClassNone, admissionv1.SideEffectClassNoneOnDryRun, admissionv1.SideEffectClassSome, admissionv1.SideEffectClassUnknown}
	noSideEffects = sideEffects[:2]
	// reviewVersions are those of AdmissionReview that the server speaks, the newest first.
	reviewVersions = []string{"v1", "v1beta1"}
)

const maxWebhookTimeout = 30 // seconds

var webhooksPath = field.NewPath("webhooks")

// asMutating returns hooks in the common form. What is inside is shared with hooks.
func asMutating(hooks []admissionv1.ValidatingWebhook) []admissionv1.MutatingWebhook {
	out := make([]admissionv1.MutatingWebhook, len(hooks))
	for i, h := range hooks {
		out[i] = admissionv1.MutatingWebhook{Name: h.Name, ClientConfig: h.ClientConfig, Rules: h.Rules, FailurePolicy: h.FailurePolicy, MatchPolicy: h.MatchPolicy,
			NamespaceSelector: h.NamespaceSelector, ObjectSelector: h.ObjectSelector, SideEffects: h.SideEffects, TimeoutSeconds: h.TimeoutSeconds,
			AdmissionReviewVersions: h.AdmissionReviewVersions, MatchConditions: h.MatchConditions}
	}
	return out
}

func defaultRules(rules []admissionv1.RuleWithOperations) {
	for i := range rules {
		defaultTo(&rules[i].Scope, admissionv1.AllScopes)
	}
}

func defaultWebhookService(c *admissionv1.WebhookClientConfig) {
	if c.Service != nil {
		defaultTo(&c.Service.Port, 443)
	}
}

// lenience is what an update may keep wrong because it was stored before the rule was made.
type lenience struct {
	conditions, sideEffects, versions, names, selectors bool
	stored                                              map[string]bool
}

// lenienceFor looks at what hooks replace.
func lenienceFor(hooks, old []admissionv1.MutatingWebhook) (l lenience) {
	l.stored = map[string]bool{}
	l.conditions = len(hooks) == len(old)
	names := map[string]bool{}
	for i := range old {
		h := &old[i]
		l.conditions = l.conditions && apiequality.Semantic.DeepEqual(hooks[i].MatchConditions, h.MatchConditions)
		l.sideEffects = l.sideEffects || h.SideEffects == nil || !slices.Contains(noSideEffects, *h.SideEffects)
		l.versions = l.versions || len(h.AdmissionReviewVersions) > 0 && !speaks(h.AdmissionReviewVersions)
		l.names = l.names || names[h.Name]
		names[h.Name] = true
		for _, s := range []*metav1.LabelSelector{h.NamespaceSelector, h.ObjectSelector} {
			l.selectors = l.selectors || len(metav1validation.ValidateLabelSelector(s, metav1validation.LabelSelectorValidationOptions{}, nil)) > 0
		}
		for _, c := range h.MatchConditions {
			l.stored[c.Expression] = true
		}
	}
	return l
}

func speaks(versions []string) bool {
	return slices.ContainsFunc(versions, func(v string) bool { return slices.Contains(reviewVersions, v) })
}

// validateWebhooks checks all webhooks of a configuration.
func validateWebhooks(hooks []admissionv1.MutatingWebhook, l lenience) (errs field.ErrorList) {
	e := &expressions{stored: l.stored}
	names := map[string]bool{}
	for i := range hooks {
		h, path := &hooks[i], webhooksPath.Index(i)
		errs = append(errs, validateWebhook(h, l, path)...)
		if !l.conditions {
			errs = append(errs, validateMatchConditions(h.MatchConditions, e, path.Child("matchConditions"))...)
		}
		errs = append(errs, validateReviewVersions(h.AdmissionReviewVersions, !l.versions, path.Child("admissionReviewVersions"))...)
		if h.Name != "" && !l.names {
			if names[h.Name] {
				errs = append(errs, field.Duplicate(path.Child("name"), h.Name))
			}
			names[h.Name] = true
		}
	}
	return errs
}

func validateWebhook(h *admissionv1.MutatingWebhook, l lenience, path *field.Path) field.ErrorList {
	errs := utilvalidation.IsFullyQualifiedName(path.Child("name"), h.Name)
	for i := range h.Rules {
		errs = append(errs, validateRuleWithOperations(&h.Rules[i], path.Child("rules").Index(i))...)
	}
	errs = append(errs, choice(h.FailurePolicy, failurePolicies, path.Child("failurePolicy"))...)
	errs = append(errs, choice(h.MatchPolicy, matchPolicies, path.Child("matchPolicy"))...)
	allowed := noSideEffects
	if l.sideEffects {
		allowed = sideEffects
	}
	if h.SideEffects == nil {
		words := make([]string, len(allowed))
		for i, w := range allowed {
			words[i] = string(w)
		}
		errs = append(errs, field.Required(path.Child("sideEffects"), "must specify one of "+strings.Join(words, ", ")))
	}
	errs = append(errs, choice(h.SideEffects, allowed, path.Child("sideEffects"))...)
	if t := h.TimeoutSeconds; t != nil && (*t < 1 || *t > maxWebhookTimeout) {
		errs = append(errs, field.Invalid(path.Child("timeoutSeconds"), *t, fmt.Sprintf("the timeout value must be between 1 and %d seconds", maxWebhookTimeout)))
	}
	selectors := metav1validation.LabelSelectorValidationOptions{AllowInvalidLabelValueInSelector: l.selectors}
	errs = append(errs, metav1validation.ValidateLabelSelector(h.NamespaceSelector, selectors, path.Child("namespaceSelector"))...)
	errs = append(errs, metav1validation.ValidateLabelSelector(h.ObjectSelector, selectors, path.Child("objectSelector"))...)
	errs = append(errs, choice(h.ReinvocationPolicy, reinvocationPolicies, path.Child("reinvocationPolicy"))...)
	return append(errs, validateWebhookClient(&h.ClientConfig, path.Child("clientConfig"))...)
}

func validateWebhookClient(c *admissionv1.WebhookClientConfig, path *field.Path) field.ErrorList {
	switch {
	case (c.URL == nil) == (c.Service == nil):
		return field.ErrorList{field.Required(path, "exactly one of url or service is required")}
	case c.URL != nil:
		return webhook.ValidateWebhookURL(path.Child("url"), *c.URL, true)
	default:
		port := int32(443)
		if c.Service.Port != nil {
			port = *c.Service.Port
		}
		return webhook.ValidateWebhookService(path.Child("service"), c.Service.Name, c.Service.Namespace, c.Service.Path, port)
	}
}

func validateReviewVersions(versions []string, known bool, path *field.Path) (errs field.ErrorList) {
	if len(versions) == 0 {
		return field.ErrorList{field.Required(path, "must specify one of "+strings.Join(reviewVersions, ", "))}
	}
	seen := map[string]bool{}
	for i, v := range versions {
		if seen[v] {
			errs = append(errs, field.Invalid(path.Index(i), v, "duplicate version"))
			continue
		}
		seen[v] = true
		for _, sentence := range utilvalidation.IsDNS1035Label(v) {
			errs = append(errs, field.Invalid(path.Index(i), v, sentence))
		}
	}
	if known && !speaks(versions) {
		errs = append(errs, field.Invalid(path, versions, "must include at least one of "+strings.Join(reviewVersions, ", ")))
	}
	return errs
}

func webhookColumns() []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{nameColumn(),
		column("Webhooks", "integer", "Webhooks indicates the number of webhooks registered in this configuration"), ageColumn()}
}
