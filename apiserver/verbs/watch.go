package verbs

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/streaming/pkg/httpstream/wsstream"

	"wherry.dev/wherry/apiserver/wire"
	"wherry.dev/wherry/store"
)

// flushAbove is the size of a batch of frames at which it is written even if more events are there.
const flushAbove = 64 << 10

// Watch streams changes until the client goes, the time is up or the watcher is cut off. Events that are there
// together are written together. The answer is written here; an error means that nothing was written yet.
func Watch(ctx context.Context, s *Served, r *Request) (Answer, error) {
	o, sel, name, err := s.listOptions(r)
	if err != nil {
		return Answer{}, err
	}
	var table metav1.TableOptions
	if r.Accept.Rendering == wire.AsTable {
		if table, err = wire.TableOptions(r.Query()); err != nil {
			return Answer{}, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout(o, rand.Float64))
	defer cancel()
	if s.Life != nil { // clients come back, and see the objects in their new shape
		stop := context.AfterFunc(s.Life, cancel)
		defer stop()
	}
	w, err := s.Store.Watch(ctx, store.WatchOptions{Namespace: r.Info.Namespace, Name: name, ResourceVersion: o.ResourceVersion, ResourceVersionMatch: o.ResourceVersionMatch,
		SendInitialEvents: o.SendInitialEvents, AllowWatchBookmarks: o.AllowWatchBookmarks, Selector: sel})
	if err != nil {
		return Answer{}, err
	}
	defer w.Stop()
	f := framer{s: s, r: r, table: table, headers: !table.NoHeaders}
	if wsstream.IsWebSocketRequest(r.HTTP) { // as browsers ask
		overWebSocket(ctx, &f, w)
		return Answer{}, nil
	}

	out := http.NewResponseController(r.Writer)
	h := r.Writer.Header()
	h.Set("Content-Type", wire.StreamMediaType(r.Accept.Format))
	h.Set("Transfer-Encoding", "chunked")
	r.Writer.WriteHeader(http.StatusOK)
	if err := out.Flush(); err != nil {
		return Answer{}, nil // the client is gone already
	}
	var buf []byte
	for {
		events, err := w.Next(ctx)
		if err != nil {
			// EOF, or the context: the stream ends, and the client starts the next one.
			if !errors.Is(err, io.EOF) && ctx.Err() == nil {
				if b := f.failed(buf[:0], err); len(b) > 0 {
					r.Writer.Write(b)
				}
			}
			return Answer{}, nil
		}
		buf = buf[:0]
		for i := range events {
			buf, err = f.append(buf, &events[i])
			if err != nil {
				buf = f.failed(buf, err)
			}
			if err != nil || len(buf) >= flushAbove || i == len(events)-1 {
				if _, werr := r.Writer.Write(buf); werr != nil || err != nil {
					return Answer{}, nil
				}
				if s.Watched != nil {
					s.Watched.Events(0, len(buf))
				}
				buf = buf[:0]
			}
		}
		if s.Watched != nil {
			s.Watched.Events(len(events), 0)
		}
		if err := out.Flush(); err != nil {
			return Answer{}, nil
		}
		if cap(buf) > 4*flushAbove { // one huge batch must not hold its memory for the life of the watch
			buf = nil
		}
	}
}

var statusKind = schema.GroupVersionKind{Version: "v1", Kind: "Status"}

// framer renders events as this client wants to see them.
type framer struct {
	s       *Served
	r       *Request
	table   metav1.TableOptions
	headers bool // still to be sent
}

func (f *framer) append(buf []byte, e *store.Event) ([]byte, error) {
	format := f.r.Accept.Format
	switch e.Type {
	case watch.Error:
		st := *e.Err
		st.Kind, st.APIVersion = "Status", "v1"
		return wire.AppendFrame(buf, format, watch.Error, statusKind, &st)
	case watch.Bookmark:
		obj := f.s.Kind.New()
		m, err := meta.Accessor(obj)
		if err != nil {
			return buf, err
		}
		m.SetResourceVersion(strconv.FormatInt(e.Object.Revision, 10))
		if e.InitialEventsEnd {
			m.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
		}
		return f.render(buf, watch.Bookmark, obj)
	}
	if f.r.Accept.Rendering == wire.AsObject {
		return f.s.Type.AppendEvent(buf, format, e.Type, e.Object)
	}
	obj, err := f.s.Type.Served(e.Object)
	if err != nil {
		return buf, err
	}
	return f.render(buf, e.Type, obj)
}

// failed appends the event that says why a watch ends; nothing where even that cannot be encoded.
func (f *framer) failed(buf []byte, why error) []byte {
	if b, err := wire.AppendFrame(buf, f.r.Accept.Format, watch.Error, statusKind, wire.StatusOf(why)); err == nil {
		return b
	}
	return buf
}

func (f *framer) render(buf []byte, typ watch.EventType, obj runtime.Object) ([]byte, error) {
	a := f.r.Accept
	switch a.Rendering {
	case wire.AsTable:
		m, err := accessor(obj)
		if err != nil {
			return buf, err
		}
		t, err := f.s.Type.Table(a, []runtime.Object{obj}, metav1.ListMeta{ResourceVersion: m.GetResourceVersion()}, f.table, f.headers, time.Now())
		if err != nil {
			return buf, err
		}
		f.headers = false
		return wire.AppendFrame(buf, a.Format, typ, a.Meta.WithKind("Table"), t)
	case wire.AsPartial, wire.AsPartialList:
		p, err := wire.Partial(a, obj)
		if err != nil {
			return buf, err
		}
		return wire.AppendFrame(buf, a.Format, typ, a.Meta.WithKind("PartialObjectMetadata"), p)
	}
	return wire.AppendFrame(buf, a.Format, typ, f.s.Kind.GroupVersionKind, obj)
}
