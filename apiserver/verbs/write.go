package verbs

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/admission"

	"wherry.dev/wherry/api/kinds"
	"wherry.dev/wherry/apiserver/managed"
	"wherry.dev/wherry/apiserver/wire"
	"wherry.dev/wherry/store"
)

// change is one replacement of a stored object by a new one. Update, patch and apply differ only in how they make it.
type change struct {
	// next makes the new object, which is then the caller's to change, from the current one, which is immutable
	// and nil when there is none. It may be called more than once, when other writers are faster.
	next func(ctx context.Context, current runtime.Object) (runtime.Object, error)
	// create allows that there is no current object, in which case next's becomes the first.
	create        bool
	options       runtime.Object // for admission of an update
	createOptions runtime.Object // for admission of a creation
	preconditions *store.Preconditions
	dryRun        bool
	// unconditional accepts an object without a resourceVersion whatever the kind says (patches start from the current one).
	unconditional bool
}

// errFinalized says that an update removed the last finalizer of an object that was waiting for that. Like the others
// of its sort it is an API error, because those come through the store as they are.
var errFinalized error = apierrors.NewInternalError(errors.New("the last finalizer is gone"))

// maxAttempts bounds retries of patches whose base keeps changing, as upstream does.
const maxAttempts = 5

// write replaces the object named by r: prepare, validate, admit, store. It returns the new stored object, or what a
// dry run would have stored, and whether the object is new.
func (s *Served) write(ctx context.Context, r *Request, c change) (stored *store.Object, dry runtime.Object, created bool, err error) {
	namespace, name := r.Info.Namespace, r.Info.Name
	if err := s.checkRequestNamespace(namespace); err != nil {
		return nil, nil, false, err
	}
	var undo func()
	giveBack := func() {
		if undo != nil {
			undo()
			undo = nil
		}
	}
	defer func() {
		if err != nil || dry != nil {
			giveBack()
		}
	}()
	var finalized, old, next runtime.Object
	decide := func(current *store.Object) (runtime.Object, error) {
		giveBack() // what an earlier attempt has claimed
		finalized, old, next, created = nil, nil, nil, false
		if current == nil {
			if !c.create {
				return nil, apierrors.NewNotFound(s.resource(), name)
			}
			created = true
			obj, err := s.firstVersion(ctx, r, c)
			if err != nil {
				return nil, err
			}
			if err := s.checkFirst(ctx, r, obj, c, &undo); err != nil {
				return nil, err
			}
			next = obj
			r.Marks.Admitted = time.Now()
			return s.toStored(obj)
		}
		var err error
		if old, err = s.Type.Served(current); err != nil {
			return nil, err
		}
		obj, err := c.next(ctx, old)
		if err != nil {
			return nil, err
		}
		if obj == old {
			next = old
			return s.asStored(current, old)
		}
		obj, validate, err := s.admitUpdate(ctx, r, obj, old, c)
		if err != nil {
			return nil, err
		}
		warnOfOwners(r, obj, afterAdmission)
		if err := s.checkVersion(obj, old, c); err != nil {
			return nil, err
		}
		if err := s.prepareUpdate(ctx, r, obj, old, c, &undo); err != nil {
			return nil, err
		}
		managed.KeepTimes(obj, old)
		if err := validate(obj); err != nil {
			return nil, err
		}
		r.Marks.Admitted = time.Now()
		if last, err := s.emptied(obj, old); err != nil {
			return nil, err
		} else if last {
			finalized = obj
			return nil, errFinalized
		}
		if apiequality.Semantic.DeepEqual(obj, old) { // includes the resourceVersion, which checkVersion has aligned
			next = old
			return s.asStored(current, old)
		}
		next = obj
		return s.replacing(obj, current)
	}

	if c.dryRun {
		return s.rehearse(ctx, r, c, decide, &next, &created, &finalized)
	}
	stored, err = s.Store.Update(ctx, namespace, name, c.preconditions, c.create, decide)
	if errors.Is(err, errFinalized) {
		m, merr := accessor(finalized)
		if merr != nil {
			return nil, nil, false, merr
		}
		uid := m.GetUID()
		_, err := s.Store.Delete(ctx, namespace, name, &store.Preconditions{UID: &uid}, nil)
		if err != nil && !apierrors.IsNotFound(err) {
			return nil, nil, false, err
		}
		if s.Claims != nil {
			s.Claims.Settle(nil, old)
		}
		s.recordDeletion(r, namespace, name, string(uid), true)
		return nil, finalized, false, nil
	}
	if err != nil {
		return nil, nil, false, err
	}
	r.Marks.Stored = time.Now()
	if s.Claims != nil && r.Sub == nil && old != nil {
		s.Claims.Settle(next, old)
	}
	if created {
		if m, err := accessor(next); err == nil {
			s.recordCreation(r, namespace, name, string(m.GetUID()))
		}
	}
	return stored, nil, created, nil
}

