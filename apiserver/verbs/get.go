package verbs

import (
	"context"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Get answers with one object, from the watch cache: the very object that everyone else reads.
func Get(ctx context.Context, s *Served, r *Request) (Answer, error) {
	version := ""
	if r.HTTP.URL.RawQuery != "" {
		q, o := r.Query(), metav1.GetOptions{}
		if err := metav1.Convert_url_Values_To_v1_GetOptions(&q, &o, nil); err != nil {
			return Answer{}, apierrors.NewBadRequest(err.Error())
		}
		version = o.ResourceVersion
	}
	if s.Kind.Computed {
		return computedOne(ctx, s, r)
	}
	o, err := s.Store.Get(ctx, r.Info.Namespace, r.Info.Name, version)
	if err != nil {
		return Answer{}, err
	}
	if r.Sub != nil && r.Sub.Read != nil {
		parent, err := s.Type.Served(o)
		if err != nil {
			return Answer{}, err
		}
		sub, err := r.Sub.Read(parent)
		return Answer{Code: http.StatusOK, Object: sub, GVK: r.Sub.Kind}, err
	}
	return Answer{Code: http.StatusOK, Stored: o}, nil
}
