package kinds

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	contentvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// StorageClasses is storage.k8s.io/v1 storageclasses.
func StorageClasses() *Kind {
	return &Kind{
		GroupVersionKind: storagev1.SchemeGroupVersion.WithKind("StorageClass"),
		Plural:           "storageclasses",
		Singular:         "storageclass",
		ShortNames:       []string{"sc"},
		Verbs:            all,
		New:              func() runtime.Object { return new(storagev1.StorageClass) },
		NewList:          func() runtime.Object { return new(storagev1.StorageClassList) },
		StoragePrefix:    "storageclasses",
		Default: defaulting(func(c *storagev1.StorageClass) {
			if c.ReclaimPolicy == nil {
				c.ReclaimPolicy = ptrTo(corev1.PersistentVolumeReclaimDelete)
			}
			if c.VolumeBindingMode == nil {
				c.VolumeBindingMode = ptrTo(storagev1.VolumeBindingImmediate)
			}
		}),
		Validate: checking(validateStorageClass),
		ValidateUpdate: checkingUpdate(func(c, old *storagev1.StorageClass) field.ErrorList {
			errs := validateStorageClass(c)
			errs = append(errs, ValidateMetaUpdate(&c.ObjectMeta, &old.ObjectMeta)...)
			for _, part := range []struct {
				name    string
				is, was any
			}{{"parameters", c.Parameters, old.Parameters}, {"provisioner", c.Provisioner, old.Provisioner}, {"reclaimPolicy", c.ReclaimPolicy, old.ReclaimPolicy}, {"volumeBindingMode", c.VolumeBindingMode, old.VolumeBindingMode}} {
				if !apiequality.Semantic.DeepEqual(part.is, part.was) {
					errs = append(errs, field.Invalid(field.NewPath(part.name), nil, validation.FieldImmutableErrorMsg)) // upstream does not show the value
				}
			}
			return errs
		}),
		Warnings: warningsOf(func(c, _ *storagev1.StorageClass) (warnings []string) {
			for i, t := range c.AllowedTopologies {
				for j, e := range t.MatchLabelExpressions {
					if why, ok := oldLabels[e.Key]; ok {
						at := field.NewPath("allowedTopologies").Index(i).Child("matchLabelExpressions").Index(j).Child("key")
						warnings = append(warnings, fmt.Sprintf("%s: %s", at, why))
					}
				}
			}
			return warnings
		}),
		ValidateName:     NameIsDNSSubdomain,
		FieldLabels:      metaFieldLabels,
		SelectableFields: clusterMetaFields,
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("Provisioner", "string", storagev1.StorageClass{}.SwaggerDoc()["provisioner"]),
			column("ReclaimPolicy", "string", storagev1.StorageClass{}.SwaggerDoc()["reclaimPolicy"]),
			column("VolumeBindingMode", "string", storagev1.StorageClass{}.SwaggerDoc()["volumeBindingMode"]),
			column("AllowVolumeExpansion", "string", storagev1.StorageClass{}.SwaggerDoc()["allowVolumeExpansion"]),
			ageColumn(),
		},
		Row: row(func(c *storagev1.StorageClass, now time.Time) []any {
			policy, mode, expands := corev1.PersistentVolumeReclaimDelete, storagev1.VolumeBindingImmediate, false
			if c.ReclaimPolicy != nil {
				policy = *c.ReclaimPolicy
			}
			if c.VolumeBindingMode != nil {
				mode = *c.VolumeBindingMode
			}
			if c.AllowVolumeExpansion != nil {
				expands = *c.AllowVolumeExpansion
			}
			return []any{c.Name, c.Provisioner, string(policy), string(mode), expands, age(c.CreationTimestamp, now)}
		}),
		AllowUnconditionalUpdate: true,
	}
}

