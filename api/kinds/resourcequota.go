package kinds

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// ResourceQuotas is core/v1 resourcequotas. They are enforced by admission.
func ResourceQuotas() *Kind {
	return &Kind{
		GroupVersionKind: corev1.SchemeGroupVersion.WithKind("ResourceQuota"),
		Plural:           "resourcequotas",
		Singular:         "resourcequota",
		ShortNames:       []string{"quota"},
		Namespaced:       true,
		Verbs:            all,
		New:              func() runtime.Object { return new(corev1.ResourceQuota) },
		NewList:          func() runtime.Object { return new(corev1.ResourceQuotaList) },
		StoragePrefix:    "resourcequotas",
		Default: defaulting(func(q *corev1.ResourceQuota) {
			roundToMilli(q.Spec.Hard)
			roundToMilli(q.Status.Hard)
			roundToMilli(q.Status.Used)
		}),
		PrepareForCreate: onCreate(func(q *corev1.ResourceQuota) { q.Status = corev1.ResourceQuotaStatus{} }),
		PrepareForUpdate: onUpdate(func(q, old *corev1.ResourceQuota) { q.Status = old.Status }),
		Validate: checking(func(q *corev1.ResourceQuota) field.ErrorList {
			var f faults
			f.newMeta(&q.ObjectMeta, NameIsDNSSubdomain)
			f.quota(&q.Spec)
			return f.list
		}),
		ValidateUpdate: checkingUpdate(func(q, old *corev1.ResourceQuota) field.ErrorList {
			var f faults
			f.changedMeta(&q.ObjectMeta, &old.ObjectMeta)
			f.quota(&q.Spec)
			set := func(scopes []corev1.ResourceQuotaScope) []corev1.ResourceQuotaScope {
				return slices.Compact(slices.Sorted(slices.Values(scopes)))
			}
			if !slices.Equal(set(q.Spec.Scopes), set(old.Spec.Scopes)) {
				f.invalid(specRoot.field("scopes"), q.Spec.Scopes, "field is immutable")
			}
			return f.list
		}),
		Warnings:     warningsOf(quotaWarnings),
		ValidateName: NameIsDNSSubdomain,
		Subresources: map[string]*Subresource{
			"status": {
				Verbs:            viewVerbs,
				PrepareForUpdate: onUpdate(func(q, old *corev1.ResourceQuota) { q.Spec = old.Spec }),
				ValidateUpdate: checkingUpdate(func(q, old *corev1.ResourceQuota) field.ErrorList {
					var f faults
					f.changedMeta(&q.ObjectMeta, &old.ObjectMeta)
					if q.ResourceVersion == "" {
						f.required(&where{name: "resourceVersion"}, "")
					}
					f.quotaAmounts(statusRoot.field("hard"), q.Status.Hard)
					f.quotaAmounts(statusRoot.field("used"), q.Status.Used)
					return f.list
				}),
			},
		},
		FieldLabels:      metaFieldLabels,
		SelectableFields: namespacedMetaFields,
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("Request", "string", "Request represents a minimum amount of cpu/memory that a container may consume."),
			column("Limit", "string", "Limits control the maximum amount of cpu/memory that a container may use independent of contention on the node."),
			ageColumn(),
		},
		Row: row(func(q *corev1.ResourceQuota, now time.Time) []any {
			var requests, limits []string
			for _, name := range slices.Sorted(maps.Keys(q.Status.Hard)) {
				used, hard := q.Status.Used[name], q.Status.Hard[name]
				text := fmt.Sprintf("%s: %s/%s", name, used.String(), hard.String())
				if strings.HasPrefix(string(name), "limits.") {
					limits = append(limits, text)
				} else {
					requests = append(requests, text)
				}
			}
			return []any{q.Name, strings.Join(requests, ", "), strings.Join(limits, ", "), age(q.CreationTimestamp, now)}
		}),
		AllowUnconditionalUpdate: true,
	}
}

func (f *faults) quota(s *corev1.ResourceQuotaSpec) {
	f.quotaAmounts(specRoot.field("hard"), s.Hard)
	f.quotaScopes(specRoot.field("scopes"), s)
	if s.ScopeSelector != nil {
		f.scopeSelector(specRoot.field("scopeSelector").field("matchExpressions"), s)
	}
}

// quotaAmounts checks names and amounts of what is, or may be, used.
func (f *faults) quotaAmounts(w *where, list corev1.ResourceList) {
	for _, name := range slices.Sorted(maps.Keys(list)) {
		at := w.key(string(name))
		if f.resourceName(at, name); !strings.Contains(string(name), "/") && !isPlainQuota(name) {
			f.invalid(at, name, "must be a standard resource for quota")
		}
		f.amount(at, name, list[name])
	}
}

