package wire

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"wherry.dev/wherry/api/kinds"
	"wherry.dev/wherry/store"
)

// listed makes a pod as the store has it, of about size bytes.
func listed(i int, revision int64, size int) *store.Object {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: fmt.Sprintf("p-%04d", i), ResourceVersion: fmt.Sprint(revision),
		Annotations: map[string]string{"a": string(bytes.Repeat([]byte{'a' + byte(revision%26)}, size))}}}
	return &store.Object{Key: "n/" + pod.Name, Revision: revision, Object: pod, Memo: &store.Memo{}}
}

func listRequest() *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/api/v1/pods", nil)
	r.Header.Set("Accept-Encoding", "gzip")
	return r
}

// TestPiecesAgree puts lists together from pieces while objects come, go and change, and compares what comes out with the list encoded as a whole.
func TestPiecesAgree(t *testing.T) {
	typ := NewType(kinds.Pods())
	r := rand.New(rand.NewSource(1))
	var all []*store.Object
	for i := range 400 {
		all = append(all, listed(2*i, int64(i+1), 1000))
	}
	all[200] = listed(400, 77, 200_000) // more than one block
	revision := int64(1000)
	for round := range 30 {
		for range r.Intn(3) {
			revision++
			switch i := r.Intn(len(all)); r.Intn(3) {
			case 0:
				all[i] = listed(int(all[i].Key[len(all[i].Key)-1]), revision, 10)
				all[i].Key += fmt.Sprint("x", revision)
			case 1:
				all = slices.Delete(slices.Clone(all), i, i+1)
			case 2:
				all[i] = &store.Object{Key: all[i].Key, Revision: revision, Object: all[i].Object.(*corev1.Pod).DeepCopy(), Memo: &store.Memo{}}
				all[i].Object.(*corev1.Pod).Spec.NodeName = fmt.Sprint("n", revision)
			}
		}
		for _, page := range [][]*store.Object{all, all[:300], all[7:]} {
			list := &store.ListResult{Items: page, ResourceVersion: revision}
			if len(page) < len(all) {
				list.Continue = "more"
			}
			for _, f := range []Format{JSON, Protobuf} {
				want, err := typ.EncodeStoredList(Accept{Format: f}, list)
				if err != nil {
					t.Fatal(err)
				}
				w := httptest.NewRecorder()
				if !typ.WriteStoredList(w, listRequest(), http.StatusOK, Accept{Format: f}, list) {
					t.Fatal("a big list was not written")
				}
				z, err := gzip.NewReader(w.Body)
				if err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(z) // which holds the checksum and the length against it
				if err != nil || !bytes.Equal(got, want) {
					t.Fatalf("round %d, format %d: %d bytes, want %d, %v", round, f, len(got), len(want), err)
				}
				if h := w.Header(); h.Get("Content-Encoding") != "gzip" || h.Get("Vary") != "Accept-Encoding" || h.Get("Content-Type") != f.MediaType() {
					t.Errorf("headers %v", h)
				}
			}
		}
	}
}

// TestPiecesAreKept changes one object of a list and looks how many pieces are made anew.
func TestPiecesAreKept(t *testing.T) {
	typ := NewType(kinds.Pods())
	var all []*store.Object
	for i := range 600 {
		all = append(all, listed(i, int64(i+1), 1000))
	}
	write := func() map[*piece]bool {
		w := httptest.NewRecorder()
		if !typ.WriteStoredList(w, listRequest(), http.StatusOK, Accept{}, &store.ListResult{Items: all, ResourceVersion: 1}) {
			t.Fatal("a big list was not written")
		}
		pieces := map[*piece]bool{}
		for _, o := range all {
			if p := o.Memo.Get(typ.jsonPiece, newRememberedPiece).(*rememberedPiece).p; p != nil {
				pieces[p] = true
			}
		}
		return pieces
	}
	before := write()
	all[300] = listed(300, 1000, 1000)
	fresh := 0
	for p := range write() {
		if !before[p] {
			fresh++
		}
	}
	if fresh != 1 || len(before) < 2 {
		t.Errorf("%d pieces were made anew after one object changed, of %d", fresh, len(before))
	}
}

// TestNotInPieces leaves to others what is not to be compressed, and what is small.
func TestNotInPieces(t *testing.T) {
	typ := NewType(kinds.Pods())
	small, big := &store.ListResult{}, &store.ListResult{}
	for i := range 100 {
		small.Items = append(small.Items, listed(i, 1, 10))
		big.Items = append(big.Items, listed(i, 1, 2000))
	}
	plain := listRequest()
	plain.Header.Del("Accept-Encoding")
	for name, ok := range map[string]bool{
		"small":  typ.WriteStoredList(httptest.NewRecorder(), listRequest(), http.StatusOK, Accept{}, small),
		"plain":  typ.WriteStoredList(httptest.NewRecorder(), plain, http.StatusOK, Accept{}, big),
		"pretty": typ.WriteStoredList(httptest.NewRecorder(), listRequest(), http.StatusOK, Accept{Pretty: true}, big),
		"yaml":   typ.WriteStoredList(httptest.NewRecorder(), listRequest(), http.StatusOK, Accept{Format: YAML}, big),
		"table":  typ.WriteStoredList(httptest.NewRecorder(), listRequest(), http.StatusOK, Accept{Rendering: AsTable}, big),
	} {
		if ok {
			t.Errorf("%s: was written in pieces", name)
		}
	}
	if !typ.WriteStoredList(httptest.NewRecorder(), listRequest(), http.StatusOK, Accept{}, big) {
		t.Error("a big list was not")
	}
}

// TestChecksums joins checksums of texts of many lengths.
func TestChecksums(t *testing.T) {
	r := rand.New(rand.NewSource(1))
	for range 200 {
		a, b := make([]byte, r.Intn(1000)), make([]byte, r.Intn(100_000))
		r.Read(a)
		r.Read(b)
		if got, want := times(crc32.ChecksumIEEE(a), shiftBy(len(b)))^crc32.ChecksumIEEE(b), crc32.ChecksumIEEE(append(a, b...)); got != want {
			t.Fatalf("%x, want %x", got, want)
		}
	}
}

// BenchmarkCompressedList answers with a list of 2,000 pods: as a whole, again in pieces, and in pieces after one pod has changed.
func BenchmarkCompressedList(b *testing.B) {
	typ := NewType(kinds.Pods())
	list := &store.ListResult{ResourceVersion: 1}
	for i := range 2000 {
		list.Items = append(list.Items, listed(i, int64(i+1), 1000))
	}
	accept := Accept{Format: Protobuf}
	run := func(name string, f func(i int)) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for i := range b.N {
				f(i)
			}
		})
	}
	run("whole", func(int) {
		raw, err := typ.EncodeStoredList(accept, list)
		if err != nil {
			b.Fatal(err)
		}
		WriteBytes(httptest.NewRecorder(), listRequest(), http.StatusOK, MediaProtobuf, raw)
	})
	run("pieces", func(int) { typ.WriteStoredList(httptest.NewRecorder(), listRequest(), http.StatusOK, accept, list) })
	run("pieces, one changed", func(i int) {
		list.Items[1000] = listed(1000, int64(10_000+i), 1000)
		typ.WriteStoredList(httptest.NewRecorder(), listRequest(), http.StatusOK, accept, list)
	})
}
