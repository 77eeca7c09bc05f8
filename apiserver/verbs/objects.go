package verbs

import (
	"fmt"
	"reflect"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"

	"wherry.dev/wherry/api/kinds"
	"wherry.dev/wherry/api/scheme"
)

// objects lets plugins of k8s.io/apiserver (webhooks, policies) make, convert and default objects, and find the versions in
// which a resource is served besides the one of the request (matchPolicy Equivalent). Immutable after start.
type objects struct {
	byKind map[schema.GroupVersionKind]*kinds.Kind
	byType map[reflect.Type]*kinds.Kind // of typed kinds
	equals runtime.EquivalentResourceRegistry
}

func newObjects(list []*kinds.Kind) *objects {
	o := &objects{byKind: map[schema.GroupVersionKind]*kinds.Kind{}, byType: map[reflect.Type]*kinds.Kind{}}
	stored := map[schema.GroupResource]string{}
	for _, k := range list {
		stored[k.GroupVersionResource().GroupResource()] = k.StoragePrefix
	}
	// What is stored in one place is one resource, under whatever group.
	o.equals = runtime.NewEquivalentResourceRegistryWithIdentity(func(r schema.GroupResource) string { return stored[r] })
	for _, k := range list {
		gvr := k.GroupVersionResource()
		o.byKind[k.GroupVersionKind] = k
		if obj := k.New(); obj != nil {
			if _, free := obj.(runtime.Unstructured); !free {
				o.byType[reflect.TypeOf(obj)] = k
			}
		}
		o.equals.RegisterKindFor(gvr, "", k.GroupVersionKind)
		for name, s := range k.Subresources {
			kind := s.Kind
			if kind.Empty() {
				kind = k.GroupVersionKind
			}
			o.equals.RegisterKindFor(gvr, name, kind)
		}
		for _, s := range k.ConnectSubresources {
			kind := s.Kind
			if kind.Empty() {
				kind = k.GroupVersionKind
			}
			o.equals.RegisterKindFor(gvr, s.Name, kind)
		}
	}
	return o
}

var _ admission.ObjectInterfaces = (*objects)(nil)

func (o *objects) GetObjectCreater() runtime.ObjectCreater     { return o }
func (o *objects) GetObjectTyper() runtime.ObjectTyper         { return scheme.Scheme }
func (o *objects) GetObjectDefaulter() runtime.ObjectDefaulter { return o }
func (o *objects) GetObjectConvertor() runtime.ObjectConvertor { return o }
func (o *objects) GetEquivalentResourceMapper() runtime.EquivalentResourceMapper {
	return o.equals
}

// New makes an empty object of a served kind, or of one that is sent to a subresource.
func (o *objects) New(gvk schema.GroupVersionKind) (runtime.Object, error) {
	if k := o.byKind[gvk]; k != nil {
		return k.New(), nil
	}
	return scheme.Scheme.New(gvk)
}

// kindOf returns the kind of an object, by its type or, where that is free, by what the object says; nil when there is none.
func (o *objects) kindOf(obj runtime.Object) *kinds.Kind {
	if k := o.byType[reflect.TypeOf(obj)]; k != nil {
		return k
	}
	return o.byKind[obj.GetObjectKind().GroupVersionKind()]
}

// Default applies a kind's defaults in place, again after a plugin has changed the object.
func (o *objects) Default(obj runtime.Object) {
	if k := o.kindOf(obj); k != nil && k.Default != nil {
		k.Default(obj)
	}
}

// Convert makes out the same as in, in out's own type, and leaves in alone.
func (o *objects) Convert(in, out, _ any) error {
	from, ok := in.(runtime.Object)
	to, ok2 := out.(runtime.Object)
	if !ok || !ok2 {
		return fmt.Errorf("convert %T to %T: these are no objects", in, out)
	}
	source, target := o.kindOf(from), o.kindOf(to)
	if reflect.TypeOf(from) == reflect.TypeOf(to) && (source == target || source == nil || target == nil) {
		assign(to, from.DeepCopyObject())
		return nil
	}
	if source == nil || target == nil || source.StoragePrefix != target.StoragePrefix {
		return scheme.Scheme.Convert(in, out, nil)
	}
	converted, err := throughHub(from, source, target)
	if err != nil {
		return err
	}
	assign(to, converted)
	return nil
}

// throughHub converts between two served versions of what is stored once.
func throughHub(obj runtime.Object, source, target *kinds.Kind) (_ runtime.Object, err error) {
	if source.Convert != nil { // straight, and failing in the conversion's own words
		return source.Convert(obj, target.GroupVersionKind.GroupVersion())
	}
	if source.Hub != nil {
		if obj, err = source.Hub.ToHub(obj); err != nil {
			return nil, fmt.Errorf("convert %s to what is stored: %w", source.GroupVersionKind, err)
		}
	}
	if target.Hub == nil {
		return obj.DeepCopyObject(), nil
	}
	if obj, err = target.Hub.FromHub(obj); err != nil {
		return nil, fmt.Errorf("convert what is stored to %s: %w", target.GroupVersionKind, err)
	}
	return obj, nil
}

// assign makes *to what *from is; both are pointers to the same type, and from is given up.
func assign(to, from runtime.Object) {
	reflect.ValueOf(to).Elem().Set(reflect.ValueOf(from).Elem())
}

// ConvertToVersion returns obj as a typed object of one of the versions of gv; what has no type of its own stays as it is.
func (o *objects) ConvertToVersion(obj runtime.Object, gv runtime.GroupVersioner) (runtime.Object, error) {
	gvk := obj.GetObjectKind().GroupVersionKind()
	if u, free := obj.(*unstructured.Unstructured); free {
		if !scheme.Scheme.Recognizes(gvk) {
			return obj, nil
		}
		typed, err := o.New(gvk)
		if err != nil {
			return nil, err
		}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, typed); err != nil {
			return nil, fmt.Errorf("read %s: %w", gvk, err)
		}
		typed.GetObjectKind().SetGroupVersionKind(gvk)
		return typed, nil
	}
	return scheme.Scheme.ConvertToVersion(obj, gv)
}

// ConvertFieldLabel implements runtime.ObjectConvertor; labels are the same in every version.
func (o *objects) ConvertFieldLabel(_ schema.GroupVersionKind, label, value string) (string, string, error) {
	return label, value, nil
}
