package kinds

import (
	"time"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// ResourceClaimTemplates is resource.k8s.io/v1 resourceclaimtemplates (KEP-4381).
func ResourceClaimTemplates() *Kind {
	return &Kind{
		GroupVersionKind: resourcev1.SchemeGroupVersion.WithKind("ResourceClaimTemplate"),
		Plural:           "resourceclaimtemplates",
		Singular:         "resourceclaimtemplate",
		Namespaced:       true,
		Verbs:            all,
		New:              func() runtime.Object { return new(resourcev1.ResourceClaimTemplate) },
		NewList:          func() runtime.Object { return new(resourcev1.ResourceClaimTemplateList) },
		StoragePrefix:    "resourceclaimtemplates",
		Default:          defaulting(func(t *resourcev1.ResourceClaimTemplate) { defaultDeviceClaim(&t.Spec.Spec.Devices) }),
		Validate: checking(func(t *resourcev1.ResourceClaimTemplate) field.ErrorList {
			f := faults{list: ValidateMeta(&t.ObjectMeta, true, NameIsDNSSubdomain)}
			w := &where{name: "spec"}
			f.templateMeta(w.field("metadata"), &t.Spec.ObjectMeta)
			f.deviceClaim(w.field("spec").field("devices"), &t.Spec.Spec.Devices)
			return f.list
		}),
		ValidateUpdate: checkingUpdate(func(t, old *resourcev1.ResourceClaimTemplate) field.ErrorList {
			return append(ValidateMetaUpdate(&t.ObjectMeta, &old.ObjectMeta), validation.ValidateImmutableField(t.Spec, old.Spec, specPath)...)
		}),
		ValidateName:     NameIsDNSSubdomain,
		FieldLabels:      metaFieldLabels,
		SelectableFields: namespacedMetaFields,
		Columns:          []metav1.TableColumnDefinition{nameColumn(), ageColumn()},
		Row: row(func(t *resourcev1.ResourceClaimTemplate, now time.Time) []any {
			return []any{t.Name, age(t.CreationTimestamp, now)}
		}),
		AllowUnconditionalUpdate: true,
	}
}
