package verbs

import (
	"reflect"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
)

// A patch mostly touches one of an object's metadata, spec and status. Converting only that to the loose form in which
// patches are merged, and back, is most of what can be saved on the way.

// touched returns which top-level fields of obj, by index, a merge patch mentions. ok is false when the patch says
// something about the object as a whole.
func touched(obj runtime.Object, patch map[string]any) (fields map[int]bool, ok bool) {
	v := reflect.ValueOf(obj)
	if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		return nil, false
	}
	for k := range patch {
		if strings.HasPrefix(k, "$") {
			return nil, false
		}
	}
	fields = map[int]bool{}
	t := v.Elem().Type()
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		if name == "" { // inlined: the type, which every object keeps
			fields[i] = true
			continue
		}
		if _, is := patch[name]; is {
			fields[i] = true
		}
	}
	return fields, true
}

// only is a shallow copy of obj with the given top-level fields.
func only(obj runtime.Object, fields map[int]bool) runtime.Object {
	v := reflect.ValueOf(obj).Elem()
	out := reflect.New(v.Type())
	for i := range v.NumField() {
		if fields[i] {
			out.Elem().Field(i).Set(v.Field(i))
		}
	}
	return out.Interface().(runtime.Object)
}

// replaced is a copy of obj with the given top-level fields taken from part, which it takes over.
func replaced(obj, part runtime.Object, fields map[int]bool) runtime.Object {
	out := obj.DeepCopyObject()
	to, from := reflect.ValueOf(out).Elem(), reflect.ValueOf(part).Elem()
	for i := range fields {
		to.Field(i).Set(from.Field(i))
	}
	return out
}
