package kinds

import (
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// enforceMountableSecrets is the deprecated annotation that limits which secrets a service account's pods may mount.
const enforceMountableSecrets = "kubernetes.io/enforce-mountable-secrets"

// ServiceAccounts is core/v1 serviceaccounts. Tokens are made by the token subresource, never stored.
func ServiceAccounts() *Kind {
	return &Kind{
		GroupVersionKind: corev1.SchemeGroupVersion.WithKind("ServiceAccount"),
		Plural:           "serviceaccounts",
		Singular:         "serviceaccount",
		ShortNames:       []string{"sa"},
		Namespaced:       true,
		Verbs:            all,
		New:              func() runtime.Object { return new(corev1.ServiceAccount) },
		NewList:          func() runtime.Object { return new(corev1.ServiceAccountList) },
		StoragePrefix:    "serviceaccounts",
		PrepareForCreate: onCreate(cleanSecretReferences),
		PrepareForUpdate: onUpdate(func(sa, _ *corev1.ServiceAccount) { cleanSecretReferences(sa) }),
		Validate:         checking(validateServiceAccount),
		ValidateUpdate: checkingUpdate(func(sa, old *corev1.ServiceAccount) field.ErrorList {
			return append(ValidateMetaUpdate(&sa.ObjectMeta, &old.ObjectMeta), validateServiceAccount(sa)...)
		}),
		Warnings: warningsOf(func(sa, old *corev1.ServiceAccount) []string {
			if old != nil && has(old.Annotations, enforceMountableSecrets) || !has(sa.Annotations, enforceMountableSecrets) {
				return nil
			}
			return []string{"metadata.annotations[" + enforceMountableSecrets + "]: deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets"}
		}),
		ValidateName:     NameIsDNSSubdomain,
		FieldLabels:      metaFieldLabels,
		SelectableFields: namespacedMetaFields,
		ConnectSubresources: []SubresourceInfo{
			{Name: "token", Kind: authenticationv1.SchemeGroupVersion.WithKind("TokenRequest"), Verbs: []string{"create"}},
		},
		Columns: []metav1.TableColumnDefinition{
			nameColumn(), ageColumn(),
		},
		Row: row(func(sa *corev1.ServiceAccount, now time.Time) []any {
			return []any{sa.Name, age(sa.CreationTimestamp, now)}
		}),
		AllowUnconditionalUpdate: true,
	}
}

// cleanSecretReferences keeps only the names of referenced secrets: they are in the account's own namespace.
func cleanSecretReferences(sa *corev1.ServiceAccount) {
	for i, secret := range sa.Secrets {
		sa.Secrets[i] = corev1.ObjectReference{Name: secret.Name}
	}
}

func validateServiceAccount(sa *corev1.ServiceAccount) field.ErrorList {
	return ValidateMeta(&sa.ObjectMeta, true, NameIsDNSSubdomain)
}

func has[K comparable, V any](m map[K]V, key K) bool {
	_, ok := m[key]
	return ok
}
