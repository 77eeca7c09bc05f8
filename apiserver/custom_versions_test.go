package apiserver

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
)

// lamps is a definition whose versions say the same in different words.
const lamps = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: lamps.shop.example}
spec:
  group: shop.example
  scope: Namespaced
  names: {plural: lamps, kind: Lamp}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec: {type: object, properties: {hostPort: {type: string}, only1: {type: string, default: one}}}
  - name: v2
    served: true
    storage: false
    selectableFields: [{jsonPath: .spec.host}]
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec: {type: object, properties: {host: {type: string}, port: {type: string}, only2: {type: string, default: two}}}
`

func lampsIn(version string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: "shop.example", Version: version, Resource: "lamps"}
}

func lamp(t testing.TB, version, name, spec string) *unstructured.Unstructured {
	return object(t, fmt.Sprintf("{apiVersion: shop.example/%s, kind: Lamp, metadata: {name: %s}, spec: %s}", version, name, spec))
}

// converter is a conversion webhook for lamps.
type converter struct {
	calls atomic.Int64
	fail  atomic.Pointer[string] // what it answers instead of converting
	rob   atomic.Bool            // it changes what it must not
	mu    sync.Mutex
	seen  []string // desired versions; guarded by mu
}

func (c *converter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.calls.Add(1)
	var review apiextensionsv1.ConversionReview
	if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	c.seen = append(c.seen, review.Request.DesiredAPIVersion)
	c.mu.Unlock()
	answer := &apiextensionsv1.ConversionResponse{UID: review.Request.UID, Result: metav1.Status{Status: metav1.StatusSuccess}}
	for _, raw := range review.Request.Objects {
		u := &unstructured.Unstructured{}
		if err := u.UnmarshalJSON(raw.Raw); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		spec, _ := u.Object["spec"].(map[string]any)
		switch u.SetAPIVersion(review.Request.DesiredAPIVersion); {
		case spec == nil:
		case strings.HasSuffix(review.Request.DesiredAPIVersion, "v2"):
			if host, port, ok := strings.Cut(fmt.Sprint(spec["hostPort"]), ":"); ok {
				delete(spec, "hostPort")
				spec["host"], spec["port"] = host, port
			}
		default:
			if spec["host"] != nil {
				spec["hostPort"] = fmt.Sprint(spec["host"], ":", spec["port"])
			}
			delete(spec, "host")
			delete(spec, "port")
		}
		if c.rob.Load() {
			u.SetName("stolen")
		}
		b, err := u.MarshalJSON()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		answer.ConvertedObjects = append(answer.ConvertedObjects, runtime.RawExtension{Raw: b})
	}
	if text := c.fail.Load(); text != nil {
		answer.ConvertedObjects, answer.Result = nil, metav1.Status{Status: metav1.StatusFailure, Message: *text}
	}
	review.Request, review.Response = nil, answer
	_ = json.NewEncoder(w).Encode(review)
}

// convertBy starts a conversion webhook and makes the definition ask it.
func convertBy(t testing.TB, d dynamic.Interface, name string) *converter {
	t.Helper()
	c := &converter{}
	s := httptest.NewTLSServer(c)
	t.Cleanup(s.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	if err := redefine(t, d, name, func(spec map[string]any) {
		b, _ := json.Marshal(apiextensionsv1.CustomResourceConversion{Strategy: apiextensionsv1.WebhookConverter, Webhook: &apiextensionsv1.WebhookConversion{
			ConversionReviewVersions: []string{"v1"}, ClientConfig: &apiextensionsv1.WebhookClientConfig{URL: &s.URL, CABundle: ca}}})
		var m map[string]any
		_ = json.Unmarshal(b, &m)
		spec["conversion"] = m
	}); err != nil {
		t.Fatal(err)
	}
	return c
}

// bytesOf is what etcd holds of an object.
func (w *world) bytesOf(t testing.TB, key string) string {
	t.Helper()
	r, err := w.etcd.Get(context.Background(), key)
	if err != nil || len(r.Kvs) != 1 {
		t.Fatalf("%s in etcd: %v %v", key, r, err)
	}
	return string(r.Kvs[0].Value)
}

// TestConversionWebhook: objects are converted wherever they are read and written, and the webhook's failures are told in upstream's words.
func TestConversionWebhook(t *testing.T) {
	w, d := startCustom(t)
	ctx := t.Context()
	define(t, d, lamps)
	hook := convertBy(t, d, "lamps.shop.example")
	v1, v2 := d.Resource(lampsIn("v1")).Namespace("default"), d.Resource(lampsIn("v2")).Namespace("default")
	until(t, "the webhook is asked", func() bool {
		_, err := v2.Create(ctx, lamp(t, "v2", "probe", "{host: x, port: '1'}"), metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			_ = v1.Delete(ctx, "probe", metav1.DeleteOptions{})
			return false
		}
		if err != nil {
			t.Fatal(err)
		}
		return hook.calls.Load() > 0
	})
	if err := v1.Delete(ctx, "probe", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}

	events, err := v2.Watch(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer events.Stop()
	// Written in v1, read in v2: by get, list, watch.
	if _, err := v1.Create(ctx, lamp(t, "v1", "a", "{hostPort: 'h:1'}"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	right := func(what string, u *unstructured.Unstructured) {
		t.Helper()
		spec, _ := u.Object["spec"].(map[string]any)
		if u.GetAPIVersion() != "shop.example/v2" || spec["host"] != "h" || spec["port"] != "1" || spec["hostPort"] != nil || spec["only1"] != nil {
			t.Errorf("%s: %v", what, u.Object)
		}
	}
	if e := <-events.ResultChan(); e.Type != watch.Added {
		t.Errorf("watch says %v", e)
	} else {
		right("watched", e.Object.(*unstructured.Unstructured))
	}
	u, err := v2.Get(ctx, "a", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	right("got", u)
	before := hook.calls.Load()
	for range 3 { // converted once for all readers
		l, err := v2.List(ctx, metav1.ListOptions{FieldSelector: "spec.host=h"})
		if err != nil || len(l.Items) != 1 {
			t.Fatal(l, err)
		}
		right("listed", &l.Items[0])
	}
	if n := hook.calls.Load() - before; n != 0 {
		t.Errorf("the webhook was asked %d times about what it had said already", n)
	}
	// Written in v2, stored in v1.
	if _, err := v2.Patch(ctx, "a", types.MergePatchType, []byte(`{"spec":{"port":"2"}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	if text := w.bytesOf(t, "/registry/shop.example/lamps/default/a"); !strings.Contains(text, `"hostPort":"h:2"`) || !strings.HasPrefix(text, `{"apiVersion":"shop.example/v1"`) {
		t.Errorf("stored: %s", text)
	}

	// What goes wrong.
	text := "no such lamp"
	hook.fail.Store(&text)
	if _, err = v2.Create(ctx, lamp(t, "v2", "b", "{host: h, port: '1'}"), metav1.CreateOptions{}); err == nil || !strings.Contains(err.Error(), "conversion webhook for shop.example/v2, Kind=Lamp failed: no such lamp") {
		t.Errorf("a webhook that fails: %v", err)
	}
	if _, err := v1.Create(ctx, lamp(t, "v1", "c", "{hostPort: 'h:1'}"), metav1.CreateOptions{}); err != nil {
		t.Errorf("what needs no conversion: %v", err)
	}
	_, err = v2.Get(ctx, "c", metav1.GetOptions{})
	wants(t, "get", err, "conversion webhook for shop.example/v1, Kind=Lamp failed: no such lamp")
	_, err = v2.List(ctx, metav1.ListOptions{})
	wants(t, "list", err, "conversion webhook for shop.example/v1, Kind=Lamp failed: no such lamp")
	hook.fail.Store(nil)
	hook.rob.Store(true)
	_, err = v2.Get(ctx, "c", metav1.GetOptions{})
	wants(t, "a name is changed", err, "conversion webhook for shop.example/v1, Kind=Lamp returned invalid object: must have the same name: c != stolen")
	hook.rob.Store(false)
	if _, err := v2.Get(ctx, "c", metav1.GetOptions{}); err != nil {
		t.Errorf("after the webhook has recovered: %v", err)
	}
}

