package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

// ListWatch lets client-go's reflectors and informers of this process read the watch cache directly: what they hold are
// the cache's own objects. It is not authorized by anyone; whoever hands it out has decided that.
type ListWatch struct {
	resource Resource
	empty    func() runtime.Object
	fieldsOf func(runtime.Object) fields.Set
}

var _ cache.ListerWatcherWithContext = (*ListWatch)(nil)

// NewListWatch returns a ListWatch of r. empty makes an object of r's type, for bookmarks; fieldsOf is needed only for
// field selectors and may be nil.
func NewListWatch(r Resource, empty func() runtime.Object, fieldsOf func(runtime.Object) fields.Set) *ListWatch {
	return &ListWatch{r, empty, fieldsOf}
}

// selector parses the selectors of o; name is set when o selects one name.
func (l *ListWatch) selector(o metav1.ListOptions) (s Selector, name string, err error) {
	if s.Labels, err = labels.Parse(o.LabelSelector); err != nil {
		return s, "", apierrors.NewBadRequest(fmt.Sprintf("parse label selector: %v", err))
	}
	if s.Fields, err = fields.ParseSelector(o.FieldSelector); err != nil {
		return s, "", apierrors.NewBadRequest(fmt.Sprintf("parse field selector: %v", err))
	}
	s.FieldsOf = func(o *Object) fields.Set { return l.fieldsOf(o.Object) }
	if l.fieldsOf == nil {
		s.FieldsOf = func(o *Object) fields.Set {
			m, err := meta.Accessor(o.Object)
			if err != nil {
				return nil
			}
			return fields.Set{"metadata.name": m.GetName(), "metadata.namespace": m.GetNamespace()}
		}
	}
	name, _ = s.Fields.RequiresExactMatch("metadata.name")
	return s, name, nil
}

// ListWithContext returns an *internalversion.List of the cache's own objects.
func (l *ListWatch) ListWithContext(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
	s, name, err := l.selector(o)
	if err != nil {
		return nil, err
	}
	result, err := l.resource.List(ctx, ListOptions{Name: name, ResourceVersion: o.ResourceVersion,
		ResourceVersionMatch: o.ResourceVersionMatch, Limit: o.Limit, Continue: o.Continue, Selector: s})
	if err != nil {
		return nil, err
	}
	list := &internalversion.List{Items: make([]runtime.Object, len(result.Items))}
	list.ResourceVersion = strconv.FormatInt(result.ResourceVersion, 10)
	list.Continue, list.RemainingItemCount = result.Continue, result.RemainingItemCount
	for i, item := range result.Items {
		list.Items[i] = item.Object
	}
	return list, nil
}

// WatchWithContext delivers the cache's own objects until ctx ends or the result is stopped. timeoutSeconds is ignored:
// it is there to break connections, and here is none.
func (l *ListWatch) WatchWithContext(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	s, name, err := l.selector(o)
	if err != nil {
		return nil, err
	}
	w, err := l.resource.Watch(ctx, WatchOptions{Name: name, ResourceVersion: o.ResourceVersion, ResourceVersionMatch: o.ResourceVersionMatch,
		SendInitialEvents: o.SendInitialEvents, AllowWatchBookmarks: o.AllowWatchBookmarks, Selector: s})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	c := &channel{w: w, cancel: cancel, events: make(chan watch.Event, 64), empty: l.empty}
	c.work.Go(func() { c.run(ctx) })
	return c, nil
}

// List implements cache.Lister.
func (l *ListWatch) List(o metav1.ListOptions) (runtime.Object, error) {
	return l.ListWithContext(context.Background(), o)
}

// Watch implements cache.Watcher.
func (l *ListWatch) Watch(o metav1.ListOptions) (watch.Interface, error) {
	return l.WatchWithContext(context.Background(), o)
}

// channel is a Watcher as client-go wants it. Its goroutine ends with Stop, which waits for it, or with the watch's context.
type channel struct {
	w      Watcher
	cancel context.CancelFunc
	events chan watch.Event
	empty  func() runtime.Object
	work   sync.WaitGroup
}

// Stop implements watch.Interface.
func (c *channel) Stop() {
	c.cancel()
	c.w.Stop()
	c.work.Wait()
}

// ResultChan implements watch.Interface.
func (c *channel) ResultChan() <-chan watch.Event { return c.events }

func (c *channel) run(ctx context.Context) {
	defer close(c.events)
	defer c.w.Stop()
	for {
		events, err := c.w.Next(ctx)
		if err != nil {
			if !errors.Is(err, io.EOF) && ctx.Err() == nil {
				status := apierrors.NewInternalError(err).ErrStatus
				c.send(ctx, watch.Event{Type: watch.Error, Object: &status})
			}
			return
		}
		for i := range events {
			if !c.send(ctx, c.event(&events[i])) {
				return
			}
		}
	}
}

func (c *channel) send(ctx context.Context, e watch.Event) bool {
	select {
	case c.events <- e:
		return true
	case <-ctx.Done():
		return false
	}
}

func (c *channel) event(e *Event) watch.Event {
	switch e.Type {
	case watch.Error:
		return watch.Event{Type: e.Type, Object: e.Err}
	case watch.Bookmark:
		mark := c.empty()
		setRevision(mark, e.Object.Revision)
		if m, err := meta.Accessor(mark); err == nil && e.InitialEventsEnd {
			m.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
		}
		return watch.Event{Type: e.Type, Object: mark}
	}
	return watch.Event{Type: e.Type, Object: e.Object.Object}
}
