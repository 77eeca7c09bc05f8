package verbs

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	cbor "k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"
	"k8s.io/apimachinery/pkg/types"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"wherry.dev/wherry/apiserver/wire"
)

// apply merges the state that one manager wants (server-side apply).
func (p *patcher) apply(data []byte, kind types.PatchType) (nextFunc, error) {
	want, err := appliedObject(data, kind)
	if err != nil {
		return nil, err
	}
	var twice error // keys that are there more than once
	if kind == types.ApplyYAMLPatchType && p.directive != metav1.FieldValidationIgnore {
		twice = yaml.UnmarshalStrict(data, &map[string]any{})
	}
	gvk := p.gvk()
	if got := want.GroupVersionKind(); got.Kind != gvk.Kind {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("invalid object type: %v", got))
	}
	force := p.options.Force != nil && *p.options.Force
	return func(_ context.Context, current runtime.Object) (runtime.Object, error) {
		live := current
		if live == nil {
			live = p.s.Kind.New()
			if m, err := accessor(live); err == nil {
				m.SetNamespace(p.r.Info.Namespace)
			}
		}
		var obj runtime.Object
		var err error
		scale := p.r.Sub != nil && p.r.Sub.Write != nil
		if m := p.s.Managed[p.r.Info.Subresource]; scale {
			obj, err = m.ApplyScale(live, p.r.Sub, want.DeepCopy(), p.manager, force)
		} else {
			obj, err = m.Apply(live, want.DeepCopy(), p.manager, force)
		}
		if err != nil {
			var status apierrors.APIStatus
			if errors.As(err, &status) {
				return nil, err
			}
			// A field that the type does not have, or a value of another type, is a 500 without a reason to upstream, in the merge's own words.
			return nil, &apierrors.StatusError{ErrStatus: *wire.StatusOf(err)}
		}
		if twice != nil { // said after all that is wrong with the merge
			if p.directive == metav1.FieldValidationStrict {
				return nil, apierrors.NewBadRequest(fmt.Sprintf("error strict decoding patch: %v", twice))
			}
			p.r.Warn(twice.Error())
		}
		if obj == nil { // nothing changes
			if current == nil {
				obj = live
			} else {
				return current, nil
			}
		}
		m, err := accessor(obj)
		if err != nil {
			return nil, err
		}
		if err := p.sameName(m); err != nil {
			return nil, err
		}
		if current == nil {
			return obj, p.asFirst(m)
		}
		return obj, nil
	}, nil
}

// asFirst prepares what was applied where nothing is for its creation: as upstream, it may name a version that it was made from, but not
// another object.
func (p *patcher) asFirst(m metav1.Object) error {
	if uid := m.GetUID(); uid != "" {
		return apierrors.NewConflict(p.s.resource(), p.r.Info.Name, fmt.Errorf("uid mismatch: the provided object specified uid %s, and no existing object was found", uid))
	}
	if v := m.GetResourceVersion(); v != "" {
		if _, err := strconv.ParseUint(v, 10, 64); err != nil {
			return apierrors.NewBadRequest(fmt.Sprintf("invalid resource version %q: %v", v, err))
		}
		m.SetResourceVersion("")
	}
	return nil
}

// appliedObject reads an applied configuration.
func appliedObject(data []byte, kind types.PatchType) (*unstructured.Unstructured, error) {
	want := &unstructured.Unstructured{Object: map[string]any{}}
	var err error
	if kind == types.ApplyCBORPatchType {
		err = cbor.Unmarshal(data, &want.Object)
	} else {
		var text []byte
		if text, err = yaml.YAMLToJSON(data); err == nil {
			err = kjson.UnmarshalCaseSensitivePreserveInts(text, &want.Object) // an integer is one to whoever reads it by its path
		}
	}
	if err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding patch: %v", err))
	}
	if want.Object == nil { // null
		want.Object = map[string]any{}
	}
	return want, nil
}