func validateStorageClass(c *storagev1.StorageClass) field.ErrorList {
	errs := ValidateMeta(&c.ObjectMeta, false, NameIsDNSSubdomain)
	errs = append(errs, validateProvisioner(c.Provisioner, field.NewPath("provisioner"))...)
	errs = append(errs, validateParameters(c.Parameters, field.NewPath("parameters"))...)
	if p := c.ReclaimPolicy; p != nil && *p != "" && *p != corev1.PersistentVolumeReclaimDelete && *p != corev1.PersistentVolumeReclaimRetain {
		errs = append(errs, field.NotSupported(field.NewPath("reclaimPolicy"), *p,
			[]corev1.PersistentVolumeReclaimPolicy{corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRetain}))
	}
	if m := c.VolumeBindingMode; m == nil {
		errs = append(errs, field.Required(field.NewPath("volumeBindingMode"), ""))
	} else if *m != storagev1.VolumeBindingImmediate && *m != storagev1.VolumeBindingWaitForFirstConsumer {
		errs = append(errs, field.NotSupported(field.NewPath("volumeBindingMode"), *m,
			[]storagev1.VolumeBindingMode{storagev1.VolumeBindingImmediate, storagev1.VolumeBindingWaitForFirstConsumer}))
	}
	return append(errs, validateTopologies(c.AllowedTopologies, field.NewPath("allowedTopologies"))...)
}

// validateProvisioner checks the name of who makes volumes: a qualified name, in any case.
func validateProvisioner(name string, path *field.Path) (errs field.ErrorList) {
	if name == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	name = strings.ToLower(name)
	for _, sentence := range contentvalidation.IsQualifiedName(name) {
		errs = append(errs, field.Invalid(path, name, sentence))
	}
	return errs
}

// Bounds of what a class may tell its driver.
const (
	maxClassParameters     = 512
	maxClassParametersSize = 256 << 10
)

// validateParameters checks the opaque parameters of a storage or volume attributes class.
func validateParameters(parameters map[string]string, path *field.Path) (errs field.ErrorList) {
	if len(parameters) > maxClassParameters {
		return field.ErrorList{field.TooLong(path, "", maxClassParameters)}
	}
	size := 0
	for key, value := range parameters {
		if key == "" {
			errs = append(errs, field.Invalid(path, key, "field can not be empty."))
		}
		size += len(key) + len(value)
	}
	if size > maxClassParametersSize {
		errs = append(errs, field.TooLong(path, "", maxClassParametersSize))
	}
	return errs
}

// validateTopologies checks where volumes of a class may be made. Of two terms that say the same, the second is a fault.
func validateTopologies(terms []corev1.TopologySelectorTerm, path *field.Path) (errs field.ErrorList) {
	// Upstream's list begins with as many empty terms as there are terms, so one that says nothing is a fault as well.
	before := make([]map[string]map[string]bool, len(terms))
	for i, t := range terms {
		at := path.Index(i)
		means := make(map[string]map[string]bool, len(t.MatchLabelExpressions))
		for j, e := range t.MatchLabelExpressions {
			at := at.Child("matchLabelExpressions").Index(j)
			values := make(map[string]bool, len(e.Values))
			if len(e.Values) == 0 {
				errs = append(errs, field.Required(at.Child("values"), ""))
			}
			for k, v := range e.Values {
				if values[v] {
					errs = append(errs, field.Duplicate(at.Child("values").Index(k), v))
				}
				values[v] = true
			}
			for _, sentence := range contentvalidation.IsQualifiedName(e.Key) {
				errs = append(errs, field.Invalid(at.Child("key"), e.Key, sentence))
			}
			if _, twice := means[e.Key]; twice {
				errs = append(errs, field.Duplicate(at.Child("key"), e.Key))
			}
			means[e.Key] = values
		}
		for _, other := range before {
			if apiequality.Semantic.DeepEqual(means, other) {
				errs = append(errs, field.Duplicate(at.Child("matchLabelExpressions"), ""))
			}
		}
		before = append(before, means)
	}
	return errs
}
