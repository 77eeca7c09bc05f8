package store_test

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"pgregory.net/rapid"

	"wherry.dev/wherry/store"
	"wherry.dev/wherry/store/watchcache"
)

func keys(l *store.ListResult) string {
	var out []string
	for _, o := range l.Items {
		out = append(out, o.Key)
	}
	return strings.Join(out, " ")
}

// Every combination of resourceVersion, match and limit, after the history a/1 a/2 a/3 b/1, then -a/2, then +a/4.
func TestListResourceVersion(t *testing.T) {
	both(t, watchcache.Limits{}, func(t *testing.T, r store.Resource, c *clientv3.Client) {
		var last *store.Object
		for _, k := range []string{"a/1", "a/2", "a/3", "b/1"} {
			ns, name, _ := strings.Cut(k, "/")
			last = create(t, r, ns, name)
		}
		four := fmt.Sprint(last.Revision) // a/1 a/2 a/3 b/1
		three := fmt.Sprint(remove(t, r, "a", "2").Revision)
		create(t, r, "a", "4")
		const now = "a/1 a/3 a/4 b/1"
		for _, test := range []struct {
			rv    string
			match metav1.ResourceVersionMatch
			limit int64
			want  string // keys, or part of the error
			more  int64  // -1: no continue
		}{
			{"", "", 0, now, -1},
			{"", "", 2, "a/1 a/3", 2},
			{"0", "", 0, now, -1},
			{"0", "", 2, now, -1}, // upstream ignores the limit here
			{"0", metav1.ResourceVersionMatchNotOlderThan, 0, now, -1},
			{four, "", 0, now, -1},
			{four, metav1.ResourceVersionMatchNotOlderThan, 0, now, -1},
			{four, metav1.ResourceVersionMatchNotOlderThan, 1, "a/1", 3},
			{four, "", 2, "a/1 a/2", 2}, // exact, by the legacy meaning of a limit
			{four, metav1.ResourceVersionMatchExact, 0, "a/1 a/2 a/3 b/1", -1},
			{three, metav1.ResourceVersionMatchExact, 0, "a/1 a/3 b/1", -1},
			{three, metav1.ResourceVersionMatchExact, 2, "a/1 a/3", 1},
			{"", metav1.ResourceVersionMatchExact, 0, "forbidden", -1},
			{"0", metav1.ResourceVersionMatchExact, 0, "forbidden", -1},
			{"", metav1.ResourceVersionMatchNotOlderThan, 0, "forbidden", -1},
			{"x", "", 0, "invalid resource version", -1},
			{"-1", "", 0, "invalid resource version", -1},
			{"", "Sometimes", 0, "not one of", -1},
		} {
			t.Run(fmt.Sprintf("rv=%s,match=%s,limit=%d", test.rv, test.match, test.limit), func(t *testing.T) {
				if test.rv == "0" { // "any" may be old: wait until it is not
					if _, err := r.List(t.Context(), store.ListOptions{}); err != nil {
						t.Fatal(err)
					}
				}
				l, err := r.List(t.Context(), store.ListOptions{ResourceVersion: test.rv, ResourceVersionMatch: test.match, Limit: test.limit})
				if err != nil {
					if !strings.Contains(err.Error(), test.want) || !apierrors.IsBadRequest(err) {
						t.Fatalf("error %v, want %q as a 400", err, test.want)
					}
					return
				}
				if keys(l) != test.want {
					t.Fatalf("listed %s, want %s", keys(l), test.want)
				}
				if test.match == metav1.ResourceVersionMatchExact && fmt.Sprint(l.ResourceVersion) != test.rv {
					t.Fatalf("list is of revision %d", l.ResourceVersion)
				}
				if test.more < 0 != (l.Continue == "") || test.more >= 0 && (l.RemainingItemCount == nil || *l.RemainingItemCount != test.more) {
					t.Fatalf("continue %q, remaining %v, want %d", l.Continue, l.RemainingItemCount, test.more)
				}
			})
		}
	})
}

func TestTooLarge(t *testing.T) {
	both(t, watchcache.Limits{}, func(t *testing.T, r store.Resource, c *clientv3.Client) {
		t.Parallel()
		o := create(t, r, "a", "1")
		_, err := r.List(t.Context(), store.ListOptions{ResourceVersion: fmt.Sprint(o.Revision + 1000)})
		if !apierrors.IsTimeout(err) || !apierrors.HasStatusCause(err, metav1.CauseTypeResourceVersionTooLarge) {
			t.Fatalf("list at a revision to come: %v", err)
		}
		// A revision that another resource brought about is reached at once.
		p, err := c.Put(t.Context(), "/registry/other", "v")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Get(t.Context(), "a", "1", fmt.Sprint(p.Header.Revision)); err != nil {
			t.Fatalf("get at a revision of another resource: %v", err)
		}
	})
}

