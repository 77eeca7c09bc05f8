package apiserver

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
)

// raw sends one request as it is, and returns the code, the headers and the body.
func (w *world) raw(t testing.TB, method, path, token string, header map[string]string, body string) (int, http.Header, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "https://"+w.address+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true, DisableCompression: true}
	defer tr.CloseIdleConnections()
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(b)
}

// TestErrors holds the answers to what is wrong against upstream's.
func TestErrors(t *testing.T) {
	w := start(t, nil)
	const pods = "/api/v1/namespaces/default/pods"
	yes := "application/json"
	long := `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"big"},"data":{"a":"` + strings.Repeat("x", 3<<20) + `"}}`
	for _, c := range []struct {
		name, method, path, token string
		header                    map[string]string
		body                      string
		code                      int
		reason                    metav1.StatusReason
		message                   string // contained in the Status' message, or in the body when reason is empty
	}{
		{name: "no credentials", method: "GET", path: pods, code: 401, reason: "Unauthorized", message: "Unauthorized"},
		{name: "wrong credentials", method: "GET", path: pods, token: "what", code: 401, reason: "Unauthorized", message: "Unauthorized"},
		{name: "forbidden", method: "GET", path: pods + "/x", token: nobody, code: 403, reason: "Forbidden",
			message: `pods "x" is forbidden: User "nobody" cannot get resource "pods" in API group "" in the namespace "default"`},
		{name: "forbidden list", method: "GET", path: "/apis/coordination.k8s.io/v1/leases", token: nobody, code: 403, reason: "Forbidden",
			message: `leases.coordination.k8s.io is forbidden: User "nobody" cannot list resource "leases" in API group "coordination.k8s.io" at the cluster scope`},
		{name: "forbidden path", method: "GET", path: "/metrics", token: nobody, code: 403, reason: "Forbidden", message: `forbidden: User "nobody" cannot get path "/metrics"`},
		{name: "unknown path", method: "GET", path: "/nope", token: admin, code: 404, message: "404 page not found"},
		{name: "unknown group", method: "GET", path: "/apis/nope.example/v1/things", token: admin, code: 404, message: "404 page not found"},
		{name: "unknown resource", method: "GET", path: "/api/v1/things", token: admin, code: 404, reason: "NotFound", message: "the server could not find the requested resource"},
		{name: "unknown subresource", method: "GET", path: pods + "/x/nope", token: admin, code: 404, reason: "NotFound", message: "the server could not find the requested resource"},
		{name: "not there", method: "GET", path: pods + "/x", token: admin, code: 404, reason: "NotFound", message: `pods "x" not found`},
		{name: "method", method: "PUT", path: pods, token: admin, code: 405, reason: "MethodNotAllowed", message: "the server does not allow this method on the requested resource"},
		{name: "accept", method: "GET", path: pods, token: admin, header: map[string]string{"Accept": "text/html"}, code: 406, reason: "NotAcceptable",
			message: "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf"},
		{name: "content type", method: "POST", path: pods, token: admin, header: map[string]string{"Content-Type": "text/plain"}, body: "x", code: 415, reason: "UnsupportedMediaType",
			message: "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf"},
		{name: "patch type", method: "PATCH", path: pods + "/x", token: admin, header: map[string]string{"Content-Type": yes}, body: "{}", code: 415, reason: "UnsupportedMediaType",
			message: "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml"},
		{name: "no json", method: "POST", path: pods, token: admin, body: "{", code: 400, reason: "BadRequest", message: "the object provided is unrecognized (must be of type Pod)"},
		{name: "another kind", method: "POST", path: pods, token: admin, body: `{"apiVersion":"v1","kind":"Service"}`, code: 400, reason: "BadRequest", message: `Service in version "v1" cannot be handled as a Pod`},
		{name: "another version", method: "POST", path: pods, token: admin, body: `{"apiVersion":"v2","kind":"Pod"}`, code: 400, reason: "BadRequest", message: `Pod in version "v2" cannot be handled as a Pod: no kind "Pod" is registered for version "v2"`},
		{name: "another namespace", method: "POST", path: pods, token: admin, body: `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","namespace":"b"}}`, code: 400, reason: "BadRequest",
			message: "the namespace of the provided object does not match the namespace sent on the request"},
		{name: "unknown field", method: "POST", path: "/api/v1/namespaces/default/configmaps?fieldValidation=Strict", token: admin, body: `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"dat":{}}`, code: 400, reason: "BadRequest",
			message: `strict decoding error: unknown field "dat"`},
		{name: "duplicate field", method: "POST", path: "/api/v1/namespaces/default/configmaps?fieldValidation=Strict", token: admin, body: `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{},"data":{}}`, code: 400, reason: "BadRequest",
			message: `strict decoding error: duplicate field "data"`},
		{name: "invalid", method: "POST", path: "/api/v1/namespaces/default/configmaps", token: admin, body: `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"A b"}}`, code: 422, reason: "Invalid", message: `ConfigMap "A b" is invalid: metadata.name: Invalid value: "A b"`},
		{name: "dry run what", method: "POST", path: "/api/v1/namespaces/default/configmaps?dryRun=Some", token: admin, body: `{}`, code: 422, reason: "Invalid", message: "dryRun"},
		{name: "too large", method: "POST", path: "/api/v1/namespaces/default/configmaps", token: admin, body: long, code: 413, reason: "RequestEntityTooLarge", message: "limit is 3145728"},
		{name: "broken gzip", method: "POST", path: "/api/v1/namespaces/default/configmaps", token: admin, header: map[string]string{"Content-Encoding": "gzip"}, body: "nope", code: 400, reason: "BadRequest", message: "gzip"},
		{name: "label selector", method: "GET", path: pods + "?labelSelector=a=b=c", token: admin, code: 400, reason: "BadRequest", message: "found '=', expected: ',' or 'end of string'"},
		{name: "field selector", method: "GET", path: pods + "?fieldSelector=foo=bar", token: admin, code: 400, reason: "BadRequest", message: "field label not supported: foo"},
		{name: "continue", method: "GET", path: pods + "?limit=1&continue=nope", token: admin, code: 400, reason: "BadRequest", message: "continue"},
		{name: "match without version", method: "GET", path: pods + "?resourceVersionMatch=Exact", token: admin, code: 422, reason: "Invalid", message: "resourceVersionMatch is forbidden unless resourceVersion is provided"},
		{name: "version", method: "GET", path: pods + "?resourceVersion=abc", token: admin, code: 400, reason: "BadRequest"},
		{name: "timeout", method: "GET", path: pods + "?timeout=abc", token: admin, code: 400, reason: "BadRequest", message: "invalid timeout specified in the request URL"},
		{name: "apply without manager", method: "PATCH", path: pods + "/x", token: admin, header: map[string]string{"Content-Type": "application/apply-patch+yaml"}, body: "{}", code: 422, reason: "Invalid", message: "fieldManager: Required value: is required for apply patch"},
		{name: "impersonation", method: "GET", path: pods, token: nobody, header: map[string]string{"Impersonate-User": "root"}, code: 403, reason: "Forbidden", message: `pods is forbidden: User "nobody" cannot impersonate-on:user-info:list resource "pods"`},
		{name: "impersonate nobody", method: "GET", path: pods, token: admin, header: map[string]string{"Impersonate-Group": "g"}, code: 400, reason: "BadRequest"},
		{name: "impersonated", method: "GET", path: pods, token: admin, header: map[string]string{"Impersonate-User": "joe"}, code: 403, reason: "Forbidden", message: `User "joe" cannot list`},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, _, body := w.raw(t, c.method, c.path, c.token, c.header, c.body)
			if code != c.code {
				t.Fatalf("%d, want %d: %s", code, c.code, body)
			}
			message := body
			if c.reason != "" {
				var s metav1.Status
				if err := json.Unmarshal([]byte(body), &s); err != nil || s.Kind != "Status" || s.Code != int32(c.code) || s.Status != metav1.StatusFailure {
					t.Fatalf("no Status: %s", body)
				}
				if s.Reason != c.reason {
					t.Errorf("reason %s, want %s", s.Reason, c.reason)
				}
				message = s.Message
			}
			if !strings.Contains(message, c.message) {
				t.Errorf("message %q, want %q", message, c.message)
			}
		})
	}

	t.Run("gzip body", func(t *testing.T) {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		io.WriteString(z, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"zipped"}}`)
		z.Close()
		if code, _, body := w.raw(t, "POST", "/api/v1/namespaces/default/configmaps", admin, map[string]string{"Content-Encoding": "gzip"}, b.String()); code != 201 {
			t.Fatal(code, body)
		}
	})
	t.Run("gzip bomb", func(t *testing.T) {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		z.Write(make([]byte, 16<<20))
		z.Close()
		if code, _, body := w.raw(t, "POST", "/api/v1/namespaces/default/configmaps", admin, map[string]string{"Content-Encoding": "gzip"}, b.String()); code != 413 {
			t.Fatal(code, body)
		}
	})
	t.Run("warnings", func(t *testing.T) {
		code, h, body := w.raw(t, "POST", "/api/v1/namespaces/default/configmaps", admin, nil, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"warned"},"dat":{}}`)
		if code != 201 || len(h["Warning"]) != 1 || h["Warning"][0] != `299 - "unknown field \"dat\""` {
			t.Fatal(code, h["Warning"], body)
		}
	})
	t.Run("yaml", func(t *testing.T) {
		code, _, body := w.raw(t, "POST", "/api/v1/namespaces/default/configmaps", admin, map[string]string{"Content-Type": "application/yaml", "Accept": "application/yaml"}, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: why}\ndata: {k: v}\n")
		if code != 201 || !strings.HasPrefix(body, "apiVersion: v1\ndata:\n  k: v\nkind: ConfigMap\n") {
			t.Fatal(code, body)
		}
	})
	t.Run("big answers are compressed", func(t *testing.T) {
		big := `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"big"},"data":{"a":"` + strings.Repeat("x", 200<<10) + `"}}`
		w.raw(t, "POST", "/api/v1/namespaces/default/configmaps", admin, nil, big)
		code, h, body := w.raw(t, "GET", "/api/v1/namespaces/default/configmaps/big", admin, map[string]string{"Accept-Encoding": "gzip"}, "")
		z, err := gzip.NewReader(strings.NewReader(body))
		if code != 200 || h.Get("Content-Encoding") != "gzip" || err != nil {
			t.Fatal(code, h, err)
		}
		if b, err := io.ReadAll(z); err != nil || !json.Valid(b) {
			t.Fatal(err)
		}
	})
	t.Run("dry run", func(t *testing.T) {
		code, _, body := w.raw(t, "POST", "/api/v1/namespaces/default/configmaps?dryRun=All", admin, nil, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"generateName":"dry-"}}`)
		var m metav1.PartialObjectMetadata
		if err := json.Unmarshal([]byte(body), &m); code != 201 || err != nil || len(m.Name) != 9 || m.UID == "" {
			t.Fatal(code, body)
		}
		if code, _, _ := w.raw(t, "GET", "/api/v1/namespaces/default/configmaps/"+m.Name, admin, nil, ""); code != 404 {
			t.Fatalf("a dry run stored something: %d", code)
		}
	})
}

// TestPanic shows that a broken handler costs its own request only.
func TestPanic(t *testing.T) {
	gvr := schema.GroupVersionResource{Group: "authentication.k8s.io", Version: "v1", Resource: "tokenreviews"}
	w := start(t, func(c *Config) {
		c.Answers = map[schema.GroupVersionResource]func(context.Context, user.Info, runtime.Object) (runtime.Object, error){
			gvr: func(_ context.Context, _ user.Info, o runtime.Object) (runtime.Object, error) {
				if o.(*authenticationv1.TokenReview).Spec.Token == "panic" {
					panic("as asked")
				}
				return o, nil
			}}
	})
	if w.resource(gvr) == nil {
		t.Skip("token reviews are not served yet")
	}
	for range 2 {
		if code, _, body := w.raw(t, "POST", "/apis/authentication.k8s.io/v1/tokenreviews", admin, nil, `{"spec":{"token":"panic"}}`); code != 500 || !strings.Contains(body, "panic'd") {
			t.Fatal(code, body)
		}
	}
	if code, _, body := w.raw(t, "POST", "/apis/authentication.k8s.io/v1/tokenreviews", admin, nil, `{"spec":{"token":"fine"}}`); code != 201 {
		t.Fatal(code, body)
	}
}
