package apiserver

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"wherry.dev/wherry/api/kinds"
	"wherry.dev/wherry/api/openapi"
	"wherry.dev/wherry/embedded/etcd"
	"wherry.dev/wherry/store"
)

// world is a server over a real store and a real etcd, reached over TLS.
type world struct {
	*Server
	address string
	ca      []byte
	store   *store.Store
	etcd    *clientv3.Client
	traces  *recorder
}

// admin and nobody are the tokens of the harness's two users: one may do anything, the other nothing.
const (
	admin  = "admin-token"
	nobody = "nobody-token"
)

// start runs a server; change may adjust its configuration.
func start(t testing.TB, change func(*Config)) *world {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	e, err := etcd.Start(ctx, etcd.Config{Dir: filepath.Join(t.TempDir(), "etcd")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	var mutated func(string)
	if _, isTest := t.(*testing.T); isTest {
		mutated = func(what string) { t.Errorf("a shared object was changed: %s", what) }
	}
	st := store.Open(store.Config{Client: e.Client(), SoleWriter: true, DetectMutations: mutated})
	t.Cleanup(st.Close)

	cert, ca := certificate(t)
	reg := prometheus.NewRegistry()
	w := &world{ca: ca, store: st, etcd: e.Client(), traces: &recorder{}}
	c := Config{Kinds: kinds.All(), OpenAPI: openapi.New(kinds.All(), "v1.37.2"), Storage: Storage(st), Registry: reg, Gatherer: reg, Trace: w.traces, TLS: &tls.Config{Certificates: []tls.Certificate{cert}},
		Version: version.Info{Major: "1", Minor: "37", GitVersion: "v1.37.2"}, ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")},
		Authenticator: authenticator.RequestFunc(func(r *http.Request) (*authenticator.Response, bool, error) {
			switch strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ") {
			case admin:
				return &authenticator.Response{User: &user.DefaultInfo{Name: "root", Groups: []string{user.SystemPrivilegedGroup, user.AllAuthenticated}}}, true, nil
			case nobody:
				return &authenticator.Response{User: &user.DefaultInfo{Name: "nobody", Groups: []string{user.AllAuthenticated}}}, true, nil
			}
			return nil, false, nil
		})}
	if change != nil {
		change(&c)
	}
	if w.Server, err = New(c); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.address = l.Addr().String()
	done := make(chan error, 1)
	go func() { done <- w.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	ready, stop := context.WithTimeout(ctx, 10*time.Second)
	defer stop()
	if err := w.Ready(ready); err != nil {
		t.Fatal(err)
	}
	return w
}

// config is how a client with this token reaches the server.
func (w *world) config(token string) *rest.Config {
	return &rest.Config{Host: "https://" + w.address, BearerToken: token, TLSClientConfig: rest.TLSClientConfig{CAData: w.ca}, QPS: -1, UserAgent: "harness/1"}
}

func (w *world) client(t testing.TB, protobuf bool) kubernetes.Interface {
	t.Helper()
	cfg := w.config(admin)
	if protobuf {
		cfg.ContentType, cfg.AcceptContentTypes = runtime.ContentTypeProtobuf, runtime.ContentTypeProtobuf+","+runtime.ContentTypeJSON
	}
	cs, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return cs
}

// kubeconfig writes a file for kubectl.
func (w *world) kubeconfig(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	c := clientcmdapi.Config{CurrentContext: "w", Contexts: map[string]*clientcmdapi.Context{"w": {Cluster: "w", AuthInfo: "w"}},
		Clusters:  map[string]*clientcmdapi.Cluster{"w": {Server: "https://" + w.address, CertificateAuthorityData: w.ca}},
		AuthInfos: map[string]*clientcmdapi.AuthInfo{"w": {Token: admin}}}
	if err := clientcmd.WriteToFile(c, path); err != nil {
		t.Fatal(err)
	}
	return path
}

// certificate makes a serving certificate for loopback and the PEM of the authority that clients trust.
func certificate(t testing.TB) (tls.Certificate, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "harness"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

var root = &user.DefaultInfo{Name: "root", Groups: []string{user.SystemPrivilegedGroup, user.AllAuthenticated}}

func testPod(name string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", Labels: map[string]string{"app": "web", "name": name}},
		Spec: corev1.PodSpec{NodeName: "node-1", Containers: []corev1.Container{{Name: "c", Image: "registry.example/app:1", Env: []corev1.EnvVar{{Name: "A", Value: "1"}, {Name: "B", Value: "2"}},
			Ports: []corev1.ContainerPort{{ContainerPort: 80}}}}}}
}

func TestMain(m *testing.M) { os.Exit(m.Run()) }
