package apiserver

import (
	"context"
	"fmt"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// The benchmarks go end to end: 64 client-go workers over TLS and HTTP/2 with protobuf, on the processors that the server uses too.
const benchWorkers = 64

func benchClients(b *testing.B) (*world, kubernetes.Interface) {
	w := start(b, nil)
	return w, w.client(b, true)
}

func parallel(b *testing.B, f func(i int64) error) {
	var n atomic.Int64
	b.SetParallelism(benchWorkers / 2)
	b.ReportAllocs()
	before := cpu(b)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := f(n.Add(1)); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "ops/s")
	b.ReportMetric(float64((cpu(b)-before).Microseconds())/float64(b.N), "cpu-µs/op") // of client, server and etcd, whatever else runs here
}

// cpu is what this process has used so far.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func BenchmarkCreate(b *testing.B) {
	_, cs := benchClients(b)
	pods := cs.CoreV1().Pods("default")
	parallel(b, func(i int64) error {
		_, err := pods.Create(context.Background(), testPod(fmt.Sprintf("p-%d", i)), metav1.CreateOptions{})
		return err
	})
}

// fill creates n pods before the clock starts.
func fill(b *testing.B, w *world, n int) {
	pods := w.InProcess(root).Kubernetes.CoreV1().Pods("default")
	for i := range n {
		if _, err := pods.Create(context.Background(), testPod(fmt.Sprintf("p-%d", i+1)), metav1.CreateOptions{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkGet(b *testing.B) {
	w, cs := benchClients(b)
	fill(b, w, 500)
	pods := cs.CoreV1().Pods("default")
	parallel(b, func(i int64) error {
		_, err := pods.Get(context.Background(), fmt.Sprintf("p-%d", i%500+1), metav1.GetOptions{})
		return err
	})
}

func BenchmarkPatchStatus(b *testing.B) {
	w, cs := benchClients(b)
	fill(b, w, 500)
	pods := cs.CoreV1().Pods("default")
	parallel(b, func(i int64) error {
		patch := fmt.Appendf(nil, `{"status":{"phase":"Running","podIP":"10.0.0.%d","conditions":[{"type":"Ready","status":"True","reason":"r%d"}]}}`, i%250, i)
		_, err := pods.Patch(context.Background(), fmt.Sprintf("p-%d", i%500+1), types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
		return err
	})
}

func BenchmarkDelete(b *testing.B) {
	w, cs := benchClients(b)
	fill(b, w, b.N)
	pods, zero := cs.CoreV1().Pods("default"), int64(0)
	parallel(b, func(i int64) error {
		return pods.Delete(context.Background(), fmt.Sprintf("p-%d", i), metav1.DeleteOptions{GracePeriodSeconds: &zero})
	})
}

func BenchmarkList5000(b *testing.B) {
	w, cs := benchClients(b)
	fill(b, w, 5000)
	b.ReportAllocs()
	for b.Loop() {
		raw, err := cs.CoreV1().RESTClient().Get().AbsPath("/api/v1/pods").SetHeader("Accept", "application/vnd.kubernetes.protobuf").DoRaw(context.Background())
		if err != nil || len(raw) < 1<<20 {
			b.Fatal(len(raw), err)
		}
	}
}

// BenchmarkWatch sends each change to 100 watchers; one operation is one change seen by all of them.
func BenchmarkWatch(b *testing.B) {
	w, _ := benchClients(b)
	const watchers = 100
	seen := make(chan struct{}, 1<<16)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for range watchers {
		wr, err := w.client(b, true).CoreV1().Pods("default").Watch(ctx, metav1.ListOptions{})
		if err != nil {
			b.Fatal(err)
		}
		go func() {
			for range wr.ResultChan() {
				seen <- struct{}{}
			}
		}()
	}
	b.ResetTimer()
	fill(b, w, b.N)
	for range b.N * watchers {
		<-seen
	}
	b.ReportMetric(float64(b.N*watchers)/b.Elapsed().Seconds(), "events/s")
}
