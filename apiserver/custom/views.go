package custom

import (
	"bytes"
	"fmt"
	"reflect"
	"strings"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/client-go/util/jsonpath"

	"wherry.dev/wherry/api/kinds"
)

// printing gives k the columns of the version; without any, upstream prints the age.
func (v *version) printing(k *kinds.Kind) {
	docs := metav1.ObjectMeta{}.SwaggerDoc()
	columns := v.v.AdditionalPrinterColumns
	if len(columns) == 0 {
		columns = []apiextensionsv1.CustomResourceColumnDefinition{{Name: "Age", Type: "date", Description: docs["creationTimestamp"], JSONPath: ".metadata.creationTimestamp"}}
	}
	k.Columns = []metav1.TableColumnDefinition{{Name: "Name", Type: "string", Format: "name", Description: docs["name"]}}
	for i, c := range columns {
		if jsonpath.New(c.Name).Parse("{"+c.JSONPath+"}") != nil { // upstream falls back to what it has made so far
			columns = columns[:i]
			break
		}
		description := c.Description
		if description == "" {
			description = "Custom resource definition column (in JSONPath format): " + c.JSONPath
		}
		k.Columns = append(k.Columns, metav1.TableColumnDefinition{Name: c.Name, Type: c.Type, Format: c.Format, Description: description, Priority: c.Priority})
	}
	k.Row = func(obj runtime.Object, now time.Time) []any {
		u := obj.(*unstructured.Unstructured)
		row := []any{u.GetName()}
		for _, c := range columns {
			row = append(row, cell(c, u.Object, now))
		}
		return row
	}
}

// cell is what one column shows of an object, nil when there is nothing.
func cell(c apiextensionsv1.CustomResourceColumnDefinition, content map[string]any, now time.Time) any {
	path := jsonpath.New(c.Name).AllowMissingKeys(true)
	if path.Parse("{"+c.JSONPath+"}") != nil {
		return nil
	}
	results, err := path.FindResults(content)
	if err != nil || len(results) == 0 || len(results[0]) == 0 {
		return nil
	}
	value := results[0][0].Interface() // the first counts, however many there are
	if c.Type == "string" {
		var text bytes.Buffer
		if path.PrintResults(&text, []reflect.Value{reflect.ValueOf(value)}) != nil {
			return nil
		}
		return text.String()
	}
	switch c.Type {
	case "integer":
		switch n := value.(type) {
		case int64:
			return n
		case float64:
			return int64(n)
		}
	case "number":
		switch n := value.(type) {
		case int64:
			return float64(n)
		case float64:
			return n
		}
	case "boolean":
		if b, ok := value.(bool); ok {
			return b
		}
	case "date":
		if text, ok := value.(string); ok {
			return humanSince(text, now)
		}
	}
	return nil
}

// humanSince is how long ago a time in RFC 3339 was.
func humanSince(text string, now time.Time) string {
	var t metav1.Time
	if t.UnmarshalQueryParameter(text) != nil {
		return "<invalid>"
	}
	if t.IsZero() {
		return "<unknown>"
	}
	return duration.HumanDuration(now.Sub(t.Time))
}

// selecting gives k the fields of the version that may be selected by (KEP-4358).
func (v *version) selecting(k *kinds.Kind) {
	k.FieldLabels = []string{"metadata.name"}
	if k.Namespaced {
		k.FieldLabels = append(k.FieldLabels, "metadata.namespace")
	}
	type selectable struct{ name, path string }
	var list []selectable
	for _, f := range v.v.SelectableFields {
		s := selectable{strings.TrimPrefix(f.JSONPath, "."), "{" + f.JSONPath + "}"}
		list = append(list, s)
		k.FieldLabels = append(k.FieldLabels, s.name)
	}
	namespaced := k.Namespaced
	k.SelectableFields = func(obj runtime.Object) fields.Set {
		u := obj.(*unstructured.Unstructured)
		set := make(fields.Set, 2+len(list))
		set["metadata.name"] = u.GetName()
		if namespaced {
			set["metadata.namespace"] = u.GetNamespace()
		}
		for _, s := range list {
			set[s.name] = ""
			path := jsonpath.New("selectableField").AllowMissingKeys(true)
			if path.Parse(s.path) != nil {
				continue
			}
			if results, err := path.FindResults(u.Object); err == nil && len(results) == 1 && len(results[0]) == 1 {
				if value := results[0][0]; value.IsValid() && (value.Kind() != reflect.Interface || !value.IsNil()) {
					set[s.name] = fmt.Sprint(value.Interface())
				}
			}
		}
		return set
	}
}
