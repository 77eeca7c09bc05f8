package security

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"wherry.dev/wherry/apiserver/authn"
)

// each sends every route, a few at a time, in an order that no two runs share.
func (c *caller) each(t *testing.T, routes []route, judge func(r route, code int, body []byte) string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	work := make(chan route)
	var mu sync.Mutex
	failures := 0
	var group sync.WaitGroup
	for range 16 { // watches that are allowed take a second each
		group.Go(func() {
			for r := range work {
				code, body, err := c.send(ctx, r)
				why := ""
				if err != nil {
					why = err.Error()
				} else {
					why = judge(r, code, body)
				}
				if why == "" {
					continue
				}
				mu.Lock()
				if failures++; failures <= 20 {
					t.Errorf("%s, with %s: %s", r, c.name, why)
				}
				mu.Unlock()
			}
		})
	}
	for _, i := range rand.Perm(len(routes)) {
		work <- routes[i]
	}
	close(work)
	group.Wait()
	if failures > 20 {
		t.Errorf("with %s: %d more", c.name, failures-20)
	}
}

// Nobody gets anywhere with a credential that is not good, nor without one but where everybody may; and the answer does not tell what there is.
func TestNobodyGetsInWithoutTheRightCredential(t *testing.T) {
	w := start(t, nil)
	routes := w.routes(t)
	if len(routes) < 1500 {
		t.Fatalf("%d routes: discovery told of little", len(routes))
	}
	if !slices.ContainsFunc(routes, func(r route) bool { return r.resource == "widgets/scale.example.com" }) {
		t.Error("custom resources are not walked")
	}
	before := w.everything(t)
	open := authn.AnonymousPaths()
	sent := 0
	for _, c := range w.wrong(t) {
		some := routes
		if sent > 0 { // the first walks every route, the others one in four: what tells them apart is decided before the route is looked at
			some = nil
			for _, i := range rand.Perm(len(routes))[:len(routes)/4] {
				some = append(some, routes[i])
			}
		}
		sent += len(some)
		// Without a credential some paths are open; a wrong one is told so even there.
		nameless := slices.Contains([]string{"none", "a front proxy's word", "an empty bearer", "a password", "no scheme", "a WebSocket's word"}, c.name)
		w.caller(t, c).each(t, some, func(r route, code int, body []byte) string {
			path, _, _ := strings.Cut(r.path, "?")
			if nameless && slices.Contains(open, path) {
				if code == http.StatusUnauthorized || code == http.StatusForbidden || r.method == http.MethodGet && code < 400 || r.method == http.MethodHead && code < 400 || code == http.StatusNotFound {
					return ""
				}
				return fmt.Sprintf("%d on a path that is open to be read", code)
			}
			if code != http.StatusUnauthorized && code != http.StatusForbidden {
				return fmt.Sprintf("%d %.200s", code, body)
			}
			if r.method == http.MethodHead {
				return ""
			}
			s, err := status(body)
			if err != nil {
				return err.Error()
			}
			if code == http.StatusUnauthorized && (s.Message != "Unauthorized" || s.Reason != metav1.StatusReasonUnauthorized || s.Details != nil) {
				return fmt.Sprintf("the answer tells more than no: %s", body)
			}
			return ""
		})
	}
	t.Logf("%d requests on %d routes", sent, len(routes))
	if after := w.everything(t); after != before {
		t.Errorf("somebody changed something: %s\nwas %s", after, before)
	}
}

