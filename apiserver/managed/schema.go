package managed

import (
	"bytes"
	_ "embed"
	"encoding/gob"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/util/managedfields"
	"sigs.k8s.io/structured-merge-diff/v6/schema"
	"sigs.k8s.io/structured-merge-diff/v6/typed"

	"wherry.dev/wherry/api/scheme"
)

// builtinSchema is the merge schema of every built-in type, which client-go has as text: reading that takes 40 ms of a start, this one.
// TestSchemaIsClientGos holds it to client-go's, and writes it anew when it is told to update.
//
//go:embed schema.gob
var builtinSchema []byte

// builtin makes the converter of the built-in types.
func builtin() (managedfields.TypeConverter, error) {
	types, err := decodeSchema(builtinSchema)
	if err != nil {
		return nil, fmt.Errorf("read the merge schema of the built-in types: %w", err)
	}
	scale, err := typed.NewParser(scaleSchema)
	if err != nil {
		return nil, fmt.Errorf("read the merge schema of Scales: %w", err)
	}
	parser := &typed.Parser{}
	parser.Schema.Types = append(types, scale.Schema.Types...)
	return managedfields.NewSchemeTypeConverter(scheme.Scheme, parser), nil
}

// scaleSchema is the merge schema of a Scale (autoscaling/v1), which client-go has not, because nobody makes one. Its metadata is in the schema of the others.
const scaleSchema typed.YAMLObject = `
types:
- name: io.k8s.api.autoscaling.v1.Scale
  map:
    fields:
    - {name: apiVersion, type: {scalar: string}}
    - {name: kind, type: {scalar: string}}
    - {name: metadata, type: {namedType: io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta}, default: {}}
    - {name: spec, type: {namedType: io.k8s.api.autoscaling.v1.ScaleSpec}, default: {}}
    - {name: status, type: {namedType: io.k8s.api.autoscaling.v1.ScaleStatus}, default: {}}
- name: io.k8s.api.autoscaling.v1.ScaleSpec
  map:
    fields:
    - {name: replicas, type: {scalar: numeric}}
- name: io.k8s.api.autoscaling.v1.ScaleStatus
  map:
    fields:
    - {name: replicas, type: {scalar: numeric}}
    - {name: selector, type: {scalar: string}}
`

// anything is the merge schema of what is merged by what it happens to be.
const anything typed.YAMLObject = `- name: anything
  scalar: untyped
  list: {elementType: {namedType: anything}, elementRelationship: atomic}
  map: {elementType: {namedType: anything}, elementRelationship: separable}
`

// scaleAlone makes the converter of Scales, with no schema for their metadata.
func scaleAlone() (managedfields.TypeConverter, error) {
	const metadata = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
	parser, err := typed.NewParser(typed.YAMLObject(strings.Replace(string(scaleSchema), metadata, "anything", 1)) + anything)
	if err != nil {
		return nil, fmt.Errorf("read the merge schema of Scales: %w", err)
	}
	return managedfields.NewSchemeTypeConverter(scheme.Scheme, parser), nil
}

func decodeSchema(b []byte) (types []schema.TypeDef, err error) {
	gob.Register(map[any]any{}) // of defaults that are objects
	err = gob.NewDecoder(bytes.NewReader(b)).Decode(&types)
	return types, err
}
