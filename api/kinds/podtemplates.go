package kinds

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// PodTemplates is core/v1 podtemplates.
func PodTemplates() *Kind {
	path := field.NewPath("template")
	return &Kind{
		GroupVersionKind: corev1.SchemeGroupVersion.WithKind("PodTemplate"),
		Plural:           "podtemplates",
		Singular:         "podtemplate",
		Namespaced:       true,
		Verbs:            all,
		New:              func() runtime.Object { return new(corev1.PodTemplate) },
		NewList:          func() runtime.Object { return new(corev1.PodTemplateList) },
		StoragePrefix:    "podtemplates",
		Default:          defaulting(func(t *corev1.PodTemplate) { DefaultPodTemplate(&t.Template) }),
		PrepareForCreate: onCreate(func(t *corev1.PodTemplate) {
			t.Generation = 1
			PreparePodTemplate(&t.Template, nil)
		}),
		PrepareForUpdate: onUpdate(func(t, old *corev1.PodTemplate) {
			PreparePodTemplate(&t.Template, &old.Template)
			nextGeneration(&t.ObjectMeta, &old.ObjectMeta, t.Template, old.Template)
		}),
		Validate: checking(func(t *corev1.PodTemplate) field.ErrorList {
			return append(ValidateMeta(&t.ObjectMeta, true, NameIsDNSSubdomain), ValidatePodTemplate(&t.Template, nil, path)...)
		}),
		ValidateUpdate: checkingUpdate(func(t, old *corev1.PodTemplate) field.ErrorList {
			return append(ValidateMetaUpdate(&t.ObjectMeta, &old.ObjectMeta), ValidatePodTemplate(&t.Template, &old.Template, path)...)
		}),
		Warnings: warningsOf(func(t, old *corev1.PodTemplate) []string {
			return workloadWarnings(&t.ObjectMeta, metaOf(old), &t.Template, path, false)
		}),
		ValidateName:     NameIsDNSSubdomain,
		FieldLabels:      metaFieldLabels,
		SelectableFields: namespacedMetaFields,
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("Containers", "string", "Names of each container in the template."),
			column("Images", "string", "Images referenced by each container in the template."),
			column("Pod Labels", "string", "The labels for the pod template."),
		},
		Row: row(func(t *corev1.PodTemplate, _ time.Time) []any {
			names, images := containerCells(t.Template.Spec.Containers)
			return []any{t.Name, names, images, labels.FormatLabels(t.Template.Labels)}
		}),
		AllowUnconditionalUpdate: true,
	}
}
