package verbs

import (
	"context"
	"errors"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"

	"time"

	"wherry.dev/wherry/apiserver/wire"
	"wherry.dev/wherry/store"
)

// Create stores a new object.
func Create(ctx context.Context, s *Served, r *Request) (Answer, error) {
	if err := s.checkRequestNamespace(r.Info.Namespace); err != nil {
		return Answer{}, err
	}
	if s.Store == nil && s.Answer == nil { // a kind whose answers nobody computes here
		return Answer{}, apierrors.NewMethodNotSupported(s.resource(), "create")
	}
	var options metav1.CreateOptions
	if q := r.Query(); len(q) > 0 {
		if err := metav1.Convert_url_Values_To_v1_CreateOptions(&q, &options, nil); err != nil {
			return Answer{}, apierrors.NewBadRequest(err.Error())
		}
		if errs := metav1validation.ValidateCreateOptions(&options); len(errs) > 0 {
			return Answer{}, apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: "CreateOptions"}, "", errs)
		}
	}
	options.SetGroupVersionKind(metav1.SchemeGroupVersion.WithKind("CreateOptions"))

	// Decode and default.
	obj, err := s.decode(r, options.FieldValidation)
	if err != nil {
		return Answer{}, err
	}
	r.Marks.Decoded = time.Now()
	s.recordSent(r, obj, s.Kind.GroupVersionKind)
	if s.Answer != nil { // a question, not an object
		return s.review(ctx, r, obj, &options)
	}
	m, err := accessor(obj)
	if err != nil {
		return Answer{}, err
	}
	if r.Info.Name != "" && m.GetName() == "" { // POST to a subresource path or through a client that names it there
		m.SetName(r.Info.Name)
	}
	fillSystemFields(m)
	if err := s.matchNamespace(m, r.Info.Namespace); err != nil {
		return Answer{}, err
	}
	warnOfOwners(r, obj, "")
	if v := m.GetResourceVersion(); v != "" && v != "0" {
		return Answer{}, apierrors.NewBadRequest("resourceVersion should not be set on objects to be created")
	}
	m.SetResourceVersion("")
	obj = s.Managed[""].Update(nil, obj, manager(options.FieldManager, r.HTTP))

	stored, dry, err := s.create(ctx, r, obj, &options, isDryRun(options.DryRun), nil)
	if err != nil {
		return Answer{}, err
	}
	if dry != nil {
		return Answer{Code: http.StatusCreated, Object: dry, GVK: s.Kind.GroupVersionKind}, nil
	}
	return Answer{Code: http.StatusCreated, Stored: stored}, nil
}

// decode reads the request's body as this resource's kind and defaults it.
func (s *Served) decode(r *Request, fieldValidation string) (runtime.Object, error) {
	format, err := wire.BodyFormat(r.HTTP)
	if err != nil {
		return nil, err
	}
	data, err := wire.ReadBody(r.HTTP)
	if err != nil {
		return nil, err
	}
	obj, err := s.decodeBytes(data, format, wire.ParseDirective(fieldValidation), r.Warn)
	if err != nil {
		return nil, err
	}
	if s.Kind.Default != nil {
		s.Kind.Default(obj)
	}
	return obj, nil
}

// decodeBytes reads data as this resource's kind.
func (s *Served) decodeBytes(data []byte, format wire.Format, d wire.Directive, warn func(string)) (runtime.Object, error) {
	if s.Kind.Custom {
		return s.Decoder.Custom(data, format, d, s.Kind.GroupVersionKind, s.Kind.Prune, warn)
	}
	return s.Decoder.Object(data, format, d, s.Kind.GroupVersionKind, s.Kind.New, warn)
}

// create admits, validates and stores an object whose metadata is complete. With generateName it tries several names.
// With dryRun it returns what would have been stored. permit, if not nil, is asked before anything is stored.
func (s *Served) create(ctx context.Context, r *Request, obj runtime.Object, options runtime.Object, dryRun bool, permit func() error) (*store.Object, runtime.Object, error) {
	m, err := accessor(obj)
	if err != nil {
		return nil, nil, err
	}
	if err := s.creatable(m.GetName()); err != nil {
		return nil, nil, err
	}
	attrs := s.attributes(r, admission.Create, obj, nil, options, m.GetName(), dryRun)
	if err := s.mutate(ctx, r, attrs); err != nil {
		return nil, nil, err
	}
	warnOfOwners(r, obj, afterAdmission)
	generated := m.GetName() == "" && m.GetGenerateName() != ""
	for attempt := 1; ; attempt++ {
		candidate := obj
		if generated {
			candidate = obj.DeepCopyObject() // the store takes over what it is given, and we may need another try
			cm, err := accessor(candidate)
			if err != nil {
				return nil, nil, err
			}
			cm.SetName(generateName(m.GetGenerateName()))
		}
		stored, dry, err := s.createNamed(ctx, r, candidate, options, dryRun, permit)
		if err == nil {
			return stored, dry, nil
		}
		if !generated || !apierrors.IsAlreadyExists(err) {
			return nil, nil, err
		}
		if attempt == nameAttempts {
			cm, _ := accessor(candidate)
			return nil, nil, apierrors.NewGenerateNameConflict(s.resource(), cm.GetName(), 1)
		}
	}
}

