package admission

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	networkinglisters "k8s.io/client-go/listers/networking/v1"
	nodelisters "k8s.io/client-go/listers/node/v1"
	schedulinglisters "k8s.io/client-go/listers/scheduling/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/tools/cache"

	"wherry.dev/wherry/client"
)

// syncTimeout bounds how long a request waits for a list to be complete after start.
const syncTimeout = 10 * time.Second

var (
	limitRanges    = corev1.SchemeGroupVersion.WithResource("limitranges")
	storageClasses = storagev1.SchemeGroupVersion.WithResource("storageclasses")
	ingressClasses = networkingv1.SchemeGroupVersion.WithResource("ingressclasses")
	resourceQuotas = corev1.SchemeGroupVersion.WithResource("resourcequotas")
)

// cluster is what plugins see of the cluster. Safe for concurrent use.
type cluster struct {
	served  func(schema.GroupVersionResource) bool
	sources atomic.Pointer[sources]

	mu      sync.Mutex // guards waiting
	waiting map[string]*waiter
}

// waiter is woken when the service account it waits for appears.
type waiter struct {
	appeared chan struct{}
	users    int
}

type sources struct {
	live            kubernetes.Interface
	namespaces      corelisters.NamespaceLister
	accounts        corelisters.ServiceAccountLister
	pods            corelisters.PodLister
	nodes           corelisters.NodeLister
	limitRanges     corelisters.LimitRangeLister    // nil when not served
	resourceQuotas  corelisters.ResourceQuotaLister // nil when not served
	priorityClasses schedulinglisters.PriorityClassLister
	runtimeClasses  nodelisters.RuntimeClassLister
	storageClasses  storagelisters.StorageClassLister    // nil when not served
	ingressClasses  networkinglisters.IngressClassLister // nil when not served

	prioritiesSynced, limitsSynced, quotasSynced, storageClassesSynced, ingressClassesSynced cache.DoneChecker
}

func newCluster(served func(schema.GroupVersionResource) bool) *cluster {
	return &cluster{served: served, waiting: map[string]*waiter{}}
}

func (c *cluster) serves(gvr schema.GroupVersionResource) bool {
	return c.served != nil && c.served(gvr)
}

func (c *cluster) initialize(set *client.Set) error {
	core := set.Informers.Core().V1()
	s := &sources{
		live:             set.Kubernetes,
		namespaces:       core.Namespaces().Lister(),
		accounts:         core.ServiceAccounts().Lister(),
		pods:             core.Pods().Lister(),
		nodes:            core.Nodes().Lister(),
		priorityClasses:  set.Informers.Scheduling().V1().PriorityClasses().Lister(),
		runtimeClasses:   set.Informers.Node().V1().RuntimeClasses().Lister(),
		prioritiesSynced: set.Informers.Scheduling().V1().PriorityClasses().Informer().HasSyncedChecker(),
	}
	if c.serves(limitRanges) {
		s.limitRanges = core.LimitRanges().Lister()
		s.limitsSynced = core.LimitRanges().Informer().HasSyncedChecker()
	}
	if c.serves(storageClasses) {
		informer := set.Informers.Storage().V1().StorageClasses()
		s.storageClasses, s.storageClassesSynced = informer.Lister(), informer.Informer().HasSyncedChecker()
	}
	if c.serves(ingressClasses) {
		informer := set.Informers.Networking().V1().IngressClasses()
		s.ingressClasses, s.ingressClassesSynced = informer.Lister(), informer.Informer().HasSyncedChecker()
	}
	if c.serves(resourceQuotas) {
		s.resourceQuotas = core.ResourceQuotas().Lister()
		s.quotasSynced = core.ResourceQuotas().Informer().HasSyncedChecker()
	}
	if _, err := core.ServiceAccounts().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: func(o any) {
		if account, ok := o.(*corev1.ServiceAccount); ok {
			c.accountAppeared(account.Namespace + "/" + account.Name)
		}
	}}); err != nil {
		return fmt.Errorf("follow service accounts: %w", err)
	}
	c.sources.Store(s)
	return nil
}

