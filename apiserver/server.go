package apiserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apirequest "k8s.io/apiserver/pkg/endpoints/request"

	"wherry.dev/wherry/apiserver/allocate"
	"wherry.dev/wherry/apiserver/discovery"
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
	served       map[schema.GroupVersionResource]*verbs.Served
	storage      map[string]store.Resource // by StoragePrefix
	subresources *subresources.Set
	raw          *raw
	inflight     *inflight
	metrics      *metrics
	types        *managed.Types
	claims       *allocate.Services // nil without Services
}

// New builds a server: every kind gets its stored side and its verbs. Nothing is listened to, and no goroutine runs, yet.
func New(c Config) (*Server, error) {
	c.defaults()
	s := &Server{config: c, log: c.Log, served: map[schema.GroupVersionResource]*verbs.Served{}, storage: map[string]store.Resource{},
		inflight: newInflight(c.MaxInflight), metrics: newMetrics(c.Registry), types: &managed.Types{}}

	// Stored sides first: kinds that share a prefix share one.
	for _, k := range c.Kinds {
		if k.StoragePrefix == "" || k.Hub != nil || s.storage[k.StoragePrefix] != nil {
			continue
		}
		r, err := c.Storage(k)
		if err != nil {
			return nil, fmt.Errorf("open storage of %s: %w", k.GroupVersionResource(), err)
		}
		s.storage[k.StoragePrefix] = r
	}

	admit, decoder := verbs.NewAdmission(c.Admission), wire.NewDecoder()
	for _, k := range c.Kinds {
		gvr := k.GroupVersionResource()
		v := &verbs.Served{Kind: k, Type: wire.NewType(k), Store: s.storage[k.StoragePrefix], Managed: map[string]*managed.Manager{"": managed.New(k, "", s.types)},
			Decoder: decoder, Admit: admit, Trace: c.Trace, Answer: c.Answers[gvr], WatchTimeout: c.WatchTimeout,
			Watched: watched{s.metrics.events.WithLabelValues(gvr.Group, gvr.Version, gvr.Resource), s.metrics.eventSize.WithLabelValues(gvr.Group, gvr.Version, gvr.Resource)}}
		if k.StoragePrefix != "" && v.Store == nil {
			return nil, fmt.Errorf("kind %s is stored as %s under %q, which no kind stores", k.GroupVersionKind, k.Hub.HubIsKind, k.StoragePrefix)
		}
		for name := range k.Subresources {
			v.Managed[name] = managed.New(k, name, s.types)
		}
		for _, sub := range k.ConnectSubresources {
			v.Managed[sub.Name] = managed.New(k, sub.Name, s.types)
		}
		s.served[gvr] = v
	}
	claims, err := s.newClaims()
	if err != nil {
		return nil, err
	}
	if s.claims = claims; claims != nil {
		s.served[corev1.SchemeGroupVersion.WithResource("services")].Claims = claims
	}
	s.subresources = subresources.New(subresources.Config{Resource: s.resource, Issuer: c.Issuer, KubeletTLS: c.KubeletTLS, DialTimeout: 30 * time.Second})
	address := ""
	if c.Advertise.IsValid() {
		address = c.Advertise.String()
	}
	s.raw = newRaw(s, discovery.New(c.Kinds, address))
	return s, nil
}

func (s *Server) resource(gvr schema.GroupVersionResource) *verbs.Served { return s.served[gvr] }

// known returns the resource that a request is about, nil when there is no such thing.
func (s *Server) known(i *apirequest.RequestInfo) *verbs.Served {
	return s.served[schema.GroupVersionResource{Group: i.APIGroup, Version: i.APIVersion, Resource: i.Resource}]
}

// Storage returns the stored side of a resource, nil when it is not stored. It is for informers in this process.
func (s *Server) Storage(gvr schema.GroupVersionResource) store.Resource {
	if v := s.served[gvr]; v != nil && v.Kind.Hub == nil {
		return v.Store
	}
	return nil
}

// Handler is the whole request path, for requests whose sender is still to be authenticated.
func (s *Server) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.serve(w, r, nil) })
}

// Handle serves a path and all below it by h, behind authentication and authorization as a path without a resource.
func (s *Server) Handle(prefix string, h http.Handler) { s.raw.handle(prefix, h) }

// Ready says whether the server can answer: every watch cache has caught up.
func (s *Server) Ready(ctx context.Context) error {
	for prefix, r := range s.storage {
		select {
		case <-r.Ready():
		case <-ctx.Done():
			return fmt.Errorf("watch cache of %s has not caught up: %w", prefix, ctx.Err())
		}
	}
	return nil
}

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
