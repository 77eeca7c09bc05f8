package apiserver

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/rest"

	"wherry.dev/wherry/apiserver/wire"
)

// run lets a server keep what it owns until the test ends.
func (w *world) run(t *testing.T) {
	t.Helper()
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
}

// What the administrator writes about flows is in force, and its status says so; what must be there comes back when it is deleted.
func TestStoredFlowSchemasCount(t *testing.T) {
	w := start(t, func(c *Config) { c.MaxInflight = 100 })
	w.run(t)
	ctx, api := t.Context(), w.client(t, true).FlowcontrolV1()
	shares := int32(1)
	level, err := api.PriorityLevelConfigurations().Create(ctx, &flowcontrolv1.PriorityLevelConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "slow"}, Spec: flowcontrolv1.PriorityLevelConfigurationSpec{Type: flowcontrolv1.PriorityLevelEnablementLimited,
		Limited: &flowcontrolv1.LimitedPriorityLevelConfiguration{NominalConcurrencyShares: &shares, LimitResponse: flowcontrolv1.LimitResponse{Type: flowcontrolv1.LimitResponseTypeReject}}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	everything := []flowcontrolv1.NonResourcePolicyRule{{Verbs: []string{"*"}, NonResourceURLs: []string{"*"}}}
	schema := func(name, level string) *flowcontrolv1.FlowSchema {
		return &flowcontrolv1.FlowSchema{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: flowcontrolv1.FlowSchemaSpec{MatchingPrecedence: 1000, PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: level},
			Rules: []flowcontrolv1.PolicyRulesWithSubjects{{Subjects: []flowcontrolv1.Subject{{Kind: flowcontrolv1.SubjectKindUser, User: &flowcontrolv1.UserSubject{Name: "noxu"}}}, NonResourceRules: everything}}}}
	}
	slow, err := api.FlowSchemas().Create(ctx, schema("slow", "slow"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := api.FlowSchemas().Create(ctx, schema("dangling", "nowhere"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]flowcontrolv1.ConditionStatus{"slow": flowcontrolv1.ConditionFalse, "dangling": flowcontrolv1.ConditionTrue, "catch-all": flowcontrolv1.ConditionFalse} {
		for {
			f, err := api.FlowSchemas().Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if len(f.Status.Conditions) == 1 && f.Status.Conditions[0].Type == flowcontrolv1.FlowSchemaConditionDangling && f.Status.Conditions[0].Status == want {
				break
			}
			if ctx.Err() != nil {
				t.Fatalf("%s: %+v", name, f.Status)
			}
		}
	}
	headers := func(as string) http.Header {
		t.Helper()
		c := w.config(admin)
		c.Impersonate = rest.ImpersonationConfig{UserName: as, Groups: []string{"system:authenticated"}}
		transport, err := rest.TransportFor(c)
		if err != nil {
			t.Fatal(err)
		}
		req, _ := http.NewRequest(http.MethodGet, c.Host+"/version", nil)
		answer, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		return answer.Header
	}
	if h := headers("noxu"); h.Get("X-Kubernetes-Pf-Flowschema-Uid") != string(slow.UID) || h.Get("X-Kubernetes-Pf-Prioritylevel-Uid") != string(level.UID) {
		t.Errorf("noxu: %v", h)
	}
	if h := headers("foo"); h.Get("X-Kubernetes-Pf-Flowschema-Uid") == "" || h.Get("X-Kubernetes-Pf-Flowschema-Uid") == string(slow.UID) || h.Get("X-Kubernetes-Pf-Prioritylevel-Uid") == "" {
		t.Errorf("foo: %v", h)
	}
	raw, err := w.client(t, false).CoreV1().RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
	if err != nil || !strings.Contains(string(raw), `apiserver_flowcontrol_nominal_limit_seats{priority_level="slow"} 1`) {
		t.Errorf("metrics: %v", err)
	}
	before, err := api.FlowSchemas().Get(ctx, "catch-all", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := api.FlowSchemas().Delete(ctx, "catch-all", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	for {
		again, err := api.FlowSchemas().Get(ctx, "catch-all", metav1.GetOptions{})
		if err == nil && again.UID != before.UID {
			break
		}
		if ctx.Err() != nil {
			t.Fatal("catch-all does not come back")
		}
	}
}

// A flood of one user's is told to come back, while the system and other users are served.
func TestFloodIsToldToComeBack(t *testing.T) {
	hold := make(chan struct{})
	w := start(t, func(c *Config) {
		c.MaxInflight, c.RequestTimeout = 4, 2*time.Second // who waits, waits for half a second
		c.Authorizer = authorizer.AuthorizerFunc(func(context.Context, authorizer.Attributes) (authorizer.Decision, string, error) {
			return authorizer.DecisionAllow, "", nil
		})
		c.Authenticator = authenticator.RequestFunc(func(r *http.Request) (*authenticator.Response, bool, error) {
			return &authenticator.Response{User: &user.DefaultInfo{Name: r.Header.Get("As"), Groups: strings.Fields(r.Header.Get("Of"))}}, true, nil
		})
	})
	entered := make(chan struct{}, 100)
	w.Handle("/slow", http.HandlerFunc(func(http.ResponseWriter, *http.Request) { entered <- struct{}{}; <-hold }))
	ask := func(path, as, of string) *httptest.ResponseRecorder {
		req := httptest.NewRequest(http.MethodGet, path, nil)
		req.Header.Set("As", as)
		req.Header.Set("Of", of)
		answer := httptest.NewRecorder()
		w.Handler().ServeHTTP(answer, req)
		return answer
	}
	codes := make(chan *httptest.ResponseRecorder, 100)
	for range 20 {
		go func() { codes <- ask("/slow", "flood", "system:authenticated") }()
	}
	<-entered
	if r := ask("/version", "root", "system:masters"); r.Code != http.StatusOK {
		t.Errorf("the administrator: %d %s", r.Code, r.Body)
	}
	if r := ask("/version", "system:node:n1", "system:nodes system:authenticated"); r.Code != http.StatusOK {
		t.Errorf("a node: %d %s", r.Code, r.Body)
	}
	turned := 0
	for range 20 {
		select {
		case r := <-codes:
			if r.Code != http.StatusTooManyRequests || r.Header().Get("Retry-After") != "1" {
				t.Errorf("%d %v", r.Code, r.Header())
			}
			turned++
			continue
		case <-time.After(3 * time.Second):
		}
		break
	}
	if turned == 0 || turned == 20 {
		t.Errorf("%d of 20 were told to come back", turned)
	}
	close(hold)
	for range 20 - turned {
		<-codes
	}
}

// What a body, a header or a sender may not be is refused, and costs little.
func TestBadInput(t *testing.T) {
	w := start(t, nil)
	w.Handle("/boom", http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("boom") }))
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(w.ca)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}}
	defer client.CloseIdleConnections()
	zipped := func(b []byte) []byte {
		var out bytes.Buffer
		z := gzip.NewWriter(&out)
		z.Write(b)
		z.Close()
		return out.Bytes()
	}
	large := `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c"},"data":{"k":"` + strings.Repeat("x", wire.MaxBody) + `"}}`
	small := `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c"}}`
	for _, c := range []struct {
		name, path string
		body       io.Reader
		headers    map[string]string
		want       int
	}{
		{"too large", "/api/v1/namespaces/default/configmaps", strings.NewReader(large), nil, 413},
		{"too large, length unknown", "/api/v1/namespaces/default/configmaps", io.MultiReader(strings.NewReader(large)), nil, 413},
		{"too large when unpacked", "/api/v1/namespaces/default/configmaps", bytes.NewReader(zipped([]byte(large))), map[string]string{"Content-Encoding": "gzip"}, 413},
		{"a bomb", "/api/v1/namespaces/default/configmaps", bytes.NewReader(zipped(make([]byte, 200<<20))), map[string]string{"Content-Encoding": "gzip"}, 413},
		{"no gzip", "/api/v1/namespaces/default/configmaps", strings.NewReader(small), map[string]string{"Content-Encoding": "gzip"}, 400},
		{"half a gzip", "/api/v1/namespaces/default/configmaps", bytes.NewReader(zipped([]byte(small))[:20]), map[string]string{"Content-Encoding": "gzip"}, 400},
		{"an unknown encoding", "/api/v1/namespaces/default/configmaps", strings.NewReader(small), map[string]string{"Content-Encoding": "br"}, 415},
		{"deep nesting", "/api/v1/namespaces/default/configmaps", strings.NewReader(strings.Repeat(`{"a":`, 100000)), nil, 400},
		{"deep YAML", "/api/v1/namespaces/default/configmaps", strings.NewReader(strings.Repeat("- ", 100000)), map[string]string{"Content-Type": "application/yaml"}, 400},
		{"YAML that multiplies", "/api/v1/namespaces/default/configmaps", strings.NewReader(billion()), map[string]string{"Content-Type": "application/yaml"}, 400},
		{"a panic", "/boom", nil, nil, 500},
		{"fine", "/api/v1/namespaces/default/configmaps", bytes.NewReader(zipped([]byte(small))), map[string]string{"Content-Encoding": "gzip"}, 201},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+w.address+c.path, c.body)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+admin)
		req.Header.Set("Content-Type", "application/json")
		for k, v := range c.headers {
			req.Header.Set(k, v)
		}
		began := time.Now()
		answer, err := client.Do(req)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		b, _ := io.ReadAll(io.LimitReader(answer.Body, 300))
		answer.Body.Close()
		if answer.StatusCode != c.want {
			t.Errorf("%s: %d %s", c.name, answer.StatusCode, b)
		}
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("%s took %v", c.name, took)
		}
	}
	raw, err := w.client(t, false).CoreV1().RESTClient().Get().AbsPath("/metrics").DoRaw(t.Context())
	if err != nil || !strings.Contains(string(raw), "apiserver_request_panics_total 1") {
		t.Errorf("the panic is not counted: %v", err)
	}
	if !apierrors.IsRequestEntityTooLargeError(func() error {
		_, err := w.client(t, true).CoreV1().ConfigMaps("default").Patch(t.Context(), "c", "application/merge-patch+json", []byte(large), metav1.PatchOptions{})
		return err
	}()) {
		t.Error("a patch may be larger than an object")
	}
}

