// Package ask puts the same questions to Wherry and to upstream's own API server, and says where the answers part.
package ask

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"

	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"wherry.dev/wherry/test/foreign/plane"
)

// Content types of questions.
const (
	Strategic = "application/strategic-merge-patch+json"
	Merge     = "application/merge-patch+json"
	JSONPatch = "application/json-patch+json"
	Apply     = "application/apply-patch+yaml"
	YAML      = "application/yaml"
	JSON      = "application/json"
	Protobuf  = "application/vnd.kubernetes.protobuf"
	Table     = "application/json;as=Table;g=meta.k8s.io;v=v1"
)

// Question is one request.
type Question struct {
	Method, Path, Type, Accept, Body string
	// OtherWords says that only the code must be the same.
	OtherWords bool
}

// Side is one of the two who are asked, as its administrator.
type Side struct {
	*plane.Plane
	client *http.Client
}

// New returns the side that p is.
func New(t testing.TB, p *plane.Plane) *Side {
	t.Helper()
	c, err := rest.HTTPClientFor(p.Config)
	if err != nil {
		t.Fatal(err)
	}
	return &Side{p, c}
}

// Ask sends one request and returns the code, the warnings and the body as it is: decoded JSON or YAML, or a text.
func (s *Side) Ask(t testing.TB, q Question) (code int, warnings []string, body any) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), q.Method, s.URL+q.Path, strings.NewReader(q.Body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("User-Agent", "asker/1")
	if q.Type != "" {
		r.Header.Set("Content-Type", q.Type)
	}
	if q.Accept != "" {
		r.Header.Set("Accept", q.Accept)
	}
	answer, err := s.client.Do(r)
	if err != nil {
		t.Fatalf("%s: %s %s: %v", s.Name, q.Method, q.Path, err)
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	if json.Unmarshal(b, &body) != nil && yaml.Unmarshal(b, &body) != nil {
		body = string(b)
	}
	return answer.StatusCode, answer.Header.Values("Warning"), body
}

// Plain takes away what two servers cannot have in common: identities, times, versions. It changes v.
func Plain(v any) any {
	switch v := v.(type) {
	case map[string]any:
		if list, ok := v["resources"].([]any); ok { // in whatever order
			slices.SortFunc(list, func(a, b any) int {
				return strings.Compare(Text(a.(map[string]any)["name"]), Text(b.(map[string]any)["name"]))
			})
		}
		if list, ok := v["causes"].([]any); ok { // of conflicts, in the order of a map
			slices.SortFunc(list, func(a, b any) int { return strings.Compare(Text(a), Text(b)) })
		}
		if columns, ok := v["columnDefinitions"].([]any); ok {
			withoutAges(columns, v["rows"])
		}
		if list, ok := v["managedFields"].([]any); ok { // in the order of their times
			slices.SortFunc(list, func(a, b any) int {
				x, y := a.(map[string]any), b.(map[string]any)
				return strings.Compare(Text([]any{x["manager"], x["operation"], x["subresource"], x["apiVersion"]}), Text([]any{y["manager"], y["operation"], y["subresource"], y["apiVersion"]}))
			})
		}
		for k, x := range v {
			switch k {
			case "uid", "creationTimestamp", "resourceVersion", "time", "lastTransitionTime", "deletionTimestamp", "remainingItemCount", "storageVersionHash", "auditID", "deletionGracePeriodSeconds":
				delete(v, k)
			default:
				v[k] = Plain(x)
			}
		}
	case []any:
		for i := range v {
			v[i] = Plain(v[i])
		}
	}
	return v
}

// withoutAges empties a Table's cells that tell how old something is.
func withoutAges(columns []any, rows any) {
	list, _ := rows.([]any)
	for i, c := range columns {
		column, ok := c.(map[string]any)
		if !ok || column["name"] != "Age" {
			continue
		}
		for _, r := range list {
			row, _ := r.(map[string]any)
			if cells, _ := row["cells"].([]any); i < len(cells) {
				cells[i] = nil
			}
		}
	}
}

// Differ returns where two documents are not the same, at most a few places of each.
func Differ(at string, ours, theirs any) (out []string) {
	if reflect.DeepEqual(ours, theirs) {
		return nil
	}
	g, isMap := ours.(map[string]any)
	w, isMap2 := theirs.(map[string]any)
	if isMap && isMap2 {
		for k := range w {
			out = append(out, Differ(at+"."+k, g[k], w[k])...)
		}
		for k := range g {
			if _, ok := w[k]; !ok {
				out = append(out, fmt.Sprintf("%s.%s is only ours: %s", at, k, Text(g[k])))
			}
		}
		return out
	}
	gl, isList := ours.([]any)
	wl, isList2 := theirs.([]any)
	if isList && isList2 && len(gl) == len(wl) {
		for i := range wl {
			out = append(out, Differ(fmt.Sprintf("%s[%d]", at, i), gl[i], wl[i])...)
		}
		return out
	}
	return []string{fmt.Sprintf("%s\n ours     %s\n upstream %s", at, Text(ours), Text(theirs))}
}

// Text is v as JSON, cut where it gets long.
func Text(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return fmt.Sprintf("%.1200s", b)
}
