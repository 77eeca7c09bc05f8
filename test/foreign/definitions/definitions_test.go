// Package definitions asks Wherry and upstream's own API server the same things about custom resources, and wants the same answers.
package definitions

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"wherry.dev/wherry/test/foreign/ask"
	"wherry.dev/wherry/test/foreign/build"
	"wherry.dev/wherry/test/foreign/plane"
)

func TestMain(m *testing.M) { plane.Main(m) }

const crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"

// TestAnswers asks all questions of both.
func TestAnswers(t *testing.T) {
	plane.Need(t)
	for _, name := range []string{"kube-apiserver", "etcd"} {
		build.Need(t, name)
	}
	ours, theirs := ask.New(t, plane.StartWherry(t, plane.Port, "--disable", "scheduler,controllers")), ask.New(t, plane.StartUpstream(t, plane.Port+1000))
	for _, s := range []*ask.Side{ours, theirs} {
		s.Ask(t, ask.Question{Method: "POST", Path: "/api/v1/namespaces", Type: ask.JSON, Body: `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"shop"}}`})
	}
	for i, q := range questions() {
		code, warnings, body := ours.Ask(t, q)
		wantCode, wantWarnings, want := theirs.Ask(t, q)
		what := fmt.Sprintf("%d: %s %s %s %.200s", i, q.Method, q.Path, q.Type, q.Body)
		if code != wantCode {
			t.Errorf("%s\n answers %d, upstream %d", what, code, wantCode)
		}
		if q.OtherWords {
			continue
		}
		slices.Sort(warnings)
		slices.Sort(wantWarnings)
		if !slices.Equal(warnings, wantWarnings) {
			t.Errorf("%s\n warns    %q\n upstream %q", what, warnings, wantWarnings)
		}
		for _, d := range ask.Differ("", ask.Plain(body), ask.Plain(want)) {
			t.Errorf("%s\n%s", what, d)
		}
		if q.Method == "POST" && q.Path == crds && code == 201 { // until it is established, and upstream takes objects without waiting
			for _, s := range []*ask.Side{ours, theirs} {
				established(t, s, q.Body)
			}
			time.Sleep(2500 * time.Millisecond)
		}
	}
}

// established waits for a definition.
func established(t *testing.T, s *ask.Side, definition string) {
	t.Helper()
	var d struct{ Metadata struct{ Name string } }
	if err := yaml.Unmarshal([]byte(definition), &d); err != nil {
		t.Fatal(err)
	}
	plane.Eventually(t, d.Metadata.Name+" of "+s.Name, 30*time.Second, func() error {
		_, _, body := s.Ask(t, ask.Question{Method: "GET", Path: crds + "/" + d.Metadata.Name})
		b, _ := json.Marshal(body)
		if !bytes.Contains(b, []byte(`"reason":"InitialNamesAccepted","status":"True"`)) && !bytes.Contains(b, []byte(`"NotAccepted"`)) {
			return fmt.Errorf("%s", b)
		}
		return nil
	}, s.Processes...)
}