func (c *cluster) ready() (*sources, error) {
	if s := c.sources.Load(); s != nil {
		return s, nil
	}
	return nil, apierrors.NewServiceUnavailable("not yet ready to handle request: the server has not finished starting")
}

// find reads the cache first, and the store when the cache does not have it (it may be a moment behind).
func find[T any](ctx context.Context, c *cluster, cached func(*sources) (T, error), live func(context.Context, kubernetes.Interface) (T, error)) (T, error) {
	s, err := c.ready()
	if err != nil {
		var none T
		return none, err
	}
	object, err := cached(s)
	if err == nil || !apierrors.IsNotFound(err) {
		return object, err
	}
	return live(ctx, s.live)
}

func (c *cluster) namespace(ctx context.Context, name string) (*corev1.Namespace, error) {
	return find(ctx, c, func(s *sources) (*corev1.Namespace, error) { return s.namespaces.Get(name) },
		func(ctx context.Context, k kubernetes.Interface) (*corev1.Namespace, error) {
			return k.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
		})
}

func (c *cluster) pod(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	return find(ctx, c, func(s *sources) (*corev1.Pod, error) { return s.pods.Pods(namespace).Get(name) },
		func(ctx context.Context, k kubernetes.Interface) (*corev1.Pod, error) {
			return k.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
		})
}

// podOnNode reads a pod for a question that only its own node may ask. A kubelet may know of a binding before the cache
// does: a pod that the cache sees elsewhere, or nowhere, is read from the store before the node is refused.
func (c *cluster) podOnNode(ctx context.Context, namespace, name, node string) (*corev1.Pod, error) {
	pod, err := c.pod(ctx, namespace, name)
	if err != nil || pod.Spec.NodeName == node {
		return pod, err
	}
	s, err := c.ready()
	if err != nil {
		return nil, err
	}
	return s.live.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
}

func (c *cluster) node(ctx context.Context, name string) (*corev1.Node, error) {
	return find(ctx, c, func(s *sources) (*corev1.Node, error) { return s.nodes.Get(name) },
		func(ctx context.Context, k kubernetes.Interface) (*corev1.Node, error) {
			return k.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		})
}

func (c *cluster) priorityClass(ctx context.Context, name string) (*schedulingv1.PriorityClass, error) {
	return find(ctx, c, func(s *sources) (*schedulingv1.PriorityClass, error) { return s.priorityClasses.Get(name) },
		func(ctx context.Context, k kubernetes.Interface) (*schedulingv1.PriorityClass, error) {
			return k.SchedulingV1().PriorityClasses().Get(ctx, name, metav1.GetOptions{})
		})
}

func (c *cluster) runtimeClass(ctx context.Context, name string) (*nodev1.RuntimeClass, error) {
	return find(ctx, c, func(s *sources) (*nodev1.RuntimeClass, error) { return s.runtimeClasses.Get(name) },
		func(ctx context.Context, k kubernetes.Interface) (*nodev1.RuntimeClass, error) {
			return k.NodeV1().RuntimeClasses().Get(ctx, name, metav1.GetOptions{})
		})
}

// priorityClasses lists all, complete.
func (c *cluster) priorityClasses(ctx context.Context) ([]*schedulingv1.PriorityClass, error) {
	s, err := c.ready()
	if err != nil {
		return nil, err
	}
	if err := await(ctx, s.prioritiesSynced); err != nil {
		return nil, err
	}
	return s.priorityClasses.List(labels.Everything())
}

// storageClass reads a class; it is called only where classes are served.
func (c *cluster) storageClass(ctx context.Context, name string) (*storagev1.StorageClass, error) {
	return find(ctx, c, func(s *sources) (*storagev1.StorageClass, error) { return s.storageClasses.Get(name) },
		func(ctx context.Context, k kubernetes.Interface) (*storagev1.StorageClass, error) {
			return k.StorageV1().StorageClasses().Get(ctx, name, metav1.GetOptions{})
		})
}

