package wire

import (
	"bufio"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/klauspost/compress/gzip"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"wherry.dev/wherry/store"
)

// compressAbove is the size from which an answer is worth compressing, upstream's 128 KiB.
const compressAbove = 128 << 10

// compressor gathers what gzip says in small pieces, each of which would become a frame of its own.
type compressor struct {
	out *bufio.Writer
	z   *gzip.Writer
}

var compressors = sync.Pool{New: func() any {
	out := bufio.NewWriterSize(nil, 64<<10)
	z, _ := gzip.NewWriterLevel(out, gzip.BestSpeed) // the level is valid: no error
	return &compressor{out, z}
}}

// compress writes b to w. It tells of no error: the only one is a client that went away.
func compress(w http.ResponseWriter, b []byte) {
	c := compressors.Get().(*compressor)
	c.out.Reset(w)
	c.z.Reset(c.out)
	c.z.Write(b)
	c.z.Close()
	c.out.Flush()
	c.out.Reset(nil)
	compressors.Put(c)
}

// WriteBytes answers with an encoded body, compressed when it is big and the client takes gzip.
func WriteBytes(w http.ResponseWriter, r *http.Request, code int, contentType string, b []byte) {
	h := w.Header()
	h["Content-Type"] = []string{contentType}
	if len(b) > compressAbove && strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		h.Set("Content-Encoding", "gzip")
		h.Add("Vary", "Accept-Encoding")
		w.WriteHeader(code)
		compress(w, b)
		return
	}
	h["Content-Length"] = []string{strconv.Itoa(len(b))}
	w.WriteHeader(code)
	if r.Method != http.MethodHead {
		w.Write(b)
	}
}

// WriteObject answers with any API object.
func WriteObject(w http.ResponseWriter, r *http.Request, a Accept, code int, gvk schema.GroupVersionKind, obj runtime.Object) {
	b, err := Encode(a, gvk, obj)
	if err != nil {
		s := StatusOf(err)
		WriteRawJSON(w, int(s.Code), s)
		return
	}
	WriteBytes(w, r, code, a.Format.MediaType(), b)
}

// ListMeta returns the metadata of a page.
func ListMeta(l *store.ListResult) metav1.ListMeta {
	m := metav1.ListMeta{Continue: l.Continue, RemainingItemCount: l.RemainingItemCount}
	if l.ResourceVersion != 0 {
		m.ResourceVersion = strconv.FormatInt(l.ResourceVersion, 10)
	}
	return m
}
