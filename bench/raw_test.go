package bench

import (
	"bytes"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"k8s.io/client-go/rest"
)

// TestRaw holds the benchmark's own HTTP/2 to net/http's: bodies beyond all windows both ways, compressed answers, errors, a lost connection.
func TestRaw(t *testing.T) {
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // 1 MiB
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 || r.Header.Get("Authorization") != "Bearer secret" {
			http.Error(w, fmt.Sprintf("%s by %q", r.Proto, r.Header.Get("Authorization")), http.StatusTeapot)
			return
		}
		switch r.URL.Path {
		case "/base/echo":
			w.Header().Set("X-Long", strings.Repeat("long", 10_000)) // more than a frame
			b, _ := io.ReadAll(r.Body)
			w.Write(b)
		case "/base/gzip":
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			z.Write(big)
			z.Close()
		case "/base/refuse":
			http.Error(w, "not today", http.StatusForbidden)
		case "/base/drop":
			panic(http.ErrAbortHandler)
		}
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	target := Target{Encoding: "json", Config: &rest.Config{Host: server.URL + "/base", BearerToken: "secret", TLSClientConfig: rest.TLSClientConfig{CAData: ca}}}
	all, err := target.raws(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	r := all[0]
	defer r.close()
	for range 3 {
		for _, body := range [][]byte{nil, {}, []byte("small"), big} {
			a, err := r.do(http.MethodPost, "/echo", "text/plain", body, true)
			if err != nil || !bytes.Equal(a.body, body) {
				t.Fatalf("echo of %d bytes: %d bytes, %v", len(body), len(a.body), err)
			}
		}
		a, err := r.do(http.MethodGet, "/gzip", "", nil, true)
		if err != nil {
			t.Fatal(err)
		}
		if content, err := a.content(); err != nil || !bytes.Equal(content, big) || a.length() != len(big) || len(a.body) >= len(big) {
			t.Errorf("compressed: %d bytes, %d with a length of %d, %v", len(a.body), len(content), a.length(), err)
		}
		if _, err := r.do(http.MethodGet, "/refuse", "", nil, false); err == nil || !strings.Contains(err.Error(), `403: "not today`) {
			t.Errorf("refused: %v", err)
		}
		if _, err := r.do(http.MethodGet, "/drop", "", nil, false); err == nil {
			t.Error("a dropped request: no error")
		}
	}
}
