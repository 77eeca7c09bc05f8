package managed

import (
	"bytes"
	_ "embed"
	"encoding/gob"
	"fmt"

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
	parser := &typed.Parser{}
	parser.Schema.Types = types
	return managedfields.NewSchemeTypeConverter(scheme.Scheme, parser), nil
}

func decodeSchema(b []byte) (types []schema.TypeDef, err error) {
	gob.Register(map[any]any{}) // of defaults that are objects
	err = gob.NewDecoder(bytes.NewReader(b)).Decode(&types)
	return types, err
}
