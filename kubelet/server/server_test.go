package server

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/remotecommand"
	criremote "k8s.io/cri-streaming/pkg/streaming/remotecommand"

	"wherry.dev/wherry/client"
	"wherry.dev/wherry/kubelet/cgroups"
)

// authority signs certificates for tests.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{t, cert, key}
}

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

func (a *authority) issue(name pkix.Name, usage x509.ExtKeyUsage) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: name, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{usage}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// backend is a node with one pod; streams go to a streaming server as runtimes have it.
type backend struct {
	pod   *corev1.Pod
	log   string
	ended chan struct{}
	cri   string // the runtime's streaming server
	fails error
}

func (b *backend) Pods() []*corev1.Pod { return []*corev1.Pod{b.pod} }
func (b *backend) Pod(namespace, name string, uid types.UID) *corev1.Pod {
	if namespace != b.pod.Namespace || name != b.pod.Name || uid != "" && uid != b.pod.UID {
		return nil
	}
	return b.pod
}
func (b *backend) Instances() []Instance {
	return []Instance{{PodUID: b.pod.UID, Namespace: "ns", Pod: "p", ID: "sandbox", Running: true},
		{PodUID: b.pod.UID, Namespace: "ns", Pod: "p", Name: "c", ID: "c1", Image: "im\"age", Running: true, Started: time.Unix(1000, 0)},
		{PodUID: b.pod.UID, Namespace: "ns", Pod: "p", Name: "c", ID: "c0"}}
}
func (b *backend) LogPath(_ context.Context, id string) (string, error) {
	if id != "c1" && id != "c0" {
		return "", fmt.Errorf("no container %s", id)
	}
	return b.log + id, nil
}
func (b *backend) Ended(context.Context, string) <-chan struct{} { return b.ended }
func (b *backend) Running(_ types.UID, c string) (string, bool)  { return "c1", c == "c" }
func (b *backend) Sandbox(types.UID) (string, bool)              { return "sandbox", true }
func (b *backend) Exec(_ context.Context, id string, cmd []string, s Streams) (string, error) {
	if b.fails != nil {
		return "", b.fails
	}
	return b.streams("exec", id, cmd, s), nil
}

// streams is the address at the pretended runtime.
func (b *backend) streams(verb, id string, cmd []string, s Streams) string {
	q := url.Values{"id": {id}, "cmd": cmd}
	for name, on := range map[string]bool{"in": s.Stdin, "out": s.Stdout, "err": s.Stderr, "tty": s.TTY} {
		if on {
			q.Set(name, "1")
		}
	}
	return b.cri + "/" + verb + "/token?" + q.Encode()
}
func (b *backend) Attach(_ context.Context, id string, s Streams) (string, error) {
	return b.streams("attach", id, nil, s), nil
}
func (b *backend) PortForward(context.Context, string, []int32) (string, error) {
	return "", errors.New("not here")
}
func (b *backend) ExecSync(_ context.Context, id string, cmd []string, _ time.Duration) ([]byte, []byte, int32, error) {
	return []byte(id + " " + strings.Join(cmd, ",") + "\n"), []byte("e"), 3, nil
}

// program plays the runtime: it echoes its input in upper case.
type program struct{}

func (program) ExecInContainer(_ context.Context, _, _, id string, cmd []string, in io.Reader, out, errOut io.WriteCloser, _ bool, _ <-chan criremote.TerminalSize, _ time.Duration) error {
	if in != nil {
		b, err := io.ReadAll(in)
		if err != nil {
			return err
		}
		_, _ = out.Write(bytes.ToUpper(b))
	}
	fmt.Fprintf(errOut, "%s: %s", id, strings.Join(cmd, " "))
	return nil
}

// AttachContainer tells what it was asked for.
func (program) AttachContainer(_ context.Context, _, _, id string, in io.Reader, out, _ io.WriteCloser, tty bool, _ <-chan criremote.TerminalSize) error {
	b, err := io.ReadAll(in)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%s %s terminal=%t", id, b, tty)
	return nil
}

