// Package server answers on the kubelet's port (10250): logs, exec, attach and port-forward for the API server, and
// what the node and its pods are doing for those who watch over it. Every request is authenticated, by client
// certificate or bearer token, and authorized through the API server.
package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"wherry.dev/wherry/client"
	"wherry.dev/wherry/kubelet/cgroups"
)

// Config says where to listen, whom to believe and whom to ask.
type Config struct {
	NodeName string
	// Address to listen on; empty is ":10250". Listener, if not nil, is used in its place and closed by Run.
	Address  string
	Listener net.Listener
	// Certificate is the serving certificate, asked for at each handshake so that it may be renewed.
	Certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	// ClientCAs vouch for client certificates; nil accepts none.
	ClientCAs *x509.CertPool
	// Client reviews tokens and access, as the node.
	Client *client.Set

	Backend Backend
	// Groups reads usage for /stats/summary and the metrics; may be nil, then they know nothing of pods.
	Groups Groups
	// Root is the kubelet's directory, whose file system is reported as the node's.
	Root string
	// VarLog is the node's log directory (/var/log), served at /logs/; empty: not served.
	VarLog string
	// Configz is what /configz shows under "kubeletconfig"; may be nil.
	Configz any
	// Metrics are gathered for /metrics beside the server's own; may be nil.
	Metrics prometheus.Gatherer
	// Healthy fails /healthz; may be nil.
	Healthy func() error

	Log   *slog.Logger
	Ready func() // called once the server listens; may be nil
}

// Streams says which of a process's streams are wanted.
type Streams struct{ Stdin, Stdout, Stderr, TTY bool }

// Instance is a container that the runtime has, for statistics.
type Instance struct {
	PodUID    types.UID
	Namespace string
	Pod       string
	Name      string // the container's; empty for the pod's sandbox
	ID        string // without the runtime's name
	Image     string
	Started   time.Time
	Running   bool
}

// Backend is what the server needs of the kubelet. Safe for concurrent use; objects it returns are shared and not written.
type Backend interface {
	// Pods lists the node's pods with their newest statuses.
	Pods() []*corev1.Pod
	// Pod finds a pod by name; uid is empty for whichever bears the name. Nil if there is none.
	Pod(namespace, name string, uid types.UID) *corev1.Pod
	// Instances lists the containers the runtime has, from memory.
	Instances() []Instance
	// LogPath is the log file of a container, running or not; id is the runtime's.
	LogPath(ctx context.Context, id string) (string, error)
	// Ended returns a channel that is closed when the container has ended; closed already if it is not running.
	// What it needs to keep watching ends with ctx.
	Ended(ctx context.Context, id string) <-chan struct{}
	// Running is the ID of the pod's running container of that name; ok is false if it does not run.
	Running(pod types.UID, container string) (id string, ok bool)
	// Sandbox is the ID of the pod's ready sandbox.
	Sandbox(pod types.UID) (id string, ok bool)
	// Exec, Attach and PortForward return the URL of the runtime's streaming server.
	Exec(ctx context.Context, id string, cmd []string, s Streams) (string, error)
	Attach(ctx context.Context, id string, s Streams) (string, error)
	PortForward(ctx context.Context, sandboxID string, ports []int32) (string, error)
	// ExecSync runs a command and waits for it.
	ExecSync(ctx context.Context, id string, cmd []string, timeout time.Duration) (stdout, stderr []byte, exit int32, err error)
}

// Groups reads what pods and containers have used. *cgroups.Manager does.
type Groups interface {
	Pod(types.UID) (cgroups.Usage, error)
	Container(pod types.UID, id string) (cgroups.Usage, error)
	Kubepods() (cgroups.Usage, error)
	Process(types.UID) (int, error)
}

// Run serves until ctx ends; then it gives requests under way a moment and closes what is left. It returns when every
// handler has returned, streams included.
func Run(ctx context.Context, c Config) error {
	s, err := newServer(c)
	if err != nil {
		return err
	}
	l := c.Listener
	if l == nil {
		address := c.Address
		if address == "" {
			address = ":10250"
		}
		var lc net.ListenConfig
		if l, err = lc.Listen(ctx, "tcp", address); err != nil {
			return fmt.Errorf("kubelet server: %w", err)
		}
	}
	open := &tracked{Listener: l, conns: map[net.Conn]struct{}{}}
	base, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	var handlers sync.WaitGroup
	hs := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			handlers.Add(1)
			defer handlers.Done()
			s.ServeHTTP(w, r)
		}),
		TLSConfig: &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: c.Certificate,
			// Verified in authenticate, so that a bad certificate is told as 401 and not as a broken handshake.
			ClientAuth: tls.RequestClientCert, ClientCAs: c.ClientCAs, NextProtos: []string{"h2", "http/1.1"}},
		ReadHeaderTimeout: 30 * time.Second, IdleTimeout: 90 * time.Second, MaxHeaderBytes: 1 << 20,
		BaseContext: func(net.Listener) context.Context { return base },
		ErrorLog:    slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	if c.Ready != nil {
		c.Ready()
	}
	served := make(chan error, 1)
	go func() { served <- hs.ServeTLS(open, "", "") }()
	select {
	case err = <-served:
	case <-ctx.Done():
		cancel() // log followers and streams end by their context
		grace, stop := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		if hs.Shutdown(grace) != nil {
			_ = hs.Close()
		}
		stop()
		err = <-served
	}
	cancel()
	open.closeAll() // streams have taken their connections over from the HTTP server
	handlers.Wait()
	if err != nil && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("kubelet server: %w", err)
	}
	return nil
}

