package apiserver

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"wherry.dev/wherry/api/kinds"
	"wherry.dev/wherry/api/openapi"
	"wherry.dev/wherry/store"
)

// large is a definition such as operators bring: two versions, a few hundred described fields, some rules.
func large(t testing.TB, i int) *unstructured.Unstructured {
	var fields strings.Builder
	for g := range 20 {
		fmt.Fprintf(&fields, `"group%d":{"type":"object","description":"group %d holds what belongs together, as the documentation says at length","x-kubernetes-validations":[{"rule":"!has(self.f0) || self.f0 != 'no'","message":"no"}],"properties":{`, g, g)
		for f := range 10 {
			if f > 0 {
				fields.WriteByte(',')
			}
			fmt.Fprintf(&fields, `"f%d":{"type":"string","maxLength":50,"description":"field %d of group %d, described in about as many words as people describe their fields in"}`, f, f, g)
		}
		fields.WriteString(`}},`)
	}
	schema := `{"openAPIV3Schema":{"type":"object","properties":{"spec":{"type":"object","properties":{` + fields.String() + `"last":{"type":"string"}}},"status":{"type":"object","x-kubernetes-preserve-unknown-fields":true}}}}`
	return object(t, fmt.Sprintf(`{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"things%d.group%d.example"},
"spec":{"group":"group%d.example","scope":"Namespaced","names":{"plural":"things%d","kind":"Thing%d"},"versions":[
{"name":"v1","served":true,"storage":true,"subresources":{"status":{}},"schema":%s},{"name":"v1beta1","served":true,"storage":false,"schema":%s}]}}`, i, i%50, i%50, i, i, schema, schema))
}

func heap() uint64 {
	var m runtime.MemStats
	for range 3 {
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// BenchmarkDefinitions makes 500 definitions that nobody uses. It tells how long that takes, what each holds in memory, then and after a restart,
// and how long a restart takes over them.
func BenchmarkDefinitions(b *testing.B) {
	const n = 500
	var made []*unstructured.Unstructured
	for i := range n {
		made = append(made, large(b, i))
	}
	for b.Loop() {
		w := start(b, nil)
		d := runCustom(b, w)
		empty := heap()
		began := time.Now()
		var work sync.WaitGroup
		next := make(chan *unstructured.Unstructured)
		for range 4 {
			work.Go(func() {
				for u := range next {
					if _, err := d.Resource(crds).Create(b.Context(), u, metav1.CreateOptions{}); err != nil {
						b.Error(err)
					}
				}
			})
		}
		for _, u := range made {
			next <- u
		}
		close(next)
		work.Wait()
		b.ReportMetric(float64(time.Since(began).Milliseconds())/n, "ms/creation")
		established(b, w, n)
		b.ReportMetric(float64(time.Since(began).Milliseconds())/n, "ms/definition")
		b.ReportMetric(float64(heap()-empty)/n/1024, "KiB/definition")
		if code, _, _ := w.raw(b, "GET", "/apis/group0.example/v1/things0", admin, nil, ""); code != 200 {
			b.Fatalf("a definition is not served: %d", code)
		}

		// Another server over the same etcd, as after a restart.
		before := heap()
		st := store.Open(store.Config{Client: w.etcd, SoleWriter: true})
		c := w.Server.config
		c.Kinds, c.OpenAPI, c.Registry, c.Gatherer, c.Admission, c.Storage = kinds.All(), openapi.New(kinds.All(), "v1.37.2"), nil, nil, nil, Storage(st)
		began = time.Now()
		again, err := New(c)
		if err != nil {
			b.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		ready, done := make(chan struct{}), make(chan error, 1)
		go func() { done <- again.Run(ctx, func() { close(ready) }) }()
		<-ready
		b.ReportMetric(float64(time.Since(began).Milliseconds()), "ms/restart")
		b.ReportMetric((float64(heap())-float64(before))/n/1024, "KiB/definition-after-restart")
		began = time.Now()
		if _, _, err := c.OpenAPI.V2JSON(); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(time.Since(began).Milliseconds()), "ms/openapi-v2")
		cancel()
		<-done
		st.Close()
	}
}

// established waits until n definitions are.
func established(t testing.TB, w *world, n int) {
	t.Helper()
	until(t, fmt.Sprint(n, " definitions are established"), func() bool {
		l, err := w.resource(crds).Store.List(t.Context(), store.ListOptions{})
		if err != nil || len(l.Items) != n {
			return false
		}
		for _, o := range l.Items {
			if !apihelpers.IsCRDConditionTrue(o.Object.(*apiextensionsv1.CustomResourceDefinition), apiextensionsv1.Established) {
				return false
			}
		}
		return true
	})
}
