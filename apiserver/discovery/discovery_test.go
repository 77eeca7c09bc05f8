package discovery

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"wherry.dev/wherry/api/kinds"
)

const v2 = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"

func ask(t testing.TB, d *Documents, path string, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest("GET", path, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	d.ServeHTTP(w, r)
	return w
}

func foreign(group, version string, groupPriority, versionPriority int32) Foreign {
	return Foreign{GroupVersion: schema.GroupVersion{Group: group, Version: version}, Priority: Priority{groupPriority, versionPriority},
		Resources: &apidiscoveryv2.APIVersionDiscovery{Resources: []apidiscoveryv2.APIResourceDiscovery{{Resource: "things"}}}}
}

// TestOrder: groups by the highest of their versions' priorities, versions by theirs; ties are broken by names, differently in both forms.
func TestOrder(t *testing.T) {
	unknown := foreign("unknown.example", "v1", 5, 1)
	unknown.Resources = nil
	custom := &kinds.Kind{GroupVersionKind: schema.GroupVersionKind{Group: "custom.example", Version: "v1alpha1", Kind: "C"}, Plural: "cs", Custom: true, Verbs: []string{"get"}}
	newer := *custom
	newer.GroupVersionKind.Version = "v1"
	list := append(kinds.All(), custom, &newer)
	d := New(list, []Foreign{foreign("b.example", "v1", 100, 1), foreign("b.example", "v2", 19000, 5), foreign("a.example", "v2", 50, 1), foreign("c.example", "v1", 50, 1), unknown,
		foreign("apps", "v1", 17800, 15), foreign("batch", "v2", 1, 1000)}, nil, "")
	groups, all := metav1.APIGroupList{}, apidiscoveryv2.APIGroupDiscoveryList{}
	if err := json.Unmarshal(ask(t, d, "/apis").Body.Bytes(), &groups); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(ask(t, d, "/apis", "Accept", v2).Body.Bytes(), &all); err != nil {
		t.Fatal(err)
	}
	var old, now []string
	for _, g := range groups.Groups {
		old = append(old, g.Name)
		if g.PreferredVersion != g.Versions[0] {
			t.Errorf("%s prefers %s of %v", g.Name, g.PreferredVersion.Version, g.Versions)
		}
	}
	for _, g := range all.Items {
		now = append(now, g.Name)
	}
	if want := []string{"apiregistration.k8s.io", "b.example", "apps"}; !slices.Equal(old[:3], want) || !slices.Equal(now[:3], want) {
		t.Errorf("first: %v, %v", old, now)
	}
	if want := []string{"custom.example", "c.example", "a.example", "unknown.example"}; !slices.Equal(old[len(old)-4:], want) { // v1.c.example before v2.a.example
		t.Errorf("last: %v", old)
	}
	if want := []string{"custom.example", "a.example", "c.example", "unknown.example"}; !slices.Equal(now[len(now)-4:], want) {
		t.Errorf("last, all at once: %v", now)
	}
	find := func(name string) apidiscoveryv2.APIGroupDiscovery {
		return all.Items[slices.IndexFunc(all.Items, func(g apidiscoveryv2.APIGroupDiscovery) bool { return g.Name == name })]
	}
	versions := func(name string) (out string) {
		for _, v := range find(name).Versions {
			out += v.Version + "=" + string(v.Freshness) + " "
		}
		return out
	}
	for name, want := range map[string]string{"b.example": "v2= v1= ", "custom.example": "v1=Current v1alpha1=Current ", "unknown.example": "v1=Stale ", "batch": "v2= v1=Current ", "autoscaling": "v2=Current v1=Current "} {
		if got := versions(name); got != want {
			t.Errorf("versions of %s: %s", name, got)
		}
	}
	if r := find("apps").Versions[0].Resources; len(r) != 1 || r[0].Resource != "things" {
		t.Errorf("apps is another server's, and shows %v", r)
	}
	if w := ask(t, d, "/apis/apps/v1"); w.Code != http.StatusNotFound { // its own to tell
		t.Errorf("apps/v1: %d", w.Code)
	}
}

// TestTags: what has not changed is not sent again, in whatever form.
func TestTags(t *testing.T) {
	d := New(kinds.All(), nil, nil, "")
	seen := map[string]bool{}
	for _, path := range []string{"/api", "/apis"} {
		for _, accept := range []string{v2, strings.Replace(v2, "json", "vnd.kubernetes.protobuf", 1), strings.Replace(v2, "=v2;", "=v2beta1;", 1)} {
			w := ask(t, d, path, "Accept", accept)
			etag := w.Header().Get("ETag")
			if w.Code != 200 || len(etag) != 66 || seen[etag] || !strings.Contains(w.Header().Get("Content-Type"), accept[strings.Index(accept, ";"):]) || w.Body.Len() == 0 || !slices.Contains(w.Header().Values("Vary"), "Accept") {
				t.Errorf("%s as %s: %d %v", path, accept, w.Code, w.Header())
			}
			seen[etag] = true
			if again := ask(t, d, path, "Accept", accept); again.Body.String() != w.Body.String() || again.Header().Get("ETag") != etag {
				t.Errorf("%s as %s is another document the second time", path, accept)
			}
			if again := ask(t, d, path, "Accept", accept, "If-None-Match", etag); again.Code != 304 || again.Body.Len() != 0 {
				t.Errorf("%s as %s: %d, %d bytes", path, accept, again.Code, again.Body.Len())
			}
			if again := ask(t, d, path, "Accept", accept, "If-None-Match", `"other"`); again.Code != 200 {
				t.Errorf("%s as %s with another tag: %d", path, accept, again.Code)
			}
			if same := ask(t, New(kinds.All(), nil, nil, ""), path, "Accept", accept); same.Header().Get("ETag") != etag {
				t.Errorf("%s as %s has another tag on another server", path, accept)
			}
			if other := ask(t, New(kinds.All()[:30], []Foreign{foreign("", "v2", 1, 1), foreign("x.example", "v1", 1, 1)}, nil, ""), path, "Accept", accept); other.Header().Get("ETag") == etag {
				t.Errorf("%s as %s has the same tag when it is another document", path, accept)
			}
		}
	}
}

func BenchmarkDiscovery(b *testing.B) {
	d := New(kinds.All(), nil, nil, "")
	for name, header := range map[string][]string{"all": {"Accept", v2}, "all-gzip": {"Accept", v2, "Accept-Encoding", "gzip"}, "unchanged": {"Accept", v2, "If-None-Match", ask(b, d, "/apis", "Accept", v2).Header().Get("ETag")},
		"groups": {"Accept", "application/json"}} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				ask(b, d, "/apis", header...)
			}
		})
	}
}
