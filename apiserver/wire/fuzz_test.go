package wire_test

import (
	"context"
	"net/http"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"wherry.dev/wherry/api/kinds"
	"wherry.dev/wherry/apiserver/wire"
)

var directives = []wire.Directive{metav1.FieldValidationIgnore, metav1.FieldValidationWarn, metav1.FieldValidationStrict}

// client reports an error that blames the server for what a client sent.
func client(t *testing.T, err error) {
	t.Helper()
	if code := wire.StatusOf(err).Code; code < http.StatusBadRequest || code >= http.StatusInternalServerError {
		t.Errorf("%d: %v", code, err)
	}
}

// FuzzDecode feeds a body of any encoding to the decoder of any kind, and what it decodes to the kind's own rules: nothing panics, and what
// is wrong is the client's fault.
func FuzzDecode(f *testing.F) {
	all := kinds.All()
	dec := wire.NewDecoder()
	for i, k := range all { // an empty object of each kind, in each encoding, and one that has a little of everything
		for format := range wire.Format(4) {
			obj := k.New()
			obj.GetObjectKind().SetGroupVersionKind(k.GroupVersionKind)
			b, err := wire.Encode(wire.Accept{Format: format}, k.GroupVersionKind, obj)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(uint8(i), uint8(format), uint8(i), b)
		}
		f.Add(uint8(i), uint8(wire.JSON), uint8(i), []byte(`{"metadata":{"name":"a","labels":{"a":"b"},"ownerReferences":[{}],"managedFields":[{}]},"spec":{"replicas":1,"template":{"spec":{"containers":[{}]}},"selector":{},"rules":[{}],"ports":[{}]},"status":{"conditions":[{}]},"data":{"a":"Yg=="},"rules":[{}],"subjects":[{}],"webhooks":[{}]}`))
	}
	f.Fuzz(func(t *testing.T, kind, format, directive uint8, data []byte) {
		k := all[int(kind)%len(all)]
		obj, err := dec.Object(data, wire.Format(format%4), directives[int(directive)%len(directives)], k.GroupVersionKind, k.New, func(string) {})
		if err != nil {
			client(t, err)
			return
		}
		if k.Default != nil {
			k.Default(obj)
		}
		if k.PrepareForCreate != nil {
			k.PrepareForCreate(context.Background(), obj)
		}
		if k.Validate != nil {
			k.Validate(context.Background(), obj)
		}
		if _, err := wire.Encode(wire.Accept{}, k.GroupVersionKind, obj); err != nil {
			t.Logf("cannot be shown: %v", err) // such as a quantity that is none: validation or the store refuses it
		}
	})
}

// FuzzCustom feeds bodies of custom resources.
func FuzzCustom(f *testing.F) {
	dec := wire.NewDecoder()
	want := schema.GroupVersionKind{Group: "example.com", Version: "v1", Kind: "Widget"}
	for format, seed := range []string{`{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"name":"a"},"spec":{"a":1,"a":2}}`, "kind: Widget\nspec: &a [1, 2.5, true]\nb: *a\n", "k8s\x00", "\xd9\xd9\xf7\xa1\x44kind\x46Widget"} {
		f.Add(uint8(format), uint8(format), []byte(seed))
	}
	f.Fuzz(func(t *testing.T, format, directive uint8, data []byte) {
		obj, err := dec.Custom(data, wire.Format(format%4), directives[int(directive)%len(directives)], want, nil, func(string) {})
		if err != nil {
			client(t, err)
			return
		}
		obj.DeepCopyObject() // what is no JSON value cannot be copied
	})
}

// FuzzDeleteOptions feeds bodies of deletions.
func FuzzDeleteOptions(f *testing.F) {
	dec := wire.NewDecoder()
	for format, seed := range []string{`{"kind":"DeleteOptions","gracePeriodSeconds":0,"preconditions":{"uid":"a"},"propagationPolicy":"Foreground"}`, "gracePeriodSeconds: 1\n", "k8s\x00\n\x00", "\xd9\xd9\xf7\xa0"} {
		f.Add(uint8(format), []byte(seed))
	}
	f.Fuzz(func(t *testing.T, format uint8, data []byte) {
		if _, err := dec.Options(data, wire.Format(format%4)); err != nil {
			client(t, err)
		}
	})
}
