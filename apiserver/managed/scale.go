package managed

import (
	"fmt"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"wherry.dev/wherry/api/kinds"
)

// replicasPath is where every kind with the subresource scale keeps its number of replicas, and where a Scale has it.
var replicasPath = fieldpath.MakePathOrDie("spec", "replicas")

// ApplyScale merges an applied Scale into live, whose subresource is sub, and returns the new object, which is the caller's. live is not changed.
// Who owns the number of replicas in one owns it in the other. Conflicts are as with Apply.
func (m *Manager) ApplyScale(live runtime.Object, sub *kinds.Subresource, applied *unstructured.Unstructured, manager string, force bool) (runtime.Object, error) {
	lm, err := meta.Accessor(live)
	if err != nil {
		return nil, err
	}
	gv := m.kind.GroupVersionKind.GroupVersion()
	handler := managedfields.NewScaleHandler(lm.GetManagedFields(), gv, replicasPaths(gv, sub))
	read := sub.Read
	if sub.Base != nil {
		read = sub.Base
	}
	scale, err := read(live)
	if err != nil {
		return nil, err
	}
	sm, err := meta.Accessor(scale)
	if err != nil {
		return nil, err
	}
	entries, err := handler.ToSubresource()
	if err != nil {
		return nil, fmt.Errorf("find who owns the scale of %s: %w", lm.GetName(), err)
	}
	sm.SetManagedFields(entries)
	next, err := m.scales().Apply(scale, applied, manager, force)
	if err != nil || next == nil {
		return nil, err
	}
	obj, err := sub.Write(live, next)
	if err != nil {
		return nil, err
	}
	nm, err := meta.Accessor(next)
	if err != nil {
		return nil, err
	}
	if entries, err = handler.ToParent(nm.GetManagedFields()); err != nil {
		return nil, fmt.Errorf("find who owns the replicas of %s: %w", lm.GetName(), err)
	}
	om, err := meta.Accessor(obj)
	if err != nil {
		return nil, err
	}
	om.SetManagedFields(entries)
	return obj, nil
}

// replicasPaths is where each version keeps the number of replicas.
func replicasPaths(gv schema.GroupVersion, sub *kinds.Subresource) managedfields.ResourcePathMappings {
	if sub.ReplicasPaths == nil {
		return managedfields.ResourcePathMappings{gv.String(): replicasPath}
	}
	out := managedfields.ResourcePathMappings{}
	for version, steps := range sub.ReplicasPaths {
		var path fieldpath.Path
		for _, step := range steps {
			path = append(path, fieldpath.PathElement{FieldName: &step})
		}
		out[version] = path
	}
	return out
}

// scales returns the manager of Scales as such. They are not in the merge schema; what there is to merge can be read from the objects.
func (m *Manager) scales() *Manager {
	types := &Types{}
	types.once.Do(func() { types.converter = managedfields.NewDeducedTypeConverter() })
	return New(&kinds.Kind{GroupVersionKind: autoscalingv1.SchemeGroupVersion.WithKind("Scale"), New: func() runtime.Object { return new(autoscalingv1.Scale) }}, m.subresource, types)
}
