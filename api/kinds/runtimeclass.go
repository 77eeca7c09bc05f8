package kinds

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// RuntimeClasses is node.k8s.io/v1 runtimeclasses (KEP-585).
func RuntimeClasses() *Kind {
	return &Kind{
		GroupVersionKind: nodev1.SchemeGroupVersion.WithKind("RuntimeClass"),
		Plural:           "runtimeclasses",
		Singular:         "runtimeclass",
		Verbs:            all,
		New:              func() runtime.Object { return new(nodev1.RuntimeClass) },
		NewList:          func() runtime.Object { return new(nodev1.RuntimeClassList) },
		StoragePrefix:    "runtimeclasses",
		Default: defaulting(func(c *nodev1.RuntimeClass) {
			if c.Overhead != nil {
				roundToMilli(c.Overhead.PodFixed)
			}
		}),
		Validate: checking(validateRuntimeClass),
		ValidateUpdate: checkingUpdate(func(c, old *nodev1.RuntimeClass) field.ErrorList {
			errs := append(ValidateMetaUpdate(&c.ObjectMeta, &old.ObjectMeta), validateRuntimeClass(c)...)
			return append(errs, validation.ValidateImmutableField(c.Handler, old.Handler, field.NewPath("handler"))...)
		}),
		ValidateName:     NameIsDNSSubdomain,
		FieldLabels:      metaFieldLabels,
		SelectableFields: clusterMetaFields,
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("Handler", "string", nodev1.RuntimeClass{}.SwaggerDoc()["handler"]),
			ageColumn(),
		},
		Row: row(func(c *nodev1.RuntimeClass, now time.Time) []any {
			return []any{c.Name, c.Handler, age(c.CreationTimestamp, now)}
		}),
		AllowCreateOnUpdate: true,
	}
}

func validateRuntimeClass(c *nodev1.RuntimeClass) field.ErrorList {
	errs := ValidateMeta(&c.ObjectMeta, false, NameIsDNSSubdomain)
	if c.Handler == "" {
		errs = append(errs, field.Required(field.NewPath("handler"), ""))
	} else {
		for _, sentence := range content.IsDNS1123Label(c.Handler) {
			errs = append(errs, field.Invalid(field.NewPath("handler"), c.Handler, sentence))
		}
	}
	if c.Overhead != nil {
		var check podCheck
		check.resources(&where{name: "overhead"}, &corev1.ResourceRequirements{Limits: c.Overhead.PodFixed}, resourcesOfContainer)
		errs = append(errs, check.list...)
	}
	if s := c.Scheduling; s != nil {
		if s.NodeSelector != nil {
			errs = append(errs, metav1validation.ValidateLabels(s.NodeSelector, field.NewPath("scheduling", "nodeSelector"))...)
		}
		var f faults
		f.tolerations((&where{name: "scheduling"}).field("tolerations"), s.Tolerations, true)
		for i := range s.Tolerations {
			for j := range i {
				if apiequality.Semantic.DeepEqual(s.Tolerations[i], s.Tolerations[j]) {
					errs = append(errs, field.Duplicate(field.NewPath("scheduling", "tolerations").Index(i), s.Tolerations[i]))
					break
				}
			}
		}
		errs = append(errs, f.list...)
	}
	return errs
}
