package wire

import (
	"compress/gzip"
	"net/http"
	"strconv"
	"strings"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"wherry.dev/wherry/store"
)

// compressAbove is the size from which an answer is worth compressing, upstream's 128 KiB.
const compressAbove = 128 << 10

var gzips = sync.Pool{New: func() any {
	w, _ := gzip.NewWriterLevel(nil, gzip.BestSpeed) // the level is valid: no error
	return w
}}

// WriteBytes answers with an encoded body, compressed when it is big and the client takes gzip.
func WriteBytes(w http.ResponseWriter, r *http.Request, code int, contentType string, b []byte) {
	h := w.Header()
	h["Content-Type"] = []string{contentType}
	if len(b) > compressAbove && strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		h.Set("Content-Encoding", "gzip")
		h.Add("Vary", "Accept-Encoding")
		w.WriteHeader(code)
		z := gzips.Get().(*gzip.Writer)
		z.Reset(w)
		z.Write(b) // an error here is a client that went away
		z.Close()
		z.Reset(nil)
		gzips.Put(z)
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
