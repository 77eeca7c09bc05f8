package managed

import (
	"fmt"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
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
// Conflicts are as with Apply.
func (m *Manager) ApplyScale(live runtime.Object, sub *kinds.Subresource, applied *unstructured.Unstructured, manager string, force bool) (runtime.Object, error) {
	return m.throughScale(live, sub, func(scales *Manager, scale runtime.Object) (runtime.Object, error) {
		return scales.Apply(scale, applied, manager, force)
	})
}

// UpdateScale replaces the Scale of live, whose subresource is sub, by a new one, and returns the new object, which is the caller's. Neither argument is changed.
func (m *Manager) UpdateScale(live runtime.Object, sub *kinds.Subresource, scale runtime.Object, manager string) (runtime.Object, error) {
	return m.throughScale(live, sub, func(scales *Manager, was runtime.Object) (runtime.Object, error) {
		return scales.update(was, scale.DeepCopyObject(), manager), nil
	})
}

// throughScale lets change make a new Scale of live's, which knows those managers of live who own the number of replicas, and puts it into a copy of live. Who
// owns that number in one owns it in the other.
func (m *Manager) throughScale(live runtime.Object, sub *kinds.Subresource, change func(scales *Manager, scale runtime.Object) (runtime.Object, error)) (runtime.Object, error) {
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
	next, err := change(m.scales(), scale)
	if err != nil || next == nil {
		return nil, err
	}
	nm, err := meta.Accessor(next)
	if err != nil {
		return nil, err
	}
	if nm.GetName() != lm.GetName() {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s) does not match the name on the URL (%s)", nm.GetName(), lm.GetName()))
	}
	obj, err := sub.Write(live, next)
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

// scales returns the manager of Scales as such.
func (m *Manager) scales() *Manager {
	m.scaleOnce.Do(func() {
		types := m.types
		if m.kind.Custom { // the schema of a definition has none
			types = NewTypes(scaleAlone)
		}
		m.scale = New(&kinds.Kind{GroupVersionKind: autoscalingv1.SchemeGroupVersion.WithKind("Scale"), New: func() runtime.Object { return new(autoscalingv1.Scale) }}, m.subresource, types)
	})
	return m.scale
}
