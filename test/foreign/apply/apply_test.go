// Package apply tells Wherry and upstream's own API server the same stories of writes, and wants the same answers: the code, the whole object, and who owns which of its fields.
package apply

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	cbor "k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"
	"k8s.io/client-go/discovery"

	"wherry.dev/wherry/test/foreign/ask"
	"wherry.dev/wherry/test/foreign/build"
	"wherry.dev/wherry/test/foreign/plane"
)

func TestMain(m *testing.M) { plane.Main(m) }

// start starts both sides, with nothing beside their API servers.
func start(t *testing.T) (ours, theirs *teller) {
	t.Helper()
	plane.Need(t)
	for _, name := range []string{"kube-apiserver", "etcd"} {
		build.Need(t, name)
	}
	wherry, upstream := plane.StartWherry(t, plane.Port, "--disable", "scheduler,controllers"), plane.StartUpstream(t, plane.Port+1000)
	resources := served(t, wherry)
	return &teller{ask.New(t, wherry), resources, map[string]string{}}, &teller{ask.New(t, upstream), resources, map[string]string{}}
}

// served are the resources of p by their names, and by name, version and group.
func served(t *testing.T, p *plane.Plane) map[string]resource {
	t.Helper()
	client, err := discovery.NewDiscoveryClientForConfig(p.Config)
	if err != nil {
		t.Fatal(err)
	}
	_, lists, err := client.ServerGroupsAndResources()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]resource{}
	for _, l := range lists {
		gv, err := schema.ParseGroupVersion(l.GroupVersion)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range l.APIResources {
			if strings.Contains(r.Name, "/") {
				continue
			}
			of := resource{gv.Group, gv.Version, r.Kind, r.Name, r.Namespaced}
			if _, has := out[r.Name]; !has { // the first is the preferred one
				out[r.Name] = of
			}
			out[strings.TrimSuffix(r.Name+"."+gv.Version+"."+gv.Group, ".")] = of
		}
	}
	return out
}

// TestStories tells all stories to both.
func TestStories(t *testing.T) {
	ours, theirs := start(t)
	told := 0
	for i, st := range stories(t) {
		namespace := fmt.Sprintf("s%d", i)
		t.Run(st.name, func(t *testing.T) {
			settle(t, namespace, ours, theirs)
			tell(t, st, namespace, ours, theirs)
			told++
		})
	}
	t.Logf("%d stories", told)
}

// settle makes a namespace that pods can be in.
func settle(t *testing.T, namespace string, sides ...*teller) {
	t.Helper()
	for _, s := range sides {
		for _, q := range []ask.Question{
			{Method: "POST", Path: "/api/v1/namespaces", Type: ask.JSON, Body: `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"` + namespace + `"}}`},
			{Method: "POST", Path: "/api/v1/namespaces/" + namespace + "/serviceaccounts", Type: ask.JSON, Body: `{"apiVersion":"v1","kind":"ServiceAccount","metadata":{"name":"default"},"automountServiceAccountToken":false}`},
		} {
			if code, _, body := s.Ask(t, q); code != 201 {
				t.Fatalf("%s: %s %s: %d %s", s.Name, q.Method, q.Path, code, ask.Text(body))
			}
		}
	}
}

// tell goes through one story, and reports where the two part.
func tell(t *testing.T, st story, namespace string, ours, theirs *teller) {
	t.Helper()
	for i, step := range st.steps {
		if step.verb == "tick" {
			time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(time.Second + 10*time.Millisecond)))
			continue
		}
		if step.verb == "custom" {
			p := strings.Split(ownName.ReplaceAllString(step.target, namespace+"$1"), "/")
			of := resource{p[0], p[1], p[3], p[2], true}
			ours.resources[p[2]+"."+p[1]+"."+p[0]] = of // which both sides share
			for _, s := range []*teller{ours, theirs} {
				plane.Eventually(t, step.target+" of "+s.Name, time.Minute, func() error {
					if code, _, body := s.Ask(t, ask.Question{Method: "GET", Path: of.path(namespace, "")}); code != 200 {
						return fmt.Errorf("%d: %s", code, ask.Text(body))
					}
					return nil
				}, s.Processes...)
			}
			continue
		}
		if step.verb == "settled" {
			for _, s := range []*teller{ours, theirs} {
				s.established(t, s.question(t, step, namespace))
			}
			continue
		}
		q := ours.question(t, step, namespace)
		code, warnings, body := ours.Ask(t, q)
		wantCode, wantWarnings, want := theirs.Ask(t, theirs.question(t, step, namespace))
		body, want = ours.plain(body), theirs.plain(want)
		what := fmt.Sprintf("step %d: %s", i+1, step)
		t.Logf("%s\n %d %.300s", what, wantCode, ask.Text(want))
		if code != wantCode {
			t.Errorf("%s\n answers %d, upstream %d: %s\n upstream: %s", what, code, wantCode, ask.Text(body), ask.Text(want))
			continue
		}
		if q.OtherWords {
			continue
		}
		slices.Sort(warnings)
		slices.Sort(wantWarnings)
		if !slices.Equal(warnings, wantWarnings) {
			t.Errorf("%s\n warns    %q\n upstream %q", what, warnings, wantWarnings)
		}
		if diff := ask.Differ("", body, want); len(diff) > 0 {
			t.Errorf("%s\n%s", what, strings.Join(diff, "\n"))
		}
	}
}

// established waits until a server has accepted a definition and has come to serve it.
func (s *teller) established(t *testing.T, q ask.Question) {
	t.Helper()
	plane.Eventually(t, q.Path+" of "+s.Name, time.Minute, func() error {
		_, _, body := s.Ask(t, q)
		b, err := json.Marshal(body)
		if err == nil && !established.Match(b) {
			err = fmt.Errorf("%s", b)
		}
		return err
	}, s.Processes...)
}

var established = regexp.MustCompile(`"status":"True","type":"Established"`)

func inCBOR(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var doc any
	if err := json.Unmarshal(b, &doc); err != nil {
		t.Fatal(err)
	}
	b, err = cbor.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
