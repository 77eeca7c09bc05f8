package node

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
)

// cluster is an API server of its own that knows CertificateSigningRequests only: it signs them for whoever shows the
// join token or a client certificate it has issued.
type cluster struct {
	t      *testing.T
	server *httptest.Server
	ca     *x509.Certificate
	key    *ecdsa.PrivateKey
	life   time.Duration

	mu       sync.Mutex
	requests map[string]*certificatesv1.CertificateSigningRequest
	askers   []string // who made each request
}

func newCluster(t *testing.T, life time.Duration) *cluster {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t, ca: ca, key: key, life: life, requests: map[string]*certificatesv1.CertificateSigningRequest{}}
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	c.server = httptest.NewUnstartedServer(c)
	c.server.TLS = &tls.Config{ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: pool}
	c.server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	c.server.StartTLS()
	t.Cleanup(c.server.Close)
	return c
}

func (c *cluster) config(token string) *rest.Config {
	return &rest.Config{Host: c.server.URL, BearerToken: token, TLSClientConfig: rest.TLSClientConfig{
		CAData: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.server.Certificate().Raw})}}
}

func (c *cluster) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	who := ""
	switch {
	case len(r.TLS.PeerCertificates) > 0:
		who = r.TLS.PeerCertificates[0].Subject.CommonName
	case r.Header.Get("Authorization") == "Bearer join":
		who = "join token"
	default:
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	name := strings.TrimPrefix(r.URL.Path, "/apis/certificates.k8s.io/v1/certificatesigningrequests")
	switch {
	case r.Method == http.MethodPost:
		body, err := io.ReadAll(r.Body)
		if err != nil {
			c.t.Error(err)
		}
		decoded, _, err := scheme.Codecs.UniversalDeserializer().Decode(body, nil, nil) // clients speak protobuf
		if err != nil {
			c.t.Errorf("request %q: %v", body, err)
			return
		}
		q := decoded.(*certificatesv1.CertificateSigningRequest)
		q.Name, q.UID, q.ResourceVersion = q.GenerateName+"x"+string(rune('a'+len(c.requests))), "u", "1"
		c.sign(q)
		c.requests[q.Name] = q
		c.askers = append(c.askers, who)
		w.WriteHeader(http.StatusCreated)
		_ = json.NewEncoder(w).Encode(q)
	case name == "" && r.URL.Query().Get("watch") == "":
		list := &certificatesv1.CertificateSigningRequestList{TypeMeta: metav1.TypeMeta{APIVersion: "certificates.k8s.io/v1", Kind: "CertificateSigningRequestList"}, ListMeta: metav1.ListMeta{ResourceVersion: "1"}}
		for n, q := range c.requests {
			if r.URL.Query().Get("fieldSelector") == "metadata.name="+n {
				list.Items = append(list.Items, *q)
			}
		}
		_ = json.NewEncoder(w).Encode(list)
	case name == "":
		// Everything is in the list already: a watch (with initial events, where asked for) just tells it again.
		for n, q := range c.requests {
			if r.URL.Query().Get("fieldSelector") == "metadata.name="+n {
				_ = json.NewEncoder(w).Encode(map[string]any{"type": "ADDED", "object": q})
			}
		}
		bookmark := &certificatesv1.CertificateSigningRequest{TypeMeta: metav1.TypeMeta{APIVersion: "certificates.k8s.io/v1", Kind: "CertificateSigningRequest"},
			ObjectMeta: metav1.ObjectMeta{ResourceVersion: "1", Annotations: map[string]string{metav1.InitialEventsAnnotationKey: "true"}}}
		_ = json.NewEncoder(w).Encode(map[string]any{"type": "BOOKMARK", "object": bookmark})
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

func (c *cluster) sign(q *certificatesv1.CertificateSigningRequest) {
	q.TypeMeta = metav1.TypeMeta{APIVersion: "certificates.k8s.io/v1", Kind: "CertificateSigningRequest"}
	block, _ := pem.Decode(q.Spec.Request)
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		c.t.Errorf("request: %v", err)
		return
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: request.Subject, DNSNames: request.DNSNames, IPAddresses: request.IPAddresses,
		NotBefore: time.Now(), NotAfter: time.Now().Add(c.life), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, c.ca, request.PublicKey, c.key)
	if err != nil {
		c.t.Error(err)
	}
	q.Status.Certificate = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	q.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue}}
}

func (c *cluster) asked() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]string(nil), c.askers...)
}

