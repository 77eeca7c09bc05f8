package apiserver

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"runtime/debug"
	"strings"
	"time"

	"github.com/google/uuid"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	apirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/warning"

	"wherry.dev/wherry/apiserver/audit"
	"wherry.dev/wherry/apiserver/verbs"
	"wherry.dev/wherry/apiserver/wire"
)

// serve is the path that every request takes, over a connection or in process. identity is set when the caller is
// known already: in process.
func (s *Server) serve(rw http.ResponseWriter, hr *http.Request, identity user.Info) {
	w := &response{ResponseWriter: rw}
	r := &verbs.Request{HTTP: hr, Writer: w, Marks: verbs.Marks{Received: time.Now()}}
	o := observation{server: s, w: w, r: r, id: auditID(hr)}

	// Whatever happens, the request is counted, audited, and answered.
	defer func() {
		if p := recover(); p != nil {
			o.panicked(p)
		}
		o.finish()
	}()
	h := w.Header()
	h["Audit-Id"] = []string{o.id}
	h["Cache-Control"] = []string{"no-cache, private"}

	// What is it about?
	var err error
	if r.Info, err = requestInfo(hr, r.Query); err != nil {
		wire.WriteError(w, hr, apierrors.NewBadRequest(err.Error()))
		return
	}

	// C2: who is it, and for whom do they act?
	if identity == nil {
		if identity, err = s.authenticate(hr); err != nil {
			if s.config.Audit != nil {
				var ctx context.Context
				if ctx, w.audit = s.config.Audit.Refused(hr.Context(), hr, o.id, r.Marks.Received, attributes(r)); w.audit != nil {
					hr = hr.WithContext(ctx)
				}
			}
			wire.WriteError(w, hr, err)
			return
		}
	}
	r.User = identity
	ctx := apirequest.WithUser(apirequest.WithRequestInfo(hr.Context(), r.Info), r.User)
	long := longRunning(r.Info, r.Query)
	if s.config.Audit != nil {
		if ctx, w.audit, err = s.config.Audit.Begin(ctx, hr, o.id, r.Marks.Received, attributes(r), long); err != nil {
			wire.WriteError(w, hr, apierrors.NewInternalError(err))
			return
		}
		hr = hr.WithContext(ctx)
		r.HTTP = hr
	}
	if impersonates(hr.Header) {
		var constraint string
		if r.User, constraint, err = s.impersonate(ctx, hr.Header, identity, attributes(r)); err != nil {
			wire.WriteError(w, hr, err)
			return
		}
		if r.User != identity {
			w.audit.Impersonated(r.User, constraint)
			ctx = apirequest.WithUser(ctx, r.User)
		}
	}
	r.Marks.Authenticated = time.Now()

	// Is there room, and how long may it take?
	if holdsSeats(r, long) {
		ticket, err := s.admitted(ctx, w, r)
		if err != nil {
			wire.WriteError(w, hr, err)
			return
		}
		defer ticket.Leave()
		if long {
			w.begun = ticket.Leave // a watch that runs takes no room
		}
	}
	if !long {
		var cancel context.CancelFunc
		if ctx, cancel, err = s.bound(ctx, w, r); err != nil {
			wire.WriteError(w, hr, err)
			return
		}
		defer cancel()
	} else {
		var cancel context.CancelFunc
		ctx, cancel = untilShutdown(ctx)
		defer cancel()
	}
	o.started(long)

	// C3: may they?
	attrs := attributes(r)
	decision, reason, err := s.ask(ctx, attrs)
	w.audit.Authorized(decision, reason, err)
	if err = verdict(attrs, decision, reason, err); err != nil {
		wire.WriteError(w, hr, err)
		return
	}
	r.Marks.Authorized = time.Now()
	r.Authorize = func(ctx context.Context, verb string) error {
		other := *attrs
		other.Verb = verb
		return s.authorize(ctx, &other)
	}
	ctx = warning.WithWarningRecorder(ctx, r)
	r.HTTP = hr.WithContext(ctx)

	// Where does it go?
	if !r.Info.IsResourceRequest {
		if h := s.elsewhere(r.Info); h != nil {
			h.ServeHTTP(w, r.HTTP)
			return
		}
	}
	if !r.Info.IsResourceRequest || s.known(r.Info) == nil && s.raw.mounted(hr.URL.Path) != nil {
		s.raw.ServeHTTP(w, r.HTTP)
		return
	}
	if h := s.elsewhere(r.Info); h != nil {
		h.ServeHTTP(w, r.HTTP)
		return
	}
	served, act, err := s.route(r)
	if served != nil && len(served.Notices) > 0 {
		s.deprecated(w, r, served)
	}
	if err != nil {
		o.unknown = served == nil
		if apierrors.IsNotFound(err) && served == nil {
			if !s.ownGroup(r.Info.APIGroup) {
				notFound(w)
				return
			}
			err = apierrors.NewGenericServerResponse(http.StatusNotFound, "", schema.GroupResource{}, "", "", 0, false) // which does not say what
		}
		wire.WriteError(w, r.HTTP, err)
		return
	}
	ctx = apirequest.WithNamespace(ctx, r.Info.Namespace)
	negotiate := wire.Negotiate
	if served.Kind.Custom && !act.stream && (r.Sub == nil || r.Sub.Kind.Empty()) {
		negotiate = wire.NegotiateCustom
	}
	can := wire.TablesToo
	if served.Kind.Row == nil {
		can = wire.Metadata
	}
	if r.Accept, err = negotiate(hr, can, r.Info.Verb == "watch"); err != nil && !act.stream {
		wire.WriteError(w, r.HTTP, err)
		return
	}

	// C4, C5 and their like: decode, default, admit, validate, store are the verb's; encode is ours.
	answer, err := act.do(ctx, served, r)
	if err != nil {
		wire.WriteError(w, r.HTTP, served.Named(timedOut(ctx, err)))
		return
	}
	if err := s.encode(w, r, served, answer); err != nil {
		wire.WriteError(w, r.HTTP, err)
	}
}

