package custom

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	openapiv2 "k8s.io/apiextensions-apiserver/pkg/controller/openapi/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"wherry.dev/wherry/api/kinds"
	"wherry.dev/wherry/api/openapi"
)

const metaModel = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"

// purpose is what a schema is published for.
type purpose struct {
	v2    bool // OpenAPI v2, which knows less than v3
	merge bool // for server-side apply
}

// published implements kinds.Kind.Schema.
func (v *version) published(v2 bool) (*spec.Schema, error) { return v.publish(purpose{v2: v2}) }

// publish is the version's schema as documents show it: with the type and metadata of every object. A schema that is not structural is
// not shown, as upstream does.
func (v *version) publish(p purpose) (*spec.Schema, error) {
	own, err := v.unfolded()
	if err != nil {
		return nil, err
	}
	crd := v.def.crd
	out := &spec.Schema{SchemaProps: spec.SchemaProps{Type: []string{"object"}}}
	switch {
	case own == nil:
	case p.v2 && (own.XPreserveUnknownFields || crd.Spec.PreserveUnknownFields): // anything that v2 says here, kubectl would take for all there is
	default:
		if p.v2 {
			own = openapiv2.ToStructuralOpenAPIV2(own)
			withoutDefaults := structural.Visitor{Structural: func(s *structural.Structural) bool {
				had := s.Default.Object != nil
				s.Default = structural.JSON{}
				return had
			}}
			withoutDefaults.Visit(own)
		}
		out = own.ToKubeOpenAPI()
		out.SetProperty("metadata", *metaReference(p))
		out.SetProperty("apiVersion", *spec.StringProperty().WithDescription(metav1.TypeMeta{}.SwaggerDoc()["apiVersion"]))
		out.SetProperty("kind", *spec.StringProperty().WithDescription(metav1.TypeMeta{}.SwaggerDoc()["kind"]))
		embed(out, p)
	}
	out.AddExtension("x-kubernetes-group-version-kind", []any{map[string]any{"group": v.gvk.Group, "version": v.gvk.Version, "kind": v.gvk.Kind}})
	if len(v.v.SelectableFields) > 0 && !p.merge {
		paths := make([]any, len(v.v.SelectableFields))
		for i, f := range v.v.SelectableFields {
			paths[i] = map[string]any{"fieldPath": strings.TrimPrefix(f.JSONPath, ".")}
		}
		out.AddExtension("x-kubernetes-selectable-fields", paths)
	}
	return out, nil
}

// unfolded is the schema with its value validations spelled out; nil when there is none that can be shown.
func (v *version) unfolded() (*structural.Structural, error) {
	internal, err := internalSchema(v.v)
	if err != nil {
		return nil, fmt.Errorf("convert schema of %s: %w", v.gvk, err)
	}
	if internal == nil || validation.SchemaHasInvalidTypes(internal) {
		return nil, nil
	}
	s, err := structural.NewStructural(internal)
	if err != nil || len(structural.ValidateStructural(nil, s)) > 0 {
		return nil, nil
	}
	return s.Unfold(), nil
}

func metaReference(p purpose) *spec.Schema {
	return openapi.Reference(metaModel, metav1.PartialObjectMetadata{}.SwaggerDoc()["metadata"], p.v2)
}

// embed gives objects within the object their type and metadata.
func embed(s *spec.Schema, p purpose) {
	if s == nil {
		return
	}
	for name, field := range s.Properties {
		embed(&field, p)
		s.Properties[name] = field
	}
	if s.Items != nil {
		embed(s.Items.Schema, p)
	}
	if s.AdditionalProperties != nil {
		embed(s.AdditionalProperties.Schema, p)
	}
	if free, ok := s.Extensions.GetBool("x-kubernetes-preserve-unknown-fields"); ok && free && p.v2 {
		return // kubectl would take what is named for all there may be
	}
	if embedded, ok := s.Extensions.GetBool("x-kubernetes-embedded-resource"); !ok || !embedded {
		return
	}
	s.SetProperty("apiVersion", *spec.StringProperty().WithDescription("apiVersion defines the versioned schema of this representation of an object. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources"))
	s.SetProperty("kind", *spec.StringProperty().WithDescription("kind is a string value representing the type of this object. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds"))
	s.SetProperty("metadata", *metaReference(p))
	for _, name := range []string{"kind", "apiVersion"} {
		if !slices.Contains(s.Required, name) {
			s.Required = append(s.Required, name)
		}
	}
}

// metaModels are the schemas of metadata, which every merge schema holds. They are the same for all, and not changed.
var metaModels = sync.OnceValues(func() (map[string]*spec.Schema, error) {
	raw, err := openapi.Definitions(metaModel)
	if err != nil {
		return nil, err
	}
	models := make(map[string]*spec.Schema, len(raw))
	for name, b := range raw {
		s := &spec.Schema{}
		if err := json.Unmarshal(b, s); err != nil {
			return nil, fmt.Errorf("read definition of %s: %w", name, err)
		}
		models[name] = s
	}
	return models, nil
})

// makeMergeTypes is the schema by which server-side apply merges: that of every version, with the metadata of every object.
func (def *definition) makeMergeTypes() (managedfields.TypeConverter, error) {
	meta, err := metaModels()
	if err != nil {
		return nil, err
	}
	models := make(map[string]*spec.Schema, len(meta)+len(def.versions))
	for name, s := range meta {
		models[name] = s
	}
	for _, v := range def.versions {
		if models[kinds.ModelName(v.gvk)], err = v.publish(purpose{merge: true}); err != nil {
			return nil, err
		}
	}
	types, err := managedfields.NewTypeConverter(models, def.crd.Spec.PreserveUnknownFields)
	if err != nil {
		return nil, fmt.Errorf("make merge schema of %s: %w", def.crd.Name, err)
	}
	return types, nil
}
