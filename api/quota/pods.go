package quota

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"
	quota "k8s.io/apiserver/pkg/quota/v1"
	resourcehelper "k8s.io/component-helpers/resource"

	"wherry.dev/wherry/api/kinds"
)

const podCount corev1.ResourceName = "count/pods"

// compute are the resources that pods ask for, under the names that quotas have for them.
var compute = []struct{ name, request, limit corev1.ResourceName }{
	{corev1.ResourceCPU, corev1.ResourceRequestsCPU, corev1.ResourceLimitsCPU},
	{corev1.ResourceMemory, corev1.ResourceRequestsMemory, corev1.ResourceLimitsMemory},
	{corev1.ResourceEphemeralStorage, corev1.ResourceRequestsEphemeralStorage, corev1.ResourceLimitsEphemeralStorage},
}

func pods(list Lister, now func() time.Time) quota.Evaluator {
	resource := corev1.SchemeGroupVersion.WithResource("pods")
	return &evaluator[*corev1.Pod]{
		resource: resource.GroupResource(), list: list.in(resource), counts: countsForPods,
		usage: func(p *corev1.Pod) corev1.ResourceList { return podUsage(p, now()) },
		handles: func(a admission.Attributes) bool {
			switch a.GetSubresource() {
			case "":
				pod, isPod := a.GetObject().(*corev1.Pod)
				old, wasPod := a.GetOldObject().(*corev1.Pod)
				return a.GetOperation() == admission.Create || isPod && wasPod && endsByItself(pod) != endsByItself(old)
			case "resize":
				return a.GetOperation() == admission.Update
			}
			return false
		},
		inScope: podInScope, constraints: podConstraints,
	}
}

func countsForPods(name corev1.ResourceName) bool {
	if name == podCount || name == corev1.ResourcePods {
		return true
	}
	for _, c := range compute {
		if name == c.name || name == c.request || name == c.limit {
			return true
		}
	}
	requested, isRequest := strings.CutPrefix(string(name), corev1.DefaultResourceRequestsPrefix)
	return strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix) || isRequest && (strings.HasPrefix(requested, corev1.ResourceHugePagesPrefix) || isExtended(corev1.ResourceName(requested)))
}

// isExtended reports whether a resource is someone else's, such as a device plugin's.
func isExtended(name corev1.ResourceName) bool {
	return strings.Contains(string(name), "/") && !strings.Contains(string(name), corev1.ResourceDefaultNamespacePrefix) && !strings.HasPrefix(string(name), corev1.DefaultResourceRequestsPrefix)
}

// podUsage is what a pod uses: nothing but a place in the store once it has ended, or should have.
func podUsage(p *corev1.Pod, now time.Time) corev1.ResourceList {
	usage := corev1.ResourceList{podCount: *resource.NewQuantity(1, resource.DecimalSI)}
	if p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded {
		return usage
	}
	if d, g := p.DeletionTimestamp, p.DeletionGracePeriodSeconds; d != nil && g != nil && now.After(d.Add(time.Duration(*g)*time.Second)) {
		return usage
	}
	options := resourcehelper.PodResourcesOptions{UseStatusResources: true}
	return quota.Add(usage, computeUsage(resourcehelper.PodRequests(p, options), resourcehelper.PodLimits(p, options)))
}

func computeUsage(requests, limits corev1.ResourceList) corev1.ResourceList {
	usage := corev1.ResourceList{corev1.ResourcePods: *resource.NewQuantity(1, resource.DecimalSI)}
	for _, c := range compute {
		if q, has := requests[c.name]; has {
			usage[c.name], usage[c.request] = q, q
		}
		if q, has := limits[c.name]; has {
			usage[c.limit] = q
		}
	}
	for name, q := range requests {
		pages := strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix)
		if pages {
			usage[name] = q
		}
		if pages || isExtended(name) {
			usage[corev1.DefaultResourceRequestsPrefix+name] = q
		}
	}
	return usage
}