// rehearse makes the decision of a dry run and stores nothing.
func (s *Served) rehearse(ctx context.Context, r *Request, c change, decide store.UpdateFunc, next *runtime.Object, created *bool, finalized *runtime.Object) (*store.Object, runtime.Object, bool, error) {
	current, err := s.Store.Get(ctx, r.Info.Namespace, r.Info.Name, "")
	if err != nil && !(apierrors.IsNotFound(err) && c.create) {
		return nil, nil, false, err
	}
	if err != nil {
		current = nil
	}
	if current != nil && c.preconditions != nil {
		m, err := accessor(current.Object)
		if err != nil {
			return nil, nil, false, err
		}
		if err := s.checkPreconditions(m, c.preconditions); err != nil {
			return nil, nil, false, err
		}
	}
	_, err = decide(current)
	if errors.Is(err, errFinalized) {
		return nil, *finalized, false, nil
	}
	if err != nil {
		return nil, nil, false, err
	}
	return nil, *next, *created, nil
}

// admitUpdate lets admission change obj, which replaces old, and returns the outcome and how to ask later whether it is refused. What
// is sent to a subresource of another type is shown to admission as that (a Scale).
func (s *Served) admitUpdate(ctx context.Context, r *Request, obj, old runtime.Object, c change) (_ runtime.Object, validate func(runtime.Object) error, err error) {
	if r.Sub == nil || r.Sub.Read == nil {
		attrs := s.attributes(r, admission.Update, obj, old, c.options, r.Info.Name, c.dryRun)
		return obj, func(runtime.Object) error { return s.Admit.Validate(ctx, attrs) }, s.mutate(ctx, r, attrs)
	}
	was, err := base(r.Sub, old)
	if err != nil {
		return nil, nil, err
	}
	view, err := base(r.Sub, obj)
	if err != nil {
		return nil, nil, err
	}
	before := view.DeepCopyObject()
	if err := s.mutate(ctx, r, s.attributes(r, admission.Update, view, was, c.options, r.Info.Name, c.dryRun)); err != nil {
		return nil, nil, err
	}
	if !apiequality.Semantic.DeepEqual(view, before) {
		if obj, err = r.Sub.Write(obj, view); err != nil {
			return nil, nil, err
		}
	}
	return obj, func(obj runtime.Object) error {
		final, err := base(r.Sub, obj)
		if err != nil {
			return err
		}
		return s.Admit.Validate(ctx, s.attributes(r, admission.Update, final, was, c.options, r.Info.Name, c.dryRun))
	}, nil
}

// base is a subresource of another type as patches and admission start from it.
func base(sub *kinds.Subresource, parent runtime.Object) (runtime.Object, error) {
	if sub.Base != nil {
		return sub.Base(parent)
	}
	return sub.Read(parent)
}

func (s *Served) checkPreconditions(m metav1.Object, p *store.Preconditions) error {
	if p == nil {
		return nil
	}
	if p.UID != nil && *p.UID != m.GetUID() {
		return apierrors.NewConflict(s.resource(), m.GetName(), fmt.Errorf("the UID in the precondition (%s) does not match the UID in record (%s). The object might have been deleted and then recreated", *p.UID, m.GetUID()))
	}
	if p.ResourceVersion != nil && *p.ResourceVersion != m.GetResourceVersion() {
		return apierrors.NewConflict(s.resource(), m.GetName(), fmt.Errorf("the ResourceVersion in the precondition (%s) does not match the ResourceVersion in record (%s). The object might have been modified", *p.ResourceVersion, m.GetResourceVersion()))
	}
	return nil
}

// firstVersion makes and admits the object that an update or patch of nothing creates.
func (s *Served) firstVersion(ctx context.Context, r *Request, c change) (runtime.Object, error) {
	obj, err := c.next(ctx, nil)
	if err != nil {
		return nil, err
	}
	m, err := accessor(obj)
	if err != nil {
		return nil, err
	}
	if uid := m.GetUID(); uid != "" { // a client that updates what it has seen does not want to create it anew
		key := "/registry/" + s.Kind.StoragePrefix + "/" + r.Info.Namespace + "/" + r.Info.Name
		return nil, apierrors.NewConflict(s.resource(), r.Info.Name, fmt.Errorf("StorageError: invalid object, Code: 4, Key: %s, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: %v, UID in object meta: ", key, uid))
	}
	m.SetResourceVersion("")
	fillSystemFields(m)
	if err := r.Authorize(ctx, "create"); err != nil {
		return nil, err
	}
	if err := s.creatable(r.Info.Name); err != nil {
		return nil, err
	}
	if err := s.mutate(ctx, r, s.attributes(r, admission.Create, obj, nil, c.createOptions, r.Info.Name, c.dryRun)); err != nil {
		return nil, err
	}
	warnOfOwners(r, obj, afterAdmission)
	return obj, nil
}

