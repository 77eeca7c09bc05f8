package verbs

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apiserver/pkg/admission"

	"wherry.dev/wherry/api/kinds"
	"wherry.dev/wherry/api/scheme"
	"wherry.dev/wherry/apiserver/audit"
)

// Admission runs the admission plugins in their order: all that may change an object, and after validation all that
// may only refuse it. Safe for concurrent use.
type Admission struct {
	mutate   map[admission.Operation]*pass[admission.MutationInterface]
	validate map[admission.Operation]*pass[admission.ValidationInterface]
	objects  atomic.Pointer[func() *objects]
}

// NewAdmission sorts plugins by what they do on which operation. They may ask for any of list. names are what the plugins are called where took, which may
// be nil, is asked for who is told how long they take.
func NewAdmission(plugins []admission.Interface, names []string, list []*kinds.Kind, took Latencies) *Admission {
	a := &Admission{mutate: map[admission.Operation]*pass[admission.MutationInterface]{}, validate: map[admission.Operation]*pass[admission.ValidationInterface]{}}
	a.SetKinds(list)
	for _, op := range []admission.Operation{admission.Create, admission.Update, admission.Delete, admission.Connect} {
		mutate, validate := newPass[admission.MutationInterface](took, "admit", op), newPass[admission.ValidationInterface](took, "validate", op)
		a.mutate[op], a.validate[op] = mutate, validate
		for i, p := range plugins {
			if !p.Handles(op) {
				continue
			}
			name := "unnamed"
			if i < len(names) {
				name = names[i]
			}
			if m, ok := p.(admission.MutationInterface); ok {
				mutate.add(m, name)
			}
			if v, ok := p.(admission.ValidationInterface); ok {
				validate.add(v, name)
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
	pass := a.mutate[attrs.GetOperation()]
	if len(pass.plugins) == 0 {
		return nil
	}
	defer a.recordNotes(ctx, attrs)
	began := time.Now()
	admit := func(p admission.MutationInterface) error { return p.Admit(ctx, attrs, a.interfaces()) }
	end, err := pass.run(began, admit)
	if again := attrs.GetReinvocationContext(); err == nil && again.ShouldReinvoke() {
		again.SetIsReinvoke()
		end, err = pass.run(end, admit)
	}
	pass.whole.observe(end.Sub(began), err != nil)
	return err
}

// mutate lets every plugin change the object of attrs. Managed fields that come out of it in a bad state, from an outdated webhook say, are put back.
func (s *Served) mutate(ctx context.Context, r *Request, attrs admission.Attributes) error {
	m, err := accessor(attrs.GetObject())
	if err != nil {
		return err
	}
	before := m.GetManagedFields()
	if err := s.Admit.Mutate(ctx, attrs); err != nil {
		return err
	}
	after := m.GetManagedFields()
	if len(after) == len(before) && (len(after) == 0 || &after[0] == &before[0]) { // nobody touched them
		return nil
	}
	if err := managedfields.ValidateManagedFields(after); err != nil {
		m.SetManagedFields(before)
		r.Warn(fmt.Sprintf(".metadata.managedFields was in an invalid state after admission; this could be caused by an outdated mutating admission controller; please fix your requests: %v", err))
	}
	return nil
}

// Validate lets every plugin refuse the object.
func (a *Admission) Validate(ctx context.Context, attrs admission.Attributes) error {
	pass := a.validate[attrs.GetOperation()]
	if len(pass.plugins) == 0 {
		return nil
	}
	defer a.recordNotes(ctx, attrs)
	began := time.Now()
	end, err := pass.run(began, func(p admission.ValidationInterface) error { return p.Validate(ctx, attrs, a.interfaces()) })
	pass.whole.observe(end.Sub(began), err != nil)
	return err
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
	if len(a.mutate[admission.Delete].plugins) == 0 && len(a.validate[admission.Delete].plugins) == 0 {
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
