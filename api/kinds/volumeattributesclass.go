package kinds

import (
	"maps"
	"time"

	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// VolumeAttributesClasses is storage.k8s.io/v1 volumeattributesclasses (KEP-3751).
func VolumeAttributesClasses() *Kind {
	return &Kind{
		GroupVersionKind: storagev1.SchemeGroupVersion.WithKind("VolumeAttributesClass"),
		Plural:           "volumeattributesclasses",
		Singular:         "volumeattributesclass",
		ShortNames:       []string{"vac"},
		Verbs:            all,
		New:              func() runtime.Object { return new(storagev1.VolumeAttributesClass) },
		NewList:          func() runtime.Object { return new(storagev1.VolumeAttributesClassList) },
		StoragePrefix:    "volumeattributesclasses",
		Validate:         checking(validateAttributesClass),
		ValidateUpdate: checkingUpdate(func(c, old *storagev1.VolumeAttributesClass) field.ErrorList {
			errs := ValidateMetaUpdate(&c.ObjectMeta, &old.ObjectMeta)
			if c.DriverName != old.DriverName {
				errs = append(errs, field.Forbidden(field.NewPath("driverName"), "updates to driverName are forbidden."))
			}
			if !maps.Equal(c.Parameters, old.Parameters) || (c.Parameters == nil) != (old.Parameters == nil) {
				errs = append(errs, field.Forbidden(field.NewPath("parameters"), "updates to parameters are forbidden."))
			}
			return append(errs, validateAttributesClass(c)...)
		}),
		ValidateName:     NameIsDNSSubdomain,
		FieldLabels:      metaFieldLabels,
		SelectableFields: clusterMetaFields,
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("DriverName", "string", storagev1.VolumeAttributesClass{}.SwaggerDoc()["driverName"]),
			ageColumn(),
		},
		Row: row(func(c *storagev1.VolumeAttributesClass, now time.Time) []any {
			return []any{c.Name, c.DriverName, age(c.CreationTimestamp, now)}
		}),
		AllowUnconditionalUpdate: true,
	}
}

func validateAttributesClass(c *storagev1.VolumeAttributesClass) field.ErrorList {
	errs := ValidateMeta(&c.ObjectMeta, false, NameIsDNSSubdomain)
	errs = append(errs, validateProvisioner(c.DriverName, field.NewPath("driverName"))...)
	path := field.NewPath("parameters")
	errs = append(errs, validateParameters(c.Parameters, path)...)
	if len(c.Parameters) == 0 {
		errs = append(errs, field.Required(path, "must contain at least one key/value pair"))
	}
	return errs
}
