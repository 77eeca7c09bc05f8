package subresources

import (
	"context"
	"fmt"
	"net/http"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/admission"

	"wherry.dev/wherry/apiserver/verbs"
	"wherry.dev/wherry/store"
)

var (
	bindingKind = corev1.SchemeGroupVersion.WithKind("Binding")
	podResource = schema.GroupResource{Resource: "pods"}
)

// bind serves POST bindings, the older form of pods/{name}/binding.
func (s *Set) bind(ctx context.Context, _ *verbs.Served, r *verbs.Request) (verbs.Answer, error) {
	return s.bindPod(ctx, s.pods(), r)
}

// bindPod assigns a pod to a node: the decision of the scheduler, written in one transaction (C6).
func (s *Set) bindPod(ctx context.Context, pods *verbs.Served, r *verbs.Request) (verbs.Answer, error) {
	obj, options, err := pods.DecodeAs(r, bindingKind, func() runtime.Object { return &corev1.Binding{} })
	if err != nil {
		return verbs.Answer{}, err
	}
	b := obj.(*corev1.Binding)
	name := r.Info.Name
	if name == "" {
		name = b.Name
	}
	switch {
	case b.Name == "":
		b.Name = name
	case b.Name != name:
		return verbs.Answer{}, apierrors.NewBadRequest("name in URL does not match name in Binding object")
	}
	if b.Namespace != "" && b.Namespace != r.Info.Namespace {
		return verbs.Answer{}, apierrors.NewBadRequest("the namespace of the provided object does not match the namespace sent on the request")
	}
	b.Namespace = r.Info.Namespace
	if b.Target.Kind == "" {
		b.Target.Kind = "Node"
	}
	if err := pods.AdmitOther(ctx, r, admission.Create, bindingKind, b, name, options); err != nil {
		return verbs.Answer{}, err
	}
	if errs := validateBinding(b); len(errs) > 0 {
		return verbs.Answer{}, apierrors.NewInvalid(bindingKind.GroupKind(), b.Name, errs)
	}
	var pre *store.Preconditions
	if b.UID != "" || b.ResourceVersion != "" {
		pre = &store.Preconditions{}
		if b.UID != "" {
			pre.UID = &b.UID
		}
		if b.ResourceVersion != "" {
			pre.ResourceVersion = &b.ResourceVersion
		}
	}
	decide := func(current *store.Object) (runtime.Object, error) {
		old, ok := current.Object.(*corev1.Pod)
		if !ok {
			return nil, apierrors.NewInternalError(fmt.Errorf("unexpected object: %T", current.Object))
		}
		if old.DeletionTimestamp != nil {
			return nil, bindingConflict(name, fmt.Errorf("pod %s is being deleted, cannot be assigned to a host", name))
		}
		if old.Spec.NodeName != "" {
			return nil, bindingConflict(name, fmt.Errorf("pod %v is already assigned to node %q", name, old.Spec.NodeName))
		}
		if len(old.Spec.SchedulingGates) != 0 {
			return nil, bindingConflict(name, fmt.Errorf("pod %v has non-empty .spec.schedulingGates", name))
		}
		pod := old.DeepCopy()
		pod.Spec.NodeName = b.Target.Name
		for k, v := range b.Annotations {
			if pod.Annotations == nil {
				pod.Annotations = map[string]string{}
			}
			pod.Annotations[k] = v
		}
		for k, v := range b.Labels {
			if pod.Labels == nil {
				pod.Labels = map[string]string{}
			}
			pod.Labels[k] = v
		}
		setPodCondition(&pod.Status, corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionTrue, ObservedGeneration: conditionGeneration(pod)})
		return pod, nil // nobody comes to own any of this, as upstream's
	}
	if len(options.DryRun) > 0 {
		current, err := pods.Store.Get(ctx, b.Namespace, name, "")
		if err != nil {
			return verbs.Answer{}, err
		}
		if _, err := decide(current); err != nil {
			return verbs.Answer{}, err
		}
	} else if _, err := pods.Store.Update(ctx, b.Namespace, name, pre, false, decide); err != nil {
		return verbs.Answer{}, err
	}
	return verbs.Success(http.StatusCreated), nil
}

func bindingConflict(name string, err error) error {
	return apierrors.NewConflict(schema.GroupResource{Resource: "pods/binding"}, name, err)
}

func validateBinding(b *corev1.Binding) field.ErrorList {
	var errs field.ErrorList
	if b.Target.Kind != "" && b.Target.Kind != "Node" {
		errs = append(errs, field.NotSupported(field.NewPath("target", "kind"), b.Target.Kind, []string{"Node", "<empty>"}))
	}
	if b.Target.Name == "" {
		errs = append(errs, field.Required(field.NewPath("target", "name"), ""))
	}
	return errs
}

// setPodCondition adds or replaces a condition; the time moves only when the status does.
func setPodCondition(s *corev1.PodStatus, c corev1.PodCondition) {
	c.LastTransitionTime = metav1.Now().Rfc3339Copy()
	for i := range s.Conditions {
		if have := &s.Conditions[i]; have.Type == c.Type {
			if have.Status == c.Status {
				c.LastTransitionTime = have.LastTransitionTime
			}
			*have = c
			return
		}
	}
	s.Conditions = append(s.Conditions, c)
}

// conditionGeneration is the generation a condition is about: recorded once the pod's status carries one (KEP-5067).
func conditionGeneration(p *corev1.Pod) int64 {
	if p.Status.ObservedGeneration != 0 {
		return p.Generation
	}
	for _, c := range p.Status.Conditions {
		if c.ObservedGeneration != 0 {
			return p.Generation
		}
	}
	return 0
}
