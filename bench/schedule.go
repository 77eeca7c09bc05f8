package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// ScheduleOptions of the scheduling benchmark.
type ScheduleOptions struct {
	Nodes   int // registered fakes, removed afterwards
	Pods    int
	Workers int
	Timeout time.Duration
}

// Schedule measures how many pods a second are bound while they are created, on registered nodes that run nothing.
func Schedule(ctx context.Context, t Target, o ScheduleOptions) ([]Result, error) {
	var result Result
	err := t.inNamespace(ctx, func(namespace, run string, cs kubernetes.Interface) error {
		writers, err := t.clients(o.Workers)
		if err != nil {
			return err
		}
		t.say("registering %d nodes", o.Nodes)
		defer func() {
			clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
			defer cancel()
			if gone := each(clean, "remove nodes", o.Workers, o.Nodes, func(ctx context.Context, w, i int) error {
				err := writers[w].CoreV1().Nodes().Delete(ctx, fmt.Sprintf("bench-%s-%d", run, i), metav1.DeleteOptions{})
				return ignoreNotFound(err)
			}); gone.Errors > 0 {
				t.say("%d fake nodes are left (label %s=%s): %s", gone.Errors, runLabel, run, gone.Error)
			}
		}()
		made := each(ctx, "nodes", o.Workers, o.Nodes, func(ctx context.Context, w, i int) error {
			return registerNode(ctx, writers[w], fmt.Sprintf("bench-%s-%d", run, i), run, i)
		})
		if made.Errors > 0 {
			return fmt.Errorf("register nodes: %s", made.Error)
		}

		ctx, cancel := context.WithTimeout(ctx, o.Timeout)
		defer cancel()
		bound, err := cs.CoreV1().Pods(namespace).Watch(ctx, metav1.ListOptions{FieldSelector: fields.OneTermNotEqualSelector("spec.nodeName", "").String()})
		if err != nil {
			return fmt.Errorf("watch bindings: %w", err)
		}
		defer bound.Stop()
		var mu sync.Mutex
		sent := map[string]time.Time{}
		var s samples
		done := make(chan struct{})
		go func() {
			defer close(done)
			seen := map[string]bool{}
			for len(seen) < o.Pods {
				event, ok := <-bound.ResultChan()
				if !ok {
					return
				}
				pod, is := event.Object.(*corev1.Pod)
				if !is || seen[pod.Name] || pod.Spec.NodeName == "" {
					continue
				}
				seen[pod.Name] = true
				mu.Lock()
				began := sent[pod.Name]
				mu.Unlock()
				s.add(time.Since(began), nil)
			}
		}()
		t.say("%d pods", o.Pods)
		began := time.Now()
		creates := each(ctx, "creates", o.Workers, o.Pods, func(ctx context.Context, w, i int) error {
			pod := t.pod(namespace, fmt.Sprintf("s-%d", i), run)
			pod.Spec.NodeSelector = map[string]string{runLabel: run} // the fakes only
			mu.Lock()
			sent[pod.Name] = time.Now()
			mu.Unlock()
			_, err := writers[w].CoreV1().Pods(namespace).Create(ctx, pod, metav1.CreateOptions{})
			return err
		})
		<-done
		result = s.result(fmt.Sprintf("bind, %d nodes", o.Nodes), o.Workers, time.Since(began))
		result.Errors += creates.Errors
		if creates.Error != "" {
			result.Error = creates.Error
		}
		if missing := o.Pods - result.Count; missing > 0 {
			result.Errors += missing
			result.Note = fmt.Sprintf("%d of %d pods were not bound within %v", missing, o.Pods, o.Timeout)
		}
		return nil
	})
	return []Result{result}, err
}

func registerNode(ctx context.Context, cs kubernetes.Interface, name, run string, i int) error {
	now := metav1.Now()
	capacity := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("32"), corev1.ResourceMemory: resource.MustParse("256Gi"), corev1.ResourcePods: resource.MustParse("110")}
	// A range of its own, from the block for carriers (RFC 6598), so that the cluster's ranges are left alone.
	cidr := fmt.Sprintf("100.%d.%d.0/24", 64+i/256%64, i%256)
	node := &corev1.Node{
		Spec:       corev1.NodeSpec{PodCIDR: cidr, PodCIDRs: []string{cidr}},
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{runLabel: run, corev1.LabelHostname: name}},
		Status: corev1.NodeStatus{Capacity: capacity, Allocatable: capacity, Conditions: []corev1.NodeCondition{
			{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "Bench", LastHeartbeatTime: now, LastTransitionTime: now}}},
	}
	if _, err := cs.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{}); err != nil {
		return err
	}
	// A patch, because controllers have begun to write the node too.
	patch, err := json.Marshal(map[string]any{"status": node.Status})
	if err != nil {
		return err
	}
	_, err = cs.CoreV1().Nodes().Patch(ctx, name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	return err
}

func ignoreNotFound(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
