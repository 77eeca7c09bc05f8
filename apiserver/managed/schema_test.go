package managed

import (
	"bytes"
	"encoding/gob"
	"flag"
	"os"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/applyconfigurations"

	"wherry.dev/wherry/api/scheme"
)

var update = flag.Bool("update", false, "write schema.gob anew from client-go")

// TestSchemaIsClientGos: the merge schema inside is that of the client-go in go.mod.
func TestSchemaIsClientGos(t *testing.T) {
	pod := &corev1.Pod{}
	pod.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Pod"))
	whole, err := applyconfigurations.NewTypeConverter(scheme.Scheme).ObjectToTyped(pod)
	if err != nil {
		t.Fatal(err)
	}
	want := whole.Schema().Types
	if *update {
		builtinSchema = encoded(t, want)
		if err := os.WriteFile("schema.gob", builtinSchema, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := decodeSchema(builtinSchema)
	if err != nil {
		t.Fatalf("%v: run this test with -update", err)
	}
	if len(got) != len(want) {
		t.Fatalf("%d types, client-go has %d: run this test with -update", len(got), len(want))
	}
	for i := range want {
		if !bytes.Equal(encoded(t, got[i]), encoded(t, want[i])) { // a comparison of the types would compare pointers
			t.Fatalf("%s is not client-go's: run this test with -update", want[i].Name)
		}
	}
}

func encoded(t *testing.T, what any) []byte {
	t.Helper()
	gob.Register(map[any]any{})
	var b bytes.Buffer
	if err := gob.NewEncoder(&b).Encode(what); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