// billion is a small text that becomes a large value, when names stand for what they name.
func billion() string {
	var b strings.Builder
	b.WriteString("a0: &a0 [x,x,x,x,x,x,x,x,x]\n")
	for i := 1; i < 10; i++ {
		fmt.Fprintf(&b, "a%d: &a%d [*a%d,*a%d,*a%d,*a%d,*a%d,*a%d,*a%d,*a%d,*a%d]\n", i, i, i-1, i-1, i-1, i-1, i-1, i-1, i-1, i-1, i-1)
	}
	return b.String()
}

// A client that sends next to nothing holds nothing up for long, and one whose headers never end is cut off.
func TestSlowAndEndlessClients(t *testing.T) {
	w := start(t, func(c *Config) { c.RequestTimeout = time.Second })
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(w.ca)
	dial := func() *tls.Conn {
		t.Helper()
		c, err := tls.Dial("tcp", w.address, &tls.Config{RootCAs: pool, NextProtos: []string{"http/1.1"}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	// A body that never comes.
	slow := dial()
	began := time.Now()
	fmt.Fprintf(slow, "POST /api/v1/namespaces/default/configmaps HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{", admin)
	slow.SetReadDeadline(time.Now().Add(20 * time.Second))
	answer := make([]byte, 1000)
	n, err := io.ReadAtLeast(slow, answer, 12)
	if took := time.Since(began); err != nil || took > 10*time.Second || !strings.HasPrefix(string(answer[:n]), "HTTP/1.1 504") {
		t.Errorf("a body that does not come: %v after %v: %s", err, took, answer[:n])
	}
	// Headers that never end.
	endless := dial()
	fmt.Fprint(endless, "GET /version HTTP/1.1\r\nHost: x\r\n")
	endless.SetWriteDeadline(time.Now().Add(20 * time.Second))
	line := "X-A: " + strings.Repeat("a", 32<<10) + "\r\n"
	sent := 0
	for ; sent < 64<<20; sent += len(line) {
		if _, err = endless.Write([]byte(line)); err != nil {
			break
		}
	}
	var timeout net.Error
	if err == nil || asNet(err, &timeout) && timeout.Timeout() {
		t.Errorf("%d bytes of headers are taken: %v", sent, err)
	}
}

func asNet(err error, target *net.Error) bool {
	n, ok := err.(net.Error)
	if ok {
		*target = n
	}
	return ok
}
