package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"wherry.dev/wherry/store/watchcache"
)

// Watch implements Resource. The combinations are those of upstream's table "resourceVersion semantics for watch", and of
// sendInitialEvents. A revision that is too old is not an error of Watch but its first event, as upstream sends it.
func (r *resource) Watch(ctx context.Context, o WatchOptions) (Watcher, error) {
	w, err := r.watch(ctx, o)
	if err != nil {
		return nil, failed(r.c.GroupResource, "watch", err)
	}
	return w, nil
}

func (r *resource) watch(ctx context.Context, o WatchOptions) (Watcher, error) {
	if err := r.started(ctx); err != nil {
		return nil, err
	}
	revision, err := parseRevision(o.ResourceVersion)
	if err != nil {
		return nil, err
	}
	c := watchcache.Options[Object]{Match: r.matcher(o.Selector), Bookmarks: o.AllowWatchBookmarks}
	if r.c.Namespaced {
		c.Namespace = o.Namespace
	}
	switch {
	case o.Name == "":
	case c.Namespace != "":
		c.Key, c.Namespace = c.Namespace+"/"+o.Name, ""
	case !r.c.Namespaced:
		c.Key = o.Name
	default: // one name in every namespace
		only, match := page{name: o.Name}, c.Match
		c.Match = func(o *Object) bool { return only.wants(o.Key, o) && (match == nil || match(o)) }
	}
	if o.Selector.Fields != nil && r.c.Index != nil {
		c.Index, _ = o.Selector.Fields.RequiresExactMatch(r.c.IndexField)
	}

	if o.SendInitialEvents != nil && o.ResourceVersionMatch != metav1.ResourceVersionMatchNotOlderThan {
		return nil, apierrors.NewBadRequest("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan")
	}
	if o.SendInitialEvents == nil && o.ResourceVersionMatch != "" {
		return nil, apierrors.NewBadRequest("resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided")
	}
	switch {
	case o.SendInitialEvents != nil && *o.SendInitialEvents:
		c.Start, c.InitialEnd = watchcache.StartWithState, o.AllowWatchBookmarks
		if o.ResourceVersion == "" {
			err = r.fresh(ctx)
		} else {
			err = r.reach(ctx, revision)
		}
	case revision > 0:
		c.Start, c.Revision = watchcache.StartAt, revision
	case o.SendInitialEvents != nil: // false: only what comes
		c.Start = watchcache.StartNow
		if o.ResourceVersion == "" {
			err = r.fresh(ctx)
		}
	default:
		c.Start = watchcache.StartWithState
		if o.ResourceVersion == "" {
			err = r.fresh(ctx)
		}
	}
	if err != nil {
		return nil, err
	}
	within := ""
	if r.c.Namespaced && o.Namespace != "" {
		within = o.Namespace + "/"
	}
	if err := r.broken.Load().within(within, c.Key); err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	w, err := r.cache.Watch(c)
	if errors.Is(err, watchcache.ErrExpired) {
		return &refused{expired(fmt.Sprintf("too old resource version: %d (%d)", revision, r.cache.Floor())), false}, nil
	}
	if err != nil {
		return nil, err
	}
	return &watcher{w: w, of: r}, nil
}

// expired is the 410 that makes a client list again.
func expired(message string) *metav1.Status {
	s := apierrors.NewResourceExpired(message).ErrStatus
	return &s
}

// watcher is a watchcache.Watcher in the contract's terms.
type watcher struct {
	w   *watchcache.Watcher[Object]
	of  *resource
	out []Event // reused
}

// Stop implements Watcher.
func (w *watcher) Stop() { w.w.Stop() }

// Next implements Watcher.
func (w *watcher) Next(ctx context.Context) ([]Event, error) {
	in, err := w.w.Next(ctx)
	clear(w.out)
	w.out = w.out[:0]
	if err != nil {
		return nil, err
	}
	for i := range in {
		e := &in[i]
		switch e.Kind {
		case watchcache.Added:
			w.out = append(w.out, Event{Type: watch.Added, Object: e.Object})
		case watchcache.Modified:
			w.out = append(w.out, Event{Type: watch.Modified, Object: e.Object})
		case watchcache.Deleted:
			w.out = append(w.out, Event{Type: watch.Deleted, Object: e.Object})
		case watchcache.Bookmark:
			w.out = append(w.out, Event{Type: watch.Bookmark, Object: &Object{Revision: e.Revision, Memo: &Memo{}}, InitialEventsEnd: e.InitialEnd})
		case watchcache.Failed:
			status := expired(e.Err.Error())
			if errors.Is(e.Err, watchcache.ErrClosed) {
				if w.of.s.ctx.Err() == nil { // the resource is no more; the store is
					if len(w.out) > 0 {
						return w.out, nil // the next call is told the end
					}
					return nil, io.EOF
				}
				s := apierrors.NewServiceUnavailable("the store is shutting down").ErrStatus
				status = &s
				status.Code = http.StatusServiceUnavailable
			}
			w.out = append(w.out, Event{Type: watch.Error, Err: status})
		}
	}
	return w.out, nil
}

// refused is a watch that ends with its first event.
type refused struct {
	status *metav1.Status
	over   bool
}

// Next implements Watcher.
func (r *refused) Next(context.Context) ([]Event, error) {
	if r.over {
		return nil, io.EOF
	}
	r.over = true
	return []Event{{Type: watch.Error, Err: r.status}}, nil
}

// Stop implements Watcher.
func (r *refused) Stop() {}
