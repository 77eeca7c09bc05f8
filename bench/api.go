package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// APIOptions of the API operations benchmark.
type APIOptions struct {
	Workers []int // one round each
	Count   int   // operations of each kind in each round
}

// API measures create, get, list, status patch and delete of pods that no scheduler touches.
func API(ctx context.Context, t Target, o APIOptions) ([]Result, error) {
	var results []Result
	err := t.inNamespace(ctx, func(namespace, run string, _ kubernetes.Interface) error {
		for _, workers := range o.Workers {
			cs, err := t.clients(workers)
			if err != nil {
				return err
			}
			t.say("API operations, %d workers", workers)
			warm := t.round(ctx, cs, namespace, run, workers, min(o.Count/10, 200), "warm")
			_ = warm
			results = append(results, t.round(ctx, cs, namespace, run, workers, o.Count, fmt.Sprintf("w%d", workers))...)
		}
		return nil
	})
	return results, err
}

func (t Target) round(ctx context.Context, cs []kubernetes.Interface, namespace, run string, workers, count int, tag string) []Result {
	name := func(i int) string { return fmt.Sprintf("%s-%d", tag, i) }
	now := int64(0)
	var out []Result
	out = append(out, each(ctx, "create pod", workers, count, func(ctx context.Context, w, i int) error {
		pod := t.pod(namespace, name(i), run)
		pod.Spec.SchedulerName = nobody
		_, err := cs[w].CoreV1().Pods(namespace).Create(ctx, pod, metav1.CreateOptions{})
		return err
	}))
	out = append(out, each(ctx, "get pod", workers, count, func(ctx context.Context, w, i int) error {
		_, err := cs[w].CoreV1().Pods(namespace).Get(ctx, name(i), metav1.GetOptions{})
		return err
	}))
	out = append(out, each(ctx, "list pods", min(workers, 4), max(10, min(count/100, 50)), func(ctx context.Context, w, _ int) error {
		list, err := cs[w].CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
		if err == nil && len(list.Items) < count {
			return fmt.Errorf("list has %d of %d pods", len(list.Items), count)
		}
		return err
	}))
	out = append(out, each(ctx, "patch status", workers, count, func(ctx context.Context, w, i int) error {
		patch, err := json.Marshal(map[string]any{"status": map[string]any{"phase": "Running", "conditions": []map[string]any{
			{"type": "Ready", "status": "True", "lastTransitionTime": time.Now().UTC().Format(time.RFC3339)}}}})
		if err != nil {
			return err
		}
		_, err = cs[w].CoreV1().Pods(namespace).Patch(ctx, name(i), types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
		return err
	}))
	out = append(out, each(ctx, "delete pod", workers, count, func(ctx context.Context, w, i int) error {
		return cs[w].CoreV1().Pods(namespace).Delete(ctx, name(i), metav1.DeleteOptions{GracePeriodSeconds: &now})
	}))
	return out
}
