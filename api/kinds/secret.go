package kinds

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Secrets is core/v1 secrets.
func Secrets() *Kind {
	return &Kind{
		GroupVersionKind: corev1.SchemeGroupVersion.WithKind("Secret"),
		Plural:           "secrets",
		Singular:         "secret",
		Namespaced:       true,
		Verbs:            all,
		New:              func() runtime.Object { return new(corev1.Secret) },
		NewList:          func() runtime.Object { return new(corev1.SecretList) },
		StoragePrefix:    "secrets",
		Default:          defaulting(defaultSecret),
		PrepareForUpdate: onUpdate(func(s, old *corev1.Secret) {
			if s.Type == "" {
				s.Type = old.Type
			}
		}),
		Validate:       checking(validateSecret),
		ValidateUpdate: checkingUpdate(validateSecretUpdate),
		Warnings:       warningsOf(warnSecret),
		ValidateName:   NameIsDNSSubdomain,
		FieldLabels:    []string{"metadata.name", "metadata.namespace", "type"},
		SelectableFields: selecting(func(s *corev1.Secret) fields.Set {
			set := metaFields(&s.ObjectMeta, true, 1)
			set["type"] = string(s.Type)
			return set
		}),
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("Type", "string", corev1.Secret{}.SwaggerDoc()["type"]),
			column("Data", "string", corev1.Secret{}.SwaggerDoc()["data"]),
			ageColumn(),
		},
		Row: row(func(s *corev1.Secret, now time.Time) []any {
			return []any{s.Name, string(s.Type), int64(len(s.Data)), age(s.CreationTimestamp, now)}
		}),
		AllowUnconditionalUpdate: true,
	}
}

// defaultSecret also folds the write-only stringData into data, as upstream does when it decodes: it is never stored.
func defaultSecret(s *corev1.Secret) {
	if len(s.StringData) > 0 {
		if s.Data == nil {
			s.Data = make(map[string][]byte, len(s.StringData))
		}
		for key, value := range s.StringData {
			s.Data[key] = []byte(value)
		}
		s.StringData = nil
	}
	if s.Type == "" {
		s.Type = corev1.SecretTypeOpaque
	}
}

func validateSecret(s *corev1.Secret) field.ErrorList {
	errs := ValidateMeta(&s.ObjectMeta, true, NameIsDNSSubdomain)
	data := field.NewPath("data")
	size := 0
	for key, value := range s.Data {
		errs = append(errs, validateDataKey("data", key)...)
		size += len(value)
	}
	if size > corev1.MaxSecretSize {
		errs = append(errs, field.TooLong(data, "" /*unused*/, corev1.MaxSecretSize))
	}

	has := func(key string) bool { _, ok := s.Data[key]; return ok }
	require := func(key string) {
		if !has(key) {
			errs = append(errs, field.Required(data.Key(key), ""))
		}
	}
	jsonObject := func(key string) {
		value, ok := s.Data[key]
		if !ok {
			errs = append(errs, field.Required(data.Key(key), ""))
		} else if err := json.Unmarshal(value, &map[string]any{}); err != nil {
			errs = append(errs, field.Invalid(data.Key(key), "<secret contents redacted>", err.Error()))
		}
	}
	switch s.Type {
	case corev1.SecretTypeServiceAccountToken:
		if s.Annotations[corev1.ServiceAccountNameKey] == "" {
			errs = append(errs, field.Required(metadataPath.Child("annotations").Key(corev1.ServiceAccountNameKey), ""))
		}
	case corev1.SecretTypeDockercfg:
		jsonObject(corev1.DockerConfigKey)
	case corev1.SecretTypeDockerConfigJson:
		jsonObject(corev1.DockerConfigJsonKey)
	case corev1.SecretTypeBasicAuth:
		if !has(corev1.BasicAuthUsernameKey) && !has(corev1.BasicAuthPasswordKey) {
			require(corev1.BasicAuthUsernameKey)
			require(corev1.BasicAuthPasswordKey)
		}
	case corev1.SecretTypeSSHAuth:
		if len(s.Data[corev1.SSHAuthPrivateKey]) == 0 {
			errs = append(errs, field.Required(data.Key(corev1.SSHAuthPrivateKey), ""))
		}
	case corev1.SecretTypeTLS:
		require(corev1.TLSCertKey)
		require(corev1.TLSPrivateKeyKey)
	}
	return errs
}

func validateSecretUpdate(s, old *corev1.Secret) field.ErrorList {
	errs := ValidateMetaUpdate(&s.ObjectMeta, &old.ObjectMeta)
	errs = append(errs, validation.ValidateImmutableField(s.Type, old.Type, field.NewPath("type"))...)
	if isTrue(old.Immutable) {
		if !isTrue(s.Immutable) {
			errs = append(errs, forbidImmutable("immutable"))
		}
		if !maps.EqualFunc(s.Data, old.Data, bytes.Equal) {
			errs = append(errs, forbidImmutable("data"))
		}
	}
	return append(errs, validateSecret(s)...)
}

// warnSecret tells of contents that are accepted but will not work. The words never repeat the contents.
func warnSecret(s, _ *corev1.Secret) []string {
	switch s.Type {
	case corev1.SecretTypeTLS:
		if _, err := tls.X509KeyPair(s.Data[corev1.TLSCertKey], s.Data[corev1.TLSPrivateKeyKey]); err != nil {
			return []string{fmt.Sprint(err)}
		}
	}
	return nil
}
