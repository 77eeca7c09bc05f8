package kinds

import (
	"bufio"
	"compress/gzip"
	"context"
	"encoding/json"
	"flag"
	"io"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
	"sigs.k8s.io/yaml"
)

// What upstream answers to every other kind is recorded in the files answers.jsonl.gz below testdata/kinds, from the manifests
// beside each with one thing changed. To record again: build the package kinds of testdata/upstream, and run
//
//	go test ./api/kinds -run TestKindAnswers -upstream-kinds PROGRAM
//
// or -run TestKindAnswers/storage for the folder storage alone.
var upstreamKinds = flag.String("upstream-kinds", "", "program of testdata/upstream/kinds: record its answers anew")

// kindFolders are those of testdata/kinds with manifests, and what is recorded of them.
var kindFolders = []string{".", "storage", "networking", "admission", "flowcontrol", "certificates"}

// kindCase is one question to upstream, with the answer.
type kindCase struct {
	Op       string          `json:"op"`            // create, update, a subresource, or print
	File     string          `json:"file"`          // manifest in testdata/kinds
	Was      []change        `json:"was,omitempty"` // made to the manifest before it is stored (updates)
	Set      []change        `json:"set,omitempty"` // made by the request
	Errors   []string        `json:"errors,omitempty"`
	Warnings []string        `json:"warnings,omitempty"`
	Object   json.RawMessage `json:"object,omitempty"` // what is stored, where nothing is wrong

	// Of print: when, and the columns (without their descriptions) and cells.
	Now     *metav1.Time                   `json:"now,omitempty"`
	Columns []metav1.TableColumnDefinition `json:"columns,omitempty"`
	Cells   []any                          `json:"cells,omitempty"`
}

func kindManifest(t testing.TB, name string) (*Kind, any) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata/kinds", name+".yaml"))
	if err != nil {
		t.Fatal(err)
	}
	data, err := yaml.YAMLToJSON(text)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	var document map[string]any
	if err := json.Unmarshal(data, &document); err != nil {
		t.Fatal(err)
	}
	want := schema.FromAPIVersionAndKind(document["apiVersion"].(string), document["kind"].(string))
	delete(document, "apiVersion")
	delete(document, "kind")
	for _, k := range All() {
		if k.GroupVersionKind == want {
			return k, document
		}
	}
	t.Fatalf("%s: no kind %s", name, want)
	return nil, nil
}

func decodeAs(k *Kind, document any) (runtime.Object, error) {
	data, err := json.Marshal(document)
	if err != nil {
		return nil, err
	}
	obj := k.New()
	return obj, json.Unmarshal(data, obj)
}

func documentOf(t testing.TB, obj any) (document any) {
	t.Helper()
	data, err := json.Marshal(obj)
	if err == nil {
		err = json.Unmarshal(data, &document)
	}
	if err != nil {
		t.Fatal(err)
	}
	return document
}

// stored is a manifest as it lies in the store.
func stored(t testing.TB, k *Kind, document any) runtime.Object {
	t.Helper()
	obj, err := decodeAs(k, document)
	if err != nil {
		t.Fatal(err)
	}
	if k.Default != nil {
		k.Default(obj)
	}
	m := objectMeta(obj)
	m.UID, m.ResourceVersion = "u", "7"
	return obj
}

// question makes the object of a request and the stored one; ok is false for what cannot be decoded.
func (c *kindCase) question(t testing.TB) (k *Kind, obj, old runtime.Object, ok bool) {
	t.Helper()
	k, document := kindManifest(t, c.File)
	if c.Op != "create" && c.Op != "print" {
		old = stored(t, k, applyChanges(document, c.Was))
		document = documentOf(t, old)
	}
	obj, err := decodeAs(k, applyChanges(document, c.Set))
	if err == nil { // as upstream gets it: empty lists are not written
		obj, err = decodeAs(k, documentOf(t, obj))
	}
	return k, obj, old, err == nil
}

var jane = request.WithUser(context.Background(), &user.DefaultInfo{Name: "jane", UID: "7", Groups: []string{"g"}, Extra: map[string][]string{"k": {"v"}}})

