package subresources

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"

	"wherry.dev/wherry/apiserver/verbs"
	"wherry.dev/wherry/store"
)

var evictionKind = policyv1.SchemeGroupVersion.WithKind("Eviction")

// maxDisrupted bounds the pods that a budget remembers as being evicted, in case nobody cleans up.
const maxDisrupted = 2000

// evict deletes a pod if its PodDisruptionBudget has room for that.
func (s *Set) evict(ctx context.Context, pods *verbs.Served, r *verbs.Request) (verbs.Answer, error) {
	obj, options, err := pods.DecodeAs(r, evictionKind, func() runtime.Object { return &policyv1.Eviction{} })
	if err != nil {
		return verbs.Answer{}, err
	}
	e := obj.(*policyv1.Eviction)
	if e.Name == "" {
		e.Name = r.Info.Name
	}
	if e.Name != r.Info.Name {
		return verbs.Answer{}, apierrors.NewBadRequest("name in URL does not match name in Eviction object")
	}
	if e.Namespace != "" && e.Namespace != r.Info.Namespace {
		return verbs.Answer{}, apierrors.NewBadRequest("the namespace of the provided object does not match the namespace sent on the request")
	}
	e.Namespace = r.Info.Namespace
	if err := pods.AdmitOther(ctx, r, admission.Create, evictionKind, e, e.Name, options); err != nil {
		return verbs.Answer{}, err
	}
	del := e.DeleteOptions
	if del == nil {
		del = &metav1.DeleteOptions{}
	}
	if len(options.DryRun) > 0 {
		if len(del.DryRun) > 0 {
			return verbs.Answer{}, apierrors.NewBadRequest("dryRun must not be set on the options of an eviction that is itself a dry run")
		}
		del.DryRun = options.DryRun
	}
	for {
		pod, err := s.pod(ctx, pods, r)
		if err != nil {
			return verbs.Answer{}, err
		}
		own := *del.DeepCopy()
		if !finished(pod) {
			healthy, err := s.spend(ctx, pod, len(del.DryRun) > 0)
			if err != nil {
				return verbs.Answer{}, err
			}
			if !healthy {
				// The budget was not asked because this pod does not count: hold it to that.
				own.Preconditions = pin(own.Preconditions, pod)
			}
		} else {
			own.Preconditions = pin(own.Preconditions, pod)
		}
		if len(own.DryRun) == 0 {
			err = mark(ctx, pods, pod, &own)
		}
		if err == nil {
			_, err = pods.DeleteAs(ctx, r, &own)
		}
		if err == nil {
			return verbs.Success(http.StatusCreated), nil
		}
		if !apierrors.IsConflict(err) || del.Preconditions != nil || ctx.Err() != nil {
			return verbs.Answer{}, err
		}
	}
}

// mark says on the pod that it is being disrupted, which decides what becomes of its Job (KEP-3329). The deletion that follows is of the pod as marked.
func mark(ctx context.Context, pods *verbs.Served, pod *corev1.Pod, options *metav1.DeleteOptions) error {
	condition := corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "EvictionByEvictionAPI", Message: "Eviction API: evicting"}
	var required store.Preconditions
	if p := options.Preconditions; p != nil {
		required = store.Preconditions{UID: p.UID, ResourceVersion: p.ResourceVersion}
	}
	marked, err := pods.Store.Update(ctx, pod.Namespace, pod.Name, &required, false, func(current *store.Object) (runtime.Object, error) {
		next := current.Object.(*corev1.Pod).DeepCopy()
		condition.LastTransitionTime = metav1.Time{Time: time.Now().Truncate(time.Second)}
		condition.ObservedGeneration = next.Generation
		i := slices.IndexFunc(next.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == condition.Type })
		if i < 0 {
			next.Status.Conditions = append(next.Status.Conditions, condition)
			return next, nil
		}
		if was := &next.Status.Conditions[i]; was.Status == condition.Status {
			condition.LastTransitionTime = was.LastTransitionTime
		}
		next.Status.Conditions[i] = condition
		return next, nil
	})
	if err != nil {
		return err
	}
	if p := options.Preconditions; p != nil && p.ResourceVersion != nil {
		version := marked.Object.(*corev1.Pod).ResourceVersion
		p.ResourceVersion = &version
	}
	return nil
}

// finished pods, and those that have not begun or are being deleted, count for no budget.
func finished(p *corev1.Pod) bool {
	switch p.Status.Phase {
	case corev1.PodSucceeded, corev1.PodFailed, corev1.PodPending:
		return true
	}
	return p.DeletionTimestamp != nil
}

