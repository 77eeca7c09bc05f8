// Package hollow is nodes without machines: Node objects with leases that are kept, and pods that are said to run as soon as they are bound. Pods that do
// not restart are said to have succeeded a moment later. Suites use it where what matters is what the API server is asked to do.
package hollow

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
)

// Label is on every hollow node, and on no other.
const Label = "foreign.wherry.dev/hollow"

const (
	leaseSeconds  = 40
	renewInterval = 10 * time.Second
	workers       = 8
)

// Nodes keeps hollow nodes.
type Nodes struct {
	kube  kubernetes.Interface
	queue workqueue.TypedRateLimitingInterface[types.NamespacedName]

	mu    sync.Mutex
	names map[string]bool // guarded by mu
}

// New makes keeper of no nodes yet.
func New(kube kubernetes.Interface) *Nodes {
	return &Nodes{kube: kube, names: map[string]bool{},
		queue: workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[types.NamespacedName](20*time.Millisecond, time.Second))}
}

// Add registers a node and keeps it.
func (n *Nodes) Add(ctx context.Context, name string) error {
	room := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("64"), corev1.ResourceMemory: resource.MustParse("256Gi"), corev1.ResourcePods: resource.MustParse("500"),
		corev1.ResourceEphemeralStorage: resource.MustParse("1Ti")}
	now := metav1.Now()
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{Label: "true", corev1.LabelHostname: name, corev1.LabelOSStable: "linux", corev1.LabelArchStable: "amd64"}}}
	made, err := n.kube.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("register node: %w", err)
	}
	made.Status = corev1.NodeStatus{Capacity: room, Allocatable: room, Addresses: []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: name}, {Type: corev1.NodeInternalIP, Address: address(name)}},
		NodeInfo: corev1.NodeSystemInfo{KubeletVersion: "v1.37.1", OperatingSystem: "linux", Architecture: "amd64"}}
	for _, c := range []corev1.NodeConditionType{corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure} {
		made.Status.Conditions = append(made.Status.Conditions, corev1.NodeCondition{Type: c, Status: corev1.ConditionFalse, Reason: "Hollow", LastHeartbeatTime: now, LastTransitionTime: now})
	}
	made.Status.Conditions = append(made.Status.Conditions, corev1.NodeCondition{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "Hollow", LastHeartbeatTime: now, LastTransitionTime: now})
	patch, err := json.Marshal(map[string]any{"status": made.Status})
	if err != nil {
		return err
	}
	if _, err := n.kube.CoreV1().Nodes().Patch(ctx, name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status"); err != nil {
		return fmt.Errorf("report the node's status: %w", err)
	}
	if err := n.renew(ctx, name); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.names[name] = true
	return nil
}

// Forget stops keeping a node, as if its machine had gone.
func (n *Nodes) Forget(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.names, name)
}

// Remove forgets the node and deletes it.
func (n *Nodes) Remove(ctx context.Context, name string) error {
	n.Forget(name)
	return n.kube.CoreV1().Nodes().Delete(ctx, name, metav1.DeleteOptions{})
}

func (n *Nodes) kept() (names []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for name := range n.names {
		names = append(names, name)
	}
	return names
}

func (n *Nodes) keeps(name string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.names[name]
}

// Run keeps the nodes until ctx ends. failed is told what went wrong otherwise than by a race that is lost.
func (n *Nodes) Run(ctx context.Context, failed func(error)) {
	factory := informers.NewSharedInformerFactory(n.kube, 0)
	pods := factory.Core().V1().Pods()
	enqueue := func(o any) {
		if pod, ok := o.(*corev1.Pod); ok && pod.Spec.NodeName != "" {
			n.queue.Add(types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name})
		}
	}
	_, _ = pods.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: enqueue, UpdateFunc: func(_, o any) { enqueue(o) }})
	lister := pods.Lister()
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			for {
				key, stop := n.queue.Get()
				if stop {
					return
				}
				pod, err := lister.Pods(key.Namespace).Get(key.Name)
				if err == nil {
					err = n.sync(ctx, pod)
				}
				switch {
				case err == nil, apierrors.IsNotFound(err):
					n.queue.Forget(key)
				default:
					if ctx.Err() == nil && !apierrors.IsConflict(err) {
						failed(fmt.Errorf("pod %s on a hollow node: %w", key, err))
					}
					n.queue.AddRateLimited(key)
				}
				n.queue.Done(key)
			}
		})
	}
	ticker := time.NewTicker(renewInterval)
	defer ticker.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-ticker.C:
			for _, name := range n.kept() {
				if err := n.renew(ctx, name); err != nil && ctx.Err() == nil {
					failed(err)
				}
			}
		}
	}
	n.queue.ShutDown()
	group.Wait()
	factory.Shutdown()
}

