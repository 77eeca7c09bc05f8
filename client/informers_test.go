package client_test

import (
	"reflect"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"wherry.dev/wherry/api/scheme"
	"wherry.dev/wherry/client"
)

// Every group of client-go's factory goes through ours: a group that a new client-go adds must be added here too. And every
// informer asks for the resource that client-go itself would read.
func TestEveryInformer(t *testing.T) {
	var asked []schema.GroupVersionResource
	f := client.InformerFactory(fake.NewClientset(), func(gvr schema.GroupVersionResource) cache.ListerWatcher {
		asked = append(asked, gvr)
		return cache.ToListerWatcherWithContext(&cache.ListWatch{}).(cache.ListerWatcher)
	})
	groups := reflect.TypeFor[informers.SharedInformerFactory]()
	n := 0
	for i := range groups.NumMethod() {
		m := groups.Method(i)
		if m.Type.NumIn() != 0 || m.Type.NumOut() != 1 || m.Type.Out(0).Kind() != reflect.Interface {
			continue
		}
		group := reflect.ValueOf(f).MethodByName(m.Name).Call(nil)[0]
		for v := range group.NumMethod() {
			version := group.Method(v).Call(nil)[0]
			for r := range version.NumMethod() {
				name := version.Type().Method(r).Name
				out := version.Method(r).Call(nil)[0]
				informer := out.MethodByName("Informer")
				if !informer.IsValid() {
					continue
				}
				asked = nil
				informer.Call(nil)
				if len(asked) != 1 {
					t.Errorf("%s.%s: asked for %v", m.Name, name, asked)
					continue
				}
				n++
				// client-go's own list of informers by resource must know it by that name.
				if _, err := informers.NewSharedInformerFactory(fake.NewClientset(), 0).ForResource(asked[0]); err != nil {
					t.Errorf("%s.%s: %v", m.Name, name, err)
				}
				if _, err := f.ForResource(asked[0]); err != nil {
					t.Errorf("%s: %v", asked[0], err)
				}
			}
		}
	}
	if n < 60 {
		t.Errorf("only %d informers were tried", n)
	}
}

// Resources that are not here are read through the clientset.
func TestInformerElsewhere(t *testing.T) {
	f := client.InformerFactory(fake.NewClientset(), func(schema.GroupVersionResource) cache.ListerWatcher { return nil })
	pods := f.Core().V1().Pods().Informer()
	stop := make(chan struct{})
	f.Start(stop)
	for kind, synced := range f.WaitForCacheSync(stop) {
		if !synced {
			t.Errorf("%s is not synced", kind)
		}
	}
	if !pods.HasSynced() {
		t.Error("pods are not synced")
	}
	close(stop)
	f.Shutdown()
}

// UnsafeGuessKindToResource is right for the kinds of the scheme that informers exist for; this one is irregular.
func TestEndpoints(t *testing.T) {
	gvr, _ := meta.UnsafeGuessKindToResource(schema.GroupVersionKind{Version: "v1", Kind: "Endpoints"})
	if gvr.Resource != "endpoints" || !scheme.Scheme.Recognizes(schema.GroupVersionKind{Version: "v1", Kind: "Endpoints"}) {
		t.Errorf("%v", gvr)
	}
}

func TestRemote(t *testing.T) {
	cfg := &rest.Config{Host: "https://127.0.0.1:1", QPS: 5}
	set, err := client.Remote(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.QPS != 5 || cfg.ContentType != "" {
		t.Error("the caller's config was changed")
	}
	if set.Config.ContentType != "application/vnd.kubernetes.protobuf" || set.Kubernetes == nil || set.Informers == nil {
		t.Errorf("set %+v", set)
	}
	if _, err := set.Kubernetes.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{}); err == nil {
		t.Error("nobody listens there")
	}
	if _, err := client.Remote(&rest.Config{Host: "https://x", TLSClientConfig: rest.TLSClientConfig{CAData: []byte("no certificate")}}); err == nil {
		t.Error("a broken certificate was accepted")
	}
}
