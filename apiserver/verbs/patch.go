package verbs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/mergepatch"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kjson "sigs.k8s.io/json"

	"wherry.dev/wherry/api/scheme"
	"wherry.dev/wherry/apiserver/wire"
)

// maxJSONPatchOperations bounds the work one small JSON patch can ask for.
const maxJSONPatchOperations = 10000

// patchTypes are the accepted Content-Types of a patch.
var patchTypes = []string{string(types.JSONPatchType), string(types.MergePatchType), string(types.StrategicMergePatchType), string(types.ApplyYAMLPatchType)}

// Patch changes part of an object: by a list of operations (JSON patch), by a partial object (merge and strategic
// merge), or by the state that one manager wants (apply), which also creates.
func Patch(ctx context.Context, s *Served, r *Request) (Answer, error) {
	ct := r.HTTP.Header.Get("Content-Type")
	if mt, _, err := mime.ParseMediaType(ct); err == nil {
		ct = mt
	}
	kind := types.PatchType(ct)
	switch kind {
	case types.JSONPatchType, types.MergePatchType, types.StrategicMergePatchType, types.ApplyYAMLPatchType, types.ApplyCBORPatchType:
	default:
		kind = ""
	}
	switch {
	case s.Kind.Custom && (kind == "" || kind == types.StrategicMergePatchType): // there is no merge schema of Go types
		return Answer{}, wire.UnsupportedMediaType(patchTypes[0], patchTypes[1], patchTypes[3])
	case kind == "":
		return Answer{}, wire.UnsupportedMediaType(patchTypes...)
	}
	data, err := wire.ReadBody(r.HTTP)
	if err != nil {
		return Answer{}, err
	}
	var options metav1.PatchOptions
	if q := r.Query(); len(q) > 0 {
		if err := metav1.Convert_url_Values_To_v1_PatchOptions(&q, &options, nil); err != nil {
			return Answer{}, apierrors.NewBadRequest(err.Error())
		}
	}
	if errs := metav1validation.ValidatePatchOptions(&options, kind); len(errs) > 0 {
		return Answer{}, apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: "PatchOptions"}, "", errs)
	}
	options.SetGroupVersionKind(metav1.SchemeGroupVersion.WithKind("PatchOptions"))
	recordPatch(r, kind, data)

	p := patcher{s: s, r: r, options: &options, directive: wire.ParseDirective(options.FieldValidation), manager: manager(options.FieldManager, r.HTTP)}
	c := change{dryRun: isDryRun(options.DryRun), unconditional: true,
		options: &metav1.UpdateOptions{TypeMeta: metav1.TypeMeta{Kind: "UpdateOptions", APIVersion: "meta.k8s.io/v1"}, DryRun: options.DryRun,
			FieldManager: options.FieldManager, FieldValidation: options.FieldValidation},
		createOptions: &metav1.CreateOptions{TypeMeta: metav1.TypeMeta{Kind: "CreateOptions", APIVersion: "meta.k8s.io/v1"}, DryRun: options.DryRun,
			FieldManager: options.FieldManager, FieldValidation: options.FieldValidation},
	}
	switch kind {
	case types.JSONPatchType:
		c.next, err = p.jsonPatch(data)
	case types.MergePatchType:
		c.next, err = p.mergePatch(data)
	case types.StrategicMergePatchType:
		c.next, err = p.strategicPatch(data)
	default:
		c.next, err = p.apply(data, kind)
		c.create = r.Sub == nil
	}
	if err != nil {
		return Answer{}, err
	}
	r.Marks.Decoded = time.Now()
	if r.Sub != nil && r.Sub.Write != nil {
		return s.writtenOther(ctx, r, c)
	}
	for attempt := 1; ; attempt++ {
		// The store retries by itself when others write; a conflict that is left is a version which the patch itself names.
		a, err := s.written(s.write(ctx, r, c))
		if err == nil || !apierrors.IsConflict(err) || p.namedVersion || attempt == maxAttempts || kind == types.ApplyYAMLPatchType || kind == types.ApplyCBORPatchType {
			return a, err
		}
	}
}

