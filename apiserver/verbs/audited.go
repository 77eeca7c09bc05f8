package verbs

import (
	"encoding/json"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	cbordirect "k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"wherry.dev/wherry/apiserver/audit"
)

// recordSent tells the audit of the object that came in the body.
func (s *Served) recordSent(r *Request, obj runtime.Object, kind schema.GroupVersionKind) {
	audit.Sent(r.HTTP.Context(), obj, kind, s.Kind.GroupVersionResource(), r.Info.Subresource)
}

// recordPatch tells the audit of a patch, in JSON. What cannot be read is refused by whoever applies it.
func recordPatch(r *Request, kind types.PatchType, patch []byte) {
	if !audit.WantsPatch(r.HTTP.Context()) {
		return
	}
	switch kind {
	case types.ApplyYAMLPatchType:
		var err error
		if patch, err = yaml.YAMLToJSON(patch); err != nil {
			return
		}
	case types.ApplyCBORPatchType:
		var v any
		if cbordirect.Unmarshal(patch, &v) != nil {
			return
		}
		var err error
		if patch, err = json.Marshal(v); err != nil {
			return
		}
	default:
		if !json.Valid(patch) {
			return
		}
	}
	audit.SentPatch(r.HTTP.Context(), patch)
}