// everything counts what there is to steal or to change, but for what the walk's own accounts add.
func (w *target) everything(t *testing.T) string {
	t.Helper()
	secrets, err := w.admin.CoreV1().Secrets("").List(t.Context(), metav1.ListOptions{LabelSelector: "!stolen"})
	if err != nil {
		t.Fatal(err)
	}
	roles, err := w.admin.RbacV1().ClusterRoleBindings().List(t.Context(), metav1.ListOptions{LabelSelector: "!stolen"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.admin.CoreV1().ConfigMaps("default").Get(t.Context(), "x", metav1.GetOptions{})
	return fmt.Sprintf("%d secrets, %d cluster role bindings, a config map x: %v", len(secrets.Items), len(roles.Items), !apierrors.IsNotFound(err))
}

// Whoever is known but may nothing gets a 403 wherever something is to be had, whether or not it exists.
func TestKnownUserWithoutRightsGetsNothing(t *testing.T) {
	w := start(t, nil)
	routes := w.routes(t)
	w.account(t, "walk", "nobody")
	before := w.everything(t)
	c := w.caller(t, withToken("an account without rights", w.issue(t, "walk", "nobody", authenticationv1.TokenRequestSpec{})))
	c.each(t, routes, func(r route, code int, body []byte) string {
		return verdict(r, code, body, everybodyMay(r))
	})
	if after := w.everything(t); after != before {
		t.Errorf("somebody changed something: %s\nwas %s", after, before)
	}
	// The same account with headers that would make it somebody else.
	for name, h := range map[string]http.Header{
		"a user":            {"Impersonate-User": {"system:admin"}},
		"a group":           {"Impersonate-User": {"system:serviceaccount:walk:nobody"}, "Impersonate-Group": {"system:masters"}},
		"a group alone":     {"Impersonate-Group": {"system:masters"}},
		"an account":        {"Impersonate-User": {"system:serviceaccount:kube-system:namespace-controller"}},
		"a node":            {"Impersonate-User": {"system:node:n1"}, "Impersonate-Group": {"system:nodes"}},
		"a uid":             {"Impersonate-User": {"system:serviceaccount:walk:nobody"}, "Impersonate-Uid": {"1"}},
		"extra":             {"Impersonate-User": {"system:serviceaccount:walk:nobody"}, "Impersonate-Extra-Scopes": {"all"}},
		"somebody nameless": {"Impersonate-User": {""}, "Impersonate-Group": {"system:masters"}},
	} {
		as := http.Header{"Authorization": c.headers["Authorization"]}
		for k, v := range h {
			as[k] = v
		}
		var some []route
		for _, i := range rand.Perm(len(routes))[:len(routes)/8] {
			some = append(some, routes[i])
		}
		w.caller(t, &credential{name: "an account without rights as " + name, headers: as}).each(t, some, func(r route, code int, body []byte) string {
			if code == http.StatusForbidden || code == http.StatusBadRequest && (h.Get("Impersonate-User") == "" || r.path == "/api/v1/proxy/nodes/x") {
				return ""
			}
			return fmt.Sprintf("%d %.200s", code, body)
		})
	}
}

// verdict says what is wrong with an answer to somebody who may ask only when may is set.
func verdict(r route, code int, body []byte, may bool) string {
	if may {
		if code == http.StatusForbidden || code == http.StatusUnauthorized || code >= 500 {
			return fmt.Sprintf("%d although everybody may: %.200s", code, body)
		}
		return ""
	}
	if code != http.StatusForbidden {
		return fmt.Sprintf("%d %.200s", code, body)
	}
	if r.method == http.MethodHead {
		return ""
	}
	s, err := status(body)
	if err != nil {
		return err.Error()
	}
	if s.Reason != metav1.StatusReasonForbidden || !strings.Contains(s.Message, "cannot") {
		return fmt.Sprintf("a refusal without its reason: %s", body)
	}
	return ""
}

// everybodyMay are the routes that upstream's default roles give to every service account: system:basic-user, system:discovery,
// system:public-info-viewer, system:cluster-trust-bundle-discovery and system:service-account-issuer-discovery.
func everybodyMay(r route) bool {
	if r.resource == "clustertrustbundles.certificates.k8s.io" && (r.verb == "get" || r.verb == "list" || r.verb == "watch") {
		return true // public by nature
	}
	if r.resource != "" {
		return r.verb == "create" && slices.Contains([]string{"selfsubjectaccessreviews.authorization.k8s.io", "selfsubjectrulesreviews.authorization.k8s.io", "selfsubjectreviews.authentication.k8s.io"}, r.resource)
	}
	if r.method != http.MethodGet {
		return false
	}
	path, _, _ := strings.Cut(r.path, "?")
	switch path {
	case "/.well-known/openid-configuration", "/openid/v1/jwks": // all service accounts, and no others
		return true
	case "/healthz", "/livez", "/readyz", "/version", "/version/", "/api", "/apis", "/openapi":
		return true
	}
	for _, prefix := range []string{"/api/", "/apis/", "/openapi/"} {
		if rest, ok := strings.CutPrefix(path, prefix); ok && !isResourcePath(prefix, rest) {
			return true
		}
	}
	return false
}

// isResourcePath says whether what follows /api/ or /apis/ names a resource rather than a group's or version's discovery.
func isResourcePath(prefix, rest string) bool {
	n := len(strings.Split(strings.Trim(rest, "/"), "/"))
	return prefix == "/api/" && n >= 2 || prefix == "/apis/" && n >= 3
}

// A reader of everything (the role view, cluster-wide) reads no secret and writes nothing.
func TestViewerReadsNoSecretsAndWritesNothing(t *testing.T) {
	w := start(t, nil)
	routes := slices.DeleteFunc(w.routes(t), func(r route) bool {
		return slices.ContainsFunc(strangeRoutes(), func(s route) bool { return s.path == r.path })
	})
	w.account(t, "walk", "viewer")
	if _, err := w.admin.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "viewer"},
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "view"},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: "walk", Name: "viewer"}}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	read := map[string]bool{}
	c := w.caller(t, withToken("a viewer", w.issue(t, "walk", "viewer", authenticationv1.TokenRequestSpec{})))
	// It may list pods as soon as the roles have been gathered and the binding has arrived.
	for {
		code, _, err := c.send(t.Context(), route{method: http.MethodGet, path: "/api/v1/pods"})
		if err != nil {
			t.Fatal(err)
		}
		if code == http.StatusOK {
			break
		}
	}
	var mu sync.Mutex
	c.each(t, routes, func(r route, code int, body []byte) string {
		if everybodyMay(r) {
			return verdict(r, code, body, true)
		}
		reads := r.verb == "get" || r.verb == "list" || r.verb == "watch"
		resource, sub, _ := strings.Cut(r.resource, "/")
		sub, _, _ = strings.Cut(sub, ".")
		secret := resource == "secrets" || strings.HasSuffix(r.resource, ".rbac.authorization.k8s.io") || strings.HasSuffix(r.resource, ".certificates.k8s.io") || strings.HasSuffix(r.resource, "registration.k8s.io") || resource == "nodes" ||
			slices.Contains([]string{"exec", "attach", "portforward", "proxy", "token"}, sub)
		if r.resource != "" && reads && !secret {
			if code == http.StatusOK && r.verb == "list" {
				mu.Lock()
				read[r.resource] = true
				mu.Unlock()
			}
			return "" // whichever of these the role has
		}
		return verdict(r, code, body, false)
	})
	for _, r := range []string{"pods", "services", "configmaps", "deployments.apps", "jobs.batch"} {
		if !read[r] {
			t.Errorf("the viewer cannot list %s", r)
		}
	}
}
