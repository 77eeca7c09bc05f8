package apiserver

import (
	"fmt"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"
)

// boxesDefinition is a cluster-scoped definition with a schema of a bit of everything.
const boxesDefinition = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: boxes.shop.example}
spec:
  group: shop.example
  scope: Cluster
  names: {plural: boxes, kind: Box, shortNames: [bx]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            x-kubernetes-validations:
            - {rule: "!has(self.low) || !has(self.high) || self.low <= self.high", messageExpression: "'low is above a ' + (self.high > 0 ? 'positive' : 'negative') + ' high'", fieldPath: .low}
            properties:
              low: {type: integer}
              high: {type: integer}
              fixed: {type: string, x-kubernetes-validations: [{rule: "self == oldSelf", message: "is fixed", reason: FieldValueForbidden}]}
              once: {type: string, maxLength: 100, x-kubernetes-validations: [{rule: "oldSelf.hasValue() || self.startsWith('new')", optionalOldSelf: true, message: "must begin with new"}]}
              port: {x-kubernetes-int-or-string: true}
              when: {type: string, format: date-time}
              nothing: {type: string, nullable: true}
              filled: {type: string, nullable: false, default: full}
              free: {type: object, x-kubernetes-preserve-unknown-fields: true, properties: {known: {type: object, properties: {a: {type: string}}}}}
              inner: {type: object, x-kubernetes-embedded-resource: true, x-kubernetes-preserve-unknown-fields: true}
              strict: {type: object, x-kubernetes-embedded-resource: true, properties: {spec: {type: object, properties: {x: {type: string}}}}}
              labels: {type: object, additionalProperties: {type: string, maxLength: 5}}
              tags: {type: array, x-kubernetes-list-type: set, items: {type: string}}
              atoms: {type: array, x-kubernetes-list-type: atomic, items: {type: string}}
              block: {type: object, x-kubernetes-map-type: atomic, properties: {a: {type: string}, b: {type: string}}}
              parts: {type: array, x-kubernetes-list-type: map, x-kubernetes-list-map-keys: [name], items: {type: object, required: [name], properties: {name: {type: string}, num: {type: integer, default: 1, maximum: 9}}}}
              name: {type: string, pattern: "^[a-z]+$", maxLength: 10}
          status: {type: object, properties: {num: {type: integer, minimum: 0}, note: {type: string}}}
`

var boxes = schema.GroupVersionResource{Group: "shop.example", Version: "v1", Resource: "boxes"}

func box(t testing.TB, name, spec string) *unstructured.Unstructured {
	return object(t, fmt.Sprintf("{apiVersion: shop.example/v1, kind: Box, metadata: {name: %s}, spec: %s}", name, spec))
}

func specOf(u *unstructured.Unstructured) string {
	b, err := yaml.Marshal(u.Object["spec"])
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(b))
}

// TestCustomSchema: what becomes of objects on their way in.
func TestCustomSchema(t *testing.T) {
	_, d := startCustom(t)
	ctx := t.Context()
	define(t, d, boxesDefinition)
	c := d.Resource(boxes)
	for i, x := range []struct{ spec, want, err string }{
		{"{}", "filled: full", ""},
		{"{filled: null}", "filled: full", ""},
		{"{nothing: null, low: null}", "filled: full\nnothing: null", ""},
		{"{port: 1}", "filled: full\nport: 1", ""},
		{"{port: a}", "filled: full\nport: a", ""},
		{"{port: true}", "", `spec.port: Invalid value: "boolean": spec.port in body must be of type integer,string: "boolean"`},
		{"{when: today}", "", `spec.when: Invalid value: "today": spec.when in body must be of type date-time: "today"`},
		{"{unknown: 1, free: {x: {z: 1}, known: {a: b, c: d}}}", "filled: full\nfree:\n  known:\n    a: b\n  x:\n    z: 1", ""},
		{"{inner: {x: 1}}", "", "spec.inner.apiVersion: Required value"},
		{"{inner: {apiVersion: v1, kind: X, metadata: {name: a, odd: 1}, x: 1}}", "filled: full\ninner:\n  apiVersion: v1\n  kind: X\n  metadata:\n    name: a\n  x: 1", ""},
		{"{inner: {apiVersion: v1, kind: X, metadata: {name: a/b}}}", "", `spec.inner.metadata.name: Invalid value: "a/b": may not contain '/'`},
		{"{strict: {apiVersion: v1, kind: X, metadata: {labels: {a: b}}, spec: {x: v, z: 1}, more: 1}}", "filled: full\nstrict:\n  apiVersion: v1\n  kind: X\n  metadata:\n    labels:\n      a: b\n  spec:\n    x: v", ""},
		{"{labels: {a: toolong}}", "", "spec.labels.a: Too long: may not be more than 5 bytes"},
		{"{tags: [a, b, a]}", "", `spec.tags[2]: Duplicate value: "a"`},
		{"{parts: [{num: 1}]}", "", "spec.parts[0].name: Required value"},
		{"{parts: [{name: a}, {name: b, num: 2}]}", "filled: full\nparts:\n- name: a\n  num: 1\n- name: b\n  num: 2", ""},
		{"{name: 'A'}", "", "spec.name: Invalid value: \"A\": spec.name in body should match '^[a-z]+$'"},
		{"{low: 3, high: 2}", "", "spec.low: Invalid value: low is above a positive high"},
		{"{once: old}", "", `spec.once: Invalid value: "old": must begin with new`},
		{"{low: x, high: 2}", "", "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation"},
	} {
		u, err := c.Create(ctx, box(t, fmt.Sprintf("b%d", i), x.spec), metav1.CreateOptions{})
		wants(t, x.spec, err, x.err)
		if err == nil && specOf(u) != x.want {
			t.Errorf("%s becomes\n%s\nwant\n%s", x.spec, specOf(u), x.want)
		}
	}
	u, err := c.Create(ctx, box(t, "a", "{fixed: x, once: new1}"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	u.Object["spec"].(map[string]any)["fixed"] = "y"
	_, err = c.Update(ctx, u, metav1.UpdateOptions{})
	wants(t, "a transition rule", err, "spec.fixed: Forbidden: is fixed")
	for _, x := range []struct {
		kind  types.PatchType
		patch string
		err   string
	}{
		{types.JSONPatchType, `[{"op":"add","path":"/spec/low","value":1}]`, ""},
		{types.JSONPatchType, `[{"op":"test","path":"/spec/low","value":7}]`, "testing value /spec/low failed"},
		{types.MergePatchType, `{"spec":{"high":0}}`, "spec.low: Invalid value: low is above a negative high"},
		{types.MergePatchType, `{"spec":{"once":"old is fine now"}}`, ""},
		{types.MergePatchType, `{"kind":"Other"}`, "Other"},
		{types.StrategicMergePatchType, `{"spec":{"high":5}}`, "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml"},
	} {
		_, err := c.Patch(ctx, "a", x.kind, []byte(x.patch), metav1.PatchOptions{})
		wants(t, x.patch, err, x.err)
	}
}

// TestCustomFieldValidation: what is unknown or said twice is refused, warned of or passed over.
func TestCustomFieldValidation(t *testing.T) {
	w, d := startCustom(t)
	define(t, d, boxesDefinition)
	const path = "/apis/shop.example/v1/boxes"
	body := `{"apiVersion":"shop.example/v1","kind":"Box","metadata":{"name":"%s","odd":1},"spec":{"low":1,"low":2,"unknown":1,"inner":{"apiVersion":"v1","kind":"X","metadata":{"odd":1}}}}`
	all := []string{`duplicate field "spec.low"`, `unknown field "metadata.odd"`, `unknown field "spec.unknown"`, `unknown field "spec.inner.metadata.odd"`}
	json := map[string]string{"Content-Type": "application/json"}
	code, _, text := w.raw(t, "POST", path+"?fieldValidation=Strict", admin, json, fmt.Sprintf(body, "a"))
	if code != 400 || !strings.Contains(text, `Box in version \"v1\" cannot be handled as a Box: strict decoding error: `) {
		t.Errorf("strict: %d %s", code, text)
	}
	for _, want := range all {
		if !strings.Contains(text, strings.ReplaceAll(want, `"`, `\"`)) {
			t.Errorf("strict does not name %s: %s", want, text)
		}
	}
	code, h, _ := w.raw(t, "POST", path+"?fieldValidation=Warn", admin, json, fmt.Sprintf(body, "b"))
	got := strings.Join(h.Values("Warning"), " ")
	if code != 201 || len(h.Values("Warning")) != len(all) {
		t.Errorf("warn: %d %s", code, got)
	}
	for _, want := range all {
		if !strings.Contains(got, strings.ReplaceAll(want, `"`, `\"`)) {
			t.Errorf("warn does not name %s: %s", want, got)
		}
	}
	if code, h, _ := w.raw(t, "POST", path+"?fieldValidation=Ignore", admin, json, fmt.Sprintf(body, "c")); code != 201 || h.Get("Warning") != "" {
		t.Errorf("ignore: %d %v", code, h)
	}
	code, _, text = w.raw(t, "POST", path+"?fieldValidation=Strict", admin, map[string]string{"Content-Type": "application/yaml"}, "apiVersion: shop.example/v1\nkind: Box\nmetadata: {name: yam}\nspec:\n  low: 1\n  low: 2\n")
	if code != 400 || !strings.Contains(text, `key \"low\" already set in map`) {
		t.Errorf("YAML: %d %s", code, text)
	}
	code, _, text = w.raw(t, "PATCH", path+"/b?fieldValidation=Strict", admin, map[string]string{"Content-Type": "application/merge-patch+json"}, `{"spec":{"nope":1}}`)
	if code != 422 || !strings.Contains(text, `unknown field \"spec.nope\"`) { // upstream's code where the patch itself is well-formed
		t.Errorf("a patch: %d %s", code, text)
	}
	code, _, text = w.raw(t, "PATCH", path+"/b?fieldManager=m", admin, map[string]string{"Content-Type": "application/apply-patch+yaml"}, `{"apiVersion":"shop.example/v1","kind":"Box","spec":{"nope":1}}`) // upstream does not name what is not named here
	if code != 500 || !strings.Contains(text, "failed to create typed patch object (/; shop.example/v1, Kind=Box): .spec.nope: field not declared in schema") {
		t.Errorf("an apply: %d %s", code, text)
	}
}

