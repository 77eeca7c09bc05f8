// Package security attacks a whole server, wired as `wherry server --no-node` wires it, from outside: every route without the right
// credential, every way to more rights than one has, and everything it wrote down for the secrets it was told. It needs root, as the
// server does, and makes no packet but on loopback.
package security

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"wherry.dev/wherry/cluster"
	"wherry.dev/wherry/pki"
)

// target is a running server and what its owner holds.
type target struct {
	url   string
	keys  *pki.PKI
	token string // the first join token
	admin kubernetes.Interface
	log   *lockedBuffer // everything it logged, at debug level
}

// lockedBuffer is a log that can be read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer // guarded by mu
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// start runs a server until the test ends; change may adjust its settings.
func start(t *testing.T, change func(*cluster.Server)) *target {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("a server needs root")
	}
	run, err := os.MkdirTemp("/tmp", "ws") // sockets want short paths
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(run) })
	s := cluster.Server{Name: "security", NoNode: true, Network: cluster.DefaultNetwork, Port: freePort(t),
		Node: cluster.Node{Name: "security", IP: netip.MustParseAddr("127.0.0.2"), DataDir: filepath.Join(t.TempDir(), "data"), RunDir: run}}
	if change != nil {
		change(&s)
	}
	credentials, err := cluster.Prepare(s)
	if err != nil {
		t.Fatal(err)
	}
	w := &target{url: s.URL(), keys: credentials.PKI, token: credentials.JoinToken, log: &lockedBuffer{}}
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() {
		done <- cluster.RunServer(ctx, s, slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug})), func() { close(ready) })
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the server ended with %v", err)
		}
		if t.Failed() && !strings.HasPrefix(t.Name(), "TestNobody") { // whose refusals fill it
			t.Logf("the server's last words:\n%s", tail(w.log.String(), 4<<10))
		}
	})
	select {
	case <-ready:
	case err := <-done:
		done <- nil
		t.Fatalf("the server did not start: %v", err)
	}
	w.admin = w.client(t, func(c *rest.Config) { pair(w.keys.Pairs().Admin)(c) })
	return w
}

func tail(text string, n int) string { return text[max(0, len(text)-n):] }

// freePort is a port that nobody had a moment ago.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func (w *target) client(t *testing.T, change func(*rest.Config)) kubernetes.Interface {
	t.Helper()
	c := &rest.Config{Host: w.url, QPS: -1, TLSClientConfig: rest.TLSClientConfig{CAData: w.keys.Pairs().CA.CertPEM}}
	change(c)
	k, err := kubernetes.NewForConfig(c)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func bearer(token string) func(*rest.Config) { return func(c *rest.Config) { c.BearerToken = token } }

func pair(p *pki.Pair) func(*rest.Config) {
	return func(c *rest.Config) { c.CertData, c.KeyData = p.CertPEM, p.KeyPEM }
}

// account makes a service account without any right of its own.
func (w *target) account(t *testing.T, namespace, name string) {
	t.Helper()
	if _, err := w.admin.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	if _, err := w.admin.CoreV1().ServiceAccounts(namespace).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// issue asks for a token of a service account.
func (w *target) issue(t *testing.T, namespace, name string, spec authenticationv1.TokenRequestSpec) string {
	t.Helper()
	r, err := w.admin.CoreV1().ServiceAccounts(namespace).CreateToken(t.Context(), name, &authenticationv1.TokenRequest{Spec: spec}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return r.Status.Token
}

// credential is what a request shows.
type credential struct {
	name    string
	headers http.Header
	certs   []tls.Certificate
}

// caller sends requests with one credential over connections of its own.
type caller struct {
	*credential
	target *target
	http   *http.Client
}

func (w *target) caller(t *testing.T, c *credential) *caller {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(w.keys.Pairs().CA.Certificate)
	config := &tls.Config{RootCAs: pool}
	if len(c.certs) > 0 { // also one whose issuer the server has not asked for
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &c.certs[0], nil }
	}
	transport := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &caller{credential: c, target: w, http: &http.Client{Transport: transport, Timeout: 10 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

// send returns the answer's code and body.
func (c *caller) send(ctx context.Context, r route) (int, []byte, error) {
	var body io.Reader
	if r.body != "" {
		body = strings.NewReader(r.body)
	}
	req, err := http.NewRequestWithContext(ctx, r.method, c.target.url+r.path, body)
	if err != nil {
		return 0, nil, err
	}
	for k, v := range c.headers {
		req.Header[k] = v
	}
	if r.contentType != "" {
		req.Header.Set("Content-Type", r.contentType)
	}
	answer, err := c.http.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
	return answer.StatusCode, b, err
}

// status reads a refusal.
func status(b []byte) (s metav1.Status, err error) {
	if err := json.Unmarshal(b, &s); err != nil {
		return s, fmt.Errorf("not a Status: %q", b)
	}
	return s, nil
}
