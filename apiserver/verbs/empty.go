package verbs

import (
	"context"
	"errors"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apirequest "k8s.io/apiserver/pkg/endpoints/request"

	"wherry.dev/wherry/api/kinds"
	"wherry.dev/wherry/apiserver/wire"
	"wherry.dev/wherry/store"
)

// Empty deletes every object of a kind whose definition goes, finalizers respected and admission not asked: nobody can keep a
// definition by keeping its objects. It returns how many are there still.
func Empty(ctx context.Context, k *kinds.Kind, stored store.Resource) (left int, err error) {
	s := &Served{Kind: k, Type: wire.NewType(k), Store: stored, Admit: NewAdmission(nil, nil, nil, nil)}
	all, err := stored.List(ctx, store.ListOptions{})
	if err != nil {
		return 0, err
	}
	var errs []error
	for _, o := range all.Items {
		m, err := accessor(o.Object)
		if err != nil {
			return 0, err
		}
		if m.GetDeletionTimestamp() != nil && len(m.GetFinalizers()) > 0 { // waits for others
			continue
		}
		r := &Request{HTTP: &http.Request{Header: http.Header{}}, Writer: silent{}, Info: &apirequest.RequestInfo{IsResourceRequest: true, Verb: "delete", APIGroup: k.GroupVersionKind.Group,
			APIVersion: k.GroupVersionKind.Version, Resource: k.Plural, Namespace: m.GetNamespace(), Name: m.GetName()}}
		if _, err := s.delete(ctx, r, m.GetName(), &metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, err)
		}
	}
	if all, err = stored.List(ctx, store.ListOptions{}); err != nil {
		return 0, errors.Join(append(errs, err)...)
	}
	return len(all.Items), errors.Join(errs...)
}
