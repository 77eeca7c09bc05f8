package apply

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	"sigs.k8s.io/yaml"

	"wherry.dev/wherry/test/foreign/ask"
)

// A story is some requests about the same objects, one after the other. Stories are written down in testdata/*.txt:
//
//	## What the story is about. The objects of each story are in a namespace of its own, whose name $ is short for.
//	apply one configmaps/a?force=true
//	data: {x: "1"}
//
// A step is a line with a verb, the manager (or -, for the one that the client's name gives), and what is addressed: a resource, perhaps with version and group
// (horizontalpodautoscalers.v1.autoscaling), a name, perhaps a subresource and parameters. The lines below are the body in YAML, to which type, name and, for an update,
// version are added where they are not said.
//
//	create, update, apply, merge, strategic, json   as the API calls them
//	cbor                                            apply in CBOR
//	edit                                            reads the object, merges the body into it and sends all of it, as clients do
//	get, delete
//	settled                                         waits until a definition of a custom resource is established
//
// A line with a method and a path, and perhaps what is accepted, is a request as it stands.
//
// A line "custom group/version/plural/Kind" names a custom resource of the story's own.
//
// A verb with ! sends the body as it stands, one with ~ wants only the same code of both, because the words are Go's or another program's. A step that is only "tick" waits until the
// clock shows another second, which is how long managed fields tell moments apart.
type story struct {
	name  string
	steps []step
}

type step struct {
	verb, manager, target, query string
	body                         string
	raw, otherWords              bool
}

var (
	titleLine = regexp.MustCompile(`^## (.+)$`)
	ownLine   = regexp.MustCompile(`^custom ([^/\s]+)/([^/\s]+)/([^/\s]+)/([^/\s]+)$`)
	pathLine  = regexp.MustCompile(`^(GET|POST|PUT|PATCH|DELETE) (/\S*)(?: (\S+))?$`)
	stepLine  = regexp.MustCompile(`^(create|update|apply|cbor|merge|strategic|json|edit|get|delete|settled)([!~]*) (\S+) ([^\s?]+)(?:\?(\S+))?$`)
)

// stories reads all of them.
func stories(t *testing.T) (out []story) {
	t.Helper()
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for number, line := range strings.Split(string(b), "\n") {
			var last *story
			if len(out) > 0 {
				last = &out[len(out)-1]
			}
			if m := titleLine.FindStringSubmatch(line); m != nil {
				out = append(out, story{name: m[1]})
				continue
			}
			if m := stepLine.FindStringSubmatch(line); m != nil && last != nil {
				last.steps = append(last.steps, step{verb: m[1], manager: m[3], target: m[4], query: m[5], raw: strings.Contains(m[2], "!"), otherWords: strings.Contains(m[2], "~")})
				continue
			}
			switch {
			case line == "tick" && last != nil:
				last.steps = append(last.steps, step{verb: "tick"})
			case pathLine.MatchString(line) && last != nil:
				m := pathLine.FindStringSubmatch(line)
				last.steps = append(last.steps, step{verb: m[1], target: m[2], query: m[3]})
			case ownLine.MatchString(line) && last != nil:
				last.steps = append(last.steps, step{verb: "custom", target: strings.TrimPrefix(line, "custom ")})
			case last != nil && len(last.steps) > 0:
				s := &last.steps[len(last.steps)-1]
				s.body += line + "\n"
			case strings.TrimSpace(line) != "" && !strings.HasPrefix(line, "#"):
				t.Fatalf("%s:%d: %q is in no step", file, number+1, line)
			}
		}
	}
	return out
}

// resource is where a kind is served.
type resource struct {
	group, version, kind, plural string
	namespaced                   bool
}

// path of an object in a namespace, or of a subresource: target after the resource.
func (r resource) path(namespace, rest string) string {
	out := "/api/" + r.version
	if r.group != "" {
		out = "/apis/" + r.group + "/" + r.version
	}
	if r.namespaced {
		out += "/namespaces/" + namespace
	}
	out += "/" + r.plural
	if rest != "" {
		out += "/" + rest
	}
	return out
}

func (r resource) apiVersion() string { return strings.TrimPrefix(r.group+"/"+r.version, "/") }

// teller tells stories to one side.
type teller struct {
	*ask.Side
	resources map[string]resource
	versions  map[string]string // the last resourceVersion of each object seen, by its uid
}

// ownName is $, but for the directives of strategic patches.
var ownName = regexp.MustCompile(`\$([^a-zA-Z]|$)`)

