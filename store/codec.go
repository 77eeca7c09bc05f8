package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strconv"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apiserver/pkg/storage/value"

	"wherry.dev/wherry/api/scheme"
)

// codec turns objects into etcd values and back, byte for byte as upstream does: the object in its stored version without
// resourceVersion and selfLink, in the protobuf envelope, then encrypted where that is asked for.
type codec struct {
	kind        schema.GroupVersionKind
	serializer  runtime.Serializer
	convert     func(runtime.Object) (runtime.Object, error)
	keep        bool // objects keep the version in which they are stored
	defaults    func(runtime.Object)
	transformer value.Transformer // nil: none
}

// encode prepares obj, which the store has taken over, and returns the plain and the stored value; they are the same
// slice when nothing is encrypted.
func (c *codec) encode(ctx context.Context, key string, obj runtime.Object) (plain, stored []byte, err error) {
	m, err := meta.Accessor(obj)
	if err != nil {
		return nil, nil, fmt.Errorf("encode %s: %w", key, err)
	}
	m.SetResourceVersion("")
	m.SetSelfLink("")
	if !c.keep { // else the caller has said it
		obj.GetObjectKind().SetGroupVersionKind(c.kind)
	}
	var b bytes.Buffer
	if err := c.serializer.Encode(obj, &b); err != nil {
		return nil, nil, fmt.Errorf("encode %s: %w", key, err)
	}
	plain, stored = b.Bytes(), b.Bytes()
	if c.transformer != nil {
		if stored, err = c.transformer.TransformToStorage(ctx, plain, authenticated(key)); err != nil {
			return nil, nil, fmt.Errorf("encrypt %s: %w", key, err)
		}
	}
	return plain, stored, nil
}

// decode returns the object of a stored value. stale says that it should be written again, in today's encryption.
func (c *codec) decode(ctx context.Context, key string, data []byte, revision int64) (obj runtime.Object, size int, stale bool, err error) {
	if c.transformer != nil {
		if data, stale, err = c.transformer.TransformFromStorage(ctx, data, authenticated(key)); err != nil {
			return nil, 0, false, &sealedError{key, err}
		}
	} else if bytes.HasPrefix(data, encryptedPrefix) {
		return nil, 0, false, &sealedError{key, errEncrypted}
	}
	obj, kind, err := c.serializer.Decode(data, nil, nil)
	if err != nil {
		return nil, 0, false, fmt.Errorf("decode %s: %w", key, err)
	}
	switch {
	case kind == nil || *kind == c.kind || c.keep:
	default:
		if c.convert == nil {
			return nil, 0, false, fmt.Errorf("decode %s: stored as %s, expected %s", key, kind, c.kind)
		}
		if obj, err = c.convert(obj); err != nil {
			return nil, 0, false, fmt.Errorf("convert %s from %s: %w", key, kind, err)
		}
		stale = true
	}
	if !c.keep {
		obj.GetObjectKind().SetGroupVersionKind(c.kind)
	}
	if c.defaults != nil {
		c.defaults(obj)
	}
	m, err := meta.Accessor(obj)
	if err != nil {
		return nil, 0, false, fmt.Errorf("decode %s: %w", key, err)
	}
	m.SetResourceVersion(strconv.FormatInt(revision, 10))
	return obj, len(data), stale, nil
}

// settle makes of an object that was encoded what a decoder would make of the bytes, as far as the two differ.
func (c *codec) settle(obj runtime.Object) {
	if c.defaults != nil {
		c.defaults(obj)
	}
}

// encryptedPrefix begins every value that is encrypted at rest, whatever the cipher.
var encryptedPrefix = []byte("k8s:enc:")

var errEncrypted = errors.New("the value is encrypted, and this server has no encryption configuration: give it the one with which it was written")

// mayBeStale says whether values may be encrypted otherwise than they would be now.
func (c *codec) mayBeStale() bool {
	if covers, ok := c.transformer.(interface{ Covers() bool }); ok {
		return covers.Covers()
	}
	return c.transformer != nil
}

// authenticated binds an encrypted value to its key, as upstream does.
type authenticated string

// AuthenticatedData implements value.Context.
func (a authenticated) AuthenticatedData() []byte { return []byte(a) }

// setRevision sets metadata.resourceVersion of an object that is not shared yet.
func setRevision(obj runtime.Object, revision int64) {
	if m, err := meta.Accessor(obj); err == nil {
		m.SetResourceVersion(strconv.FormatInt(revision, 10))
	}
}

// withRevision returns a copy of obj with another resourceVersion ("" for 0) that shares all the rest with it: both are immutable.
func withRevision(obj runtime.Object, revision int64) runtime.Object {
	text := ""
	if revision != 0 {
		text = strconv.FormatInt(revision, 10)
	}
	if u, ok := obj.(*unstructured.Unstructured); ok {
		top := make(map[string]any, len(u.Object))
		for k, v := range u.Object {
			top[k] = v
		}
		if old, ok := top["metadata"].(map[string]any); ok {
			inner := make(map[string]any, len(old))
			for k, v := range old {
				inner[k] = v
			}
			top["metadata"] = inner
		}
		u = &unstructured.Unstructured{Object: top}
		u.SetResourceVersion(text)
		return u
	}
	v := reflect.ValueOf(obj)
	if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		obj = obj.DeepCopyObject()
	} else {
		n := reflect.New(v.Elem().Type())
		n.Elem().Set(v.Elem())
		obj = n.Interface().(runtime.Object)
	}
	if m, err := meta.Accessor(obj); err == nil {
		m.SetResourceVersion(text)
	}
	return obj
}

// envelope writes protobuf and reads protobuf and JSON. Immutable.
type envelope struct {
	*protobuf.Serializer
	json *json.Serializer
}

// Envelope is the serializer of resources that have none of their own.
func Envelope() runtime.Serializer { return newEnvelope(scheme.Scheme) }

// JSON is the serializer of resources that upstream stores as JSON though their types are compiled in. It reads the envelope too.
func JSON() runtime.Serializer { return typedJSON{newEnvelope(scheme.Scheme)} }

type typedJSON struct{ envelope }

// Encode implements runtime.Encoder.
func (t typedJSON) Encode(obj runtime.Object, w io.Writer) error { return t.json.Encode(obj, w) }

func newEnvelope(s *runtime.Scheme) envelope {
	return envelope{protobuf.NewSerializer(s, s), json.NewSerializerWithOptions(json.DefaultMetaFactory, s, s, json.SerializerOptions{})}
}

// Decode implements runtime.Decoder.
func (e envelope) Decode(data []byte, defaults *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	if bytes.HasPrefix(data, []byte("k8s\x00")) {
		return e.Serializer.Decode(data, defaults, into)
	}
	return e.json.Decode(data, defaults, into)
}

// Encode implements runtime.Encoder.
func (e envelope) Encode(obj runtime.Object, w io.Writer) error { return e.Serializer.Encode(obj, w) }
