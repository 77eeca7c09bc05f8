package store_test

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"wherry.dev/wherry/internal/bounded"
	"wherry.dev/wherry/store"
)

// FuzzContinue feeds tokens, whole ones and what is inside of one: none, however made, lists outside its namespace, before its start, twice or out of order,
// or is the server's fault, and what comes after an answer can be asked for.
func FuzzContinue(f *testing.F) {
	r, _ := pods(f)
	for _, name := range []string{"1", "2", "a", "a.b"} {
		create(f, r, "a", name)
	}
	create(f, r, "aa", "1")
	create(f, r, "b", "1")
	first, err := r.List(f.Context(), store.ListOptions{Namespace: "a", Limit: 1})
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(first.Continue), false, int64(1), false)
	for _, inside := range []string{`{"v":"meta.k8s.io/v1","rv":3,"start":"0\u0000"}`, `{"v":"meta.k8s.io/v1","rv":-1,"start":"/../b"}`, `{"v":"meta.k8s.io/v1","rv":-1,"start":"2"}`, `{"v":"meta.k8s.io/v1","rv":-1,"start":"a/2"}`,
		`{"v":"meta.k8s.io/v1","rv":1,"start":"a"}`} {
		f.Add([]byte(inside), true, int64(2), false)
		f.Add([]byte(inside), true, int64(0), true)
	}
	f.Fuzz(func(t *testing.T, raw []byte, inside bool, limit int64, everywhere bool) {
		text, namespace := string(raw), "a"
		if inside {
			text = base64.RawURLEncoding.EncodeToString(raw)
		}
		if everywhere {
			namespace = ""
		}
		if text == "" || limit < 0 {
			return // no token, and a limit that nobody lets through
		}
		bounded.Work(t, len(text), func() { walk(t, r, first.ResourceVersion, namespace, text, limit) })
	})
}

// walk follows a token to the end of its list.
func walk(t *testing.T, r store.Resource, now int64, namespace, text string, limit int64) {
	t.Helper()
	var inside struct {
		Revision int64 `json:"rv"`
		Start    string
	}
	if b, err := base64.RawURLEncoding.DecodeString(text); err == nil && json.Unmarshal(b, &inside) != nil {
		inside.Start = ""
	}
	if inside.Revision > now {
		return // a revision that is still to come is waited for, seconds each
	}
	last := strings.TrimPrefix(inside.Start, "/")
	if namespace != "" {
		last = namespace + "/" + last
	}
	for page := 0; text != ""; page++ {
		l, err := r.List(t.Context(), store.ListOptions{Namespace: namespace, Continue: text, Limit: limit})
		if err != nil {
			status, ok := err.(apierrors.APIStatus)
			if !ok {
				t.Fatalf("not an API error: %v", err)
			}
			if s := status.Status(); (s.Code != http.StatusBadRequest && s.Code != http.StatusGone) || page > 0 {
				t.Errorf("page %d: %d: %v", page, s.Code, err)
			}
			return
		}
		if limit > 0 && int64(len(l.Items)) > limit || page > 0 && len(l.Items) == 0 {
			t.Errorf("page %d has %d objects of %d", page, len(l.Items), limit)
		}
		for i, o := range l.Items {
			if namespace != "" && !strings.HasPrefix(o.Key, namespace+"/") || o.Key < last || o.Key == last && (i > 0 || page > 0) {
				t.Fatalf("listed %q after %q", o.Key, last)
			}
			last = o.Key
		}
		text = l.Continue
	}
}
