package apiserver

import (
	"bufio"
	"net"
	"net/http"
	"time"

	"wherry.dev/wherry/apiserver/audit"
	"wherry.dev/wherry/apiserver/verbs"
)

// response remembers how a request was answered.
type response struct {
	http.ResponseWriter
	code  int
	wrote bool
	bytes int
	audit *audit.Record // nil when the request is not audited
	begun func()        // nil, or called when the answer begins
}

// begins notes the code of the answer, once.
func (w *response) begins(code int) {
	if !w.wrote {
		w.code, w.wrote = code, true
		w.audit.Answering(code)
		if w.begun != nil {
			w.begun()
		}
	}
}

func (w *response) WriteHeader(code int) {
	if code >= http.StatusOK || code == http.StatusSwitchingProtocols {
		w.begins(code)
	}
	w.ResponseWriter.WriteHeader(code)
}

func (w *response) Write(b []byte) (int, error) {
	w.begins(http.StatusOK)
	n, err := w.ResponseWriter.Write(b)
	w.bytes += n
	return n, err
}

// Flush implements http.Flusher for proxies that look for it.
func (w *response) Flush() { _ = http.NewResponseController(w.ResponseWriter).Flush() }

// Hijack implements http.Hijacker for upgraded connections.
func (w *response) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err == nil {
		w.begins(http.StatusSwitchingProtocols)
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
	unknown bool // no such resource: not worth a metric of its own
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
	o.w.audit.Complete()
	if o.aborted {
		panic(http.ErrAbortHandler)
	}
}