func (n *Nodes) renew(ctx context.Context, name string) error {
	leases := n.kube.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	now, seconds := metav1.NewMicroTime(time.Now()), int32(leaseSeconds)
	lease, err := leases.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = leases.Create(ctx, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: coordinationv1.LeaseSpec{HolderIdentity: &name, LeaseDurationSeconds: &seconds, RenewTime: &now}}, metav1.CreateOptions{})
	} else if err == nil {
		lease = lease.DeepCopy()
		lease.Spec.RenewTime = &now
		_, err = leases.Update(ctx, lease, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("renew the lease of %s: %w", name, err)
	}
	return nil
}

// sync does for one pod what a kubelet would do next.
func (n *Nodes) sync(ctx context.Context, pod *corev1.Pod) error {
	if !n.keeps(pod.Spec.NodeName) {
		return nil
	}
	if pod.DeletionTimestamp != nil {
		now := int64(0)
		return n.kube.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &now, Preconditions: &metav1.Preconditions{UID: &pod.UID}})
	}
	var status *corev1.PodStatus
	switch {
	case pod.Status.Phase == corev1.PodPending || pod.Status.Phase == "":
		status = running(pod)
	case pod.Status.Phase == corev1.PodRunning && pod.Spec.RestartPolicy != corev1.RestartPolicyAlways:
		status = finished(pod)
	default:
		return nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID}, "status": status})
	if err != nil {
		return err
	}
	_, err = n.kube.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	return err
}

func running(pod *corev1.Pod) *corev1.PodStatus {
	now := metav1.Now()
	ip := address(string(pod.UID))
	s := &corev1.PodStatus{Phase: corev1.PodRunning, StartTime: &now, HostIP: address(pod.Spec.NodeName), PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}}}
	s.HostIPs = []corev1.HostIP{{IP: s.HostIP}}
	for _, c := range []corev1.PodConditionType{corev1.PodInitialized, corev1.PodReady, corev1.ContainersReady} {
		s.Conditions = append(s.Conditions, corev1.PodCondition{Type: c, Status: corev1.ConditionTrue, LastTransitionTime: now})
	}
	for _, c := range pod.Spec.Containers {
		started := true
		s.ContainerStatuses = append(s.ContainerStatuses, corev1.ContainerStatus{Name: c.Name, Image: c.Image, ImageID: "hollow", ContainerID: "hollow://" + string(pod.UID), Ready: true, Started: &started,
			State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}}})
	}
	return s
}

func finished(pod *corev1.Pod) *corev1.PodStatus {
	now := metav1.Now()
	s := &corev1.PodStatus{Phase: corev1.PodSucceeded}
	for _, c := range []corev1.PodConditionType{corev1.PodReady, corev1.ContainersReady} {
		s.Conditions = append(s.Conditions, corev1.PodCondition{Type: c, Status: corev1.ConditionFalse, Reason: "PodCompleted", LastTransitionTime: now})
	}
	for _, c := range pod.Spec.Containers {
		started := false
		s.ContainerStatuses = append(s.ContainerStatuses, corev1.ContainerStatus{Name: c.Name, Image: c.Image, ImageID: "hollow", ContainerID: "hollow://" + string(pod.UID), Started: &started,
			State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "Completed", StartedAt: now, FinishedAt: now, ContainerID: "hollow://" + string(pod.UID)}}})
	}
	return s
}

// address makes an address out of a name; two names may share one.
func address(name string) string {
	h := fnv.New32a()
	_, _ = h.Write([]byte(name))
	v := h.Sum32()
	return fmt.Sprintf("10.%d.%d.%d", 128+v%64, v>>8&0xff, 1+v>>16%250)
}