// kindAnswer does what the API server does with a write.
func kindAnswer(k *Kind, op string, obj, old runtime.Object) (errs field.ErrorList, warnings []string) {
	if k.Default != nil {
		k.Default(obj)
	}
	if old != nil {
		objectMeta(obj).Generation = objectMeta(old).Generation
	}
	prepare, prepareUpdate, validateUpdate := k.PrepareForCreate, k.PrepareForUpdate, k.ValidateUpdate
	if op == "create" {
		if prepare != nil {
			prepare(jane, obj)
		}
		errs = k.Validate(jane, obj)
	} else {
		if op != "update" {
			s := k.Subresources[op]
			prepareUpdate, validateUpdate = s.PrepareForUpdate, s.ValidateUpdate
		}
		if prepareUpdate != nil {
			prepareUpdate(jane, obj, old)
		}
		errs = validateUpdate(jane, obj, old)
	}
	if k.Warnings != nil && len(errs) == 0 && (op == "create" || op == "update") {
		warnings = k.Warnings(jane, obj, old)
	}
	return errs, warnings
}

// forgetStamps removes times that writes set to now.
func forgetStamps(document any) any {
	if m, ok := document.(map[string]any); ok {
		if c, ok := m["status"].(map[string]any); ok {
			delete(c, "lastPhaseTransitionTime")
			for _, x := range asList(c["conditions"]) {
				if x, ok := x.(map[string]any); ok {
					delete(x, "lastTransitionTime")
					delete(x, "lastUpdateTime")
				}
			}
		}
	}
	return document
}

func asList(v any) []any {
	list, _ := v.([]any)
	return list
}

// plainFaults is plainErrors with the values left out where upstream prints its internal types.
func plainFaults(errs field.ErrorList) (plain []string) {
	for _, e := range errs {
		plain = append(plain, plainFault(e.Field, e.ErrorBody()))
	}
	slices.Sort(plain)
	return slices.Compact(plain)
}

var (
	// hiddenValue is a value that upstream prints in the form of its internal types, or not at all.
	hiddenValue = regexp.MustCompile(`(value|field): (0x[0-9a-f]+|\(\*[^:]*|"<[^"]*>"|\{.*\}|\[.*\]|null|"[A-Za-z0-9+/]{200,}={0,2}")`)
)

func plainFault(path, body string) string {
	if strings.HasSuffix(body, ": field is immutable") { // the value is a pointer's, or not, by the kind
		body = "Invalid value: null: field is immutable"
	}
	body, _, _ = strings.Cut(body, "\n@@") // a difference, between internal types
	return path + ": " + hiddenValue.ReplaceAllString(body, "$1: VALUE")
}

func TestKindAnswers(t *testing.T) {
	for _, folder := range kindFolders {
		t.Run(folder, func(t *testing.T) { testKindAnswers(t, folder) })
	}
}

func testKindAnswers(t *testing.T, folder string) {
	answersFile := filepath.Join("testdata/kinds", folder, "answers.jsonl.gz")
	if *upstreamKinds != "" {
		recordKindAnswers(t, folder, answersFile)
	}
	f, err := os.Open(answersFile)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	decoder, n, wrong := json.NewDecoder(z), 0, map[string]int{}
	for {
		var c kindCase
		if err := decoder.Decode(&c); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		n++
		k, obj, old, ok := c.question(t)
		if !ok {
			t.Fatalf("%s %s set %s cannot be decoded", c.Op, c.File, show(c.Set))
		}
		if c.Op == "print" {
			columns := slices.Clone(k.Columns)
			for i := range columns {
				columns[i].Description = ""
			}
			if got, want := show(columns), show(c.Columns); got != want {
				t.Errorf("columns of %s:\n got %s\nwant %s", k.Plural, got, want)
			}
			if k.Default != nil {
				k.Default(obj)
			}
			// Upstream's IP addresses have a cell too many, which nobody sees.
			if got, want := show(k.Row(obj, c.Now.Time)), show(c.Cells[:len(c.Columns)]); got != want {
				t.Errorf("%s set %s is printed\n as %s\nnot %s", c.File, show(c.Set), got, want)
			}
			continue
		}
		errs, warnings := kindAnswer(k, c.Op, obj, old)
		if k.Default != nil { // the answer is what a reader makes of what was stored
			k.Default(obj)
		}
		complain := func(what, difference string) {
			if wrong[c.File]++; wrong[c.File] <= 12 {
				t.Errorf("%s %s was %s set %s: %s%s", c.Op, c.File, show(c.Was), show(c.Set), what, difference)
			}
		}
		if d := differ(plainFaults(errs), c.Errors); d != "" {
			complain("errors", d)
		}
		if d := differ(warnings, c.Warnings); d != "" {
			complain("warnings", d)
		}
		if c.Object != nil {
			kept := k.New()
			if err := json.Unmarshal(c.Object, kept); err != nil {
				t.Fatal(err)
			}
			if k.Default != nil { // as reading it back does
				k.Default(kept)
			}
			got, want := documentOf(t, obj), documentOf(t, kept)
			for _, d := range []any{got, want} {
				delete(d.(map[string]any), "kind")
				delete(d.(map[string]any), "apiVersion")
			}
			if got, want := forgetStamps(got), forgetStamps(want); !equality.Semantic.DeepEqual(got, want) {
				complain("object", differ(strings.Split(show(got), ","), strings.Split(show(want), ",")))
			}
		}
	}
	least := 1000
	if folder == "certificates" { // few kinds, with few fields
		least = 600
	}
	if n < least {
		t.Errorf("%d answers in %s, expected more than %d", n, answersFile, least)
	}
	for file, n := range wrong {
		t.Logf("%s: %d differ", file, n)
	}
}

