// Package definitions asks Wherry and upstream's own API server the same things about custom resources, and wants the same answers.
package definitions

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"wherry.dev/wherry/test/foreign/build"
	"wherry.dev/wherry/test/foreign/plane"
)

func TestMain(m *testing.M) { plane.Main(m) }

// side is one of the two.
type side struct {
	*plane.Plane
	client *http.Client
}

func newSide(t *testing.T, p *plane.Plane) *side {
	t.Helper()
	c, err := rest.HTTPClientFor(p.Config)
	if err != nil {
		t.Fatal(err)
	}
	return &side{p, c}
}

// ask sends one request and returns the code, the warnings and the body without what must differ.
func (s *side) ask(t *testing.T, q question) (code int, warnings []string, body any) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), q.method, s.URL+q.path, strings.NewReader(q.body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("User-Agent", "asker/1")
	if q.typ != "" {
		r.Header.Set("Content-Type", q.typ)
	}
	if q.accept != "" {
		r.Header.Set("Accept", q.accept)
	}
	answer, err := s.client.Do(r)
	if err != nil {
		t.Fatalf("%s: %s %s: %v", s.Name, q.method, q.path, err)
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	var v any
	if json.Unmarshal(b, &v) != nil && yaml.Unmarshal(b, &v) != nil {
		v = string(b)
	}
	return answer.StatusCode, answer.Header.Values("Warning"), plain(v)
}

// plain takes away what two servers cannot have in common: identities, times, versions.
func plain(v any) any {
	switch v := v.(type) {
	case map[string]any:
		if list, ok := v["resources"].([]any); ok { // in whatever order
			slices.SortFunc(list, func(a, b any) int {
				return strings.Compare(text(a.(map[string]any)["name"]), text(b.(map[string]any)["name"]))
			})
		}
		if list, ok := v["managedFields"].([]any); ok { // in the order of their times
			slices.SortFunc(list, func(a, b any) int {
				x, y := a.(map[string]any), b.(map[string]any)
				return strings.Compare(text([]any{x["manager"], x["operation"], x["subresource"], x["apiVersion"]}), text([]any{y["manager"], y["operation"], y["subresource"], y["apiVersion"]}))
			})
		}
		for k, x := range v {
			switch k {
			case "uid", "creationTimestamp", "resourceVersion", "time", "lastTransitionTime", "deletionTimestamp", "remainingItemCount", "storageVersionHash", "auditID", "deletionGracePeriodSeconds":
				delete(v, k)
			default:
				v[k] = plain(x)
			}
		}
	case []any:
		for i := range v {
			v[i] = plain(v[i])
		}
	}
	return v
}

// question is one request.
type question struct {
	method, path, typ, accept, body string
	// otherWords says that only the code must be the same.
	otherWords bool
}

const (
	strategic = "application/strategic-merge-patch+json"
	merge     = "application/merge-patch+json"
	jsonPatch = "application/json-patch+json"
	apply     = "application/apply-patch+yaml"
	asYAML    = "application/yaml"
	asJSON    = "application/json"
	protobuf  = "application/vnd.kubernetes.protobuf"
	asTable   = "application/json;as=Table;g=meta.k8s.io;v=v1"
)

const crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"

// TestAnswers asks all questions of both.
func TestAnswers(t *testing.T) {
	plane.Need(t)
	for _, name := range []string{"kube-apiserver", "etcd"} {
		build.Need(t, name)
	}
	ours, theirs := newSide(t, plane.StartWherry(t, plane.Port, "--disable", "scheduler,controllers")), newSide(t, plane.StartUpstream(t, plane.Port+1000))
	for _, s := range []*side{ours, theirs} {
		s.ask(t, question{method: "POST", path: "/api/v1/namespaces", typ: asJSON, body: `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"shop"}}`})
	}
	for i, q := range questions() {
		code, warnings, body := ours.ask(t, q)
		wantCode, wantWarnings, want := theirs.ask(t, q)
		what := fmt.Sprintf("%d: %s %s %s %.200s", i, q.method, q.path, q.typ, q.body)
		if code != wantCode {
			t.Errorf("%s\n answers %d, upstream %d", what, code, wantCode)
		}
		if q.otherWords {
			continue
		}
		slices.Sort(warnings)
		slices.Sort(wantWarnings)
		if !slices.Equal(warnings, wantWarnings) {
			t.Errorf("%s\n warns    %q\n upstream %q", what, warnings, wantWarnings)
		}
		differ(t, what, "", body, want)
		if q.method == "POST" && q.path == crds && code == 201 { // until it is established, and upstream takes objects without waiting
			for _, s := range []*side{ours, theirs} {
				s.established(t, q.body)
			}
			time.Sleep(2500 * time.Millisecond)
		}
	}
}

// established waits for a definition.
func (s *side) established(t *testing.T, definition string) {
	t.Helper()
	var d struct{ Metadata struct{ Name string } }
	if err := yaml.Unmarshal([]byte(definition), &d); err != nil {
		t.Fatal(err)
	}
	plane.Eventually(t, d.Metadata.Name+" of "+s.Name, 30*time.Second, func() error {
		_, _, body := s.ask(t, question{method: "GET", path: crds + "/" + d.Metadata.Name})
		b, _ := json.Marshal(body)
		if !bytes.Contains(b, []byte(`"reason":"InitialNamesAccepted","status":"True"`)) && !bytes.Contains(b, []byte(`"NotAccepted"`)) {
			return fmt.Errorf("%s", b)
		}
		return nil
	}, s.Processes...)
}

// differ reports where two documents are not the same, a few places at most.
func differ(t *testing.T, what, at string, got, want any) {
	t.Helper()
	if reflect.DeepEqual(got, want) {
		return
	}
	g, isMap := got.(map[string]any)
	w, isMap2 := want.(map[string]any)
	if isMap && isMap2 {
		for k := range w {
			differ(t, what, at+"."+k, g[k], w[k])
		}
		for k := range g {
			if _, ok := w[k]; !ok {
				t.Errorf("%s\n%s.%s is only ours: %s", what, at, k, text(g[k]))
			}
		}
		return
	}
	gl, isList := got.([]any)
	wl, isList2 := want.([]any)
	if isList && isList2 && len(gl) == len(wl) {
		for i := range wl {
			differ(t, what, fmt.Sprintf("%s[%d]", at, i), gl[i], wl[i])
		}
		return
	}
	t.Errorf("%s\n%s\n ours     %s\n upstream %s", what, at, text(got), text(want))
}

func text(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return fmt.Sprintf("%.600s", b)
}
