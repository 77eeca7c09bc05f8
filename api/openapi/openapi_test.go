package openapi

import (
	"bytes"
	"encoding/json"
	"maps"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	openapi_v2 "github.com/google/gnostic-models/openapiv2"
	openapi_v3 "github.com/google/gnostic-models/openapiv3"
	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	cliresource "k8s.io/cli-runtime/pkg/resource"
	clientopenapi "k8s.io/client-go/openapi"
	openapiproto "k8s.io/kube-openapi/pkg/util/proto"
	explain "k8s.io/kubectl/pkg/explain/v2"
	kubectlopenapi "k8s.io/kubectl/pkg/util/openapi"

	"wherry.dev/wherry/api/kinds"
)

func documents(t testing.TB) *Documents {
	t.Helper()
	return New(kinds.All(), "v1.37.2")
}

// TestEveryReferenceResolves walks every document: each $ref names something that is there, and each thing that is
// there is referred to, so that documents hold no more than they need.
func TestEveryReferenceResolves(t *testing.T) {
	d := documents(t)
	check := func(t *testing.T, doc []byte) {
		var root map[string]any
		if err := json.Unmarshal(doc, &root); err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		var walk func(v any)
		walk = func(v any) {
			switch v := v.(type) {
			case map[string]any:
				if ref, ok := v["$ref"].(string); ok {
					seen[ref] = true
					at := any(root)
					for _, step := range strings.Split(strings.TrimPrefix(ref, "#/"), "/") {
						m, _ := at.(map[string]any)
						at = m[step]
					}
					if at == nil {
						t.Errorf("%s is not there", ref)
					}
				}
				for _, e := range v {
					walk(e)
				}
			case []any:
				for _, e := range v {
					walk(e)
				}
			}
		}
		walk(root)
		schemas, _ := root["definitions"].(map[string]any)
		prefix := v2Ref
		if schemas == nil {
			schemas = root["components"].(map[string]any)["schemas"].(map[string]any)
			prefix = v3Ref
		}
		for name := range schemas {
			if !seen[prefix+name] {
				t.Errorf("nobody refers to %s", name)
			}
		}
	}
	t.Run("v2", func(t *testing.T) {
		_, doc, err := d.V2JSON()
		if err != nil {
			t.Fatal(err)
		}
		check(t, doc)
	})
	paths, err := d.V3Paths()
	if err != nil {
		t.Fatal(err)
	}
	for path := range paths {
		t.Run(path, func(t *testing.T) {
			_, doc, ok, err := d.V3JSON(path)
			if err != nil || !ok {
				t.Fatal(ok, err)
			}
			check(t, doc)
		})
	}
}

// TestKindsAreFoundAsKubectlFindsThem looks every kind up through kubectl's own parser of the protobuf document, and
// checks what client-side apply reads there: merge keys and patch strategies.
func TestKindsAreFoundAsKubectlFindsThem(t *testing.T) {
	d := documents(t)
	_, data, err := d.V2Proto()
	if err != nil {
		t.Fatal(err)
	}
	var doc openapi_v2.Document
	if err := proto.Unmarshal(data, &doc); err != nil {
		t.Fatal(err)
	}
	found, err := kubectlopenapi.NewOpenAPIData(&doc)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range kinds.All() {
		if found.LookupResource(k.GroupVersionKind) == nil {
			t.Errorf("%s is not found by its kind", k.GroupVersionKind)
		}
		if slices.Contains(k.Verbs, "patch") {
			if consumes := found.GetConsumes(k.GroupVersionKind, "PATCH"); !slices.Contains(consumes, "application/strategic-merge-patch+json") {
				t.Errorf("%s does not take strategic merge patches: %v", k.GroupVersionKind, consumes)
			}
		}
	}
	spec := found.LookupResource(corev1.SchemeGroupVersion.WithKind("Pod")).(*openapiproto.Kind).Fields["spec"].(openapiproto.Reference).SubSchema().(*openapiproto.Kind)
	containers := spec.Fields["containers"].GetExtensions()
	want := map[string]any{
		"x-kubernetes-patch-merge-key": "name", "x-kubernetes-patch-strategy": "merge",
		"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": []any{"name"},
	}
	if !reflect.DeepEqual(containers, want) {
		t.Errorf("containers have %v, want %v", containers, want)
	}
}

// served lets clients of client-go's openapi package read Documents without a server.
type served struct{ d *Documents }

func (s served) Paths() (map[string]clientopenapi.GroupVersion, error) {
	paths, err := s.d.V3Paths()
	out := map[string]clientopenapi.GroupVersion{}
	for path := range paths {
		out[path] = servedVersion{s.d, path}
	}
	return out, err
}

type servedVersion struct {
	d    *Documents
	path string
}

