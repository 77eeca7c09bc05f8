// Package drain closes the gap between D3 and D4: it tells a deleted pod's kubelet that no node sends new connections to the pod
// any more, by the pod condition of lifecycle.DrainedCondition. See lifecycle/drain.go for the protocol. Upstream has no counterpart.
package drain

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
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

type controller struct {
	Config
	pods   corelisters.PodLister
	nodes  corelisters.NodeLister
	leases coordinationlisters.LeaseLister
	loop   *client.Loop

	mu sync.Mutex
	// leaving are the slices in which each terminating pod's endpoint is, by pod and slice: the revision at which the slice
	// first said that it terminates. guarded by mu
	leaving map[types.UID]map[types.UID]revision
	// bySlice undoes leaving when a slice goes. guarded by mu
	bySlice map[types.UID]map[types.UID]bool
	// pending are the keys of the pods that wait for acknowledgements. guarded by mu
	pending map[types.UID]string
}

// revision is 0 while the slice still has the pod as an ordinary endpoint.
type revision uint64

// Run reports drained pods until ctx ends.
func Run(ctx context.Context, c Config) error {
	core := c.Client.Informers.Core().V1()
	leases := c.Client.Informers.Coordination().V1().Leases()
	k := &controller{Config: c, pods: core.Pods().Lister(), nodes: core.Nodes().Lister(), leases: leases.Lister(),
		leaving: map[types.UID]map[types.UID]revision{}, bySlice: map[types.UID]map[types.UID]bool{}, pending: map[types.UID]string{}}
	k.loop = client.NewLoop("drain", 4, c.Log, k.sync)
	var handlers client.Handlers
	defer handlers.Remove()
	for informer, handler := range map[cache.SharedIndexInformer]cache.ResourceEventHandler{
		core.Pods().Informer(): cache.ResourceEventHandlerFuncs{
			AddFunc:    func(obj any) { k.podChanged(obj.(*corev1.Pod)) },
			UpdateFunc: func(_, obj any) { k.podChanged(obj.(*corev1.Pod)) },
			DeleteFunc: k.podGone,
		},
		core.Nodes().Informer(): cache.ResourceEventHandlerFuncs{},
		leases.Informer():       client.Each(k.leaseChanged),
		c.Client.Informers.Discovery().V1().EndpointSlices().Informer(): cache.ResourceEventHandlerFuncs{
			AddFunc:    func(obj any) { k.sliceChanged(obj) },
			UpdateFunc: func(_, obj any) { k.sliceChanged(obj) },
			DeleteFunc: k.sliceGone,
		},
	} {
		if err := handlers.On(informer, handler); err != nil {
			return err
		}
	}
	if !handlers.Sync(ctx, c.Client) {
		return nil
	}
	k.loop.Run(ctx)
	return nil
}

// podChanged looks at pods that begin to leave, and forgets those that are gone.
func (k *controller) podChanged(pod *corev1.Pod) {
	if pod.DeletionTimestamp != nil {
		k.loop.Add(pod.Namespace + "/" + pod.Name)
	}
}

// podGone drops what is known of a pod that is removed.
func (k *controller) podGone(obj any) {
	if unknown, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = unknown.Obj
	}
	if pod, ok := obj.(*corev1.Pod); ok {
		k.mu.Lock()
		defer k.mu.Unlock()
		delete(k.pending, pod.UID)
		delete(k.leaving, pod.UID)
	}
}

// sliceChanged notes for each endpoint of the slice whether it terminates, and since which revision.
func (k *controller) sliceChanged(obj any) {
	slice, ok := obj.(*discoveryv1.EndpointSlice)
	if !ok {
		return
	}
	at, err := strconv.ParseUint(slice.ResourceVersion, 10, 64)
	if err != nil {
		return
	}
	var wake []string
	k.mu.Lock()
	members := map[types.UID]bool{}
	for i := range slice.Endpoints {
		e := &slice.Endpoints[i]
		if e.TargetRef == nil || e.TargetRef.Kind != "Pod" {
			continue
		}
		uid := e.TargetRef.UID
		members[uid] = true
		in := k.leaving[uid]
		if in == nil {
			in = map[types.UID]revision{}
			k.leaving[uid] = in
		}
		switch terminating := e.Conditions.Terminating != nil && *e.Conditions.Terminating; {
		case !terminating:
			in[slice.UID] = 0
		case in[slice.UID] == 0:
			in[slice.UID] = revision(at)
			wake = append(wake, e.TargetRef.Namespace+"/"+e.TargetRef.Name)
		}
	}
	for uid := range k.bySlice[slice.UID] {
		if !members[uid] {
			k.leaveSlice(uid, slice.UID, revision(at))
		}
	}
	k.bySlice[slice.UID] = members
	for _, key := range k.pending {
		wake = append(wake, key)
	}
	k.mu.Unlock()
	for _, key := range wake {
		k.loop.Add(key)
	}
}

