package verbs

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	cbor "k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"
	"k8s.io/apimachinery/pkg/types"
	apirequest "k8s.io/apiserver/pkg/endpoints/request"

	"wherry.dev/wherry/api/kinds"
	"wherry.dev/wherry/apiserver/managed"
	"wherry.dev/wherry/apiserver/wire"
	"wherry.dev/wherry/internal/bounded"
)

// patched is an object of a kind, to be patched.
type patched struct {
	s      *Served
	live   runtime.Object
	before string // live's JSON
}

// patchable are two kinds with little in common: what is flat, and what has lists with keys, lists of lists and a status.
func patchable(t testing.TB) []patched {
	meta := metav1.ObjectMeta{Name: "a", Namespace: "b", UID: "u", ResourceVersion: "1", Labels: map[string]string{"l": "m"}, Finalizers: []string{"x.example/f"}}
	always := corev1.ContainerRestartPolicyAlways
	ps := []patched{
		{s: &Served{Kind: kinds.ConfigMaps()}, live: &corev1.ConfigMap{ObjectMeta: meta, Data: map[string]string{"k": "v"}}},
		{s: &Served{Kind: kinds.Pods()}, live: &corev1.Pod{ObjectMeta: meta,
			Spec: corev1.PodSpec{InitContainers: []corev1.Container{{Name: "i", Image: "i", RestartPolicy: &always}},
				Containers:  []corev1.Container{{Name: "c", Image: "i", Ports: []corev1.ContainerPort{{ContainerPort: 80}}, Env: []corev1.EnvVar{{Name: "E", Value: "v"}}}, {Name: "d", Image: "j"}},
				Tolerations: []corev1.Toleration{{Key: "t"}}, Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}},
			Status: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}, PodIPs: []corev1.PodIP{{IP: "10.0.0.1"}}}}},
	}
	types := &managed.Types{}
	for i := range ps {
		p := &ps[i]
		k := p.s.Kind
		p.s.Type, p.s.Decoder, p.s.Managed = wire.NewType(k), wire.NewDecoder(), map[string]*managed.Manager{"": managed.New(k, "", types)}
		if k.Default != nil {
			k.Default(p.live)
		}
		p.live.GetObjectKind().SetGroupVersionKind(k.GroupVersionKind)
		p.live = p.s.Managed[""].Update(nil, p.live, "before")
		b, err := wire.Encode(wire.Accept{}, k.GroupVersionKind, p.live)
		if err != nil {
			t.Fatal(err)
		}
		p.before = string(b)
	}
	return ps
}

// request is a patch of p's object, as it comes to the patcher.
func (p *patched) request(force bool, directive uint8) *patcher {
	r := &Request{HTTP: httptest.NewRequest(http.MethodPatch, "/", nil), Writer: httptest.NewRecorder(), Info: &apirequest.RequestInfo{Name: "a", Namespace: "b"}, query: url.Values{}}
	return &patcher{s: p.s, r: r, options: &metav1.PatchOptions{Force: &force}, manager: "m",
		directive: []wire.Directive{metav1.FieldValidationIgnore, metav1.FieldValidationWarn, metav1.FieldValidationStrict}[directive%3]}
}

// outcome is a patched object as JSON, without the times in its managed fields: those of two writes differ.
func (p *patched) outcome(t *testing.T, obj runtime.Object) string {
	t.Helper()
	obj = obj.DeepCopyObject()
	m, err := meta.Accessor(obj)
	if err != nil {
		t.Fatal(err)
	}
	entries := m.GetManagedFields()
	for i := range entries {
		entries[i].Time = nil
	}
	b, err := wire.Encode(wire.Accept{}, p.s.Kind.GroupVersionKind, obj)
	if err != nil {
		t.Logf("cannot be shown: %v", err)
	}
	return string(b)
}

// check holds what is true of every patch: the object from which it starts is as it was, an error is the client's, an outcome keeps its name, can be
// judged by the rules of its kind, and is the same when the patch is tried again because another writer was faster.
func (p *patched) check(t *testing.T, patch *patcher, live runtime.Object, next nextFunc, obj runtime.Object, err error) {
	t.Helper()
	if now, err := wire.Encode(wire.Accept{}, p.s.Kind.GroupVersionKind, p.live); err != nil || string(now) != p.before {
		t.Errorf("the live object was changed: %s, %v", now, err)
	}
	size := 0
	for _, w := range patch.r.Writer.Header()["Warning"] {
		size += len(w)
	}
	if size > 64<<10 { // no more than maxWarned letters and as many short warnings, each in quotes
		t.Errorf("%d bytes of warnings", size)
	}
	if err != nil {
		clients(t, err)
		return
	}
	m, err := meta.Accessor(obj)
	if err != nil || m.GetName() != "a" {
		t.Fatalf("%v, %+v", err, obj)
	}
	again, err := next(context.Background(), live)
	if err != nil {
		t.Fatalf("went well once, then: %v", err)
	}
	if a, b := p.outcome(t, obj), p.outcome(t, again); a != b {
		t.Errorf("went once to\n%s\nthen to\n%s", a, b)
	}
	p.s.Kind.Validate(context.Background(), again)
}

