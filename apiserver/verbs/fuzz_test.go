package verbs

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	apirequest "k8s.io/apiserver/pkg/endpoints/request"

	"wherry.dev/wherry/api/kinds"
	"wherry.dev/wherry/apiserver/managed"
	"wherry.dev/wherry/apiserver/wire"
)

// FuzzPatch feeds bodies of every kind of patch: none panics, none changes the object it starts from, and each ends in
// an object or a Status that is not the server's fault.
func FuzzPatch(f *testing.F) {
	k := kinds.ConfigMaps()
	s := &Served{Kind: k, Type: wire.NewType(k), Decoder: wire.NewDecoder(), Managed: map[string]*managed.Manager{"": managed.New(k, "", &managed.Types{})}}
	live := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "b", ResourceVersion: "1"}, Data: map[string]string{"k": "v"}}
	live.SetGroupVersionKind(k.GroupVersionKind)
	before, err := wire.Encode(wire.Accept{}, k.GroupVersionKind, live)
	if err != nil {
		f.Fatal(err)
	}
	for i, seed := range []string{`[{"op":"replace","path":"/data/k","value":"x"}]`, `{"data":{"k":null}}`, `{"data":{"$patch":"replace"}}`, "apiVersion: v1\nkind: ConfigMap\ndata: {a: b}\n", `[{"op":"copy","from":"/data","path":"/metadata"}]`, `{"$patch":"delete"}`, `{"metadata":{"$setElementOrder/finalizers":[{}]}}`} {
		f.Add(uint8(i), []byte(seed))
	}
	f.Fuzz(func(t *testing.T, which uint8, data []byte) {
		force := true
		r := &Request{HTTP: httptest.NewRequest(http.MethodPatch, "/", nil), Writer: httptest.NewRecorder(), Info: &apirequest.RequestInfo{Name: "a", Namespace: "b"}, query: url.Values{}}
		p := patcher{s: s, r: r, options: &metav1.PatchOptions{Force: &force}, directive: metav1.FieldValidationWarn, manager: "m"}
		var next nextFunc
		var err error
		switch which % 5 {
		case 0:
			next, err = p.jsonPatch(data)
		case 1:
			next, err = p.mergePatch(data)
		case 2:
			next, err = p.strategicPatch(data)
		case 3:
			next, err = p.apply(data, types.ApplyCBORPatchType)
		default:
			next, err = p.apply(data, types.ApplyYAMLPatchType)
		}
		if err == nil {
			_, err = next(context.Background(), live)
		}
		if err != nil {
			// An applied field that nobody knows is a 500 upstream, too.
			if s := wire.StatusOf(err); s.Code >= 500 && s.Reason == "" && !strings.HasPrefix(s.Message, "failed to create typed patch object") {
				t.Errorf("an error that is no Status: %v", err)
			}
		}
		if after, err := wire.Encode(wire.Accept{}, k.GroupVersionKind, live); err != nil || string(after) != string(before) {
			t.Errorf("the live object was changed: %s", after)
		}
	})
}

// FuzzListOptions feeds the query of lists and watches.
func FuzzListOptions(f *testing.F) {
	k := kinds.ConfigMaps()
	s := &Served{Kind: k, Type: wire.NewType(k)}
	for _, q := range []string{"watch=1&resourceVersion=5&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&timeoutSeconds=3", "limit=5&continue=abc", "labelSelector=a%3Db&fieldSelector=metadata.name%3Dx", "limit=-1", "timeoutSeconds=99999999999999999999", "%zz"} {
		f.Add(q, "watch")
		f.Add(q, "list")
	}
	f.Fuzz(func(t *testing.T, query, verb string) {
		r := &Request{HTTP: &http.Request{URL: &url.URL{RawQuery: query}}, Info: &apirequest.RequestInfo{Verb: verb, Namespace: "b"}}
		o, _, _, err := s.listOptions(r)
		if err != nil {
			if code := wire.StatusOf(err).Code; code != http.StatusBadRequest && code != http.StatusUnprocessableEntity {
				t.Errorf("%d: %v", code, err)
			}
			return
		}
		if d := s.timeout(o, func() float64 { return 0.5 }); d < 0 {
			t.Errorf("a watch of %v", d)
		}
	})
}

// FuzzSelectors feeds label and field selectors.
func FuzzSelectors(f *testing.F) {
	k := kinds.ConfigMaps()
	s := &Served{Kind: k, Type: wire.NewType(k)}
	f.Add("a=b,c in (d,e),!f", "metadata.name=x,metadata.namespace!=y")
	f.Fuzz(func(t *testing.T, label, field string) {
		if _, _, err := s.selector(label, field); err != nil && wire.StatusOf(err).Code != http.StatusBadRequest {
			t.Errorf("%v", err)
		}
	})
}
