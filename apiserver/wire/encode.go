package wire

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"
	"weak"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor"
	"sigs.k8s.io/yaml"

	"wherry.dev/wherry/api/kinds"
	"wherry.dev/wherry/api/scheme"
	"wherry.dev/wherry/store"
)

// Type is all that an encoder must know of one served kind, prepared once. Immutable.
type Type struct {
	Kind *kinds.Kind
	GVK  schema.GroupVersionKind

	object head // of one object
	list   head // of a list of them

	id                           uint64 // of this Type among all there were
	jsonKey, protoKey, servedKey any    // keys of what is remembered with an object, boxed once
	jsonPiece, protoPiece        any
}

// types counts the Types that were made: a custom kind may come back in another shape, and what was remembered of the last one is not
// to be used, nor to be kept.
var types atomic.Uint64

// NewType prepares the encodings of k.
func NewType(k *kinds.Kind) *Type {
	gvk := k.GroupVersionKind
	listKind := gvk.Kind + "List"
	if k.NewList != nil {
		if gvks, _, err := scheme.Scheme.ObjectKinds(k.NewList()); err == nil {
			for _, g := range gvks {
				if g.GroupVersion() == gvk.GroupVersion() {
					listKind = g.Kind
				}
			}
		}
	}
	type key struct {
		group, version string
		format         Format
	}
	type object struct{ group, version string }
	return &Type{Kind: k, GVK: gvk, object: newHead(gvk), list: newHead(gvk.GroupVersion().WithKind(listKind)), id: types.Add(1),
		jsonKey: key{gvk.Group, gvk.Version, JSON}, protoKey: key{gvk.Group, gvk.Version, Protobuf}, servedKey: object{gvk.Group, gvk.Version},
		jsonPiece: pieceKey{gvk.Group, gvk.Version, JSON}, protoPiece: pieceKey{gvk.Group, gvk.Version, Protobuf}}
}

// head is what precedes the fields of every object of one type.
type head struct {
	gvk   schema.GroupVersionKind
	json  []byte // {"kind":"Pod","apiVersion":"v1",
	proto []byte // k8s\x00, then runtime.Unknown's typeMeta
}

func newHead(gvk schema.GroupVersionKind) head {
	gv := gvk.GroupVersion().String()
	h := head{gvk: gvk, json: fmt.Appendf(nil, `{"kind":%q,"apiVersion":%q,`, gvk.Kind, gv)}
	var tm []byte
	tm = appendField(tm, 1, []byte(gv))
	tm = appendField(tm, 2, []byte(gvk.Kind))
	h.proto = appendField([]byte("k8s\x00"), 1, tm)
	return h
}

// appendField appends one length-delimited protobuf field.
func appendField(b []byte, number int, value []byte) []byte {
	b = append(b, byte(number<<3|2))
	b = binary.AppendUvarint(b, uint64(len(value)))
	return append(b, value...)
}

// unknownTail is runtime.Unknown's empty contentEncoding and contentType, which upstream writes.
const unknownTail = "\x1a\x00\x22\x00"

// envelope wraps an object's protobuf body as clients expect it.
func (h *head) envelope(body []byte) []byte {
	b := make([]byte, 0, h.envelopeSize(len(body)))
	return h.appendEnvelope(b, body)
}

func (h *head) envelopeSize(body int) int {
	return len(h.proto) + 1 + uvarintLen(uint64(body)) + body + len(unknownTail)
}

func (h *head) appendEnvelope(b, body []byte) []byte {
	b = append(b, h.proto...)
	b = appendField(b, 2, body)
	return append(b, unknownTail...)
}

func uvarintLen(v uint64) int {
	n := 1
	for v >= 0x80 {
		v >>= 7
		n++
	}
	return n
}

// body is an object's fields without its type: for JSON all that follows the head, for protobuf the message itself.
type body struct{ b []byte }

// remembered holds a body weakly: a burst of readers shares one encoding, and the memory goes back with the next
// garbage collection after the last of them is done.
type remembered struct {
	mu sync.Mutex
	p  weak.Pointer[body] // guarded by mu
	by uint64             // guarded by mu; the Type's id
}

// converted holds an object in a served version, once that is known.
type converted struct {
	mu  sync.Mutex
	obj runtime.Object // guarded by mu
	by  uint64         // guarded by mu; the Type's id
}

func newRemembered() any { return &remembered{} }

// Served returns o in the served version. The result is shared and immutable.
func (t *Type) Served(o *store.Object) (runtime.Object, error) {
	if t.Kind.Hub == nil {
		return o.Object, nil
	}
	if t.Kind.Custom && o.Memo != nil { // a conversion may be a call to a webhook
		c := o.Memo.Get(t.servedKey, func() any { return &converted{} }).(*converted)
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.by != t.id {
			obj, err := t.Kind.Hub.FromHub(o.Object)
			if err != nil {
				return nil, err // in the conversion's own words, as upstream
			}
			c.obj, c.by = obj, t.id
		}
		return c.obj, nil
	}
	out, err := t.Kind.Hub.FromHub(o.Object)
	if err != nil {
		return nil, fmt.Errorf("convert %s to %s: %w", o.Key, t.GVK, err)
	}
	return out, nil
}

