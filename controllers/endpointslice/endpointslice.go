// Package endpointslice keeps the EndpointSlices of every Service with a selector (stages C13 and D2). The rules are those of
// k8s.io/endpointslice, the library behind upstream's controller; this package feeds it and says when each pod joined and left.
package endpointslice

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	library "k8s.io/endpointslice"
	endpointsliceutil "k8s.io/endpointslice/util"
	"k8s.io/klog/v2"

	"wherry.dev/wherry/client"
	"wherry.dev/wherry/lifecycle"
	"wherry.dev/wherry/trace"
)

// ControllerName is what endpointslice.kubernetes.io/managed-by says, as upstream's.
const ControllerName = "endpointslice-controller.k8s.io"

// maxEndpointsPerSlice is upstream's default.
const maxEndpointsPerSlice = 100

// Config is what the controller needs.
type Config struct {
	Client   *client.Set
	Trace    trace.Recorder
	Recorder record.EventRecorder
	Log      *slog.Logger
}

type controller struct {
	Config
	services corelisters.ServiceLister
	pods     corelisters.PodLister
	slices   discoverylisters.EndpointSliceLister
	library  *library.Reconciler
	tracker  *endpointsliceutil.EndpointSliceTracker
	loop     *client.Loop

	mu    sync.Mutex
	marks map[types.NamespacedName]map[types.UID]mark // guarded by mu: pods whose state changed, by Service, until it is written
}

// mark remembers when the controller learned that a pod's endpoint has to change.
type mark struct {
	stage lifecycle.Stage
	pod   *corev1.Pod
	seen  time.Time
}

// Run keeps EndpointSlices until ctx ends.
func Run(ctx context.Context, c Config) error {
	core, discovery := c.Client.Informers.Core().V1(), c.Client.Informers.Discovery().V1()
	k := &controller{
		Config: c, services: core.Services().Lister(), pods: core.Pods().Lister(), slices: discovery.EndpointSlices().Lister(),
		tracker: endpointsliceutil.NewEndpointSliceTracker(), marks: map[types.NamespacedName]map[types.UID]mark{},
	}
	k.library = library.NewReconciler(c.Client.Kubernetes, core.Nodes().Lister(), maxEndpointsPerSlice, k.tracker, nil, c.Recorder, ControllerName,
		library.WithPreferSameTrafficDistributionEnabled(true))
	k.loop = client.NewLoop("endpointslice", 5, c.Log, k.sync)

	var handlers client.Handlers
	defer handlers.Remove()
	for _, add := range []struct {
		informer cache.SharedIndexInformer
		handler  cache.ResourceEventHandler
	}{
		{core.Services().Informer(), client.Each(func(s *corev1.Service) { k.enqueue(s) })},
		{core.Pods().Informer(), cache.ResourceEventHandlerFuncs{
			AddFunc:    func(obj any) { k.podChanged(nil, obj) },
			UpdateFunc: func(old, obj any) { k.podChanged(old, obj) },
			DeleteFunc: k.podGone,
		}},
		{discovery.EndpointSlices().Informer(), cache.ResourceEventHandlerFuncs{AddFunc: k.sliceChanged, UpdateFunc: func(_, obj any) { k.sliceChanged(obj) }, DeleteFunc: k.sliceDeleted}},
		{core.Nodes().Informer(), cache.ResourceEventHandlerFuncs{}}, // the library reads zones
	} {
		if err := handlers.On(add.informer, add.handler); err != nil {
			return err
		}
	}
	handlers.Sync(ctx, c.Client) // or ctx has ended, which the loop sees
	k.loop.Run(ctx)
	return nil
}

func (k *controller) enqueue(obj any) {
	if key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(obj); err == nil {
		k.loop.Add(key)
	}
}

// podGone enqueues the Services that a removed pod was in.
func (k *controller) podGone(obj any) { k.enqueueServices(nil, obj, false) }

// podChanged enqueues the Services that the pod joins or leaves, and those where its endpoint changes.
func (k *controller) podChanged(old, obj any) { k.enqueueServices(old, obj, true) }

func (k *controller) enqueueServices(old, obj any, mark bool) {
	key := endpointsliceutil.GetPodUpdateProjectionKey(old, obj)
	if key == nil {
		return
	}
	services, err := endpointsliceutil.GetServicesToUpdate(k.services, key)
	if err != nil {
		k.Log.Error("find the services of a pod", "error", err)
		return
	}
	pod, _ := obj.(*corev1.Pod)
	for service := range services {
		if mark && pod != nil {
			k.mark(service, old, pod)
		}
		k.loop.Add(service)
	}
}

