// Package managed keeps metadata.managedFields, which say who set which field, on every write, and merges server-side
// apply (KEP-555). The rules and the merge are structured-merge-diff's; what is ours is the way there: most writes are
// answered from a plan of the type's shape instead of a generic walk over a converted copy.
package managed

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"wherry.dev/wherry/api/kinds"
)

// Types is a merge schema, made on first use and shared. The zero value is that of every built-in type.
type Types struct {
	make      func() (managedfields.TypeConverter, error)
	once      sync.Once
	converter managedfields.TypeConverter
	err       error
}

// NewTypes returns the merge schema that make makes.
func NewTypes(make func() (managedfields.TypeConverter, error)) *Types { return &Types{make: make} }

// get returns the converter, making it when it is the first to ask.
func (t *Types) get() (managedfields.TypeConverter, error) {
	t.once.Do(func() {
		if t.make != nil {
			t.converter, t.err = t.make()
			return
		}
		t.converter, t.err = builtin()
	})
	return t.converter, t.err
}

// Warm makes the schema now, so that the first write need not wait for it.
func (t *Types) Warm() { _, _ = t.get() }

// Manager keeps the managed fields of one kind as seen through one subresource. Safe for concurrent use.
type Manager struct {
	kind        *kinds.Kind
	subresource string
	types       *Types
	shapes      shapes
	owners      owners

	once sync.Once
	full *managedfields.FieldManager // set by once
	err  error                       // set by once

	scaleOnce sync.Once
	scale     *Manager // of Scales; set by scaleOnce
}

// New returns the manager of k's subresource ("" for the object itself).
func New(k *kinds.Kind, subresource string, types *Types) *Manager {
	return &Manager{kind: k, subresource: subresource, types: types}
}

// manager builds the general machinery on first use; most kinds are never written.
func (m *Manager) manager() (*managedfields.FieldManager, error) {
	m.once.Do(func() {
		gv := m.kind.GroupVersionKind.GroupVersion()
		c := converter{m.kind}
		types, err := m.types.get()
		if err != nil {
			m.err = fmt.Errorf("prepare merge schema of %s: %w", m.kind.GroupVersionKind, err)
			return
		}
		fields := managedfields.NewDefaultFieldManager
		if m.kind.Custom {
			fields = managedfields.NewDefaultCRDFieldManager
		}
		filter := fieldpath.NewExcludeSetFilter(m.resetFields())
		filters := map[fieldpath.APIVersion]fieldpath.Filter{fieldpath.APIVersion(gv.String()): filter}
		for _, v := range m.otherVersions() {
			filters[fieldpath.APIVersion(v.String())] = filter
		}
		m.full, m.err = fields(types, c, c, c, m.kind.GroupVersionKind, gv, m.subresource, filters)
		if m.err != nil {
			m.err = fmt.Errorf("prepare managed fields of %s: %w", m.kind.GroupVersionKind, m.err)
		}
	})
	return m.full, m.err
}

// withPaths adds dotted paths to a set.
func withPaths(set *fieldpath.Set, paths []string) *fieldpath.Set {
	for _, path := range paths {
		var p fieldpath.Path
		for step := range strings.SplitSeq(path, ".") {
			p = append(p, fieldpath.PathElement{FieldName: &step})
		}
		set.Insert(p)
	}
	return set
}

// resetFields are those which a write through this subresource cannot set, and so nobody comes to own by it.
func (m *Manager) resetFields() *fieldpath.Set {
	switch status, hasStatus := m.kind.Subresources["status"]; {
	case m.subresource == "status" && hasStatus:
		return withPaths(fieldpath.NewSet(fieldpath.MakePathOrDie("spec")), status.Resets)
	case m.subresource == "" && hasStatus:
		return withPaths(fieldpath.NewSet(fieldpath.MakePathOrDie("status")), m.kind.Resets)
	}
	return fieldpath.NewSet()
}

// otherVersions are those in which the same fields are reset.
func (m *Manager) otherVersions() []schema.GroupVersion {
	name := m.subresource
	if !m.kind.Custom && name == "" { // what the object itself resets is the status
		name = "status"
	}
	if sub := m.kind.Subresources[name]; sub != nil {
		return sub.Versions
	}
	return nil
}

