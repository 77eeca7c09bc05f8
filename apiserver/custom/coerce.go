package custom

import (
	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/objectmeta"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// coercion is how an object is brought into the form of a schema.
type coercion struct {
	lenient bool // metadata that cannot be read is dropped instead of refused: it was stored by a server that did not look at it
	tell    bool // say what was unknown
}

// coerce does to u what decoding into a Go type does to other objects: what the schema does not know goes, metadata is read and
// written anew, and nulls go where nothing may be null. It returns the paths of what was unknown.
func (v *version) coerce(u *unstructured.Unstructured, how coercion) (unknown []string, err error) {
	s, err := v.schema()
	if err != nil {
		return nil, err
	}
	kind, hasKind, err := unstructured.NestedString(u.Object, "kind")
	if err != nil {
		return nil, err
	}
	apiVersion, hasVersion, err := unstructured.NestedString(u.Object, "apiVersion")
	if err != nil {
		return nil, err
	}
	meta, hasMeta, unknown, err := objectmeta.GetObjectMetaWithOptions(u.Object, objectmeta.ObjectMetaOptions{DropMalformedFields: how.lenient, ReturnUnknownFieldPaths: how.tell})
	if err != nil {
		return nil, err
	}
	if !v.def.crd.Spec.PreserveUnknownFields {
		unknown = append(unknown, pruning.PruneWithOptions(u.Object, s.structural, true, structural.UnknownFieldPathOptions{TrackUnknownFieldPaths: how.tell})...)
		defaulting.PruneNonNullableNullsWithoutDefaults(u.Object, s.structural)
	}
	ferr, embedded := objectmeta.CoerceWithOptions(nil, u.Object, s.structural, false, objectmeta.CoerceOptions{DropInvalidFields: how.lenient, ReturnUnknownFieldPaths: how.tell})
	if ferr != nil {
		return nil, ferr
	}
	unknown = append(unknown, embedded...)
	if how.lenient && meta.Generation == 0 { // from before there were generations
		meta.Generation = 1
	}
	if hasKind {
		u.SetKind(kind)
	}
	if hasVersion {
		u.SetAPIVersion(apiVersion)
	}
	if hasMeta {
		if err := objectmeta.SetObjectMeta(u.Object, meta); err != nil {
			return nil, err
		}
	}
	return unknown, nil
}

// prune implements kinds.Kind.Prune.
func (v *version) prune(obj runtime.Object) (unknown []string, err error) {
	return v.coerce(obj.(*unstructured.Unstructured), coercion{tell: true})
}

// defaults implements kinds.Kind.Default.
func (v *version) defaults(obj runtime.Object) {
	s, err := v.schema()
	if err != nil {
		return // coerce has said it, or validation will
	}
	u := obj.(*unstructured.Unstructured)
	if !v.def.crd.Spec.PreserveUnknownFields {
		defaulting.PruneNonNullableNullsWithoutDefaults(u.Object, s.structural)
	}
	defaulting.Default(u.Object, s.structural)
}

// toHub brings obj to the stored version. What admission has added without the schema knowing it is not stored.
func (v *version) toHub(obj runtime.Object) (runtime.Object, error) {
	u, err := v.def.convert(obj.(*unstructured.Unstructured), v.def.storage.gvk.GroupVersion())
	if err != nil {
		return nil, err
	}
	if _, err := v.def.storage.coerce(u, coercion{}); err != nil {
		return nil, err
	}
	return u, nil
}

// fromHub brings a stored object to this version. It is read in the version in which it was stored, which may be an old one: cut to
// that one's schema and defaulted. Then it is converted, and cut to this version's.
func (v *version) fromHub(obj runtime.Object) (runtime.Object, error) {
	stored := obj.(*unstructured.Unstructured)
	u := stored.DeepCopy()
	if as := v.def.version(stored.GroupVersionKind().Version); as != nil {
		if _, err := as.coerce(u, coercion{lenient: true}); err != nil {
			return nil, err
		}
		as.defaults(u)
	}
	if stored.GroupVersionKind().GroupVersion() != v.gvk.GroupVersion() {
		var err error
		if u, err = v.def.convert(u, v.gvk.GroupVersion()); err != nil {
			return nil, err
		}
		if _, err := v.coerce(u, coercion{}); err != nil {
			return nil, err
		}
		return u, nil
	}
	if apiequality.Semantic.DeepEqual(u.Object, stored.Object) {
		return stored, nil // what everybody else holds too
	}
	return u, nil
}

// convertObject implements kinds.Kind.Convert.
func (def *definition) convertObject(obj runtime.Object, to schema.GroupVersion) (runtime.Object, error) {
	target := def.version(to.Version)
	if target == nil || to.Group != def.crd.Spec.Group {
		return nil, runtime.NewNotRegisteredErrForTarget(def.crd.Name, nil, to)
	}
	u, err := def.convert(obj.(*unstructured.Unstructured), to)
	if err != nil {
		return nil, err
	}
	if _, err := target.coerce(u, coercion{}); err != nil { // the merge refuses what the schema does not know
		return nil, err
	}
	return u, nil
}
