package verbs

import (
	"net/http"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"wherry.dev/wherry/apiserver/wire"
)

// TestApplyAnswers holds codes and sentences against what upstream's kube-apiserver 1.37.1 says.
func TestApplyAnswers(t *testing.T) {
	p := &patchable(t)[0]
	const head = "apiVersion: v1\nkind: ConfigMap\n"
	for _, c := range []struct {
		config  string
		there   bool
		code    int32 // 0: applied
		message string
		warning string
	}{
		{config: head + "data: {x: v}", there: true},
		{config: head + "data: {x: v}", code: 400, message: "the name of the object (a based on URL) was undeterminable: name must be provided"},
		{config: head + "metadata: {name: a}\ndata: {x: v}"},
		{config: head + "metadata: {name: z}", there: true, code: 400, message: "the name of the object (z) does not match the name on the URL (a)"},
		{config: head + "metadata: {name: 5}", there: true, code: 500, message: "failed to create typed patch object (/; /v1, Kind=ConfigMap): .metadata.name: expected string, got &value.valueUnstructured{Value:5}"},
		{config: head + "nope: 1", there: true, code: 500, message: "failed to create typed patch object (/; /v1, Kind=ConfigMap): .nope: field not declared in schema"},
		{config: head + "metadata: {name: a, resourceVersion: \"7\"}"},
		{config: head + "metadata: {name: a, resourceVersion: x}", code: 400, message: "invalid resource version"}, // a 500 upstream
		{config: head + "metadata: {name: a, uid: x}", code: 409, message: "uid mismatch: the provided object specified uid x, and no existing object was found"},
		{config: "null", there: true, code: 400, message: "invalid object type: /, Kind="},
		{config: "", there: true, code: 400, message: "invalid object type: /, Kind="},
		{config: "apiVersion: v1", there: true, code: 400, message: "invalid object type: /v1, Kind="},
		{config: "apiVersion: v1\nkind: Secret", there: true, code: 400, message: "invalid object type: /v1, Kind=Secret"},
		{config: "a: [", there: true, code: 400, message: "yaml: line 1: did not find expected node content"},
		{config: head + "data: {x: v, x: z}", there: true, warning: `299 - "line 3: key \"x\" already set in map"`},
	} {
		patch := p.request(true, 1)
		live := p.live
		if !c.there {
			live = nil
		}
		next, err := patch.apply([]byte(c.config), types.ApplyYAMLPatchType)
		var obj runtime.Object
		if err == nil {
			obj, err = next(t.Context(), live)
		}
		if got := strings.Join(patch.r.Writer.Header()["Warning"], "\n"); got != c.warning {
			t.Errorf("%q warns %q", c.config, got)
		}
		if c.code == 0 {
			if err != nil {
				t.Errorf("%q: %v", c.config, err)
			} else if m, err := meta.Accessor(obj); err != nil || m.GetName() != "a" || m.GetNamespace() != "b" || !c.there && m.GetResourceVersion() != "" {
				t.Errorf("%q makes %+v, %v", c.config, obj, err)
			}
			continue
		}
		if err == nil {
			t.Errorf("%q is applied", c.config)
		} else if s := wire.StatusOf(err); s.Code != c.code || !strings.Contains(s.Message, c.message) || s.Code != http.StatusInternalServerError && s.Reason == "" {
			t.Errorf("%q: %d %s, want %d %s", c.config, s.Code, s.Message, c.code, c.message)
		}
	}
}
