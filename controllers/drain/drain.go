// Package drain closes the gap between D3 and D4: it tells a deleted pod's kubelet that no node sends new connections to the pod
// any more, by the pod condition of lifecycle.DrainedCondition. See lifecycle/drain.go for the protocol. Upstream has no counterpart.
//
// It never says so before every living node has acknowledged the revision at which the last of the pod's slices marked it. A
// living node that acknowledges nothing (a proxy of another make, or one that has not come so far) is waited for like any other:
// the kubelet's bound ends that wait. A Service that publishes addresses which are not ready goes on sending by its
// owner's wish; there, being marked as terminating is all that can be waited for.
package drain

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	coordinationlisters "k8s.io/client-go/listers/coordination/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"wherry.dev/wherry/client"
	"wherry.dev/wherry/lifecycle"
)

// Config is what the controller needs.
type Config struct {
	Client *client.Set
	Log    *slog.Logger
}

// A node whose heartbeat is older than this is not waited for: it renews every 10 s.
const heartbeatLimit = 25 * time.Second

// workers report drained pods side by side: each report is one call.
const workers = 4

type controller struct {
	Config
	pods   corelisters.PodLister
	nodes  corelisters.NodeLister
	leases coordinationlisters.LeaseLister
	// sliceRevision is the revision that the cache of slices has reached at least.
	sliceRevision func() string
	heartbeats    client.Heartbeats
	ledger        *ledger
	loop          *client.Loop // keys are pods, namespace/name, and nodes that may be dead by now, by name alone
}

// Run reports drained pods until ctx ends.
func Run(ctx context.Context, c Config) error {
	core := c.Client.Informers.Core().V1()
	leases, slices := c.Client.Informers.Coordination().V1().Leases(), c.Client.Informers.Discovery().V1().EndpointSlices()
	k := &controller{Config: c, pods: core.Pods().Lister(), nodes: core.Nodes().Lister(), leases: leases.Lister(), sliceRevision: slices.Informer().LastSyncResourceVersion}
	k.ledger = newLedger(k.exists)
	k.loop = client.NewLoop("drain", workers, c.Log, k.sync)
	var handlers client.Handlers
	defer handlers.Remove()
	for _, add := range []struct {
		informer cache.SharedIndexInformer
		handler  cache.ResourceEventHandler
	}{
		{core.Pods().Informer(), cache.ResourceEventHandlerFuncs{AddFunc: func(obj any) { k.podChanged(nil, obj) }, UpdateFunc: k.podChanged, DeleteFunc: k.podGone}},
		{core.Nodes().Informer(), cache.ResourceEventHandlerFuncs{DeleteFunc: k.nodeGone}},
		{leases.Informer(), k.heartbeats.Handler()},
		{leases.Informer(), cache.ResourceEventHandlerFuncs{AddFunc: func(obj any) { k.leaseChanged(nil, obj) }, UpdateFunc: k.leaseChanged}},
		{slices.Informer(), cache.ResourceEventHandlerFuncs{AddFunc: func(obj any) { k.sliceChanged(nil, obj) }, UpdateFunc: k.sliceChanged, DeleteFunc: k.sliceGone}},
	} {
		if err := handlers.On(add.informer, add.handler); err != nil {
			return err
		}
	}
	handlers.Sync(ctx, c.Client) // or ctx has ended, which the loop sees
	k.loop.Run(ctx)
	return nil
}

func idOf(pod *corev1.Pod) identity { return identity{pod.Namespace, pod.Name, pod.UID} }

// exists reports whether the pod is in the cache. The cache is changed before its handlers are called: when it says yes, podGone
// is still to come.
func (k *controller) exists(id identity) bool {
	pod, err := k.pods.Pods(id.namespace).Get(id.name)
	return err == nil && pod.UID == id.uid
}

// last returns the object of a deletion, its last known state when the deletion itself was missed.
func last(obj any) (_ any, missed bool) {
	if unknown, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		return unknown.Obj, true
	}
	return obj, false
}

// podChanged looks at pods that leave. A pod that was made anew while nobody watched comes as a change of the old one.
func (k *controller) podChanged(old, obj any) {
	pod := obj.(*corev1.Pod)
	if before, ok := old.(*corev1.Pod); ok && before.UID != pod.UID {
		k.ledger.forget(idOf(before))
	}
	if pod.DeletionTimestamp != nil {
		k.loop.Add(pod.Namespace + "/" + pod.Name)
	}
}

func (k *controller) podGone(obj any) {
	obj, _ = last(obj)
	if pod, ok := obj.(*corev1.Pod); ok {
		k.ledger.forget(idOf(pod))
	}
}

func (k *controller) nodeGone(obj any) {
	obj, _ = last(obj)
	if node, ok := obj.(*corev1.Node); ok {
		k.wake(k.ledger.waitingFor(node.Name))
	}
}

func (k *controller) sliceChanged(old, obj any) {
	slice := obj.(*discoveryv1.EndpointSlice)
	at, err := parseRevision(slice.ResourceVersion)
	if err != nil {
		k.Log.Error("read an EndpointSlice's revision", "slice", slice.Namespace+"/"+slice.Name, "error", err)
		return
	}
	if before, ok := old.(*discoveryv1.EndpointSlice); ok && before.UID != slice.UID {
		k.wake(k.ledger.sliceGone(before.UID, at)) // removed and made anew while nobody watched, both by now
	}
	k.wake(k.ledger.slice(slice, at))
}

