package security

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// route is one request that the server could serve.
type route struct {
	method, path      string
	body, contentType string
	resource, verb    string // empty for paths that are no resources
}

func (r route) String() string { return r.method + " " + r.path }

// routes are all that the server serves: of every resource and subresource in discovery every method, whatever discovery says of it, on
// the collection and on one object, in a namespace and across them; the paths that are no resources; and some that nobody serves.
func (w *target) routes(t *testing.T) []route {
	t.Helper()
	w.define(t)
	var list []route
	var groups []string
	for _, root := range []string{"/api", "/apis"} {
		raw, err := w.admin.CoreV1().RESTClient().Get().AbsPath(root).SetHeader("Accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList").DoRaw(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var l apidiscoveryv2.APIGroupDiscoveryList
		if err := json.Unmarshal(raw, &l); err != nil {
			t.Fatal(err)
		}
		for _, g := range l.Items {
			for _, v := range g.Versions {
				base := strings.TrimSuffix(root+"/"+g.Name, "/") + "/" + v.Version
				groups = append(groups, base, strings.TrimSuffix(root+"/"+g.Name, "/"))
				for _, r := range v.Resources {
					list = append(list, resourceRoutes(base, &r)...)
				}
			}
		}
	}
	slices.Sort(groups)
	return append(append(list, w.otherRoutes(t, slices.Compact(groups))...), strangeRoutes()...)
}

// widgets is a kind of custom resource with every subresource it can have.
const widgets = `{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"widgets.example.com"},"spec":{"group":"example.com","scope":"Namespaced","names":{"plural":"widgets","kind":"Widget"},
"versions":[{"name":"v1","served":true,"storage":true,"subresources":{"status":{},"scale":{"specReplicasPath":".spec.replicas","statusReplicasPath":".status.replicas"}},
"schema":{"openAPIV3Schema":{"type":"object","x-kubernetes-preserve-unknown-fields":true}}}]}}`

// define makes custom resources part of what is walked.
func (w *target) define(t *testing.T) {
	t.Helper()
	rest := w.admin.CoreV1().RESTClient()
	if err := rest.Post().AbsPath("/apis/apiextensions.k8s.io/v1/customresourcedefinitions").SetHeader("Content-Type", "application/json").Body([]byte(widgets)).Do(t.Context()).Error(); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	for rest.Get().AbsPath("/apis/example.com/v1/widgets").Do(t.Context()).Error() != nil {
		if t.Context().Err() != nil {
			t.Fatal("widgets are never served")
		}
		time.Sleep(time.Millisecond)
	}
}

// verbsOf are the methods and the verbs that a collection and an object understand.
var (
	collectionVerbs = map[string]string{http.MethodGet: "list", http.MethodHead: "list", http.MethodPost: "create", http.MethodDelete: "deletecollection"}
	objectVerbs     = map[string]string{http.MethodGet: "get", http.MethodHead: "get", http.MethodPut: "update", http.MethodPatch: "patch", http.MethodDelete: "delete", http.MethodPost: "create"}
)

func resourceRoutes(base string, r *apidiscoveryv2.APIResourceDiscovery) (list []route) {
	group := ""
	if parts := strings.Split(base, "/"); len(parts) == 4 {
		group = "." + parts[2]
	}
	body := fmt.Sprintf(`{"apiVersion":%q,"kind":%q,"metadata":{"name":"x"}}`, strings.TrimPrefix(strings.TrimPrefix(base, "/apis/"), "/api/"), kindOf(r))
	add := func(method, path, verb, resource string) {
		one := route{method: method, path: path, verb: verb, resource: resource + group}
		switch method {
		case http.MethodPost, http.MethodPut:
			one.body, one.contentType = body, "application/json"
		case http.MethodPatch:
			one.body, one.contentType = `{"metadata":{"labels":{"stolen":"yes"}}}`, "application/merge-patch+json"
		}
		list = append(list, one)
	}
	collections := []string{base + "/" + r.Resource}
	objects := []string{base + "/" + r.Resource + "/x"}
	if r.Scope == apidiscoveryv2.ScopeNamespace {
		collections = append(collections, base+"/namespaces/default/"+r.Resource)
		objects = []string{base + "/namespaces/default/" + r.Resource + "/x"}
	}
	for _, path := range collections {
		for method, verb := range collectionVerbs {
			add(method, path, verb, r.Resource)
		}
		add(http.MethodGet, path+"?watch=true&timeoutSeconds=1", "watch", r.Resource)
		add(http.MethodGet, strings.Replace(path, base, base+"/watch", 1)+"?timeoutSeconds=1", "watch", r.Resource)
	}
	for _, path := range objects {
		for method, verb := range objectVerbs {
			add(method, path, verb, r.Resource)
		}
		for _, sub := range r.Subresources {
			for method, verb := range objectVerbs {
				add(method, path+"/"+sub.Subresource, verb, r.Resource+"/"+sub.Subresource)
				if sub.Subresource == "proxy" {
					add(method, path+"/proxy/inner/path", verb, r.Resource+"/proxy")
				}
			}
		}
	}
	return list
}

func kindOf(r *apidiscoveryv2.APIResourceDiscovery) string {
	if r.ResponseKind != nil {
		return r.ResponseKind.Kind
	}
	return "Status"
}

// otherRoutes are the paths that are no resources: those the server lists itself and those it does not tell of.
func (w *target) otherRoutes(t *testing.T, groups []string) (list []route) {
	t.Helper()
	raw, err := w.admin.CoreV1().RESTClient().Get().AbsPath("/").DoRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var index struct {
		Paths []string `json:"paths"`
	}
	if err := json.Unmarshal(raw, &index); err != nil {
		t.Fatal(err)
	}
	if raw, err = w.admin.CoreV1().RESTClient().Get().AbsPath("/openapi/v3").DoRaw(t.Context()); err != nil {
		t.Fatal(err)
	}
	var documents struct {
		Paths map[string]struct {
			URL string `json:"serverRelativeURL"`
		} `json:"paths"`
	}
	if err := json.Unmarshal(raw, &documents); err != nil {
		t.Fatal(err)
	}
	paths := append(index.Paths, groups...)
	for _, d := range documents.Paths {
		paths = append(paths, d.URL)
	}
	paths = append(paths, "/", "/version/", "/healthz/ping", "/livez/ping", "/readyz/etcd", "/readyz?verbose", "/openapi", "/debug/pprof/", "/debug/pprof/heap", "/debug/pprof/goroutine", "/debug/pprof/cmdline",
		"/metrics/", "/openapi/v2?timeout=1s", "/.well-known/openid-configuration", "/openid/v1/jwks")
	slices.Sort(paths)
	for _, path := range slices.Compact(paths) {
		for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodOptions} {
			list = append(list, route{method: method, path: path})
		}
	}
	return list
}

// strangeRoutes are what nobody serves, or not like that: whoever may not ask is not told so.
func strangeRoutes() (list []route) {
	for _, path := range []string{"/nothing", "/api/v2/pods", "/apis/nothing.example/v1/things", "/api/v1/nothing", "/api/v1/namespaces/default/pods/x/nothing", "/api/v1/namespaces/nothing/secrets",
		"/api/v1/namespaces/default/secrets/../../kube-system/secrets", "/api/v1/namespaces/kube-public/configmaps/cluster-info/", "//api/v1/secrets", "/api/v1//secrets", "/healthz/../api/v1/secrets",
		"/api/v1/namespaces/kube-public/configmaps/cluster-info/status", "/%61pi/v1/secrets", "/api/v1/secrets%2f", "/version/../metrics", "/api/v1/proxy/nodes/x", "/api/v1/namespaces/default/services/https:x:443/proxy/"} {
		for _, method := range []string{http.MethodGet, http.MethodPost, "PROPFIND"} {
			list = append(list, route{method: method, path: path})
		}
	}
	return list
}
