package bench

import (
	"bytes"
	"context"
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
			rs, err := t.raws(ctx, workers)
			if err != nil {
				return err
			}
			t.say("API operations, %d workers", workers)
			t.round(ctx, rs, namespace, run, min(o.Count/10, 200), "warm")
			results = append(results, t.round(ctx, rs, namespace, run, o.Count, fmt.Sprintf("w%d", workers))...)
			for _, r := range rs {
				r.close()
			}
		}
		return nil
	})
	return results, err
}

func (t Target) round(ctx context.Context, rs []*raw, namespace, run string, count int, tag string) []Result {
	pods := "/api/v1/namespaces/" + namespace + "/pods"
	name := func(i int) string { return fmt.Sprintf("%s-%d", tag, i) }
	var out []Result
	measure := func(what string, workers, count int, f func(r *raw, i int) error) {
		m := t.meter()
		out = append(out, m.fill(each(ctx, what, workers, count, func(_ context.Context, w, i int) error { return f(rs[w], i) })))
	}
	bodies := make([][]byte, count) // made before the clock starts
	for i := range bodies {
		pod := t.pod(namespace, name(i), run)
		pod.Spec.SchedulerName = nobody
		var err error
		if bodies[i], err = rs[0].encodePod(pod); err != nil {
			return []Result{{Name: "create pod", Errors: 1, Error: err.Error()}}
		}
	}
	measure("create pod", len(rs), count, func(r *raw, i int) error {
		_, err := r.do(http.MethodPost, pods, r.encoding, bodies[i], false)
		return err
	})
	measure("get pod", len(rs), count, func(r *raw, i int) error {
		_, err := r.do(http.MethodGet, pods+"/"+name(i), "", nil, false)
		return err
	})
	t.lists(rs, pods, tag, count, measure)
	patch := fmt.Appendf(nil, `{"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True","lastTransitionTime":%q}]}}`, time.Now().UTC().Format(time.RFC3339))
	measure("patch status", len(rs), count, func(r *raw, i int) error {
		_, err := r.do(http.MethodPatch, pods+"/"+name(i)+"/status", string(types.StrategicMergePatchType), patch, false)
		return err
	})
	measure("delete pod", len(rs), count, func(r *raw, i int) error {
		_, err := r.do(http.MethodDelete, pods+"/"+name(i), runtime.ContentTypeJSON, deleteNow, false)
		return err
	})
	return out
}

// lists measures lists of count pods. One is read whole beforehand; of the others only the size is looked at, for uncompressing them takes longer than
// most servers need to make them.
func (t Target) lists(rs []*raw, pods, tag string, count int, measure func(what string, workers, count int, f func(r *raw, i int) error)) {
	list := func(r *raw) (answer, error) { return r.do(http.MethodGet, pods, "", nil, true) }
	first, err := list(rs[0])
	if err == nil {
		var content []byte
		content, err = first.content()
		if n := bytes.Count(content, []byte(tag+"-")); err == nil && n < count {
			err = fmt.Errorf("list has %d of %d pods", n, count)
		}
	}
	whole := first.length()
	measure("list pods", min(len(rs), 4), max(10, min(count/100, 50)), func(r *raw, _ int) error {
		if err != nil {
			return err
		}
		a, err := list(r)
		if err == nil && a.length() < whole-whole/100 { // versions in it may have changed
			return fmt.Errorf("list of %d bytes, the first had %d", a.length(), whole)
		}
		return err
	})
}
