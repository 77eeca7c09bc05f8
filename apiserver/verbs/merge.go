package verbs

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/runtime"
)

// The usual strategic merge patch sets fields, items of lists by their keys, and entries of maps. It is merged into the object
// itself. Whatever is out of the ordinary (directives, fields that there are not, values of another type, keys that are no
// strings or not unique) is left to the general machinery, which merges the object in its loose form: this one then says so, and
// has no words of its own for errors.

// mergeInto merges patch into obj. If it says false, obj is in no defined state.
func mergeInto(obj runtime.Object, patch map[string]any) bool {
	v := reflect.ValueOf(obj)
	return v.Kind() == reflect.Pointer && v.Elem().Kind() == reflect.Struct && mergeStruct(v.Elem(), patch, false)
}

// mergePlan is what merging needs to know of a struct type. Immutable.
type mergePlan struct{ fields map[string]mergeField }

type mergeField struct {
	index []int
	merge bool   // lists are merged, not replaced
	key   string // by this field of their items
	whole bool   // a struct or map is replaced: seldom, and left to the general machinery
}

var (
	mergePlans   sync.Map // reflect.Type → *mergePlan; as many as there are types
	jsonReader   = reflect.TypeFor[json.Unmarshaler]()
	emptyStructs = mergePlan{}
)

// mergePlanOf returns the plan of struct type t.
func mergePlanOf(t reflect.Type) *mergePlan {
	if p, ok := mergePlans.Load(t); ok {
		return p.(*mergePlan)
	}
	p := &mergePlan{fields: map[string]mergeField{}}
	if !p.add(t, nil) {
		p = &emptyStructs // knows no field, so every patch goes the general way
	}
	mergePlans.Store(t, p)
	return p
}

// add adds the fields of t, which is found at index, inlined ones as well. It says false when t is not as API types are.
func (p *mergePlan) add(t reflect.Type, index []int) bool {
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		at := append(slices.Clone(index), i)
		switch {
		case name == "-":
		case name == "" && f.Anonymous && f.Type.Kind() == reflect.Struct: // inlined
			if !p.add(f.Type, at) {
				return false
			}
		case name == "" || !f.IsExported():
			return false
		default:
			if _, twice := p.fields[name]; twice {
				return false
			}
			strategy := strings.Split(f.Tag.Get("patchStrategy"), ",")
			p.fields[name] = mergeField{index: at, merge: slices.Contains(strategy, "merge"), key: f.Tag.Get("patchMergeKey"), whole: slices.Contains(strategy, "replace")}
		}
	}
	return true
}

// mergeStruct merges patch into v. made says that v is a part of a new item of a list: there a null in a map need not mean that nothing is there.
func mergeStruct(v reflect.Value, patch map[string]any, made bool) bool {
	plan := mergePlanOf(v.Type())
	for name, value := range patch {
		f, ok := plan.fields[name] // directives are no fields
		if !ok || !mergeValue(v.FieldByIndex(f.index), value, f, made) {
			return false
		}
	}
	return true
}

// mergeValue merges value into v, which is settable.
func mergeValue(v reflect.Value, value any, f mergeField, made bool) bool {
	if value == nil {
		v.SetZero()
		return true
	}
	t := v.Type()
	if t.Kind() != reflect.Pointer && reflect.PointerTo(t).Implements(jsonReader) {
		return readJSON(v, value)
	}
	switch t.Kind() {
	case reflect.Pointer:
		if v.IsNil() || t.Elem().Kind() != reflect.Struct {
			v.Set(reflect.New(t.Elem()))
		}
		return mergeValue(v.Elem(), value, f, made)
	case reflect.Struct:
		m, ok := value.(map[string]any)
		return ok && !f.whole && mergeStruct(v, m, made)
	case reflect.Map:
		m, ok := value.(map[string]any)
		return ok && !f.whole && mergeMap(v, m, made)
	case reflect.Slice:
		items, ok := value.([]any)
		return ok && mergeList(v, items, f, made)
	case reflect.String:
		s, ok := value.(string)
		if ok {
			v.SetString(s)
		}
		return ok
	case reflect.Bool:
		b, ok := value.(bool)
		if ok {
			v.SetBool(b)
		}
		return ok
	case reflect.Int32, reflect.Int64:
		n, ok := value.(int64)
		if ok = ok && !v.OverflowInt(n); ok {
			v.SetInt(n)
		}
		return ok
	}
	return false
}