// differ lists what only one side has, ours after +, upstream's after -.
func differ(got, want []string) string {
	var out strings.Builder
	for _, g := range got {
		if !slices.Contains(want, g) {
			out.WriteString("\n  + " + g)
		}
	}
	for _, w := range want {
		if !slices.Contains(got, w) {
			out.WriteString("\n  - " + w)
		}
	}
	return out.String()
}

// leavesToServer reports whether the answer would be about what a client may leave out and our server fills in around the
// rules that answer here (services), or about what no server has (a random name, a UID that is no UID).
func leavesToServer(c kindCase) bool {
	if c.Op == "create" && strings.HasPrefix(c.File, "limitrange") && len(c.Set) == 1 && (strings.HasSuffix(show(c.Set[0].At), `["metadata","name"]`) || len(c.Set[0].At) == 1) {
		return true
	}
	if strings.HasPrefix(c.File, "endpointslice") && c.Op != "print" && strings.Contains(show(c.Set), `"port"],"to"`) {
		return true // upstream takes any number for a port; ours must be one
	}
	if c.Op == "create" && strings.HasPrefix(c.File, "job") && (strings.Contains(show(c.Set), `["metadata","uid"]`) || c.File == "job-bare" && strings.Contains(show(c.Set), `["metadata","name"]`)) {
		return true
	}
	if !strings.HasPrefix(c.File, "service") || c.File == "serviceaccount" {
		return false
	}
	set := show(c.Set)
	if c.Op == "create" && strings.Contains(set, `"clusterIP"],"to":"None"`) {
		return true
	}
	for _, field := range []string{"clusterIP", "nodePort", "healthCheckNodePort", "spec", "ipFamilies", "ipFamilyPolicy"} {
		if c.Op == "update" && len(c.Set) == 1 && strings.Contains(set, `"`+field+`"]`) {
			return true
		}
	}
	return strings.Contains(set, `"clusterIPs"`) && !strings.Contains(set, `"clusterIPs"],"to":["`)
}