func (s servedVersion) ServerRelativeURL() string { return "/openapi/v3/" + s.path }
func (s servedVersion) Schema(string) ([]byte, error) {
	_, doc, _, err := s.d.V3JSON(s.path)
	return doc, err
}

// TestExplain runs kubectl's explain over the v3 document.
func TestExplain(t *testing.T) {
	client := served{documents(t)}
	explained := func(recursive bool, resource schema.GroupVersionResource, fields ...string) string {
		var out bytes.Buffer
		if err := explain.PrintModelDescription(fields, &out, client, resource, recursive, 0, "plaintext"); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	text := explained(true, corev1.SchemeGroupVersion.WithResource("pods"), "spec", "containers")
	for _, want := range []string{"KIND:       Pod", "FIELD: containers <[]Container>", "securityContext\t<SecurityContext>", "enum: Always, IfNotPresent, Never", "-required-"} {
		if !strings.Contains(text, want) {
			t.Errorf("explain pod.spec.containers --recursive does not say %q", want)
		}
	}
	for _, k := range kinds.All() {
		if text := explained(false, k.GroupVersionResource()); !strings.Contains(text, "KIND:       "+k.GroupVersionKind.Kind) {
			t.Errorf("explain %s says\n%s", k.Plural, text)
		}
	}
}

// TestFieldValidationIsSupported asks as kubectl does before it sends fieldValidation=Strict.
func TestFieldValidationIsSupported(t *testing.T) {
	verifier := cliresource.NewQueryParamVerifierV3(nil, served{documents(t)}, cliresource.QueryParamFieldValidation)
	for _, k := range kinds.All() {
		if slices.Contains(k.Verbs, "patch") {
			if err := verifier.HasSupport(k.GroupVersionKind); err != nil {
				t.Errorf("%s: %v", k.GroupVersionKind, err)
			}
		}
	}
}

func TestV3ProtoSaysTheSame(t *testing.T) {
	d := documents(t)
	etag, text, _, err := d.V3JSON("apis/coordination.k8s.io/v1")
	if err != nil {
		t.Fatal(err)
	}
	protoETag, data, ok, err := d.V3Proto("apis/coordination.k8s.io/v1")
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	var doc openapi_v3.Document
	if err := proto.Unmarshal(data, &doc); err != nil {
		t.Fatal(err)
	}
	var plain struct{ Paths map[string]any }
	if err := json.Unmarshal(text, &plain); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, p := range doc.GetPaths().GetPath() {
		names = append(names, p.GetName())
	}
	slices.Sort(names)
	if want := slices.Sorted(maps.Keys(plain.Paths)); !slices.Equal(names, want) {
		t.Errorf("protobuf has paths %v, want %v", names, want)
	}
	if etag == "" || etag != protoETag {
		t.Errorf("ETags %q and %q, want the same", etag, protoETag)
	}
}

// TestETagsFollowTheContents: a document's hash changes with what it says and with nothing else.
func TestETagsFollowTheContents(t *testing.T) {
	all, err := documents(t).V3Paths()
	if err != nil {
		t.Fatal(err)
	}
	again, _ := documents(t).V3Paths()
	if !maps.Equal(all, again) {
		t.Error("the same kinds have other hashes")
	}
	few, err := New(slices.DeleteFunc(kinds.All(), func(k *kinds.Kind) bool { return k.Plural == "secrets" }), "v1.37.2").V3Paths()
	if err != nil {
		t.Fatal(err)
	}
	for path := range all {
		if changed := few[path] != all[path]; changed != (path == "api/v1") {
			t.Errorf("without secrets, the hash of %s changed: %v", path, changed)
		}
	}
}

func TestUnknownDocument(t *testing.T) {
	if _, _, ok, err := documents(t).V3JSON("apis/nothing/v1"); ok || err != nil {
		t.Errorf("got ok %v, error %v", ok, err)
	}
}

// TestMemoryGoesBack: documents are not kept once collected, and are made again.
func TestMemoryGoesBack(t *testing.T) {
	d := documents(t)
	_, first, _, err := d.V3JSON("api/v1")
	if err != nil {
		t.Fatal(err)
	}
	want := string(first)
	first = nil
	runtime.GC()
	runtime.GC()
	if d.made["api/v1.json"].doc.Value() != nil {
		t.Error("the document is still held")
	}
	_, second, _, err := d.V3JSON("api/v1")
	if err != nil || string(second) != want {
		t.Errorf("the document made again differs (error %v)", err)
	}
}

func BenchmarkV3(b *testing.B) {
	for b.Loop() {
		if _, _, _, err := New(kinds.All(), "v1.37.2").V3JSON("api/v1"); err != nil {
			b.Fatal(err)
		}
	}
}
