package openapi

import (
	"encoding/json"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"wherry.dev/wherry/api/kinds"
)

// listKind is the kind of lists of a custom kind.
func listKind(k *kinds.Kind) schema.GroupVersionKind {
	return k.NewList().GetObjectKind().GroupVersionKind()
}

// customModels adds the schemas of the custom ones among list, and of lists of them, to models.
func customModels(list []*kinds.Kind, v2 bool, models map[string]json.RawMessage) error {
	for _, k := range list {
		if !k.Custom {
			continue
		}
		s, err := k.Schema(v2)
		if err != nil {
			return fmt.Errorf("describe %s: %w", k.GroupVersionKind, err)
		}
		if models[kinds.ModelName(k.GroupVersionKind)], err = json.Marshal(s); err != nil {
			return fmt.Errorf("write schema of %s: %w", k.GroupVersionKind, err)
		}
		if models[kinds.ModelName(listKind(k))], err = json.Marshal(listSchema(k, s, v2)); err != nil {
			return fmt.Errorf("write schema of lists of %s: %w", k.GroupVersionKind, err)
		}
	}
	return nil
}

// listSchema describes a list of k, whose own schema is of.
func listSchema(k *kinds.Kind, of *spec.Schema, v2 bool) *spec.Schema {
	prefix := v3Ref
	if v2 {
		prefix = v2Ref
	}
	gvk := listKind(k)
	items := spec.ArrayProperty(spec.RefSchema(prefix + kinds.ModelName(k.GroupVersionKind)))
	s := (&spec.Schema{}).Typed("object", "").
		WithDescription(fmt.Sprintf("%s is a list of %s", gvk.Kind, k.GroupVersionKind.Kind)).
		WithRequired("items").
		SetProperty("items", *items.WithDescription(fmt.Sprintf("List of %s. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md", k.Plural))).
		SetProperty("metadata", *Reference(metaModel+"ListMeta", metav1.PartialObjectMetadataList{}.SwaggerDoc()["metadata"], v2)).
		SetProperty("apiVersion", *spec.StringProperty().WithDescription(metav1.TypeMeta{}.SwaggerDoc()["apiVersion"])).
		SetProperty("kind", *spec.StringProperty().WithDescription(metav1.TypeMeta{}.SwaggerDoc()["kind"]))
	s.AddExtension("x-kubernetes-group-version-kind", []any{map[string]any{"group": gvk.Group, "version": gvk.Version, "kind": gvk.Kind}})
	if fields, ok := of.Extensions["x-kubernetes-selectable-fields"]; ok {
		s.AddExtension("x-kubernetes-selectable-fields", fields)
	}
	return s
}

// Reference is a described reference to a model, in the dialect of v2 or v3, which allows nothing beside a reference.
func Reference(model, description string, v2 bool) *spec.Schema {
	if v2 {
		return spec.RefSchema(v2Ref + model).WithDescription(description)
	}
	return (&spec.Schema{SchemaProps: spec.SchemaProps{AllOf: []spec.Schema{*spec.RefSchema(v3Ref + model)}}}).WithDescription(description)
}

// all returns custom, with those of the other wanted models and of all that either refers to.
func (s *source) all(wanted map[string]bool, custom map[string]json.RawMessage, pick func(*definition) json.RawMessage) (map[string]json.RawMessage, error) {
	rest := map[string]bool{}
	for name := range wanted {
		rest[name] = true
	}
	for _, model := range custom {
		for _, name := range references(model) {
			rest[name] = true
		}
	}
	for name := range custom {
		delete(rest, name)
	}
	all, err := s.read(rest, pick)
	if err != nil {
		return nil, err
	}
	for name, model := range custom {
		all[name] = model
	}
	return all, nil
}