// patcher holds what all kinds of patches need.
type patcher struct {
	s            *Served
	r            *Request
	options      *metav1.PatchOptions
	directive    wire.Directive
	manager      string
	namedVersion bool // the patch sets metadata.resourceVersion
}

type nextFunc = func(ctx context.Context, current runtime.Object) (runtime.Object, error)

// view is the object that the patch is about: the current object, or the subresource's rendering of it.
func (p *patcher) view(current runtime.Object) (runtime.Object, error) {
	if p.r.Sub != nil && p.r.Sub.Read != nil {
		return base(p.r.Sub, current)
	}
	return current, nil
}

// finish turns the patched view back into the object, defaulted and with its managed fields.
func (p *patcher) finish(current, patched runtime.Object) (runtime.Object, error) {
	if p.r.Sub != nil && p.r.Sub.Write != nil {
		return p.s.Managed[p.r.Info.Subresource].UpdateScale(current, p.r.Sub, patched, p.manager)
	}
	m, err := accessor(patched)
	if err != nil {
		return nil, err
	}
	if err := p.sameName(m); err != nil {
		return nil, err
	}
	if om, err := accessor(current); err == nil && m.GetResourceVersion() != om.GetResourceVersion() && m.GetResourceVersion() != "" {
		p.namedVersion = true
	}
	if p.s.Kind.Default != nil {
		p.s.Kind.Default(patched)
	}
	return p.s.Managed[p.r.Info.Subresource].Update(current, patched, p.manager), nil
}

// sameName refuses a patch whose outcome has another name than the URL, or none.
func (p *patcher) sameName(m metav1.Object) error {
	switch m.GetName() {
	case p.r.Info.Name:
		return nil
	case "":
		return apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s based on URL) was undeterminable: name must be provided", p.r.Info.Name))
	}
	return apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s) does not match the name on the URL (%s)", m.GetName(), p.r.Info.Name))
}

// strictly handles duplicate fields of a patch, and what its outcome has that the type does not know, as the directive says. value is what is refused.
func (p *patcher) strictly(value string, strict []error) error {
	if len(strict) == 0 || p.directive == metav1.FieldValidationIgnore {
		return nil
	}
	if p.directive == metav1.FieldValidationWarn {
		for _, e := range strict {
			p.r.Warn(e.Error())
		}
		return nil
	}
	return p.notPatched(value, runtime.NewStrictDecodingError(strict).Error())
}

// notAPatch is the answer to a patch that cannot be read.
func notAPatch(data []byte, err error) error {
	if !json.Valid(data) {
		return apierrors.NewBadRequest("invalid JSON patch")
	}
	return apierrors.NewBadRequest(fmt.Sprintf("error decoding patch: %v", err))
}

// notPatched is upstream's answer to a well-formed patch whose outcome is not what it should be. It shows the patch or the outcome, but not of a
// secret: answers are kept in audit logs that keep no bodies.
func (p *patcher) notPatched(value, why string) error {
	if gvk := p.s.Kind.GroupVersionKind; gvk.Group == "" && gvk.Kind == "Secret" {
		value = "a secret's content"
	}
	return apierrors.NewInvalid(schema.GroupKind{}, "", field.ErrorList{field.Invalid(field.NewPath("patch"), value, why)})
}

// gvk is the type of the view.
func (p *patcher) gvk() schema.GroupVersionKind {
	if p.r.Sub != nil && p.r.Sub.Read != nil {
		return p.r.Sub.Kind
	}
	return p.s.Kind.GroupVersionKind
}

func (p *patcher) fresh() runtime.Object {
	if p.r.Sub != nil && p.r.Sub.Read != nil {
		return newOf(p.r.Sub.Kind)
	}
	return p.s.Kind.New()
}

// jsonPatch follows RFC 6902.
func (p *patcher) jsonPatch(data []byte) (nextFunc, error) {
	var raw []any
	strict, err := kjson.UnmarshalStrict(data, &raw)
	if err != nil {
		return nil, notAPatch(data, err)
	}
	for i, e := range strict {
		strict[i] = fmt.Errorf("json patch %w", e)
	}
	ops, err := jsonpatch.DecodePatch(data)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	if len(ops) > maxJSONPatchOperations {
		return nil, apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("The allowed maximum operations in a JSON patch is %d, got %d", maxJSONPatchOperations, len(ops)))
	}
	return p.viaJSON(func(doc []byte) ([]byte, error) {
		out, err := applyOperations(ops, doc)
		if err != nil {
			// what the patch asks for cannot be done to this object: the client's error, not a malformed request
			return nil, unprocessable(err.Error())
		}
		return out, nil
	}, strict), nil
}

