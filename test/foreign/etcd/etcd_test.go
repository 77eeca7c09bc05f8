// Package etcd holds what Wherry keeps in etcd against what upstream's kube-apiserver keeps there: each must serve what the other has stored, identically, and
// store the same keys and bytes for the same manifests.
package etcd

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"wherry.dev/wherry/test/foreign/plane"
)

func TestMain(m *testing.M) { plane.Main(m) }

// manifests are one or more of each kind; beside them its recorded answers lie.
const manifests = "../../../api/kinds/testdata/kinds"

// alone keeps other parts from changing what is compared.
var alone = []string{"--disable", "scheduler,controllers"}

// features that both have on, so that every version which Wherry serves is there.
var features []string

// Upstream's objects, served by Wherry.
func TestWherryServesWhatUpstreamStored(t *testing.T) {
	_, etcd := plane.StartEtcd(t, 2379)
	upstream := plane.StartUpstreamOver(t, 6443, etcd, features...)
	fill(t, upstream)
	before := dump(t, upstream)
	upstream.Stop()
	wherry := plane.StartWherry(t, 6444, append(alone, "--etcd-endpoints", etcd)...)
	compare(t, before, dump(t, wherry))
}

// Wherry's objects, served by upstream.
func TestUpstreamServesWhatWherryStored(t *testing.T) {
	_, etcd := plane.StartEtcd(t, 2379)
	wherry := plane.StartWherry(t, 6443, append(alone, "--etcd-endpoints", etcd)...)
	fill(t, wherry)
	before := dump(t, wherry)
	wherry.Stop()
	upstream := plane.StartUpstreamOver(t, 6444, etcd, features...)
	compare(t, before, dump(t, upstream))
}

// The same manifests make the same keys and, but for what no two servers have in common, the same bytes.
func TestSameBytes(t *testing.T) {
	_, theirs := plane.StartEtcd(t, 2379)
	upstream := plane.StartUpstreamOver(t, 6443, theirs, features...)
	fill(t, upstream)
	upstream.Stop()
	_, ours := plane.StartEtcd(t, 2389)
	wherry := plane.StartWherry(t, 6444, append(alone, "--etcd-endpoints", ours)...)
	fill(t, wherry)
	wherry.Stop()
	compareStored(t, stored(t, theirs), stored(t, ours))
}

// definition is a custom resource of two versions, stored as JSON.
const definition = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: widgets, singular: widget, kind: Widget, listKind: WidgetList}
  versions:
  - {name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {size: {type: integer, default: 3}, items: {type: array, items: {type: string}}}}}}}}
  - {name: v2, served: true, storage: false, schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {size: {type: integer, default: 3}, items: {type: array, items: {type: string}}}}}}}}