// podConstraints checks that a pod says how much it asks for where a quota limits that.
func podConstraints(p *corev1.Pod, required []corev1.ResourceName) error {
	if resourcehelper.IsPodLevelResourcesSet(p) {
		return nil
	}
	missing := map[corev1.ResourceName][]string{}
	for _, containers := range [][]corev1.Container{p.Spec.Containers, p.Spec.InitContainers} {
		for i := range containers {
			says := computeUsage(containers[i].Resources.Requests, containers[i].Resources.Limits)
			for _, name := range required {
				if _, has := says[name]; !has && mustBeSaid(name) && !slices.Contains(missing[name], containers[i].Name) {
					missing[name] = append(missing[name], containers[i].Name)
				}
			}
		}
	}
	if len(missing) == 0 {
		return nil
	}
	var words []string
	for name, containers := range missing {
		slices.Sort(containers)
		words = append(words, fmt.Sprintf("%s for: %s", name, strings.Join(containers, ",")))
	}
	slices.Sort(words)
	return fmt.Errorf("must specify %s", strings.Join(words, "; "))
}

func mustBeSaid(name corev1.ResourceName) bool {
	switch name {
	case corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory, corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory:
		return true
	}
	return false
}

// endsByItself reports whether a pod has a deadline, which is what the scope Terminating means.
func endsByItself(p *corev1.Pod) bool {
	return p.Spec.ActiveDeadlineSeconds != nil && *p.Spec.ActiveDeadlineSeconds >= 0
}

func podInScope(p *corev1.Pod, r corev1.ScopedResourceSelectorRequirement) (bool, error) {
	switch r.ScopeName {
	case corev1.ResourceQuotaScopeTerminating:
		return endsByItself(p), nil
	case corev1.ResourceQuotaScopeNotTerminating:
		return !endsByItself(p), nil
	case corev1.ResourceQuotaScopeBestEffort:
		return kinds.QOSClass(p) == corev1.PodQOSBestEffort, nil
	case corev1.ResourceQuotaScopeNotBestEffort:
		return kinds.QOSClass(p) != corev1.PodQOSBestEffort, nil
	case corev1.ResourceQuotaScopePriorityClass:
		return named(r, p.Spec.PriorityClassName)
	case corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
		return reachesOut(p), nil
	}
	return false, nil
}

// named reports whether a name, none if it is empty, is among those that a requirement asks for.
func named(r corev1.ScopedResourceSelectorRequirement, names ...string) (bool, error) {
	names = slices.DeleteFunc(names, func(s string) bool { return s == "" })
	has := slices.ContainsFunc(names, func(s string) bool { return slices.Contains(r.Values, s) })
	switch r.Operator {
	case corev1.ScopeSelectorOpExists:
		return len(names) > 0, nil
	case corev1.ScopeSelectorOpDoesNotExist:
		return len(names) == 0, nil
	case corev1.ScopeSelectorOpIn:
		return has, nil
	case corev1.ScopeSelectorOpNotIn:
		return !has, nil
	}
	return false, fmt.Errorf("failed to parse and convert selector: %q is not a valid scope selector operator", r.Operator)
}

// reachesOut reports whether a pod's affinity is about pods of other namespaces.
func reachesOut(p *corev1.Pod) bool {
	a := p.Spec.Affinity
	if a == nil {
		return false
	}
	out := func(namespaces []string, selector *metav1.LabelSelector) bool {
		return len(namespaces) > 0 || selector != nil
	}
	terms := func(required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm) bool {
		return slices.ContainsFunc(required, func(t corev1.PodAffinityTerm) bool { return out(t.Namespaces, t.NamespaceSelector) }) ||
			slices.ContainsFunc(preferred, func(t corev1.WeightedPodAffinityTerm) bool {
				return out(t.PodAffinityTerm.Namespaces, t.PodAffinityTerm.NamespaceSelector)
			})
	}
	return a.PodAffinity != nil && terms(a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution, a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution) ||
		a.PodAntiAffinity != nil && terms(a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution, a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
}