// Pages are of one snapshot, whatever is written between them, by either kind of memory: the cache's or etcd's history.
func TestContinue(t *testing.T) {
	for _, limits := range []watchcache.Limits{{}, {Snapshots: 1}} {
		both(t, limits, func(t *testing.T, r store.Resource, c *clientv3.Client) {
			for i := range 10 {
				create(t, r, "a", fmt.Sprint(i))
				create(t, r, "b", fmt.Sprint(i))
			}
			var got []string
			o := store.ListOptions{Namespace: "a", Limit: 3}
			revision := int64(0)
			for page := 0; ; page++ {
				l, err := r.List(t.Context(), o)
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, keys(l))
				if revision == 0 {
					revision = l.ResourceVersion
				}
				if l.ResourceVersion != revision {
					t.Fatalf("page %d is of revision %d, the first of %d", page, l.ResourceVersion, revision)
				}
				if o.Continue = l.Continue; l.Continue == "" {
					break
				}
				if want := int64(10 - 3*(page+1)); *l.RemainingItemCount != want {
					t.Fatalf("page %d: %d remain, want %d", page, *l.RemainingItemCount, want)
				}
				remove(t, r, "a", fmt.Sprint(9-page))
				create(t, r, "a", fmt.Sprintf("%d-new", page))
				if limits.Snapshots == 1 { // push the list's own snapshot out
					if _, err := r.List(t.Context(), store.ListOptions{Namespace: "b", Limit: 1}); err != nil {
						t.Fatal(err)
					}
				}
			}
			if want := "a/0 a/1 a/2|a/3 a/4 a/5|a/6 a/7 a/8|a/9"; strings.Join(got, "|") != want {
				t.Fatalf("pages %s, want %s", strings.Join(got, "|"), want)
			}
		})
	}
}

// A token whose history is gone is a 410 that carries a token to go on with, inconsistently.
func TestContinueExpired(t *testing.T) {
	both(t, watchcache.Limits{Snapshots: 1}, func(t *testing.T, r store.Resource, c *clientv3.Client) {
		for i := range 4 {
			create(t, r, "a", fmt.Sprint(i))
		}
		first, err := r.List(t.Context(), store.ListOptions{Limit: 2})
		if err != nil {
			t.Fatal(err)
		}
		create(t, r, "a", "9")
		last := create(t, r, "b", "0")
		if _, err := r.List(t.Context(), store.ListOptions{Limit: 1}); err != nil { // takes the place of the first one's snapshot
			t.Fatal(err)
		}
		if _, err := c.Compact(t.Context(), last.Revision); err != nil {
			t.Fatal(err)
		}
		_, err = r.List(t.Context(), store.ListOptions{Limit: 9, Continue: first.Continue})
		if !apierrors.IsResourceExpired(err) || !strings.Contains(err.Error(), "inconsistent list") {
			t.Fatalf("expired token: %v", err)
		}
		again := err.(apierrors.APIStatus).Status().ListMeta.Continue
		l, err := r.List(t.Context(), store.ListOptions{Limit: 9, Continue: again})
		if err != nil || keys(l) != "a/2 a/3 a/9 b/0" || l.ResourceVersion < last.Revision {
			t.Fatalf("the token of the answer leads to %v at %d, %v", keys(l), l.ResourceVersion, err)
		}
		_, err = r.List(t.Context(), store.ListOptions{ResourceVersion: fmt.Sprint(first.ResourceVersion), ResourceVersionMatch: metav1.ResourceVersionMatchExact})
		if !apierrors.IsResourceExpired(err) {
			t.Fatalf("exact list of a compacted revision: %v", err)
		}
	})
}

func TestBadContinue(t *testing.T) {
	r, _ := pods(t)
	create(t, r, "a", "1")
	enc := base64.RawURLEncoding.EncodeToString
	for text, want := range map[string]string{
		"%%":             "illegal base64",
		enc([]byte("{")): "unexpected end",
		enc([]byte(`{"v":"meta.k8s.io/v1","rv":0,"start":"a"}`)):        "incorrect encoded start resourceVersion",
		enc([]byte(`{"v":"meta.k8s.io/v1","rv":1,"start":""}`)):         "encoded start key empty",
		enc([]byte(`{"v":"meta.k8s.io/v2","rv":1,"start":"a"}`)):        "does not recognize",
		enc([]byte(`{"v":"meta.k8s.io/v1","rv":1,"start":"../b/c"}`)):   "continue key is not valid",
		enc([]byte(`{"v":"meta.k8s.io/v1","rv":1,"start":"b/../../"}`)): "continue key is not valid",
	} {
		_, err := r.List(t.Context(), store.ListOptions{Namespace: "a", Limit: 1, Continue: text})
		if !apierrors.IsBadRequest(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("token %s: %v, want %q", text, err, want)
		}
	}
	_, err := r.List(t.Context(), store.ListOptions{Continue: enc([]byte(`{"v":"meta.k8s.io/v1","rv":1,"start":"a"}`)), ResourceVersion: "1"})
	if !apierrors.IsBadRequest(err) {
		t.Errorf("continue with a resourceVersion: %v", err)
	}
}

