package apiserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"wherry.dev/wherry/api/kinds"
	"wherry.dev/wherry/apiserver/allocate"
	"wherry.dev/wherry/apiserver/flow"
	"wherry.dev/wherry/apiserver/managed"
	"wherry.dev/wherry/apiserver/subresources"
	"wherry.dev/wherry/apiserver/verbs"
	"wherry.dev/wherry/apiserver/wire"
	"wherry.dev/wherry/store"
)

// Server is the API server. It serves from New on in process, and over connections through Serve.
// Safe for concurrent use.
type Server struct {
	config       Config
	log          *slog.Logger
	now          atomic.Pointer[table]        // what is served
	changing     sync.Mutex                   // held by who makes the next table
	kindsChanged atomic.Pointer[func()]       // told when the server's own kinds are others
	unregistered atomic.Pointer[func() error] // says which APIServices of built-in groups are not there yet
	admit        *verbs.Admission
	decoder      *wire.Decoder
	subresources *subresources.Set
	raw          *raw
	flow         *flow.Controller
	metrics      *metrics
	types        *managed.Types
	claims       *allocate.Services // nil without Services
	masterLeases store.Resource     // nil where no other server serves the same objects
	scales       *wire.Type         // prints Scales
}

// New builds a server: every kind gets its stored side and its verbs. Nothing is listened to, and no goroutine runs, yet.
func New(c Config) (*Server, error) {
	c.defaults()
	s := &Server{config: c, log: c.Log, flow: newFlow(c.MaxInflight), metrics: newMetrics(c.Registry), types: &managed.Types{}, scales: wire.NewType(kinds.Scales()),
		admit: verbs.NewAdmission(c.Admission, c.AdmissionNames, c.Kinds, newAdmissionLatencies(c.Registry)), decoder: wire.NewDecoder()}
	if c.Registry != nil {
		c.Registry.MustRegister(s.flow)
	}
	t := &table{kinds: c.Kinds, served: map[schema.GroupVersionResource]*verbs.Served{}, storage: map[string]store.Resource{}, lives: map[schema.GroupVersionResource]*life{}}
	if err := s.serveKinds(t, c.Kinds); err != nil {
		return nil, err
	}
	s.finishTable(t)
	s.now.Store(t)
	if c.Registry != nil {
		c.Registry.MustRegister(storedMetrics{s})
	}
	claims, err := s.newClaims()
	if err != nil {
		return nil, err
	}
	if s.claims = claims; claims != nil {
		s.resource(corev1.SchemeGroupVersion.WithResource("services")).Claims = claims
	}
	if s.masterLeases, err = s.newMasterLeases(); err != nil {
		return nil, err
	}
	s.subresources = subresources.New(subresources.Config{Resource: s.resource, Issuer: c.Issuer, KubeletTLS: c.KubeletTLS, DialTimeout: 30 * time.Second})
	s.raw = newRaw(s)
	return s, nil
}

// Handler is the whole request path, for requests whose sender is still to be authenticated.
func (s *Server) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		roomyStack()
		s.serve(w, r, nil)
	})
}

// Handle serves a path and all below it by h, behind authentication and authorization as a path without a resource.
func (s *Server) Handle(prefix string, h http.Handler) { s.raw.handle(prefix, h) }

// The time a client has for each step of talking to us; what it does not use is not ours to wait for.
const (
	headerTimeout   = 32 * time.Second
	idleTimeout     = 3 * time.Minute
	shutdownTimeout = 5 * time.Second
)

// Serve answers connections from l over TLS, with HTTP/2 and HTTP/1.1, until ctx ends; then it lets running requests
// finish for a few seconds. It closes l.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	if s.config.TLS == nil {
		return errors.New("serve the API: no TLS configuration")
	}
	tc := s.config.TLS.Clone()
	if tc.ClientAuth == tls.NoClientCert {
		tc.ClientAuth = tls.RequestClientCert // the authenticator judges them
	}
	if tc.MinVersion == 0 {
		tc.MinVersion = tls.VersionTLS12
	}
	tc.NextProtos = []string{"h2", "http/1.1"}
	// Watches and streams end with ctx; other requests may finish after it.
	base, stop := context.WithCancel(context.WithValue(context.WithoutCancel(ctx), servingKey{}, ctx))
	defer stop()
	srv := &http.Server{Handler: s.Handler(), TLSConfig: tc, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: 1 << 20,
		BaseContext: func(net.Listener) context.Context { return base },
		ErrorLog:    slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		HTTP2: &http.HTTP2Config{MaxConcurrentStreams: 1000, MaxReadFrameSize: 1 << 20, MaxReceiveBufferPerConnection: 4 << 20, MaxReceiveBufferPerStream: 1 << 20,
			SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second, WriteByteTimeout: 30 * time.Second}}
	done := make(chan error, 1)
	go func() { done <- srv.ServeTLS(l, "", "") }()
	select {
	case err := <-done:
		return fmt.Errorf("serve the API on %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	s.raw.shuttingDown.Store(true)
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	if err := srv.Shutdown(limit); err != nil {
		stop()
		srv.Close()
	}
	<-done
	return nil
}

// servingKey finds, in a request's context, the context for as long as which its server serves.
type servingKey struct{}

// untilShutdown returns a context that ends with ctx or when the server that took the request begins to go.
func untilShutdown(ctx context.Context) (context.Context, context.CancelFunc) {
	serving, ok := ctx.Value(servingKey{}).(context.Context)
	if !ok {
		return ctx, func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(serving, cancel)
	return ctx, func() { stop(); cancel() }
}