// storageClasses lists all, complete; it is called only where classes are served.
func (c *cluster) storageClasses(ctx context.Context) ([]*storagev1.StorageClass, error) {
	s, err := c.ready()
	if err != nil {
		return nil, err
	}
	if err := await(ctx, s.storageClassesSynced); err != nil {
		return nil, err
	}
	return s.storageClasses.List(labels.Everything())
}

// ingressClasses lists all, complete; it is called only where classes are served.
func (c *cluster) ingressClasses(ctx context.Context) ([]*networkingv1.IngressClass, error) {
	s, err := c.ready()
	if err != nil {
		return nil, err
	}
	if err := await(ctx, s.ingressClassesSynced); err != nil {
		return nil, err
	}
	return s.ingressClasses.List(labels.Everything())
}

// limitRanges lists those of a namespace, complete.
func (c *cluster) limitRanges(ctx context.Context, namespace string) ([]*corev1.LimitRange, error) {
	s, err := c.ready()
	if err != nil || s.limitRanges == nil {
		return nil, err
	}
	if err := await(ctx, s.limitsSynced); err != nil {
		return nil, err
	}
	return s.limitRanges.LimitRanges(namespace).List(labels.Everything())
}

// resourceQuotas lists those of a namespace, complete. They are only to be read.
func (c *cluster) resourceQuotas(ctx context.Context, namespace string) ([]*corev1.ResourceQuota, error) {
	s, err := c.ready()
	if err != nil || s.resourceQuotas == nil {
		return nil, err
	}
	if err := await(ctx, s.quotasSynced); err != nil {
		return nil, err
	}
	return s.resourceQuotas.ResourceQuotas(namespace).List(labels.Everything())
}

func await(ctx context.Context, synced cache.DoneChecker) error {
	select {
	case <-synced.Done():
		return nil
	default:
	}
	ctx, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	select {
	case <-synced.Done():
		return nil
	case <-ctx.Done():
		return apierrors.NewServiceUnavailable("not yet ready to handle request: " + synced.Name() + " has not been read")
	}
}

// serviceAccount returns an account. The one called default is made by a controller a moment after its namespace, so it
// is waited for.
func (c *cluster) serviceAccount(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, error) {
	get := func() (*corev1.ServiceAccount, error) {
		return find(ctx, c, func(s *sources) (*corev1.ServiceAccount, error) {
			return s.accounts.ServiceAccounts(namespace).Get(name)
		},
			func(ctx context.Context, k kubernetes.Interface) (*corev1.ServiceAccount, error) {
				return k.CoreV1().ServiceAccounts(namespace).Get(ctx, name, metav1.GetOptions{})
			})
	}
	account, err := get()
	if err == nil || name != defaultServiceAccount || !apierrors.IsNotFound(err) {
		return account, err
	}
	appeared, done := c.wait(namespace + "/" + name)
	defer done()
	if account, err = get(); err == nil { // it appeared between looking and waiting
		return account, nil
	}
	timer := time.NewTimer(defaultServiceAccountWait)
	defer timer.Stop()
	select {
	case <-appeared:
	case <-timer.C:
	case <-ctx.Done():
		return nil, errors.Join(err, ctx.Err())
	}
	return get()
}

// wait registers interest in an account; done must be called.
func (c *cluster) wait(key string) (appeared <-chan struct{}, done func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := c.waiting[key]
	if w == nil {
		w = &waiter{appeared: make(chan struct{})}
		c.waiting[key] = w
	}
	w.users++
	return w.appeared, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if w.users--; w.users == 0 && c.waiting[key] == w {
			delete(c.waiting, key)
		}
	}
}

func (c *cluster) accountAppeared(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if w := c.waiting[key]; w != nil {
		close(w.appeared)
		delete(c.waiting, key)
	}
}
