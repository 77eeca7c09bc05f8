package verbs

import (
	"context"
	"errors"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"wherry.dev/wherry/apiserver/wire"
	"wherry.dev/wherry/store"
)

// returnsObject lists the resources whose final deletion answers with the object instead of a Status, as upstream's do.
var returnsObject = map[schema.GroupResource]bool{
	{Resource: "pods"}: true, {Resource: "services"}: true, {Resource: "serviceaccounts"}: true, {Resource: "persistentvolumes"}: true,
	{Resource: "persistentvolumeclaims"}: true, {Resource: "podtemplates"}: true, {Resource: "resourcequotas"}: true,
	{Group: "storage.k8s.io", Resource: "storageclasses"}: true, {Group: "storage.k8s.io", Resource: "volumeattachments"}: true,
	{Group: "storage.k8s.io", Resource: "csinodes"}: true, {Group: "storage.k8s.io", Resource: "csidrivers"}: true,
	{Group: "storage.k8s.io", Resource: "csistoragecapacities"}: true, {Group: "resource.k8s.io", Resource: "resourceclaims"}: true,
	{Group: "resource.k8s.io", Resource: "resourceslices"}: true, {Group: "resource.k8s.io", Resource: "deviceclasses"}: true,
	{Group: "resource.k8s.io", Resource: "resourceclaimtemplates"}: true,
}

// Delete removes an object, or marks it as deleted when something has to happen first: a grace period, finalizers, or
// what becomes of its dependents.
func Delete(ctx context.Context, s *Served, r *Request) (Answer, error) {
	if err := s.checkRequestNamespace(r.Info.Namespace); err != nil {
		return Answer{}, err
	}
	options, err := s.deleteOptions(r)
	if err != nil {
		return Answer{}, err
	}
	r.Marks.Decoded = time.Now()
	return s.delete(ctx, r, r.Info.Name, options)
}

// deleteOptions reads the body, or without one the query.
func (s *Served) deleteOptions(r *Request) (*metav1.DeleteOptions, error) {
	options := &metav1.DeleteOptions{}
	data, err := wire.ReadBody(r.HTTP)
	if err != nil {
		return nil, err
	}
	if len(data) > 0 {
		format, err := wire.BodyFormat(r.HTTP)
		if err != nil {
			return nil, err
		}
		obj, err := s.Decoder.Options(data, format)
		if err != nil {
			return nil, err
		}
		options = obj
		s.recordSent(r, options, metav1.SchemeGroupVersion.WithKind("DeleteOptions"))
	} else if q := r.Query(); len(q) > 0 {
		if err := metav1.Convert_url_Values_To_v1_DeleteOptions(&q, options, nil); err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
	}
	if errs := metav1validation.ValidateDeleteOptions(options); len(errs) > 0 {
		return nil, apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: "DeleteOptions"}, "", errs)
	}
	if options.GracePeriodSeconds != nil && *options.GracePeriodSeconds < 0 {
		one := int64(1)
		options.GracePeriodSeconds = &one
	}
	options.SetGroupVersionKind(metav1.SchemeGroupVersion.WithKind("DeleteOptions"))
	return options, nil
}

// fate is what a deletion does to an object now.
type fate int

const (
	remove  fate = iota // it goes at once
	mark                // it is marked and stays for a while
	already             // it is marked as it should be
)

