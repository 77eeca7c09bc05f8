package bench

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/client-go/kubernetes/scheme"
)

// TestWatchedPod finds the pod in frames as servers write them.
func TestWatchedPod(t *testing.T) {
	pod := &corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, ObjectMeta: metav1.ObjectMeta{Name: watchedName + "000042"}}
	var b bytes.Buffer
	if err := protobuf.NewSerializer(scheme.Scheme, scheme.Scheme).Encode(pod, &b); err != nil {
		t.Fatal(err)
	}
	for typ, want := range map[string]int{"ADDED": 42, "MODIFIED": -1} {
		raw, err := (&metav1.WatchEvent{Type: typ, Object: runtime.RawExtension{Raw: b.Bytes()}}).Marshal()
		if err != nil {
			t.Fatal(err)
		}
		stream := binary.BigEndian.AppendUint32(nil, uint32(len(raw)))
		stream = append(stream, raw...)
		f := newFrames(bytes.NewReader(append(stream, stream...)), false)
		for range 2 {
			frame, err := f.next()
			if got := watchedPod(frame); got != want || err != nil {
				t.Errorf("%s: pod %d, want %d, error %v", typ, got, want, err)
			}
		}
		if _, err := f.next(); err != io.EOF {
			t.Errorf("after the last event: %v", err)
		}
		line := fmt.Sprintf(`{"type":%q,"object":{"kind":"Pod","metadata":{"name":"watched-000042","annotations":{"a":%q}}}}`+"\n", typ, strings.Repeat("x", 100_000))
		j := newFrames(strings.NewReader(line+line), true)
		for range 2 {
			frame, err := j.next()
			if got := watchedPod(frame); got != want || err != nil || len(frame) != len(line) {
				t.Errorf("%s: pod %d of %d bytes, want %d, error %v", typ, got, len(frame), want, err)
			}
		}
	}
}
