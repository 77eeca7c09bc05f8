package apiserver

import (
	"context"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"wherry.dev/wherry/apiserver/verbs"
	"wherry.dev/wherry/apiserver/wire"
)

// Component is a part of the control plane as the kind ComponentStatus shows it.
type Component struct {
	Name string
	// Check asks how it is. An error says why nothing is known.
	Check func(ctx context.Context) (healthy corev1.ConditionStatus, message string, err error)
}

// componentStatuses asks the component of this name, or every one at once when name is empty.
func (s *Server) componentStatuses(ctx context.Context, name string) []runtime.Object {
	var asked []Component
	for _, c := range s.config.Components {
		if name == "" || name == c.Name {
			asked = append(asked, c)
		}
	}
	found := make([]runtime.Object, len(asked))
	var asking sync.WaitGroup
	for i, c := range asked {
		asking.Go(func() {
			condition := corev1.ComponentCondition{Type: corev1.ComponentHealthy}
			var err error
			if condition.Status, condition.Message, err = c.Check(ctx); err != nil {
				condition.Error = err.Error()
			}
			found[i] = &corev1.ComponentStatus{ObjectMeta: metav1.ObjectMeta{Name: c.Name}, Conditions: []corev1.ComponentCondition{condition}}
		})
	}
	asking.Wait()
	return found
}

// computed is a list of what is never stored, as the client wants to see it.
func (s *Server) computed(r *verbs.Request, served *verbs.Served, items []runtime.Object) ([]byte, error) {
	accept := r.Accept
	switch accept.Rendering {
	case wire.AsTable:
		return s.table(r, served, items, metav1.ListMeta{})
	case wire.AsPartial, wire.AsPartialList:
		out := &metav1.PartialObjectMetadataList{Items: make([]metav1.PartialObjectMetadata, 0, len(items))}
		for _, obj := range items {
			p, err := wire.Partial(accept, obj)
			if err != nil {
				return nil, err
			}
			out.Items = append(out.Items, *p)
		}
		return wire.Encode(accept, accept.Meta.WithKind("PartialObjectMetadataList"), out)
	}
	list := served.Kind.NewList()
	if err := meta.SetList(list, items); err != nil {
		return nil, err
	}
	kind := served.Kind.GroupVersionKind
	kind.Kind += "List"
	return wire.Encode(accept, kind, list)
}
