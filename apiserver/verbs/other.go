package verbs

import (
	"context"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"

	"wherry.dev/wherry/api/kinds"
	"wherry.dev/wherry/apiserver/wire"
)

// What follows is for subresources that take an object of another kind than their parent's.

// DecodeAs reads the body as an object of the given kind, and the options of the creation.
func (s *Served) DecodeAs(r *Request, gvk schema.GroupVersionKind, fresh func() runtime.Object) (runtime.Object, *metav1.CreateOptions, error) {
	options := &metav1.CreateOptions{}
	if q := r.Query(); len(q) > 0 {
		if err := metav1.Convert_url_Values_To_v1_CreateOptions(&q, options, nil); err != nil {
			return nil, nil, apierrors.NewBadRequest(err.Error())
		}
		if errs := metav1validation.ValidateCreateOptions(options); len(errs) > 0 {
			return nil, nil, apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: "CreateOptions"}, "", errs)
		}
	}
	options.SetGroupVersionKind(metav1.SchemeGroupVersion.WithKind("CreateOptions"))
	format, err := wire.BodyFormat(r.HTTP)
	if err != nil {
		return nil, nil, err
	}
	data, err := wire.ReadBody(r.HTTP)
	if err != nil {
		return nil, nil, err
	}
	obj, err := s.Decoder.Object(data, format, wire.ParseDirective(options.FieldValidation), gvk, fresh, r.Warn)
	if err == nil {
		s.recordSent(r, obj, gvk)
	}
	return obj, options, err
}

// AdmitOther asks the plugins about an object of another kind that is sent to a subresource of this resource.
func (s *Served) AdmitOther(ctx context.Context, r *Request, op admission.Operation, gvk schema.GroupVersionKind, obj runtime.Object, name string, options *metav1.CreateOptions) error {
	attrs := admission.NewAttributesRecord(obj, nil, gvk, r.Info.Namespace, name, s.Kind.GroupVersionResource(), r.Info.Subresource, op, options, isDryRun(options.DryRun), r.User)
	if err := s.Admit.Mutate(ctx, attrs); err != nil {
		return err
	}
	return s.Admit.Validate(ctx, attrs)
}

// DeleteAs deletes an object on behalf of another request (an eviction), with the deletion's own admission.
func (s *Served) DeleteAs(ctx context.Context, r *Request, options *metav1.DeleteOptions) (Answer, error) {
	info := *r.Info
	info.Subresource, info.Verb = "", "delete"
	each := &Request{HTTP: r.HTTP, Writer: r.Writer, Info: &info, User: r.User, Authorize: r.Authorize, Marks: r.Marks}
	return s.delete(ctx, each, info.Name, options)
}

// UpdateVia writes a change of the stored object under the given rules, on behalf of a subresource.
func (s *Served) UpdateVia(ctx context.Context, r *Request, sub *kinds.Subresource, dryRun bool, options runtime.Object, next func(ctx context.Context, current runtime.Object) (runtime.Object, error)) (Answer, error) {
	each := *r
	each.Sub = sub
	return s.written(s.write(ctx, &each, change{next: next, options: options, dryRun: dryRun, unconditional: true}))
}

// Success is the answer of what has been done and has nothing to show.
func Success(code int) Answer {
	return Answer{Code: code, Object: &metav1.Status{Status: metav1.StatusSuccess, Code: int32(code)}, GVK: statusKind}
}