// clients reports an error that is not the client's.
//
// Upstream's kube-apiserver 1.37.1, asked with 46 wrong configurations, answers an applied field that the type does not have, a value of another
// type and a repeated key of a list with a plain 500 in the merge's words, whatever fieldValidation says (client-go and kubectl show those words,
// and its own documentation of the strict directive promises a 400). Here Strict answers unknown fields with that 400, and for the rest the code is
// upstream's. Nothing else may be a 500.
func clients(t *testing.T, err error) {
	t.Helper()
	s := wire.StatusOf(err)
	merge := s.Code == http.StatusInternalServerError && s.Reason == metav1.StatusReasonUnknown &&
		(strings.HasPrefix(s.Message, "failed to create typed patch object (") || strings.HasPrefix(s.Message, "failed to convert new object ("))
	if (s.Code < 400 || s.Code >= 500 || s.Reason == "" || s.Message == "") && !merge {
		t.Errorf("%d %q: %v", s.Code, s.Reason, err)
	}
}

// FuzzPatch feeds JSON patches, merge patches and strategic merge patches.
func FuzzPatch(f *testing.F) {
	ps := patchable(f)
	for i, seeds := range [][]string{
		{`[{"op":"replace","path":"/data/k","value":"x"}]`, `[{"op":"copy","from":"/data","path":"/metadata"}]`, `[{"op":"test","path":"/data/k","value":"v"},{"op":"move","from":"/data/k","path":"/data/l"},{"op":"remove","path":"/data/l"}]`,
			`[{"op":"add","path":"/spec/containers/-","value":{"name":"e"}},{"op":"copy","from":"/spec/containers","path":"/spec/initContainers"}]`, `[{"op":"add","path":"/spec/containers/0/env/1","value":null}]`, `[{}]`, `[null]`},
		{`{"data":{"k":null}}`, `{"metadata":{"labels":{"a":"b"},"resourceVersion":"7"}}`, `{"spec":{"containers":[{"name":"c"}],"nodeName":"n"},"status":{"phase":null}}`, `{"kind":"Secret"}`, `null`},
		{`{"data":{"$patch":"replace"}}`, `{"$patch":"delete"}`, `{"metadata":{"$setElementOrder/finalizers":[{}]}}`, `{"metadata":{"$deleteFromPrimitiveList/finalizers":["x.example/f"]}}`,
			`{"spec":{"containers":[{"name":"e"},{"name":"d","$patch":"delete"}],"$setElementOrder/containers":[{"name":"e"},{"name":"c"}],"volumes":[{"name":"v","$retainKeys":["name","hostPath"],"hostPath":{"path":"/"}}]}}`,
			`{"status":{"conditions":[{"type":"Ready","status":"False"}],"$setElementOrder/podIPs":[]}}`, `{"spec":{"tolerations":[{"$patch":"replace"}]}}`},
	} {
		for _, seed := range seeds {
			for kind := range ps {
				f.Add(uint8(kind), uint8(i), uint8(1), []byte(seed))
			}
		}
	}
	f.Fuzz(func(t *testing.T, kind, which, directive uint8, data []byte) {
		p := &ps[int(kind)%len(ps)]
		patch := p.request(false, directive)
		var next nextFunc
		var obj runtime.Object
		var err error
		bounded.Work(t, len(data), func() {
			switch which % 3 {
			case 0:
				next, err = patch.jsonPatch(data)
			case 1:
				next, err = patch.mergePatch(data)
			default:
				next, err = patch.strategicPatch(data)
			}
			if err == nil {
				obj, err = next(context.Background(), p.live)
			}
		})
		p.check(t, patch, p.live, next, obj, err)
	})
}

