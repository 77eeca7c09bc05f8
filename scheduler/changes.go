package scheduler

import (
	"context"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/client-go/tools/cache"

	"wherry.dev/wherry/scheduler/plugins"
)

// nodeEvents turns the nodes informer's calls into changes of the snapshot.
func (s *scheduler) nodeEvents(ctx context.Context) cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) {
			node := obj.(*corev1.Node)
			s.send(ctx, func() { s.nodeChanged(node, plugins.NodeAdded) })
		},
		UpdateFunc: func(old, obj any) {
			node := obj.(*corev1.Node)
			if nodeMatters(old.(*corev1.Node), node) {
				s.send(ctx, func() { s.nodeChanged(node, plugins.NodeUpdated) })
			}
		},
		DeleteFunc: func(obj any) {
			if node, ok := deleted[*corev1.Node](obj); ok {
				s.send(ctx, func() { s.snapshot.removeNode(node.Name) })
			}
		},
	}
}

func (s *scheduler) nodeChanged(node *corev1.Node, kind plugins.ChangeKind) {
	s.queue.happened(plugins.Change{Kind: kind, Node: s.snapshot.setNode(node)})
}

// nodeMatters reports whether a rule reads anything that changed; heartbeats are not such a thing.
func nodeMatters(old, node *corev1.Node) bool {
	return old.UID != node.UID || old.Spec.Unschedulable != node.Spec.Unschedulable ||
		!slices.EqualFunc(old.Spec.Taints, node.Spec.Taints, func(a, b corev1.Taint) bool {
			return a.Key == b.Key && a.Value == b.Value && a.Effect == b.Effect
		}) ||
		!maps.Equal(old.Labels, node.Labels) ||
		!equality.Semantic.DeepEqual(old.Status.Allocatable, node.Status.Allocatable) ||
		!slices.EqualFunc(old.Status.Images, node.Status.Images, func(a, b corev1.ContainerImage) bool {
			return a.SizeBytes == b.SizeBytes && slices.Equal(a.Names, b.Names)
		})
}

// podEvents turns the pods informer's calls into changes of the snapshot and the queue.
func (s *scheduler) podEvents(ctx context.Context) cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) {
			pod := obj.(*corev1.Pod)
			s.send(ctx, func() { s.podChanged(pod) })
		},
		UpdateFunc: func(oldObj, obj any) {
			old, pod := oldObj.(*corev1.Pod), obj.(*corev1.Pod)
			if old.UID != pod.UID { // deleted and made again between two watches
				s.send(ctx, func() { s.podGone(old) })
			}
			if podMatters(old, pod) {
				s.send(ctx, func() { s.podChanged(pod) })
			}
		},
		DeleteFunc: func(obj any) {
			if pod, ok := deleted[*corev1.Pod](obj); ok {
				s.send(ctx, func() { s.podGone(pod) })
			}
		},
	}
}

// podMatters spares the snapshot the status updates of running pods, which are most events there are.
func podMatters(old, pod *corev1.Pod) bool {
	if pod.Spec.NodeName == "" {
		return true
	}
	if old.UID != pod.UID || old.Spec.NodeName != pod.Spec.NodeName || old.Generation != pod.Generation || finished(old) != finished(pod) {
		return true
	}
	// A resize moves through the containers' status (KEP-1287).
	return !slices.EqualFunc(old.Status.ContainerStatuses, pod.Status.ContainerStatuses, func(a, b corev1.ContainerStatus) bool {
		return a.AllocatedResources == nil && b.AllocatedResources == nil || equality.Semantic.DeepEqual(a.AllocatedResources, b.AllocatedResources) &&
			equality.Semantic.DeepEqual(a.Resources, b.Resources)
	})
}

func finished(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

func (s *scheduler) podChanged(pod *corev1.Pod) {
	switch {
	case finished(pod):
		s.podGone(pod)
	case pod.Spec.NodeName != "":
		s.queue.remove(pod.UID)
		known, ok := s.snapshot.pods[pod.UID]
		if ok && known.assumed && known.pod.Generation == pod.Generation && s.snapshot.slots[known.slot] == s.snapshot.slots[s.snapshot.slot(pod.Spec.NodeName)] {
			known.assumed = false // it came as it was decided
			return
		}
		s.snapshot.setPod(plugins.NewPod(pod), pod.Spec.NodeName, false)
	case pod.Spec.SchedulerName == s.Name && pod.DeletionTimestamp == nil:
		w := s.queue.set(pod)
		if node := pod.Status.NominatedNodeName; node != "" && w.attempts == 0 && w.nominated == "" {
			s.nominate(w, node) // before this process began, or by somebody else
		}
	default:
		s.podGone(pod)
	}
}

// podGone gives back the room of a pod that ended or was removed.
func (s *scheduler) podGone(pod *corev1.Pod) {
	s.queue.remove(pod.UID)
	if node := s.snapshot.removePod(pod.UID); node != nil {
		s.queue.happened(plugins.Change{Kind: plugins.PodGone, Node: node, Pod: pod})
	}
}

// deleted unwraps what a delete handler gets: the object, or its last known state when the watch missed the deletion.
func deleted[T any](obj any) (T, bool) {
	if unknown, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = unknown.Obj
	}
	t, ok := obj.(T)
	return t, ok
}
