package managed

import (
	"encoding/binary"
	"reflect"
	"slices"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Who owns which fields of a new object depends on the object's shape only: which fields are set, the keys of its maps,
// and what its lists hold, for list items are told apart by their content. Objects made from one template have one
// shape, so their fields are worked out once.

// maxShapes and maxShapeSize bound the memory of the shapes of one kind.
const (
	maxShapes    = 256
	maxShapeSize = 8 << 10
)

// shapes remembers the owned fields of recent shapes. Safe for concurrent use.
type shapes struct {
	mu     sync.RWMutex
	fields map[string]*metav1.FieldsV1 // guarded by mu; nil values: nothing is owned
}

func (s *shapes) get(key []byte) (*metav1.FieldsV1, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	f, ok := s.fields[string(key)]
	return f, ok
}

func (s *shapes) put(key []byte, f *metav1.FieldsV1) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fields == nil {
		s.fields = map[string]*metav1.FieldsV1{}
	}
	if len(s.fields) >= maxShapes {
		for k := range s.fields { // any: a random one is as good as the oldest when there are more shapes than room
			delete(s.fields, k)
			break
		}
	}
	s.fields[string(key)] = f
}

// appendShape appends what tells v's shape from another of the same type. inList says that values count too.
func appendShape(b []byte, v reflect.Value, inList bool) []byte {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			return append(b, 0)
		}
		return appendShape(append(b, 1), v.Elem(), inList)
	case reflect.Struct:
		if v.Type().NumField() == 0 {
			return append(b, 2)
		}
		for i := range v.NumField() {
			f := v.Type().Field(i)
			if !f.IsExported() { // times and quantities: scalars that are no keys
				return append(b, zeroness(v))
			}
			b = appendShape(b, v.Field(i), inList)
		}
		return b
	case reflect.Slice, reflect.Array:
		if v.Kind() == reflect.Slice && v.IsNil() {
			return append(b, 0)
		}
		if v.Type().Elem().Kind() == reflect.Uint8 { // bytes are a scalar
			return append(b, 1, zeroness(v))
		}
		b = binary.AppendUvarint(append(b, 1), uint64(v.Len()))
		for i := range v.Len() {
			b = appendShape(b, v.Index(i), true)
		}
		return b
	case reflect.Map:
		if v.IsNil() {
			return append(b, 0)
		}
		return appendMap(append(b, 1), v, inList)
	case reflect.String:
		if inList {
			b = binary.AppendUvarint(b, uint64(v.Len()))
			return append(b, v.String()...)
		}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		if inList {
			return binary.AppendVarint(b, v.Int())
		}
	case reflect.Bool:
		if inList && v.Bool() {
			return append(b, 2)
		}
	}
	return append(b, zeroness(v))
}

// appendMap visits a map in whatever order it comes, and joins its entries so that the order does not matter.
func appendMap(b []byte, v reflect.Value, inList bool) []byte {
	keys := make([]string, 0, v.Len())
	for it := v.MapRange(); it.Next(); {
		entry := []byte(it.Key().String())
		entry = append(entry, 0)
		keys = append(keys, string(appendShape(entry, it.Value(), inList)))
	}
	slices.Sort(keys)
	b = binary.AppendUvarint(b, uint64(len(keys)))
	for _, k := range keys {
		b = binary.AppendUvarint(b, uint64(len(k)))
		b = append(b, k...)
	}
	return b
}

func zeroness(v reflect.Value) byte {
	if v.IsZero() {
		return 0
	}
	return 1
}