func (k *controller) sliceGone(obj any) {
	obj, missed := last(obj)
	slice, ok := obj.(*discoveryv1.EndpointSlice)
	if !ok {
		return
	}
	at, _ := parseRevision(slice.ResourceVersion) // of the deletion
	if missed {
		// The object is an old one. The deletion came before the list that lacks it.
		listed, _ := parseRevision(k.sliceRevision())
		at = max(at, listed)
	}
	k.wake(k.ledger.sliceGone(slice.UID, at))
}

// leaseChanged looks again at the pods that wait for the node which has acknowledged.
func (k *controller) leaseChanged(old, obj any) {
	lease := obj.(*coordinationv1.Lease)
	node, ok := strings.CutPrefix(lease.Name, lifecycle.DrainLeasePrefix)
	if !ok || lease.Namespace != lifecycle.DrainNamespace {
		return
	}
	if before, ok := old.(*coordinationv1.Lease); ok && before.Annotations[lifecycle.ProgrammedAnnotation] == lease.Annotations[lifecycle.ProgrammedAnnotation] {
		return
	}
	k.wake(k.ledger.waitingFor(node))
}

func (k *controller) wake(pods []types.NamespacedName) {
	for _, pod := range pods {
		k.loop.Add(pod.Namespace + "/" + pod.Name)
	}
}

func parseRevision(s string) (revision, error) {
	r, err := strconv.ParseUint(s, 10, 64)
	return revision(r), err
}

// sync decides for one pod.
func (k *controller) sync(ctx context.Context, key string) error {
	namespace, name, ok := strings.Cut(key, "/")
	if !ok {
		k.wake(k.ledger.waitingFor(key)) // a node that may be dead by now
		return nil
	}
	pod, err := k.pods.Pods(namespace).Get(name)
	if apierrors.IsNotFound(err) || err == nil && pod.DeletionTimestamp == nil {
		return nil
	} else if err != nil {
		return fmt.Errorf("read pod %s: %w", key, err)
	}
	id := idOf(pod)
	if drained(pod) {
		k.ledger.settle(id)
		return nil
	}
	at, known, marked := k.ledger.await(id)
	if !k.exists(id) {
		k.ledger.forget(id) // it went while we looked, and its event may have come before await
		return nil
	}
	if !known || !marked {
		return nil // a slice that marks it, or names it for the first time, brings us back
	}
	for {
		node, err := k.behind(at)
		if err != nil {
			return fmt.Errorf("drain pod %s: %w", key, err)
		}
		if node == nil {
			return k.report(ctx, pod)
		}
		k.ledger.awaitNode(id, node.Name)
		// Its acknowledgement may have come before it was waited for.
		if live := k.liveFor(node); live > 0 && !k.reached(node.Name, at) && k.stays(node) {
			k.loop.AddAfter(node.Name, live)
			return nil
		}
	}
}

// behind returns a living node that has not reached the revision, nil when there is none.
func (k *controller) behind(at revision) (*corev1.Node, error) {
	nodes, err := k.nodes.List(everything)
	if err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	for _, node := range nodes {
		if !k.reached(node.Name, at) && k.liveFor(node) > 0 {
			return node, nil
		}
	}
	return nil, nil
}

// stays reports whether the node is still in the cache; if it is, nodeGone is still to come.
func (k *controller) stays(node *corev1.Node) bool {
	_, err := k.nodes.Get(node.Name)
	return err == nil
}

// reached reports whether the node has acknowledged the revision.
func (k *controller) reached(node string, at revision) bool {
	lease, err := k.leases.Leases(lifecycle.DrainNamespace).Get(lifecycle.DrainLeasePrefix + node)
	if err != nil {
		return false
	}
	reached, err := parseRevision(lease.Annotations[lifecycle.ProgrammedAnnotation])
	return err == nil && reached >= at
}

// liveFor returns for how long a node that says no more still counts as living; not more than zero for one that is gone. A node
// without a Lease has no kubelet that renews it: it lives only while it is new and Ready.
func (k *controller) liveFor(node *corev1.Node) time.Duration {
	last := k.heartbeats.Last(node.Name)
	if last.IsZero() {
		for i := range node.Status.Conditions {
			if c := &node.Status.Conditions[i]; c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
				last = c.LastHeartbeatTime.Time
			}
		}
	}
	return heartbeatLimit - time.Since(last)
}

// report writes the condition.
func (k *controller) report(ctx context.Context, pod *corev1.Pod) error {
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": pod.UID},
		"status": map[string]any{"conditions": []corev1.PodCondition{{
			Type: lifecycle.DrainedCondition, Status: corev1.ConditionTrue, Reason: "EveryNodeAcknowledged", LastTransitionTime: metav1.Now(),
		}}},
	})
	if err != nil {
		return fmt.Errorf("encode condition: %w", err)
	}
	_, err = k.Client.Kubernetes.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if err != nil && !apierrors.IsNotFound(err) {
		// A conflict too: of a UID, which the cache soon knows, or of too many writers at once.
		return fmt.Errorf("report pod %s/%s drained: %w", pod.Namespace, pod.Name, err)
	}
	k.ledger.settle(idOf(pod))
	return nil
}

var everything = labels.Everything()

func drained(pod *corev1.Pod) bool {
	for i := range pod.Status.Conditions {
		if c := &pod.Status.Conditions[i]; c.Type == lifecycle.DrainedCondition {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}