// stored returns o's body, encoded at most once among concurrent and recent readers.
func (t *Type) stored(o *store.Object, f Format) (*body, error) {
	if o.Memo == nil {
		return t.encodeStored(o, f)
	}
	key := t.jsonKey
	if f == Protobuf {
		key = t.protoKey
	}
	slot := o.Memo.Get(key, newRemembered).(*remembered)
	slot.mu.Lock()
	defer slot.mu.Unlock()
	if b := slot.p.Value(); b != nil && slot.by == t.id {
		return b, nil
	}
	b, err := t.encodeStored(o, f)
	if err == nil {
		slot.p, slot.by = weak.Make(b), t.id
	}
	return b, err
}

func (t *Type) encodeStored(o *store.Object, f Format) (*body, error) {
	obj, err := t.Served(o)
	if err != nil {
		return nil, err
	}
	return t.object.body(obj, f)
}

// body encodes obj's fields in JSON or protobuf.
func (h *head) body(obj runtime.Object, f Format) (*body, error) {
	if f == Protobuf {
		m, ok := obj.(interface{ Marshal() ([]byte, error) })
		if !ok {
			return nil, failure(406, "NotAcceptable", fmt.Sprintf("object %T does not implement the protobuf marshalling interface and cannot be encoded to a protobuf message", obj))
		}
		b, err := m.Marshal()
		if err != nil {
			return nil, fmt.Errorf("encode %s as protobuf: %w", h.gvk, err)
		}
		return &body{b}, nil
	}
	if u, ok := obj.(*unstructured.Unstructured); ok {
		fields := make(map[string]any, len(u.Object))
		for k, v := range u.Object {
			if k != "kind" && k != "apiVersion" {
				fields[k] = v
			}
		}
		b, err := json.Marshal(fields)
		if err != nil {
			return nil, fmt.Errorf("encode %s as json: %w", h.gvk, err)
		}
		return &body{b[1:]}, nil
	}
	b, err := json.Marshal(obj)
	if err != nil {
		return nil, fmt.Errorf("encode %s as json: %w", h.gvk, err)
	}
	return &body{trimHead(b, h)}, nil
}

// trimHead cuts the type off an encoded object, whether it is written there or not.
func trimHead(b []byte, h *head) []byte {
	if bytes.HasPrefix(b, h.json) {
		return b[len(h.json):]
	}
	rest := b[1:]
	for _, name := range []string{`"kind":"`, `"apiVersion":"`} { // a type that is set otherwise, or in part
		if bytes.HasPrefix(rest, []byte(name)) {
			rest = rest[len(name):]
			rest = rest[bytes.IndexByte(rest, '"')+1:]
			rest = bytes.TrimPrefix(rest, []byte(","))
		}
	}
	return rest
}

// whole joins head and body in JSON.
func (h *head) whole(b []byte) []byte {
	out := make([]byte, 0, len(h.json)+len(b)+1)
	return append(h.appendJSON(out, b), '\n')
}

func (h *head) appendJSON(out, b []byte) []byte {
	out = append(out, h.json...)
	if len(b) == 1 { // nothing but the closing brace
		out = out[:len(out)-1]
	}
	return append(out, b...)
}

// Encode renders any API object of the given type. obj is not changed; its own TypeMeta does not count.
func Encode(a Accept, gvk schema.GroupVersionKind, obj runtime.Object) ([]byte, error) {
	h := newHead(gvk)
	return h.encode(a, obj)
}

func (h *head) encode(a Accept, obj runtime.Object) ([]byte, error) {
	switch a.Format {
	case Protobuf:
		b, err := h.body(obj, Protobuf)
		if err != nil {
			return nil, err
		}
		return h.envelope(b.b), nil
	case CBOR:
		return encodeCBOR(h.gvk, obj)
	}
	b, err := h.body(obj, JSON)
	if err != nil {
		return nil, err
	}
	return finishJSON(a, h.whole(b.b))
}

// finishJSON turns compact JSON, newline included, into what was asked for.
func finishJSON(a Accept, b []byte) ([]byte, error) {
	if a.Format == YAML {
		out, err := yaml.JSONToYAML(b)
		if err != nil {
			return nil, fmt.Errorf("encode as yaml: %w", err)
		}
		return out, nil
	}
	if !a.Pretty {
		return b, nil
	}
	var out bytes.Buffer
	if err := json.Indent(&out, bytes.TrimSuffix(b, []byte("\n")), "", "  "); err != nil {
		return nil, fmt.Errorf("indent json: %w", err)
	}
	return out.Bytes(), nil
}