// FuzzApply feeds applied configurations, as YAML and as CBOR, to an object that is there and to one that is not. What was applied by force is applied
// again without a change, and the same configuration in the other encoding has the same outcome.
func FuzzApply(f *testing.F) {
	ps := patchable(f)
	for _, seed := range []string{"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {a: b}\n", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, uid: x, resourceVersion: y}\n0: 1\n", "null", "kind: &a [*a]",
		"apiVersion: v1\nkind: Pod\nmetadata: {name: a, labels: &l {x: y}, annotations: *l, finalizers: [z.example/g], ownerReferences: [{apiVersion: v1, kind: Node, name: n, uid: u}]}\nspec:\n  containers:\n  - {name: c, image: k, ports: [{containerPort: 80, protocol: UDP}], env: [{name: E}, {name: F, value: g}], resources: {limits: {cpu: 1, memory: 1Gi}}}\n  - name: new\n  volumes: [{name: v, configMap: {name: w}}]\n  tolerations: [{operator: Exists}]\n  nodeSelector: {a: b}\nstatus: {conditions: [{type: Ready}]}\n"} {
		for how := range uint8(8) {
			data := []byte(seed)
			if how&1 != 0 {
				if want, err := appliedObject(data, types.ApplyYAMLPatchType); err == nil {
					if data, err = cbor.Marshal(want.Object); err != nil {
						f.Fatal(err)
					}
				}
			}
			for kind := range ps {
				f.Add(uint8(kind), how, uint8(1), data)
			}
		}
	}
	f.Fuzz(func(t *testing.T, kind, how, directive uint8, data []byte) {
		p := &ps[int(kind)%len(ps)]
		format, live, force := types.ApplyYAMLPatchType, p.live, how&4 == 0
		if how&1 != 0 {
			format = types.ApplyCBORPatchType
		}
		if how&2 != 0 {
			live = nil
		}
		patch := p.request(force, directive)
		var next nextFunc
		var obj runtime.Object
		var err error
		bounded.Work(t, len(data), func() {
			if next, err = patch.apply(data, format); err == nil {
				obj, err = next(context.Background(), live)
			}
		})
		p.check(t, patch, live, next, obj, err)
		p.sameInOther(t, data, format, force, live, obj, err)
		if err != nil || !force || unowned(t, obj) {
			return
		}
		again, err := next(context.Background(), obj)
		if err != nil {
			t.Fatalf("cannot be applied again: %v", err)
		}
		if a, b := p.outcome(t, obj), p.outcome(t, again); a != b {
			t.Errorf("was applied as\n%s\nand again as\n%s", a, b)
		}
	})
}

// unowned says that nobody owns any field of an object, as after a configuration without any. To the next apply it is an object from before there were owners.
func unowned(t *testing.T, obj runtime.Object) bool {
	m, err := meta.Accessor(obj)
	if err != nil {
		t.Fatal(err)
	}
	return len(m.GetManagedFields()) == 0
}

// sameInOther applies a configuration in the other encoding, if that can say it, and compares.
func (p *patched) sameInOther(t *testing.T, data []byte, format types.PatchType, force bool, live, obj runtime.Object, first error) {
	t.Helper()
	want, err := appliedObject(data, format)
	if err != nil {
		return
	}
	var other []byte
	if format == types.ApplyYAMLPatchType {
		other, err = cbor.Marshal(want.Object)
		format = types.ApplyCBORPatchType
	} else {
		other, err = json.Marshal(want.Object)
		format = types.ApplyYAMLPatchType
	}
	if err != nil {
		return
	}
	same, err := appliedObject(other, format)
	if err != nil || !sameValues(want.Object, same.Object) { // too deep, no UTF-8, a number that JSON writes otherwise
		return
	}
	patch := p.request(force, 0)
	next, err := patch.apply(other, format)
	var second runtime.Object
	if err == nil {
		second, err = next(context.Background(), live)
	}
	if (err == nil) != (first == nil) {
		if first != nil && err == nil && wire.StatusOf(first).Code == http.StatusBadRequest { // strict about fields, and this time nobody was
			return
		}
		t.Fatalf("%v in one encoding, %v in the other", first, err)
	}
	if err != nil {
		return
	}
	if a, b := p.outcome(t, obj), p.outcome(t, second); a != b {
		t.Errorf("one encoding says\n%s\nthe other\n%s", a, b)
	}
}

// sameValues compares decoded values: an integer and the float of the same number are two things.
func sameValues(a, b map[string]any) bool {
	x, errX := cbor.Marshal(a)
	y, errY := cbor.Marshal(b)
	return errX == nil && errY == nil && string(x) == string(y)
}

// A small patch does not make a large document, and what a patch finds in a document that is not there is the client's.
func TestJSONPatchCopies(t *testing.T) {
	p := &patchable(t)[0]
	var ops []string
	for i := range 40 { // each doubles the document
		ops = append(ops, fmt.Sprintf(`{"op":"copy","from":"/metadata","path":"/metadata/labels/%d"}`, i))
	}
	patch := p.request(false, 0)
	next, err := patch.jsonPatch([]byte("[" + strings.Join(ops, ",") + "]"))
	if err != nil {
		t.Fatal(err)
	}
	bounded.Work(t, 0, func() {
		if _, err = next(context.Background(), p.live); err == nil || wire.StatusOf(err).Code != http.StatusUnprocessableEntity || !strings.Contains(err.Error(), "copy") {
			t.Errorf("copied: %v", err)
		}
	})
}