func (p program) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	options := &criremote.Options{Stdin: q.Has("in"), Stdout: q.Has("out"), Stderr: q.Has("err"), TTY: q.Has("tty")}
	if strings.HasPrefix(r.URL.Path, "/attach/") {
		if options.TTY && options.Stderr {
			http.Error(w, "tty and stderr cannot both be true", http.StatusBadRequest)
			return
		}
		criremote.ServeAttach(w, r, p, "", "", q.Get("id"), options, time.Minute, 10*time.Second, []string{"v4.channel.k8s.io"})
		return
	}
	criremote.ServeExec(w, r, p, "", "", q.Get("id"), q["cmd"], options,
		time.Minute, 10*time.Second, []string{"v4.channel.k8s.io"})
}

type groups struct{}

func (groups) Pod(types.UID) (cgroups.Usage, error) {
	return cgroups.Usage{At: time.Unix(2000, 0), CPU: 2 * time.Second, WorkingSet: 20}, nil
}
func (groups) Container(types.UID, string) (cgroups.Usage, error) {
	return cgroups.Usage{At: time.Unix(2000, 0), CPU: 1500 * time.Millisecond, Memory: 12, WorkingSet: 10, MemoryLimit: 100, OOMKills: 1}, nil
}
func (groups) Kubepods() (cgroups.Usage, error) { return cgroups.Usage{At: time.Unix(2000, 0)}, nil }
func (groups) Process(types.UID) (int, error)   { return os.Getpid(), nil }

// fixture is a running server and ways to ask it.
type fixture struct {
	t       *testing.T
	url     string
	ca      *authority
	backend *backend
	api     *fake.Clientset
	reviews atomic.Int64 // of tokens and access
	stop    func()
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{t: t, ca: newAuthority(t), api: fake.NewClientset(), backend: &backend{
		log: filepath.Join(t.TempDir(), "log-"), ended: make(chan struct{}),
		pod: &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "u"},
			Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}, {Name: "waiting"}, {Name: "pulling"}}},
			Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{
				{Name: "c", ContainerID: "containerd://c1", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}},
					LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ContainerID: "containerd://c0"}}},
				{Name: "waiting", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}}},
				{Name: "pulling", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ImagePullBackOff"}}},
			}}},
	}}
	// The API server: token "good" is ann; ann may everything under nodes/n but proxy, admin may all.
	f.api.PrependReactor("create", "tokenreviews", func(a clienttesting.Action) (bool, runtime.Object, error) {
		f.reviews.Add(1)
		r := a.(clienttesting.CreateAction).GetObject().(*authenticationv1.TokenReview).DeepCopy()
		if r.Spec.Token == "broken" {
			return true, nil, errors.New("API server is away")
		}
		r.Status.Authenticated = r.Spec.Token == "good"
		r.Status.User = authenticationv1.UserInfo{Username: "ann", Groups: []string{"g"}}
		return true, r, nil
	})
	f.api.PrependReactor("create", "subjectaccessreviews", func(a clienttesting.Action) (bool, runtime.Object, error) {
		f.reviews.Add(1)
		r := a.(clienttesting.CreateAction).GetObject().(*authorizationv1.SubjectAccessReview).DeepCopy()
		at := r.Spec.ResourceAttributes
		if at.Resource != "nodes" || at.Name != "n" {
			t.Errorf("asked about %+v", at)
		}
		switch {
		case slices.Contains(r.Spec.Groups, "masters"):
			r.Status.Allowed = true
		case r.Spec.User == "ann":
			r.Status.Allowed = at.Subresource != "proxy" && at.Verb == "get"
		case r.Spec.User == "reader":
			r.Status.Allowed = at.Verb == "get"
		}
		return true, r, nil
	})
	cri := httptest.NewServer(program{})
	t.Cleanup(cri.Close)
	f.backend.cri = cri.URL

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serving := f.ca.issue(pkix.Name{CommonName: "system:node:n"}, x509.ExtKeyUsageServerAuth)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- Run(ctx, Config{NodeName: "n", Listener: l, ClientCAs: f.ca.pool(), Client: &client.Set{Kubernetes: f.api}, Backend: f.backend, Groups: groups{},
			VarLog: filepath.Dir(f.backend.log), Configz: map[string]int{"maxPods": 110},
			Certificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &serving, nil }})
	}()
	stopped := false
	f.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(10 * time.Second):
			t.Error("server does not stop")
		}
	}
	t.Cleanup(f.stop)
	f.url = "https://" + l.Addr().String()
	return f
}