func TestListSelectors(t *testing.T) {
	r, _ := pods(t)
	for i, node := range []string{"n1", "n2", "n1", ""} {
		p := newPod("a", fmt.Sprint(i))
		p.Spec.NodeName = node
		if i%2 == 1 {
			p.Labels["app"] = "odd"
		}
		if _, err := r.Create(t.Context(), "a", p.Name, p, 0); err != nil {
			t.Fatal(err)
		}
	}
	create(t, r, "b", "1")
	for _, test := range []struct {
		name, namespace, only, labels, fields, want string
		limit                                       int64
	}{
		{"namespace", "a", "", "", "", "a/0 a/1 a/2 a/3", 0},
		{"label", "", "", "app=odd", "", "a/1 a/3", 0},
		{"indexed field", "", "", "", "spec.nodeName=n1", "a/0 a/2", 0},
		{"indexed field empty", "", "", "", "spec.nodeName=", "a/3 b/1", 0},
		{"field not equal", "a", "", "", "spec.nodeName!=n1", "a/1 a/3", 0},
		{"both", "", "", "app=odd", "spec.nodeName=n2", "a/1", 0},
		{"name", "a", "1", "", "metadata.name=1", "a/1", 0},
		{"name in all namespaces", "", "1", "", "metadata.name=1", "a/1 b/1", 0},
		{"name absent", "a", "7", "", "metadata.name=7", "", 0},
		{"limit counts what matches", "", "", "app=odd", "", "a/1", 1},
		{"prefix of a namespace", "a/", "", "", "", "", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			ls, err := labels.Parse(test.labels)
			if err != nil {
				t.Fatal(err)
			}
			l, err := r.List(t.Context(), store.ListOptions{Namespace: test.namespace, Name: test.only, Limit: test.limit,
				Selector: store.Selector{Labels: ls, Fields: fields.ParseSelectorOrDie(test.fields), FieldsOf: storedPodFields}})
			if err != nil || keys(l) != test.want {
				t.Fatalf("listed %q, %v, want %q", keys(l), err, test.want)
			}
			if test.limit > 0 && (l.Continue == "" || l.RemainingItemCount != nil) {
				t.Fatalf("continue %q, remaining %v of a list with a selector", l.Continue, l.RemainingItemCount)
			}
		})
	}
}

// However pages are cut, they add up to the list, in order.
func TestPagesProperty(t *testing.T) {
	r, _ := pods(t)
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		ns := fmt.Sprintf("n%d", n)
		count := rapid.IntRange(0, 12).Draw(t, "objects")
		for i := range count {
			if _, err := r.Create(t.Context(), ns, fmt.Sprintf("%x", i), newPod(ns, fmt.Sprintf("%x", i)), 0); err != nil {
				t.Fatal(err)
			}
		}
		whole, err := r.List(t.Context(), store.ListOptions{Namespace: ns})
		if err != nil || len(whole.Items) != count {
			t.Fatalf("%d objects listed of %d, %v", len(whole.Items), count, err)
		}
		var all []string
		o := store.ListOptions{Namespace: ns}
		for {
			o.Limit = rapid.Int64Range(1, 5).Draw(t, "limit")
			l, err := r.List(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			for _, item := range l.Items {
				all = append(all, item.Key)
			}
			if o.Continue = l.Continue; o.Continue == "" {
				break
			}
			if int64(len(l.Items)) != o.Limit || *l.RemainingItemCount != int64(count-len(all)) {
				t.Fatalf("page of %d with limit %d; %d remain of %d after %d", len(l.Items), o.Limit, *l.RemainingItemCount, count, len(all))
			}
		}
		if strings.Join(all, " ") != keys(whole) {
			t.Fatalf("pages %v, list %s", all, keys(whole))
		}
	})
}

// A token ends with the history that it is about, though memory still knows: nothing has changed since, and the client comes back again and again.
func TestContinueEndsWithCompaction(t *testing.T) {
	c := startEtcd(t)
	r := open(t, store.Config{Client: c, SoleWriter: true, CompactEvery: 30 * time.Millisecond}).Resource(podConfig)
	for i := range 4 {
		create(t, r, "a", fmt.Sprint(i))
	}
	first, err := r.List(t.Context(), store.ListOptions{Limit: 2})
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; {
		_, err := r.List(t.Context(), store.ListOptions{Limit: 1, Continue: first.Continue})
		if apierrors.IsResourceExpired(err) {
			break
		}
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("the token lives on: %v", err)
		}
		time.Sleep(5 * time.Millisecond)
	}
	if l, err := r.List(t.Context(), store.ListOptions{Limit: 2}); err != nil || keys(l) != "a/0 a/1" {
		t.Fatalf("a new list: %v, %v", keys(l), err)
	}
}
