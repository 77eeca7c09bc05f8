package wire_test

import (
	"context"
	"net/http"
	"reflect"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"wherry.dev/wherry/api/kinds"
	"wherry.dev/wherry/apiserver/wire"
	"wherry.dev/wherry/internal/bounded"
)

var directives = []wire.Directive{metav1.FieldValidationIgnore, metav1.FieldValidationWarn, metav1.FieldValidationStrict}

// client reports an error that blames the server for what a client sent, or does not say what is wrong.
func client(t *testing.T, err error) {
	t.Helper()
	if s := wire.StatusOf(err); s.Code < http.StatusBadRequest || s.Code >= http.StatusInternalServerError || s.Reason == "" || s.Message == "" {
		t.Errorf("%d %q: %v", s.Code, s.Reason, err)
	}
}

// FuzzDecode feeds a body of any encoding to the decoder of any kind, and what it decodes to the kind's own rules: nothing panics, what is wrong is the client's
// fault, and what is right is the same object after a way through every encoding.
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
		bounded.Work(t, len(data), func() {
			obj, err := dec.Object(data, wire.Format(format%4), directives[int(directive)%len(directives)], k.GroupVersionKind, k.New, func(string) {})
			if err != nil {
				client(t, err)
				return
			}
			roundTrip(t, dec, k, obj)
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
	})
}

// roundTrip holds that an object which has been JSON and Protobuf once, which tell fewer things apart than Go does (empty from absent, times to the second), is
// the same after any encoding.
func roundTrip(t *testing.T, dec *wire.Decoder, k *kinds.Kind, obj runtime.Object) {
	t.Helper()
	encode := func(f wire.Format, obj runtime.Object) []byte {
		b, err := wire.Encode(wire.Accept{Format: f}, k.GroupVersionKind, obj)
		if err != nil {
			t.Fatalf("cannot be written in format %v: %v", f, err)
		}
		return b
	}
	decode := func(f wire.Format, b []byte) runtime.Object {
		obj, err := dec.Object(b, f, metav1.FieldValidationStrict, k.GroupVersionKind, k.New, func(string) {})
		if err != nil {
			t.Fatalf("what was written in format %v cannot be read: %v\n%q", f, err, b)
		}
		return obj
	}
	first, err := wire.Encode(wire.Accept{}, k.GroupVersionKind, obj)
	if err != nil {
		return // such as a quantity that is none
	}
	plain, err := dec.Object(first, wire.JSON, metav1.FieldValidationIgnore, k.GroupVersionKind, k.New, func(string) {})
	if err != nil {
		return // such as a year of five digits, which Protobuf can say
	}
	plain = decode(wire.JSON, encode(wire.JSON, decode(wire.Protobuf, encode(wire.Protobuf, plain))))
	want := encode(wire.JSON, plain)
	for f := range wire.Format(4) {
		if got := encode(wire.JSON, decode(f, encode(f, plain))); string(got) != string(want) {
			t.Errorf("%s\nis after format %v\n%s", want, f, got)
		}
	}
}

// FuzzCustom feeds bodies of custom resources. What is taken is the same after a way through every encoding that there is for it.
func FuzzCustom(f *testing.F) {
	dec := wire.NewDecoder()
	want := schema.GroupVersionKind{Group: "example.com", Version: "v1", Kind: "Widget"}
	for format, seed := range []string{`{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"name":"a"},"spec":{"a":1,"a":2}}`, "apiVersion: example.com/v1\nkind: Widget\nspec: &a [1, 2.5, true, null, 1e300, -0]\nb: *a\n", "k8s\x00", "\xd9\xd9\xf7\xa2\x4aapiVersion\x4eexample.com/v1\x44kind\x46Widget"} {
		f.Add(uint8(format), uint8(format), []byte(seed))
	}
	f.Fuzz(func(t *testing.T, format, directive uint8, data []byte) {
		bounded.Work(t, len(data), func() {
			obj, err := dec.Custom(data, wire.Format(format%4), directives[int(directive)%len(directives)], want, nil, func(string) {})
			if err != nil {
				client(t, err)
				return
			}
			obj.DeepCopyObject() // what is no JSON value cannot be copied
			var texts [4]string
			for _, f := range []wire.Format{wire.JSON, wire.YAML, wire.CBOR} {
				b, err := wire.Encode(wire.Accept{Format: f}, want, obj)
				if err != nil {
					t.Logf("cannot be written in format %v: %v", f, err) // deeper than CBOR goes
					continue
				}
				again, err := dec.Custom(b, f, metav1.FieldValidationStrict, want, nil, func(string) {})
				if err != nil {
					if f == wire.CBOR || texts[wire.JSON] == "" {
						continue // likewise
					}
					t.Fatalf("what was written in format %v cannot be read: %v\n%q", f, err, b)
				}
				text, err := wire.Encode(wire.Accept{}, want, again)
				if err != nil {
					t.Fatal(err)
				}
				if texts[f] = string(text); f != wire.JSON && texts[f] != texts[wire.JSON] {
					t.Errorf("%s\nis after format %v\n%s", texts[wire.JSON], f, text)
				}
			}
		})
	})
}

// FuzzDeleteOptions feeds bodies of deletions. What they say can be said again.
func FuzzDeleteOptions(f *testing.F) {
	dec := wire.NewDecoder()
	for format, seed := range []string{`{"kind":"DeleteOptions","gracePeriodSeconds":0,"preconditions":{"uid":"a"},"propagationPolicy":"Foreground"}`, "gracePeriodSeconds: 1\n", "k8s\x00\n\x00", "\xd9\xd9\xf7\xa0"} {
		f.Add(uint8(format), []byte(seed))
	}
	gvk := metav1.SchemeGroupVersion.WithKind("DeleteOptions")
	f.Fuzz(func(t *testing.T, format uint8, data []byte) {
		bounded.Work(t, len(data), func() {
			o, err := dec.Options(data, wire.Format(format%4))
			if err != nil {
				client(t, err)
				return
			}
			o.SetGroupVersionKind(gvk)
			b, err := wire.Encode(wire.Accept{}, gvk, o)
			if err != nil {
				t.Fatal(err)
			}
			plain, err := dec.Options(b, wire.JSON)
			if err != nil {
				t.Fatalf("%s: %v", b, err)
			}
			for f := range wire.Format(4) {
				b, err := wire.Encode(wire.Accept{Format: f}, gvk, plain)
				if err != nil {
					t.Fatal(err)
				}
				again, err := dec.Options(b, f)
				if err != nil {
					t.Fatalf("what was written in format %v cannot be read: %v\n%q", f, err, b)
				}
				again.SetGroupVersionKind(gvk)
				if plain.SetGroupVersionKind(gvk); !reflect.DeepEqual(plain, again) {
					t.Errorf("%+v is after format %v %+v", plain, f, again)
				}
			}
		})
	})
}