`

const widget = `
apiVersion: example.com/v2
kind: Widget
metadata: {name: w, namespace: default, labels: {a: b}}
spec: {items: [one, two]}
`

// fill creates an object of every manifest there is. What one server refuses the other must refuse too; that is other suites' work, and is not held here.
func fill(t *testing.T, p *plane.Plane) {
	t.Helper()
	var files []string
	err := filepath.WalkDir(manifests, func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".yaml") {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	sort.Strings(files)
	texts := []string{definition}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, string(b))
	}
	resources := served(t, p)
	kinds := map[schema.GroupVersionKind]metav1.APIResource{}
	for gvr, r := range resources {
		kinds[gvr.GroupVersion().WithKind(r.Kind)] = r
	}
	config := rest.CopyConfig(p.Config)
	config.WarningHandler = rest.NoWarnings{}
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	made := map[string]bool{}
	number := 0
	create := func(text string) error {
		number++
		obj := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(text), &obj.Object); err != nil {
			return err
		}
		gvk := obj.GroupVersionKind()
		r, ok := kinds[gvk]
		if !ok {
			return fmt.Errorf("%s is not served", gvk)
		}
		if obj.GetName() == "" && obj.GetGenerateName() == "" {
			obj.SetName("a")
		}
		obj.SetResourceVersion("")
		if gvk.Group == "admissionregistration.k8s.io" {
			tame(obj.Object) // what is stored here must not judge what is stored next
		}
		var in dynamic.ResourceInterface = client.Resource(gvk.GroupVersion().WithResource(r.Name))
		if r.Namespaced {
			if obj.GetNamespace() == "" {
				obj.SetNamespace("default")
			}
			if ns := obj.GetNamespace(); !made["ns "+ns] {
				made["ns "+ns] = true
				space := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": ns}}}
				_, _ = client.Resource(schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}).Create(t.Context(), space, metav1.CreateOptions{})
				plane.Eventually(t, "a service account in "+ns, 20*time.Second, func() error {
					account := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": map[string]any{"name": "default"}}}
					_, err := client.Resource(schema.GroupVersionResource{Version: "v1", Resource: "serviceaccounts"}).Namespace(ns).Create(t.Context(), account, metav1.CreateOptions{})
					if err != nil && strings.Contains(err.Error(), "already exists") {
						return nil
					}
					return err
				}, p.Processes...)
			}
			in = client.Resource(gvk.GroupVersion().WithResource(r.Name)).Namespace(obj.GetNamespace())
		}
		_, err := in.Create(t.Context(), obj, metav1.CreateOptions{FieldManager: "fill"})
		if apierrors.IsAlreadyExists(err) && obj.GetName() != "" { // several manifests of one name
			obj.SetName(fmt.Sprintf("%s-%d", obj.GetName(), number))
			_, err = in.Create(t.Context(), obj, metav1.CreateOptions{FieldManager: "fill"})
		}
		if err == nil {
			made[gvk.Kind] = true
		}
		return err
	}
	for i, text := range texts {
		if err := create(text); err != nil && i > 0 {
			t.Logf("%s: %s refuses: %v", files[i-1], p.Name, err)
		} else if err != nil {
			t.Fatal(err)
		}
	}
	kinds[schema.GroupVersionKind{Group: "example.com", Version: "v2", Kind: "Widget"}] = metav1.APIResource{Name: "widgets", Namespaced: true, Kind: "Widget"}
	plane.Eventually(t, "the custom resource to be served", 20*time.Second, func() error { return create(widget) }, p.Processes...)
	if len(made) < 45 {
		t.Fatalf("only %d kinds were made: %v", len(made), slices.Sorted(maps.Keys(made)))
	}
	t.Logf("%s: %d kinds", p.Name, len(made))
}

// tame makes rules of admission those of a group that nobody has.
func tame(v any) {
	switch v := v.(type) {
	case map[string]any:
		for k, inner := range v {
			if k == "apiGroups" {
				v[k] = []any{"nowhere.example.com"}
			} else {
				tame(inner)
			}
		}
	case []any:
		for _, inner := range v {
			tame(inner)
		}
	}
}

// served is what can be listed.
func served(t *testing.T, p *plane.Plane) map[schema.GroupVersionResource]metav1.APIResource {
	t.Helper()
	client, err := discovery.NewDiscoveryClientForConfig(p.Config)
	if err != nil {
		t.Fatal(err)
	}
	_, lists, err := client.ServerGroupsAndResources()
	if err != nil {
		t.Fatal(err)
	}
	out := map[schema.GroupVersionResource]metav1.APIResource{}
	for _, l := range lists {
		gv, err := schema.ParseGroupVersion(l.GroupVersion)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range l.APIResources {
			if slices.Contains(r.Verbs, "list") && !strings.Contains(r.Name, "/") {
				out[gv.WithResource(r.Name)] = r
			}
		}
	}
	return out
}

// dump reads everything that is served, in every version.
func dump(t *testing.T, p *plane.Plane) map[string]map[string]any {
	t.Helper()
	config := rest.CopyConfig(p.Config)
	config.WarningHandler = rest.NoWarnings{}
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]map[string]any{}
	for gvr := range served(t, p) {
		list, err := client.Resource(gvr).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Errorf("%s: list %s: %v", p.Name, gvr, err)
			continue
		}
		for i := range list.Items {
			o := &list.Items[i]
			out[fmt.Sprintf("%s %s/%s", strings.Trim(gvr.GroupVersion().String()+"/"+gvr.Resource, "/"), o.GetNamespace(), o.GetName())] = o.Object
		}
	}
	return out
}

// own are objects that a server changes, or makes, as it starts: by prefix of what dump calls them, with the reason.
var own = map[string]string{
	"v1/endpoints default/kubernetes":                                    "the port on which this server is reached",
	"discovery.k8s.io/v1/endpointslices default/kubernetes":              "the port on which this server is reached",
	"v1/services default/kubernetes":                                     "the port on which this server is reached",
	"coordination.k8s.io/v1/leases kube-system/apiserver-":               "a server's identity",
	"v1/configmaps kube-system/extension-apiserver-authentication":       "the authorities of this server",
	"v1/configmaps kube-system/kube-apiserver-legacy-service-account-to": "the time at which this server first looked",
	"v1/componentstatuses ":                                              "never stored, and deprecated",
	"flowcontrol.apiserver.k8s.io/v1/flowschemas ":                       "upstream's server keeps their status, and deletes what claims to be its own",
	"flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations ":       "upstream's server keeps their status, and deletes what claims to be its own",
}

func isOwn(name string) bool {
	for prefix := range own {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// compare holds what one server served against what the other serves over the same etcd.
func compare(t *testing.T, before, after map[string]map[string]any) {
	t.Helper()
	if len(before) < 100 {
		t.Fatalf("only %d objects", len(before))
	}
	same := 0
	for _, name := range slices.Sorted(maps.Keys(before)) {
		if isOwn(name) {
			continue
		}
		got, ok := after[name]
		if !ok {
			t.Errorf("%s is not served", name)
			continue
		}
		if diff := differences("", before[name], got); len(diff) > 0 {
			t.Errorf("%s differs:\n  %s", name, strings.Join(diff, "\n  "))
			continue
		}
		same++
	}
	t.Logf("%d of %d objects are served identically", same, len(before))
}

// differences lists where two JSON values part.
func differences(path string, a, b any) []string {
	ma, isMap := a.(map[string]any)
	mb, both := b.(map[string]any)
	if isMap && both {
		var out []string
		keys := map[string]bool{}
		for k := range ma {
			keys[k] = true
		}
		for k := range mb {
			keys[k] = true
		}
		for _, k := range slices.Sorted(maps.Keys(keys)) {
			out = append(out, differences(path+"."+k, ma[k], mb[k])...)
		}
		return out
	}
	if reflect.DeepEqual(a, b) {
		return nil
	}
	show := func(v any) string {
		text, _ := json.Marshal(v)
		return string(text[:min(len(text), 1500)])
	}
	return []string{fmt.Sprintf("%s: was %s, is %s", path, show(a), show(b))}
}

// stored is everything in an etcd.
func stored(t *testing.T, url string) map[string][]byte {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{url}, DialTimeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	all, err := c.Get(t.Context(), "", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]byte{}
	for _, kv := range all.Kvs {
		out[string(kv.Key)] = bytes.Clone(kv.Value)
	}
	return out
}
