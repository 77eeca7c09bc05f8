package verbs

import (
	"context"
	"net/http"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/warning"

	"wherry.dev/wherry/store"
)

// deleteWorkers is how many deletions of one collection run side by side.
const deleteWorkers = 8

// DeleteCollection deletes all that a list with the same parameters would show, and answers with them.
func DeleteCollection(ctx context.Context, s *Served, r *Request) (Answer, error) {
	if s.Kind.Namespaced && r.Info.Namespace == "" {
		return Answer{}, apierrors.NewMethodNotSupported(s.resource(), "delete")
	}
	o, sel, name, err := s.listOptions(r)
	if err != nil {
		return Answer{}, err
	}
	options, err := s.deleteOptions(r)
	if err != nil {
		return Answer{}, err
	}
	page, err := s.Store.List(ctx, store.ListOptions{Namespace: r.Info.Namespace, Name: name, ResourceVersion: o.ResourceVersion,
		ResourceVersionMatch: o.ResourceVersionMatch, Limit: o.Limit, Continue: o.Continue, Selector: sel})
	if err != nil {
		return Answer{}, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	work := make(chan int)
	var wg sync.WaitGroup
	for range min(deleteWorkers, len(page.Items)) {
		wg.Go(func() {
			for i := range work {
				m, err := accessor(page.Items[i].Object)
				if err != nil {
					cancel(err)
					continue
				}
				own, info := *options, *r.Info
				info.Namespace, info.Name = m.GetNamespace(), m.GetName()
				// A request of its own: the answer's headers are not for several to write at once.
				each := &Request{HTTP: r.HTTP, Writer: silent{}, Info: &info, User: r.User, Authorize: r.Authorize, Marks: r.Marks}
				if _, err := s.delete(warning.WithWarningRecorder(ctx, each), each, info.Name, &own); err != nil && !apierrors.IsNotFound(err) {
					cancel(err)
				}
			}
		})
	}
feed:
	for i := range page.Items {
		select {
		case work <- i:
		case <-ctx.Done():
			break feed
		}
	}
	close(work)
	wg.Wait()
	if err := context.Cause(ctx); err != nil {
		return Answer{}, err
	}
	page.Continue, page.RemainingItemCount = "", nil
	return Answer{Code: http.StatusOK, List: page}, nil
}

// silent takes the headers of one deletion among many, which nobody reads.
type silent struct{}

func (silent) Header() http.Header         { return http.Header{} }
func (silent) Write(b []byte) (int, error) { return len(b), nil }
func (silent) WriteHeader(int)             {}
