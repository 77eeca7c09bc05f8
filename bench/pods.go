package bench

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
)

// PodOptions of the pod latency benchmark.
type PodOptions struct {
	Count    int // pods one after the other
	Parallel int // pods at once; 0 for none
	Timeout  time.Duration
}

// observed is when a pod's stages became visible in a watch.
type observed struct {
	created, running, ready, deleted, gone time.Time
}

// Pods measures how long real pods take from create to Running and Ready, and from delete to gone.
func Pods(ctx context.Context, t Target, o PodOptions) ([]Result, error) {
	var results []Result
	err := t.inNamespace(ctx, func(namespace, run string, cs kubernetes.Interface) error {
		t.say("%d pods one at a time", o.Count)
		if _, err := t.podWave(ctx, cs, namespace, run, "warm", 1, o.Timeout); err != nil {
			return err
		}
		var single []observed
		began := time.Now()
		for i := range o.Count {
			seen, err := t.podWave(ctx, cs, namespace, run, fmt.Sprintf("one-%d", i), 1, o.Timeout)
			if err != nil {
				return err
			}
			single = append(single, seen...)
		}
		results = append(results, podResults("one at a time", single, time.Since(began))...)
		if o.Parallel > 0 {
			t.say("%d pods at once", o.Parallel)
			began := time.Now()
			seen, err := t.podWave(ctx, cs, namespace, run, "many", o.Parallel, o.Timeout)
			if err != nil {
				return err
			}
			results = append(results, podResults(fmt.Sprintf("%d at once", o.Parallel), seen, time.Since(began))...)
		}
		return nil
	})
	return results, err
}

// podWave creates n pods, waits until all are Ready, deletes them and waits until all are gone.
func (t Target) podWave(ctx context.Context, cs kubernetes.Interface, namespace, run, tag string, n int, timeout time.Duration) ([]observed, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	w, err := cs.CoreV1().Pods(namespace).Watch(ctx, metav1.ListOptions{LabelSelector: "wave=" + tag})
	if err != nil {
		return nil, fmt.Errorf("watch pods: %w", err)
	}
	defer w.Stop()
	seen := make([]observed, n)
	var group sync.WaitGroup
	errs := make([]error, n)
	for i := range n {
		group.Go(func() {
			pod := t.pod(namespace, fmt.Sprintf("%s-%d", tag, i), run)
			pod.Labels["wave"] = tag
			seen[i].created = time.Now()
			_, errs[i] = cs.CoreV1().Pods(namespace).Create(ctx, pod, metav1.CreateOptions{})
		})
	}
	group.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, fmt.Errorf("create pod: %w", err)
		}
	}
	if err := observe(w, seen, func(o *observed) bool { return !o.ready.IsZero() }); err != nil {
		return nil, fmt.Errorf("pods of wave %s: %w", tag, err)
	}
	for i := range n {
		group.Go(func() {
			seen[i].deleted = time.Now()
			errs[i] = cs.CoreV1().Pods(namespace).Delete(ctx, fmt.Sprintf("%s-%d", tag, i), metav1.DeleteOptions{GracePeriodSeconds: ptr(int64(5))})
		})
	}
	group.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, fmt.Errorf("delete pod: %w", err)
		}
	}
	if err := observe(w, seen, func(o *observed) bool { return !o.gone.IsZero() }); err != nil {
		return nil, fmt.Errorf("pods of wave %s: %w", tag, err)
	}
	return seen, nil
}

func ptr[T any](v T) *T { return &v }

// observe reads events until every pod is done.
func observe(w watch.Interface, seen []observed, done func(*observed) bool) error {
	left := len(seen)
	for left > 0 {
		event, ok := <-w.ResultChan()
		if !ok {
			return fmt.Errorf("%d of %d did not get there in time", left, len(seen))
		}
		pod, is := event.Object.(*corev1.Pod)
		if !is {
			continue
		}
		now := time.Now()
		i := index(pod.Name)
		if i < 0 || i >= len(seen) {
			continue
		}
		o := &seen[i]
		was := done(o)
		if pod.Status.Phase == corev1.PodRunning && o.running.IsZero() {
			o.running = now
		}
		for _, c := range pod.Status.Conditions {
			if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue && o.ready.IsZero() {
				o.ready = now
			}
		}
		if event.Type == watch.Deleted {
			o.gone = now
		}
		if pod.Status.Phase == corev1.PodFailed && pod.DeletionTimestamp == nil {
			return fmt.Errorf("pod %s failed: %s %s", pod.Name, pod.Status.Reason, pod.Status.Message)
		}
		if !was && done(o) {
			left--
		}
	}
	return nil
}

// index is the number at the end of a pod's name.
func index(name string) int {
	n, digit, any := 0, 1, false
	for i := len(name) - 1; i >= 0 && name[i] >= '0' && name[i] <= '9'; i-- {
		n += int(name[i]-'0') * digit
		digit *= 10
		any = true
	}
	if !any {
		return -1
	}
	return n
}

func podResults(how string, seen []observed, elapsed time.Duration) []Result {
	var running, ready, gone samples
	for _, o := range seen {
		running.add(o.running.Sub(o.created), nil)
		ready.add(o.ready.Sub(o.created), nil)
		gone.add(o.gone.Sub(o.deleted), nil)
	}
	return []Result{
		running.result("create to Running, "+how, len(seen), elapsed),
		ready.result("create to Ready, "+how, len(seen), elapsed),
		gone.result("delete to gone, "+how, len(seen), elapsed),
	}
}
