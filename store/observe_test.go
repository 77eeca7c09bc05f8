package store_test

import (
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	corev1 "k8s.io/api/core/v1"

	"wherry.dev/wherry/store"
)

// TestRequestsAreObserved counts what is asked of etcd, and what is not.
func TestRequestsAreObserved(t *testing.T) {
	var mu sync.Mutex
	seen := map[string]int{}
	failed := 0
	c := startEtcd(t)
	r := open(t, store.Config{Client: c, SoleWriter: true, Observe: func(resource schema.GroupResource, request string, took time.Duration, err error) {
		mu.Lock()
		defer mu.Unlock()
		if resource.Resource != "pods" || took <= 0 {
			t.Errorf("%s of %s took %v", request, resource, took)
		}
		seen[request]++
		if err != nil {
			failed++
		}
	}}).Resource(podConfig)
	<-r.Ready()
	create(t, r, "a", "x")
	if _, err := r.Update(t.Context(), "a", "x", nil, false, func(o *store.Object) (runtime.Object, error) {
		p := o.Object.DeepCopyObject().(*corev1.Pod)
		p.Labels = map[string]string{"is": "new"}
		return p, nil
	}); err != nil {
		t.Fatal(err)
	}
	for range 3 { // of the cache
		if _, err := r.Get(t.Context(), "a", "x", ""); err != nil {
			t.Fatal(err)
		}
		if _, err := r.List(t.Context(), store.ListOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.Delete(t.Context(), "a", "x", nil, nil); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if want := map[string]int{"list": 1, "create": 1, "update": 1, "delete": 1}; len(seen) != len(want) || seen["list"] != 1 || seen["create"] != 1 || seen["update"] != 1 || seen["delete"] != 1 || failed != 0 {
		t.Errorf("requests: %v, %d failed", seen, failed)
	}
}
