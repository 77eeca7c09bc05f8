package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// APIOptions of the API operations benchmark.
type APIOptions struct {
	Workers []int // one round each
	Count   int   // operations of each kind in each round
}

// API measures create, get, list, status patch and delete of pods that no scheduler touches, without a client's decoding.
func API(ctx context.Context, t Target, o APIOptions) ([]Result, error) {
	var results []Result
	err := t.inNamespace(ctx, func(namespace, run string, _ kubernetes.Interface) error {
		for _, workers := range o.Workers {
			rs, err := t.raws(workers)
			if err != nil {
				return err
			}
			t.say("API operations, %d workers", workers)
			t.round(ctx, rs, namespace, run, workers, min(o.Count/10, 200), "warm")
			results = append(results, t.round(ctx, rs, namespace, run, workers, o.Count, fmt.Sprintf("w%d", workers))...)
		}
		return nil
	})
	return results, err
}

func (t Target) round(ctx context.Context, rs []*raw, namespace, run string, workers, count int, tag string) []Result {
	pods := "/api/v1/namespaces/" + namespace + "/pods"
	name := func(i int) string { return fmt.Sprintf("%s-%d", tag, i) }
	var out []Result
	out = append(out, each(ctx, "create pod", workers, count, func(ctx context.Context, w, i int) error {
		pod := t.pod(namespace, name(i), run)
		pod.Spec.SchedulerName = nobody
		body, err := rs[w].encodePod(pod)
		if err != nil {
			return err
		}
		_, err = rs[w].do(ctx, http.MethodPost, pods, rs[w].encoding, body, false)
		return err
	}))
	out = append(out, each(ctx, "get pod", workers, count, func(ctx context.Context, w, i int) error {
		_, err := rs[w].do(ctx, http.MethodGet, pods+"/"+name(i), "", nil, false)
		return err
	}))
	out = append(out, each(ctx, "list pods", min(workers, 4), max(10, min(count/100, 50)), func(ctx context.Context, w, _ int) error {
		list, err := rs[w].do(ctx, http.MethodGet, pods, "", nil, true)
		if n := bytes.Count(list, []byte(tag+"-")); err == nil && n < count {
			return fmt.Errorf("list has %d of %d pods", n, count)
		}
		return err
	}))
	out = append(out, each(ctx, "patch status", workers, count, func(ctx context.Context, w, i int) error {
		patch, err := json.Marshal(map[string]any{"status": map[string]any{"phase": "Running", "conditions": []map[string]any{
			{"type": "Ready", "status": "True", "lastTransitionTime": time.Now().UTC().Format(time.RFC3339)}}}})
		if err != nil {
			return err
		}
		_, err = rs[w].do(ctx, http.MethodPatch, pods+"/"+name(i)+"/status", string(types.StrategicMergePatchType), patch, false)
		return err
	}))
	out = append(out, each(ctx, "delete pod", workers, count, func(ctx context.Context, w, i int) error {
		_, err := rs[w].do(ctx, http.MethodDelete, pods+"/"+name(i), runtime.ContentTypeJSON, deleteNow, false)
		return err
	}))
	return out
}
