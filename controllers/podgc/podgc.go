// Package podgc removes pods that nobody else can: those bound to a node that does not exist, and terminating pods that never
// had a node. Upstream's counterpart is the pod garbage collector.
package podgc

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"wherry.dev/wherry/client"
)

// Config is what the controller needs.
type Config struct {
	Client *client.Set
	Log    *slog.Logger
	// Quarantine is how long a node must be missing before its pods go; 0 for upstream's 40 s.
	Quarantine time.Duration
}

const defaultQuarantine = 40 * time.Second

var everything = labels.Everything()

type controller struct {
	Config
	nodes corelisters.NodeLister
	pods  corelisters.PodLister
	loop  *client.Loop
	// synced says that the cache of nodes is whole: before, every pod's node would seem to be missing.
	synced atomic.Bool
}

// Run collects until ctx ends.
func Run(ctx context.Context, c Config) error {
	if c.Quarantine == 0 {
		c.Quarantine = defaultQuarantine
	}
	core := c.Client.Informers.Core().V1()
	k := &controller{Config: c, nodes: core.Nodes().Lister(), pods: core.Pods().Lister()}
	k.loop = client.NewLoop("podgc", 2, c.Log, k.sync)
	var handlers client.Handlers
	defer handlers.Remove()
	for informer, handler := range map[cache.SharedIndexInformer]cache.ResourceEventHandler{
		core.Pods().Informer(): client.Each(k.podChanged),
		core.Nodes().Informer(): cache.ResourceEventHandlerFuncs{DeleteFunc: func(obj any) {
			if unknown, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = unknown.Obj
			}
			if node, ok := obj.(*corev1.Node); ok {
				k.nodeGone(node.Name)
			}
		}},
	} {
		if err := handlers.On(informer, handler); err != nil {
			return err
		}
	}
	if handlers.Sync(ctx, c.Client) { // else ctx has ended, which the loop sees
		k.synced.Store(true)
		if err := k.all(); err != nil {
			return err
		}
	}
	k.loop.Run(ctx)
	return nil
}

// all looks at every pod once: those that were there before the nodes were known.
func (k *controller) all() error {
	pods, err := k.pods.List(everything)
	if err != nil {
		return fmt.Errorf("list pods: %w", err)
	}
	for _, pod := range pods {
		k.podChanged(pod)
	}
	return nil
}

func (k *controller) podChanged(pod *corev1.Pod) {
	switch {
	case !k.synced.Load():
	case pod.Spec.NodeName == "":
		if pod.DeletionTimestamp != nil {
			k.loop.Add(pod.Namespace + "/" + pod.Name)
		}
	default:
		if _, err := k.nodes.Get(pod.Spec.NodeName); apierrors.IsNotFound(err) {
			k.loop.AddAfter(pod.Namespace+"/"+pod.Name, k.Quarantine)
		}
	}
}

func (k *controller) nodeGone(name string) {
	pods, err := k.pods.List(everything)
	if err != nil {
		return
	}
	for _, pod := range pods {
		if pod.Spec.NodeName == name {
			k.loop.AddAfter(pod.Namespace+"/"+pod.Name, k.Quarantine)
		}
	}
}

func (k *controller) sync(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil
	}
	pod, err := k.pods.Pods(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return err
	}
	var why *corev1.PodCondition
	if pod.Spec.NodeName != "" {
		if _, err := k.nodes.Get(pod.Spec.NodeName); err == nil {
			return nil // it is back
		}
		// The cache may lag behind a node that was just made: ask.
		_, err := k.Client.Kubernetes.CoreV1().Nodes().Get(ctx, pod.Spec.NodeName, metav1.GetOptions{})
		if err == nil || !apierrors.IsNotFound(err) {
			return err
		}
		why = &corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, ObservedGeneration: pod.Generation,
			Reason: "DeletionByPodGC", Message: "PodGC: node no longer exists", LastTransitionTime: metav1.Now()}
	} else if pod.DeletionTimestamp == nil {
		return nil
	}
	if err := k.fail(ctx, pod, why); apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return fmt.Errorf("mark orphaned pod %s as failed: %w", key, err)
	}
	now := int64(0)
	err = k.Client.Kubernetes.CoreV1().Pods(namespace).Delete(ctx, name, metav1.DeleteOptions{GracePeriodSeconds: &now, Preconditions: &metav1.Preconditions{UID: &pod.UID}})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("remove orphaned pod %s: %w", key, err)
	}
	k.Log.Info("removed a pod without a node", "pod", key, "node", pod.Spec.NodeName)
	return nil
}

// fail says of a pod that has not ended that it failed, so that whoever made it counts it right (KEP-3329).
func (k *controller) fail(ctx context.Context, pod *corev1.Pod, why *corev1.PodCondition) error {
	if pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return nil
	}
	status := map[string]any{"phase": corev1.PodFailed}
	if why != nil {
		status["conditions"] = []*corev1.PodCondition{why}
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID}, "status": status})
	if err != nil {
		return fmt.Errorf("encode status: %w", err)
	}
	_, err = k.Client.Kubernetes.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	return err
}
