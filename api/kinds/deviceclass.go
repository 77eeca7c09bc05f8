package kinds

import (
	"strings"
	"time"

	resourcev1 "k8s.io/api/resource/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// DeviceClasses is resource.k8s.io/v1 deviceclasses (KEP-4381).
func DeviceClasses() *Kind {
	validate := func(c *resourcev1.DeviceClass) field.ErrorList {
		f := faults{list: ValidateMeta(&c.ObjectMeta, false, NameIsDNSSubdomain)}
		w := &where{name: "spec"}
		f.deviceSelectors(w.field("selectors"), c.Spec.Selectors)
		if f.fewEnough(w.field("config"), len(c.Spec.Config), resourcev1.DeviceConfigMaxSize) {
			for i := range c.Spec.Config {
				f.deviceConfig(w.field("config").at(i), &c.Spec.Config[i].DeviceConfiguration)
			}
		}
		if name := c.Spec.ExtendedResourceName; name != nil && !isExtendedResource(*name) {
			f.invalid(w.field("extendedResourceName"), *name, "must be a valid extended resource name")
		}
		return f.list
	}
	return &Kind{
		GroupVersionKind: resourcev1.SchemeGroupVersion.WithKind("DeviceClass"),
		Plural:           "deviceclasses",
		Singular:         "deviceclass",
		Verbs:            all,
		New:              func() runtime.Object { return new(resourcev1.DeviceClass) },
		NewList:          func() runtime.Object { return new(resourcev1.DeviceClassList) },
		StoragePrefix:    "deviceclasses",
		PrepareForCreate: onCreate(func(c *resourcev1.DeviceClass) { c.Generation = 1 }),
		PrepareForUpdate: onUpdate(func(c, old *resourcev1.DeviceClass) {
			if !apiequality.Semantic.DeepEqual(c.Spec, old.Spec) {
				c.Generation = old.Generation + 1
			}
		}),
		Validate: checking(validate),
		ValidateUpdate: checkingUpdate(func(c, old *resourcev1.DeviceClass) field.ErrorList {
			return append(ValidateMetaUpdate(&c.ObjectMeta, &old.ObjectMeta), validate(c)...)
		}),
		ValidateName:     NameIsDNSSubdomain,
		FieldLabels:      metaFieldLabels,
		SelectableFields: clusterMetaFields,
		Columns:          []metav1.TableColumnDefinition{nameColumn(), ageColumn()},
		Row: row(func(c *resourcev1.DeviceClass, now time.Time) []any {
			return []any{c.Name, age(c.CreationTimestamp, now)}
		}),
		AllowUnconditionalUpdate: true,
	}
}

// isExtendedResource reports whether a resource has a domain of its own and could stand in a quota.
func isExtendedResource(name string) bool {
	domain, _, ok := strings.Cut(name, "/")
	return ok && !strings.Contains(domain+"/", "kubernetes.io/") && !strings.HasPrefix(name, "requests.") &&
		len(validation.IsQualifiedName("requests."+name)) == 0
}
