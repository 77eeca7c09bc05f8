package managed

import (
	"bytes"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	smd "sigs.k8s.io/structured-merge-diff/v6/schema"
	"sigs.k8s.io/structured-merge-diff/v6/typed"
	"sigs.k8s.io/structured-merge-diff/v6/value"
)

// The usual update: a built-in object whose owners are all known through this version. The general machinery checks both
// objects against the schema, decodes and encodes the fields of every owner, and tells owners apart by JSON. Here only
// the difference of the objects is worked out, and only owners whom it concerns are touched; whatever is out of the
// ordinary is left to the general way.

// maxUpdaters is how many entries of the operation Update an object may have before the oldest are joined (upstream's bound).
const maxUpdaters = 10

// owners keeps what the fast way of one Manager needs. Safe for concurrent use.
type owners struct {
	once   sync.Once
	schema *smd.Schema // set by once; nil when the kind has no merge schema
	ref    smd.TypeRef // set by once
	reset  fieldpath.Filter
	sets   decodedSets
}

// never are the fields that nobody owns, whoever writes them.
var never = fieldpath.NewSet(
	fieldpath.MakePathOrDie("apiVersion"),
	fieldpath.MakePathOrDie("kind"),
	fieldpath.MakePathOrDie("metadata"),
	fieldpath.MakePathOrDie("metadata", "name"),
	fieldpath.MakePathOrDie("metadata", "namespace"),
	fieldpath.MakePathOrDie("metadata", "creationTimestamp"),
	fieldpath.MakePathOrDie("metadata", "selfLink"),
	fieldpath.MakePathOrDie("metadata", "uid"),
	fieldpath.MakePathOrDie("metadata", "clusterName"),
	fieldpath.MakePathOrDie("metadata", "generation"),
	fieldpath.MakePathOrDie("metadata", "managedFields"),
	fieldpath.MakePathOrDie("metadata", "resourceVersion"),
)

// reown returns who owns what after manager changed live to obj. entries are live's, and are not changed; what it returns
// may share their fields. ok is false when the general way has to do it.
func (m *Manager) reown(live, obj runtime.Object, entries []metav1.ManagedFieldsEntry, manager string) (_ []metav1.ManagedFieldsEntry, ok bool) {
	o := &m.owners
	o.once.Do(func() { m.prepareOwners() })
	version := m.kind.GroupVersionKind.GroupVersion().String()
	if o.schema == nil || !usual(entries, version) {
		return nil, false
	}
	from, err := value.NewValueReflect(live)
	if err != nil {
		return nil, false
	}
	to, err := value.NewValueReflect(obj)
	if err != nil {
		return nil, false
	}
	// Unvalidated: types of Go keep the schema by themselves, and a list with a wrong key fails the comparison.
	before := typed.AsTypedUnvalidated(from, o.schema, o.ref)
	diff, err := before.Compare(typed.AsTypedUnvalidated(to, o.schema, o.ref))
	if err != nil {
		return nil, false
	}
	diff = diff.FilterFields(o.reset)
	set := diff.Modified.Union(diff.Added)
	gone := set.Union(diff.Removed) // what nobody but manager owns from now on
	taken := set.Difference(never)

	next := make([]metav1.ManagedFieldsEntry, 0, len(entries)+1)
	mine := -1
	for _, e := range entries {
		own := e.Manager == manager && e.Operation == metav1.ManagedFieldsOperationUpdate && e.Subresource == m.subresource
		had, err := o.sets.get(e.FieldsV1, before)
		if err != nil {
			return nil, false
		}
		has := had
		if !had.Intersection(gone).Empty() {
			has = had.Difference(gone)
		}
		if own && !taken.Empty() {
			has = has.Union(taken)
			mine = len(next)
		}
		if has.Empty() {
			continue
		}
		if has != had && !has.Equals(had) {
			if e.FieldsV1, err = encode(has); err != nil {
				return nil, false
			}
		}
		next = append(next, e)
	}
	if !taken.Empty() {
		if mine < 0 {
			fields, err := encode(taken)
			if err != nil {
				return nil, false
			}
			mine = len(next)
			next = append(next, metav1.ManagedFieldsEntry{Manager: manager, Operation: metav1.ManagedFieldsOperationUpdate, APIVersion: version,
				FieldsType: "FieldsV1", FieldsV1: fields, Subresource: m.subresource})
		}
		next[mine].Time = &metav1.Time{Time: time.Now().UTC().Truncate(time.Second)}
	}
	if tooMany(next) {
		return nil, false
	}
	slices.SortFunc(next, compareEntries)
	return next, true
}

// prepareOwners finds the kind's type in the merge schema. m.owners.once calls it.
func (m *Manager) prepareOwners() {
	types, err := m.types.get()
	if err != nil {
		return
	}
	whole, err := types.ObjectToTyped(m.empty(), typed.AllowDuplicates)
	if err != nil {
		return
	}
	m.owners.schema, m.owners.ref = whole.Schema(), whole.TypeRef()
	m.owners.reset = fieldpath.NewExcludeSetFilter(m.resetFields())
}