// readJSON lets times, quantities and the like read what is neither a list nor an object.
func readJSON(v reflect.Value, value any) bool {
	switch value.(type) {
	case string, int64, bool:
	default:
		return false
	}
	b, err := json.Marshal(value)
	if err != nil {
		return false
	}
	fresh := reflect.New(v.Type()) // nothing of the old value may stay
	if fresh.Interface().(json.Unmarshaler).UnmarshalJSON(b) != nil {
		return false
	}
	v.Set(fresh.Elem())
	return true
}

func mergeMap(v reflect.Value, patch map[string]any, made bool) bool {
	t := v.Type()
	if t.Key().Kind() != reflect.String || t.Elem().Kind() == reflect.Map || t.Elem().Kind() == reflect.Slice || t.Elem().Kind() == reflect.Pointer ||
		t.Elem().Kind() == reflect.Struct && !reflect.PointerTo(t.Elem()).Implements(jsonReader) {
		return false
	}
	if v.IsNil() {
		v.Set(reflect.MakeMap(t))
	}
	for name, value := range patch {
		if strings.HasPrefix(name, "$") {
			return false
		}
		key := reflect.ValueOf(name).Convert(t.Key())
		if value == nil && made {
			return false
		}
		if value == nil {
			v.SetMapIndex(key, reflect.Value{})
			continue
		}
		item := reflect.New(t.Elem()).Elem()
		if !mergeValue(item, value, mergeField{}, made) {
			return false
		}
		v.SetMapIndex(key, item)
	}
	return true
}

func mergeList(v reflect.Value, patch []any, f mergeField, made bool) bool {
	t := v.Type()
	kind := t.Elem().Kind()
	if kind == reflect.Uint8 || kind == reflect.Slice || kind == reflect.Map || kind == reflect.Pointer || slices.Contains(patch, nil) {
		return false
	}
	if v.Len() == 0 || !f.merge {
		if f.merge && kind == reflect.Struct && f.key != "" && !distinct(patch, f.key) {
			return false
		}
		out := reflect.MakeSlice(t, len(patch), len(patch))
		for i, value := range patch {
			if !mergeValue(out.Index(i), value, mergeField{}, true) {
				return false
			}
		}
		v.Set(out)
		return true
	}
	if kind != reflect.Struct || f.key == "" {
		return false
	}
	return mergeItems(v, patch, f.key)
}

// distinct says whether the items of a patch all have a key of their own.
func distinct(patch []any, key string) bool {
	for i, value := range patch {
		name, ok := keyIn(value, key)
		if !ok {
			return false
		}
		for _, other := range patch[:i] {
			if have, _ := keyIn(other, key); have == name {
				return false
			}
		}
	}
	return true
}

func keyIn(value any, key string) (string, bool) {
	m, _ := value.(map[string]any)
	name, ok := m[key].(string)
	return name, ok && name != ""
}

// mergeItems merges the items of patch into those of v by their key. Items of the patch come in its order, the others in theirs,
// and where one of either could be next, the patch's is, unless the list had the other before it.
func mergeItems(v reflect.Value, patch []any, key string) bool {
	f, ok := mergePlanOf(v.Type().Elem()).fields[key]
	if !ok || !distinct(patch, key) {
		return false
	}
	was := map[string]int{}
	for i := range v.Len() {
		name := v.Index(i).FieldByIndex(f.index)
		if name.Kind() != reflect.String || name.Len() == 0 {
			return false
		}
		if _, twice := was[name.String()]; twice {
			return false
		}
		was[name.String()] = i
	}
	at := make([]int, len(patch)) // in v, -1 for new ones
	patched := make([]bool, v.Len())
	for j, value := range patch {
		name, _ := keyIn(value, key)
		i, found := was[name]
		if !found {
			at[j] = -1
			continue
		}
		at[j], patched[i] = i, true
		if !mergeStruct(v.Index(i), value.(map[string]any), false) {
			return false
		}
	}
	out := reflect.MakeSlice(v.Type(), 0, v.Len()+len(patch))
	i, j := 0, 0
	for {
		for i < v.Len() && patched[i] {
			i++
		}
		switch {
		case i == v.Len() && j == len(patch):
			v.Set(out)
			return true
		case j == len(patch) || i < v.Len() && at[j] > i:
			out = reflect.Append(out, v.Index(i))
			i++
		case at[j] >= 0:
			out = reflect.Append(out, v.Index(at[j]))
			j++
		default:
			item := reflect.New(v.Type().Elem()).Elem()
			if !mergeStruct(item, patch[j].(map[string]any), true) {
				return false
			}
			out = reflect.Append(out, item)
			j++
		}
	}
}
