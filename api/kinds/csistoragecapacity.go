package kinds

import (
	"fmt"
	"time"

	storagev1 "k8s.io/api/storage/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// CSIStorageCapacities is storage.k8s.io/v1 csistoragecapacities (KEP-1472).
func CSIStorageCapacities() *Kind {
	return &Kind{
		GroupVersionKind: storagev1.SchemeGroupVersion.WithKind("CSIStorageCapacity"),
		Plural:           "csistoragecapacities",
		Singular:         "csistoragecapacity",
		Namespaced:       true,
		Verbs:            all,
		New:              func() runtime.Object { return new(storagev1.CSIStorageCapacity) },
		NewList:          func() runtime.Object { return new(storagev1.CSIStorageCapacityList) },
		StoragePrefix:    "csistoragecapacities",
		Validate: checking(func(c *storagev1.CSIStorageCapacity) field.ErrorList {
			return validateStorageCapacity(c, false)
		}),
		ValidateUpdate: checkingUpdate(func(c, old *storagev1.CSIStorageCapacity) field.ErrorList {
			wrongBefore := len(metav1validation.ValidateLabelSelector(old.NodeTopology, metav1validation.LabelSelectorValidationOptions{}, nil)) > 0
			errs := validateStorageCapacity(c, wrongBefore)
			errs = append(errs, ValidateMetaUpdate(&c.ObjectMeta, &old.ObjectMeta)...)
			if !apiequality.Semantic.DeepEqual(c.NodeTopology, old.NodeTopology) {
				errs = append(errs, field.Invalid(field.NewPath("nodeTopology"), c.NodeTopology, "field is immutable"))
			}
			if c.StorageClassName != old.StorageClassName {
				errs = append(errs, field.Invalid(field.NewPath("storageClassName"), c.StorageClassName, "field is immutable"))
			}
			return errs
		}),
		Warnings: warningsOf(func(c, _ *storagev1.CSIStorageCapacity) (warnings []string) {
			if c.NodeTopology == nil {
				return nil
			}
			path := field.NewPath("nodeTopology")
			for i, e := range c.NodeTopology.MatchExpressions {
				if why, ok := oldLabels[e.Key]; ok {
					warnings = append(warnings, fmt.Sprintf("%s: %s is %s", path.Child("matchExpressions").Index(i).Child("key"), e.Key, why))
				}
			}
			for label := range c.NodeTopology.MatchLabels {
				if why, ok := oldLabels[label]; ok {
					warnings = append(warnings, fmt.Sprintf("%s: %s", path.Child("matchLabels").Child(label), why))
				}
			}
			return warnings
		}),
		ValidateName:     NameIsDNSSubdomain,
		FieldLabels:      metaFieldLabels,
		SelectableFields: namespacedMetaFields,
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("StorageClassName", "string", storagev1.CSIStorageCapacity{}.SwaggerDoc()["storageClassName"]),
			column("Capacity", "string", storagev1.CSIStorageCapacity{}.SwaggerDoc()["capacity"]),
		},
		Row: row(func(c *storagev1.CSIStorageCapacity, _ time.Time) []any {
			capacity := "<unset>"
			if c.Capacity != nil {
				capacity = c.Capacity.String()
			}
			return []any{c.Name, c.StorageClassName, capacity}
		}),
	}
}

// validateStorageCapacity lets malformed label values pass with anyValue.
func validateStorageCapacity(c *storagev1.CSIStorageCapacity, anyValue bool) field.ErrorList {
	errs := ValidateMeta(&c.ObjectMeta, true, NameIsDNSSubdomain)
	errs = append(errs, metav1validation.ValidateLabelSelector(c.NodeTopology,
		metav1validation.LabelSelectorValidationOptions{AllowInvalidLabelValueInSelector: anyValue}, field.NewPath("nodeTopology"))...)
	for _, sentence := range NameIsDNSSubdomain(c.StorageClassName, false) {
		errs = append(errs, field.Invalid(field.NewPath("storageClassName"), c.StorageClassName, sentence))
	}
	if c.Capacity != nil && c.Capacity.Sign() < 0 {
		errs = append(errs, field.Invalid(field.NewPath("capacity"), c.Capacity.String(), "must be greater than or equal to 0"))
	}
	return errs
}