func kindQuestions(t *testing.T, folder string) (questions []kindCase) {
	files, err := filepath.Glob(filepath.Join("testdata/kinds", folder, "*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewSource(1))
	anyValue := func() json.RawMessage { return json.RawMessage(oddValues[random.Intn(len(oddValues))]) }
	for _, file := range files {
		name := filepath.Join(folder, strings.TrimSuffix(filepath.Base(file), ".yaml"))
		k, document := kindManifest(t, name)
		if k.Row != nil {
			questions = append(questions, kindCase{Op: "print", File: name})
		}
		ops := []string{"create"}
		if slices.Contains(k.Verbs, "update") {
			ops = append(ops, "update")
			for name, sub := range k.Subresources {
				if sub.Write == nil { // scale is another type's
					ops = append(ops, name)
				}
			}
			slices.Sort(ops)
		}
		for _, op := range ops {
			questions = append(questions, kindCase{Op: op, File: name})
			values := 3
			from := document
			if op != "create" {
				from = documentOf(t, stored(t, k, document))
			}
			for _, at := range placesIn(from, nil) {
				questions = append(questions, kindCase{Op: op, File: name, Set: []change{{At: at}}})
				for range values {
					questions = append(questions, kindCase{Op: op, File: name, Set: []change{{At: at, To: anyValue()}}})
				}
				if i, ok := at[len(at)-1].(int); ok {
					next := append(slices.Clone(at[:len(at)-1]), i+1)
					questions = append(questions, kindCase{Op: op, File: name, Set: []change{{At: next, To: valueAt(from, at)}}})
				}
			}
		}
	}
	return append(questions, writtenQuestions(t, folder)...)
}

// writtenQuestions reads the folder's file questions: an operation, a manifest, then changes "path=value", those before
// "->" made to the stored object. In a path, "%" stands for a dot.
func writtenQuestions(t *testing.T, folder string) (questions []kindCase) {
	text, err := os.ReadFile(filepath.Join("testdata/kinds", folder, "questions"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		if len(words) == 0 || words[0] == "#" {
			continue
		}
		c := kindCase{Op: words[0], File: filepath.Join(folder, words[1])}
		for _, word := range words[2:] {
			if word == "->" {
				c.Was, c.Set = c.Set, nil
				continue
			}
			path, value, set := strings.Cut(word, "=")
			var change change
			for step := range strings.SplitSeq(path, ".") {
				step = strings.ReplaceAll(step, "%", ".")
				if n := 0; len(step) < 3 && json.Unmarshal([]byte(step), &n) == nil {
					change.At = append(change.At, n)
				} else {
					change.At = append(change.At, step)
				}
			}
			if set {
				change.To = json.RawMessage(value)
			}
			c.Set = append(c.Set, change)
		}
		questions = append(questions, c)
	}
	return questions
}

func recordKindAnswers(t *testing.T, folder, answersFile string) {
	command := exec.Command(*upstreamKinds)
	command.Stderr = os.Stderr
	in, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(answersFile)
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewWriterLevel(f, gzip.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	ask, answers, record := json.NewEncoder(in), json.NewDecoder(bufio.NewReader(out)), json.NewEncoder(z)
	asked := map[string]bool{}
	for _, c := range kindQuestions(t, folder) {
		if asked[show(c)] || leavesToServer(c) {
			continue
		}
		asked[show(c)] = true
		k, obj, old, ok := c.question(t)
		if !ok {
			continue
		}
		question := map[string]any{"op": c.Op, "kind": k.GroupVersionKind, "resource": k.Plural, "obj": obj}
		if old != nil {
			question["old"] = old
		}
		if err := ask.Encode(question); err != nil {
			t.Fatal(err)
		}
		var a struct {
			Errors   []struct{ Field, Value string }
			Warnings []string
			Obj      json.RawMessage
			Columns  []metav1.TableColumnDefinition
			Cells    []any
			Panic    string
		}
		if err := answers.Decode(&a); err != nil {
			t.Fatal(err)
		}
		if c.Op == "print" {
			now := metav1.Now()
			c.Now, c.Columns, c.Cells = &now, a.Columns, a.Cells
			for i := range c.Columns {
				c.Columns[i].Description = ""
			}
		}
		if a.Panic != "" {
			t.Logf("%s %s set %s: upstream panics: %s", c.Op, c.File, show(c.Set), a.Panic)
			continue
		}
		for _, e := range a.Errors {
			c.Errors = append(c.Errors, plainFault(e.Field, e.Value))
		}
		slices.Sort(c.Errors)
		c.Errors = slices.Compact(c.Errors)
		slices.Sort(a.Warnings)
		if len(a.Errors) == 0 && c.Op != "print" {
			if c.Op == "create" || c.Op == "update" {
				c.Warnings = a.Warnings
			}
			c.Object = a.Obj
		}
		if err := record.Encode(c); err != nil {
			t.Fatal(err)
		}
	}
	for _, closer := range []io.Closer{in, z, f} {
		if err := closer.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := command.Wait(); err != nil {
		t.Fatal(err)
	}
}

// TestRowsFitColumns: every row has as many cells as there are columns.
func TestRowsFitColumns(t *testing.T) {
	for _, k := range All() {
		if k.Row == nil {
			continue
		}
		if got := len(k.Row(k.New(), time.Now())); got != len(k.Columns) {
			t.Errorf("%s: %d cells, %d columns", k.Plural, got, len(k.Columns))
		}
	}
}
