package managed

import (
	"encoding/json"
	"fmt"
	"math/rand"
	"reflect"
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"wherry.dev/wherry/api/kinds"
)

// entriesOf is what the entries say, times left out, which also order them: two writes a moment apart may differ there.
func entriesOf(t testing.TB, obj runtime.Object) string {
	t.Helper()
	m, err := meta.Accessor(obj)
	if err != nil {
		t.Fatal(err)
	}
	entries := slices.Clone(m.GetManagedFields())
	if !slices.IsSortedFunc(entries, compareEntries) {
		t.Errorf("entries are not in order: %v", entries)
	}
	for i := range entries {
		entries[i].Time = nil
	}
	slices.SortFunc(entries, compareEntries)
	b, err := json.Marshal(entries)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// part returns a random field of a struct, some way down, that exists in both values.
func part(r *rand.Rand, a, b reflect.Value) (reflect.Value, reflect.Value) {
	for range 1 + r.Intn(4) {
		for a.Kind() == reflect.Pointer && !a.IsNil() && !b.IsNil() {
			a, b = a.Elem(), b.Elem()
		}
		if a.Kind() == reflect.Slice && a.Len() > 0 && b.Len() > 0 && a.Type().Elem().Kind() == reflect.Struct {
			a, b = a.Index(r.Intn(a.Len())), b.Index(r.Intn(b.Len()))
			continue
		}
		if a.Kind() != reflect.Struct || a.NumField() == 0 {
			break
		}
		i := r.Intn(a.NumField())
		if !a.Type().Field(i).IsExported() || a.Field(i).Type() == typeMetaType || a.Type().Field(i).Name == "ManagedFields" {
			break
		}
		a, b = a.Field(i), b.Field(i)
	}
	return a, b
}

// TestOwnersAgree walks random objects through updates by several managers, applies between, and compares who owns what
// after each with the general way.
func TestOwnersAgree(t *testing.T) {
	types := &Types{}
	for _, k := range []*kinds.Kind{kinds.Pods(), kinds.Nodes(), kinds.Services(), kinds.ConfigMaps(), kinds.Deployments(), kinds.EndpointSlices()} {
		t.Run(k.Plural, func(t *testing.T) {
			t.Parallel()
			subresources := []string{"", "status"}
			if k.Subresources["status"] == nil {
				subresources = subresources[:1]
			}
			fast, full := map[string]*Manager{}, map[string]*Manager{}
			for _, sub := range subresources {
				fast[sub], full[sub] = New(k, sub, types), New(k, sub, types)
			}
			quick, steps := 0, 0
			for seed := range int64(12) {
				r := rand.New(rand.NewSource(seed))
				random := func() runtime.Object {
					obj := k.New()
					filler(r.Int63()).Fill(obj)
					obj.GetObjectKind().SetGroupVersionKind(k.GroupVersionKind)
					return obj
				}
				live := full[""].update(full[""].empty(), random(), "creator")
				for step := range 16 {
					sub, manager := subresources[r.Intn(len(subresources))], fmt.Sprint("m", r.Intn(4))
					if seed%4 == 3 { // more managers than are kept
						manager = fmt.Sprint("m", step)
					}
					next := live.DeepCopyObject()
					if step%5 == 4 {
						applied := &unstructured.Unstructured{Object: map[string]any{"metadata": map[string]any{"name": "x", "labels": map[string]any{"l" + manager: fmt.Sprint(step)}}}}
						applied.SetGroupVersionKind(k.GroupVersionKind)
						after, err := full[""].Apply(live, applied, manager, true)
						if err != nil {
							t.Fatal(err)
						}
						if after != nil {
							live = after
						}
						continue
					}
					for range 1 + r.Intn(3) {
						a, b := part(r, reflect.ValueOf(next), reflect.ValueOf(random()))
						if a.CanSet() && a.Type() == b.Type() {
							a.Set(b)
						}
					}
					m, err := meta.Accessor(next)
					if err != nil {
						t.Fatal(err)
					}
					if r.Intn(3) == 0 {
						m.SetManagedFields(nil)
					}
					before := live.DeepCopyObject()
					want := full[sub].update(live.DeepCopyObject(), next.DeepCopyObject(), manager)
					if before := fast[sub].ownersBefore(live, next); len(before) > 0 {
						a, b, _ := differing(live, next)
						if _, ok := fast[sub].reown(a, b, before, manager); ok {
							quick++
						}
					}
					steps++
					got := fast[sub].Update(live, next, manager)
					if x, y := entriesOf(t, got), entriesOf(t, want); x != y {
						t.Fatalf("seed %d step %d, %q by %s:\n got %s\nwant %s", seed, step, sub, manager, x, y)
					}
					if !reflect.DeepEqual(before, live) {
						t.Fatal("the live object was changed")
					}
					live = want
				}
			}
			if quick < steps/3 {
				t.Errorf("only %d of %d updates were quick: the test shows little", quick, steps)
			}
		})
	}
}
