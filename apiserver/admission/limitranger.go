package admission

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apiserver/pkg/admission"
	resourcehelpers "k8s.io/component-helpers/resource"
)

// limitRanger gives containers the default requests and limits of their namespace's LimitRanges and refuses what is
// outside their bounds.
type limitRanger struct{ cluster *cluster }

func (*limitRanger) Handles(op admission.Operation) bool {
	return handles(op, admission.Create, admission.Update)
}

// defaultedBy is upstream's annotation that tells which values came from a LimitRange.
const defaultedBy = "kubernetes.io/limit-ranger"

// Admit implements admission.MutationInterface.
func (p *limitRanger) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod, ok := podOf(a, "")
	if !ok || a.GetOperation() != admission.Create {
		return nil
	}
	ranges, err := p.ranges(ctx, a)
	if err != nil {
		return err
	}
	for _, r := range ranges {
		requests, limits := containerDefaults(r)
		var notes []string
		for i := range pod.Spec.Containers {
			notes = append(notes, applyDefaults("container", &pod.Spec.Containers[i], requests, limits)...)
		}
		for i := range pod.Spec.InitContainers {
			notes = append(notes, applyDefaults("init container", &pod.Spec.InitContainers[i], requests, limits)...)
		}
		if len(notes) > 0 {
			if pod.Annotations == nil {
				pod.Annotations = map[string]string{}
			}
			pod.Annotations[defaultedBy] = "LimitRanger plugin set: " + strings.Join(notes, "; ")
		}
	}
	return nil
}

// Validate implements admission.ValidationInterface.
func (p *limitRanger) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	resized := a.GetSubresource() == "resize"
	if a.GetResource().Group != "" || a.GetSubresource() != "" && !resized {
		return nil
	}
	pod, isPod := a.GetObject().(*corev1.Pod)
	claim, isClaim := a.GetObject().(*corev1.PersistentVolumeClaim)
	if !isPod && !isClaim || isPod && a.GetOperation() != admission.Create && !resized {
		return nil
	}
	ranges, err := p.ranges(ctx, a)
	if err != nil {
		return err
	}
	var errs []error
	for _, r := range ranges {
		for i := range r.Spec.Limits {
			limit := &r.Spec.Limits[i]
			switch {
			case isPod && limit.Type == corev1.LimitTypeContainer:
				for _, containers := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
					for j := range containers {
						errs = append(errs, bounds(limit, containers[j].Resources.Requests, containers[j].Resources.Limits)...)
					}
				}
			case isPod && limit.Type == corev1.LimitTypePod:
				errs = append(errs, bounds(limit, resourcehelpers.PodRequests(pod, resourcehelpers.PodResourcesOptions{}), resourcehelpers.PodLimits(pod, resourcehelpers.PodResourcesOptions{}))...)
			case isClaim && limit.Type == corev1.LimitTypePersistentVolumeClaim:
				errs = append(errs, bounds(limit, claim.Spec.Resources.Requests, nil)...)
			}
		}
	}
	if len(errs) > 0 {
		return admission.NewForbidden(a, utilerrors.NewAggregate(errs))
	}
	return nil
}

func (p *limitRanger) ranges(ctx context.Context, a admission.Attributes) ([]*corev1.LimitRange, error) {
	ranges, err := p.cluster.limitRanges(ctx, a.GetNamespace())
	if err != nil {
		return nil, admission.NewForbidden(a, fmt.Errorf("unable to %s %v at this time because there was an error enforcing limit ranges", a.GetOperation(), a.GetResource()))
	}
	slices.SortFunc(ranges, func(x, y *corev1.LimitRange) int { return strings.Compare(x.Name, y.Name) })
	return ranges, nil
}

func containerDefaults(r *corev1.LimitRange) (requests, limits corev1.ResourceList) {
	requests, limits = corev1.ResourceList{}, corev1.ResourceList{}
	for i := range r.Spec.Limits {
		if limit := &r.Spec.Limits[i]; limit.Type == corev1.LimitTypeContainer {
			for name, q := range limit.DefaultRequest {
				requests[name] = q
			}
			for name, q := range limit.Default {
				limits[name] = q
			}
		}
	}
	return requests, limits
}

