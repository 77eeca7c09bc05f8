package apiserver

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
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/v1/helper"

	"wherry.dev/wherry/api/scheme"
	"wherry.dev/wherry/apiserver/aggregate"
	"wherry.dev/wherry/pki"
)

// extension is another API server: plain net/http that believes front proxies.
type extension struct {
	*httptest.Server
	ca      []byte
	group   string
	legacy  bool         // knows discovery in the old form only
	failing atomic.Int32 // what discovery answers instead, if not 0
	hanging atomic.Bool  // discovery answers when the asker has gone
	asked   atomic.Int64 // requests
	push    chan string  // objects for whoever watches

	mu   sync.Mutex
	seen []*http.Request // guarded by mu; requests for resources
	docs map[string]int  // guarded by mu; how often each document was fetched
}

// newExtension runs a server of group whose certificate is for the Service default/name; only proxies of keys may talk to it.
func newExtension(t testing.TB, keys *pki.PKI, group, name string) *extension {
	t.Helper()
	x := &extension{group: group, push: make(chan string), docs: map[string]int{}}
	cert, ca := certificateFor(t, name+".default.svc")
	x.ca = ca
	x.Server = httptest.NewUnstartedServer(x)
	x.Server.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: keys.FrontProxyCAPool(), NextProtos: []string{"h2", "http/1.1"}}
	x.Server.Config.ErrorLog = log.New(io.Discard, "", 0)
	x.Server.EnableHTTP2 = true
	x.Server.StartTLS()
	t.Cleanup(x.Server.Close)
	return x
}

func certificateFor(t testing.TB, name string) (tls.Certificate, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{name},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func (x *extension) port() int32 {
	_, p, _ := net.SplitHostPort(x.Listener.Addr().String())
	n, _ := strconv.Atoi(p)
	return int32(n)
}

// last is the last request for a resource.
func (x *extension) last() *http.Request {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.seen[len(x.seen)-1]
}

func (x *extension) fetched(path string) int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.docs[path]
}