// usual says whether the entries are all of the form that this server writes, and no two of one owner.
func usual(entries []metav1.ManagedFieldsEntry, version string) bool {
	for i, e := range entries {
		if e.APIVersion != version || e.FieldsType != "FieldsV1" || e.FieldsV1 == nil || e.Operation != metav1.ManagedFieldsOperationUpdate && e.Operation != metav1.ManagedFieldsOperationApply {
			return false
		}
		for _, other := range entries[:i] {
			if other.Manager == e.Manager && other.Operation == e.Operation && other.Subresource == e.Subresource {
				return false
			}
		}
	}
	return len(entries) > 0
}

func tooMany(entries []metav1.ManagedFieldsEntry) bool {
	n := 0
	for _, e := range entries {
		if e.Operation == metav1.ManagedFieldsOperationUpdate {
			n++
		}
	}
	return n > maxUpdaters
}

// compareEntries orders entries as they are stored: by operation, second, manager, version and subresource.
func compareEntries(a, b metav1.ManagedFieldsEntry) int {
	if c := strings.Compare(string(a.Operation), string(b.Operation)); c != 0 {
		return c
	}
	if c := seconds(a) - seconds(b); c != 0 {
		return int(min(1, max(-1, c)))
	}
	for _, c := range [...]int{strings.Compare(a.Manager, b.Manager), strings.Compare(a.APIVersion, b.APIVersion)} {
		if c != 0 {
			return c
		}
	}
	return strings.Compare(a.Subresource, b.Subresource)
}

func seconds(e metav1.ManagedFieldsEntry) int64 {
	if e.Time == nil {
		return 0
	}
	return e.Time.Unix()
}

// maxSets and maxSetSize (bytes, encoded) bound the memory of decodedSets.
const (
	maxSets    = 128
	maxSetSize = 4 << 10
)

// decodedSets remembers recent field sets by their encoded form: the pods of one template, or the heartbeats of one node, have few
// between them. Sets are immutable. Safe for concurrent use.
type decodedSets struct {
	mu   sync.RWMutex
	sets map[string]*fieldpath.Set // guarded by mu
}

// get decodes fields, and brings them up to the schema: a list or map may have become one value, or many, since they were written.
func (d *decodedSets) get(fields *metav1.FieldsV1, live *typed.TypedValue) (*fieldpath.Set, error) {
	raw := fields.GetRawBytes()
	d.mu.RLock()
	set := d.sets[string(raw)]
	d.mu.RUnlock()
	if set != nil {
		return set, nil
	}
	set = &fieldpath.Set{}
	if err := set.FromJSON(bytes.NewReader(raw)); err != nil {
		return nil, err
	}
	reconciled, err := typed.ReconcileFieldSetWithSchema(set, live)
	if err != nil {
		return nil, err
	}
	if reconciled != nil { // seldom, and it depends on the object
		return reconciled, nil
	}
	d.put(string(raw), set)
	return set, nil
}

// encode writes a set as it is stored: the reverse of decodedSets.get.
func encode(set *fieldpath.Set) (*metav1.FieldsV1, error) {
	raw, err := set.ToJSON()
	if err != nil {
		return nil, err
	}
	fields := &metav1.FieldsV1{}
	fields.SetRawBytes(raw)
	return fields, nil
}

func (d *decodedSets) put(raw string, set *fieldpath.Set) {
	if len(raw) > maxSetSize {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.sets == nil {
		d.sets = map[string]*fieldpath.Set{}
	}
	if len(d.sets) >= maxSets {
		for k := range d.sets { // any, as with shapes
			delete(d.sets, k)
			break
		}
	}
	d.sets[raw] = set
}

// ownersBefore returns the entries that an update starts from, nil when the general way has to find out. A subresource keeps
// live's; the object itself may be sent without any, or with the same.
func (m *Manager) ownersBefore(live, obj runtime.Object) []metav1.ManagedFieldsEntry {
	lm, err := meta.Accessor(live)
	if err != nil {
		return nil
	}
	om, err := meta.Accessor(obj)
	if err != nil {
		return nil
	}
	was := lm.GetManagedFields()
	if m.subresource != "" {
		return was
	}
	sent := om.GetManagedFields()
	if sent == nil {
		return was
	}
	if len(sent) != len(was) {
		return nil
	}
	for i := range sent {
		if !sameEntry(sent[i], was[i]) {
			return nil
		}
	}
	return was
}

// sameEntry says whether two entries say the same, with the same fields in both.
func sameEntry(a, b metav1.ManagedFieldsEntry) bool {
	if a.Manager != b.Manager || a.Operation != b.Operation || a.APIVersion != b.APIVersion || a.Subresource != b.Subresource || a.FieldsType != b.FieldsType || !a.Time.Equal(b.Time) {
		return false
	}
	return a.FieldsV1 != nil && b.FieldsV1 != nil && (a.FieldsV1 == b.FieldsV1 || a.FieldsV1.Equal(*b.FieldsV1))
}