// isPlainQuota reports whether a name without a domain means something in a quota.
func isPlainQuota(name corev1.ResourceName) bool {
	return name != corev1.ResourceStorage && slices.Contains(plainResources, name) || isHugePages(name) || strings.HasPrefix(string(name), corev1.ResourceRequestsHugePagesPrefix)
}

// The scopes of quotas, in upstream's order, and what they can be asked about.

func isScope(s corev1.ResourceQuotaScope) bool {
	switch s {
	case corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating, corev1.ResourceQuotaScopeBestEffort, corev1.ResourceQuotaScopeNotBestEffort,
		corev1.ResourceQuotaScopePriorityClass, corev1.ResourceQuotaScopeCrossNamespacePodAffinity, corev1.ResourceQuotaScopeVolumeAttributesClass:
		return true
	}
	return false
}

// scopeAppliesTo reports whether the use of a resource can be told apart by scope.
func scopeAppliesTo(s corev1.ResourceQuotaScope, name corev1.ResourceName) bool {
	if !isScope(s) {
		return true
	}
	switch s {
	case corev1.ResourceQuotaScopeBestEffort:
		return name == corev1.ResourcePods
	case corev1.ResourceQuotaScopeVolumeAttributesClass:
		return name == corev1.ResourcePersistentVolumeClaims || name == corev1.ResourceRequestsStorage
	}
	switch name {
	case corev1.ResourcePods, corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory, corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory:
		return true
	}
	return false
}

// inapplicable says once for each resource that it has nothing to do with a scope.
func (f *faults) inapplicable(w *where, s *corev1.ResourceQuotaSpec, scope corev1.ResourceQuotaScope, value any) {
	for name := range s.Hard {
		if isPlainQuota(name) && !scopeAppliesTo(scope, name) {
			f.invalid(w, value, "unsupported scope applied to resource")
		}
	}
}

// contradicting reports whether scopes exclude one another, once for each pair.
func (f *faults) contradicting(w *where, scopes []corev1.ResourceQuotaScope, value any) {
	for _, pair := range [][2]corev1.ResourceQuotaScope{
		{corev1.ResourceQuotaScopeBestEffort, corev1.ResourceQuotaScopeNotBestEffort},
		{corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating},
	} {
		if slices.Contains(scopes, pair[0]) && slices.Contains(scopes, pair[1]) {
			f.invalid(w, value, "conflicting scopes")
		}
	}
}

func (f *faults) quotaScopes(w *where, s *corev1.ResourceQuotaSpec) {
	for _, scope := range s.Scopes {
		if !isScope(scope) {
			f.invalid(w, s.Scopes, "unsupported scope")
		}
		f.inapplicable(w, s, scope, s.Scopes)
	}
	f.contradicting(w, s.Scopes, s.Scopes)
}

func (f *faults) scopeSelector(w *where, s *corev1.ResourceQuotaSpec) {
	var scopes []corev1.ResourceQuotaScope
	for _, r := range s.ScopeSelector.MatchExpressions {
		if !isScope(r.ScopeName) {
			f.invalid(w.field("scopeName"), r.ScopeName, "unsupported scope")
		}
		f.inapplicable(w, s, r.ScopeName, s.ScopeSelector)
		switch r.ScopeName {
		case corev1.ResourceQuotaScopeBestEffort, corev1.ResourceQuotaScopeNotBestEffort, corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating, corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
			if r.Operator != corev1.ScopeSelectorOpExists {
				f.invalid(w.field("operator"), r.Operator, "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity")
			}
		}
		switch r.Operator {
		case corev1.ScopeSelectorOpIn, corev1.ScopeSelectorOpNotIn:
			if len(r.Values) == 0 {
				f.required(w.field("values"), "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector")
			}
		case corev1.ScopeSelectorOpExists, corev1.ScopeSelectorOpDoesNotExist:
			if len(r.Values) != 0 {
				f.invalid(w.field("values"), r.Values, "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector")
			}
		default:
			f.invalid(w.field("operator"), r.Operator, "not a valid selector operator")
		}
		scopes = append(scopes, r.ScopeName)
	}
	f.contradicting(w, scopes, s.Scopes)
}

// quotaWarnings warns of new quotas that allow more to be requested than to be used.
func quotaWarnings(q, old *corev1.ResourceQuota) (warnings []string) {
	if old != nil {
		return nil
	}
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceStorage, corev1.ResourceEphemeralStorage} {
		requests, limits := "requests."+name, "limits."+name
		request, has := q.Spec.Hard[requests]
		if !has && (name == corev1.ResourceCPU || name == corev1.ResourceMemory) {
			if request, has = q.Spec.Hard[name]; has {
				requests = name
			}
		}
		if limit, limited := q.Spec.Hard[limits]; has && limited && request.Cmp(limit) > 0 {
			warnings = append(warnings, fmt.Sprintf("ResourceQuota %s (%s) should be less than %s (%s)", requests, request.String(), limits, limit.String()))
		}
	}
	return warnings
}