// maxPatchCopies bounds, in bytes, what all copy operations of one JSON patch copy, as upstream does. Without it each can double the
// document, and thirty of them need gigabytes.
const maxPatchCopies = 3 << 20

// limitCopies tells the library, which takes the bound from a variable of its own.
var limitCopies = sync.OnceFunc(func() { atomic.StoreInt64(&jsonpatch.AccumulatedCopySizeLimit, maxPatchCopies) })

// applyOperations makes an error of the library's panics: it follows a nil value where, for one, an operation on the
// whole document has none.
func applyOperations(ops jsonpatch.Patch, doc []byte) (out []byte, err error) {
	limitCopies()
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the operations cannot be applied: %v", p)
		}
	}()
	return ops.Apply(doc)
}

// mergePatch follows RFC 7386.
func (p *patcher) mergePatch(data []byte) (nextFunc, error) {
	var m map[string]any
	strict, err := kjson.UnmarshalStrict(data, &m)
	if err != nil {
		return nil, notAPatch(data, err)
	}
	return p.viaJSON(func(doc []byte) ([]byte, error) {
		out, err := jsonpatch.MergePatch(doc, data)
		if err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
		return out, nil
	}, strict), nil
}

// viaJSON patches the object's JSON. strict is what was wrong, but not very, with the patch itself.
func (p *patcher) viaJSON(patch func([]byte) ([]byte, error), strict []error) nextFunc {
	return func(_ context.Context, current runtime.Object) (runtime.Object, error) {
		view, err := p.view(current)
		if err != nil {
			return nil, err
		}
		doc, err := wire.Encode(wire.Accept{}, p.gvk(), view)
		if err != nil {
			return nil, err
		}
		out, err := patch(doc)
		if err != nil {
			return nil, err
		}
		if p.s.Kind.Custom && (p.r.Sub == nil || p.r.Sub.Read == nil) {
			if err := p.sameType(out); err != nil {
				return nil, err
			}
		}
		found := slices.Clone(strict)
		obj, err := p.decode(out, func(text string) { found = append(found, errors.New(text)) })
		if err != nil {
			if s := wire.StatusOf(err); s.Code == http.StatusBadRequest {
				err = p.notPatched(string(out), wire.Reason(s.Message))
			}
			return nil, err
		}
		if err := p.strictly(string(out), found); err != nil {
			return nil, err
		}
		return p.finish(current, obj)
	}
}

// sameType refuses a patch that makes a custom resource something else, as their validation does.
func (p *patcher) sameType(doc []byte) error {
	var is metav1.TypeMeta
	if json.Unmarshal(doc, &is) != nil {
		return nil // decoding says it
	}
	gvk := p.s.Kind.GroupVersionKind
	var errs field.ErrorList
	if is.Kind != gvk.Kind {
		errs = append(errs, field.Invalid(field.NewPath("kind"), is.Kind, "must be "+gvk.Kind))
	}
	if v := gvk.GroupVersion().String(); is.APIVersion != v {
		errs = append(errs, field.Invalid(field.NewPath("apiVersion"), is.APIVersion, "must be "+v))
	}
	if len(errs) == 0 {
		return nil
	}
	return apierrors.NewInvalid(schema.GroupKind{Group: gvk.Group, Kind: is.Kind}, p.r.Info.Name, errs)
}

// decode reads a patched view, and reports fields that it should not have.
func (p *patcher) decode(data []byte, report func(string)) (runtime.Object, error) {
	d := p.directive
	if d == metav1.FieldValidationStrict { // what is reported is refused later, with what the patch has too often
		d = metav1.FieldValidationWarn
	}
	if p.r.Sub != nil && p.r.Sub.Read != nil {
		return p.s.Decoder.Object(data, wire.JSON, d, p.gvk(), p.fresh, report)
	}
	return p.s.decodeBytes(data, wire.JSON, d, report)
}