// leaveSlice takes a pod out of a slice's members. While the pod waits, the revision of its removal still has to be reached by
// every node, so it stays until the pod is gone. Callers hold mu.
func (k *controller) leaveSlice(pod, slice types.UID, at revision) {
	in := k.leaving[pod]
	if _, waits := k.pending[pod]; waits {
		if in != nil && in[slice] == 0 {
			in[slice] = at
		}
		return
	}
	if delete(in, slice); len(in) == 0 {
		delete(k.leaving, pod)
	}
}

func (k *controller) sliceGone(obj any) {
	if unknown, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = unknown.Obj
	}
	slice, ok := obj.(*discoveryv1.EndpointSlice)
	if !ok {
		return
	}
	at, _ := strconv.ParseUint(slice.ResourceVersion, 10, 64) // of the deletion
	k.mu.Lock()
	for uid := range k.bySlice[slice.UID] {
		k.leaveSlice(uid, slice.UID, revision(at))
	}
	delete(k.bySlice, slice.UID)
	wake := make([]string, 0, len(k.pending))
	for _, key := range k.pending {
		wake = append(wake, key)
	}
	k.mu.Unlock()
	for _, key := range wake {
		k.loop.Add(key)
	}
}

// leaseChanged looks again at every waiting pod when a node acknowledges.
func (k *controller) leaseChanged(lease *coordinationv1.Lease) {
	if lease.Namespace != lifecycle.DrainNamespace || !strings.HasPrefix(lease.Name, lifecycle.DrainLeasePrefix) {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, key := range k.pending {
		k.loop.Add(key)
	}
}

// sync decides for one pod.
func (k *controller) sync(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil
	}
	pod, err := k.pods.Pods(namespace).Get(name)
	if apierrors.IsNotFound(err) || err == nil && pod.DeletionTimestamp == nil {
		return nil
	} else if err != nil {
		return err
	}
	if drained(pod) {
		k.settle(pod.UID)
		return nil
	}
	at, known, marked := k.revisionOf(key, pod.UID)
	if !known {
		return nil // behind no Service; should a slice name it yet, its event brings us back
	}
	if !marked || !k.acknowledged(at) {
		return nil // a slice or a lease event brings us back
	}
	return k.report(ctx, pod)
}

// revisionOf returns the revision that every node must have reached, whether any slice has or had the pod, and whether all
// of them say that it terminates. The pod is pending from here on.
func (k *controller) revisionOf(key string, uid types.UID) (at revision, known, marked bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.pending[uid] = key
	in := k.leaving[uid]
	if len(in) == 0 {
		return 0, false, false
	}
	for _, r := range in {
		if r == 0 {
			return 0, true, false
		}
		at = max(at, r)
	}
	return at, true, true
}

// acknowledged reports whether every live node has reached the revision.
func (k *controller) acknowledged(at revision) bool {
	nodes, err := k.nodes.List(everything)
	if err != nil {
		return false
	}
	for _, node := range nodes {
		lease, err := k.leases.Leases(lifecycle.DrainNamespace).Get(lifecycle.DrainLeasePrefix + node.Name)
		if err != nil {
			continue // a proxy of another make: it acknowledges nothing, and the kubelet's bound is what is left
		}
		if !k.alive(node) {
			continue
		}
		reached, err := strconv.ParseUint(lease.Annotations[lifecycle.ProgrammedAnnotation], 10, 64)
		if err != nil || revision(reached) < at {
			return false
		}
	}
	return true
}

// alive reports whether the node's kubelet still renews its Lease; a node that is gone is not waited for.
func (k *controller) alive(node *corev1.Node) bool {
	lease, err := k.leases.Leases(corev1.NamespaceNodeLease).Get(node.Name)
	if err != nil || lease.Spec.RenewTime == nil {
		return true
	}
	return time.Since(lease.Spec.RenewTime.Time) < heartbeatLimit
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
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("report pod %s/%s drained: %w", pod.Namespace, pod.Name, err)
	}
	k.settle(pod.UID)
	return nil
}

// settle stops looking at the pod.
func (k *controller) settle(uid types.UID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.pending, uid)
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