func encodeCBOR(gvk schema.GroupVersionKind, obj runtime.Object) ([]byte, error) {
	// The codec reads the type from the object, which may be shared: set it on a copy when it is not there.
	if obj.GetObjectKind().GroupVersionKind() != gvk {
		obj = obj.DeepCopyObject()
		obj.GetObjectKind().SetGroupVersionKind(gvk)
	}
	var out bytes.Buffer
	if err := cborCodec().Encode(obj, &out); err != nil {
		return nil, fmt.Errorf("encode %s as cbor: %w", gvk, err)
	}
	return out.Bytes(), nil
}

var cborCodec = sync.OnceValue(func() runtime.Serializer { return cbor.NewSerializer(scheme.Scheme, scheme.Scheme) })

// EncodeStored renders one stored object; JSON and protobuf bodies are shared with every other reader of this revision.
func (t *Type) EncodeStored(a Accept, o *store.Object) ([]byte, error) {
	switch a.Format {
	case Protobuf:
		b, err := t.stored(o, Protobuf)
		if err != nil {
			return nil, err
		}
		return t.object.envelope(b.b), nil
	case CBOR:
		obj, err := t.Served(o)
		if err != nil {
			return nil, err
		}
		return encodeCBOR(t.GVK, obj)
	}
	b, err := t.stored(o, JSON)
	if err != nil {
		return nil, err
	}
	return finishJSON(a, t.object.whole(b.b))
}

// EncodeStoredList renders a page of stored objects by joining their encodings.
func (t *Type) EncodeStoredList(a Accept, l *store.ListResult) ([]byte, error) {
	lm := ListMeta(l)
	switch a.Format {
	case Protobuf:
		return t.protoList(l)
	case CBOR:
		list := t.Kind.NewList()
		items := make([]runtime.Object, len(l.Items))
		for i, o := range l.Items {
			obj, err := t.Served(o)
			if err != nil {
				return nil, err
			}
			items[i] = obj
		}
		if err := meta.SetList(list, items); err != nil {
			return nil, fmt.Errorf("gather %s: %w", t.list.gvk, err)
		}
		if li, err := meta.ListAccessor(list); err == nil {
			li.SetResourceVersion(lm.ResourceVersion)
			li.SetContinue(lm.Continue)
			li.SetRemainingItemCount(lm.RemainingItemCount)
		}
		return encodeCBOR(t.list.gvk, list)
	}
	m, err := t.jsonListMeta(lm)
	if err != nil {
		return nil, err
	}
	size := len(t.list.json) + len(m) + 32
	bodies := make([]*body, len(l.Items))
	for i, o := range l.Items {
		if bodies[i], err = t.stored(o, JSON); err != nil {
			return nil, err
		}
		size += len(bodies[i].b) + 2
		if t.Kind.Custom {
			size += len(t.object.json)
		}
	}
	out := make([]byte, 0, size)
	out = append(out, t.list.json...)
	out = append(out, `"metadata":`...)
	out = append(out, m...)
	out = append(out, `,"items":[`...)
	for i, b := range bodies {
		if i > 0 {
			out = append(out, ',')
		}
		if t.Kind.Custom { // free objects say what they are in lists too
			out = t.object.appendJSON(out, b.b)
			continue
		}
		out = append(out, '{')
		out = append(out, b.b...)
	}
	out = append(out, "]}\n"...)
	return finishJSON(a, out)
}

// jsonListMeta is a list's metadata in JSON.
func (t *Type) jsonListMeta(lm metav1.ListMeta) ([]byte, error) {
	m, err := json.Marshal(lm)
	if err != nil {
		return nil, fmt.Errorf("encode list metadata: %w", err)
	}
	if t.Kind.Custom && lm.Continue == "" { // free lists always have one
		m = append([]byte(`{"continue":"",`), m[1:]...)
	}
	return m, nil
}

// protoList relies on a convention of every built-in list type: metadata is field 1, items field 2. A test holds it.
func (t *Type) protoList(l *store.ListResult) ([]byte, error) {
	lm := ListMeta(l)
	m, err := lm.Marshal()
	if err != nil {
		return nil, fmt.Errorf("encode list metadata: %w", err)
	}
	bodies := make([]*body, len(l.Items))
	size := 1 + uvarintLen(uint64(len(m))) + len(m)
	for i, o := range l.Items {
		if bodies[i], err = t.stored(o, Protobuf); err != nil {
			return nil, err
		}
		n := len(bodies[i].b)
		size += 1 + uvarintLen(uint64(n)) + n
	}
	out := make([]byte, 0, t.list.envelopeSize(size))
	out = append(out, t.list.proto...)
	out = append(out, 2<<3|2)
	out = binary.AppendUvarint(out, uint64(size))
	out = appendField(out, 1, m)
	for _, b := range bodies {
		out = appendField(out, 2, b.b)
	}
	return append(out, unknownTail...), nil
}