// as is an HTTP client that shows a certificate (none for an empty name).
func (f *fixture) as(user string, groups ...string) *http.Client {
	c := &tls.Config{RootCAs: f.ca.pool()}
	if user != "" {
		c.Certificates = []tls.Certificate{f.ca.issue(pkix.Name{CommonName: user, Organization: groups}, x509.ExtKeyUsageClientAuth)}
	}
	tr := &http.Transport{TLSClientConfig: c}
	f.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func (f *fixture) get(c *http.Client, method, path, token string) (int, string) {
	f.t.Helper()
	r, err := http.NewRequest(method, f.url+path, nil)
	if err != nil {
		f.t.Fatal(err)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := c.Do(r)
	if err != nil {
		f.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		f.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// TestAccess: who gets in, and to what.
func TestAccess(t *testing.T) {
	f := newFixture(t)
	admin, nobody := f.as("boss", "masters"), f.as("")
	other := newAuthority(t)
	forged := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: f.ca.pool(),
		Certificates: []tls.Certificate{other.issue(pkix.Name{CommonName: "boss", Organization: []string{"masters"}}, x509.ExtKeyUsageClientAuth)}}}}
	notForClients := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: f.ca.pool(),
		Certificates: []tls.Certificate{f.ca.issue(pkix.Name{CommonName: "boss", Organization: []string{"masters"}}, x509.ExtKeyUsageServerAuth)}}}}
	for _, c := range []struct {
		name   string
		client *http.Client
		method string
		path   string
		token  string
		want   int
	}{
		{"certificate", admin, "GET", "/healthz", "", 200},
		{"nobody", nobody, "GET", "/healthz", "", 401},
		{"forged certificate", forged, "GET", "/healthz", "", 401},
		{"serving certificate as client's", notForClients, "GET", "/healthz", "", 401},
		{"forged certificate, good token", forged, "GET", "/stats/summary", "good", 200},
		{"good token", nobody, "GET", "/metrics/resource", "good", 200},
		{"bad token", nobody, "GET", "/metrics/resource", "bad", 401},
		{"review fails", nobody, "GET", "/metrics", "broken", 401},
		{"fine-grained pods", nobody, "GET", "/pods", "good", 200},
		{"fine-grained configz", nobody, "GET", "/configz", "good", 200},
		{"logs of the node", nobody, "GET", "/logs/", "good", 200},
		{"no proxy", nobody, "GET", "/containerLogs/ns/p/c", "good", 403},
		{"reader reads", f.as("reader"), "GET", "/runningpods/", "", 200},
		{"reader may not exec by GET", f.as("reader"), "GET", "/exec/ns/p/c?command=sh&output=1", "", 403},
		{"reader may not run", f.as("reader"), "POST", "/run/ns/p/c?cmd=id", "", 403},
		{"reader may not forward by GET", f.as("reader"), "GET", "/portForward/ns/p?port=1", "", 403},
		{"no checkpoint", admin, "POST", "/checkpoint/ns/p/c", "", 404},
		{"unknown", admin, "GET", "/nothing", "", 404},
		{"wrong method", admin, "DELETE", "/pods", "", 405},
		{"out of the log directory", admin, "GET", "/logs/%2e%2e/%2e%2e/etc/passwd", "", 404},
	} {
		if code, body := f.get(c.client, c.method, c.path, c.token); code != c.want {
			t.Errorf("%s: %d %s, want %d", c.name, code, body, c.want)
		}
	}
	// Asked again, nobody is bothered: neither for what was allowed nor for what was not.
	before := f.reviews.Load()
	for range 3 {
		f.get(nobody, "GET", "/pods", "good")
		f.get(nobody, "GET", "/pods", "bad")
		f.get(nobody, "GET", "/containerLogs/ns/p/c", "good")
	}
	if n := f.reviews.Load() - before; n != 0 {
		t.Errorf("%d more reviews", n)
	}
	if _, body := f.get(nobody, "GET", "/containerLogs/ns/p/c", "good"); !strings.Contains(body, "Forbidden (user=ann, verb=get, resource=nodes, subresource(s)=[proxy])") {
		t.Errorf("refusal says %q", body)
	}
}

