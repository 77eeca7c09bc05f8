package scheduler

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"wherry.dev/wherry/trace"
)

// bindTimeout bounds one bind; a bind that nobody answers is decided anew.
const bindTimeout = 30 * time.Second

type bindDone struct {
	w    *waiting
	pod  *corev1.Pod
	node string
	err  error
}

// bind runs beside deciding: one API call, then the result goes back. It does not read w, which belongs to the deciding goroutine.
func (s *scheduler) bind(ctx context.Context, w *waiting, span trace.Span, pod *corev1.Pod, node string) {
	// What was decided is bound also while shutting down: the pod is assumed by nobody else.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), bindTimeout)
	defer cancel()
	err := s.Client.Kubernetes.CoreV1().Pods(pod.Namespace).Bind(ctx, &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
		Target:     corev1.ObjectReference{Kind: "Node", Name: node},
	}, metav1.CreateOptions{})
	if err == nil {
		span.End = time.Now()
		s.recorder.Eventf(pod, nil, corev1.EventTypeNormal, "Scheduled", "Binding", "Successfully assigned %s/%s to %s", pod.Namespace, pod.Name, node)
		s.Trace.Record(span)
	}
	s.bound <- bindDone{w: w, pod: pod, node: node, err: err} // has room for every bind in flight
}

// bindEnded undoes what was assumed when a bind failed. Runs on the deciding goroutine.
func (s *scheduler) bindEnded(_ context.Context, d bindDone) {
	s.inFlight--
	if d.err == nil {
		return // the informer confirms it
	}
	known, ok := s.snapshot.pods[d.pod.UID]
	if ok && known.assumed {
		s.snapshot.removePod(d.pod.UID)
	}
	switch {
	case s.queue.pods[d.pod.UID] != d.w:
		// It was removed, or somebody else's binding arrived meanwhile.
	case apierrors.IsNotFound(d.err), apierrors.IsConflict(d.err):
		// Gone, or bound by another: the informer tells which. If neither comes, the pod is tried again.
		s.queue.retry(d.w)
	default:
		s.Log.Warn("bind failed; deciding again", "pod", d.pod.Namespace+"/"+d.pod.Name, "node", d.node, "error", d.err)
		s.recorder.Eventf(d.pod, nil, corev1.EventTypeWarning, "FailedScheduling", "Scheduling", "%s", fmt.Sprintf("binding rejected: %v", d.err))
		s.queue.retry(d.w)
	}
}

// reportUnschedulable writes the condition that kubectl describe shows, and the node that is being cleared for the pod, if one is.
func (s *scheduler) reportUnschedulable(ctx context.Context, pod *corev1.Pod, message, nominated string) {
	status := map[string]any{"conditions": []corev1.PodCondition{{
		Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable, Message: message,
		ObservedGeneration: pod.Generation, LastTransitionTime: metav1.Now(),
	}}}
	switch {
	case nominated != "":
		status["nominatedNodeName"] = nominated
	case pod.Status.NominatedNodeName != "":
		status["nominatedNodeName"] = nil
	}
	s.patchStatus(ctx, pod, status, "report pod unschedulable")
}

// patchStatus changes the pod's status; a pod that is gone or has changed hands needs it no more.
func (s *scheduler) patchStatus(ctx context.Context, pod *corev1.Pod, status map[string]any, what string) {
	ctx, cancel := context.WithTimeout(ctx, bindTimeout)
	defer cancel()
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID}, "status": status})
	if err != nil {
		s.Log.Error("encode status", "error", err)
		return
	}
	_, err = s.Client.Kubernetes.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) && ctx.Err() == nil {
		s.Log.Warn(what, "pod", pod.Namespace+"/"+pod.Name, "error", err)
	}
}