func (x *extension) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x.asked.Add(1)
	// Only who has the proxy's certificate gets here, and TLS is the test of that.
	if len(r.TLS.PeerCertificates) == 0 || r.TLS.PeerCertificates[0].Subject.CommonName != "front-proxy-client" {
		http.Error(w, "who are you", http.StatusUnauthorized)
		return
	}
	x.mu.Lock()
	x.docs[r.URL.Path]++
	x.mu.Unlock()
	root := "/apis/" + x.group + "/v1"
	discovery := r.URL.Path == "/apis" || r.URL.Path == root
	if code := x.failing.Load(); discovery && code != 0 {
		http.Error(w, "not today", int(code))
		return
	}
	if discovery && x.hanging.Load() {
		<-r.Context().Done()
		return
	}
	w.Header().Set("Cache-Control", "no-cache, private")
	write := func(v any) {
		if w.Header().Get("Content-Type") == "" {
			w.Header().Set("Content-Type", "application/json")
		}
		_ = json.NewEncoder(w).Encode(v)
	}
	switch {
	case r.URL.Path == "/apis" && !x.legacy && strings.Contains(r.Header.Get("Accept"), "v=v2;"):
		w.Header().Set("Content-Type", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")
		fmt.Fprintf(w, `{"kind":"APIGroupDiscoveryList","apiVersion":"apidiscovery.k8s.io/v2","metadata":{},"items":[{"metadata":{"name":%q},"versions":[{"version":"v1","freshness":"Current",
			"resources":[{"resource":"flunders","responseKind":{"group":%q,"version":"v1","kind":"Flunder"},"scope":"Namespaced","singularResource":"flunder","shortNames":["fl"],
			"verbs":["create","delete","deletecollection","get","list","watch"]}]}]}]}`, x.group, x.group)
	case r.URL.Path == "/apis":
		write(metav1.APIGroupList{TypeMeta: metav1.TypeMeta{Kind: "APIGroupList", APIVersion: "v1"}})
	case r.URL.Path == root:
		write(metav1.APIResourceList{TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: x.group + "/v1", APIResources: []metav1.APIResource{
			{Name: "flunders", SingularName: "flunder", Namespaced: true, Kind: "Flunder", Verbs: []string{"create", "delete", "deletecollection", "get", "list", "watch"}, ShortNames: []string{"fl"}},
			{Name: "flunders/status", Namespaced: true, Kind: "Flunder", Verbs: []string{"get"}}}})
	case r.URL.Path == "/openapi/v3":
		write(map[string]any{"paths": map[string]any{root[1:]: map[string]any{"serverRelativeURL": "/openapi/v3" + root + "?hash=ABC"}, "apis/other/v1": map[string]any{"serverRelativeURL": "/openapi/v3/x?hash=D"}}})
	case r.URL.Path == "/openapi/v3"+root:
		w.Header().Set("ETag", `"ABC"`)
		write(map[string]any{"openapi": "3.0.0", "info": map[string]any{"title": "flunders", "version": "v1"}, "paths": map[string]any{}})
	case r.URL.Path == "/openapi/v2":
		w.Header().Set("ETag", `"two"`)
		if r.Header.Get("If-None-Match") == `"two"` {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		fmt.Fprintf(w, `{"swagger":"2.0","info":{"title":"x","version":"v1"},"paths":{"%s/flunders":{"get":{"operationId":"listFlunders","produces":["application/json"],"responses":{"200":{"description":"OK","schema":{"$ref":"#/definitions/example.Flunder"}}}}},
			"/apis/other/v1/things":{"get":{"operationId":"listThings","responses":{"200":{"description":"OK"}}}}},"definitions":{"example.Flunder":{"type":"object","x-kubernetes-group-version-kind":[{"group":%q,"version":"v1","kind":"Flunder"}]}}}`, root, x.group)
	default:
		x.mu.Lock()
		x.seen = append(x.seen, r)
		x.mu.Unlock()
		x.resource(w, r)
	}
}

func (x *extension) resource(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Header.Get("Upgrade") != "":
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		defer conn.Close()
		fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", r.Header.Get("Upgrade"))
		rw.Flush()
		_, _ = io.Copy(conn, rw) // an echo
	case r.URL.Query().Get("watch") != "":
		w.Header().Set("Content-Type", "application/json")
		http.NewResponseController(w).Flush()
		for {
			select {
			case name := <-x.push:
				fmt.Fprintf(w, `{"type":"ADDED","object":{"kind":"Flunder","apiVersion":"%s/v1","metadata":{"name":%q}}}`+"\n", x.group, name)
				http.NewResponseController(w).Flush()
			case <-r.Context().Done():
				return
			}
		}
	case strings.HasSuffix(r.URL.Path, "/redirect"):
		http.Redirect(w, r, "https://192.0.2.1/", http.StatusFound)
	case strings.HasSuffix(r.URL.Path, "/slow"):
		<-r.Context().Done()
	case r.Method == http.MethodPost:
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusCreated)
		_, _ = w.Write(body)
	default:
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"kind":"FlunderList","apiVersion":"%s/v1","metadata":{},"items":[]}`, x.group)
	}
}

// aggregating is a world with Run, keys, and what tests of aggregation do.
type aggregating struct {
	*world
	keys *pki.PKI
	rest rest.Interface
}

func startAggregating(t testing.TB, change func(*Config)) *aggregating {
	t.Helper()
	keys, err := pki.Ensure(t.TempDir(), pki.Config{})
	if err != nil {
		t.Fatal(err)
	}
	w := &aggregating{keys: keys}
	w.world = start(t, func(c *Config) {
		c.ProxyCertificate = keys.FrontProxyCertificate
		trust := &aggregate.Trust{ClientCA: keys.Pairs().CA.CertPEM, ProxyCA: keys.Pairs().FrontProxyCA.CertPEM, AllowedNames: []string{"front-proxy-client"}}
		trust.DefaultHeaders()
		c.Trust = aggregate.Publish(trust)
		if change != nil {
			change(c)
		}
	})
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- w.Run(ctx, func() { close(ready) }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	<-ready
	config := rest.CopyConfig(w.config(admin))
	config.APIPath, config.GroupVersion, config.NegotiatedSerializer = "/apis", &apiregistrationv1.SchemeGroupVersion, scheme.Codecs.WithoutConversion()
	if w.rest, err = rest.RESTClientFor(config); err != nil {
		t.Fatal(err)
	}
	return w
}

// external makes a Service that is a name for this machine, so that its port is wherever a test listens.
func (w *aggregating) external(t testing.TB, name string) {
	t.Helper()
	_, err := w.client(t, false).CoreV1().Services("default").Create(t.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "localhost"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// service is an APIService of group that names default/name.
func apiService(group, name string, port int32, ca []byte) *apiregistrationv1.APIService {
	return &apiregistrationv1.APIService{ObjectMeta: metav1.ObjectMeta{Name: "v1." + group}, Spec: apiregistrationv1.APIServiceSpec{Group: group, Version: "v1",
		GroupPriorityMinimum: 2000, VersionPriority: 10, CABundle: ca, Service: &apiregistrationv1.ServiceReference{Namespace: "default", Name: name, Port: &port}}}
}

func (w *aggregating) register(t testing.TB, s *apiregistrationv1.APIService) {
	t.Helper()
	if err := w.rest.Post().Resource("apiservices").Body(s).Do(t.Context()).Error(); err != nil {
		t.Fatal(err)
	}
}

func (w *aggregating) deregister(t testing.TB, name string) {
	t.Helper()
	if err := w.rest.Delete().Resource("apiservices").Name(name).Do(t.Context()).Error(); err != nil {
		t.Fatal(err)
	}
}

// get returns nil for what is not there.
func (w *aggregating) get(t testing.TB, name string) *apiregistrationv1.APIService {
	t.Helper()
	s := &apiregistrationv1.APIService{}
	err := w.rest.Get().Resource("apiservices").Name(name).Do(t.Context()).Into(s)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (w *aggregating) change(t testing.TB, name string, f func(*apiregistrationv1.APIService)) {
	t.Helper()
	for {
		s := w.get(t, name)
		f(s)
		err := w.rest.Put().Resource("apiservices").Name(name).Body(s).Do(t.Context()).Error()
		if err == nil {
			return
		}
		if !apierrors.IsConflict(err) {
			t.Fatal(err)
		}
	}
}

// eventually waits for something that is about to be.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// condition waits until an APIService is (not) available for this reason, and returns the message.
func (w *aggregating) condition(t testing.TB, name string, status apiregistrationv1.ConditionStatus, reason string) (message string) {
	t.Helper()
	var last *apiregistrationv1.APIServiceCondition
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		s := w.get(t, name)
		if s == nil {
			continue
		}
		if last = helper.GetAPIServiceConditionByType(s, apiregistrationv1.Available); last != nil && last.Status == status && last.Reason == reason {
			return last.Message
		}
	}
	t.Fatalf("%s is not %s for %s but %+v", name, status, reason, last)
	return ""
}

// served waits until requests arrive where they should.
func (w *aggregating) served(t testing.TB, path string, code int, body string) {
	t.Helper()
	last, text := 0, ""
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if last, _, text = w.raw(t, "GET", path, admin, nil, ""); last == code && strings.Contains(text, body) {
			return
		}
	}
	t.Fatalf("%s answers %d %q, not %d %q", path, last, text, code, body)
}
