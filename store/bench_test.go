package store_test

import (
	"fmt"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	kruntime "k8s.io/apimachinery/pkg/runtime"

	"wherry.dev/wherry/store"
	"wherry.dev/wherry/store/watchcache"
)

// big is a pod of some 2 KB.
func big(t testing.TB) *corev1.Pod {
	p := newPod("a", "big")
	for i := range 12 {
		p.Spec.Containers[0].Env = append(p.Spec.Containers[0].Env, corev1.EnvVar{Name: fmt.Sprintf("VARIABLE_%d", i), Value: "some value of a usual length, more or less"})
	}
	p.Annotations = map[string]string{}
	for i := range 10 {
		p.Annotations[fmt.Sprintf("example.com/annotation-%d", i)] = "another value of quite the usual length, or so it seems"
	}
	return p
}

// cpu reports the processor time of the whole process for one operation: on a shared machine it says more than the clock.
func cpu(b *testing.B) func() {
	used := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	before := used()
	return func() { b.ReportMetric(float64((used()-before).Microseconds())/float64(b.N), "cpu-µs/op") }
}

// BenchmarkRawPut is the limit: puts of the same size straight into the embedded etcd, by 64 workers.
func BenchmarkRawPut(b *testing.B) {
	c := startEtcd(b)
	v, err := big(b).Marshal()
	if err != nil {
		b.Fatal(err)
	}
	var n atomic.Int64
	b.ReportAllocs()
	b.SetParallelism(32)
	defer cpu(b)()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := c.Put(b.Context(), fmt.Sprintf("/registry/pods/a/p%d", n.Add(1)), string(v)); err != nil {
				b.Error(err)
			}
		}
	})
}

// BenchmarkCreate is creates by 64 workers, to be compared with BenchmarkRawPut.
func BenchmarkCreate(b *testing.B) {
	r, _ := pods(b)
	<-r.Ready()
	data := big(b)
	var n atomic.Int64
	b.ReportAllocs()
	b.SetParallelism(32)
	defer cpu(b)()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			p := *data // the create takes it over; what it points to is shared and not written
			p.Name = "p" + strconv.FormatInt(n.Add(1), 10)
			if _, err := r.Create(b.Context(), "a", p.Name, &p, 0); err != nil {
				b.Error(err)
			}
		}
	})
}

// BenchmarkUpdate is status changes of 1,000 pods by 64 workers.
func BenchmarkUpdate(b *testing.B) {
	r, _ := pods(b)
	fill(b, r, 1000)
	var n atomic.Int64
	b.ReportAllocs()
	b.SetParallelism(32)
	defer cpu(b)()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			i := n.Add(1)
			_, err := r.Update(b.Context(), "a", fmt.Sprintf("p%06d", i%1000), nil, false, func(cur *store.Object) (kruntime.Object, error) {
				p := *cur.Object.(*corev1.Pod)
				p.Status.Message = strconv.FormatInt(i, 10)
				return &p, nil
			})
			if err != nil {
				b.Error(err)
			}
		}
	})
}

// BenchmarkGet is the linearizable read of one pod.
func BenchmarkGet(b *testing.B) {
	r, _ := pods(b)
	fill(b, r, 1000)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Get(b.Context(), "a", "p000500", ""); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkList is the consistent list of 5,000 pods.
func BenchmarkList(b *testing.B) {
	r, _ := pods(b)
	fill(b, r, 5000)
	b.ReportAllocs()
	for b.Loop() {
		if l, err := r.List(b.Context(), store.ListOptions{}); err != nil || len(l.Items) != 5000 {
			b.Fatal(err)
		}
	}
}

// BenchmarkWatchFanOut is one change seen by 1,000 watchers of everything.
func BenchmarkWatchFanOut(b *testing.B) {
	c := startEtcd(b)
	r := open(b, store.Config{Client: c, SoleWriter: true, Limits: watchcache.Limits{Queue: 1 << 20}}).Resource(podConfig)
	<-r.Ready()
	const watchers = 1000
	var wg sync.WaitGroup
	for range watchers {
		w, err := r.Watch(b.Context(), store.WatchOptions{})
		if err != nil {
			b.Fatal(err)
		}
		wg.Go(func() {
			defer w.Stop()
			for {
				events, err := w.Next(b.Context())
				if err != nil || events[len(events)-1].Object.Key == "z/end" {
					return
				}
			}
		})
	}
	data := big(b)
	var n atomic.Int64
	b.ReportAllocs()
	b.ResetTimer()
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			p := *data
			p.Name = "p" + strconv.FormatInt(n.Add(1), 10)
			if _, err := r.Create(b.Context(), "a", p.Name, &p, 0); err != nil {
				b.Error(err)
			}
		}
	})
	create(b, r, "z", "end")
	wg.Wait()
	b.ReportMetric(float64(b.N)*watchers/b.Elapsed().Seconds(), "events/s")
}

// BenchmarkStart is opening a store over 10,000 pods until they can be read.
func BenchmarkStart(b *testing.B) {
	c := startEtcd(b)
	fill(b, open(b, store.Config{Client: c, SoleWriter: true}).Resource(podConfig), 10_000)
	b.ReportAllocs()
	for b.Loop() {
		s := store.Open(store.Config{Client: c, SoleWriter: true, Log: quiet()})
		<-s.Resource(podConfig).Ready()
		s.Close()
	}
}

// fill creates n pods, 64 at a time.
func fill(t testing.TB, r store.Resource, n int) {
	t.Helper()
	data := big(t)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				p := data.DeepCopy()
				p.Name = fmt.Sprintf("p%06d", i)
				if _, err := r.Create(t.Context(), "a", p.Name, p, 0); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// After churn the memory is given back: what is left are the objects there are, and a bounded memory of what was.
func TestMemoryAfterChurn(t *testing.T) {
	c := startEtcd(t)
	s := store.Open(store.Config{Client: c, SoleWriter: true, Log: quiet(), Limits: watchcache.Limits{Age: 10 * time.Millisecond, Keep: 16}})
	defer s.Close()
	r := s.Resource(podConfig)
	heap := func() int64 {
		var m runtime.MemStats
		for range 3 {
			runtime.GC()
		}
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	churn := func() {
		fill(t, r, 2000)
		for i := range 2000 {
			remove(t, r, "a", fmt.Sprintf("p%06d", i))
		}
		mustList(t, r)
	}
	churn() // etcd grows to its own size first
	deadline := time.Now().Add(10 * time.Second)
	before := heap()
	churn()
	churn()
	for after := heap(); after > before+before/2; after = heap() { // 2,000 pods would be some 20 MB
		if time.Now().After(deadline) {
			t.Fatalf("heap of %d bytes after churn, %d before", after, before)
		}
	}
}
