package bench

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"

	corev1 "k8s.io/api/core/v1"
)

// WatchOptions of the fan-out benchmark.
type WatchOptions struct {
	Watchers int
	Changes  int
	Workers  int           // that make the changes
	Timeout  time.Duration // for all events to arrive
}

// Watch measures how many events a second reach many watchers of the same pods.
func Watch(ctx context.Context, t Target, o WatchOptions) ([]Result, error) {
	var result Result
	err := t.inNamespace(ctx, func(namespace, run string, _ kubernetes.Interface) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		readers, err := t.clients(min(o.Watchers, 16))
		if err != nil {
			return err
		}
		writers, err := t.clients(o.Workers)
		if err != nil {
			return err
		}
		sent := make([]atomic.Int64, o.Changes) // when each create was sent
		var s samples
		var received, dropped atomic.Int64
		var wg sync.WaitGroup
		t.say("%d watchers, %d changes", o.Watchers, o.Changes)
		for i := range o.Watchers {
			w, err := readers[i%len(readers)].CoreV1().Pods(namespace).Watch(ctx, metav1.ListOptions{})
			if err != nil {
				return fmt.Errorf("watch: %w", err)
			}
			wg.Go(func() {
				defer w.Stop()
				took := make([]time.Duration, 0, o.Changes)
				for len(took) < o.Changes {
					event, ok := <-w.ResultChan()
					if !ok {
						dropped.Add(1)
						break
					}
					pod, is := event.Object.(*corev1.Pod)
					if !is || event.Type != watch.Added {
						continue
					}
					var n int
					if _, err := fmt.Sscanf(pod.Name, "w-%d", &n); err != nil {
						continue
					}
					took = append(took, time.Duration(time.Now().UnixNano()-sent[n].Load()))
					received.Add(1)
				}
				for _, d := range took {
					s.add(d, nil)
				}
			})
		}
		began := time.Now()
		creates := each(ctx, "creates", o.Workers, o.Changes, func(ctx context.Context, w, i int) error {
			pod := t.pod(namespace, fmt.Sprintf("w-%d", i), run)
			pod.Spec.SchedulerName = nobody
			sent[i].Store(time.Now().UnixNano())
			_, err := writers[w].CoreV1().Pods(namespace).Create(ctx, pod, metav1.CreateOptions{})
			return err
		})
		done := make(chan struct{})
		go func() { wg.Wait(); close(done) }()
		select {
		case <-done:
		case <-time.After(o.Timeout):
			cancel()
			<-done
		}
		result = s.result("watch events", o.Watchers, time.Since(began))
		result.Errors = int(dropped.Load()) + creates.Errors
		result.Note = fmt.Sprintf("%d of %d events arrived, %d watchers were dropped, creates %.0f/s", received.Load(), o.Watchers*o.Changes, dropped.Load(), creates.Rate)
		return nil
	})
	return []Result{result}, err
}