// TestStorageVersionChanges: what was stored in the old version stays readable, is stored anew when it is written, changed or not, and the
// definition remembers both.
func TestStorageVersionChanges(t *testing.T) {
	w, d := startCustom(t)
	ctx := t.Context()
	define(t, d, lamps)
	convertBy(t, d, "lamps.shop.example")
	v1, v2 := d.Resource(lampsIn("v1")).Namespace("default"), d.Resource(lampsIn("v2")).Namespace("default")
	for _, name := range []string{"old", "touched", "finalized"} {
		l := lamp(t, "v1", name, "{hostPort: 'h:1'}")
		if name == "finalized" {
			l.SetFinalizers([]string{"shop.example/wait"})
		}
		if _, err := v1.Create(ctx, l, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := redefine(t, d, "lamps.shop.example", func(spec map[string]any) {
		for _, v := range spec["versions"].([]any) {
			m := v.(map[string]any)
			m["storage"] = m["name"] == "v2"
		}
	}); err != nil {
		t.Fatal(err)
	}
	u, err := d.Resource(crds).Get(ctx, "lamps.shop.example", metav1.GetOptions{})
	if stored, _, _ := unstructured.NestedStringSlice(u.Object, "status", "storedVersions"); err != nil || strings.Join(stored, ",") != "v1,v2" {
		t.Errorf("stored versions %v, %v", stored, err)
	}
	until(t, "new objects are stored in v2", func() bool {
		if _, err := v1.Create(ctx, lamp(t, "v1", "new", "{hostPort: 'h:1'}"), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		defer v1.Delete(ctx, "new", metav1.DeleteOptions{})
		return strings.Contains(w.bytesOf(t, "/registry/shop.example/lamps/default/new"), `"apiVersion":"shop.example/v2"`)
	})
	got, err := v2.Get(ctx, "old", metav1.GetOptions{})
	if host, _, _ := unstructured.NestedString(got.Object, "spec", "host"); err != nil || host != "h" {
		t.Errorf("an old object: %v, %v", got.Object, err)
	}
	if got, err = v1.Get(ctx, "old", metav1.GetOptions{}); err != nil {
		t.Fatal(err)
	}
	if hp, _, _ := unstructured.NestedString(got.Object, "spec", "hostPort"); hp != "h:1" || got.GetAPIVersion() != "shop.example/v1" {
		t.Errorf("an old object in its own version: %v", got.Object)
	}
	// An update that changes nothing stores it anew, converted: that is how storage is migrated.
	if got, err = v1.Get(ctx, "touched", metav1.GetOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err = v1.Update(ctx, got, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if text := w.bytesOf(t, "/registry/shop.example/lamps/default/touched"); !strings.Contains(text, `"apiVersion":"shop.example/v2"`) || !strings.Contains(text, `"host":"h"`) || strings.Contains(text, `"hostPort":`) {
		t.Errorf("touched: %s", text)
	}
	// A deletion that waits is stored in the new version too.
	for range 2 {
		if err := v2.Delete(ctx, "finalized", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if text := w.bytesOf(t, "/registry/shop.example/lamps/default/finalized"); !strings.Contains(text, `"apiVersion":"shop.example/v2"`) || !strings.Contains(text, `"host":"h"`) {
		t.Errorf("finalized: %s", text)
	}
	if _, err := v1.Patch(ctx, "finalized", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	// A version that objects are stored in cannot go.
	err = redefine(t, d, "lamps.shop.example", func(spec map[string]any) {
		spec["versions"] = spec["versions"].([]any)[1:]
	})
	wants(t, "v1 is taken away", err, `status.storedVersions[0]: Invalid value: "v1": missing from spec.versions; v1 was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in v1 and removes v1 from status.storedVersions`)
}

// TestVersionsComeAndGo: unserved versions, deprecated ones, and watches while a definition changes.
func TestVersionsComeAndGo(t *testing.T) {
	w, d := startCustom(t)
	ctx := t.Context()
	define(t, d, lamps)
	log, warned := w.warned(t)
	v1, v2 := d.Resource(lampsIn("v1")).Namespace("default"), d.Resource(lampsIn("v2")).Namespace("default")
	if _, err := v1.Create(ctx, lamp(t, "v1", "a", "{hostPort: 'h:1', unknown: x}"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	events, err := v1.Watch(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer events.Stop()
	set := func(version string, fields map[string]any) {
		t.Helper()
		if err := redefine(t, d, "lamps.shop.example", func(spec map[string]any) {
			for _, v := range spec["versions"].([]any) {
				if m := v.(map[string]any); m["name"] == version {
					for k, x := range fields {
						m[k] = x
					}
				}
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
	set("v1", map[string]any{"deprecated": true})
	deadline := time.After(20 * time.Second)
	for open := true; open; { // clients come back and see the objects in their new shape
		select {
		case _, open = <-events.ResultChan():
		case <-deadline:
			t.Fatal("a watch goes on after its definition has changed")
		}
	}
	until(t, "everybody is warned", func() bool {
		_, err := log.Resource(lampsIn("v1")).Namespace("default").Get(ctx, "a", metav1.GetOptions{})
		return err == nil && warned.take() == "shop.example/v1 Lamp is deprecated; use shop.example/v2 Lamp"
	})
	if _, err := log.Resource(lampsIn("v1")).Namespace("default").List(ctx, metav1.ListOptions{}); err != nil || !strings.Contains(warned.take(), "deprecated") {
		t.Errorf("a list of a deprecated version: %v", err)
	}
	set("v1", map[string]any{"deprecationWarning": "take the other one"})
	until(t, "the warning is the definition's", func() bool {
		_, err := log.Resource(lampsIn("v1")).Namespace("default").Get(ctx, "a", metav1.GetOptions{})
		return err == nil && warned.take() == "take the other one"
	})
	set("v2", map[string]any{"served": false})
	until(t, "v2 is not served", func() bool {
		_, err := v2.Get(ctx, "a", metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
	list, err := w.client(t, false).Discovery().ServerResourcesForGroupVersion("shop.example/v2")
	if !apierrors.IsNotFound(err) {
		t.Errorf("what is not served is discovered: %v %v", list, err)
	}
	if _, err := v1.Get(ctx, "a", metav1.GetOptions{}); err != nil {
		t.Errorf("the other version: %v", err)
	}
}

// TestManagedFieldsAcrossVersions: who owns what is known in every version.
func TestManagedFieldsAcrossVersions(t *testing.T) {
	_, d := startCustom(t)
	ctx := t.Context()
	define(t, d, lamps)
	hook := convertBy(t, d, "lamps.shop.example")
	v1, v2 := d.Resource(lampsIn("v1")).Namespace("default"), d.Resource(lampsIn("v2")).Namespace("default")
	apply := func(c dynamic.ResourceInterface, version, spec, manager string, force bool) (*unstructured.Unstructured, error) {
		return c.Apply(ctx, "a", lamp(t, version, "a", spec), metav1.ApplyOptions{FieldManager: manager, Force: force})
	}
	until(t, "the webhook is asked", func() bool {
		if _, err := apply(v2, "v2", "{host: h, port: '1'}", "two", false); err != nil {
			t.Fatal(err)
		}
		_, err := v1.Get(ctx, "a", metav1.GetOptions{})
		return err == nil && hook.calls.Load() > 0
	})
	u, err := apply(v1, "v1", "{only1: mine}", "one", false)
	if err != nil {
		t.Fatal(err)
	}
	versions := map[string]string{}
	for _, e := range u.GetManagedFields() {
		versions[e.Manager] = e.APIVersion + " " + string(e.FieldsV1.Raw)
	}
	if !strings.HasPrefix(versions["one"], "shop.example/v1 ") || !strings.HasPrefix(versions["two"], "shop.example/v2 ") || !strings.Contains(versions["two"], "f:host") {
		t.Errorf("owners: %v", versions)
	}
	// hostPort is what the other owns in another version: it cannot be taken without force.
	if _, err := apply(v1, "v1", "{only1: mine, hostPort: 'other:2'}", "one", false); !apierrors.IsConflict(err) || !strings.Contains(err.Error(), "conflicts with \"two\":\n- .spec.host\n- .spec.port") {
		t.Errorf("taken from another version: %v", err)
	}
	if u, err = apply(v1, "v1", "{only1: mine, hostPort: 'other:2'}", "one", true); err != nil {
		t.Fatal(err)
	}
	if hp, _, _ := unstructured.NestedString(u.Object, "spec", "hostPort"); hp != "other:2" {
		t.Errorf("after force: %v", u.Object)
	}
}