var quiet = slog.New(slog.DiscardHandler)

// TestJoin: a node joins by token, keeps its certificate, comes back by it without a token, and renews it as itself.
func TestJoin(t *testing.T) {
	c := newCluster(t, time.Hour)
	dir := filepath.Join(t.TempDir(), "pki")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, err := Join(ctx, JoinConfig{Node: "n1", Server: c.config(""), Dir: dir, Log: quiet}); err == nil || !strings.Contains(err.Error(), "join again with a token") {
		t.Errorf("without token and certificate: %v", err)
	}
	id, err := Join(ctx, JoinConfig{Node: "n1", Bootstrap: c.config("join"), Dir: dir, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	leaf := id.Certificate().Leaf
	if leaf.Subject.CommonName != "system:node:n1" || len(leaf.Subject.Organization) != 1 || leaf.Subject.Organization[0] != "system:nodes" {
		t.Errorf("issued to %v", leaf.Subject)
	}
	for _, q := range c.requests {
		if q.Spec.SignerName != "kubernetes.io/kube-apiserver-client-kubelet" || len(q.Spec.Usages) != 2 {
			t.Errorf("asked %s for %v", q.Spec.SignerName, q.Spec.Usages)
		}
	}
	files, err := filepath.Glob(filepath.Join(dir, "kubelet-client-2*.pem"))
	if err != nil || len(files) != 1 {
		t.Fatalf("kept in %v %v", files, err)
	}
	if info, err := os.Stat(files[0]); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key has mode %v %v", info.Mode(), err)
	}
	again, err := Join(ctx, JoinConfig{Node: "n1", Server: c.config(""), Dir: dir, Log: quiet})
	if err != nil || !again.Certificate().Leaf.Equal(leaf) {
		t.Fatalf("second start: %v", err)
	}
	// Renewed through the node's own identity; the same configuration then shows the new certificate.
	if err := again.cert.Obtain(ctx); err != nil {
		t.Fatal(err)
	}
	if again.Certificate().Leaf.Equal(leaf) {
		t.Error("not renewed")
	}
	if err := again.cert.Obtain(ctx); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(c.asked(), ", "); got != "join token, system:node:n1, system:node:n1" {
		t.Errorf("asked by %s", got)
	}
	// Another node's certificate is not taken for ours.
	if _, err := Join(ctx, JoinConfig{Node: "n2", Server: c.config(""), Dir: dir, Log: quiet}); err == nil {
		t.Error("n2 came in with n1's certificate")
	}
}

// TestServing: the serving certificate is asked for with the node's names, served, and renewed while Run runs.
func TestServing(t *testing.T) {
	c := newCluster(t, 2*time.Second)
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	id, err := Join(ctx, JoinConfig{Node: "n1", Bootstrap: c.config("join"), Dir: dir, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	s, err := Serving(ServingConfig{Node: "n1", DNSNames: []string{"n1"}, IPs: []net.IP{net.IPv4(127, 0, 0, 1)}, Dir: dir, Log: quiet, API: mustClient(t, id.Config)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.GetCertificate(nil); err == nil {
		t.Error("served a certificate before there was one")
	}
	renewed := make(chan struct{}, 8)
	s.changed = func() { renewed <- struct{}{} }
	running, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- s.Run(running) }()
	<-renewed
	first, err := s.GetCertificate(nil)
	if err != nil || first.Leaf.VerifyHostname("n1") != nil || first.Leaf.VerifyHostname("127.0.0.1") != nil {
		t.Errorf("first: %v %v", first.Leaf.DNSNames, err)
	}
	<-renewed
	if second, err := s.GetCertificate(nil); err != nil || second.Leaf.Equal(first.Leaf) {
		t.Errorf("not renewed: %v", err)
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestRenewalTime(t *testing.T) {
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for serial := range int64(200) {
		leaf := &x509.Certificate{SerialNumber: big.NewInt(serial), NotBefore: begin, NotAfter: begin.Add(100 * time.Hour)}
		at := renewal(leaf).Sub(begin)
		if at < 70*time.Hour || at > 90*time.Hour || renewal(leaf) != renewal(leaf) {
			t.Fatalf("serial %d is renewed after %s", serial, at)
		}
	}
}

func mustClient(t *testing.T, c *rest.Config) kubernetes.Interface {
	t.Helper()
	api, err := kubernetes.NewForConfig(c)
	if err != nil {
		t.Fatal(err)
	}
	return api
}