// delete decides the fate of one object and brings it about. Other writers may come in between; then it decides again.
func (s *Served) delete(ctx context.Context, r *Request, name string, options *metav1.DeleteOptions) (Answer, error) {
	namespace, dryRun := r.Info.Namespace, isDryRun(options.DryRun)
	var pre *store.Preconditions
	if p := options.Preconditions; p != nil {
		pre = &store.Preconditions{UID: p.UID, ResourceVersion: p.ResourceVersion}
	}
	var marked runtime.Object // the decision's outcome
	var what fate
	var admitted string // resourceVersion that admission has seen
	decide := func(current *store.Object) (runtime.Object, error) {
		if current == nil {
			return nil, apierrors.NewNotFound(s.resource(), name)
		}
		old, err := s.Type.Served(current)
		if err != nil {
			return nil, err
		}
		m, err := accessor(old)
		if err != nil {
			return nil, err
		}
		if err := s.checkPreconditions(m, pre); err != nil {
			return nil, err
		}
		if v := m.GetResourceVersion(); admitted != v {
			if err := s.Admit.Deleting(ctx, s, r, old, options, name, dryRun); err != nil {
				return nil, err
			}
			admitted = v
		}
		if marked, what, err = s.fate(old, *options); err != nil {
			return nil, err
		}
		switch what {
		case remove:
			return nil, errGone
		case already:
			return s.asStored(current, old)
		}
		return s.replacing(marked, current)
	}
	current, err := s.Store.Get(ctx, namespace, name, "0")
	if apierrors.IsNotFound(err) {
		current, err = s.Store.Get(ctx, namespace, name, "")
	}
	if err != nil {
		return Answer{}, err
	}
	if dryRun {
		if _, err := decide(current); err != nil && !errors.Is(err, errGone) {
			return Answer{}, err
		}
		return s.deleted(r, nil, marked, what == remove, options)
	}

	for {
		// The usual deletion at once is one transaction: look at what the cache has, and let the store's check see
		// that it is still so.
		_, err := decide(current)
		if errors.Is(err, errGone) {
			last, err := s.remove(ctx, r, name, pre, current)
			switch {
			case err == errChanged:
				if current, err = s.Store.Get(ctx, namespace, name, ""); err != nil {
					return Answer{}, err
				}
				continue
			case err != nil:
				return Answer{}, err
			}
			return s.deleted(r, last, nil, true, options)
		}
		if err != nil && current.Revision != 0 {
			// A refusal by what the cache has may be out of date.
			fresh, gerr := s.Store.Get(ctx, namespace, name, "")
			if gerr != nil {
				return Answer{}, gerr
			}
			if fresh.Revision == current.Revision {
				return Answer{}, err
			}
			current = fresh
			continue
		}
		if err != nil {
			return Answer{}, err
		}
		stored, err := s.Store.Update(ctx, namespace, name, pre, false, decide)
		if errors.Is(err, errGone) {
			if current, err = s.Store.Get(ctx, namespace, name, ""); err != nil {
				return Answer{}, err
			}
			continue
		}
		if err != nil {
			return Answer{}, err
		}
		if what == mark {
			if m, err := accessor(stored.Object); err == nil {
				s.recordDeletion(r, namespace, name, string(m.GetUID()), false)
			}
		}
		return s.deleted(r, stored, nil, false, options)
	}
}

var (
	errGone    error = apierrors.NewInternalError(errors.New("nothing has to happen before the object goes"))
	errChanged error = apierrors.NewInternalError(errors.New("the object changed meanwhile"))
)

// remove takes the object out of the store if it still is the one that the decision was made about.
func (s *Served) remove(ctx context.Context, r *Request, name string, pre *store.Preconditions, seen *store.Object) (*store.Object, error) {
	last, err := s.Store.Delete(ctx, r.Info.Namespace, name, pre, func(current *store.Object) error {
		if current.Revision != seen.Revision {
			return errChanged
		}
		return nil
	})
	if errors.Is(err, errChanged) {
		return nil, errChanged
	}
	if err != nil {
		return nil, err
	}
	served, err := s.Type.Served(last)
	if err != nil {
		return nil, err
	}
	if s.Claims != nil {
		s.Claims.Settle(nil, served)
	}
	if m, err := accessor(served); err == nil {
		s.recordDeletion(r, r.Info.Namespace, name, string(m.GetUID()), true)
	}
	return last, nil
}

// deleted answers a deletion.
func (s *Served) deleted(r *Request, stored *store.Object, dry runtime.Object, gone bool, options *metav1.DeleteOptions) (Answer, error) {
	code := http.StatusOK
	//lint:ignore SA1019 the deprecated field still decides the code
	if !gone && options.OrphanDependents != nil && !*options.OrphanDependents {
		code = http.StatusAccepted
	}
	if gone && !returnsObject[s.resource()] {
		obj := dry
		if stored != nil {
			obj = stored.Object
		}
		m, err := accessor(obj)
		if err != nil {
			return Answer{}, err
		}
		status := &metav1.Status{Status: metav1.StatusSuccess, Details: &metav1.StatusDetails{Name: m.GetName(), Group: s.Kind.GroupVersionKind.Group, Kind: s.Kind.Plural, UID: m.GetUID()}}
		return Answer{Code: code, Object: status, GVK: statusKind}, nil
	}
	if stored != nil {
		return Answer{Code: code, Stored: stored}, nil
	}
	return Answer{Code: code, Object: dry, GVK: s.Kind.GroupVersionKind}, nil
}

// fate decides what deletion means for old now, and returns the object to store when it stays. Pure.
func (s *Served) fate(old runtime.Object, options metav1.DeleteOptions) (runtime.Object, fate, error) {
	obj := old.DeepCopyObject()
	m, err := accessor(obj)
	if err != nil {
		return nil, 0, err
	}
	if ns, ok := obj.(*corev1.Namespace); ok {
		return namespaceFate(ns, old, &options)
	}
	if s.Kind.Terminate != nil && m.GetDeletionTimestamp() == nil {
		s.Kind.Terminate(obj)
	}
	graceful, pending := s.graceful(obj, m, &options)
	if pending {
		return obj, already, nil
	}
	finalizers, changed := s.deletionFinalizers(m, &options)
	if changed {
		m.SetFinalizers(finalizers)
	}
	switch {
	case graceful:
		if *options.GracePeriodSeconds == 0 && len(finalizers) == 0 {
			return obj, remove, nil
		}
		return obj, mark, nil
	case len(finalizers) > 0:
		before := m.GetDeletionTimestamp()
		graceBefore := m.GetDeletionGracePeriodSeconds()
		markDeleted(m)
		if !changed && before != nil && graceBefore != nil && *graceBefore == 0 && m.GetDeletionTimestamp().Equal(before) {
			return obj, already, nil
		}
		return obj, mark, nil
	}
	return obj, remove, nil
}

