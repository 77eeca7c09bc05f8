package kinds

import (
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Roles is rbac.authorization.k8s.io/v1 roles.
func Roles() *Kind {
	return &Kind{
		GroupVersionKind: rbacv1.SchemeGroupVersion.WithKind("Role"),
		Plural:           "roles",
		Singular:         "role",
		Namespaced:       true,
		Verbs:            all,
		New:              func() runtime.Object { return new(rbacv1.Role) },
		NewList:          func() runtime.Object { return new(rbacv1.RoleList) },
		StoragePrefix:    "roles",
		Validate: checking(func(r *rbacv1.Role) field.ErrorList {
			return append(ValidateMeta(&r.ObjectMeta, true, NameIsPathSegment), validateRules(r.Rules, true)...)
		}),
		ValidateUpdate: checkingUpdate(func(r, old *rbacv1.Role) field.ErrorList {
			errs := ValidateMeta(&r.ObjectMeta, true, NameIsPathSegment)
			errs = append(errs, validateRules(r.Rules, true)...)
			return append(errs, ValidateMetaUpdate(&r.ObjectMeta, &old.ObjectMeta)...)
		}),
		ValidateName:             NameIsPathSegment,
		FieldLabels:              metaFieldLabels,
		SelectableFields:         namespacedMetaFields,
		Columns:                  roleColumns(),
		Row:                      row(func(r *rbacv1.Role, _ time.Time) []any { return roleRow(&r.ObjectMeta) }),
		AllowCreateOnUpdate:      true,
		AllowUnconditionalUpdate: true,
	}
}

// ClusterRoles is rbac.authorization.k8s.io/v1 clusterroles.
func ClusterRoles() *Kind {
	validate := func(r *rbacv1.ClusterRole) field.ErrorList {
		errs := ValidateMeta(&r.ObjectMeta, false, NameIsPathSegment)
		errs = append(errs, validateRules(r.Rules, false)...)
		return append(errs, validateAggregation(r.AggregationRule)...)
	}
	return &Kind{
		GroupVersionKind: rbacv1.SchemeGroupVersion.WithKind("ClusterRole"),
		Plural:           "clusterroles",
		Singular:         "clusterrole",
		Verbs:            all,
		New:              func() runtime.Object { return new(rbacv1.ClusterRole) },
		NewList:          func() runtime.Object { return new(rbacv1.ClusterRoleList) },
		StoragePrefix:    "clusterroles",
		Validate:         checking(validate),
		ValidateUpdate: checkingUpdate(func(r, old *rbacv1.ClusterRole) field.ErrorList {
			return append(validate(r), ValidateMetaUpdate(&r.ObjectMeta, &old.ObjectMeta)...)
		}),
		ValidateName:             NameIsPathSegment,
		FieldLabels:              metaFieldLabels,
		SelectableFields:         clusterMetaFields,
		Columns:                  roleColumns(),
		Row:                      row(func(r *rbacv1.ClusterRole, _ time.Time) []any { return roleRow(&r.ObjectMeta) }),
		AllowCreateOnUpdate:      true,
		AllowUnconditionalUpdate: true,
	}
}
