package kinds

import (
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// RoleBindings is rbac.authorization.k8s.io/v1 rolebindings.
func RoleBindings() *Kind {
	validate := func(b *rbacv1.RoleBinding) field.ErrorList {
		errs := ValidateMeta(&b.ObjectMeta, true, NameIsPathSegment)
		return append(errs, validateBindingParts(b.RoleRef, b.Subjects, true, "Role", "ClusterRole")...)
	}
	return &Kind{
		GroupVersionKind: rbacv1.SchemeGroupVersion.WithKind("RoleBinding"),
		Plural:           "rolebindings",
		Singular:         "rolebinding",
		Namespaced:       true,
		Verbs:            all,
		New:              func() runtime.Object { return new(rbacv1.RoleBinding) },
		NewList:          func() runtime.Object { return new(rbacv1.RoleBindingList) },
		StoragePrefix:    "rolebindings",
		Default:          defaulting(func(b *rbacv1.RoleBinding) { defaultBinding(&b.RoleRef, b.Subjects) }),
		Validate:         checking(validate),
		ValidateUpdate: checkingUpdate(func(b, old *rbacv1.RoleBinding) field.ErrorList {
			errs := append(validate(b), ValidateMetaUpdate(&b.ObjectMeta, &old.ObjectMeta)...)
			return append(errs, validateSameRole(b.RoleRef, old.RoleRef)...)
		}),
		ValidateName:     NameIsPathSegment,
		FieldLabels:      metaFieldLabels,
		SelectableFields: namespacedMetaFields,
		Columns:          bindingColumns(),
		Row: row(func(b *rbacv1.RoleBinding, now time.Time) []any {
			return bindingRow(&b.ObjectMeta, b.RoleRef, b.Subjects, now)
		}),
		AllowCreateOnUpdate:      true,
		AllowUnconditionalUpdate: true,
	}
}

// ClusterRoleBindings is rbac.authorization.k8s.io/v1 clusterrolebindings.
func ClusterRoleBindings() *Kind {
	validate := func(b *rbacv1.ClusterRoleBinding) field.ErrorList {
		errs := ValidateMeta(&b.ObjectMeta, false, NameIsPathSegment)
		return append(errs, validateBindingParts(b.RoleRef, b.Subjects, false, "ClusterRole")...)
	}
	return &Kind{
		GroupVersionKind: rbacv1.SchemeGroupVersion.WithKind("ClusterRoleBinding"),
		Plural:           "clusterrolebindings",
		Singular:         "clusterrolebinding",
		Verbs:            all,
		New:              func() runtime.Object { return new(rbacv1.ClusterRoleBinding) },
		NewList:          func() runtime.Object { return new(rbacv1.ClusterRoleBindingList) },
		StoragePrefix:    "clusterrolebindings",
		Default:          defaulting(func(b *rbacv1.ClusterRoleBinding) { defaultBinding(&b.RoleRef, b.Subjects) }),
		Validate:         checking(validate),
		ValidateUpdate: checkingUpdate(func(b, old *rbacv1.ClusterRoleBinding) field.ErrorList {
			errs := append(validate(b), ValidateMetaUpdate(&b.ObjectMeta, &old.ObjectMeta)...)
			return append(errs, validateSameRole(b.RoleRef, old.RoleRef)...)
		}),
		ValidateName:     NameIsPathSegment,
		FieldLabels:      metaFieldLabels,
		SelectableFields: clusterMetaFields,
		Columns:          bindingColumns(),
		Row: row(func(b *rbacv1.ClusterRoleBinding, now time.Time) []any {
			return bindingRow(&b.ObjectMeta, b.RoleRef, b.Subjects, now)
		}),
		AllowCreateOnUpdate:      true,
		AllowUnconditionalUpdate: true,
	}
}
