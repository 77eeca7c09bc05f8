package verbs

import (
	"context"
	"sync"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"

	"wherry.dev/wherry/api/kinds"
	"wherry.dev/wherry/api/scheme"
	"wherry.dev/wherry/apiserver/audit"
)

// Admission runs the admission plugins in their order: all that may change an object, and after validation all that
// may only refuse it. Safe for concurrent use.
type Admission struct {
	mutate   map[admission.Operation][]admission.MutationInterface
	validate map[admission.Operation][]admission.ValidationInterface
	objects  atomic.Pointer[func() *objects]
}

// NewAdmission sorts plugins by what they do on which operation. They may ask for any of list.
func NewAdmission(plugins []admission.Interface, list []*kinds.Kind) *Admission {
	a := &Admission{mutate: map[admission.Operation][]admission.MutationInterface{}, validate: map[admission.Operation][]admission.ValidationInterface{}}
	a.SetKinds(list)
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

// SetKinds changes what the plugins may ask for; requests that have begun may see the kinds of before.
func (a *Admission) SetKinds(list []*kinds.Kind) {
	made := sync.OnceValue(func() *objects { return newObjects(list) }) // when the first plugin asks: kinds may come by the hundred
	a.objects.Store(&made)
}

// interfaces is what plugins may ask for now.
func (a *Admission) interfaces() *objects { return (*a.objects.Load())() }

// attributes describes one operation on one object to the plugins. The same attributes go through both passes.
func (s *Served) attributes(r *Request, op admission.Operation, obj, old, options runtime.Object, name string, dryRun bool) admission.Attributes {
	kind := s.Kind.GroupVersionKind
	if r.Sub != nil && !r.Sub.Kind.Empty() {
		kind = r.Sub.Kind
	}
	return admission.NewAttributesRecord(obj, old, kind, r.Info.Namespace, name, s.Kind.GroupVersionResource(), r.Info.Subresource, op, options, dryRun, r.User)
}

// Mutate lets every plugin change the object in place, a second time if a webhook or policy has changed what an earlier
// plugin has seen (reinvocationPolicy IfNeeded).
func (a *Admission) Mutate(ctx context.Context, attrs admission.Attributes) error {
	defer a.recordNotes(ctx, attrs)
	if err := a.mutateOnce(ctx, attrs); err != nil {
		return err
	}
	again := attrs.GetReinvocationContext()
	if !again.ShouldReinvoke() {
		return nil
	}
	again.SetIsReinvoke()
	return a.mutateOnce(ctx, attrs)
}

func (a *Admission) mutateOnce(ctx context.Context, attrs admission.Attributes) error {
	for _, p := range a.mutate[attrs.GetOperation()] {
		if err := p.Admit(ctx, attrs, a.interfaces()); err != nil {
			return err
		}
	}
	return nil
}

// Validate lets every plugin refuse the object.
func (a *Admission) Validate(ctx context.Context, attrs admission.Attributes) error {
	defer a.recordNotes(ctx, attrs)
	for _, p := range a.validate[attrs.GetOperation()] {
		if err := p.Validate(ctx, attrs, a.interfaces()); err != nil {
			return err
		}
	}
	return nil
}

// noteTaker does nothing but what admission.WithAudit does with every plugin: copy what plugins have noted to the request's audit record.
// It does it once for all of them.
var noteTaker = admission.WithAudit(idle{}).(admission.MutationInterface)

// idle is a plugin that does nothing.
type idle struct{}

func (idle) Handles(admission.Operation) bool { return true }

func (idle) Admit(context.Context, admission.Attributes, admission.ObjectInterfaces) error {
	return nil
}

// recordNotes copies what the plugins have noted to the audit record, if there is one.
func (a *Admission) recordNotes(ctx context.Context, attrs admission.Attributes) {
	if audit.Recorded(ctx) {
		_ = noteTaker.Admit(ctx, attrs, a.interfaces()) // attributes of this package can always be read
	}
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
	kind := s.Kind.GroupVersionKind
	if known, _, err := scheme.Scheme.ObjectKinds(options); err == nil { // what connects is its options
		kind = known[0]
	}
	attrs := admission.NewAttributesRecord(options, nil, kind, r.Info.Namespace, r.Info.Name, s.Kind.GroupVersionResource(), r.Info.Subresource, admission.Connect, nil, false, r.User)
	if err := a.Mutate(ctx, attrs); err != nil {
		return err
	}
	return a.Validate(ctx, attrs)
}
