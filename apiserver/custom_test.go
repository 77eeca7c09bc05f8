package apiserver

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	"wherry.dev/wherry/store"
)

// widgets is a definition with a bit of everything.
const widgets = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.shop.example}
spec:
  group: shop.example
  scope: Namespaced
  names: {plural: widgets, kind: Widget, shortNames: [wd], categories: [all]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources:
      status: {}
      scale: {specReplicasPath: .spec.size, statusReplicasPath: .status.size}
    selectableFields: [{jsonPath: .spec.color}]
    additionalPrinterColumns:
    - {name: Color, type: string, jsonPath: .spec.color}
    - {name: Size, type: integer, jsonPath: .spec.size}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            required: [color]
            x-kubernetes-validations:
            - {rule: "self.size >= oldSelf.size", message: "size cannot shrink"}
            properties:
              color: {type: string, enum: [red, green]}
              size: {type: integer, default: 3, maximum: 100}
              free: {type: object, x-kubernetes-preserve-unknown-fields: true}
              parts:
                type: array
                x-kubernetes-list-type: map
                x-kubernetes-list-map-keys: [name]
                items: {type: object, required: [name], properties: {name: {type: string}, n: {type: integer}}}
          status:
            type: object
            properties: {size: {type: integer}, note: {type: string}}
  - name: v1beta1
    served: true
    storage: false
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
`

var (
	widgetsV1 = schema.GroupVersionResource{Group: "shop.example", Version: "v1", Resource: "widgets"}
	crds      = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
)

// startCustom is start with the server's own objects and the controller of custom resources.
func startCustom(t testing.TB) (*world, dynamic.Interface) {
	t.Helper()
	w := start(t, nil)
	return w, runCustom(t, w)
}

// runCustom runs what the server does beside requests, and returns a client.
func runCustom(t testing.TB, w *world) dynamic.Interface {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- w.Run(ctx, func() { close(ready) }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	select {
	case <-ready:
	case <-time.After(20 * time.Second):
		t.Fatal("not ready")
	}
	d, err := dynamic.NewForConfig(w.config(admin))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// warned is a client that keeps the warnings of its answers.
func (w *world) warned(t testing.TB) (dynamic.Interface, *warningLog) {
	t.Helper()
	log := &warningLog{}
	c := w.config(admin)
	c.WarningHandler = log
	d, err := dynamic.NewForConfig(c)
	if err != nil {
		t.Fatal(err)
	}
	return d, log
}

type warningLog struct{ texts []string }

func (l *warningLog) HandleWarningHeader(_ int, _, text string) { l.texts = append(l.texts, text) }

// take returns what was warned of since the last call, in one text.
func (l *warningLog) take() string {
	out := strings.Join(l.texts, "; ")
	l.texts = nil
	return out
}

// wants checks that err speaks of want; an empty want is success.
func wants(t testing.TB, what string, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("%s: %v", what, err)
	case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
		t.Errorf("%s: %v, want %s", what, err, want)
	}
}

// redefine changes a definition until nobody else has changed it meanwhile.
func redefine(t testing.TB, d dynamic.Interface, name string, change func(spec map[string]any)) error {
	t.Helper()
	for {
		u, err := d.Resource(crds).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		change(u.Object["spec"].(map[string]any))
		if _, err = d.Resource(crds).Update(t.Context(), u, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
			return err
		}
	}
}

// undefine deletes a definition and waits until it is gone.
func undefine(t testing.TB, d dynamic.Interface, name string) {
	t.Helper()
	if err := d.Resource(crds).Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	until(t, name+" is gone", func() bool {
		_, err := d.Resource(crds).Get(t.Context(), name, metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
}

// conditionOf returns "status/reason" of a definition's condition.
func conditionOf(t testing.TB, d dynamic.Interface, name, condition string) string {
	t.Helper()
	u, err := d.Resource(crds).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	list, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
	for _, c := range list {
		if m := c.(map[string]any); m["type"] == condition {
			return fmt.Sprint(m["status"], "/", m["reason"])
		}
	}
	return ""
}

func object(t testing.TB, text string) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(text), &u.Object); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(u.Object)
	if err == nil {
		err = u.UnmarshalJSON(b)
	}
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// define creates a definition and waits until it is established.
func define(t testing.TB, d dynamic.Interface, text string) {
	t.Helper()
	u, err := d.Resource(crds).Create(t.Context(), object(t, text), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	awaitCondition(t, d, u.GetName(), "Established", "True")
}

func awaitCondition(t testing.TB, d dynamic.Interface, name, condition, status string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	w, err := d.Resource(crds).Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + name})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	for e := range w.ResultChan() {
		u, ok := e.Object.(*unstructured.Unstructured)
		if !ok {
			continue
		}
		list, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
		for _, c := range list {
			if m := c.(map[string]any); m["type"] == condition && m["status"] == status {
				return
			}
		}
	}
	t.Fatalf("%s of %s did not become %s", condition, name, status)
}

func widget(t testing.TB, name, spec string) *unstructured.Unstructured {
	return object(t, fmt.Sprintf("{apiVersion: shop.example/v1, kind: Widget, metadata: {name: %q}, spec: %s}", name, spec))
}

// TestCustomResources goes through the life of a definition and its objects.
func TestCustomResources(t *testing.T) {
	w, d := startCustom(t)
	ctx := t.Context()
	define(t, d, widgets)
	c := d.Resource(widgetsV1).Namespace("default")

	events, err := c.Watch(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer events.Stop()

	// Pruned, defaulted, status taken away.
	u := widget(t, "a", "{color: red, unknown: 1, free: {x: 1}}")
	u.Object["status"] = map[string]any{"size": int64(9)}
	got, err := c.Create(ctx, u, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	spec := got.Object["spec"].(map[string]any)
	if spec["size"] != int64(3) || spec["unknown"] != nil || spec["free"].(map[string]any)["x"] != int64(1) || got.Object["status"] != nil || got.GetGeneration() != 1 || len(got.GetManagedFields()) != 1 {
		t.Fatalf("created: %v", got.Object)
	}
	if e := <-events.ResultChan(); e.Type != watch.Added || e.Object.(*unstructured.Unstructured).GetName() != "a" {
		t.Fatalf("watch says %v", e)
	}

	// Refused, in upstream's words.
	for _, x := range []struct {
		spec, want string
		strict     bool
	}{
		{"{color: blue}", `spec.color: Unsupported value: "blue": supported values: "red", "green"`, false},
		{"{}", "spec.color: Required value", false},
		{"{color: red, size: 101}", "spec.size: Invalid value: 101: spec.size in body should be less than or equal to 100", false},
		{"{color: red, unknown: 1}", `strict decoding error: unknown field "spec.unknown"`, true},
		{"{color: red, parts: [{name: x}, {name: x}]}", `spec.parts[1]: Duplicate value: {"name":"x"}`, false},
	} {
		o := metav1.CreateOptions{}
		if x.strict {
			o.FieldValidation = "Strict"
		}
		if _, err := c.Create(ctx, widget(t, "b", x.spec), o); err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: %v, want %s", x.spec, err, x.want)
		}
	}

	// Patches, transition rules, generation.
	if got, err = c.Patch(ctx, "a", types.MergePatchType, []byte(`{"spec":{"size":5}}`), metav1.PatchOptions{}); err != nil || got.GetGeneration() != 2 {
		t.Fatal(got, err)
	}
	if _, err = c.Patch(ctx, "a", types.MergePatchType, []byte(`{"spec":{"size":4}}`), metav1.PatchOptions{}); err == nil || !strings.Contains(err.Error(), "spec: Invalid value: size cannot shrink") {
		t.Errorf("a transition rule: %v", err)
	}
	if _, err = c.Patch(ctx, "a", types.StrategicMergePatchType, []byte(`{}`), metav1.PatchOptions{}); !apierrors.IsUnsupportedMediaType(err) {
		t.Errorf("a strategic merge patch: %v", err)
	}

	// Subresources.
	if got, err = c.Patch(ctx, "a", types.MergePatchType, []byte(`{"spec":{"size":9},"status":{"size":5}}`), metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
	if n, _, _ := unstructured.NestedInt64(got.Object, "spec", "size"); n != 5 || got.GetGeneration() != 2 {
		t.Errorf("a status update changed the spec: %v", got.Object)
	}
	scale, err := c.Get(ctx, "a", metav1.GetOptions{}, "scale")
	if err != nil || scale.GetKind() != "Scale" {
		t.Fatal(scale, err)
	}
	if scale, err = c.Patch(ctx, "a", types.MergePatchType, []byte(`{"spec":{"replicas":7}}`), metav1.PatchOptions{}, "scale"); err != nil {
		t.Fatal(err)
	}
	if n, _, _ := unstructured.NestedInt64(scale.Object, "spec", "replicas"); n != 7 {
		t.Errorf("scaled: %v", scale.Object)
	}

	// Apply merges lists by their keys, and knows its owners.
	for _, m := range []string{"one", "two"} {
		if got, err = c.Apply(ctx, "a", object(t, fmt.Sprintf("{apiVersion: shop.example/v1, kind: Widget, metadata: {name: a}, spec: {parts: [{name: %s, n: 1}]}}", m)), metav1.ApplyOptions{FieldManager: m}); err != nil {
			t.Fatal(err)
		}
	}
	if parts, _, _ := unstructured.NestedSlice(got.Object, "spec", "parts"); len(parts) != 2 {
		t.Errorf("applied: %v", parts)
	}
	if _, err = c.Apply(ctx, "a", object(t, "{apiVersion: shop.example/v1, kind: Widget, metadata: {name: a}, spec: {parts: [{name: one, n: 2}]}}"), metav1.ApplyOptions{FieldManager: "two"}); !apierrors.IsConflict(err) {
		t.Errorf("applied over another's field: %v", err)
	}

	// Selection, tables, another version, encodings.
	if l, err := c.List(ctx, metav1.ListOptions{FieldSelector: "spec.color=green"}); err != nil || len(l.Items) != 0 || l.GetKind() != "WidgetList" {
		t.Errorf("selected: %v, %v", l, err)
	}
	if l, err := c.List(ctx, metav1.ListOptions{FieldSelector: "spec.color=red"}); err != nil || len(l.Items) != 1 {
		t.Errorf("selected: %v, %v", l, err)
	}
	path := "/apis/shop.example/v1/namespaces/default/widgets"
	if code, _, body := w.raw(t, "GET", path, admin, map[string]string{"Accept": "application/json;as=Table;g=meta.k8s.io;v=v1"}, ""); code != 200 || !strings.Contains(body, `"cells":["a","red",7]`) {
		t.Errorf("table: %d %s", code, body)
	}
	if code, _, _ := w.raw(t, "GET", path, admin, map[string]string{"Accept": "application/vnd.kubernetes.protobuf"}, ""); code != 406 {
		t.Errorf("protobuf: %d", code)
	}
	if code, h, _ := w.raw(t, "GET", path, admin, map[string]string{"Accept": "application/vnd.kubernetes.protobuf,application/json"}, ""); code != 200 || h.Get("Content-Type") != "application/json" {
		t.Errorf("protobuf or JSON: %d %v", code, h)
	}
	if code, _, body := w.raw(t, "GET", path+"/a", admin, map[string]string{"Accept": "application/yaml"}, ""); code != 200 || !strings.Contains(body, "kind: Widget") {
		t.Errorf("YAML: %d %s", code, body)
	}
	beta := widgetsV1
	beta.Version = "v1beta1"
	if got, err = d.Resource(beta).Namespace("default").Get(ctx, "a", metav1.GetOptions{}); err != nil || got.GetAPIVersion() != "shop.example/v1beta1" {
		t.Errorf("in another version: %v %v", got, err)
	}
	if got, err = d.Resource(beta).Namespace("default").Create(ctx, object(t, "{apiVersion: shop.example/v1beta1, kind: Widget, metadata: {generateName: g-}, spec: {color: red}}"), metav1.CreateOptions{}); err != nil {
		t.Errorf("through another version: %v", err)
	}
	raw, err := w.store.Resource(storedWidgets()).Get(ctx, "default", "a", "")
	if err != nil || raw.Object.(*unstructured.Unstructured).GetAPIVersion() != "shop.example/v1" {
		t.Errorf("stored: %v %v", raw, err)
	}
	list, err := w.client(t, false).Discovery().ServerResourcesForGroupVersion("shop.example/v1")
	if err != nil || len(list.APIResources) != 3 || list.APIResources[0].ShortNames[0] != "wd" {
		t.Errorf("discovered: %v %v", list, err)
	}

	// Deletion of the definition takes the objects with it.
	if err := d.Resource(crds).Delete(ctx, "widgets.shop.example", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		if _, err = d.Resource(crds).Get(ctx, "widgets.shop.example", metav1.GetOptions{}); apierrors.IsNotFound(err) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the definition stays")
		}
		time.Sleep(20 * time.Millisecond)
	}
	for e := range events.ResultChan() { // ends
		_ = e
	}
	for {
		if _, err := c.List(ctx, metav1.ListOptions{}); apierrors.IsNotFound(err) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("what is not defined any more is served")
		}
		time.Sleep(20 * time.Millisecond)
	}
	define(t, d, widgets)
	if l, err := c.List(ctx, metav1.ListOptions{}); err != nil || len(l.Items) != 0 {
		t.Errorf("objects of a definition that went are back: %v %v", l, err)
	}
}

// storedWidgets finds the store's own side, which is open already.
func storedWidgets() store.ResourceConfig {
	return store.ResourceConfig{Prefix: "shop.example/widgets", Kind: widgetsV1.GroupVersion().WithKind("Widget")}
}
