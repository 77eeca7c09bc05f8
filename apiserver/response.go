package apiserver

import (
	"bufio"
	"net"
	"net/http"
	"time"

	"k8s.io/apiserver/pkg/authentication/user"

	"wherry.dev/wherry/apiserver/verbs"
)

// response remembers how a request was answered.
type response struct {
	http.ResponseWriter
	code  int
	wrote bool
	bytes int
}

func (w *response) WriteHeader(code int) {
	if !w.wrote && code >= http.StatusOK || code == http.StatusSwitchingProtocols {
		w.code, w.wrote = code, true
	}
	w.ResponseWriter.WriteHeader(code)
}

func (w *response) Write(b []byte) (int, error) {
	if !w.wrote {
		w.code, w.wrote = http.StatusOK, true
	}
	n, err := w.ResponseWriter.Write(b)
	w.bytes += n
	return n, err
}

// Flush implements http.Flusher for proxies that look for it.
func (w *response) Flush() { _ = http.NewResponseController(w.ResponseWriter).Flush() }

// Hijack implements http.Hijacker for upgraded connections.
func (w *response) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err == nil && !w.wrote {
		w.code, w.wrote = http.StatusSwitchingProtocols, true
	}
	return c, rw, err
}

// Unwrap lets http.ResponseController reach the connection.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// observation follows one request for metrics and audit.
type observation struct {
	server  *Server
	w       *response
	r       *verbs.Request
	id      string
	real    user.Info // who they are, whomever they act as
	unknown bool      // no such resource: not worth a metric of its own
	aborted bool
	done    func()
}

// started counts the request among those being served.
func (o *observation) started(long bool) { o.done = o.server.metrics.start(o.r.Info, long) }

// finish counts and audits the request; a broken answer aborts the connection.
func (o *observation) finish() {
	if o.done != nil {
		o.done()
	}
	took := time.Since(o.r.Marks.Received)
	o.server.metrics.finish(o, took)
	if audit := o.server.config.Audit; audit != nil && o.r.Info != nil {
		i := o.r.Info
		e := AuditEvent{ID: o.id, Received: o.r.Marks.Received, Took: took, User: o.real, Verb: i.Verb, Path: i.Path, UserAgent: o.r.HTTP.UserAgent(), Source: o.r.HTTP.RemoteAddr,
			Namespace: i.Namespace, Group: i.APIGroup, Resource: i.Resource, Subresource: i.Subresource, Name: i.Name, Code: o.w.code}
		if o.r.User != o.real {
			e.Impersonated = o.r.User
		}
		audit(e)
	}
	if o.aborted {
		panic(http.ErrAbortHandler)
	}
}