// action is what one verb does to one resource or subresource.
type action struct {
	do     func(context.Context, *verbs.Served, *verbs.Request) (verbs.Answer, error)
	stream bool // it writes its answer itself, in an encoding of its own
}

// route finds the resource and what to do to it. A nil resource with a NotFound error means an unknown path.
func (s *Server) route(r *verbs.Request) (*verbs.Served, action, error) {
	i := r.Info
	served := s.known(i)
	if served == nil {
		return nil, action{}, apierrors.NewNotFound(schema.GroupResource{}, "")
	}
	verb := i.Verb
	if i.Namespace != "" && !served.Kind.Namespaced && i.Resource != "namespaces" { // no such path
		return nil, action{}, apierrors.NewNotFound(schema.GroupResource{}, "")
	}
	if served.Kind.GroupVersionKind.Kind == "Namespace" && served.Kind.GroupVersionKind.Group == "" {
		i.Namespace = "" // the request info names it for authorization; it is stored at the cluster's scope
	}
	if served.Kind.Custom && served.Kind.Namespaced && i.Namespace == "" && verb != "list" && verb != "watch" { // no such path, to upstream
		return nil, action{}, apierrors.NewNotFound(schema.GroupResource{}, "")
	}
	if i.Subresource != "" {
		if sub, ok := served.Kind.Subresources[i.Subresource]; ok && len(i.Parts) == 3 {
			r.Sub = sub
			if !has(sub.Verbs, verb) {
				return served, action{}, methodNotAllowed()
			}
			return served, resourceVerbs[verb], nil
		}
		act, ok := s.subresources.Find(served.Kind.GroupVersionResource().GroupResource(), i.Subresource)
		if !ok && served.Kind.Custom {
			return served, action{}, apierrors.NewNotFound(served.Kind.GroupVersionResource().GroupResource(), i.Name)
		}
		if !ok || len(i.Parts) > 3 && !act.Paths {
			return nil, action{}, apierrors.NewNotFound(schema.GroupResource{}, "")
		}
		do, ok := act.Method(r.HTTP.Method)
		if !ok {
			return served, action{}, methodNotAllowed()
		}
		return served, action{do: do, stream: act.Stream}, nil
	}
	if len(i.Parts) > 2 {
		return nil, action{}, apierrors.NewNotFound(schema.GroupResource{}, "")
	}
	act, ok := resourceVerbs[verb]
	switch {
	case !ok || !has(served.Kind.Verbs, verb) && !has(served.Kind.HiddenVerbs, verb):
		return served, action{}, methodNotAllowed()
	case verb == "create" && i.Name != "", verb != "create" && i.Name == "" && (verb == "update" || verb == "patch"):
		return served, action{}, methodNotAllowed()
	case verb == "create" && served.Kind.Namespaced && i.Namespace == "":
		return served, action{}, methodNotAllowed()
	}
	if act2, ok := s.subresources.Create(served.Kind.GroupVersionResource().GroupResource()); ok && verb == "create" {
		return served, action{do: act2}, nil
	}
	return served, act, nil
}

// resourceVerbs is the story's C4 and C5 for each verb.
var resourceVerbs = map[string]action{
	"get":              {do: verbs.Get},
	"list":             {do: verbs.List},
	"watch":            {do: verbs.Watch},
	"create":           {do: verbs.Create},
	"update":           {do: verbs.Update},
	"patch":            {do: verbs.Patch},
	"delete":           {do: verbs.Delete},
	"deletecollection": {do: verbs.DeleteCollection},
}