// checkFirst prepares and validates the object that an update or patch of nothing creates.
func (s *Served) checkFirst(ctx context.Context, r *Request, obj runtime.Object, c change, undo *func()) error {
	m, err := accessor(obj)
	if err != nil {
		return err
	}
	if err := s.matchNamespace(m, r.Info.Namespace); err != nil {
		return err
	}
	if s.Kind.PrepareForCreate != nil {
		s.Kind.PrepareForCreate(ctx, obj)
	}
	if s.Claims != nil {
		if *undo, err = s.Claims.Claim(ctx, obj, nil, c.dryRun); err != nil {
			return err
		}
	}
	if s.Kind.Validate != nil {
		if errs := s.Kind.Validate(ctx, obj); len(errs) > 0 {
			return s.invalid(m.GetName(), errs)
		}
	}
	if s.Kind.Warnings != nil {
		for _, w := range s.Kind.Warnings(ctx, obj, nil) {
			r.Warn(w)
		}
	}
	return s.Admit.Validate(ctx, s.attributes(r, admission.Create, obj, nil, c.createOptions, r.Info.Name, c.dryRun))
}

// checkVersion holds the optimistic lock: an object that names a version replaces only that version.
func (s *Served) checkVersion(obj, old runtime.Object, c change) error {
	m, err := accessor(obj)
	if err != nil {
		return err
	}
	om, err := accessor(old)
	if err != nil {
		return err
	}
	switch v := m.GetResourceVersion(); v {
	case om.GetResourceVersion():
	case "", "0":
		if !s.Kind.AllowUnconditionalUpdate && !c.unconditional {
			return apierrors.NewInvalid(schema.GroupKind{Group: s.Kind.GroupVersionKind.Group, Kind: s.Kind.Plural}, m.GetName(), field.ErrorList{
				field.Invalid(field.NewPath("metadata").Child("resourceVersion"), uint64(0), "must be specified for an update")})
		}
		m.SetResourceVersion(om.GetResourceVersion())
	default:
		if _, err := strconv.ParseUint(v, 10, 64); err != nil { // as upstream: a 500, though the client could mend it
			return &apierrors.StatusError{ErrStatus: *wire.StatusOf(err)}
		}
		return apierrors.NewConflict(s.resource(), m.GetName(), errors.New(optimisticLock))
	}
	return nil
}

// optimisticLock is upstream's sentence for a lost race.
const optimisticLock = "the object has been modified; please apply your changes to the latest version and try again"

// prepareUpdate puts back what a write through this door cannot change, and validates the outcome.
// undo is set to what gives back the claims of obj, if there are any.
func (s *Served) prepareUpdate(ctx context.Context, r *Request, obj, old runtime.Object, c change, undo *func()) error {
	m, err := accessor(obj)
	if err != nil {
		return err
	}
	om, err := accessor(old)
	if err != nil {
		return err
	}
	if err := s.matchNamespace(m, r.Info.Namespace); err != nil {
		return err
	}
	m.SetGeneration(om.GetGeneration())
	prepare, validate := s.Kind.PrepareForUpdate, s.Kind.ValidateUpdate
	if r.Sub != nil {
		prepare, validate = r.Sub.PrepareForUpdate, r.Sub.ValidateUpdate
	}
	if prepare != nil {
		prepare(ctx, obj, old)
	}
	if m.GetUID() == "" {
		m.SetUID(om.GetUID())
	}
	if t := om.GetCreationTimestamp(); !t.IsZero() {
		m.SetCreationTimestamp(t)
	}
	if t := om.GetDeletionTimestamp(); !t.IsZero() {
		m.SetDeletionTimestamp(t)
	}
	if g := om.GetDeletionGracePeriodSeconds(); g != nil && m.GetDeletionGracePeriodSeconds() == nil {
		m.SetDeletionGracePeriodSeconds(g)
	}
	if m.GetSelfLink() != "" {
		m.SetSelfLink("")
	}
	if s.Claims != nil && r.Sub == nil {
		if *undo, err = s.Claims.Claim(ctx, obj, old, c.dryRun); err != nil {
			return err
		}
	}
	if validate != nil {
		if errs := validate(ctx, obj, old); len(errs) > 0 {
			return s.invalid(m.GetName(), errs)
		}
	}
	if r.Sub == nil && s.Kind.Warnings != nil {
		for _, w := range s.Kind.Warnings(ctx, obj, old) {
			r.Warn(w)
		}
	}
	return nil
}

// emptied tells whether this update takes away the last thing that an object marked as deleted was waiting for.
func (s *Served) emptied(obj, old runtime.Object) (bool, error) {
	m, err := accessor(obj)
	if err != nil {
		return false, err
	}
	om, err := accessor(old)
	if err != nil {
		return false, err
	}
	if m.GetDeletionTimestamp() == nil || len(m.GetFinalizers()) != 0 {
		return false, nil
	}
	if ns, is := namespaceWaits(obj); is && ns {
		return false, nil
	}
	if g := om.GetDeletionGracePeriodSeconds(); g != nil {
		return *g == 0, nil
	}
	_, isNamespace := namespaceWaits(obj)
	return isNamespace, nil
}
