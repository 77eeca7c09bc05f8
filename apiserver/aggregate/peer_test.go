package aggregate

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
)

// peerOf returns the way to a server that answers by h.
func peerOf(t *testing.T, h http.HandlerFunc) *peer {
	t.Helper()
	s := httptest.NewTLSServer(h)
	t.Cleanup(s.Close)
	host, port, err := net.SplitHostPort(s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	services := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
	if err := services.Add(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "s"}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: host}}); err != nil {
		t.Fatal(err)
	}
	return &peer{service: apiregistrationv1.ServiceReference{Namespace: "n", Name: "s", Port: new(int32(n))}, network: &network{services: corelisters.NewServiceLister(services)},
		transport: s.Client().Transport.(*http.Transport)}
}

var things = schema.GroupVersion{Group: "g", Version: "v1"}

// TestDiscover asks servers of all sorts what they serve.
func TestDiscover(t *testing.T) {
	all := func(group string) string {
		return fmt.Sprintf(`{"items":[{"metadata":{"name":%q},"versions":[{"version":"v1","resources":[{"resource":"things","scope":"Cluster","subresources":[{"subresource":"status"}]}]}]}]}`, group)
	}
	aggregated := func(w http.ResponseWriter, body string) {
		w.Header().Set("Content-Type", "application/json; g=apidiscovery.k8s.io; v=v2; as=APIGroupDiscoveryList")
		w.Header().Set("ETag", `"1"`)
		fmt.Fprint(w, body)
	}
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		etag   string
		tag    string
		failed string
		found  int
	}{
		"all at once": {answer: func(w http.ResponseWriter, r *http.Request) { aggregated(w, all("g")) }, tag: `"1"`, found: 1},
		"unchanged": {etag: `"1"`, answer: func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("If-None-Match") == `"1"` {
				w.WriteHeader(http.StatusNotModified)
			}
		}, failed: errUnchanged.Error()},
		"unchanged, says a server that was not told what": {answer: func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusNotModified) }, failed: "says 304"},
		"another group":      {answer: func(w http.ResponseWriter, r *http.Request) { aggregated(w, all("h")) }, tag: `"1"`},
		"nonsense":           {answer: func(w http.ResponseWriter, r *http.Request) { aggregated(w, "{") }, failed: "read answer of https://"},
		"away":               {answer: func(w http.ResponseWriter, r *http.Request) { http.Error(w, "", http.StatusServiceUnavailable) }, failed: "says 503"},
		"forbidden":          {answer: func(w http.ResponseWriter, r *http.Request) { http.Error(w, "", http.StatusForbidden) }, failed: "says 403"},
		"nonsense, old form": {answer: func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "<html>") }, failed: "read answer of https://"},
		"old form": {answer: func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/apis/g/v1" {
				http.NotFound(w, r)
				return
			}
			fmt.Fprint(w, `{"resources":[{"name":"things","kind":"Thing"},{"name":"things/status","kind":"Thing"}]}`)
		}, found: 1},
		"elsewhere": {answer: func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://192.0.2.1/", http.StatusFound)
		}, failed: "says 302"},
	} {
		p := peerOf(t, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("X-Remote-User") != selfUser || r.Header.Get("X-Remote-Group") != "system:masters" {
				t.Errorf("%s: asked by %v", name, r.Header)
			}
			c.answer(w, r)
		})
		got, tag, err := p.discover(t.Context(), things, c.etag)
		switch {
		case c.failed != "":
			if err == nil || !strings.Contains(err.Error(), c.failed) || errors.Is(err, errUnchanged) != (name == "unchanged") {
				t.Errorf("%s: %v", name, err)
			}
		case err != nil:
			t.Errorf("%s: %v", name, err)
		case len(got.Resources) != c.found || tag != c.tag || got.Version != "v1" || got.Freshness != "Current":
			t.Errorf("%s: %+v %s", name, got, tag)
		case c.found > 0 && (got.Resources[0].ResponseKind == nil || got.Resources[0].Subresources[0].ResponseKind == nil):
			t.Errorf("%s: old clients would panic over %+v", name, got)
		}
	}
}

// TestDescriptionIsAskedFor when somebody needs it, and soon again when there was no answer.
func TestDescriptionIsAskedFor(t *testing.T) {
	down, asked := true, map[string]int{}
	p := peerOf(t, func(w http.ResponseWriter, r *http.Request) {
		asked[r.URL.Path]++
		switch {
		case down:
			http.Error(w, "", http.StatusForbidden)
		case r.URL.Path == "/openapi/v3":
			fmt.Fprint(w, `{"paths":{"apis/g/v1":{"serverRelativeURL":"/openapi/v3/apis/g/v1?hash=A%2FB"}}}`)
		default:
			fmt.Fprint(w, `{"swagger":"2.0","paths":{"/apis/g/v1/things":{"get":{"responses":{"200":{"description":"OK"}}}},"/apis/h/v1/others":{}}}`)
		}
	})
	d := newDescription(p, things)
	if hash, ok := d.v3(t.Context()); ok || hash != "" {
		t.Errorf("nobody said %q", hash)
	}
	if doc, _ := d.swagger(t.Context()); doc != nil {
		t.Errorf("nobody said %v", doc)
	}
	down = false
	if _, ok := d.v3(t.Context()); ok || asked["/openapi/v3"] != 1 {
		t.Error("it is asked again at once")
	}
	d.v3Next.at, d.v2Next.at = d.v3Next.at.Add(-describeSoon), d.v2Next.at.Add(-describeSoon) // a moment later
	for range 3 {
		if hash, ok := d.v3(t.Context()); !ok || hash != "A/B" {
			t.Errorf("%q", hash)
		}
		if doc, tag := d.swagger(t.Context()); doc == nil || len(doc.Paths.Paths) != 1 || len(tag) != 128 {
			t.Errorf("%v %s", doc, tag)
		}
	}
	down = true
	d.v3Next.at, d.v2Next.at = d.v3Next.at.Add(-describeAgain), d.v2Next.at.Add(-describeAgain)
	if hash, _ := d.v3(t.Context()); hash != "A/B" {
		t.Error("what it said before is forgotten")
	}
	if doc, _ := d.swagger(t.Context()); doc == nil {
		t.Error("what it said before is forgotten")
	}
	if asked["/openapi/v3"] != 3 || asked["/openapi/v2"] != 3 {
		t.Errorf("asked %v", asked)
	}
}
