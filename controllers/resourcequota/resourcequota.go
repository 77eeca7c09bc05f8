// Package resourcequota counts what the objects of a namespace use of its quotas, and writes it into their status. Admission charges new objects by
// itself; what is given back, and what was charged in vain, is found here. Upstream's counterpart is the resource quota controller.
package resourcequota

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	quota "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/apiserver/pkg/quota/v1/generic"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	apiquota "wherry.dev/wherry/api/quota"
	"wherry.dev/wherry/client"
)

// Config is what the controller needs.
type Config struct {
	Client *client.Set
	Log    *slog.Logger
	// Resources are those that are stored in namespaces, and so can be counted.
	Resources []schema.GroupVersionResource
	// Resync is how often each quota is counted without a cause, for what was charged and never stored; 0 for upstream's five minutes.
	Resync time.Duration
	// Now is the clock; default time.Now.
	Now func() time.Time
}

const (
	defaultResync = 5 * time.Minute
	workers       = 5
)

// settle is how long after a count that gives something back it is done once more: an object may have been charged for just before the count, and
// stored just after.
const settle = 2 * time.Second

type controller struct {
	Config
	quotas     corelisters.ResourceQuotaLister
	evaluators []quota.Evaluator
	loop       *client.Loop

	mu       sync.Mutex                                   // guards what follows
	listers  map[schema.GroupResource]cache.GenericLister // of the resources that some quota has named
	handlers client.Handlers
	foreign  sync.WaitGroup // informers of resources that are not built in
}

// Run counts until ctx ends.
func Run(ctx context.Context, c Config) error {
	if c.Resync == 0 {
		c.Resync = defaultResync
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	quotas := c.Client.Informers.Core().V1().ResourceQuotas()
	k := &controller{Config: c, quotas: quotas.Lister(), listers: map[schema.GroupResource]cache.GenericLister{}}
	k.evaluators = apiquota.Evaluators(k.list, c.Now)
	k.loop = client.NewLoop("resourcequota", workers, c.Log, k.sync)
	defer func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.handlers.Remove()
	}()
	add := func(obj any) {
		if q, ok := obj.(*corev1.ResourceQuota); ok {
			k.loop.Add(q.Namespace + "/" + q.Name)
		}
	}
	k.mu.Lock()
	err := k.handlers.On(quotas.Informer(), cache.ResourceEventHandlerFuncs{AddFunc: add, UpdateFunc: func(old, obj any) {
		// Admission's charges are no cause to count: what is charged for is not stored yet.
		if q, was := obj.(*corev1.ResourceQuota), old.(*corev1.ResourceQuota); !equality.Semantic.DeepEqual(q.Spec, was.Spec) {
			add(q)
		}
	}})
	if err == nil {
		k.handlers.Sync(ctx, c.Client) // when it fails ctx has ended, which the loop sees
	}
	k.mu.Unlock()
	if err != nil {
		return err
	}
	defer k.foreign.Wait()
	k.loop.Run(ctx)
	return nil
}

// know begins to follow a resource, and returns when all there is of it is known. Only what quotas name is followed. One that is not
// served is not followed, and there is none of it. ctx ends with the controller.
func (k *controller) know(ctx context.Context, r schema.GroupResource) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.listers[r] != nil {
		return nil
	}
	i := slices.IndexFunc(k.Resources, func(gvr schema.GroupVersionResource) bool { return gvr.GroupResource() == r })
	if i < 0 {
		return k.discover(ctx, r)
	}
	informer, err := k.Client.Informers.ForResource(k.Resources[i])
	if err != nil {
		return fmt.Errorf("follow %s: %w", r, err)
	}
	if err := k.handlers.On(informer.Informer(), k.follow()); err != nil {
		return err
	}
	if !k.handlers.Sync(ctx, k.Client) {
		return ctx.Err()
	}
	k.listers[r] = informer.Lister()
	return nil
}

