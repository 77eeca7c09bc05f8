package kinds

import (
	"bytes"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// ConfigMaps is core/v1 configmaps.
func ConfigMaps() *Kind {
	return &Kind{
		GroupVersionKind: corev1.SchemeGroupVersion.WithKind("ConfigMap"),
		Plural:           "configmaps",
		Singular:         "configmap",
		ShortNames:       []string{"cm"},
		Namespaced:       true,
		Verbs:            all,
		New:              func() runtime.Object { return new(corev1.ConfigMap) },
		NewList:          func() runtime.Object { return new(corev1.ConfigMapList) },
		StoragePrefix:    "configmaps",
		Validate:         checking(validateConfigMap),
		ValidateUpdate:   checkingUpdate(validateConfigMapUpdate),
		ValidateName:     NameIsDNSSubdomain,
		FieldLabels:      metaFieldLabels,
		SelectableFields: namespacedMetaFields,
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("Data", "string", corev1.ConfigMap{}.SwaggerDoc()["data"]),
			ageColumn(),
		},
		Row: row(func(cm *corev1.ConfigMap, now time.Time) []any {
			return []any{cm.Name, int64(len(cm.Data) + len(cm.BinaryData)), age(cm.CreationTimestamp, now)}
		}),
		AllowUnconditionalUpdate: true,
	}
}

func validateConfigMap(cm *corev1.ConfigMap) field.ErrorList {
	errs := ValidateMeta(&cm.ObjectMeta, true, NameIsDNSSubdomain)
	size := 0
	for key, value := range cm.Data {
		errs = append(errs, validateDataKey("data", key)...)
		if _, twice := cm.BinaryData[key]; twice {
			errs = append(errs, field.Invalid(field.NewPath("data").Key(key), key, "duplicate of key present in binaryData"))
		}
		size += len(value)
	}
	for key, value := range cm.BinaryData {
		errs = append(errs, validateDataKey("binaryData", key)...)
		size += len(value)
	}
	if size > corev1.MaxSecretSize {
		// The root path, and no value: upstream would not repeat a megabyte.
		errs = append(errs, field.TooLong(field.NewPath(""), "" /*unused*/, corev1.MaxSecretSize))
	}
	return errs
}

// validateDataKey checks a key of a configMap or secret, which becomes a file name in a volume.
func validateDataKey(member, key string) (errs field.ErrorList) {
	for _, sentence := range validation.IsConfigMapKey(key) {
		errs = append(errs, field.Invalid(field.NewPath(member).Key(key), key, sentence))
	}
	return errs
}

func validateConfigMapUpdate(cm, old *corev1.ConfigMap) field.ErrorList {
	errs := ValidateMetaUpdate(&cm.ObjectMeta, &old.ObjectMeta)
	if isTrue(old.Immutable) {
		if !isTrue(cm.Immutable) {
			errs = append(errs, forbidImmutable("immutable"))
		}
		if !maps.Equal(cm.Data, old.Data) {
			errs = append(errs, forbidImmutable("data"))
		}
		if !maps.EqualFunc(cm.BinaryData, old.BinaryData, bytes.Equal) {
			errs = append(errs, forbidImmutable("binaryData"))
		}
	}
	return append(errs, validateConfigMap(cm)...)
}

func forbidImmutable(member string) *field.Error {
	return field.Forbidden(field.NewPath(member), "field is immutable when `immutable` is set")
}
