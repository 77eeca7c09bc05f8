// Package share lets objects that are alike have in common what is equal in them. Thousands of pods of one Deployment differ in their
// names, addresses and times; nearly all else, from the strings of their labels to whole probes and owners, is the same in each, and takes
// memory only once when one refers to what its neighbour has. Nothing is looked up anywhere and nothing has to be forgotten: what is
// shared lives as long as the last object that refers to it. Only store imports this package.
package share

import (
	"reflect"
	"sync"
	"time"
	"unsafe"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// With makes obj refer to parts of like wherever they are equal: strings, maps, lists and what pointers point to. obj stays equal to
// what it was. Only obj's own struct is written, what it points to is copied where it changes; like is not written and must not be from then on, nor obj, by anyone. Both must be
// pointers to the same type of struct, else nothing is done.
func With[T any](obj, like T) {
	to, from := reflect.ValueOf(obj), reflect.ValueOf(like)
	if to.Kind() != reflect.Pointer || from.Kind() != reflect.Pointer || to.Type() != from.Type() || to.IsNil() || from.IsNil() || to.UnsafePointer() == from.UnsafePointer() {
		return
	}
	p := planOf(to.Type().Elem())
	p.share(to.UnsafePointer(), from.UnsafePointer())
}

// plan says where in a type's memory there is something to share. Immutable once it is made.
type plan struct {
	t     reflect.Type
	steps []step
	refs  bool // there is something to share, else the memory is all there is to compare
}

type kind uint8

const (
	flat    kind = iota // memory that is compared as it is, such as numbers; also what only the same pointer makes equal
	text                // a string of any name
	pointer             // to elem
	list                // a slice of elem
	labels              // a map[string]string
	amounts             // a corev1.ResourceList
)

// step is one part of a type, in the order of its memory.
type step struct {
	kind   kind
	offset uintptr
	size   uintptr // of a flat part
	elem   *plan   // of a pointer or list
}

var (
	plans sync.Map // reflect.Type to *plan

	labelsType  = reflect.TypeFor[map[string]string]()
	amountsType = reflect.TypeFor[corev1.ResourceList]()
	// Times hold a pointer to their zone, which is one of few and not to be looked into.
	opaque = map[reflect.Type]bool{reflect.TypeFor[time.Time](): true, reflect.TypeFor[metav1.Time](): true, reflect.TypeFor[metav1.MicroTime](): true}
)

func planOf(t reflect.Type) *plan {
	if p, ok := plans.Load(t); ok {
		return p.(*plan)
	}
	making := map[reflect.Type]*plan{}
	p := compile(t, making)
	for t, p := range making { // whole, so that nobody meets one that is half made
		plans.LoadOrStore(t, p)
	}
	return p
}

// compile makes the plan of t and of all that it refers to; a type that contains itself finds its own.
func compile(t reflect.Type, making map[reflect.Type]*plan) *plan {
	if p, ok := plans.Load(t); ok {
		return p.(*plan)
	}
	if p := making[t]; p != nil {
		return p
	}
	p := &plan{t: t, refs: true}
	making[t] = p
	p.add(t, 0, making)
	p.refs = len(p.steps) > 1 || len(p.steps) == 1 && p.steps[0].kind != flat
	return p
}

func (p *plan) add(t reflect.Type, offset uintptr, making map[reflect.Type]*plan) {
	s := step{offset: offset}
	switch {
	case opaque[t]:
		s.size = t.Size()
	case t == labelsType:
		s.kind = labels
	case t == amountsType:
		s.kind = amounts
	case t.Kind() == reflect.String:
		s.kind = text
	case t.Kind() == reflect.Pointer:
		s.kind, s.elem = pointer, compile(t.Elem(), making)
	case t.Kind() == reflect.Slice:
		s.kind, s.elem = list, compile(t.Elem(), making)
	case t.Kind() == reflect.Struct:
		for i := range t.NumField() {
			f := t.Field(i)
			p.add(f.Type, offset+f.Offset, making)
		}
		return
	default:
		s.size = t.Size()
	}
	if s.kind == flat {
		if s.size == 0 {
			return
		}
		if last := len(p.steps) - 1; last >= 0 && p.steps[last].kind == flat {
			p.steps[last].size = offset + s.size - p.steps[last].offset // padding is compared too, and mostly zero
			return
		}
	}
	p.steps = append(p.steps, s)
}

// slice is how a slice lies in memory.
type slice struct {
	data     unsafe.Pointer
	len, cap int
}

// same compares memory.
func same(a, b unsafe.Pointer, size uintptr) bool {
	return unsafe.String((*byte)(a), size) == unsafe.String((*byte)(b), size)
}

// equal says whether what lies at a and b is equal all the way down.
func (p *plan) equal(a, b unsafe.Pointer) bool {
	for i := range p.steps {
		s := &p.steps[i]
		if !s.equal(unsafe.Add(a, s.offset), unsafe.Add(b, s.offset)) {
			return false
		}
	}
	return true
}

func (s *step) equal(a, b unsafe.Pointer) bool {
	switch s.kind {
	case flat:
		return same(a, b, s.size)
	case text:
		return *(*string)(a) == *(*string)(b)
	case pointer:
		x, y := *(*unsafe.Pointer)(a), *(*unsafe.Pointer)(b)
		return x == y || x != nil && y != nil && s.elem.equal(x, y)
	case list:
		x, y := (*slice)(a), (*slice)(b)
		switch {
		case x.len != y.len || (x.data == nil) != (y.data == nil):
			return false
		case x.data == y.data || x.len == 0:
			return true
		case !s.elem.refs:
			return same(x.data, y.data, uintptr(x.len)*s.elem.t.Size())
		}
		for i, size := 0, s.elem.t.Size(); i < x.len; i++ {
			if at := uintptr(i) * size; !s.elem.equal(unsafe.Add(x.data, at), unsafe.Add(y.data, at)) {
				return false
			}
		}
		return true
	case labels:
		return equalMaps(*(*map[string]string)(a), *(*map[string]string)(b))
	default:
		return equalMaps(*(*corev1.ResourceList)(a), *(*corev1.ResourceList)(b))
	}
}

// equalMaps tells a map that is nil from an empty one.
func equalMaps[M ~map[K]V, K, V comparable](a, b M) bool {
	if len(a) != len(b) || (a == nil) != (b == nil) {
		return false
	}
	for k, v := range a {
		if w, ok := b[k]; !ok || v != w {
			return false
		}
	}
	return true
}

// share makes what lies at to, which is the caller's alone, refer to what lies at from wherever that is equal.
func (p *plan) share(to, from unsafe.Pointer) {
	for i := range p.steps {
		if s := &p.steps[i]; s.kind != flat {
			s.share(unsafe.Add(to, s.offset), unsafe.Add(from, s.offset))
		}
	}
}

func (s *step) share(to, from unsafe.Pointer) {
	switch s.kind {
	case text:
		x, y := (*string)(to), (*string)(from)
		if len(*x) == 0 || len(*x) != len(*y) || unsafe.StringData(*x) == unsafe.StringData(*y) || *x != *y {
			return
		}
		*x = *y
	case pointer:
		x, y := (*unsafe.Pointer)(to), *(*unsafe.Pointer)(from)
		switch {
		case *x == y || *x == nil || y == nil:
			return
		case s.elem.equal(*x, y):
			*x = y
			return
		case !s.elem.gains(*x, y):
			return
		}
		own := reflect.New(s.elem.t)
		own.Elem().Set(reflect.NewAt(s.elem.t, *x).Elem())
		s.elem.share(own.UnsafePointer(), y)
		*x = own.UnsafePointer()
	case list:
		s.shareList((*slice)(to), (*slice)(from))
	case labels:
		x, y := (*map[string]string)(to), *(*map[string]string)(from)
		if sharable(*x, y) {
			*x = y
		}
	case amounts:
		x, y := (*corev1.ResourceList)(to), *(*corev1.ResourceList)(from)
		if sharable(*x, y) {
			*x = y
		}
	}
}

// shareList compares elements that are at the same place: neighbours have them in the same order.
func (s *step) shareList(x, y *slice) {
	n := min(x.len, y.len)
	if n == 0 || x.data == y.data && x.len <= y.len {
		return
	}
	if s.equal(unsafe.Pointer(x), unsafe.Pointer(y)) {
		x.data, x.cap = y.data, x.len // nobody can append into what the other has
		return
	}
	size, gains := s.elem.t.Size(), false
	for i := 0; i < n && !gains; i++ {
		at := uintptr(i) * size
		gains = s.elem.gains(unsafe.Add(x.data, at), unsafe.Add(y.data, at))
	}
	if !gains {
		return
	}
	of := reflect.SliceOf(s.elem.t)
	own := reflect.MakeSlice(of, x.len, x.len)
	reflect.Copy(own, reflect.NewAt(of, unsafe.Pointer(x)).Elem())
	data := own.UnsafePointer()
	for i := range n {
		at := uintptr(i) * size
		s.elem.share(unsafe.Add(data, at), unsafe.Add(y.data, at))
	}
	x.data, x.cap = data, x.len
}

// gains says whether share would find anything: nothing is copied for nothing.
func (p *plan) gains(to, from unsafe.Pointer) bool {
	if !p.refs {
		return false
	}
	for i := range p.steps {
		s := &p.steps[i]
		if s.kind != flat && s.gains(unsafe.Add(to, s.offset), unsafe.Add(from, s.offset)) {
			return true
		}
	}
	return false
}

func (s *step) gains(to, from unsafe.Pointer) bool {
	switch s.kind {
	case text:
		x, y := *(*string)(to), *(*string)(from)
		return len(x) > 0 && unsafe.StringData(x) != unsafe.StringData(y) && x == y
	case pointer:
		x, y := *(*unsafe.Pointer)(to), *(*unsafe.Pointer)(from)
		return x != y && x != nil && y != nil && (s.elem.gains(x, y) || s.elem.equal(x, y))
	case list:
		x, y := (*slice)(to), (*slice)(from)
		n := min(x.len, y.len)
		if n == 0 || x.data == y.data && x.len <= y.len {
			return false
		}
		for i, size := 0, s.elem.t.Size(); i < n && s.elem.refs; i++ {
			if at := uintptr(i) * size; s.elem.gains(unsafe.Add(x.data, at), unsafe.Add(y.data, at)) {
				return true
			}
		}
		return s.equal(to, from)
	case labels:
		return sharable(*(*map[string]string)(to), *(*map[string]string)(from))
	default:
		return sharable(*(*corev1.ResourceList)(to), *(*corev1.ResourceList)(from))
	}
}

// sharable says whether two maps are equal and not the same.
func sharable[M ~map[K]V, K, V comparable](a, b M) bool {
	return len(a) > 0 && reflect.ValueOf(a).UnsafePointer() != reflect.ValueOf(b).UnsafePointer() && equalMaps(a, b)
}