func applyDefaults(kind string, c *corev1.Container, requests, limits corev1.ResourceList) []string {
	var notes []string
	apply := func(list *corev1.ResourceList, defaults corev1.ResourceList, what string) {
		var set []string
		for name, q := range defaults {
			if _, has := (*list)[name]; has {
				continue
			}
			if *list == nil {
				*list = corev1.ResourceList{}
			}
			(*list)[name] = q.DeepCopy()
			set = append(set, string(name))
		}
		if len(set) > 0 {
			slices.Sort(set)
			notes = append(notes, strings.Join(set, ", ")+" "+what+" for "+kind+" "+c.Name)
		}
	}
	apply(&c.Resources.Requests, requests, "request")
	apply(&c.Resources.Limits, limits, "limit")
	return notes
}

// bounds returns one error for each violated minimum, maximum and ratio.
func bounds(limit *corev1.LimitRangeItem, requests, limits corev1.ResourceList) []error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	for _, name := range sortedNames(limit.Min) {
		enforced := limit.Min[name]
		request, hasRequest := requests[name]
		l, hasLimit := limits[name]
		switch {
		case !hasRequest:
			fail("minimum %s usage per %s is %s.  No request is specified", name, limit.Type, enforced.String())
		case request.Cmp(enforced) < 0:
			fail("minimum %s usage per %s is %s, but request is %s", name, limit.Type, enforced.String(), request.String())
		case hasLimit && l.Cmp(enforced) < 0:
			fail("minimum %s usage per %s is %s, but limit is %s", name, limit.Type, enforced.String(), l.String())
		}
	}
	for _, name := range sortedNames(limit.Max) {
		enforced := limit.Max[name]
		request, hasRequest := requests[name]
		l, hasLimit := limits[name]
		switch {
		case limit.Type == corev1.LimitTypePersistentVolumeClaim && !hasRequest:
			fail("maximum %s usage per %s is %s.  No request is specified", name, limit.Type, enforced.String())
		case limit.Type == corev1.LimitTypePersistentVolumeClaim:
			if request.Cmp(enforced) > 0 {
				fail("maximum %s usage per %s is %s, but request is %s", name, limit.Type, enforced.String(), request.String())
			}
		case !hasLimit:
			fail("maximum %s usage per %s is %s.  No limit is specified", name, limit.Type, enforced.String())
		case l.Cmp(enforced) > 0:
			fail("maximum %s usage per %s is %s, but limit is %s", name, limit.Type, enforced.String(), l.String())
		case hasRequest && request.Cmp(enforced) > 0:
			fail("maximum %s usage per %s is %s, but request is %s", name, limit.Type, enforced.String(), request.String())
		}
	}
	for _, name := range sortedNames(limit.MaxLimitRequestRatio) {
		if err := ratio(name, limit, requests, limits); err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

func ratio(name corev1.ResourceName, limit *corev1.LimitRangeItem, requests, limits corev1.ResourceList) error {
	enforced := limit.MaxLimitRequestRatio[name]
	request, hasRequest := requests[name]
	l, hasLimit := limits[name]
	if !hasRequest || request.IsZero() {
		return fmt.Errorf("%s max limit to request ratio per %s is %s, but no request is specified or request is 0", name, limit.Type, enforced.String())
	}
	if !hasLimit || l.IsZero() {
		return fmt.Errorf("%s max limit to request ratio per %s is %s, but no limit is specified or limit is 0", name, limit.Type, enforced.String())
	}
	observed := l.AsApproximateFloat64() / request.AsApproximateFloat64()
	if observed > enforced.AsApproximateFloat64() {
		return fmt.Errorf("%s max limit to request ratio per %s is %s, but provided ratio is %f", name, limit.Type, enforced.String(), observed)
	}
	return nil
}

func sortedNames(list corev1.ResourceList) []corev1.ResourceName {
	names := make([]corev1.ResourceName, 0, len(list))
	for name := range list {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
