package custom

import (
	"context"
	"fmt"
	"math"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel/model"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/objectmeta"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/cel/common"
)

func (v *version) validate(ctx context.Context, obj runtime.Object) field.ErrorList {
	r, err := v.rules()
	if err != nil {
		return field.ErrorList{field.InternalError(nil, err)}
	}
	u := obj.(*unstructured.Unstructured)
	errs := v.typeMeta(u)
	if len(errs) == 0 {
		errs = v.metadata(u, nil)
		errs = append(errs, validation.ValidateCustomResource(nil, u.Object, r.validate)...)
		errs = append(errs, v.validateScale(u, true)...)
	}
	errs = append(errs, objectmeta.Validate(ctx, nil, u.Object, r.structural, false)...)
	errs = append(errs, listtype.ValidateListSetsAndMaps(nil, r.structural, u.Object)...)
	return r.express(ctx, errs, u, nil)
}

// express adds what the rules in CEL say, unless the object is too wrong for them.
func (r *rules) express(ctx context.Context, errs field.ErrorList, u *unstructured.Unstructured, old map[string]any, options ...cel.Option) field.ErrorList {
	for _, e := range errs {
		switch e.Type {
		case field.ErrorTypeNotSupported, field.ErrorTypeRequired, field.ErrorTypeTooLong, field.ErrorTypeTooMany, field.ErrorTypeTypeInvalid:
			return append(errs, field.Invalid(nil, nil, "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation"))
		}
	}
	validator := r.expressions()
	if validator == nil {
		return errs
	}
	var before any // not a nil map: there is no old object
	if old != nil {
		before = old
	}
	found, _ := validator.Validate(ctx, nil, r.structural, u.Object, before, celconfig.RuntimeCELCostBudget, options...)
	return append(errs, found...)
}

// correlated joins the two sides of an update for ratcheting: what was wrong already and has not been touched stays (KEP-4008).
func (r *rules) correlated(u, was *unstructured.Unstructured) *common.CorrelatedObject {
	return common.NewCorrelatedObject(u.Object, was.Object, &model.Structural{Structural: r.structural})
}

func (v *version) validateUpdate(ctx context.Context, obj, old runtime.Object) field.ErrorList {
	r, err := v.rules()
	if err != nil {
		return field.ErrorList{field.InternalError(nil, err)}
	}
	u, was := obj.(*unstructured.Unstructured), old.(*unstructured.Unstructured)
	both := r.correlated(u, was)
	errs := v.typeMeta(u)
	if len(errs) == 0 {
		errs = v.metadata(u, was)
		errs = append(errs, validation.ValidateCustomResourceUpdate(nil, u.Object, was.Object, r.validate, validation.WithRatcheting(both))...)
		errs = append(errs, v.validateScale(u, true)...)
	}
	errs = append(errs, objectmeta.Validate(ctx, nil, u.Object, r.structural, false)...)
	errs = append(errs, r.listTypes(u, was)...)
	return r.express(ctx, errs, u, was.Object, cel.WithRatcheting(both))
}

func (v *version) validateStatus(ctx context.Context, obj, old runtime.Object) field.ErrorList {
	r, err := v.rules()
	if err != nil {
		return field.ErrorList{field.InternalError(nil, err)}
	}
	u, was := obj.(*unstructured.Unstructured), old.(*unstructured.Unstructured)
	both := r.correlated(u, was)
	errs := v.typeMeta(u)
	if len(errs) == 0 {
		errs = v.metadata(u, was)
		if status, ok := u.Object["status"]; ok && r.status != nil {
			errs = append(errs, validation.ValidateCustomResourceUpdate(field.NewPath("status"), status, was.Object["status"], r.status, validation.WithRatcheting(both.Key("status")))...)
		}
		errs = append(errs, v.validateScale(u, false)...)
	}
	errs = append(errs, r.listTypes(u, was)...)
	return r.express(ctx, errs, u, was.Object, cel.WithRatcheting(both))
}

// listTypes checks lists that are sets or maps, unless they were wrong before.
func (r *rules) listTypes(u, was *unstructured.Unstructured) field.ErrorList {
	errs := listtype.ValidateListSetsAndMaps(nil, r.structural, u.Object)
	if len(errs) > 0 && len(listtype.ValidateListSetsAndMaps(nil, r.structural, was.Object)) > 0 {
		return nil
	}
	return errs
}

// typeMeta refuses an object that admission has made another kind's.
func (v *version) typeMeta(u *unstructured.Unstructured) (errs field.ErrorList) {
	if k := u.GetKind(); k != v.gvk.Kind {
		errs = append(errs, field.Invalid(field.NewPath("kind"), k, "must be "+v.gvk.Kind))
	}
	if want := v.gvk.GroupVersion().String(); u.GetAPIVersion() != want {
		errs = append(errs, field.Invalid(field.NewPath("apiVersion"), u.GetAPIVersion(), "must be "+want))
	}
	return errs
}

// metadata checks what every object has; old is nil on create.
func (v *version) metadata(u, old *unstructured.Unstructured) field.ErrorList {
	path := field.NewPath("metadata")
	m, errs := metaOf(u)
	if len(errs) > 0 {
		return errs
	}
	if old == nil {
		return apivalidation.ValidateObjectMeta(m, v.def.crd.Spec.Scope == apiextensionsv1.NamespaceScoped, apivalidation.NameIsDNSSubdomain, path)
	}
	om, errs := metaOf(old)
	if len(errs) > 0 {
		return errs
	}
	return apivalidation.ValidateObjectMetaUpdate(m, om, path)
}

func metaOf(u *unstructured.Unstructured) (*metav1.ObjectMeta, field.ErrorList) {
	m := &metav1.ObjectMeta{}
	value := u.Object["metadata"]
	if value == nil {
		return m, nil
	}
	raw, ok := value.(map[string]any)
	if !ok {
		return nil, field.ErrorList{field.Invalid(field.NewPath("metadata"), value, fmt.Sprintf("expected map[string]interface{}, got %T", value))}
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(raw, m); err != nil {
		return nil, field.ErrorList{field.Invalid(field.NewPath("metadata"), value, err.Error())}
	}
	return m, nil
}

// validateScale checks the fields which the scale subresource shows.
func (v *version) validateScale(u *unstructured.Unstructured, spec bool) (errs field.ErrorList) {
	if v.v.Subresources == nil || v.v.Subresources.Scale == nil {
		return nil
	}
	s := v.v.Subresources.Scale
	paths := []string{s.StatusReplicasPath}
	if spec {
		paths = []string{s.SpecReplicasPath, s.StatusReplicasPath}
	}
	for _, path := range paths {
		n, _, err := unstructured.NestedInt64(u.Object, steps(path)...)
		switch {
		case err != nil:
			errs = append(errs, field.Invalid(field.NewPath(path), n, err.Error()))
		case n < 0:
			errs = append(errs, field.Invalid(field.NewPath(path), n, "should be a non-negative integer"))
		case n > math.MaxInt32:
			errs = append(errs, field.Invalid(field.NewPath(path), n, fmt.Sprintf("should be less than or equal to %v", math.MaxInt32)))
		}
	}
	if s.LabelSelectorPath != nil {
		if text, _, err := unstructured.NestedString(u.Object, steps(*s.LabelSelectorPath)...); err != nil {
			errs = append(errs, field.Invalid(field.NewPath(*s.LabelSelectorPath), text, err.Error()))
		}
	}
	return errs
}

// steps are the fields of a simple JSON path such as .spec.replicas.
func steps(path string) []string { return strings.Split(strings.TrimPrefix(path, "."), ".") }