// encode answers with what the verb found, unless the verb has answered.
func (s *Server) encode(w http.ResponseWriter, r *verbs.Request, served *verbs.Served, a verbs.Answer) error {
	if a.List != nil && !audit.WantsAnswer(r.HTTP.Context()) && served.Type.WriteStoredList(w, r.HTTP, a.Code, r.Accept, a.List) {
		return nil
	}
	b, err := s.encoded(r, served, a)
	if b == nil || err != nil {
		return err
	}
	s.recordAnswer(r, served, a, b)
	wire.WriteBytes(w, r.HTTP, a.Code, r.Accept.Format.MediaType(), b)
	return nil
}

// encoded is what the verb found, as the client wants to see it. Nil: the verb has answered itself.
func (s *Server) encoded(r *verbs.Request, served *verbs.Served, a verbs.Answer) (b []byte, err error) {
	t, accept := served.Type, r.Accept
	switch {
	case a.Stored != nil && accept.Rendering == wire.AsObject:
		b, err = t.EncodeStored(accept, a.Stored)
	case a.List != nil && accept.Rendering == wire.AsObject:
		b, err = t.EncodeStoredList(accept, a.List)
	case a.List != nil && accept.Rendering == wire.AsTable:
		objects := make([]runtime.Object, len(a.List.Items))
		for i, o := range a.List.Items {
			if objects[i], err = t.Served(o); err != nil {
				return nil, err
			}
		}
		b, err = s.table(r, served, objects, wire.ListMeta(a.List))
	case a.List != nil:
		l, perr := t.PartialList(accept, a.List)
		if perr != nil {
			return nil, perr
		}
		b, err = wire.Encode(accept, accept.Meta.WithKind("PartialObjectMetadataList"), l)
	case a.Items != nil:
		b, err = s.computed(r, served, a.Items)
	case a.Stored != nil:
		obj, serr := t.Served(a.Stored)
		if serr != nil {
			return nil, serr
		}
		b, err = s.rendered(r, served, obj)
	case a.Object != nil && (accept.Rendering == wire.AsObject || a.GVK.Kind == "Status"):
		b, err = wire.Encode(accept, a.GVK, a.Object)
	case a.Object != nil:
		b, err = s.rendered(r, served, a.Object)
	}
	return b, err
}

// rendered is one object as a table or as its metadata.
func (s *Server) rendered(r *verbs.Request, served *verbs.Served, obj runtime.Object) ([]byte, error) {
	if r.Accept.Rendering == wire.AsTable {
		lm := metav1.ListMeta{}
		if m, ok := obj.(metav1.Object); ok {
			lm.ResourceVersion = m.GetResourceVersion()
		}
		return s.table(r, served, []runtime.Object{obj}, lm)
	}
	p, err := wire.Partial(r.Accept, obj)
	if err != nil {
		return nil, err
	}
	return wire.Encode(r.Accept, r.Accept.Meta.WithKind("PartialObjectMetadata"), p)
}

func (s *Server) table(r *verbs.Request, served *verbs.Served, objects []runtime.Object, lm metav1.ListMeta) ([]byte, error) {
	o, err := wire.TableOptions(r.Query())
	if err != nil {
		return nil, err
	}
	kind := served.Type
	if r.Sub != nil && r.Sub.Read != nil {
		kind = s.scales
	}
	t, err := kind.Table(r.Accept, objects, lm, o, true, time.Now())
	if err != nil {
		return nil, err
	}
	return wire.Encode(r.Accept, r.Accept.Meta.WithKind("Table"), t)
}

// deprecated tells the client, the metrics and the audit that somebody uses what will not be there for ever.
func (s *Server) deprecated(w *response, r *verbs.Request, served *verbs.Served) {
	for _, text := range served.Notices {
		r.Warn(text)
	}
	s.metrics.outdated.WithLabelValues(r.Info.APIGroup, r.Info.APIVersion, r.Info.Resource, r.Info.Subresource, served.Removed).Set(1)
	w.audit.Deprecated(served.Removed)
}

// authenticate asks who sends hr; nobody we know is a 401.
func (s *Server) authenticate(hr *http.Request) (user.Info, error) {
	if s.config.Authenticator == nil {
		return &user.DefaultInfo{Name: user.Anonymous, Groups: []string{user.AllUnauthenticated}}, nil
	}
	began := time.Now()
	answer, ok, err := s.config.Authenticator.AuthenticateRequest(hr)
	s.metrics.access.authentication(began, ok, err)
	if err != nil || !ok {
		if err != nil {
			s.log.Debug("authentication failed", "path", hr.URL.Path, "remote", hr.RemoteAddr, "error", err)
		}
		return nil, apierrors.NewUnauthorized("Unauthorized")
	}
	hr.Header.Del("Authorization") // it has done its work, and nothing behind may see it
	return answer.User, nil
}