// tracked remembers the connections it has accepted until they are closed.
type tracked struct {
	net.Listener
	mu    sync.Mutex // guards conns
	conns map[net.Conn]struct{}
}

func (t *tracked) Accept() (net.Conn, error) {
	c, err := t.Listener.Accept()
	if err != nil {
		return nil, err
	}
	n := &trackedConn{Conn: c, of: t}
	t.mu.Lock()
	t.conns[n] = struct{}{}
	t.mu.Unlock()
	return n, nil
}

func (t *tracked) closeAll() {
	t.mu.Lock()
	var list []net.Conn
	for c := range t.conns {
		list = append(list, c)
	}
	t.mu.Unlock()
	for _, c := range list {
		_ = c.Close()
	}
}

type trackedConn struct {
	net.Conn
	of *tracked
}

func (c *trackedConn) Close() error {
	c.of.mu.Lock()
	delete(c.of.conns, c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}

type server struct {
	c       Config
	log     *slog.Logger
	auth    *auth
	mux     *http.ServeMux
	gather  prometheus.Gatherer
	rates   rates
	started time.Time
}

func newServer(c Config) (*server, error) {
	if c.Certificate == nil || c.Client == nil || c.Backend == nil {
		return nil, errors.New("kubelet server: Certificate, Client and Backend are required")
	}
	s := &server{c: c, log: c.Log, mux: http.NewServeMux(), started: time.Now()}
	s.gather = s.ownMetrics()
	if s.log == nil {
		s.log = slog.Default()
	}
	s.auth = newAuth(c.Client.Kubernetes, c.NodeName, c.ClientCAs)
	s.routes()
	return s, nil
}

// routes lists all there is to ask.
func (s *server) routes() {
	for pattern, h := range map[string]http.HandlerFunc{
		"GET /healthz":          s.healthz,
		"GET /healthz/ping":     s.healthz,
		"GET /healthz/syncloop": s.healthz,
		"GET /pods":             s.pods,
		"GET /pods/{$}":         s.pods,
		"GET /runningpods":      s.runningPods,
		"GET /runningpods/{$}":  s.runningPods,
		"GET /configz":          s.configz,
		"GET /stats/summary":    s.summary,
		"GET /metrics":          s.metrics,
		"GET /metrics/resource": s.resourceMetrics,
		"GET /metrics/cadvisor": s.containerMetrics,
		"GET /metrics/probes":   s.noMetrics,

		"GET /containerLogs/{namespace}/{pod}/{container}": s.containerLogs,

		"/exec/{namespace}/{pod}/{container}":           s.exec,
		"/exec/{namespace}/{pod}/{uid}/{container}":     s.exec,
		"/attach/{namespace}/{pod}/{container}":         s.attach,
		"/attach/{namespace}/{pod}/{uid}/{container}":   s.attach,
		"/portForward/{namespace}/{pod}":                s.portForward,
		"/portForward/{namespace}/{pod}/{uid}":          s.portForward,
		"POST /run/{namespace}/{pod}/{container}":       s.run,
		"POST /run/{namespace}/{pod}/{uid}/{container}": s.run,
	} {
		s.mux.HandleFunc(pattern, h)
	}
	if s.c.VarLog != "" {
		s.mux.Handle("GET /logs/", http.StripPrefix("/logs/", http.FileServerFS(newRoot(s.c.VarLog))))
	}
}

// ServeHTTP is the path of every request: who is it, may they, then the answer.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	user, err := s.auth.authenticate(r)
	if err != nil {
		s.log.Debug("request not authenticated", "path", r.URL.Path, "err", err)
		http.Error(w, "Unauthorized", http.StatusUnauthorized)
		return
	}
	ok, denied, err := s.auth.authorize(r.Context(), user, r)
	if err != nil {
		s.log.Warn("request could not be authorized", "user", user.Username, "path", r.URL.Path, "err", err)
		http.Error(w, fmt.Sprintf("Authorization error (user=%s, verb=%s, resource=nodes, subresource=%s)", user.Username, denied.verb, denied.list()), http.StatusInternalServerError)
		return
	}
	if !ok {
		http.Error(w, fmt.Sprintf("Forbidden (user=%s, verb=%s, resource=nodes, subresource(s)=[%s])", user.Username, denied.verb, denied.list()), http.StatusForbidden)
		return
	}
	s.mux.ServeHTTP(w, r)
}

// answer ends a request that cannot be served with a text for the user; the API server hands it on.
func answer(w http.ResponseWriter, code int, format string, args ...any) {
	http.Error(w, strings.TrimSuffix(fmt.Sprintf(format, args...), "\n"), code)
}
