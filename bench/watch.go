package bench

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// WatchOptions of the fan-out benchmark.
type WatchOptions struct {
	Watchers int
	Changes  int
	Workers  int           // that make the changes
	Timeout  time.Duration // for all events to arrive
}

// Watch measures how many events a second reach many watchers of the same pods. The watchers read frames and do not decode
// them: client-go's decoding costs many times what sending costs, and would be all that is measured on one machine.
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
			stream, err := readers[i%len(readers)].CoreV1().RESTClient().Get().Namespace(namespace).Resource("pods").
				VersionedParams(&metav1.ListOptions{Watch: true}, metav1.ParameterCodec).Stream(ctx)
			if err != nil {
				return fmt.Errorf("watch: %w", err)
			}
			wg.Go(func() {
				defer stream.Close()
				took := make([]time.Duration, 0, o.Changes)
				frames := newFrames(stream, t.Encoding == "json")
				for len(took) < o.Changes {
					frame, err := frames.next()
					if err != nil {
						dropped.Add(1)
						break
					}
					if n := watchedPod(frame); n >= 0 && n < o.Changes {
						took = append(took, time.Duration(time.Now().UnixNano()-sent[n].Load()))
						received.Add(1)
					}
				}
				for _, d := range took {
					s.add(d, nil)
				}
			})
		}
		m, began := t.meter(), time.Now()
		creates := each(ctx, "creates", o.Workers, o.Changes, func(ctx context.Context, w, i int) error {
			pod := t.pod(namespace, fmt.Sprintf(watchedName+"%06d", i), run)
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
		result = m.fill(s.result("watch events", o.Watchers, time.Since(began)))
		result.Errors = int(dropped.Load()) + creates.Errors
		result.Note = fmt.Sprintf("%d of %d events arrived, %d watchers were dropped, creates %.0f/s", received.Load(), o.Watchers*o.Changes, dropped.Load(), creates.Rate)
		return nil
	})
	return []Result{result}, err
}
