package verbs

import (
	"context"
	"fmt"
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"wherry.dev/wherry/apiserver/wire"
	"wherry.dev/wherry/store"
)

// Update replaces an object, or one subresource's part of it, by the one in the body.
func Update(ctx context.Context, s *Served, r *Request) (Answer, error) {
	var options metav1.UpdateOptions
	if q := r.Query(); len(q) > 0 {
		if err := metav1.Convert_url_Values_To_v1_UpdateOptions(&q, &options, nil); err != nil {
			return Answer{}, apierrors.NewBadRequest(err.Error())
		}
		if errs := metav1validation.ValidateUpdateOptions(&options); len(errs) > 0 {
			return Answer{}, apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: "UpdateOptions"}, "", errs)
		}
	}
	options.SetGroupVersionKind(metav1.SchemeGroupVersion.WithKind("UpdateOptions"))
	if r.Sub != nil && r.Sub.Write != nil {
		return s.updateOther(ctx, r, &options)
	}

	sent, err := s.decode(r, options.FieldValidation)
	if err != nil {
		return Answer{}, err
	}
	r.Marks.Decoded = time.Now()
	s.recordSent(r, sent, s.Kind.GroupVersionKind)
	m, err := accessor(sent)
	if err != nil {
		return Answer{}, err
	}
	if err := s.matchName(m, r.Info.Name); err != nil {
		return Answer{}, err
	}
	if err := s.matchNamespace(m, r.Info.Namespace); err != nil {
		return Answer{}, err
	}
	warnOfOwners(r, sent, "")
	c := change{
		create: s.Kind.AllowCreateOnUpdate && r.Sub == nil, dryRun: isDryRun(options.DryRun), options: &options,
		createOptions: &metav1.CreateOptions{TypeMeta: metav1.TypeMeta{Kind: "CreateOptions", APIVersion: "meta.k8s.io/v1"}, DryRun: options.DryRun,
			FieldManager: options.FieldManager, FieldValidation: options.FieldValidation},
		next: func(ctx context.Context, current runtime.Object) (runtime.Object, error) {
			obj := sent.DeepCopyObject()
			return s.Managed[r.Info.Subresource].Update(current, obj, manager(options.FieldManager, r.HTTP)), nil
		},
	}
	if uid := m.GetUID(); uid != "" {
		c.preconditions = &store.Preconditions{UID: &uid}
	}
	return s.written(s.write(ctx, r, c))
}

// written turns the outcome of a write into an answer.
func (s *Served) written(stored *store.Object, dry runtime.Object, created bool, err error) (Answer, error) {
	if err != nil {
		return Answer{}, err
	}
	code := http.StatusOK
	if created {
		code = http.StatusCreated
	}
	if stored != nil {
		return Answer{Code: code, Stored: stored}, nil
	}
	return Answer{Code: code, Object: dry, GVK: s.Kind.GroupVersionKind}, nil
}

func (s *Served) matchName(m metav1.Object, name string) error {
	switch m.GetName() {
	case name:
	case "":
		if s.Kind.Namespaced || name != "" {
			return apierrors.NewBadRequest("name must be provided")
		}
	default:
		return apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s) does not match the name on the URL (%s)", m.GetName(), name))
	}
	return nil
}

// updateOther replaces a subresource that is served as a type of its own (scale).
func (s *Served) updateOther(ctx context.Context, r *Request, options *metav1.UpdateOptions) (Answer, error) {
	format, err := wire.BodyFormat(r.HTTP)
	if err != nil {
		return Answer{}, err
	}
	data, err := wire.ReadBody(r.HTTP)
	if err != nil {
		return Answer{}, err
	}
	fresh := func() runtime.Object { return newOf(r.Sub.Kind) }
	sub, err := s.Decoder.Object(data, format, wire.ParseDirective(options.FieldValidation), r.Sub.Kind, fresh, r.Warn)
	if err != nil {
		return Answer{}, err
	}
	s.recordSent(r, sub, r.Sub.Kind)
	m, err := accessor(sub)
	if err != nil {
		return Answer{}, err
	}
	if err := s.matchName(m, r.Info.Name); err != nil {
		return Answer{}, err
	}
	c := change{dryRun: isDryRun(options.DryRun), options: options, unconditional: true,
		next: func(ctx context.Context, current runtime.Object) (runtime.Object, error) {
			return s.Managed[r.Info.Subresource].UpdateScale(current, r.Sub, sub, manager(options.FieldManager, r.HTTP))
		}}
	if uid := m.GetUID(); uid != "" {
		c.preconditions = &store.Preconditions{UID: &uid}
	}
	return s.writtenOther(ctx, r, c)
}

// writtenOther writes the parent and answers with the subresource's own type.
func (s *Served) writtenOther(ctx context.Context, r *Request, c change) (Answer, error) {
	stored, parent, created, err := s.write(ctx, r, c)
	if err != nil {
		return Answer{}, err
	}
	if stored != nil {
		if parent, err = s.Type.Served(stored); err != nil {
			return Answer{}, err
		}
	}
	sub, err := r.Sub.Read(parent)
	if err != nil {
		return Answer{}, err
	}
	code := http.StatusOK
	if created {
		code = http.StatusCreated
	}
	return Answer{Code: code, Object: sub, GVK: r.Sub.Kind}, nil
}