// Update records in obj's managedFields what manager changed since live (nil on create) and returns obj. It never
// fails: where ownership cannot be worked out, live's stays. live is not changed.
func (m *Manager) Update(live, obj runtime.Object, manager string) runtime.Object {
	if m.kind.Custom {
		if live == nil {
			return m.update(m.empty(), obj, manager)
		}
		return m.update(live.DeepCopyObject(), obj, manager)
	}
	if m.kind.Convert != nil {
		return m.updateConverted(live, obj, manager)
	}
	if live == nil {
		return m.create(obj, manager)
	}
	om, err := meta.Accessor(obj)
	if err != nil {
		return obj
	}
	lm, err := meta.Accessor(live)
	if err != nil {
		return obj
	}
	// Ownership follows differences: what is the same on both sides need not be looked at, and often that is all but
	// one of spec, status and metadata.
	a, b, same := differing(live, obj)
	if same && (om.GetManagedFields() == nil || reflect.DeepEqual(om.GetManagedFields(), lm.GetManagedFields())) {
		om.SetManagedFields(lm.GetManagedFields())
		return obj
	}
	if before := m.ownersBefore(live, obj); len(before) > 0 {
		if after, ok := m.reown(a, b, before, manager); ok {
			om.SetManagedFields(after)
			return obj
		}
	}
	bm, err := meta.Accessor(m.update(a, b, manager))
	if err == nil {
		om.SetManagedFields(bm.GetManagedFields())
	}
	return obj
}

// updateConverted is Update for a built-in kind of several versions. What is owned is what another reader of this version will see, and what is
// compared is all of both objects: where a field of one version is several of another, or an annotation, no part can be looked at alone.
func (m *Manager) updateConverted(live, obj runtime.Object, manager string) runtime.Object {
	if live == nil {
		live = m.empty()
	} else {
		live = live.DeepCopyObject()
	}
	seen := obj.DeepCopyObject()
	if hub := m.kind.Hub; hub != nil {
		stored, err := hub.ToHub(seen)
		if err != nil {
			return obj
		}
		if seen, err = hub.FromHub(stored); err != nil {
			return obj
		}
	}
	om, err := meta.Accessor(obj)
	if err != nil {
		return obj
	}
	if sm, err := meta.Accessor(m.update(live, seen, manager)); err == nil {
		om.SetManagedFields(sm.GetManagedFields())
	}
	return obj
}

// create records that manager owns all of a new object.
func (m *Manager) create(obj runtime.Object, manager string) runtime.Object {
	om, err := meta.Accessor(obj)
	if err != nil {
		return obj
	}
	v := reflect.ValueOf(obj)
	if om.GetManagedFields() != nil || v.Kind() != reflect.Pointer {
		return m.update(m.empty(), obj, manager)
	}
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	key := appendShape((*buf)[:0], v.Elem(), false)
	*buf = key[:0]
	if fields, ok := m.shapes.get(key); ok {
		if fields != nil {
			t := metav1.Time{Time: time.Now().UTC().Truncate(time.Second)}
			om.SetManagedFields([]metav1.ManagedFieldsEntry{{Manager: manager, Operation: metav1.ManagedFieldsOperationUpdate, APIVersion: m.kind.GroupVersionKind.GroupVersion().String(),
				Time: &t, FieldsType: "FieldsV1", FieldsV1: fields, Subresource: m.subresource}})
		}
		return obj
	}
	obj = m.update(m.empty(), obj, manager)
	if entries := om.GetManagedFields(); len(key) <= maxShapeSize && len(entries) <= 1 {
		var fields *metav1.FieldsV1
		if len(entries) == 1 {
			fields = entries[0].FieldsV1
		}
		m.shapes.put(key, fields)
	}
	return obj
}

// buffers are for shapes, which are thrown away when they are known already.
var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 1<<10); return &b }}

func (m *Manager) empty() runtime.Object {
	obj := m.kind.New()
	obj.GetObjectKind().SetGroupVersionKind(m.kind.GroupVersionKind)
	return obj
}

