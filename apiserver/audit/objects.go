package audit

import (
	"bytes"
	"context"
	"encoding/json"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	auditapi "k8s.io/apiserver/pkg/apis/audit"
	"k8s.io/apiserver/pkg/audit"

	"wherry.dev/wherry/api/scheme"
)

var codecs = scheme.Codecs.WithoutConversion()

// Recorded says whether the request that ctx belongs to is audited.
func Recorded(ctx context.Context) bool { return from(ctx) != nil }

// Sent records the object in a request's body, if the policy asks for it, and in any case what the object says of its own name.
// obj is left alone.
func Sent(ctx context.Context, obj runtime.Object, kind schema.GroupVersionKind, resource schema.GroupVersionResource, subresource string) {
	record := from(ctx)
	if record == nil {
		return
	}
	if record.level.Less(auditapi.LevelRequest) { // the name is enough, and whole objects cost
		m, err := meta.Accessor(obj)
		if err != nil {
			return
		}
		obj = &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: m.GetName(), Namespace: m.GetNamespace(), UID: m.GetUID(), ResourceVersion: m.GetResourceVersion()}}
		kind = metav1.SchemeGroupVersion.WithKind("PartialObjectMetadata")
	}
	audit.LogRequestObject(ctx, obj, kind.GroupVersion(), resource, subresource, codecs)
}

// WantsPatch says whether the policy asks for what is sent.
func WantsPatch(ctx context.Context) bool {
	record := from(ctx)
	return record != nil && record.level.GreaterOrEqual(auditapi.LevelRequest)
}

// SentPatch records a patch, which must be JSON, if the policy asks for it.
func SentPatch(ctx context.Context, patch []byte) {
	if WantsPatch(ctx) {
		audit.LogRequestPatch(ctx, patch)
	}
}

// WantsAnswer says whether the policy asks for the object in the answer.
func WantsAnswer(ctx context.Context) bool {
	record := from(ctx)
	return record != nil && record.level == auditapi.LevelRequestResponse
}

// Answered records the object in an answer, given as JSON.
func Answered(ctx context.Context, encoded []byte) {
	record := from(ctx)
	if record == nil {
		return
	}
	encoded = bytes.TrimSpace(encoded)
	if record.omitManagedFields {
		encoded = withoutManagedFields(encoded)
	}
	record.context.LogResponseObject(nil, &runtime.Unknown{Raw: encoded, ContentType: runtime.ContentTypeJSON})
}

// AnsweredStatus records the Status in an answer: it is bounded, so at every level.
func AnsweredStatus(ctx context.Context, s *metav1.Status) {
	if r := from(ctx); r != nil && !r.ended { // what Refused says is more than the client is told
		audit.LogResponseObject(ctx, s, schema.GroupVersion{Version: "v1"}, codecs)
	}
}

// withoutManagedFields takes metadata.managedFields out of an object, of each item of a list and of each row of a table. What
// cannot be read stays as it is.
func withoutManagedFields(encoded []byte) []byte {
	decoder := json.NewDecoder(bytes.NewReader(encoded))
	decoder.UseNumber() // numbers stay as they were written
	var object map[string]any
	if decoder.Decode(&object) != nil {
		return encoded
	}
	strip := func(v any) {
		o, _ := v.(map[string]any)
		if m, ok := o["metadata"].(map[string]any); ok {
			delete(m, "managedFields")
		}
	}
	strip(object)
	if items, ok := object["items"].([]any); ok {
		for _, item := range items {
			strip(item)
		}
	}
	if rows, ok := object["rows"].([]any); ok {
		for _, row := range rows {
			if r, ok := row.(map[string]any); ok {
				strip(r["object"])
			}
		}
	}
	out, err := json.Marshal(object)
	if err != nil {
		return encoded
	}
	return out
}