// follow counts anew when an object gives something back: it is gone, or it uses less than before.
func (k *controller) follow() cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		DeleteFunc: func(obj any) {
			if unknown, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = unknown.Obj
			}
			if m, ok := obj.(metav1.Object); ok {
				k.namespaceChanged(m.GetNamespace())
			}
		},
		UpdateFunc: func(old, obj any) {
			switch obj := obj.(type) {
			case *corev1.Pod:
				was := old.(*corev1.Pod)
				if ended(obj) != ended(was) || obj.Generation != was.Generation {
					k.namespaceChanged(obj.Namespace)
				}
				if d, g := obj.DeletionTimestamp, obj.DeletionGracePeriodSeconds; d != nil && g != nil && was.DeletionTimestamp == nil {
					// a pod that has overstayed its grace period is not counted either
					k.namespaceChangedAfter(obj.Namespace, d.Add(time.Duration(*g)*time.Second).Sub(k.Now())+time.Second)
				}
			case *corev1.Service:
				if !equality.Semantic.DeepEqual(obj.Spec, old.(*corev1.Service).Spec) {
					k.namespaceChanged(obj.Namespace)
				}
			case *corev1.PersistentVolumeClaim:
				was := old.(*corev1.PersistentVolumeClaim)
				if !equality.Semantic.DeepEqual(obj.Spec, was.Spec) || !equality.Semantic.DeepEqual(obj.Status, was.Status) {
					k.namespaceChanged(obj.Namespace)
				}
			}
		},
	}
}

func ended(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

func (k *controller) namespaceChanged(namespace string) { k.namespaceChangedAfter(namespace, 0) }

func (k *controller) namespaceChangedAfter(namespace string, d time.Duration) {
	quotas, err := k.quotas.ResourceQuotas(namespace).List(labels.Everything())
	if err != nil {
		return
	}
	for _, q := range quotas {
		k.loop.AddAfter(q.Namespace+"/"+q.Name, d)
	}
}

// list implements apiquota.Lister. Of what is not served there is none.
func (k *controller) list(resource schema.GroupVersionResource, namespace string) ([]runtime.Object, error) {
	k.mu.Lock()
	lister := k.listers[resource.GroupResource()]
	k.mu.Unlock()
	if lister == nil {
		return nil, nil
	}
	return lister.ByNamespace(namespace).List(labels.Everything())
}

func (k *controller) sync(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	q, err := k.quotas.ResourceQuotas(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("get quota: %w", err)
	}
	k.loop.AddAfter(key, k.Resync)
	used, err := k.used(ctx, q)
	if err != nil {
		return err
	}
	status := corev1.ResourceQuotaStatus{Hard: q.Spec.Hard, Used: used}
	if equality.Semantic.DeepEqual(q.Status, status) {
		return nil
	}
	// The resourceVersion guards charges that admission makes meanwhile: then this is done anew.
	q = q.DeepCopy()
	q.Status = status
	if _, err := k.Client.Kubernetes.CoreV1().ResourceQuotas(namespace).UpdateStatus(ctx, q, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("write what is used of quota: %w", err)
	}
	k.loop.AddAfter(key, settle)
	return nil
}

// used counts what there is of the resources that a quota limits.
func (k *controller) used(ctx context.Context, q *corev1.ResourceQuota) (corev1.ResourceList, error) {
	hard := quota.ResourceNames(q.Spec.Hard)
	evaluators := slices.Clone(k.evaluators)
	for _, name := range hard {
		if counted, is := strings.CutPrefix(string(name), "count/"); is {
			r := schema.ParseGroupResource(counted)
			if !slices.ContainsFunc(evaluators, func(e quota.Evaluator) bool { return e.GroupResource() == r }) {
				evaluators = append(evaluators, apiquota.Count(k.list, r.WithVersion("")))
			}
		}
	}
	for _, e := range evaluators {
		if len(e.MatchingResources(hard)) > 0 {
			if err := k.know(ctx, e.GroupResource()); err != nil {
				return nil, err
			}
		}
	}
	used, err := quota.CalculateUsage(q.Namespace, q.Spec.Scopes, q.Spec.Hard, generic.NewRegistry(evaluators), q.Spec.ScopeSelector)
	if err != nil {
		return nil, fmt.Errorf("count what is used of quota: %w", err)
	}
	return used, nil
}
