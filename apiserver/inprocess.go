package apiserver

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"sync"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"wherry.dev/wherry/api/scheme"
	"wherry.dev/wherry/client"
)

// inProcessAgent is the User-Agent of parts in this process that set none.
const inProcessAgent = "wherry"

// InProcess returns the API as u sees it, for parts of this process: the same authorization, admission, metrics and
// audit as for a request over a connection, without the connection. Exec and the like need a connection.
func (s *Server) InProcess(u user.Info) *client.Set {
	cfg := &rest.Config{Host: "https://in-process", Transport: &inProcess{s, u}, QPS: -1, UserAgent: inProcessAgent,
		WarningHandler: rest.NoWarnings{}, // what the program asks for of itself is not for users to mend
		ContentConfig: rest.ContentConfig{ContentType: runtime.ContentTypeProtobuf, AcceptContentTypes: runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON,
			NegotiatedSerializer: scheme.Codecs.WithoutConversion()}}
	cs := kubernetes.NewForConfigOrDie(cfg) // fails for malformed configurations only, and this one is written here
	// Informers hold the watch cache's own objects.
	return &client.Set{Kubernetes: cs, Config: cfg, Informers: client.InformerFactory(cs, s.listerWatcher)}
}

// inProcess is an http.RoundTripper that ends in the request path.
type inProcess struct {
	server *Server
	user   user.Info
}

// RoundTrip implements http.RoundTripper. A watch or a followed log is served by a goroutine that ends when the body
// is closed or the request's context ends; everything else is answered before RoundTrip returns.
func (p *inProcess) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	in := &http.Request{Method: req.Method, URL: req.URL, Proto: "HTTP/2.0", ProtoMajor: 2, Header: maps.Clone(req.Header), Body: req.Body, ContentLength: req.ContentLength,
		Host: req.Host, RequestURI: req.URL.RequestURI()}
	if in.Header == nil {
		in.Header = http.Header{}
	}
	if in.Body == nil {
		in.Body = http.NoBody
	}
	defer in.Body.Close()
	info, err := requestInfo(in, func() url.Values { return in.URL.Query() })
	if err != nil || !longRunning(info, func() url.Values { return in.URL.Query() }) {
		w := &memory{header: http.Header{}}
		if err := p.serve(w, in.WithContext(ctx)); err != nil {
			return nil, err
		}
		return w.response(req), nil
	}

	ctx, cancel := context.WithCancel(ctx)
	w := newStream(cancel)
	in = in.WithContext(ctx)
	body := in.Body
	in.Body = http.NoBody // what streams here has no body to send
	body.Close()
	go func() {
		defer cancel()
		err := p.serve(w, in)
		w.finish(err)
	}()
	select {
	case <-w.started:
	case <-ctx.Done():
		cancel()
		<-w.finished
		return nil, context.Cause(ctx)
	}
	return &http.Response{Status: http.StatusText(w.code), StatusCode: w.code, Proto: "HTTP/2.0", ProtoMajor: 2, Header: w.sent, Body: w, ContentLength: -1, Request: req}, nil
}

// serve answers one request; an aborted answer is an error, as it would be on a connection.
func (p *inProcess) serve(w http.ResponseWriter, r *http.Request) (err error) {
	defer func() {
		if v := recover(); v != nil {
			if v != http.ErrAbortHandler {
				panic(v)
			}
			err = fmt.Errorf("%s %s: %w", r.Method, r.URL.Path, http.ErrAbortHandler)
		}
	}()
	p.server.serve(w, r, p.user)
	return nil
}

// memory is an answer that is there as a whole.
type memory struct {
	header http.Header
	code   int
	body   []byte
}

func (m *memory) Header() http.Header { return m.header }

func (m *memory) WriteHeader(code int) {
	if m.code == 0 && code >= http.StatusOK {
		m.code = code
	}
}

func (m *memory) Write(b []byte) (int, error) {
	m.WriteHeader(http.StatusOK)
	if m.body == nil {
		m.body = b[:len(b):len(b)] // the usual answer is one write of a slice that is ours to read
		return len(b), nil
	}
	m.body = append(m.body, b...)
	return len(b), nil
}

func (m *memory) response(req *http.Request) *http.Response {
	if m.code == 0 {
		m.code = http.StatusOK
	}
	return &http.Response{Status: http.StatusText(m.code), StatusCode: m.code, Proto: "HTTP/2.0", ProtoMajor: 2, Header: m.header,
		Body: io.NopCloser(bytes.NewReader(m.body)), ContentLength: int64(len(m.body)), Request: req}
}

// streamBuffer bounds what a stream holds for a reader that is slow; then its writer waits.
const streamBuffer = 1 << 20

// stream is an answer that goes on: what one goroutine writes, another reads.
type stream struct {
	header http.Header // the writer's until started
	cancel context.CancelFunc

	started  chan struct{} // closed when code and sent are set
	code     int
	sent     http.Header
	finished chan struct{} // closed when the writer is done

	mu     sync.Mutex
	cond   *sync.Cond
	buf    []byte // guarded by mu; not yet read
	err    error  // guarded by mu; what the reader gets after buf
	closed bool   // guarded by mu; the reader is gone
}

func newStream(cancel context.CancelFunc) *stream {
	s := &stream{header: http.Header{}, cancel: cancel, started: make(chan struct{}), finished: make(chan struct{})}
	s.cond = sync.NewCond(&s.mu)
	return s
}

func (s *stream) Header() http.Header { return s.header }

func (s *stream) WriteHeader(code int) {
	if s.code == 0 && code >= http.StatusOK {
		s.code, s.sent = code, s.header.Clone()
		close(s.started)
	}
}

func (s *stream) Write(b []byte) (int, error) {
	s.WriteHeader(http.StatusOK)
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.buf) >= streamBuffer && !s.closed {
		s.cond.Wait()
	}
	if s.closed {
		return 0, io.ErrClosedPipe
	}
	s.buf = append(s.buf, b...)
	s.cond.Broadcast()
	return len(b), nil
}

// Flush implements http.Flusher: what is written can be read at once.
func (s *stream) Flush() { s.WriteHeader(http.StatusOK) }

// finish tells the reader that no more comes.
func (s *stream) finish(err error) {
	s.WriteHeader(http.StatusOK)
	if err == nil {
		err = io.EOF
	}
	s.mu.Lock()
	s.err = err
	s.cond.Broadcast()
	s.mu.Unlock()
	close(s.finished)
}

// Read implements io.Reader for the response's body.
func (s *stream) Read(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.buf) == 0 && s.err == nil && !s.closed {
		s.cond.Wait()
	}
	switch {
	case s.closed:
		return 0, io.ErrClosedPipe
	case len(s.buf) == 0:
		return 0, s.err
	}
	n := copy(b, s.buf)
	s.buf = s.buf[n:]
	if len(s.buf) == 0 {
		s.buf = nil
	}
	s.cond.Broadcast()
	return n, nil
}

// Close implements io.Closer: it ends the request and waits for its goroutine.
func (s *stream) Close() error {
	s.mu.Lock()
	s.closed = true
	s.cond.Broadcast()
	s.mu.Unlock()
	s.cancel()
	<-s.finished
	return nil
}
