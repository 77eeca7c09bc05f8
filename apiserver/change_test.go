package apiserver

import (
	"net/http"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	apirequest "k8s.io/apiserver/pkg/endpoints/request"

	"wherry.dev/wherry/api/kinds"
	"wherry.dev/wherry/apiserver/aggregate"
)

// TestKindsComeAndGo takes a kind away from a running server and brings it back.
func TestKindsComeAndGo(t *testing.T) {
	w := start(t, nil)
	cs := w.client(t, false)
	ctx := t.Context()
	maps := cs.CoreV1().ConfigMaps("default")
	if _, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "kept"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	events, err := maps.Watch(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer events.Stop()
	if e := <-events.ResultChan(); e.Type != watch.Added {
		t.Fatalf("first event is %v", e)
	}

	gvr := corev1.SchemeGroupVersion.WithResource("configmaps")
	if err := w.RemoveKinds(gvr); err != nil {
		t.Fatal(err)
	}
	select {
	case e, ok := <-events.ResultChan():
		if ok {
			t.Fatalf("the watch of a kind that is gone says %v", e)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the watch of a kind that is gone goes on")
	}
	if _, err := maps.Get(ctx, "kept", metav1.GetOptions{}); err == nil {
		t.Fatal("a kind that is gone is served")
	}
	if listed(t, w, "configmaps") {
		t.Error("a kind that is gone is discovered")
	}

	if err := w.AddKinds(kinds.ConfigMaps()); err != nil {
		t.Fatal(err)
	}
	if _, err := maps.Get(ctx, "kept", metav1.GetOptions{}); err != nil {
		t.Errorf("what was stored before: %v", err)
	}
	if !listed(t, w, "configmaps") {
		t.Error("a kind that is back is not discovered")
	}
}

func listed(t *testing.T, w *world, resource string) bool {
	t.Helper()
	list, err := w.client(t, false).Discovery().ServerResourcesForGroupVersion("v1")
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(list.APIResources, func(r metav1.APIResource) bool { return r.Name == resource })
}

// TestForeign hands a group to another handler, behind authorization.
func TestForeign(t *testing.T) {
	w := start(t, nil)
	gv := schema.GroupVersion{Group: "metrics.example", Version: "v1"}
	foreign := aggregate.Foreign{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		u, _ := apirequest.UserFrom(r.Context())
		i, _ := apirequest.RequestInfoFrom(r.Context())
		rw.Write([]byte(u.GetName() + " " + i.Resource))
	})}
	foreign.GroupVersion = gv
	w.SetForeign([]aggregate.Foreign{foreign})
	get := func(token, path string) (int, string) {
		code, _, body := w.raw(t, "GET", path, token, nil, "")
		return code, body
	}
	if code, body := get(admin, "/apis/metrics.example/v1/pods"); code != 200 || body != "root pods" {
		t.Errorf("a resource: %d %q", code, body)
	}
	if code, body := get(admin, "/apis/metrics.example/v1"); code != 200 || body != "root " {
		t.Errorf("discovery: %d %q", code, body)
	}
	if code, _ := get(nobody, "/apis/metrics.example/v1/pods"); code != 403 {
		t.Errorf("one who may not: %d", code)
	}
	groups, err := w.client(t, false).Discovery().ServerGroups()
	if err != nil {
		t.Fatal(err)
	}
	has := func() bool {
		return slices.ContainsFunc(groups.Groups, func(g metav1.APIGroup) bool { return g.Name == gv.Group })
	}
	if !has() {
		t.Error("the group is not discovered")
	}
	w.SetForeign(nil)
	if groups, err = w.client(t, false).Discovery().ServerGroups(); err != nil || has() {
		t.Errorf("the group is discovered after it went: %v", err)
	}
	if code, _ := get(admin, "/apis/metrics.example/v1/pods"); code != 404 {
		t.Errorf("a group that is gone: %d", code)
	}
}
