// Package quota reckons what objects use of a ResourceQuota: which of its resources, how much, and under which scopes. It is pure; admission
// charges by it, and the controller counts by it. Both may import it.
package quota

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	quota "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/apiserver/pkg/quota/v1/generic"
)

// Lister lists the objects of one resource in a namespace; a resource that cannot be listed is an error. Objects are only read.
type Lister func(resource schema.GroupVersionResource, namespace string) ([]runtime.Object, error)

// Evaluators returns those of the resources of which more is reckoned than their number, and of those whose number has a name of its own. Others
// are counted under count/RESOURCE.GROUP (Count). list may be nil where nothing is counted. now is the clock.
func Evaluators(list Lister, now func() time.Time) []quota.Evaluator {
	evaluators := []quota.Evaluator{pods(list, now), services(list), claims(list)}
	for _, alias := range []corev1.ResourceName{corev1.ResourceConfigMaps, corev1.ResourceQuotas, corev1.ResourceReplicationControllers, corev1.ResourceSecrets} {
		resource := corev1.SchemeGroupVersion.WithResource(string(alias))
		evaluators = append(evaluators, generic.NewObjectCountEvaluator(resource.GroupResource(), list.in(resource), alias))
	}
	return evaluators
}

// Count returns the evaluator of a resource of which only the number is reckoned.
func Count(list Lister, resource schema.GroupVersionResource) quota.Evaluator {
	return generic.NewObjectCountEvaluator(resource.GroupResource(), list.in(resource), "")
}

func (l Lister) in(resource schema.GroupVersionResource) generic.ListFuncByNamespace {
	if l == nil {
		return nil
	}
	return func(namespace string) ([]runtime.Object, error) { return l(resource, namespace) }
}

// evaluator implements quota.Evaluator for objects of type T.
type evaluator[T runtime.Object] struct {
	resource    schema.GroupResource
	list        generic.ListFuncByNamespace
	counts      func(corev1.ResourceName) bool // which resources of a quota objects of this kind use
	usage       func(T) corev1.ResourceList
	handles     func(a admission.Attributes) bool
	inScope     func(T, corev1.ScopedResourceSelectorRequirement) (bool, error) // nil: there are no scopes
	constraints func(T, []corev1.ResourceName) error                            // nil: there are none
}

func (e *evaluator[T]) typed(item runtime.Object) (T, error) {
	obj, ok := item.(T)
	if !ok {
		return obj, fmt.Errorf("reckon %s: unexpected object %T", e.resource, item)
	}
	return obj, nil
}

// GroupResource implements quota.Evaluator, as all that follow.
func (e *evaluator[T]) GroupResource() schema.GroupResource { return e.resource }

func (e *evaluator[T]) Handles(a admission.Attributes) bool { return e.handles(a) }

func (e *evaluator[T]) Constraints(required []corev1.ResourceName, item runtime.Object) error {
	if e.constraints == nil {
		return nil
	}
	obj, err := e.typed(item)
	if err != nil {
		return err
	}
	return e.constraints(obj, required)
}

func (e *evaluator[T]) scope(r corev1.ScopedResourceSelectorRequirement, item runtime.Object) (bool, error) {
	if e.inScope == nil {
		return false, nil
	}
	obj, err := e.typed(item)
	if err != nil {
		return false, err
	}
	return e.inScope(obj, r)
}

func (e *evaluator[T]) Matches(q *corev1.ResourceQuota, item runtime.Object) (bool, error) {
	return generic.Matches(q, item, e.MatchingResources, e.scope)
}

func (e *evaluator[T]) MatchingResources(names []corev1.ResourceName) []corev1.ResourceName {
	var matching []corev1.ResourceName
	for _, name := range names {
		if e.counts(name) {
			matching = append(matching, name)
		}
	}
	return matching
}

func (e *evaluator[T]) MatchingScopes(item runtime.Object, scopes []corev1.ScopedResourceSelectorRequirement) ([]corev1.ScopedResourceSelectorRequirement, error) {
	matching := []corev1.ScopedResourceSelectorRequirement{}
	for _, s := range scopes {
		matches, err := e.scope(s, item)
		if err != nil {
			return nil, fmt.Errorf("error on matching scope %v: %w", s, err)
		}
		if matches {
			matching = append(matching, s)
		}
	}
	return matching, nil
}

func (e *evaluator[T]) UncoveredQuotaScopes(limited, matched []corev1.ScopedResourceSelectorRequirement) ([]corev1.ScopedResourceSelectorRequirement, error) {
	uncovered := []corev1.ScopedResourceSelectorRequirement{}
	for _, l := range limited {
		covered := false
		for _, m := range matched {
			covered = covered || m.ScopeName == l.ScopeName
		}
		if !covered {
			uncovered = append(uncovered, l)
		}
	}
	return uncovered, nil
}

func (e *evaluator[T]) Usage(item runtime.Object) (corev1.ResourceList, error) {
	obj, err := e.typed(item)
	if err != nil {
		return nil, err
	}
	return e.usage(obj), nil
}

func (e *evaluator[T]) UsageStats(options quota.UsageStatsOptions) (quota.UsageStats, error) {
	return generic.CalculateUsageStats(options, e.list, e.scope, e.Usage)
}
