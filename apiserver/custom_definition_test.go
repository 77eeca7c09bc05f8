package apiserver

import (
	"fmt"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	registrationv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
)

// plain is a definition of something in shop.example, by its names in YAML.
func plain(plural, names string) string {
	return fmt.Sprintf(`
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: %s.shop.example}
spec:
  group: shop.example
  scope: Namespaced
  names: {plural: %s, %s}
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]
`, plural, plural, names)
}

// TestNamesAreGivenOnce: who comes later waits for the names, and gets them when they are free.
func TestNamesAreGivenOnce(t *testing.T) {
	w, d := startCustom(t)
	ctx := t.Context()
	define(t, d, plain("cups", "kind: Cup, shortNames: [c, cp], categories: [all]"))
	for _, x := range []struct{ plural, names, reason string }{
		{"cupsish", "kind: Cup, listKind: CupsishList", "KindConflict"},
		{"mugs", "kind: Mug, shortNames: [c, m, cp]", "ShortNamesConflict"},
		{"glasses", "kind: Glass, singular: cup", "SingularConflict"},
		{"pots", "kind: Pot, listKind: CupList", "ListKindConflict"},
	} {
		if _, err := d.Resource(crds).Create(ctx, object(t, plain(x.plural, x.names)), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		awaitCondition(t, d, x.plural+".shop.example", "NamesAccepted", "False")
		if got := conditionOf(t, d, x.plural+".shop.example", "NamesAccepted"); got != "False/"+x.reason {
			t.Errorf("%s: %s", x.plural, got)
		}
		if got := conditionOf(t, d, x.plural+".shop.example", "Established"); got != "False/NotAccepted" {
			t.Errorf("%s: %s", x.plural, got)
		}
	}
	if code, _, _ := w.raw(t, "GET", "/apis/shop.example/v1/mugs", admin, nil, ""); code != 404 {
		t.Errorf("what has no names is served: %d", code)
	}
	list, err := w.client(t, false).Discovery().ServerResourcesForGroupVersion("shop.example/v1")
	if err != nil || len(list.APIResources) != 1 || list.APIResources[0].Categories[0] != "all" || list.APIResources[0].SingularName != "cup" {
		t.Errorf("discovered: %v %v", list, err)
	}
	// One that was never served goes at once; one that is free now is given.
	undefine(t, d, "glasses.shop.example")
	undefine(t, d, "cups.shop.example")
	for _, plural := range []string{"cupsish", "mugs", "pots"} {
		awaitCondition(t, d, plural+".shop.example", "Established", "True")
	}
}

// TestApproval: definitions in the project's own groups need its approval.
func TestApproval(t *testing.T) {
	_, d := startCustom(t)
	ctx := t.Context()
	text := strings.ReplaceAll(plain("cups", "kind: Cup"), "shop.example", "shop.k8s.io")
	_, err := d.Resource(crds).Create(ctx, object(t, text), metav1.CreateOptions{})
	wants(t, "without approval", err, "protected groups must have approval annotation")
	for value, want := range map[string]string{"unapproved, experimental": "False/UnapprovedAnnotation", "https://github.com/kubernetes/kubernetes/pull/1": "True/ApprovedAnnotation"} {
		u := object(t, text)
		u.SetAnnotations(map[string]string{"api-approved.kubernetes.io": value})
		if _, err := d.Resource(crds).Create(ctx, u, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		awaitCondition(t, d, "cups.shop.k8s.io", "Established", "True")
		if got := conditionOf(t, d, "cups.shop.k8s.io", "KubernetesAPIApprovalPolicyConformant"); got != want {
			t.Errorf("%s: %s, want %s", value, got, want)
		}
		undefine(t, d, "cups.shop.k8s.io")
	}
}

// TestDefinitionWarnings: what is odd about a schema is said to whoever writes it, once.
func TestDefinitionWarnings(t *testing.T) {
	w, _ := startCustom(t)
	d, warned := w.warned(t)
	ctx := t.Context()
	text := strings.ReplaceAll(plain("cups", "kind: Cup"), "x-kubernetes-preserve-unknown-fields: true",
		`properties: {a: {type: string, format: colour}, b: {type: array, x-kubernetes-list-type: set, items: {type: object, x-kubernetes-map-type: atomic}}}`)
	u, err := d.Resource(crds).Create(ctx, object(t, text), metav1.CreateOptions{})
	if got := warned.take(); err != nil || got != `unrecognized format "colour"; x-kubernetes-list-type: set for items of type "object" is not supported by server-side apply or CEL validation rules` {
		t.Errorf("created: %q, %v", got, err)
	}
	awaitCondition(t, d, u.GetName(), "Established", "True")
	if err := redefine(t, d, u.GetName(), func(spec map[string]any) {
		p, _, _ := unstructured.NestedFieldNoCopy(spec["versions"].([]any)[0].(map[string]any), "schema", "openAPIV3Schema", "properties")
		p.(map[string]any)["c"] = map[string]any{"type": "string", "format": "flavour"}
	}); err != nil {
		t.Fatal(err)
	}
	if got := warned.take(); !strings.HasSuffix(got, `unrecognized format "flavour"`) || strings.Contains(got, "colour") {
		t.Errorf("updated: %q", got)
	}
}

// TestDefinitionGoes: nothing new is made while a definition goes, finalizers are waited for and can be taken away, nobody is asked, watchers see
// the objects go, and a new definition of the same name begins from nothing.
func TestDefinitionGoes(t *testing.T) {
	w, cs := startHooked(t)
	d := runCustom(t, w)
	ctx := t.Context()
	cups := schema.GroupVersionResource{Group: "shop.example", Version: "v1", Resource: "cups"}
	c := d.Resource(cups).Namespace("default")
	define(t, d, plain("cups", "kind: Cup"))
	client := hook(t, func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		return &admissionv1.AdmissionResponse{Allowed: false, Result: &metav1.Status{Message: "never"}}
	})
	registration := &registrationv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "keep"}, Webhooks: []registrationv1.ValidatingWebhook{{
		Name: "keep.example.com", ClientConfig: client, Rules: rules("shop.example", "cups", registrationv1.Delete), SideEffects: &noEffects, AdmissionReviewVersions: []string{"v1"}}}}
	if _, err := cs.AdmissionregistrationV1().ValidatingWebhookConfigurations().Create(ctx, registration, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	cup := func(name string) *unstructured.Unstructured {
		return object(t, fmt.Sprintf("{apiVersion: shop.example/v1, kind: Cup, metadata: {name: %s}}", name))
	}
	held := cup("held")
	held.SetFinalizers([]string{"shop.example/hold"})
	for _, u := range []*unstructured.Unstructured{cup("free"), held} {
		if _, err := c.Create(ctx, u, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "the webhook keeps objects", func() bool {
		err := c.Delete(ctx, "free", metav1.DeleteOptions{DryRun: []string{"All"}})
		return err != nil && strings.Contains(err.Error(), "never")
	})
	events, err := c.Watch(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer events.Stop()
	if err := d.Resource(crds).Delete(ctx, "cups.shop.example", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	until(t, "the held one is left", func() bool {
		l, err := c.List(ctx, metav1.ListOptions{})
		return err == nil && len(l.Items) == 1 && l.Items[0].GetName() == "held"
	})
	until(t, "its deletion is in progress", func() bool {
		return conditionOf(t, d, "cups.shop.example", "Terminating") == "True/InstanceDeletionInProgress"
	})
	_, err = c.Create(ctx, cup("late"), metav1.CreateOptions{})
	wants(t, "something new", err, `cups.shop.example "late" is forbidden: create not allowed while custom resource definition is terminating`)
	_, err = c.Apply(ctx, "late", cup("late"), metav1.ApplyOptions{FieldManager: "m"})
	wants(t, "something new by apply", err, "create not allowed while custom resource definition is terminating")
	list, err := w.client(t, false).Discovery().ServerResourcesForGroupVersion("shop.example/v1")
	if err != nil || strings.Join(list.APIResources[0].Verbs, ",") != "delete,deletecollection,get,list,watch" {
		t.Errorf("discovered: %v %v", list, err)
	}
	if _, err := c.Patch(ctx, "held", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}); err != nil {
		t.Errorf("the finalizer is taken away: %v", err)
	}
	gone := map[string]bool{}
	for e := range events.ResultChan() { // ends
		if e.Type == watch.Deleted {
			gone[e.Object.(*unstructured.Unstructured).GetName()] = true
		}
	}
	if !gone["free"] || !gone["held"] {
		t.Errorf("watchers saw only %v go", gone)
	}
	until(t, "the definition is gone", func() bool {
		_, err := d.Resource(crds).Get(ctx, "cups.shop.example", metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
	define(t, d, strings.ReplaceAll(plain("cups", "kind: Cup"), "Namespaced", "Cluster"))
	if l, err := d.Resource(cups).List(ctx, metav1.ListOptions{}); err != nil || len(l.Items) != 0 {
		t.Errorf("a new definition: %v %v", l, err)
	}
	if _, err := d.Resource(cups).Create(ctx, cup("cluster"), metav1.CreateOptions{}); err != nil {
		t.Error(err)
	}
}

// TestUnservedDefinitionGoes: objects go with their definition also when no version of it is served.
func TestUnservedDefinitionGoes(t *testing.T) {
	w, d := startCustom(t)
	ctx := t.Context()
	cups := schema.GroupVersionResource{Group: "shop.example", Version: "v1", Resource: "cups"}
	define(t, d, plain("cups", "kind: Cup"))
	if _, err := d.Resource(cups).Namespace("default").Create(ctx, object(t, "{apiVersion: shop.example/v1, kind: Cup, metadata: {name: a}}"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := redefine(t, d, "cups.shop.example", func(spec map[string]any) { spec["versions"].([]any)[0].(map[string]any)["served"] = false }); err != nil {
		t.Fatal(err)
	}
	until(t, "it is not served", func() bool {
		_, err := d.Resource(cups).List(ctx, metav1.ListOptions{})
		return apierrors.IsNotFound(err)
	})
	undefine(t, d, "cups.shop.example")
	if r, err := w.etcd.Get(ctx, "/registry/shop.example/cups/default/a"); err != nil || len(r.Kvs) != 0 {
		t.Errorf("left in etcd: %v %v", r, err)
	}
}

// TestStoredBytes: what is in etcd is what upstream writes.
func TestStoredBytes(t *testing.T) {
	w, d := startCustom(t)
	define(t, d, widgets)
	u, err := d.Resource(widgetsV1).Namespace("default").Create(t.Context(), widget(t, "a", "{color: red, free: {b: 1.5, a: [1, null]}}"), metav1.CreateOptions{FieldManager: "m"})
	if err != nil {
		t.Fatal(err)
	}
	at := u.GetCreationTimestamp().UTC().Format(time.RFC3339)
	want := fmt.Sprintf(`{"apiVersion":"shop.example/v1","kind":"Widget","metadata":{"creationTimestamp":"%s","generation":1,"managedFields":[{"apiVersion":"shop.example/v1","fieldsType":"FieldsV1",`+
		`"fieldsV1":{"f:spec":{".":{},"f:color":{},"f:free":{".":{},"f:a":{},"f:b":{}},"f:size":{}}},"manager":"m","operation":"Update","time":"%s"}],"name":"a","namespace":"default","uid":"%s"},`+
		`"spec":{"color":"red","free":{"a":[1,null],"b":1.5},"size":3}}`+"\n", at, at, u.GetUID())
	if got := w.bytesOf(t, "/registry/shop.example/widgets/default/a"); got != want {
		t.Errorf("stored\n%s\nwant\n%s", got, want)
	}
	if got := w.bytesOf(t, "/registry/apiextensions.k8s.io/customresourcedefinitions/widgets.shop.example"); !strings.HasPrefix(got, `{"kind":"CustomResourceDefinition","apiVersion":"apiextensions.k8s.io/v1beta1","metadata":{"name":"widgets.shop.example",`) {
		t.Errorf("the definition is stored as %.120q", got)
	}
}
