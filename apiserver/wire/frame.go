package wire

import (
	"encoding/binary"
	"encoding/json"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"

	"wherry.dev/wherry/store"
)

// StreamMediaType is the Content-Type of a watch in format f.
func StreamMediaType(f Format) string {
	switch f {
	case CBOR:
		return "application/cbor-seq"
	case JSON:
		return MediaJSON
	}
	return f.MediaType() + ";stream=watch"
}

// Unframed is the event in a frame, for connections that have bounds of their own around it.
func Unframed(f Format, frame []byte) []byte {
	if f == Protobuf && len(frame) >= frameHeader {
		return frame[frameHeader:]
	}
	return frame
}

// frameHeader is the length of the length before an event in protobuf.
const frameHeader = 4

// AppendEvent appends the frame of one event about a stored object. The object's encoding is shared by all watchers.
func (t *Type) AppendEvent(out []byte, f Format, typ watch.EventType, o *store.Object) ([]byte, error) {
	switch f {
	case Protobuf:
		b, err := t.stored(o, Protobuf)
		if err != nil {
			return out, err
		}
		inner := t.object.envelopeSize(len(b.b))
		raw := 1 + uvarintLen(uint64(inner)) + inner // RawExtension{raw = 1}
		msg := 2 + len(typ) + 1 + uvarintLen(uint64(raw)) + raw
		out = binary.BigEndian.AppendUint32(out, uint32(msg))
		out = appendField(out, 1, []byte(typ))
		out = append(out, 2<<3|2)
		out = binary.AppendUvarint(out, uint64(raw))
		out = append(out, 1<<3|2)
		out = binary.AppendUvarint(out, uint64(inner))
		return t.object.appendEnvelope(out, b.b), nil
	case JSON:
		b, err := t.stored(o, JSON)
		if err != nil {
			return out, err
		}
		out = append(out, `{"type":"`...)
		out = append(out, typ...)
		out = append(out, `","object":`...)
		out = t.object.appendJSON(out, b.b)
		return append(out, "}\n"...), nil
	}
	obj, err := t.Served(o)
	if err != nil {
		return out, err
	}
	return AppendFrame(out, f, typ, t.GVK, obj)
}

// AppendFrame appends the frame of one event about any object: a bookmark, a Status, a row of a table.
func AppendFrame(out []byte, f Format, typ watch.EventType, gvk schema.GroupVersionKind, obj runtime.Object) ([]byte, error) {
	inner, err := Encode(Accept{Format: f}, gvk, obj)
	if err != nil {
		return out, err
	}
	switch f {
	case Protobuf:
		ev := metav1.WatchEvent{Type: string(typ), Object: runtime.RawExtension{Raw: inner}}
		b, err := ev.Marshal()
		if err != nil {
			return out, fmt.Errorf("encode watch event: %w", err)
		}
		out = binary.BigEndian.AppendUint32(out, uint32(len(b)))
		return append(out, b...), nil
	case CBOR:
		ev := &metav1.WatchEvent{Type: string(typ), Object: runtime.RawExtension{Raw: inner}}
		b, err := encodeCBOR(schema.GroupVersionKind{Version: "v1", Kind: "WatchEvent"}, ev)
		if err != nil {
			return out, err
		}
		return append(out, b...), nil
	}
	b, err := json.Marshal(&metav1.WatchEvent{Type: string(typ), Object: runtime.RawExtension{Raw: inner}})
	if err != nil {
		return out, fmt.Errorf("encode watch event: %w", err)
	}
	out = append(out, b...)
	return append(out, '\n'), nil
}