// TestCustomRatcheting: what was wrong before and is not touched stays (KEP-4008).
func TestCustomRatcheting(t *testing.T) {
	_, d := startCustom(t)
	ctx := t.Context()
	define(t, d, boxesDefinition)
	c := d.Resource(boxes)
	if _, err := c.Create(ctx, box(t, "a", "{name: abc, labels: {a: b}, parts: [{name: p, num: 9}]}"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	tighten(t, d, func(p map[string]any) {
		p["name"].(map[string]any)["pattern"] = "^x"
		p["name"].(map[string]any)["x-kubernetes-validations"] = []any{map[string]any{"rule": "self.startsWith('x')", "message": "must begin with x"}}
		p["parts"].(map[string]any)["items"].(map[string]any)["properties"].(map[string]any)["num"].(map[string]any)["maximum"] = int64(5)
		p["added"] = map[string]any{"type": "string", "default": "late"}
	})
	until(t, "the new schema counts", func() bool {
		_, err := c.Create(ctx, box(t, "b", "{name: abc}"), metav1.CreateOptions{DryRun: []string{"All"}})
		return err != nil
	})
	u, err := c.Get(ctx, "a", metav1.GetOptions{})
	if err != nil || !strings.Contains(specOf(u), "added: late") { // defaulted when read
		t.Fatalf("read: %v, %v", u, err)
	}
	patch := func(text string) error {
		_, err := c.Patch(ctx, "a", types.MergePatchType, []byte(text), metav1.PatchOptions{})
		return err
	}
	wants(t, "another field", patch(`{"spec":{"low":1}}`), "")
	wants(t, "the wrong field", patch(`{"spec":{"name":"abd"}}`), `spec.name: Invalid value: "abd": must begin with x`)
	wants(t, "another part", patch(`{"spec":{"parts":[{"name":"p","num":9},{"name":"q","num":1}]}}`), "")
	wants(t, "the wrong part", patch(`{"spec":{"parts":[{"name":"p","num":8}]}}`), "spec.parts[0].num: Invalid value: 8: spec.parts[0].num in body should be less than or equal to 5")
	wants(t, "put right", patch(`{"spec":{"name":"xyz"}}`), "")
}

// tighten changes the properties of the spec in the schema of boxes.
func tighten(t testing.TB, d dynamic.Interface, change func(properties map[string]any)) {
	t.Helper()
	if err := redefine(t, d, "boxes.shop.example", func(spec map[string]any) {
		v := spec["versions"].([]any)[0].(map[string]any)
		p, _, err := unstructured.NestedFieldNoCopy(v, "schema", "openAPIV3Schema", "properties", "spec", "properties")
		if err != nil {
			t.Fatal(err)
		}
		change(p.(map[string]any))
	}); err != nil {
		t.Fatal(err)
	}
}

// TestCustomApply: lists and maps merge as the schema says, and each subresource has owners of its own.
func TestCustomApply(t *testing.T) {
	_, d := startCustom(t)
	ctx := t.Context()
	define(t, d, boxesDefinition)
	c := d.Resource(boxes)
	apply := func(spec, manager string, force bool, sub ...string) (*unstructured.Unstructured, error) {
		u := box(t, "a", spec)
		if len(sub) > 0 {
			delete(u.Object, "spec")
			u.Object["status"] = box(t, "a", spec).Object["spec"]
		}
		return c.Apply(ctx, "a", u, metav1.ApplyOptions{FieldManager: manager, Force: force}, sub...)
	}
	for _, m := range []string{"one", "two"} {
		if _, err := apply(fmt.Sprintf("{parts: [{name: %s}], tags: [%s], inner: {apiVersion: v1, kind: X, metadata: {labels: {%s: x}}}}", m, m, m), m, false); err != nil {
			t.Fatal(err)
		}
	}
	u, err := apply("{parts: [{name: one}], tags: [one], atoms: [a, b], block: {a: x}}", "one", false)
	if err != nil {
		t.Fatal(err)
	}
	if got := specOf(u); !strings.Contains(got, "name: one") || !strings.Contains(got, "name: two") || !strings.Contains(got, "- one\n- two") || strings.Contains(got, "one: x") || !strings.Contains(got, "two: x") {
		t.Errorf("merged: %s", got)
	}
	_, err = apply("{atoms: [c]}", "two", false)
	wants(t, "an atomic list", err, `conflict with "one": .spec.atoms`)
	_, err = apply("{block: {b: x}}", "two", false)
	wants(t, "an atomic map", err, `conflict with "one": .spec.block`)
	if u, err = apply("{atoms: [c]}", "two", true); err != nil || !strings.Contains(specOf(u), "atoms:\n- c") || strings.Contains(specOf(u), "name: two") {
		t.Errorf("by force, and the rest given up: %s, %v", specOf(u), err)
	}
	// The status has owners of its own, and takes nothing else.
	if u, err = apply("{num: 1}", "state", false, "status"); err != nil {
		t.Fatal(err)
	}
	if n, _, _ := unstructured.NestedInt64(u.Object, "status", "num"); n != 1 {
		t.Errorf("status: %v", u.Object)
	}
	for _, e := range u.GetManagedFields() {
		if e.Manager == "state" && (e.Subresource != "status" || string(e.FieldsV1.Raw) != `{"f:status":{"f:num":{}}}`) {
			t.Errorf("the status's owner: %v %s", e, e.FieldsV1.Raw)
		}
	}
	_, err = apply("{num: 2}", "other", false, "status")
	if !apierrors.IsConflict(err) || !strings.Contains(err.Error(), `conflict with "state" with subresource "status": .status.num`) {
		t.Errorf("another's status: %v", err)
	}
	_, err = apply("{num: -1}", "state", false, "status")
	wants(t, "a wrong status", err, "status.num: Invalid value: -1: num in body should be greater than or equal to 0")
	before := u.GetGeneration()
	u.Object["status"].(map[string]any)["note"] = "x"
	u.SetLabels(map[string]string{"a": "b"})
	if u, err = c.UpdateStatus(ctx, u, metav1.UpdateOptions{}); err != nil || u.GetGeneration() != before || len(u.GetLabels()) != 0 {
		t.Errorf("a write of the status: %v, %v", u, err)
	}
	// An object that is not there is made, but not by its status.
	if _, err := c.Apply(ctx, "new", box(t, "new", "{low: 1}"), metav1.ApplyOptions{FieldManager: "one"}); err != nil {
		t.Error(err)
	}
	if _, err := c.Apply(ctx, "no", object(t, "{apiVersion: shop.example/v1, kind: Box, metadata: {name: no}, status: {num: 1}}"), metav1.ApplyOptions{FieldManager: "one"}, "status"); !apierrors.IsNotFound(err) {
		t.Errorf("status of nothing: %v", err)
	}
}