// pin restricts a deletion to the pod as it has been looked at.
func pin(p *metav1.Preconditions, pod *corev1.Pod) *metav1.Preconditions {
	if p == nil {
		p = &metav1.Preconditions{}
	}
	if p.ResourceVersion == nil {
		v := pod.ResourceVersion
		p.ResourceVersion = &v
	}
	return p
}

// spend takes one disruption from the pod's budget. counted is false when the pod may go without that.
func (s *Set) spend(ctx context.Context, pod *corev1.Pod, dryRun bool) (counted bool, err error) {
	budgets := s.config.Resource(policyv1.SchemeGroupVersion.WithResource("poddisruptionbudgets"))
	if budgets == nil {
		return true, nil
	}
	page, err := budgets.Store.List(ctx, store.ListOptions{Namespace: pod.Namespace})
	if err != nil {
		return false, err
	}
	var mine []*policyv1.PodDisruptionBudget
	for _, o := range page.Items {
		b, ok := o.Object.(*policyv1.PodDisruptionBudget)
		if !ok {
			continue
		}
		sel, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
		if err != nil || !sel.Matches(labels.Set(pod.Labels)) {
			continue
		}
		mine = append(mine, b)
	}
	switch len(mine) {
	case 0:
		return true, nil
	case 1:
	default:
		return false, apierrors.NewInternalError(errors.New("This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."))
	}
	b := mine[0]
	if !ready(pod) {
		policy := policyv1.IfHealthyBudget
		if b.Spec.UnhealthyPodEvictionPolicy != nil {
			policy = *b.Spec.UnhealthyPodEvictionPolicy
		}
		if policy == policyv1.AlwaysAllow || b.Status.CurrentHealthy >= b.Status.DesiredHealthy && b.Status.DesiredHealthy > 0 {
			return false, nil
		}
	}
	decide := func(current *store.Object) (runtime.Object, error) {
		now := current.Object.(*policyv1.PodDisruptionBudget)
		if err := refuses(now); err != nil {
			return nil, err
		}
		next := now.DeepCopy()
		next.Status.DisruptionsAllowed--
		if next.Status.DisruptedPods == nil {
			next.Status.DisruptedPods = map[string]metav1.Time{}
		}
		next.Status.DisruptedPods[pod.Name] = metav1.Time{Time: time.Now().Truncate(time.Second)}
		return next, nil
	}
	if dryRun {
		return true, refuses(b)
	}
	_, err = budgets.Store.Update(ctx, b.Namespace, b.Name, nil, false, decide)
	return true, err
}

// refuses says why the budget does not allow a disruption now, as a 429.
func refuses(b *policyv1.PodDisruptionBudget) error {
	if b.Status.ObservedGeneration < b.Generation {
		return tooMany(b, fmt.Sprintf("The disruption budget %s is still being processed by the server.", b.Name), 10)
	}
	if b.Status.DisruptionsAllowed < 0 {
		return apierrors.NewForbidden(schema.GroupResource{Group: policyv1.GroupName, Resource: "poddisruptionbudget"}, b.Name, errors.New("pdb disruptions allowed is negative"))
	}
	if len(b.Status.DisruptedPods) > maxDisrupted {
		return apierrors.NewForbidden(schema.GroupResource{Group: policyv1.GroupName, Resource: "poddisruptionbudget"}, b.Name, errors.New("DisruptedPods map too big - too many evictions not confirmed by PDB controller"))
	}
	if b.Status.DisruptionsAllowed == 0 {
		msg := fmt.Sprintf("The disruption budget %s needs %d healthy pods and has %d currently", b.Name, b.Status.DesiredHealthy, b.Status.CurrentHealthy)
		for _, c := range b.Status.Conditions {
			if c.Type == policyv1.DisruptionAllowedCondition && c.Status == metav1.ConditionFalse && c.Reason == policyv1.SyncFailedReason {
				msg = fmt.Sprintf("The disruption budget %s does not allow evicting pods currently because it failed sync: %v", b.Name, strings.TrimSpace(c.Message))
			}
		}
		return tooMany(b, msg, 0)
	}
	return nil
}

func tooMany(_ *policyv1.PodDisruptionBudget, cause string, seconds int) error {
	err := apierrors.NewTooManyRequests("Cannot evict pod as it would violate the pod's disruption budget.", seconds)
	err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{Type: policyv1.DisruptionBudgetCause, Message: cause})
	return err
}

func ready(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}