// markDeleted marks an object that waits for its finalizers only.
func markDeleted(m metav1.Object) {
	t := now()
	if d := m.GetDeletionTimestamp(); d == nil {
		if g := m.GetGeneration(); g > 0 {
			m.SetGeneration(g + 1)
		}
		m.SetDeletionTimestamp(&t)
	} else if d.After(t.Time) {
		m.SetDeletionTimestamp(&t)
	}
	zero := int64(0)
	m.SetDeletionGracePeriodSeconds(&zero)
}

// graceful marks obj when its kind is deleted gracefully and its time has not come. pending says that it is marked
// already and options do not shorten the wait.
func (s *Served) graceful(obj runtime.Object, m metav1.Object, options *metav1.DeleteOptions) (graceful, pending bool) {
	if s.Kind.Graceful == nil {
		return false, false
	}
	if g := m.GetDeletionGracePeriodSeconds(); g != nil && *g < 0 {
		one := int64(1)
		m.SetDeletionGracePeriodSeconds(&one)
	}
	if d := m.GetDeletionTimestamp(); d != nil {
		left := m.GetDeletionGracePeriodSeconds()
		if left == nil || *left == 0 {
			return false, false // the second phase of a deletion
		}
		if options.GracePeriodSeconds == nil || *options.GracePeriodSeconds >= *left {
			options.GracePeriodSeconds = left
			return false, true
		}
		// Only a shorter wait is accepted; the time of deletion moves back by the difference.
		period := *options.GracePeriodSeconds
		at := metav1.NewTime(d.Add(time.Duration(period-*left) * time.Second))
		if t := now(); at.Before(&t) {
			at = t
			if period != 0 {
				period = 1 // its holder still has to see the end
			}
		}
		m.SetDeletionTimestamp(&at)
		m.SetDeletionGracePeriodSeconds(&period)
		options.GracePeriodSeconds = &period
		return true, false
	}
	period := s.Kind.Graceful(obj, options)
	options.GracePeriodSeconds = &period
	at := metav1.NewTime(now().Add(time.Duration(period) * time.Second))
	m.SetDeletionTimestamp(&at)
	m.SetDeletionGracePeriodSeconds(&period)
	if g := m.GetGeneration(); g > 0 {
		m.SetGeneration(g + 1)
	}
	return true, false
}

// deletionFinalizers returns the finalizers with those that tell the garbage collector what to do with dependents.
func (s *Served) deletionFinalizers(m metav1.Object, options *metav1.DeleteOptions) (finalizers []string, changed bool) {
	if gr := s.resource(); gr.Resource == "events" { // never collected, so nobody would take the finalizer away
		return m.GetFinalizers(), false
	}
	orphan, foreground := s.dependents(m, options)
	var had struct{ orphan, foreground bool }
	for _, f := range m.GetFinalizers() {
		switch f {
		case metav1.FinalizerOrphanDependents:
			had.orphan = true
		case metav1.FinalizerDeleteDependents:
			had.foreground = true
		default:
			finalizers = append(finalizers, f)
		}
	}
	if orphan {
		finalizers = append(finalizers, metav1.FinalizerOrphanDependents)
	}
	if foreground {
		finalizers = append(finalizers, metav1.FinalizerDeleteDependents)
	}
	if had.orphan == orphan && had.foreground == foreground {
		return m.GetFinalizers(), false
	}
	return finalizers, true
}

// dependents says what becomes of the object's dependents: the request decides, then the object, then the kind.
func (s *Served) dependents(m metav1.Object, options *metav1.DeleteOptions) (orphan, foreground bool) {
	//lint:ignore SA1019 the deprecated field is still honoured
	if o := options.OrphanDependents; o != nil {
		return *o, false
	}
	if p := options.PropagationPolicy; p != nil {
		return *p == metav1.DeletePropagationOrphan, *p == metav1.DeletePropagationForeground
	}
	for _, f := range m.GetFinalizers() {
		switch f {
		case metav1.FinalizerOrphanDependents:
			return true, false
		case metav1.FinalizerDeleteDependents:
			return false, true
		}
	}
	return s.Kind.DefaultOrphan, false
}