// mark notes that the pod's endpoint is about to become ready or terminating.
func (k *controller) mark(service string, old any, pod *corev1.Pod) {
	before, _ := old.(*corev1.Pod)
	m := mark{pod: pod, seen: time.Now()}
	switch {
	case pod.DeletionTimestamp != nil && (before == nil || before.DeletionTimestamp == nil):
		m.stage = lifecycle.Leave
	case pod.DeletionTimestamp == nil && endpointsliceutil.IsPodReady(pod) && before != nil && !endpointsliceutil.IsPodReady(before):
		m.stage = lifecycle.Endpoints
	default:
		return
	}
	name := namespacedName(service)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.marks[name] == nil {
		k.marks[name] = map[types.UID]mark{}
	}
	k.marks[name][pod.UID] = m
}

// record ends the spans of what a successful sync has written.
func (k *controller) record(name types.NamespacedName, began time.Time) {
	k.mu.Lock()
	marks := k.marks[name]
	done := make([]mark, 0, len(marks))
	for uid, m := range marks {
		if m.seen.After(began) {
			continue // came while the sync was at work; the next one writes it
		}
		done = append(done, m)
		delete(marks, uid)
	}
	if len(marks) == 0 {
		delete(k.marks, name)
	}
	k.mu.Unlock()
	for _, m := range done {
		k.Trace.Record(trace.Span{
			PodUID: string(m.pod.UID), Namespace: m.pod.Namespace, Pod: m.pod.Name, Stage: m.stage, Component: "controllers", Detail: name.Name,
			Start: m.seen, End: time.Now(), Outcome: trace.OK, Attrs: []trace.Attr{{Key: "service", Value: name.Name}},
		})
	}
}

func namespacedName(key string) types.NamespacedName {
	namespace, name, _ := cache.SplitMetaNamespaceKey(key)
	return types.NamespacedName{Namespace: namespace, Name: name}
}

func (k *controller) sliceChanged(obj any) {
	slice, ok := obj.(*discoveryv1.EndpointSlice)
	if ok && k.library.ManagedByController(slice) && k.tracker.ShouldSync(slice) {
		k.enqueueOwner(slice)
	}
}

func (k *controller) sliceDeleted(obj any) {
	if unknown, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = unknown.Obj
	}
	slice, ok := obj.(*discoveryv1.EndpointSlice)
	if ok && k.library.ManagedByController(slice) && k.tracker.Has(slice) && !k.tracker.HandleDeletion(slice) {
		k.enqueueOwner(slice) // somebody else removed it
	}
}

func (k *controller) enqueueOwner(slice *discoveryv1.EndpointSlice) {
	if key, err := library.ServiceControllerKey(slice); err == nil {
		k.loop.Add(key)
	}
}

// sync makes the slices of one Service what they should be.
func (k *controller) sync(ctx context.Context, key string) error {
	began, name := time.Now(), namespacedName(key)
	service, err := k.services.Services(name.Namespace).Get(name.Name)
	if apierrors.IsNotFound(err) {
		k.library.DeleteService(name.Namespace, name.Name)
		k.tracker.DeleteService(name.Namespace, name.Name)
		k.record(name, began)
		return k.removeSlices(ctx, name)
	} else if err != nil {
		return err
	}
	if service.Spec.Type == corev1.ServiceTypeExternalName || service.Spec.Selector == nil {
		k.mu.Lock()
		delete(k.marks, name) // a selector may stand there all the same
		k.mu.Unlock()
		return nil // the user keeps the slices of a Service without a selector
	}
	pods, err := k.pods.Pods(name.Namespace).List(labels.Set(service.Spec.Selector).AsSelectorPreValidated())
	if err != nil {
		return fmt.Errorf("list pods of service %s: %w", name, err)
	}
	all, err := k.ownSlices(name)
	if err != nil {
		return err
	}
	active := all[:0]
	for _, slice := range all {
		if slice.DeletionTimestamp == nil {
			active = append(active, slice)
		}
	}
	if k.tracker.StaleSlices(service, active) {
		return fmt.Errorf("slices of service %s: our own writes are not in the cache yet", name)
	}
	if err := k.library.Reconcile(klog.Background(), service, pods, active, time.Time{}); err != nil {
		return fmt.Errorf("slices of service %s: %w", name, err)
	}
	k.record(name, began)
	return nil
}

func (k *controller) ownSlices(name types.NamespacedName) ([]*discoveryv1.EndpointSlice, error) {
	slices, err := k.slices.EndpointSlices(name.Namespace).List(labels.Set{
		discoveryv1.LabelServiceName: name.Name, discoveryv1.LabelManagedBy: ControllerName,
	}.AsSelectorPreValidated())
	if err != nil {
		return nil, fmt.Errorf("list slices of service %s: %w", name, err)
	}
	return slices, nil
}