// question makes the request of a step.
func (s *teller) question(t *testing.T, st step, namespace string) ask.Question {
	t.Helper()
	in := func(text string) string { return ownName.ReplaceAllString(text, namespace+"$1") }
	if strings.HasPrefix(st.target, "/") {
		return ask.Question{Method: st.verb, Path: in(st.target), Accept: st.query}
	}
	name, rest, _ := strings.Cut(in(st.target), "/")
	r, ok := s.resources[name]
	if !ok {
		t.Fatalf("no resource is named %s", name)
	}
	object, sub, _ := strings.Cut(rest, "/")
	q := ask.Question{OtherWords: st.otherWords, Accept: ask.JSON}
	q.Path = r.path(namespace, rest)
	if st.verb == "create" && sub == "" {
		q.Path = r.path(namespace, "")
	}
	var parameters []string
	if st.manager != "-" {
		parameters = append(parameters, "fieldManager="+st.manager)
	}
	if st.query != "" {
		parameters = append(parameters, st.query)
	}
	if len(parameters) > 0 {
		q.Path += "?" + strings.Join(parameters, "&")
	}
	body := in(st.body)
	full := func() map[string]any {
		doc := map[string]any{}
		if err := yaml.Unmarshal([]byte(body), &doc); err != nil {
			t.Fatalf("%s %s: %v", st.verb, st.target, err)
		}
		if doc == nil {
			doc = map[string]any{}
		}
		apiVersion, kind := r.apiVersion(), r.kind
		if sub == "scale" {
			apiVersion, kind = "autoscaling/v1", "Scale"
		}
		if _, has := doc["apiVersion"]; !has {
			doc["apiVersion"] = apiVersion
		}
		if _, has := doc["kind"]; !has {
			doc["kind"] = kind
		}
		m, _ := doc["metadata"].(map[string]any)
		if m == nil {
			m = map[string]any{}
			doc["metadata"] = m
		}
		if _, has := m["name"]; !has {
			m["name"] = object
		}
		return doc
	}
	text := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	asJSON := func() string {
		if st.raw {
			return body
		}
		b, err := yaml.YAMLToJSON([]byte(body))
		if err != nil {
			t.Fatalf("%s %s: %v", st.verb, st.target, err)
		}
		return string(b)
	}
	whole := func() string {
		if st.raw {
			return body
		}
		return text(full())
	}
	switch st.verb {
	case "create":
		q.Method, q.Type, q.Body = "POST", ask.JSON, whole()
	case "update":
		q.Method, q.Type, q.Body = "PUT", ask.JSON, whole()
	case "apply":
		q.Method, q.Type, q.Body = "PATCH", ask.Apply, whole()
	case "cbor":
		q.Method, q.Type, q.Body = "PATCH", "application/apply-patch+cbor", inCBOR(t, full())
	case "merge":
		q.Method, q.Type, q.Body = "PATCH", ask.Merge, asJSON()
	case "strategic":
		q.Method, q.Type, q.Body = "PATCH", ask.Strategic, asJSON()
	case "json":
		q.Method, q.Type, q.Body = "PATCH", ask.JSONPatch, asJSON()
	case "edit":
		code, _, now := s.Ask(t, ask.Question{Method: "GET", Path: r.path(namespace, rest)})
		if code != 200 {
			t.Fatalf("%s: there is no %s to edit: %s", s.Name, st.target, ask.Text(now))
		}
		b, err := jsonpatch.MergePatch([]byte(text(now)), []byte(asJSON()))
		if err != nil {
			t.Fatalf("%s %s: %v", st.verb, st.target, err)
		}
		q.Method, q.Type, q.Body = "PUT", ask.JSON, string(b)
	case "get", "settled":
		q.Method = "GET"
	case "delete":
		q.Method, q.Path = "DELETE", r.path(namespace, rest)
	}
	return q
}

// look takes identities and times away from an answer, but says of each object whether its resourceVersion is another than it was, and of each manager whether there is a time.
func (s *teller) look(v any) any {
	switch v := v.(type) {
	case map[string]any:
		if uid, ok := v["uid"].(string); ok {
			if version, ok := v["resourceVersion"].(string); ok {
				v["changed"] = s.versions[uid] != version
				s.versions[uid] = version
			}
		}
		if list, ok := v["managedFields"].([]any); ok {
			for _, e := range list {
				e := e.(map[string]any)
				_, e["timed"] = e["time"]
			}
		}
		for k := range v {
			v[k] = s.look(v[k])
		}
	case []any:
		for i := range v {
			v[i] = s.look(v[i])
		}
	}
	return v
}

// chance is drawn by lot, or a server's own.
var chance = []string{"clusterIP", "clusterIPs", "nodePort", "healthCheckNodePort", "lastTransitionTime", "startTime", "lastUpdateTime", "lastPhaseTransitionTime", "controller-uid", "batch.kubernetes.io/controller-uid"}

// plain is what both must say alike.
func (s *teller) plain(v any) any {
	return without(ask.Plain(s.look(v)))
}

func without(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for _, k := range slices.Collect(maps.Keys(v)) {
			if slices.Contains(chance, k) {
				if _, isText := v[k].(map[string]any); !isText { // not in a set of fields
					delete(v, k)
					continue
				}
			}
			v[k] = without(v[k])
		}
		if text, ok := v["message"].(string); ok {
			v["message"] = patched.ReplaceAllString(aboutTime.ReplaceAllString(text, "TIME"), "$1 OBJECT$2")
		}
	case []any:
		for i := range v {
			v[i] = without(v[i])
		}
	}
	return v
}

// patched is the outcome of a patch that is refused.
var patched = regexp.MustCompile(`(Invalid value:) "\{.*\}"(:)`)

// aboutTime is a moment in a message: conflicts with an update say when that was.
var aboutTime = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`)

func (st step) String() string {
	return fmt.Sprintf("%s %s %s?%s %.300s", st.verb, st.manager, st.target, st.query, st.body)
}