func TestAccessKeysDiffer(t *testing.T) {
	keys := map[string]string{}
	for name, u := range map[string]authenticationv1.UserInfo{
		"a":         {Username: "a"},
		"ab":        {Username: "ab"},
		"a in b":    {Username: "a", Groups: []string{"b"}},
		"a in b, c": {Username: "a", Groups: []string{"b", "c"}},
		"a in b:c":  {Username: "a", Groups: []string{"b1:c"}},
		"a extra":   {Username: "a", Extra: map[string]authenticationv1.ExtraValue{"b": {"c"}}},
		"a extra 2": {Username: "a", Extra: map[string]authenticationv1.ExtraValue{"b": nil, "c": nil}},
		"a uid":     {Username: "a", UID: "b"},
	} {
		k := accessKey(&u, "get", "proxy")
		if other, ok := keys[k]; ok {
			t.Errorf("%s and %s share %q", name, other, k)
		}
		keys[k] = name
	}
}

func TestContainerLogs(t *testing.T) {
	f := newFixture(t)
	for id, text := range map[string]string{"c0": "2026-11-20T10:00:00Z stdout F before\n", "c1": "2026-11-20T10:00:01Z stdout F one\n2026-11-20T10:00:02Z stderr F two\n"} {
		if err := os.WriteFile(f.backend.log+id, []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	admin := f.as("boss", "masters")
	for query, want := range map[string]string{
		"c": "200 one\ntwo\n", "c?tailLines=1": "200 two\n", "c?previous=true": "200 before\n", "c?previous=false&limitBytes=2": "200 on",
		"c?timestamps=true&stream=Stderr": "200 2026-11-20T10:00:02.000000000Z two\n", "c?sinceTime=2026-11-20T10:00:02Z": "200 two\n",
		"c?tailLines=-1":        "422 tailLines: Invalid value: -1: must be greater than or equal to 0\n",
		"c?sinceTime=yesterday": "422 sinceTime: Invalid value: \"yesterday\": must be a time as in RFC 3339\n",
		"c?limitBytes=0":        "422 limitBytes: Invalid value: 0: must be greater than or equal to 1\n",
		"c?stream=Else":         "422 stream: Unsupported value: \"Else\": supported values: \"All\", \"Stdout\", \"Stderr\"\n",
		"other":                 "404 container \"other\" not found in pod \"p\"\n",
		"waiting":               "400 container \"waiting\" in pod \"p\" is waiting to start: ContainerCreating\n",
		"pulling":               "400 container \"pulling\" in pod \"p\" is waiting to start: trying and failing to pull image\n",
		"waiting?previous=1":    "400 previous terminated container \"waiting\" in pod \"p\" not found\n",
	} {
		code, body := f.get(admin, "GET", "/containerLogs/ns/p/"+query, "")
		if got := fmt.Sprintf("%d %s", code, body); got != want {
			t.Errorf("%s: %q, want %q", query, got, want)
		}
	}
	if code, body := f.get(admin, "GET", "/containerLogs/ns/absent/c", ""); code != 404 || body != "pod \"absent\" does not exist\n" {
		t.Errorf("absent pod: %d %q", code, body)
	}
	// A follower sees a line as soon as it is written, before the container ends.
	resp, err := admin.Get(f.url + "/containerLogs/ns/p/c?follow=true&tailLines=0")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	w, err := os.OpenFile(f.backend.log+"c1", os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(w, "2026-11-20T10:00:03Z stdout F three")
	w.Close()
	line := make([]byte, 6)
	if _, err := io.ReadFull(resp.Body, line); err != nil || string(line) != "three\n" {
		t.Errorf("followed %q %v", line, err)
	}
	close(f.backend.ended)
	if rest, err := io.ReadAll(resp.Body); err != nil || len(rest) != 0 {
		t.Errorf("after the end: %q %v", rest, err)
	}
}

// TestStopEndsFollowers: stopping the server ends a follower of a container that goes on.
func TestStopEndsFollowers(t *testing.T) {
	f := newFixture(t)
	if err := os.WriteFile(f.backend.log+"c1", nil, 0o640); err != nil {
		t.Fatal(err)
	}
	resp, err := f.as("boss", "masters").Get(f.url + "/containerLogs/ns/p/c?follow=true")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	f.stop()
	_, _ = io.ReadAll(resp.Body)
}

// TestExec runs a program through the server and the runtime's streaming server with both of kubectl's protocols.
func TestExec(t *testing.T) {
	f := newFixture(t)
	cert := f.ca.issue(pkix.Name{CommonName: "boss", Organization: []string{"masters"}}, x509.ExtKeyUsageClientAuth)
	config := &rest.Config{Host: f.url, TLSClientConfig: rest.TLSClientConfig{CAData: pemOf("CERTIFICATE", f.ca.cert.Raw), CertData: pemOf("CERTIFICATE", cert.Certificate[0]), KeyData: keyPEM(t, cert)}}
	u, err := url.Parse(f.url + "/exec/ns/p/u/c?command=cat&command=-n&input=1&output=1&error=1")
	if err != nil {
		t.Fatal(err)
	}
	spdy, err := remotecommand.NewSPDYExecutor(config, "POST", u)
	if err != nil {
		t.Fatal(err)
	}
	ws, err := remotecommand.NewWebSocketExecutor(config, "GET", u.String())
	if err != nil {
		t.Fatal(err)
	}
	for name, e := range map[string]remotecommand.Executor{"SPDY": spdy, "WebSocket v5": ws} {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		var out, errOut bytes.Buffer
		err := e.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: strings.NewReader("hello"), Stdout: &out, Stderr: &errOut})
		cancel()
		if err != nil || out.String() != "HELLO" || errOut.String() != "c1: cat -n" {
			t.Errorf("%s: %q %q %v", name, out.String(), errOut.String(), err)
		}
	}
	admin := f.as("boss", "masters")
	for path, want := range map[string]string{
		"/exec/ns/p/absent?output=1": "404 container not found (\"absent\")\n", "/exec/ns/q/c?output=1": "404 pod does not exist\n",
		"/exec/ns/p/other-uid/c?output=1": "404 pod does not exist\n", "/exec/ns/p/c": "400 you must specify at least 1 of stdin, stdout, stderr\n",
		"/run/ns/p/c?cmd=ls+-l": "200 c1 ls,-l\necommand terminated with exit code 3", "/portForward/ns/p?port=0": "400 unable to parse \"0\" as a port\n",
	} {
		code, body := f.get(admin, "POST", path, "")
		if got := fmt.Sprintf("%d %s", code, body); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
	f.backend.fails = errors.New("runtime is away")
	if code, body := f.get(admin, "POST", "/exec/ns/p/c?output=1", ""); code != 500 || !strings.Contains(body, "runtime is away") {
		t.Errorf("runtime away: %d %s", code, body)
	}
}

// A container with a terminal is attached to as one, also by a client that has none: kubectl run -it with its input from a pipe.
func TestAttach(t *testing.T) {
	f := newFixture(t)
	cert := f.ca.issue(pkix.Name{CommonName: "boss", Organization: []string{"masters"}}, x509.ExtKeyUsageClientAuth)
	config := &rest.Config{Host: f.url, TLSClientConfig: rest.TLSClientConfig{CAData: pemOf("CERTIFICATE", f.ca.cert.Raw), CertData: pemOf("CERTIFICATE", cert.Certificate[0]), KeyData: keyPEM(t, cert)}}
	for _, c := range []struct {
		terminal, asked bool
		want            string
	}{{false, false, "c1 hello terminal=false"}, {true, true, "c1 hello terminal=true"}, {true, false, "c1 hello terminal=true"}} {
		pod := f.backend.pod.DeepCopy()
		pod.Spec.Containers = []corev1.Container{{Name: "c", TTY: c.terminal}}
		f.backend.pod = pod
		query := "/attach/ns/p/u/c?input=1&output=1&error=1"
		if c.asked {
			query = "/attach/ns/p/u/c?input=1&output=1&tty=1"
		}
		u, err := url.Parse(f.url + query)
		if err != nil {
			t.Fatal(err)
		}
		spdy, err := remotecommand.NewSPDYExecutor(config, "POST", u)
		if err != nil {
			t.Fatal(err)
		}
		ws, err := remotecommand.NewWebSocketExecutor(config, "GET", u.String())
		if err != nil {
			t.Fatal(err)
		}
		for name, e := range map[string]remotecommand.Executor{"SPDY": spdy, "WebSocket v5": ws} {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			var out, errOut bytes.Buffer
			o := remotecommand.StreamOptions{Stdin: strings.NewReader("hello"), Stdout: &out, Tty: c.asked}
			if !c.asked {
				o.Stderr = &errOut
			}
			err := e.StreamWithContext(ctx, o)
			cancel()
			if err != nil || out.String() != c.want || errOut.Len() != 0 {
				t.Errorf("%s, terminal %t, asked for %t: %q %q %v", name, c.terminal, c.asked, out.String(), errOut.String(), err)
			}
		}
	}
}

func TestState(t *testing.T) {
	f := newFixture(t)
	admin := f.as("boss", "masters")
	code, body := f.get(admin, "GET", "/pods", "")
	var pods corev1.PodList
	if err := json.Unmarshal([]byte(body), &pods); code != 200 || err != nil || pods.Kind != "PodList" || len(pods.Items) != 1 || len(pods.Items[0].Status.ContainerStatuses) != 3 {
		t.Errorf("/pods: %d %s %v", code, body, err)
	}
	_, body = f.get(admin, "GET", "/runningpods/", "")
	pods = corev1.PodList{}
	if err := json.Unmarshal([]byte(body), &pods); err != nil || len(pods.Items) != 1 || len(pods.Items[0].Spec.Containers) != 1 {
		t.Errorf("/runningpods: %s %v", body, err)
	}
	_, body = f.get(admin, "GET", "/stats/summary", "")
	var sum struct {
		Node struct {
			NodeName string
			CPU      struct{ UsageCoreNanoSeconds uint64 }
			Memory   struct{ WorkingSetBytes uint64 }
			FS       struct{ CapacityBytes uint64 }
		}
		Pods []struct {
			PodRef     struct{ Name, Namespace, UID string }
			Containers []struct {
				Name   string
				Memory struct{ WorkingSetBytes, AvailableBytes uint64 }
			}
		}
	}
	if err := json.Unmarshal([]byte(body), &sum); err != nil || sum.Node.NodeName != "n" || sum.Node.CPU.UsageCoreNanoSeconds == 0 || sum.Node.Memory.WorkingSetBytes == 0 ||
		sum.Node.FS.CapacityBytes == 0 || len(sum.Pods) != 1 || sum.Pods[0].PodRef.UID != "u" || len(sum.Pods[0].Containers) != 1 || sum.Pods[0].Containers[0].Memory.AvailableBytes != 90 {
		t.Errorf("/stats/summary: %s %v", body, err)
	}
	for path, wants := range map[string][]string{
		"/metrics":          {"kubelet_running_pods 1", `kubelet_running_containers{container_state="running"} 1`, "go_goroutines", `kubelet_node_name{node="n"} 1`},
		"/metrics/resource": {`container_cpu_usage_seconds_total{container="c",namespace="ns",pod="p"} 1.5 2000000`, `container_start_time_seconds{container="c",namespace="ns",pod="p"} 1000` + "\n", `pod_memory_working_set_bytes{namespace="ns",pod="p"} 20 2000000`, "node_cpu_usage_seconds_total ", "resource_scrape_error 0"},
		"/metrics/cadvisor": {`container_memory_working_set_bytes{container="c",id="c1",image="im\"age",name="c1",namespace="ns",pod="p"} 10 2000000`, "container_oom_events_total{", "machine_memory_bytes "},
		"/metrics/probes":   {""},
		"/configz":          {`{"kubeletconfig":{"maxPods":110}}`},
		"/healthz":          {"ok"},
	} {
		code, body := f.get(admin, "GET", path, "")
		for _, want := range wants {
			if code != 200 || !strings.Contains(body, want) {
				t.Errorf("%s: %d, lacks %q in\n%s", path, code, want, body)
			}
		}
	}
}

func TestRates(t *testing.T) {
	var r rates
	at := func(s float64, cpu time.Duration) cgroups.Usage {
		return cgroups.Usage{At: time.Unix(0, int64(s*1e9)), CPU: cpu}
	}
	if got := r.cpu("k", at(10, time.Second)); got.UsageNanoCores != nil {
		t.Error("a rate from nothing")
	}
	if got := r.cpu("k", at(10.5, 2*time.Second)); got.UsageNanoCores != nil {
		t.Error("a rate over half a second")
	}
	if got := r.cpu("k", at(12, 2*time.Second)); got.UsageNanoCores == nil || *got.UsageNanoCores != 500_000_000 {
		t.Errorf("rate %v", got.UsageNanoCores)
	}
	r.keep(map[string]bool{})
	if len(r.last) != 0 {
		t.Error("kept what is gone")
	}
}
