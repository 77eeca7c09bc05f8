// Package verbs is what can be done to a resource, one verb a file, each readable from top to bottom: decode,
// default, admit, validate, admit, store. A verb answers with an object, a page or an error and leaves the encoding
// to its caller, the request path; only watch writes by itself, because it does not end.
package verbs

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/user"
	apirequest "k8s.io/apiserver/pkg/endpoints/request"

	"wherry.dev/wherry/api/kinds"
	"wherry.dev/wherry/apiserver/managed"
	"wherry.dev/wherry/apiserver/wire"
	"wherry.dev/wherry/store"
	"wherry.dev/wherry/trace"
)

// Served is one served resource: what it is, where it is stored, and what guards its writes. Immutable after start.
type Served struct {
	Kind    *kinds.Kind
	Type    *wire.Type
	Store   store.Resource // nil for kinds that are never stored
	Managed map[string]*managed.Manager
	Decoder *wire.Decoder
	Admit   *Admission
	Claims  Claims // nil for kinds that claim nothing
	Trace   trace.Recorder
	// Answer computes the answer of a kind that is never stored (reviews).
	Answer func(ctx context.Context, u user.Info, obj runtime.Object) (runtime.Object, error)
	// Compute finds the objects of a kind that is computed: the one of this name if there is one, or all of them, by name, when name is empty.
	Compute func(ctx context.Context, name string) []runtime.Object
	// WatchTimeout is the shortest time after which the server ends a watch that names no timeout; the actual one
	// is random up to twice that, so that clients do not come back all at once.
	WatchTimeout time.Duration
	Watched      WatchMetrics
	// Notices are Warning headers of every answer about this kind, because it is deprecated; Removed is the release which will not have it any more, if known.
	Notices []string
	Removed string
	// Life ends when the kind is served in another shape, and with it the watches of this one. Nil: never.
	Life context.Context
}

// Claims hands out what objects of a kind take from shared ranges: a Service's addresses and node ports.
type Claims interface {
	// Claim completes obj, which replaces old (nil on create), with what it asks for, and returns how to give it
	// back when the write fails, never nil without an error. It comes after the kind has prepared obj and before that
	// is validated. Errors are API Statuses. A dry run claims nothing lasting.
	Claim(ctx context.Context, obj, old runtime.Object, dryRun bool) (undo func(), err error)
	// Settle gives back what old had and obj (nil when it is gone) has no longer. Called after the write succeeded.
	Settle(obj, old runtime.Object)
}

// WatchMetrics counts what watches send.
type WatchMetrics interface {
	Events(n int, bytes int)
}

// Request is one API request on its way. Not safe for concurrent use.
type Request struct {
	HTTP   *http.Request
	Writer http.ResponseWriter
	Info   *apirequest.RequestInfo
	User   user.Info
	Accept wire.Accept
	// Authorize asks whether this user may also do verb to the object at hand; the error is a 403 Status.
	Authorize func(ctx context.Context, verb string) error
	// Sub is the subresource's rules when one is addressed, else nil.
	Sub *kinds.Subresource
	// Marks are the moments at which the stages of this request ended.
	Marks Marks

	query  url.Values
	warned warnings
}

// Marks are the moments between the stages of a request.
type Marks struct {
	Received, Authenticated, Authorized, Decoded, Admitted, Stored time.Time
}

// Query returns the parsed query; the caller must not change it.
func (r *Request) Query() url.Values {
	if r.query == nil {
		if r.HTTP.URL.RawQuery == "" {
			r.query = noQuery
		} else {
			r.query = r.HTTP.URL.Query()
		}
	}
	return r.query
}

var noQuery = url.Values{} // never written to

// Answer is what a verb has to say. Exactly one of Stored, Object and List is set, or none when the verb has written
// the answer itself.
type Answer struct {
	Code   int
	Stored *store.Object // of the resource's own kind
	Object runtime.Object
	GVK    schema.GroupVersionKind // of Object
	List   *store.ListResult
	Items  []runtime.Object // of the resource's own kind, computed; not nil for an answer to list
}

// manager names who writes, for managed fields: the parameter, or the program's name from the User-Agent.
func manager(param string, r *http.Request) string {
	if param != "" {
		return param
	}
	ua := r.UserAgent()
	for i, c := range ua {
		if i >= 128 {
			return ua[:i]
		}
		if c == '/' || !(c > 0x20 && c != 0x7f) {
			return ua[:i]
		}
	}
	return ua
}

// resource names what is addressed, for errors.
func (s *Served) resource() schema.GroupResource {
	return schema.GroupResource{Group: s.Kind.GroupVersionKind.Group, Resource: s.Kind.Plural}
}

// invalid is the 422 about an object. It names the kind by which upstream validates: events are the older group's, whoever asks.
func (s *Served) invalid(name string, errs field.ErrorList) error {
	kind := s.Kind.GroupVersionKind.GroupKind()
	if s.Kind.Hub != nil && !s.Kind.Custom {
		kind = s.Kind.Hub.HubIsKind.GroupKind()
	}
	return apierrors.NewInvalid(kind, name, errs)
}

// Named says of an error by which group the object is served, where that is not the one it is stored under.
func (s *Served) Named(err error) error {
	hub := s.Kind.Hub
	if hub == nil || hub.HubIsKind.Group == s.Kind.GroupVersionKind.Group {
		return err
	}
	is, ok := errors.AsType[*apierrors.StatusError](err)
	if !ok || is.ErrStatus.Details == nil || is.ErrStatus.Details.Kind != s.Kind.Plural || is.ErrStatus.Details.Group != hub.HubIsKind.Group {
		return err
	}
	stored := schema.GroupResource{Group: hub.HubIsKind.Group, Resource: s.Kind.Plural}
	out := &apierrors.StatusError{ErrStatus: *is.ErrStatus.DeepCopy()}
	out.ErrStatus.Details.Group = s.Kind.GroupVersionKind.Group
	out.ErrStatus.Message = strings.Replace(out.ErrStatus.Message, stored.String()+" ", s.resource().String()+" ", 1)
	return out
}

func isDryRun(v []string) bool { return len(v) > 0 }

// now is the current time as objects hold it: whole seconds.
func now() metav1.Time { return metav1.Time{Time: time.Now().Truncate(time.Second)} }
