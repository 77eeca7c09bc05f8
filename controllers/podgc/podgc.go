// Package podgc removes pods that nobody else can: those bound to a node that does not exist, and terminating pods that never
// had a node. Upstream's counterpart is the pod garbage collector.
package podgc

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
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
	handlers.Sync(ctx, c.Client) // or ctx has ended, which the loop sees
	k.loop.Run(ctx)
	return nil
}

func (k *controller) podChanged(pod *corev1.Pod) {
	switch {
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
	if pod.Spec.NodeName != "" {
		// The cache may lag behind a node that was just made: ask.
		_, err := k.Client.Kubernetes.CoreV1().Nodes().Get(ctx, pod.Spec.NodeName, metav1.GetOptions{})
		if err == nil || !apierrors.IsNotFound(err) {
			return err
		}
	} else if pod.DeletionTimestamp == nil {
		return nil
	}
	now := int64(0)
	err = k.Client.Kubernetes.CoreV1().Pods(namespace).Delete(ctx, name, metav1.DeleteOptions{GracePeriodSeconds: &now, Preconditions: &metav1.Preconditions{UID: &pod.UID}})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("remove orphaned pod %s: %w", key, err)
	}
	k.Log.Info("removed a pod without a node", "pod", key, "node", pod.Spec.NodeName)
	return nil
}