// authorize asks whether the user may; a no is a 403 with the reason.
func (s *Server) authorize(ctx context.Context, a authorizer.Attributes) error {
	decision, reason, err := s.ask(ctx, a)
	return verdict(a, decision, reason, err)
}

// ask is one question to the authorizer.
func (s *Server) ask(ctx context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	began := time.Now()
	decision, reason, err := s.config.Authorizer.Authorize(ctx, a)
	s.metrics.access.authorization(began, decision, err)
	return decision, reason, err
}

// verdict makes an error of what the authorizer said, unless it was yes.
func verdict(a authorizer.Attributes, decision authorizer.Decision, reason string, err error) error {
	if decision == authorizer.DecisionAllow {
		return nil
	}
	if err != nil {
		return apierrors.NewInternalError(fmt.Errorf("authorize: %w", err))
	}
	return wire.Forbidden(a, reason)
}

// attributes describes the request to the authorizer.
func attributes(r *verbs.Request) *authorizer.AttributesRecord {
	i := r.Info
	a := &authorizer.AttributesRecord{User: r.User, Verb: i.Verb, Path: i.Path, ResourceRequest: i.IsResourceRequest}
	if !i.IsResourceRequest {
		return a
	}
	a.Namespace, a.APIGroup, a.APIVersion = i.Namespace, i.APIGroup, i.APIVersion
	a.Resource, a.Subresource, a.Name = i.Resource, i.Subresource, i.Name
	selectors(a, i.FieldSelector, i.LabelSelector)
	return a
}

// bound limits how long a request may take and how long its body may take to arrive.
func (s *Server) bound(ctx context.Context, w http.ResponseWriter, r *verbs.Request) (context.Context, context.CancelFunc, error) {
	limit := s.config.RequestTimeout
	if strings.Contains(r.HTTP.URL.RawQuery, "timeout=") {
		if v := r.Query().Get("timeout"); v != "" {
			d, err := time.ParseDuration(v)
			if err != nil {
				return nil, nil, apierrors.NewBadRequest(fmt.Sprintf("invalid timeout specified in the request URL - time: invalid duration %q", v))
			}
			if d > 0 && d < limit {
				limit = d
			}
		}
	}
	if r.HTTP.ContentLength != 0 && r.HTTP.Body != nil && r.HTTP.Body != http.NoBody {
		// Writers that are not connections cannot do it and need not.
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(limit))
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	return ctx, cancel, nil
}

// longRunning requests have no time limit and do not count as in flight.
func longRunning(i *apirequest.RequestInfo, query func() url.Values) bool {
	switch {
	case i.Verb == "watch" || i.Verb == "proxy":
		return true
	case !i.IsResourceRequest:
		return strings.HasPrefix(i.Path, "/debug/pprof/") || truthyQuery(query, "follow")
	}
	switch i.Subresource {
	case "exec", "attach", "portforward", "proxy":
		return true
	case "log":
		return truthyQuery(query, "follow")
	}
	return false
}

func truthyQuery(query func() url.Values, name string) bool {
	v := query().Get(name)
	return v != "" && truthy(v)
}

// timedOut says that the request ran out of time when that is why it failed.
func timedOut(ctx context.Context, err error) error {
	if ctx.Err() == context.DeadlineExceeded {
		var status apierrors.APIStatus
		if !asStatus(err, &status) {
			return apierrors.NewTimeoutError("request did not complete within the allotted timeout", 0)
		}
	}
	return err
}

func methodNotAllowed() error {
	return apierrors.NewGenericServerResponse(http.StatusMethodNotAllowed, "", schema.GroupResource{}, "", "", 0, false)
}

func notFound(w http.ResponseWriter) { http.Error(w, "404 page not found", http.StatusNotFound) }

func has(list []string, s string) bool {
	for _, v := range list {
		if v == s {
			return true
		}
	}
	return false
}

// auditID names the request in logs: the client's own name for it or a new one.
func auditID(hr *http.Request) string {
	if id := hr.Header.Get("Audit-Id"); id != "" && len(id) <= 64 {
		return id
	}
	return uuid.NewString()
}

// panicked answers 500 for a handler that panicked, unless it had begun to answer.
func (o *observation) panicked(p any) {
	o.w.audit.Panicked(p)
	if p == http.ErrAbortHandler {
		o.aborted = true
		return
	}
	o.server.metrics.panics.Inc()
	o.server.log.Error("request handler panicked", "panic", p, "path", o.r.HTTP.URL.Path, "audit-id", o.id, "stack", string(debug.Stack()))
	if !o.w.wrote {
		wire.WriteError(o.w, o.r.HTTP, apierrors.NewInternalError(fmt.Errorf("apiserver panic'd on %v %v", o.r.HTTP.Method, o.r.HTTP.URL.Path)))
		return
	}
	o.aborted = true
}
