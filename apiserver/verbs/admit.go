package verbs

import (
	"context"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"

	"wherry.dev/wherry/api/scheme"
)

// Admission runs the admission plugins in their order: all that may change an object, and after validation all that
// may only refuse it. Immutable.
type Admission struct {
	mutate   map[admission.Operation][]admission.MutationInterface
	validate map[admission.Operation][]admission.ValidationInterface
	objects  admission.ObjectInterfaces
}

// NewAdmission sorts plugins by what they do on which operation.
func NewAdmission(plugins []admission.Interface) *Admission {
	a := &Admission{mutate: map[admission.Operation][]admission.MutationInterface{}, validate: map[admission.Operation][]admission.ValidationInterface{},
		objects: admission.NewObjectInterfacesFromScheme(scheme.Scheme)}
	for _, op := range []admission.Operation{admission.Create, admission.Update, admission.Delete, admission.Connect} {
		for _, p := range plugins {
			if !p.Handles(op) {
				continue
			}
			if m, ok := p.(admission.MutationInterface); ok {
				a.mutate[op] = append(a.mutate[op], m)
			}
			if v, ok := p.(admission.ValidationInterface); ok {
				a.validate[op] = append(a.validate[op], v)
			}
		}
	}
	return a
}

// attributes describes one operation on one object to the plugins. The same attributes go through both passes.
func (s *Served) attributes(r *Request, op admission.Operation, obj, old, options runtime.Object, name string, dryRun bool) admission.Attributes {
	return admission.NewAttributesRecord(obj, old, s.Kind.GroupVersionKind, r.Info.Namespace, name, s.Kind.GroupVersionResource(), r.Info.Subresource, op, options, dryRun, r.User)
}

// Mutate lets every plugin change the object in place.
func (a *Admission) Mutate(ctx context.Context, attrs admission.Attributes) error {
	for _, p := range a.mutate[attrs.GetOperation()] {
		if err := p.Admit(ctx, attrs, a.objects); err != nil {
			return err
		}
	}
	return nil
}

// Validate lets every plugin refuse the object.
func (a *Admission) Validate(ctx context.Context, attrs admission.Attributes) error {
	for _, p := range a.validate[attrs.GetOperation()] {
		if err := p.Validate(ctx, attrs, a.objects); err != nil {
			return err
		}
	}
	return nil
}

// Deleting asks the plugins about a deletion. They get a copy of the object, for some change what they are given.
func (a *Admission) Deleting(ctx context.Context, s *Served, r *Request, old runtime.Object, options runtime.Object, name string, dryRun bool) error {
	if len(a.mutate[admission.Delete]) == 0 && len(a.validate[admission.Delete]) == 0 {
		return nil
	}
	attrs := s.attributes(r, admission.Delete, nil, old.DeepCopyObject(), options, name, dryRun)
	if err := a.Mutate(ctx, attrs); err != nil {
		return err
	}
	return a.Validate(ctx, attrs)
}

// Connecting asks the plugins about a connection to a subresource such as exec.
func (a *Admission) Connecting(ctx context.Context, s *Served, r *Request, options runtime.Object) error {
	attrs := s.attributes(r, admission.Connect, options, nil, nil, r.Info.Name, false)
	if err := a.Mutate(ctx, attrs); err != nil {
		return err
	}
	return a.Validate(ctx, attrs)
}