// update is the general way. Both objects belong to the caller; live is only read.
func (m *Manager) update(live, obj runtime.Object, manager string) runtime.Object {
	full, err := m.manager()
	if err != nil {
		return obj
	}
	live.GetObjectKind().SetGroupVersionKind(m.kind.GroupVersionKind)
	obj.GetObjectKind().SetGroupVersionKind(m.kind.GroupVersionKind)
	return full.UpdateNoErrors(live, obj, manager)
}

// differing returns shallow copies of two objects of one type without the parts that are equal, and whether all are.
// Metadata stays, without what is equal in it; managedFields stay as they are.
func differing(a, b runtime.Object) (da, db runtime.Object, same bool) {
	va, vb := reflect.ValueOf(a).Elem(), reflect.ValueOf(b).Elem()
	ca, cb := reflect.New(va.Type()), reflect.New(vb.Type())
	ca.Elem().Set(va)
	cb.Elem().Set(vb)
	same = true
	for i := range va.NumField() {
		switch fa, fb := ca.Elem().Field(i), cb.Elem().Field(i); fa.Type() {
		case typeMetaType:
		case objectMetaType:
			ma, mb := fa.Addr().Interface().(*metav1.ObjectMeta), fb.Addr().Interface().(*metav1.ObjectMeta)
			fields := [][2]reflect.Value{}
			for _, name := range []string{"Labels", "Annotations", "OwnerReferences", "Finalizers"} {
				fields = append(fields, [2]reflect.Value{reflect.ValueOf(ma).Elem().FieldByName(name), reflect.ValueOf(mb).Elem().FieldByName(name)})
			}
			for _, f := range fields {
				if reflect.DeepEqual(f[0].Interface(), f[1].Interface()) {
					f[0].SetZero()
					f[1].SetZero()
				}
			}
			x, y := *ma, *mb
			x.ManagedFields, y.ManagedFields = nil, nil
			same = same && reflect.DeepEqual(x, y)
		default:
			if reflect.DeepEqual(fa.Interface(), fb.Interface()) {
				fa.SetZero()
				fb.SetZero()
			} else {
				same = false
			}
		}
	}
	return ca.Interface().(runtime.Object), cb.Interface().(runtime.Object), same
}

var (
	typeMetaType   = reflect.TypeFor[metav1.TypeMeta]()
	objectMetaType = reflect.TypeFor[metav1.ObjectMeta]()
)

// Apply merges an applied configuration into live and returns the new object, which is the caller's. live is not
// changed. Conflicts with other managers are a 409 with one cause each, unless force is set.
func (m *Manager) Apply(live runtime.Object, applied *unstructured.Unstructured, manager string, force bool) (runtime.Object, error) {
	full, err := m.manager()
	if err != nil {
		return nil, err
	}
	live = live.DeepCopyObject()
	live.GetObjectKind().SetGroupVersionKind(m.kind.GroupVersionKind)
	return full.Apply(live, applied, manager, force)
}

// converter moves between the versions that the merge meets. Of most kinds that are built in only one is known here: managed fields recorded
// through another version are reported as unknown, which the merge answers by leaving them out.
type converter struct{ kind *kinds.Kind }

// New implements runtime.ObjectCreater. What it makes knows its type, which the merge asks for.
func (c converter) New(gvk schema.GroupVersionKind) (runtime.Object, error) {
	if c.kind.Custom && gvk.GroupKind() == c.kind.GroupVersionKind.GroupKind() {
		u := &unstructured.Unstructured{}
		u.SetGroupVersionKind(gvk)
		return u, nil
	}
	if gvk != c.kind.GroupVersionKind {
		return nil, runtime.NewNotRegisteredErrForKind("wherry", gvk)
	}
	obj := c.kind.New()
	obj.GetObjectKind().SetGroupVersionKind(gvk)
	return obj, nil
}

// Convert implements runtime.ObjectConvertor; nothing calls it.
func (c converter) Convert(in, out, context any) error {
	return fmt.Errorf("convert %T to %T: not supported", in, out)
}

