package apiserver

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
)

// fleets is a definition whose number of replicas is somewhere else in each version.
const fleets = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: fleets.shop.example}
spec:
  group: shop.example
  scope: Namespaced
  names: {plural: fleets, kind: Fleet}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}, scale: {specReplicasPath: .spec.deep.count, statusReplicasPath: .status.have, labelSelectorPath: .status.selector}}
    schema: &s
      openAPIV3Schema:
        type: object
        properties:
          spec: {type: object, properties: {deep: {type: object, properties: {count: {type: integer}}}, color: {type: string}}}
          status: {type: object, properties: {have: {type: integer}, selector: {type: string}}}
  - name: v2
    served: true
    storage: false
    subresources: {scale: {specReplicasPath: .spec.deep.count, statusReplicasPath: .status.have}}
    schema: *s
`

// TestCustomScale: every way to scale, wherever the number is kept, and who owns it.
func TestCustomScale(t *testing.T) {
	w, d := startCustom(t)
	ctx := t.Context()
	define(t, d, fleets)
	gvr := schema.GroupVersionResource{Group: "shop.example", Version: "v1", Resource: "fleets"}
	c := d.Resource(gvr).Namespace("default")
	fleet := func(spec string) *unstructured.Unstructured {
		return object(t, fmt.Sprintf("{apiVersion: shop.example/v1, kind: Fleet, metadata: {name: a}, spec: %s}", spec))
	}
	scale := func(n string) *unstructured.Unstructured {
		return object(t, fmt.Sprintf("{apiVersion: autoscaling/v1, kind: Scale, metadata: {name: a, namespace: default}, spec: {%s}}", n))
	}
	count := func() any {
		t.Helper()
		u, err := c.Get(ctx, "a", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		n, _, _ := unstructured.NestedFieldNoCopy(u.Object, "spec", "deep", "count")
		return n
	}
	if _, err := c.Create(ctx, fleet("{color: red}"), metav1.CreateOptions{FieldManager: "maker"}); err != nil {
		t.Fatal(err)
	}
	_, err := c.Get(ctx, "a", metav1.GetOptions{}, "scale")
	wants(t, "a scale without a number", err, `the spec replicas field ".spec.deep.count" does not exist`)
	_, err = c.Patch(ctx, "a", types.MergePatchType, []byte(`{"metadata":{"labels":{"a":"b"}}}`), metav1.PatchOptions{}, "scale")
	wants(t, "a patch that sets none", err, `the spec replicas field ".spec.deep.count" cannot be empty`)
	if _, err := c.Patch(ctx, "a", types.MergePatchType, []byte(`{"spec":{"replicas":2}}`), metav1.PatchOptions{FieldManager: "patcher"}, "scale"); err != nil || count() != int64(2) {
		t.Errorf("patched: %v, %v", count(), err)
	}
	u, err := c.Update(ctx, scale("replicas: 3"), metav1.UpdateOptions{FieldManager: "updater"}, "scale")
	if n, _, _ := unstructured.NestedInt64(u.Object, "spec", "replicas"); err != nil || n != 3 || u.GetKind() != "Scale" || count() != int64(3) {
		t.Errorf("updated: %v, %v", u, err)
	}
	u.SetResourceVersion("1")
	if _, err := c.Update(ctx, u, metav1.UpdateOptions{}, "scale"); !apierrors.IsConflict(err) {
		t.Errorf("an old version: %v", err)
	}
	for _, n := range []string{"-1"} {
		_, err := c.Update(ctx, scale("replicas: "+n), metav1.UpdateOptions{}, "scale")
		wants(t, n, err, ".spec.deep.count: Invalid value: -1: should be a non-negative integer")
	}
	if _, err := c.Patch(ctx, "a", types.MergePatchType, []byte(`{"status":{"have":2,"selector":"app=a"}}`), metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
	if u, err = c.Get(ctx, "a", metav1.GetOptions{}, "scale"); err != nil {
		t.Fatal(err)
	}
	if have, _, _ := unstructured.NestedInt64(u.Object, "status", "replicas"); have != 2 {
		t.Errorf("status: %v", u.Object)
	}
	if s, _, _ := unstructured.NestedString(u.Object, "status", "selector"); s != "app=a" {
		t.Errorf("selector: %v", u.Object)
	}
	// Who owns the number in a Scale owns it in the object. Nobody owned it when the scale was updated, and as upstream updates begin no record.
	if _, err = c.Apply(ctx, "a", scale("replicas: 4"), metav1.ApplyOptions{FieldManager: "applier"}, "scale"); !apierrors.IsConflict(err) || !strings.Contains(err.Error(), `conflict with "before-first-apply" with subresource "scale"`) {
		t.Errorf("another's number: %v", err)
	}
	if _, err = c.Apply(ctx, "a", scale("replicas: 4"), metav1.ApplyOptions{FieldManager: "applier", Force: true}, "scale"); err != nil || count() != int64(4) {
		t.Fatalf("applied: %v, %v", count(), err)
	}
	_, err = c.Apply(ctx, "a", fleet("{deep: {count: 5}}"), metav1.ApplyOptions{FieldManager: "whole"})
	wants(t, "the object's number is the scale's", err, `conflict with "applier" with subresource "scale": .spec.deep.count`)
	if u, err = c.Get(ctx, "a", metav1.GetOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, e := range u.GetManagedFields() {
		if e.Manager == "applier" && (e.APIVersion != "shop.example/v1" || string(e.FieldsV1.Raw) != `{"f:spec":{"f:deep":{"f:count":{}}}}`) {
			t.Errorf("the applier owns %s %s", e.APIVersion, e.FieldsV1.Raw)
		}
	}
	if code, _, body := w.raw(t, "GET", "/apis/shop.example/v1/namespaces/default/fleets/a/scale", admin, map[string]string{"Accept": "application/json;as=Table;g=meta.k8s.io;v=v1"}, ""); code != 200 || !strings.Contains(body, `"cells":["a",4,2,`) {
		t.Errorf("a scale as a table: %d %s", code, body)
	}
	whole := fleet("{deep: {count: 2}}") // made by apply, its number is an integer
	whole.SetName("b")
	if _, err := c.Apply(ctx, "b", whole, metav1.ApplyOptions{FieldManager: "m"}); err != nil {
		t.Errorf("made by apply: %v", err)
	}
	if code, _, body := w.raw(t, "GET", "/apis/shop.example/v1/namespaces/default/fleets/a/scale", admin, map[string]string{"Accept": "application/vnd.kubernetes.protobuf"}, ""); code != 200 || !strings.HasPrefix(body, "k8s\x00") {
		t.Errorf("a scale in protobuf: %d", code)
	}
}

// kubectl runs the stock client against the server.
func (w *world) kubectl(t *testing.T) func(args ...string) (string, error) {
	t.Helper()
	path, err := exec.LookPath("kubectl")
	if err != nil {
		t.Skip("needs kubectl in PATH")
	}
	config, cache := w.kubeconfig(t), t.TempDir()
	return func(args ...string) (string, error) {
		out, err := exec.Command(path, append([]string{"--kubeconfig", config, "--cache-dir", cache}, args...)...).CombinedOutput()
		return string(out), err
	}
}

// TestCustomKubectl: the stock client knows what is defined within a moment, by all names, and sees it as its definition says.
func TestCustomKubectl(t *testing.T) {
	w, d := startCustom(t)
	kubectl := w.kubectl(t)
	define(t, d, widgets)
	define(t, d, fleets)
	dir := t.TempDir()
	good, bad := filepath.Join(dir, "good.yaml"), filepath.Join(dir, "bad.yaml")
	for path, text := range map[string]string{
		good: "apiVersion: shop.example/v1\nkind: Widget\nmetadata: {name: a}\nspec: {color: red, size: 4}\n---\napiVersion: shop.example/v1\nkind: Fleet\nmetadata: {name: f}\nspec: {deep: {count: 1}}\n",
		bad:  "apiVersion: shop.example/v1\nkind: Widget\nmetadata: {name: b}\nspec: {color: red, colour: red}\n",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		args string
		fail bool
		want []string
	}{
		{args: "api-resources --api-group=shop.example", want: []string{"widgets", "wd", "Widget", "fleets"}},
		{args: "explain widgets.spec.size", want: []string{"KIND:       Widget", "VERSION:    v1", "FIELD: size <integer>"}},
		{args: "explain wd --recursive", want: []string{"metadata\t<ObjectMeta>", "parts\t<[]Object>", "color\t<string> -required-", "enum: red, green"}},
		{args: "explain fleets.metadata.labels --api-version=shop.example/v2", want: []string{"FIELD: labels <map[string]string>"}},
		{args: "apply --validate=strict -f " + good, want: []string{"widget.shop.example/a created", "fleet.shop.example/f created"}},
		{args: "apply --validate=strict -f " + bad, fail: true, want: []string{`strict decoding error: unknown field "spec.colour"`}},
		{args: "apply --server-side -f " + good, want: []string{"widget.shop.example/a serverside-applied"}},
		{args: "apply --server-side -f " + bad, fail: true, want: []string{".spec.colour: field not declared in schema"}},
		{args: "get wd", want: []string{"NAME   COLOR   SIZE\na      red     4\n"}},
		{args: "get all", want: []string{"widget.shop.example/a"}},
		{args: "get widget a -o yaml", want: []string{"color: red"}},
		{args: "get fleets", want: []string{"NAME   AGE\nf      "}},
		{args: "get widgets --field-selector spec.color=green", want: []string{"No resources found"}},
		{args: "scale fleet f --replicas=3", want: []string{"fleet.shop.example/f scaled"}},
		{args: "get fleet f -o jsonpath={.spec.deep.count}", want: []string{"3"}},
		{args: "scale wd/a --replicas=7", want: []string{"scaled"}},
		{args: "label widget a x=y", want: []string{"labeled"}},
		{args: "describe crd widgets.shop.example", want: []string{"Accepted Names", "Established"}},
		{args: "delete widget a --wait", want: []string{`widget.shop.example "a" deleted`}},
	} {
		out, err := kubectl(strings.Fields(c.args)...)
		if (err != nil) != c.fail {
			t.Errorf("kubectl %s: %v\n%s", c.args, err, out)
		}
		for _, want := range c.want {
			if !strings.Contains(out, want) {
				t.Errorf("kubectl %s says\n%s\nwithout %q", c.args, out, want)
			}
		}
	}
}

// TestCustomDocuments: a definition is in the documents while it is there, and its ETags follow it.
func TestCustomDocuments(t *testing.T) {
	w, d := startCustom(t)
	get := func(path string) (map[string]any, string) {
		t.Helper()
		code, h, body := w.raw(t, "GET", path, admin, nil, "")
		if code != 200 {
			return nil, ""
		}
		var doc map[string]any
		if err := json.Unmarshal([]byte(body), &doc); err != nil {
			t.Fatal(err)
		}
		return doc, h.Get("ETag")
	}
	_, before := get("/openapi/v2")
	_, core := get("/openapi/v3/api/v1")
	define(t, d, widgets)
	v3, etag := get("/openapi/v3/apis/shop.example/v1")
	schemas, _ := v3["components"].(map[string]any)["schemas"].(map[string]any)
	widgetModel, ok := schemas["example.shop.v1.Widget"].(map[string]any)
	if !ok || schemas["example.shop.v1.WidgetList"] == nil || schemas["io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"] == nil {
		t.Fatalf("models: %v", schemas)
	}
	if b, _ := json.Marshal(widgetModel["x-kubernetes-selectable-fields"]); string(b) != `[{"fieldPath":"spec.color"}]` {
		t.Errorf("selectable: %s", b)
	}
	if b, _ := json.Marshal(widgetModel); !strings.Contains(string(b), `"default":3`) || !strings.Contains(string(b), `"x-kubernetes-list-map-keys":["name"]`) {
		t.Errorf("model: %s", b)
	}
	paths := v3["paths"].(map[string]any)
	for _, p := range []string{"", "/{name}", "/{name}/status", "/{name}/scale"} {
		if paths["/apis/shop.example/v1/namespaces/{namespace}/widgets"+p] == nil {
			t.Errorf("no path %s", p)
		}
	}
	op, _, _ := unstructured.NestedFieldNoCopy(paths, "/apis/shop.example/v1/namespaces/{namespace}/widgets/{name}", "patch")
	if b, _ := json.Marshal(op); !strings.Contains(string(b), "application/apply-patch+yaml") || strings.Contains(string(b), "strategic") || strings.Contains(string(b), "protobuf") {
		t.Errorf("patch: %s", b)
	}
	v2, now := get("/openapi/v2")
	if now == before {
		t.Error("the ETag of v2 is as before")
	}
	if m, _, _ := unstructured.NestedMap(v2, "definitions", "example.shop.v1.Widget"); m == nil || strings.Contains(fmt.Sprint(m), "default:") {
		t.Errorf("v2: %v", m)
	}
	if m, _, _ := unstructured.NestedMap(v2, "definitions", "example.shop.v1beta1.Widget", "properties"); m != nil {
		t.Errorf("v2 of what keeps unknown fields: %v", m)
	}
	if _, again := get("/openapi/v3/api/v1"); again != core {
		t.Error("another group's ETag has changed")
	}
	if err := redefine(t, d, "widgets.shop.example", func(spec map[string]any) {
		p, _, _ := unstructured.NestedFieldNoCopy(spec["versions"].([]any)[0].(map[string]any), "schema", "openAPIV3Schema", "properties", "status", "properties")
		p.(map[string]any)["added"] = map[string]any{"type": "string", "description": "late"}
	}); err != nil {
		t.Fatal(err)
	}
	until(t, "the document follows", func() bool {
		v3, now := get("/openapi/v3/apis/shop.example/v1")
		b, _ := json.Marshal(v3)
		return now != etag && strings.Contains(string(b), `"added":{"description":"late"`)
	})
	undefine(t, d, "widgets.shop.example")
	until(t, "the document goes", func() bool {
		v3, _ := get("/openapi/v3/apis/shop.example/v1")
		return v3 == nil
	})
	if _, last := get("/openapi/v2"); last != before {
		t.Error("without the definition v2 is not what it was")
	}
}

// TestCustomEncodings: every form in which a custom resource can be asked for.
func TestCustomEncodings(t *testing.T) {
	w, d := startCustom(t)
	ctx := t.Context()
	define(t, d, widgets)
	c := d.Resource(widgetsV1).Namespace("default")
	if _, err := c.Create(ctx, widget(t, "a", "{color: red}"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	const path = "/apis/shop.example/v1/namespaces/default/widgets"
	for _, x := range []struct {
		path, accept string
		code         int
		typ, want    string
	}{
		{path, "application/json", 200, "application/json", `"kind":"WidgetList"`},
		{path, "application/yaml", 200, "application/yaml", "kind: WidgetList"},
		{path, "application/cbor", 200, "application/cbor", "\xd9\xd9\xf7"},
		{path + "/a", "application/cbor", 200, "application/cbor", "\xd9\xd9\xf7"},
		{path, "application/vnd.kubernetes.protobuf", 406, "", "only the following media types are accepted: application/json, application/yaml"},
		{path + "/a", "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1", 200, "application/vnd.kubernetes.protobuf", "PartialObjectMetadata"},
		{path, "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", 200, "application/json", `"kind":"PartialObjectMetadataList"`},
		{path, "application/json;as=Table;g=meta.k8s.io;v=v1", 200, "application/json", `{"name":"Color","type":"string","format":"","description":"Custom resource definition column (in JSONPath format): .spec.color","priority":0}`},
	} {
		code, h, body := w.raw(t, "GET", x.path, admin, map[string]string{"Accept": x.accept}, "")
		if code != x.code || x.typ != "" && !strings.HasPrefix(h.Get("Content-Type"), x.typ) || !strings.Contains(body, x.want) {
			t.Errorf("%s as %s: %d %s %.300q", x.path, x.accept, code, h.Get("Content-Type"), body)
		}
	}
	if code, _, body := w.raw(t, "POST", path, admin, map[string]string{"Content-Type": "application/vnd.kubernetes.protobuf"}, "k8s\x00"); code != 415 {
		t.Errorf("protobuf sent: %d %s", code, body)
	}
	if code, _, body := w.raw(t, "POST", path, admin, map[string]string{"Content-Type": "application/yaml"}, "apiVersion: shop.example/v1\nkind: Widget\nmetadata: {name: yaml}\nspec: {color: green}\n"); code != 201 {
		t.Errorf("YAML sent: %d %s", code, body)
	}
	// Selected by a field of its own, objects come and go as it changes.
	events, err := c.Watch(ctx, metav1.ListOptions{FieldSelector: "spec.color=green", TimeoutSeconds: new(int64(20))})
	if err != nil {
		t.Fatal(err)
	}
	defer events.Stop()
	next := func(typ watch.EventType, name string) {
		t.Helper()
		select {
		case e := <-events.ResultChan():
			if u, ok := e.Object.(*unstructured.Unstructured); e.Type != typ || !ok || u.GetName() != name {
				t.Errorf("watch says %s %v, want %s %s", e.Type, e.Object, typ, name)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("no event, want %s %s", typ, name)
		}
	}
	next(watch.Added, "yaml")
	for _, color := range []string{"green", "red"} {
		if _, err := c.Patch(ctx, "a", types.MergePatchType, []byte(`{"spec":{"color":"`+color+`"}}`), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	next(watch.Added, "a")
	next(watch.Deleted, "a")
	_, err = c.List(ctx, metav1.ListOptions{FieldSelector: "spec.size=3"})
	wants(t, "a field that is not selectable", err, "field label not supported: spec.size")
}
