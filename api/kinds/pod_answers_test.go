package kinds

import (
	"bufio"
	"compress/gzip"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"
)

// What upstream answers to a pod is recorded in testdata/pods/answers.jsonl.gz, from the pods beside it with one or a few
// things wrong in each. To record again: build testdata/upstream, and run
//
//	go test ./api/kinds -run TestPodAnswers -upstream PROGRAM
var upstreamProgram = flag.String("upstream", "", "program of testdata/upstream: record its answers anew")

const answersFile = "testdata/pods/answers.jsonl.gz"

// podCase is one question to upstream, with the answer.
type podCase struct {
	Op       string   `json:"op"`            // create, update, or a subresource
	Pod      string   `json:"pod"`           // file in testdata/pods
	Was      []change `json:"was,omitempty"` // made to the pod before it is stored (updates)
	Set      []change `json:"set,omitempty"` // made by the request
	Errors   []string `json:"errors,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
	// Object is what is stored, for pods with nothing wrong.
	Object *corev1.Pod `json:"object,omitempty"`
}

// change replaces what is at a path; a missing To removes it.
type change struct {
	At []any           `json:"at"`
	To json.RawMessage `json:"to,omitempty"`
}

func TestPodAnswers(t *testing.T) {
	if *upstreamProgram != "" {
		recordPodAnswers(t)
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
	decoder, n, wrong := json.NewDecoder(z), 0, 0
	for {
		var c podCase
		if err := decoder.Decode(&c); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		n++
		pod, old := c.build(t)
		errs, warnings := answer(c.Op, pod, old)
		if got := plainErrors(errs); !slices.Equal(got, c.Errors) {
			t.Errorf("%s %s was %s set %s:\n got %s\nwant %s", c.Op, c.Pod, show(c.Was), show(c.Set), strings.Join(got, "\n     "), strings.Join(c.Errors, "\n     "))
			wrong++
		}
		slices.Sort(warnings)
		if !slices.Equal(warnings, c.Warnings) {
			t.Errorf("%s %s set %s: warnings\n got %q\nwant %q", c.Op, c.Pod, show(c.Set), warnings, c.Warnings)
		}
		if c.Object != nil {
			forgetTimes(pod)
			if !equality.Semantic.DeepEqual(pod, c.Object) {
				t.Errorf("%s %s set %s: object\n got %s\nwant %s", c.Op, c.Pod, show(c.Set), show(pod), show(c.Object))
			}
		}
		if wrong > 20 {
			t.Fatal("and so on")
		}
	}
	if n < 1000 {
		t.Errorf("%d answers in %s, expected more than 1000", n, answersFile)
	}
}

// answer does what the API server does with a write.
func answer(op string, pod, old *corev1.Pod) (field.ErrorList, []string) {
	kind, ctx := Pods(), context.Background()
	kind.Default(pod)
	switch op {
	case "create":
		kind.PrepareForCreate(ctx, pod)
		return kind.Validate(ctx, pod), kind.Warnings(ctx, pod, nil)
	case "update":
		kind.PrepareForUpdate(ctx, pod, old)
		return kind.ValidateUpdate(ctx, pod, old), kind.Warnings(ctx, pod, old)
	}
	s := kind.Subresources[op]
	s.PrepareForUpdate(ctx, pod, old)
	return s.ValidateUpdate(ctx, pod, old), nil
}

// build makes the pod of a request and the stored one.
func (c *podCase) build(t *testing.T) (pod, old *corev1.Pod) {
	t.Helper()
	document := podFile(t, c.Pod)
	if c.Op == "create" {
		return decodePod(t, applyChanges(document, c.Set)), nil
	}
	old = decodePod(t, document)
	kind := Pods()
	kind.Default(old)
	kind.PrepareForCreate(context.Background(), old)
	old.UID, old.ResourceVersion = "u", "7"
	forgetTimes(old)
	old = decodePod(t, applyChanges(encodePod(t, old), c.Was))
	kind.Default(old)
	return decodePod(t, applyChanges(encodePod(t, old), c.Set)), old
}

// podFiles has the files of testdata/pods as JSON, once read.
var podFiles sync.Map

func podFile(t testing.TB, name string) (document any) {
	t.Helper()
	data, ok := podFiles.Load(name)
	if !ok {
		text, err := os.ReadFile(filepath.Join("testdata/pods", name+".yaml"))
		if err != nil {
			t.Fatal(err)
		}
		if data, err = yaml.YAMLToJSON(text); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		podFiles.Store(name, data)
	}
	if err := json.Unmarshal(data.([]byte), &document); err != nil {
		t.Fatal(err)
	}
	return document
}

func encodePod(t *testing.T, pod *corev1.Pod) (document any) {
	t.Helper()
	data, err := json.Marshal(pod)
	if err == nil {
		err = json.Unmarshal(data, &document)
	}
	if err != nil {
		t.Fatal(err)
	}
	return document
}

func decodePod(t testing.TB, document any) *corev1.Pod {
	t.Helper()
	pod, err := tryDecodePod(document)
	if err != nil {
		t.Fatal(err)
	}
	return pod
}

func tryDecodePod(document any) (*corev1.Pod, error) {
	data, err := json.Marshal(document)
	if err != nil {
		return nil, err
	}
	pod := &corev1.Pod{}
	return pod, json.Unmarshal(data, pod)
}

// applyChanges returns document changed; it may change its argument.
func applyChanges(document any, changes []change) any {
	for _, c := range changes {
		document = applyChange(document, c.At, c.To)
	}
	return document
}

func applyChange(node any, at []any, to json.RawMessage) any {
	if len(at) == 0 {
		var value any
		if to != nil {
			if err := json.Unmarshal(to, &value); err != nil {
				panic(err)
			}
		}
		return value
	}
	switch step := at[0].(type) {
	case string:
		m, ok := node.(map[string]any)
		if !ok {
			m = map[string]any{}
		}
		if len(at) == 1 && to == nil {
			delete(m, step)
		} else {
			m[step] = applyChange(m[step], at[1:], to)
		}
		return m
	case float64, int:
		list, _ := node.([]any)
		i := 0
		fmt.Sscan(fmt.Sprint(step), &i)
		for len(list) <= i {
			list = append(list, nil)
		}
		if len(at) == 1 && to == nil {
			return slices.Delete(list, i, i+1)
		}
		list[i] = applyChange(list[i], at[1:], to)
		return list
	}
	panic(fmt.Sprintf("step %v", at[0]))
}

func forgetTimes(pod *corev1.Pod) {
	pod.TypeMeta = metav1.TypeMeta{}
	for i := range pod.Status.Conditions {
		pod.Status.Conditions[i].LastTransitionTime = metav1.Time{}
	}
}

var (
	// Upstream prints whole objects with the field names of its internal types, and differences of them.
	objectValue = regexp.MustCompile(`Invalid value: (\{.*\}|\[.*\]): `)
	difference  = regexp.MustCompile(`(?s)\n.*`)
)

// plainErrors is what must be equal of errors: path, type and text of each, in any order.
func plainErrors(errs field.ErrorList) (plain []string) {
	for _, e := range errs {
		plain = append(plain, plainError(e.Field, e.ErrorBody()))
	}
	slices.Sort(plain)
	return slices.Compact(plain)
}

func plainError(path, body string) string {
	return path + ": " + difference.ReplaceAllString(objectValue.ReplaceAllString(body, "Invalid value: OBJECT: "), "")
}

func show(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// recordPodAnswers asks upstream anew: each pod as it is, and each with every one of its fields changed in a few ways.
func recordPodAnswers(t *testing.T) {
	command := exec.Command(*upstreamProgram)
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
	ask, answers := json.NewEncoder(in), json.NewDecoder(bufio.NewReader(out))
	f, err := os.Create(answersFile)
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewWriterLevel(f, gzip.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	record, asked := json.NewEncoder(z), map[string]bool{}
	for _, c := range podQuestions(t) {
		if key := show(c); asked[key] {
			continue
		} else {
			asked[key] = true
		}
		if _, err := tryDecodePod(applyChanges(podFile(t, c.Pod), c.Set)); err != nil && c.Op == "create" {
			continue // not even a pod
		}
		pod, old := c.build(t)
		if err := ask.Encode(map[string]any{"op": c.Op, "obj": pod, "old": old}); err != nil {
			t.Fatal(err)
		}
		var a struct {
			Errors   []struct{ Field, Value string }
			Warnings []string
			Obj      *corev1.Pod
			Panic    string
		}
		if err := answers.Decode(&a); err != nil {
			t.Fatal(err)
		}
		if a.Panic != "" {
			continue
		}
		for _, e := range a.Errors {
			c.Errors = append(c.Errors, plainError(e.Field, e.Value))
		}
		slices.Sort(c.Errors)
		c.Errors = slices.Compact(c.Errors)
		if c.Op == "create" {
			slices.Sort(a.Warnings)
			c.Warnings = a.Warnings
		}
		if len(a.Errors) == 0 && (len(c.Set) == 0 || c.Op != "create") {
			forgetTimes(a.Obj)
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

// oddValues are what fields are changed to.
var oddValues = []string{`""`, `"a"`, `"UPPER"`, `"a b"`, `"../x"`, `"/abs"`, `"..data"`, `"1.2.3.4"`, `"01.2.3.4"`, `"-a"`, `"example.com/x"`, `"a/b/c"`, `"Exists"`,
	`"Never"`, `"Always"`, `"Localhost"`, `"windows"`, `"None"`, `"beta.kubernetes.io/os"`, `"metadata.labels['a b']"`, `"status.phase"`, `"limits.cpu"`,
	`-1`, `0`, `1`, `2`, `99`, `101`, `1000`, `70000`, `4294967297`, `"1.5"`, `"-1"`, `"3"`, `true`, `false`, `{}`, `[]`, `null`,
	`"` + strings.Repeat("a", 64) + `"`, `"` + strings.Repeat("a.", 140) + `a"`}

func podQuestions(t *testing.T) (questions []podCase) {
	files, err := filepath.Glob("testdata/pods/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewSource(1))
	anyValue := func() json.RawMessage { return json.RawMessage(oddValues[random.Intn(len(oddValues))]) }
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".yaml")
		questions = append(questions, podCase{Op: "create", Pod: name})
		places := placesIn(podFile(t, name), nil)
		for _, at := range places {
			questions = append(questions, podCase{Op: "create", Pod: name, Set: []change{{At: at}}})
			for range 4 {
				questions = append(questions, podCase{Op: "create", Pod: name, Set: []change{{At: at, To: anyValue()}}})
			}
			if i, ok := at[len(at)-1].(int); ok { // the same thing twice
				next := append(slices.Clone(at[:len(at)-1]), i+1)
				questions = append(questions, podCase{Op: "create", Pod: name, Set: []change{{At: next, To: valueAt(podFile(t, name), at)}}})
			}
		}
		old := decodePod(t, podFile(t, name))
		Pods().Default(old)
		Pods().PrepareForCreate(context.Background(), old)
		stored := placesIn(encodePod(t, old), nil)
		for range 60 {
			at := stored[random.Intn(len(stored))]
			c := podCase{Op: "update", Pod: name, Set: []change{{At: at, To: anyValue()}}}
			if random.Intn(4) == 0 {
				c.Set[0].To = nil
			}
			if _, err := tryDecodePod(applyChanges(encodePod(t, old), c.Set)); err == nil {
				questions = append(questions, c)
			}
		}
	}
	return append(questions, podUpdateQuestions()...)
}

// placesIn lists the paths of everything below node.
func placesIn(node any, prefix []any) (places [][]any) {
	visit := func(step, value any) {
		at := append(slices.Clone(prefix), step)
		places = append(append(places, at), placesIn(value, at)...)
	}
	switch node := node.(type) {
	case map[string]any:
		keys := make([]string, 0, len(node))
		for key := range node {
			keys = append(keys, key)
		}
		slices.Sort(keys)
		for _, key := range keys {
			visit(key, node[key])
		}
	case []any:
		for i := range node {
			visit(i, node[i])
		}
	}
	return places
}

func valueAt(node any, at []any) json.RawMessage {
	for _, step := range at {
		switch step := step.(type) {
		case string:
			node = node.(map[string]any)[step]
		case int:
			node = node.([]any)[step]
		}
	}
	return json.RawMessage(show(node))
}