func (s *Served) createNamed(ctx context.Context, r *Request, obj runtime.Object, options runtime.Object, dryRun bool, permit func() error) (_ *store.Object, _ runtime.Object, err error) {
	m, err := accessor(obj)
	if err != nil {
		return nil, nil, err
	}
	if err := s.matchNamespace(m, r.Info.Namespace); err != nil {
		return nil, nil, err
	}
	name, namespace, uid := m.GetName(), m.GetNamespace(), string(m.GetUID())
	if s.Kind.PrepareForCreate != nil {
		s.Kind.PrepareForCreate(ctx, obj)
	}
	if s.Claims != nil {
		undo, err := s.Claims.Claim(ctx, obj, nil, dryRun)
		if err != nil {
			return nil, nil, err
		}
		defer func() {
			if err != nil || dryRun {
				undo()
			}
		}()
	}
	if s.Kind.Validate != nil {
		if errs := s.Kind.Validate(ctx, obj); len(errs) > 0 {
			return nil, nil, s.invalid(name, errs)
		}
	}
	if s.Kind.Warnings != nil {
		for _, w := range s.Kind.Warnings(ctx, obj, nil) {
			r.Warn(w)
		}
	}
	if err := s.Admit.Validate(ctx, s.attributes(r, admission.Create, obj, nil, options, name, dryRun)); err != nil {
		return nil, nil, err
	}
	if permit != nil {
		if err := permit(); err != nil {
			return nil, nil, err
		}
	}
	r.Marks.Admitted = time.Now()

	if dryRun {
		if _, err := s.Store.Get(ctx, namespace, name, ""); err == nil {
			return nil, nil, apierrors.NewAlreadyExists(s.resource(), name)
		} else if !apierrors.IsNotFound(err) {
			return nil, nil, err
		}
		if s.Kind.Default != nil && s.Kind.Hub == nil { // as a reader would see it
			s.Kind.Default(obj)
		}
		return nil, obj, nil
	}
	var ttl int64
	if s.Kind.TTL != nil {
		ttl = int64(s.Kind.TTL(obj) / time.Second)
	}
	hub, err := s.toStored(obj)
	if err != nil {
		return nil, nil, err
	}
	stored, err := s.Store.Create(ctx, namespace, name, hub, ttl)
	if err != nil {
		return nil, nil, err
	}
	r.Marks.Stored = time.Now()
	s.recordCreation(r, namespace, name, uid)
	return stored, nil, nil
}

// creatable refuses to create what the kind says cannot be created now.
func (s *Served) creatable(name string) error {
	if s.Kind.NoCreate == "" {
		return nil
	}
	return apierrors.NewForbidden(s.resource(), name, errors.New(s.Kind.NoCreate))
}

// toStored returns obj in the stored version.
func (s *Served) toStored(obj runtime.Object) (runtime.Object, error) {
	if s.Kind.Hub == nil {
		return obj, nil
	}
	hub, err := s.Kind.Hub.ToHub(obj)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	hub.GetObjectKind().SetGroupVersionKind(s.Kind.Hub.HubIsKind)
	return hub, nil
}

// replacing is toStored for what replaces current.
func (s *Served) replacing(obj runtime.Object, current *store.Object) (runtime.Object, error) {
	next, err := s.toStored(obj)
	if err == nil && s.Kind.Hub != nil && s.Kind.Hub.Keep != nil {
		s.Kind.Hub.Keep(next, current.Object)
	}
	return next, err
}

// asStored returns current, which does not change, as it is to be stored: just as it is, unless it is stored in a version that is
// not the stored one any more. old is current as it is served.
func (s *Served) asStored(current *store.Object, old runtime.Object) (runtime.Object, error) {
	if !s.Kind.Custom || current.Object.GetObjectKind().GroupVersionKind() == s.Kind.Hub.HubIsKind {
		return current.Object, nil
	}
	return s.toStored(old)
}

// review answers a question that is asked by creating an object that is not stored.
func (s *Served) review(ctx context.Context, r *Request, obj runtime.Object, options *metav1.CreateOptions) (Answer, error) {
	m, err := accessor(obj)
	if err == nil {
		if err := s.matchNamespace(m, r.Info.Namespace); err != nil {
			return Answer{}, err
		}
	}
	attrs := s.attributes(r, admission.Create, obj, nil, options, "", isDryRun(options.DryRun))
	if err := s.Admit.Mutate(ctx, attrs); err != nil {
		return Answer{}, err
	}
	if s.Kind.PrepareForCreate != nil {
		s.Kind.PrepareForCreate(ctx, obj)
	}
	if s.Kind.Validate != nil {
		if errs := s.Kind.Validate(ctx, obj); len(errs) > 0 {
			return Answer{}, s.invalid("", errs)
		}
	}
	if err := s.Admit.Validate(ctx, attrs); err != nil {
		return Answer{}, err
	}
	out, err := s.Answer(ctx, r.User, obj)
	if err != nil {
		return Answer{}, err
	}
	return Answer{Code: http.StatusCreated, Object: out, GVK: s.Kind.GroupVersionKind}, nil
}
