package openapi

import (
	"cmp"
	"reflect"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// parameter is one of a path or query. Comparable: two equal ones are written once.
type parameter struct {
	name        string
	in          string // "path" or "query"
	typ         string // string, integer, boolean
	description string
}

var (
	namespaceParameter = parameter{"namespace", "path", "string", "object name and auth scope, such as for teams and projects"}
	pathParameter      = parameter{"path", "path", "string", "path to the resource"}
	prettyParameter    = parameter{"pretty", "query", "string", "If 'true', then the output is pretty printed. Defaults to 'false' unless the user-agent indicates a browser or command-line HTTP tool (curl and wget)."}
)

func nameParameter(kind string) parameter {
	return parameter{"name", "path", "string", "name of the " + kind}
}

// optionParameters reads the query parameters of an options type from its fields; their words are the type's own.
func optionParameters(options interface{ SwaggerDoc() map[string]string }) (ps []parameter) {
	t := reflect.TypeOf(options)
	docs := options.SwaggerDoc()
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous || name == "" || name == "-" {
			continue
		}
		elem := f.Type
		for elem.Kind() == reflect.Pointer || elem.Kind() == reflect.Slice {
			elem = elem.Elem()
		}
		p := parameter{name: name, in: "query", description: docs[name]}
		switch elem.Kind() {
		case reflect.String:
			p.typ = "string"
		case reflect.Bool:
			p.typ = "boolean"
		case reflect.Int32, reflect.Int64:
			p.typ = "integer"
		default:
			continue // times and preconditions do not fit into a query
		}
		ps = append(ps, p)
	}
	return ps
}

// join returns all parameters, sorted by name; what is in the path comes before what is in the query.
func join(lists ...[]parameter) []parameter {
	ps := slices.Concat(lists...)
	slices.SortStableFunc(ps, func(a, b parameter) int {
		return cmp.Or(cmp.Compare(a.name, b.name), cmp.Compare(a.in, b.in))
	})
	return slices.Compact(ps)
}

// deleteCollectionParameters select what is deleted and say how.
func deleteCollectionParameters() []parameter {
	selection := slices.DeleteFunc(optionParameters(metav1.ListOptions{}), func(p parameter) bool {
		return p.name == "watch" || p.name == "allowWatchBookmarks"
	})
	return join(selection, optionParameters(metav1.DeleteOptions{}))
}

func withoutPretty(ps []parameter) []parameter {
	return slices.DeleteFunc(slices.Clone(ps), func(p parameter) bool { return p == prettyParameter })
}

// hoist moves the parameters that all operations of a path share to the path.
func hoist(p path) path {
	if len(p.operations) == 0 {
		return p
	}
	for _, candidate := range p.operations[0].parameters {
		shared := true
		for _, o := range p.operations {
			shared = shared && slices.Contains(o.parameters, candidate)
		}
		if shared {
			p.parameters = append(p.parameters, candidate)
		}
	}
	for i := range p.operations {
		o := &p.operations[i]
		o.parameters = slices.DeleteFunc(slices.Clone(o.parameters), func(q parameter) bool { return slices.Contains(p.parameters, q) })
	}
	return p
}