func unprocessable(message string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: http.StatusUnprocessableEntity,
		Reason: metav1.StatusReasonInvalid, Message: message}}
}

// strategicPatch merges by the patch strategies of the type (lists by their keys).
func (p *patcher) strategicPatch(data []byte) (nextFunc, error) {
	var patch map[string]any
	twice, err := kjson.UnmarshalStrict(data, &patch)
	if err != nil && json.Valid(data) {
		return nil, apierrors.NewBadRequest(err.Error())
	} else if err != nil {
		return nil, notAPatch(data, err)
	}
	return func(_ context.Context, current runtime.Object) (runtime.Object, error) {
		view, err := p.view(current)
		if err != nil {
			return nil, err
		}
		obj, found := view.DeepCopyObject(), twice
		if !mergeInto(obj, patch) {
			var unknown []error
			if obj, unknown, err = p.mergeLoosely(view, patch); err != nil {
				return nil, err
			}
			found = append(slices.Clone(twice), unknown...)
		}
		if len(found) > 0 {
			if err := p.strictly(fmt.Sprintf("%+v", patch), found); err != nil {
				return nil, err
			}
		}
		obj.GetObjectKind().SetGroupVersionKind(p.gvk())
		return p.finish(current, obj)
	}, nil
}

// mergeLoosely merges patch into a copy of view by the general machinery, and says what the outcome has that the type does not know.
func (p *patcher) mergeLoosely(view runtime.Object, patch map[string]any) (obj runtime.Object, unknown []error, err error) {
	meta, err := strategicpatch.NewPatchMetaFromStruct(p.fresh())
	if err != nil {
		return nil, nil, apierrors.NewInternalError(err)
	}
	part := view
	fields, partial := touched(view, patch)
	if partial {
		part = only(view, fields)
	}
	doc, err := runtime.DefaultUnstructuredConverter.ToUnstructured(part)
	if err != nil {
		return nil, nil, apierrors.NewInternalError(err)
	}
	merged, err := mergeStrategically(doc, runtime.DeepCopyJSON(patch), meta)
	if err != nil {
		return nil, nil, patchError(err)
	}
	obj = p.fresh()
	err = runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(merged, obj, p.directive != metav1.FieldValidationIgnore)
	if err != nil {
		strict, ok := runtime.AsStrictDecodingError(err)
		if !ok {
			return nil, nil, p.notPatched(fmt.Sprintf("%+v", patch), err.Error())
		}
		unknown = strict.Errors()
	}
	if partial {
		obj = replaced(view, obj, fields)
	}
	return obj, unknown, nil
}

// mergeStrategically makes an error of the library's panics: it takes the elements of a list without keys for strings or numbers.
func mergeStrategically(doc, patch map[string]any, meta strategicpatch.LookupPatchMeta) (merged map[string]any, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = unprocessable(fmt.Sprintf("the patch cannot be merged: %v", p))
		}
	}()
	return strategicpatch.StrategicMergeMapPatchUsingLookupPatchMeta(doc, patch, meta)
}

// patchError is the answer to a strategic patch that cannot be merged.
func patchError(err error) error {
	switch err {
	case mergepatch.ErrBadJSONDoc, mergepatch.ErrBadPatchFormatForPrimitiveList, mergepatch.ErrBadPatchFormatForRetainKeys, mergepatch.ErrBadPatchFormatForSetElementOrderList, mergepatch.ErrUnsupportedStrategicMergePatchFormat:
		return apierrors.NewBadRequest(err.Error())
	case mergepatch.ErrNoListOfLists, mergepatch.ErrPatchContentNotMatchRetainKeys:
		return unprocessable(err.Error())
	}
	return &apierrors.StatusError{ErrStatus: *wire.StatusOf(err)} // as upstream: mostly a 500, though the client could mend it
}

// newOf makes an empty object of a registered type.
func newOf(gvk schema.GroupVersionKind) runtime.Object {
	obj, err := scheme.Scheme.New(gvk)
	if err != nil {
		return &unstructured.Unstructured{}
	}
	return obj
}
