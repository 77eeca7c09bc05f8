package store_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/cache"

	"wherry.dev/wherry/client"
	"wherry.dev/wherry/store"
)

func newEmptyPod() runtime.Object { return &corev1.Pod{} }

// listOnly hides the watch-list protocol from the reflector, so that it lists and then watches.
type listOnly struct{ *store.ListWatch }

func (listOnly) IsWatchListSemanticsUnSupported() bool { return true }

// Informers hold the watch cache's very objects: those of the first list and those of each change, by either protocol. The
// factory runs only the informers that were asked for.
func TestInformersShareObjects(t *testing.T) {
	for name, wrap := range map[string]func(*store.ListWatch) cache.ListerWatcher{
		"watch list":     func(l *store.ListWatch) cache.ListerWatcher { return l },
		"list and watch": func(l *store.ListWatch) cache.ListerWatcher { return listOnly{l} },
	} {
		t.Run(name, func(t *testing.T) {
			c := startEtcd(t)
			s := open(t, store.Config{Client: c, SoleWriter: true})
			r := s.Resource(podConfig)
			before := create(t, r, "a", "before")
			asked := map[schema.GroupVersionResource]int{}
			var mu sync.Mutex
			factory := client.InformerFactory(fake.NewClientset(), func(gvr schema.GroupVersionResource) cache.ListerWatcher {
				mu.Lock()
				defer mu.Unlock()
				asked[gvr]++
				return wrap(store.NewListWatch(r, newEmptyPod, nil))
			})
			pods := factory.Core().V1().Pods()
			seen := make(chan any, 10)
			if _, err := pods.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
				AddFunc:    func(o any) { seen <- o },
				UpdateFunc: func(_, o any) { seen <- o },
				DeleteFunc: func(o any) { seen <- o },
			}); err != nil {
				t.Fatal(err)
			}
			generic, err := factory.ForResource(corev1.SchemeGroupVersion.WithResource("pods"))
			if err != nil || generic.Informer().GetIndexer() != pods.Informer().GetIndexer() {
				t.Fatalf("ForResource made another informer: %v", err)
			}
			if len(asked) != 1 || asked[corev1.SchemeGroupVersion.WithResource("pods")] == 0 {
				t.Fatalf("asked for %v", asked)
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer factory.Shutdown()
			defer cancel()
			factory.Start(ctx.Done())
			factory.WaitForCacheSync(ctx.Done())

			after := create(t, r, "b", "after")
			changed := set(t, r, "b", "after", "x")
			remove(t, r, "a", "before")
			for i, want := range []runtime.Object{before.Object, after.Object, changed.Object} {
				if got := <-seen; got != want {
					t.Fatalf("event %d: %p, want the cache's %p", i, got, want)
				}
			}
			if gone := (<-seen).(*corev1.Pod); gone.Name != "before" {
				t.Fatalf("deleted %s", gone.Name)
			}
			list, err := pods.Lister().Pods("b").List(labels.Everything())
			if err != nil || len(list) != 1 || runtime.Object(list[0]) != changed.Object {
				t.Fatalf("lister %v %v", list, err)
			}
		})
	}
}

// A ListWatch understands the options that client-go's own do.
func TestListWatchOptions(t *testing.T) {
	r, _ := pods(t)
	for i := range 5 {
		create(t, r, "a", fmt.Sprint(i))
	}
	lw := store.NewListWatch(r, newEmptyPod, podFields)
	for _, test := range []struct {
		o    metav1.ListOptions
		want int
	}{
		{metav1.ListOptions{}, 5},
		{metav1.ListOptions{Limit: 2}, 2},
		{metav1.ListOptions{LabelSelector: "app=web"}, 5},
		{metav1.ListOptions{LabelSelector: "app!=web"}, 0},
		{metav1.ListOptions{FieldSelector: "metadata.name=3"}, 1},
		{metav1.ListOptions{FieldSelector: "spec.nodeName="}, 5},
	} {
		l, err := lw.List(test.o)
		if err != nil {
			t.Fatal(err)
		}
		m := l.(metav1.ListInterface)
		n := 0
		err = meta.EachListItem(l, func(runtime.Object) error { n++; return nil })
		if err != nil || n != test.want || m.GetResourceVersion() == "" || (m.GetContinue() != "") != (test.o.Limit > 0) {
			t.Errorf("%+v: %d items, resourceVersion %q, continue %q, %v", test.o, n, m.GetResourceVersion(), m.GetContinue(), err)
		}
	}
	for _, o := range []metav1.ListOptions{{LabelSelector: "a in"}, {FieldSelector: "a"}} {
		if _, err := lw.List(o); err == nil {
			t.Errorf("list with %+v", o)
		}
		if _, err := lw.Watch(o); err == nil {
			t.Errorf("watch with %+v", o)
		}
	}
}
