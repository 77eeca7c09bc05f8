package verbs

import (
	"context"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"

	"wherry.dev/wherry/store"
)

// computedOne is Get of a kind that is found out when it is read.
func computedOne(ctx context.Context, s *Served, r *Request) (Answer, error) {
	if s.Compute != nil {
		if found := s.Compute(ctx, r.Info.Name); len(found) > 0 {
			return Answer{Code: http.StatusOK, Object: found[0], GVK: s.Kind.GroupVersionKind}, nil
		}
	}
	return Answer{}, apierrors.NewNotFound(s.resource(), r.Info.Name)
}

// computedAll is List of a kind that is found out when it is read: all of it, in one page.
func computedAll(ctx context.Context, s *Served, sel store.Selector) (Answer, error) {
	a := Answer{Code: http.StatusOK, Items: []runtime.Object{}}
	if s.Compute == nil {
		return a, nil
	}
	for _, obj := range s.Compute(ctx, "") {
		m, err := accessor(obj)
		if err != nil {
			return Answer{}, err
		}
		if sel.Labels != nil && !sel.Labels.Matches(labels.Set(m.GetLabels())) || sel.Fields != nil && !sel.Fields.Matches(fields.Set{"metadata.name": m.GetName(), "metadata.namespace": m.GetNamespace()}) {
			continue
		}
		a.Items = append(a.Items, obj)
	}
	return a, nil
}
