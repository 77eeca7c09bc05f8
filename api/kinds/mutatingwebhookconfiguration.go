package kinds

import (
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// MutatingWebhookConfigurations is admissionregistration.k8s.io/v1 mutatingwebhookconfigurations: servers that are asked to change objects.
func MutatingWebhookConfigurations() *Kind {
	return &Kind{
		GroupVersionKind: admissionv1.SchemeGroupVersion.WithKind("MutatingWebhookConfiguration"),
		Plural:           "mutatingwebhookconfigurations",
		Singular:         "mutatingwebhookconfiguration",
		Categories:       []string{"api-extensions"},
		Verbs:            all,
		New:              func() runtime.Object { return new(admissionv1.MutatingWebhookConfiguration) },
		NewList:          func() runtime.Object { return new(admissionv1.MutatingWebhookConfigurationList) },
		StoragePrefix:    "mutatingwebhookconfigurations",
		Default: defaulting(func(c *admissionv1.MutatingWebhookConfiguration) {
			for i := range c.Webhooks {
				h := &c.Webhooks[i]
				defaultTo(&h.FailurePolicy, admissionv1.Fail)
				defaultTo(&h.MatchPolicy, admissionv1.Equivalent)
				defaultTo(&h.NamespaceSelector, metav1.LabelSelector{})
				defaultTo(&h.ObjectSelector, metav1.LabelSelector{})
				defaultTo(&h.TimeoutSeconds, 10)
				defaultTo(&h.ReinvocationPolicy, admissionv1.NeverReinvocationPolicy)
				defaultRules(h.Rules)
				defaultWebhookService(&h.ClientConfig)
			}
		}),
		PrepareForCreate: onCreate(func(c *admissionv1.MutatingWebhookConfiguration) { c.Generation = 1 }),
		PrepareForUpdate: onUpdate(func(c, old *admissionv1.MutatingWebhookConfiguration) {
			if !apiequality.Semantic.DeepEqual(c.Webhooks, old.Webhooks) {
				c.Generation = old.Generation + 1
			}
		}),
		Validate: checking(func(c *admissionv1.MutatingWebhookConfiguration) field.ErrorList {
			return append(validateRegistration(&c.ObjectMeta, nil), validateWebhooks(c.Webhooks, lenience{})...)
		}),
		ValidateUpdate: checkingUpdate(func(c, old *admissionv1.MutatingWebhookConfiguration) field.ErrorList {
			hooks := c.Webhooks
			return append(validateRegistration(&c.ObjectMeta, &old.ObjectMeta), validateWebhooks(hooks, lenienceFor(hooks, old.Webhooks))...)
		}),
		Warnings: warningsOf(func(c, old *admissionv1.MutatingWebhookConfiguration) []string {
			return warnStaticSuffix(&c.ObjectMeta, old != nil)
		}),
		ValidateName:     NameIsDNSSubdomain,
		FieldLabels:      metaFieldLabels,
		SelectableFields: clusterMetaFields,
		Columns:          webhookColumns(),
		Row: row(func(c *admissionv1.MutatingWebhookConfiguration, now time.Time) []any {
			return []any{c.Name, int64(len(c.Webhooks)), age(c.CreationTimestamp, now)}
		}),
	}
}
