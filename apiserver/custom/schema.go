package custom

import (
	"fmt"
	"sync"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
)

// schemas is a version's schema as it is needed for reading. Immutable.
type schemas struct {
	internal   *apiextensions.JSONSchemaProps // nil: none
	structural *structural.Structural         // never nil
}

// rules are what writes are held against. Immutable.
type rules struct {
	*schemas
	validate validation.SchemaValidator
	status   validation.SchemaValidator // nil: the schema says nothing of the status
	// expressions are the rules in CEL, which are compiled when the first object is valid in all other ways. They are nil where
	// there are none.
	expressions func() *cel.Validator
}

// internalSchema is the schema of a version as upstream's packages want it; nil for none.
func internalSchema(v *apiextensionsv1.CustomResourceDefinitionVersion) (*apiextensions.JSONSchemaProps, error) {
	if v.Schema == nil || v.Schema.OpenAPIV3Schema == nil {
		return nil, nil
	}
	out := &apiextensions.JSONSchemaProps{}
	// The conversion shares memory with what it is given, and the definition belongs to everybody.
	if err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(v.Schema.OpenAPIV3Schema.DeepCopy(), out, nil); err != nil {
		return nil, err
	}
	return out, nil
}

func (v *version) makeSchemas() (*schemas, error) {
	v.def.used.Store(true)
	s := &schemas{structural: &structural.Structural{Extensions: structural.Extensions{XPreserveUnknownFields: true}, Generic: structural.Generic{Type: "object"}}}
	var err error
	if s.internal, err = internalSchema(v.v); err != nil {
		return nil, fmt.Errorf("convert schema of %s: %w", v.gvk, err)
	}
	if s.internal == nil {
		return s, nil
	}
	own, err := structural.NewStructural(s.internal)
	if err != nil {
		if v.def.crd.Spec.PreserveUnknownFields { // from a time when schemas were free
			return s, nil
		}
		return nil, fmt.Errorf("read schema of %s: %w", v.gvk, err)
	}
	s.structural = own.DeepCopy() // defaults are still the definition's
	// Defaults that were valid when they were written are cut to what the schema knows, as upstream does.
	if err := defaulting.PruneDefaults(s.structural); err != nil {
		return nil, fmt.Errorf("prune defaults of %s: %w", v.gvk, err)
	}
	return s, nil
}

func (v *version) makeRules() (*rules, error) {
	s, err := v.schema()
	if err != nil {
		return nil, err
	}
	r := &rules{schemas: s}
	if r.validate, _, err = validation.NewSchemaValidator(s.internal); err != nil {
		return nil, fmt.Errorf("prepare validation of %s: %w", v.gvk, err)
	}
	if s.internal != nil {
		if status, ok := s.internal.Properties["status"]; ok {
			if r.status, _, err = validation.NewSchemaValidator(&status); err != nil {
				return nil, fmt.Errorf("prepare validation of the status of %s: %w", v.gvk, err)
			}
		}
	}
	r.expressions = sync.OnceValue(func() *cel.Validator { return cel.NewValidator(s.structural, true, celconfig.PerCallLimit) })
	return r, nil
}
