// Package nodelifecycle watches over nodes: the taints that say what their conditions say, Ready Unknown for a node whose Lease is not
// renewed, and the eviction of pods that do not tolerate a NoExecute taint for longer than they say. Upstream's counterparts are
// the node lifecycle and the taint eviction controllers.
package nodelifecycle

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"wherry.dev/wherry/client"
)

// Config is what the controller needs.
type Config struct {
	Client   *client.Set
	Recorder record.EventRecorder
	Log      *slog.Logger
	// GracePeriod is how long a node may be silent before it is Unknown; 0 for upstream's 50 s.
	GracePeriod time.Duration
}

const (
	defaultGracePeriod = 50 * time.Second
	// startupGracePeriod is how long a new node may say nothing of itself, upstream's too.
	startupGracePeriod = 60 * time.Second
)

// podsByNode is the name of the index that eviction looks pods up in.
const podsByNode = "wherry.dev/node"

type controller struct {
	Config
	nodes      corelisters.NodeLister
	pods       cache.Indexer
	heartbeats client.Heartbeats
	started    time.Time
	taints     taintTimes
	loop       *client.Loop // nodes
	evict      *client.Loop // pods
}

// Run watches over nodes until ctx ends.
func Run(ctx context.Context, c Config) error {
	if c.GracePeriod == 0 {
		c.GracePeriod = defaultGracePeriod
	}
	nodes, leases := c.Client.Informers.Core().V1().Nodes(), c.Client.Informers.Coordination().V1().Leases()
	pods := c.Client.Informers.Core().V1().Pods().Informer()
	if err := addNodeIndex(pods); err != nil {
		return err
	}
	k := &controller{Config: c, nodes: nodes.Lister(), pods: pods.GetIndexer(), started: time.Now()}
	k.loop = client.NewLoop("nodelifecycle", 4, c.Log, k.sync)
	k.evict = client.NewLoop("tainteviction", 4, c.Log, k.evictPod)
	var handlers client.Handlers
	defer handlers.Remove()
	for informer, handler := range map[cache.SharedIndexInformer]cache.ResourceEventHandler{
		nodes.Informer():  cache.ResourceEventHandlerFuncs{AddFunc: k.nodeAdded, UpdateFunc: func(_, obj any) { k.nodeChanged(obj.(*corev1.Node)) }, DeleteFunc: k.nodeGone},
		leases.Informer(): k.heartbeats.Handler(), // read when a node is due: a heartbeat wakes nobody
		pods:              client.Each(k.podChanged),
	} {
		if err := handlers.On(informer, handler); err != nil {
			return err
		}
	}
	handlers.Sync(ctx, c.Client) // or ctx has ended, which the loops see
	done := make(chan struct{})
	go func() { k.evict.Run(ctx); close(done) }()
	k.loop.Run(ctx)
	<-done
	return nil
}

func addNodeIndex(pods cache.SharedIndexInformer) error {
	if _, ok := pods.GetIndexer().GetIndexers()[podsByNode]; ok {
		return nil
	}
	err := pods.AddIndexers(cache.Indexers{podsByNode: func(obj any) ([]string, error) {
		if pod, ok := obj.(*corev1.Pod); ok && pod.Spec.NodeName != "" {
			return []string{pod.Spec.NodeName}, nil
		}
		return nil, nil
	}})
	if err != nil {
		return fmt.Errorf("index pods by node: %w", client.Refused(pods, err))
	}
	return nil
}

func (k *controller) nodeAdded(obj any) {
	node := obj.(*corev1.Node)
	k.event(node, "RegisteredNode", "Node %s event: Registered Node %s in Controller", node.Name, node.Name)
	k.nodeChanged(node)
}

func (k *controller) nodeChanged(node *corev1.Node) {
	k.taints.note(node, time.Now())
	k.loop.Add(node.Name)
	k.enqueuePods(node)
}

func (k *controller) nodeGone(obj any) {
	if unknown, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = unknown.Obj
	}
	if node, ok := obj.(*corev1.Node); ok {
		k.taints.forget(node.Name)
		k.event(node, "RemovingNode", "Node %s event: Removing Node %s from Controller", node.Name, node.Name)
	}
}

func (k *controller) podChanged(p *corev1.Pod) {
	if p.Spec.NodeName != "" && p.DeletionTimestamp == nil && k.tainted(p.Spec.NodeName) {
		k.evict.Add(p.Namespace + "/" + p.Name)
	}
}

func (k *controller) event(about *corev1.Node, reason, format string, args ...any) {
	if k.Recorder != nil {
		k.Recorder.Eventf(about, corev1.EventTypeNormal, reason, format, args...)
	}
}

