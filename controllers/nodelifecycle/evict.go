package nodelifecycle

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
)

// taintTimes remembers when each NoExecute taint was first seen: `kubectl taint` sets no timeAdded, and a toleration has to
// begin some time. Safe for concurrent use. The zero value is ready.
type taintTimes struct {
	mu    sync.Mutex
	nodes map[string]map[string]time.Time // by node, then key, value; guarded by mu
}

func taintKey(t *corev1.Taint) string { return t.Key + "=" + t.Value }

// note takes in the taints that a node has now.
func (t *taintTimes) note(node *corev1.Node, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var seen map[string]time.Time
	for i := range node.Spec.Taints {
		taint := &node.Spec.Taints[i]
		if taint.Effect != corev1.TaintEffectNoExecute {
			continue
		}
		if seen == nil {
			seen = map[string]time.Time{}
		}
		at, known := t.nodes[node.Name][taintKey(taint)]
		if !known {
			at = now
		}
		seen[taintKey(taint)] = at
	}
	switch {
	case seen == nil:
		delete(t.nodes, node.Name)
	case t.nodes == nil:
		t.nodes = map[string]map[string]time.Time{node.Name: seen}
	default:
		t.nodes[node.Name] = seen
	}
}

func (t *taintTimes) forget(node string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.nodes, node)
}

// since returns when the taint came to the node.
func (t *taintTimes) since(node string, taint *corev1.Taint, now time.Time) time.Time {
	if taint.TimeAdded != nil {
		return taint.TimeAdded.Time
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if at, ok := t.nodes[node][taintKey(taint)]; ok {
		return at
	}
	return now // its event is on the way, and brings the pod here again
}

// evictPod deletes a pod once it has stayed on a tainted node for as long as it tolerates.
func (k *controller) evictPod(ctx context.Context, key string) error {
	obj, ok, err := k.pods.GetByKey(key)
	if err != nil || !ok {
		return err
	}
	pod := obj.(*corev1.Pod)
	if pod.DeletionTimestamp != nil || pod.Spec.NodeName == "" {
		return nil
	}
	node, err := k.nodes.Get(pod.Spec.NodeName)
	if apierrors.IsNotFound(err) {
		return nil // podgc's business
	} else if err != nil {
		return fmt.Errorf("read node %s: %w", pod.Spec.NodeName, err)
	}
	now := time.Now()
	left, evict := toleratedFor(pod, node.Spec.Taints, now, func(t *corev1.Taint) time.Time { return k.taints.since(node.Name, t, now) })
	switch {
	case !evict:
		return nil
	case left > 0:
		k.evict.AddAfter(key, left)
		return nil
	}
	if k.Recorder != nil {
		k.Recorder.Eventf(pod, corev1.EventTypeNormal, "TaintManagerEviction", "Marking for deletion Pod %s", key)
	}
	if err := k.sayWhy(ctx, pod); err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("mark pod %s as disrupted: %w", key, err)
	}
	err = k.Client.Kubernetes.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &pod.UID}})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("evict pod %s: %w", key, err)
	}
	return nil
}

// sayWhy writes the condition by which a Job tells a disruption from a failure (KEP-3329).
func (k *controller) sayWhy(ctx context.Context, pod *corev1.Pod) error {
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": pod.UID},
		"status": map[string]any{"conditions": []corev1.PodCondition{{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, ObservedGeneration: pod.Generation,
			Reason: "DeletionByTaintManager", Message: "Taint manager: deleting due to NoExecute taint", LastTransitionTime: metav1.Now(),
		}}},
	})
	if err != nil {
		return fmt.Errorf("encode condition: %w", err)
	}
	_, err = k.Client.Kubernetes.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	return err
}

// toleratedFor returns how much longer the pod may stay, and whether it has to go at all. For each taint its first toleration
// that matches counts, from when both the taint and the pod were on the node.
func toleratedFor(pod *corev1.Pod, taints []corev1.Taint, now time.Time, since func(*corev1.Taint) time.Time) (left time.Duration, evict bool) {
	for i := range taints {
		taint := &taints[i]
		if taint.Effect != corev1.TaintEffectNoExecute {
			continue
		}
		j := slices.IndexFunc(pod.Spec.Tolerations, func(t corev1.Toleration) bool { return t.ToleratesTaint(klog.Background(), taint, false) })
		if j < 0 {
			return 0, true
		}
		seconds := pod.Spec.Tolerations[j].TolerationSeconds
		if seconds == nil {
			continue
		}
		stays := later(since(taint), bound(pod)).Add(time.Duration(min(max(0, *seconds), longest)) * time.Second).Sub(now)
		if !evict || stays < left {
			left, evict = stays, true
		}
	}
	return max(0, left), evict
}

// longest keeps any tolerationSeconds from overflowing: a century.
const longest = 100 * 365 * 24 * 60 * 60

// bound returns when the pod came to its node.
func bound(pod *corev1.Pod) time.Time {
	for i := range pod.Status.Conditions {
		if c := &pod.Status.Conditions[i]; c.Type == corev1.PodScheduled && c.Status == corev1.ConditionTrue {
			return c.LastTransitionTime.Time
		}
	}
	return pod.CreationTimestamp.Time
}