// ConvertToVersion returns in as the kind's own version; an Unstructured becomes the typed object.
func (c converter) ConvertToVersion(in runtime.Object, gv runtime.GroupVersioner) (runtime.Object, error) {
	if c.kind.Convert != nil {
		have := in.GetObjectKind().GroupVersionKind()
		target, ok := gv.KindForGroupVersionKinds([]schema.GroupVersionKind{have})
		if !ok {
			return nil, runtime.NewNotRegisteredErrForTarget("wherry", nil, gv)
		}
		if target == have && (c.kind.Custom || !isFree(in)) {
			return in, nil
		}
		return c.kind.Convert(in, target.GroupVersion())
	}
	target, ok := gv.KindForGroupVersionKinds([]schema.GroupVersionKind{c.kind.GroupVersionKind})
	if !ok || target != c.kind.GroupVersionKind {
		return nil, runtime.NewNotRegisteredErrForTarget("wherry", nil, gv)
	}
	u, ok := in.(*unstructured.Unstructured)
	if !ok {
		return in, nil
	}
	if got := u.GroupVersionKind(); got != c.kind.GroupVersionKind {
		return nil, runtime.NewNotRegisteredErrForKind("wherry", got)
	}
	out := c.kind.New()
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, out); err != nil {
		return nil, fmt.Errorf("unable to convert unstructured object to %s: %w", c.kind.GroupVersionKind, err) // upstream's words, which the client sees
	}
	out.GetObjectKind().SetGroupVersionKind(c.kind.GroupVersionKind)
	return out, nil
}

func isFree(obj runtime.Object) bool {
	_, free := obj.(*unstructured.Unstructured)
	return free
}

// ConvertFieldLabel implements runtime.ObjectConvertor; nothing calls it.
func (c converter) ConvertFieldLabel(_ schema.GroupVersionKind, label, value string) (string, string, error) {
	return label, value, nil
}

// Default implements runtime.ObjectDefaulter for merged objects.
func (c converter) Default(obj runtime.Object) {
	if c.kind.Default != nil {
		c.kind.Default(obj)
	}
}

// KeepTimes puts back the times of old's managed fields if nothing else in obj differs from old: a write that comes to nothing is none.
func KeepTimes(obj, old runtime.Object) {
	om, err := meta.Accessor(obj)
	if err != nil {
		return
	}
	wm, err := meta.Accessor(old)
	if err != nil {
		return
	}
	is, was := om.GetManagedFields(), wm.GetManagedFields()
	if len(is) != len(was) || len(is) == 0 {
		return
	}
	moved := false
	for i := range is {
		a, b := is[i], was[i]
		moved = moved || !a.Time.Equal(b.Time)
		a.Time, b.Time = nil, nil
		if !sameEntry(a, b) {
			return
		}
	}
	if !moved {
		return
	}
	om.SetManagedFields(was)
	if !equal(obj, old) {
		om.SetManagedFields(is)
	}
}

// equal is semantic equality of two objects of one type, found out from the back: what is written most is the status, and it comes last.
func equal(a, b runtime.Object) bool {
	va, vb := reflect.ValueOf(a).Elem(), reflect.ValueOf(b).Elem()
	if va.Kind() != reflect.Struct || va.Type() != vb.Type() {
		return apiequality.Semantic.DeepEqual(a, b)
	}
	for i := va.NumField() - 1; i >= 0; i-- {
		if !apiequality.Semantic.DeepEqual(va.Field(i).Interface(), vb.Field(i).Interface()) {
			return false
		}
	}
	return true
}

// Dedup removes repeated owner references, and returns the UIDs in them.
func Dedup(obj runtime.Object) (twice []string) {
	a, err := meta.Accessor(obj)
	if err != nil {
		return nil
	}
	refs := a.GetOwnerReferences()
	if len(refs) < 2 {
		return nil
	}
	kept := refs[:0:0]
	for _, r := range refs {
		if slices.ContainsFunc(kept, func(k metav1.OwnerReference) bool { return reflect.DeepEqual(k, r) }) {
			twice = append(twice, string(r.UID))
		} else {
			kept = append(kept, r)
		}
	}
	if len(twice) > 0 {
		a.SetOwnerReferences(kept)
	}
	return twice
}