// sync looks at one node's heartbeat and brings conditions and taints up to it. It comes back when the heartbeat would be overdue;
// a silent node brings itself back, when it writes its status again.
func (k *controller) sync(ctx context.Context, name string) error {
	node, err := k.nodes.Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return fmt.Errorf("read node %s: %w", name, err)
	}
	if overdue := k.overdueIn(node); overdue > 0 {
		k.loop.AddAfter(name, overdue)
	} else {
		if readiness(node) != corev1.ConditionUnknown {
			return k.markUnknown(ctx, node) // its own event brings us back for the rest
		}
		if err := k.markPodsNotReady(ctx, node); err != nil {
			return err
		}
	}
	return k.syncTaints(ctx, node)
}

// overdueIn returns how long the node may still be silent. What is known of heartbeats is known since the start: whoever renewed
// while this server was away is not taken for dead.
func (k *controller) overdueIn(node *corev1.Node) time.Duration {
	grace, last := k.GracePeriod, k.heartbeats.Last(node.Name)
	if last.IsZero() { // no kubelet, or one that has only begun
		last = later(k.started, node.CreationTimestamp.Time)
		for i := range node.Status.Conditions {
			if c := &node.Status.Conditions[i]; c.Type == corev1.NodeReady && c.Status != corev1.ConditionUnknown {
				last = later(last, c.LastHeartbeatTime.Time)
			}
		}
	}
	if readiness(node) == "" {
		grace = max(grace, startupGracePeriod)
	}
	return grace - time.Since(last)
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// readiness is what the node's condition Ready says; empty without the condition.
func readiness(node *corev1.Node) corev1.ConditionStatus {
	for i := range node.Status.Conditions {
		if node.Status.Conditions[i].Type == corev1.NodeReady {
			return node.Status.Conditions[i].Status
		}
	}
	return ""
}

// markUnknown says that nothing is known of a silent node.
func (k *controller) markUnknown(ctx context.Context, node *corev1.Node) error {
	now := metav1.Now()
	var conditions []corev1.NodeCondition
	for _, t := range []corev1.NodeConditionType{corev1.NodeReady, corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure} {
		c := corev1.NodeCondition{Type: t, Status: corev1.ConditionUnknown, Reason: "NodeStatusUnknown", Message: "Kubelet stopped posting node status.", LastTransitionTime: now}
		for i := range node.Status.Conditions {
			if old := &node.Status.Conditions[i]; old.Type == t {
				c.LastHeartbeatTime = old.LastHeartbeatTime
			}
		}
		if c.LastHeartbeatTime.IsZero() {
			c.LastHeartbeatTime = node.CreationTimestamp
			c.Reason, c.Message = "NodeStatusNeverUpdated", "Kubelet never posted node status."
		}
		conditions = append(conditions, c)
	}
	if err := k.patchNode(ctx, node, map[string]any{"status": map[string]any{"conditions": conditions}}, "status"); err != nil {
		return fmt.Errorf("mark node %s unknown: %w", node.Name, err)
	}
	k.Log.Warn("node is silent", "node", node.Name)
	k.event(node, "NodeNotReady", "Node %s status is now: NodeNotReady", node.Name)
	return nil
}

func (k *controller) patchNode(ctx context.Context, node *corev1.Node, change map[string]any, subresources ...string) error {
	change["metadata"] = map[string]any{"uid": node.UID, "resourceVersion": node.ResourceVersion}
	patch, err := json.Marshal(change)
	if err != nil {
		return fmt.Errorf("encode patch: %w", err)
	}
	_, err = k.Client.Kubernetes.CoreV1().Nodes().Patch(ctx, node.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, subresources...)
	return err
}

// markPodsNotReady says so of a silent node's pods, so that Services leave them out.
func (k *controller) markPodsNotReady(ctx context.Context, node *corev1.Node) error {
	for _, pod := range k.podsOn(node.Name) {
		ready := slices.IndexFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodReady })
		if ready < 0 || pod.Status.Conditions[ready].Status != corev1.ConditionTrue {
			continue
		}
		patch, err := json.Marshal(map[string]any{
			"metadata": map[string]any{"uid": pod.UID},
			"status":   map[string]any{"conditions": []map[string]any{{"type": corev1.PodReady, "status": corev1.ConditionFalse, "reason": "NodeNotReady", "lastTransitionTime": metav1.Now()}}},
		})
		if err != nil {
			return fmt.Errorf("encode patch: %w", err)
		}
		_, err = k.Client.Kubernetes.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return fmt.Errorf("mark pod %s/%s not ready: %w", pod.Namespace, pod.Name, err)
		}
	}
	return nil
}

func (k *controller) podsOn(node string) []*corev1.Pod {
	objects, err := k.pods.ByIndex(podsByNode, node)
	if err != nil {
		return nil // the index is added before anything runs
	}
	pods := make([]*corev1.Pod, 0, len(objects))
	for _, o := range objects {
		pods = append(pods, o.(*corev1.Pod))
	}
	return pods
}