// Warnings have a bound: the first ones whole, and cut when there are many.
func TestManyWarnings(t *testing.T) {
	r := &Request{Writer: httptest.NewRecorder()}
	r.Warn("error converting YAML to JSON: yaml: unmarshal errors:\n  line 2: key \"a\" already set in map\n  line 3: key \"b\" already set in map")
	r.Warn("the same")
	r.Warn("the same")
	if got, want := strings.Join(r.Writer.Header()["Warning"], "\n"), "299 - \"line 2: key \\\"a\\\" already set in map\"\n299 - \"line 3: key \\\"b\\\" already set in map\"\n299 - \"the same\""; got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
	long := strings.Repeat("é", 1000)
	for i := range 1000 {
		r.Warn(string(rune('a'+i%26)) + string(rune('a'+i/26)) + long)
	}
	all := r.Writer.Header()["Warning"]
	letters := 0
	for _, w := range all {
		letters += len([]rune(w)) - len(`299 - ""`)
	}
	if letters < maxWarned || letters > maxWarned+maxWarnedOfEach || !strings.Contains(all[len(all)-1], "éé") {
		t.Errorf("%d letters in %d warnings, the last of which is %s", letters, len(all), all[len(all)-1])
	}
}

// FuzzListOptions feeds the query of lists and watches.
func FuzzListOptions(f *testing.F) {
	k := kinds.ConfigMaps()
	s := &Served{Kind: k, Type: wire.NewType(k)}
	for _, q := range []string{"watch=1&resourceVersion=5&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&timeoutSeconds=3", "limit=5&continue=abc", "labelSelector=a%3Db&fieldSelector=metadata.name%3Dx", "limit=-1", "timeoutSeconds=99999999999999999999", "%zz"} {
		f.Add(q, "watch")
		f.Add(q, "list")
		f.Add(q, "deletecollection")
	}
	f.Fuzz(func(t *testing.T, query, verb string) {
		r := &Request{HTTP: &http.Request{URL: &url.URL{RawQuery: query}}, Info: &apirequest.RequestInfo{Verb: verb, Namespace: "b"}}
		bounded.Work(t, len(query), func() {
			o, _, _, err := s.listOptions(r)
			if err != nil {
				if status := wire.StatusOf(err); status.Code != http.StatusBadRequest && status.Code != http.StatusUnprocessableEntity || status.Reason == "" {
					t.Errorf("%d: %v", status.Code, err)
				}
				return
			}
			if d := s.timeout(o, func() float64 { return 0.5 }); d < 0 {
				t.Errorf("a watch of %v", d)
			}
		})
	})
}

// FuzzSelectors feeds label and field selectors. One that is taken can be written down and read again, and then selects the same.
func FuzzSelectors(f *testing.F) {
	k := kinds.ConfigMaps()
	s := &Served{Kind: k, Type: wire.NewType(k)}
	for _, l := range []string{"a=b,c in (d,e),!f", "a>1,a<3", "x.example/a notin (,b),b==,c!=", "a in (", "!a,a"} {
		f.Add(l, "metadata.name=x,metadata.namespace!=y", "a", "2")
		f.Add(l, `metadata.name==\,\=\\`, "c", "d")
	}
	f.Fuzz(func(t *testing.T, label, field, key, value string) {
		bounded.Work(t, len(label)+len(field), func() {
			sel, name, err := s.selector(label, field)
			if err != nil {
				if status := wire.StatusOf(err); status.Code != http.StatusBadRequest || status.Reason != metav1.StatusReasonBadRequest {
					t.Errorf("%v", err)
				}
				return
			}
			set := labels.Set{key: value, "a": "b"}
			if sel.Labels != nil {
				again, err := labels.Parse(sel.Labels.String())
				if err != nil {
					t.Fatalf("%q is written as %q: %v", label, sel.Labels, err)
				}
				if sel.Labels.Matches(set) != again.Matches(set) || sel.Labels.Matches(labels.Set{}) != again.Matches(labels.Set{}) {
					t.Errorf("%q is written as %q, which selects something else", label, sel.Labels)
				}
			}
			if sel.Fields == nil {
				return
			}
			again, err := fields.ParseSelector(sel.Fields.String())
			if err != nil {
				t.Fatalf("%q is written as %q: %v", field, sel.Fields, err)
			}
			for _, set := range []fields.Set{{"metadata.name": name, "metadata.namespace": "b"}, {"metadata.name": value, "metadata.namespace": key}} {
				if sel.Fields.Matches(set) != again.Matches(set) {
					t.Errorf("%q is written as %q, which selects something else", field, sel.Fields)
				}
				if name != "" && sel.Fields.Matches(set) && set["metadata.name"] != name {
					t.Errorf("%q is said to select %q alone, and selects %v", field, name, set)
				}
			}
		})
	})
}
