package authn

import (
	"context"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"

	"wherry.dev/wherry/client"
)

// Lookup finds the objects that tokens are bound to. Authentication is built before the API server can serve itself,
// so a Lookup starts empty and answers from the moment it is initialized. Safe for concurrent use.
type Lookup struct{ sources atomic.Pointer[sources] }

type sources struct {
	live     kubernetes.Interface
	accounts corelisters.ServiceAccountLister
	secrets  corelisters.SecretLister
	pods     corelisters.PodLister
	nodes    corelisters.NodeLister
}

// Initialize gives the Lookup its in-process client. The caller starts the Set's informers afterwards; until they have
// synced every answer is a live read.
func (l *Lookup) Initialize(set *client.Set) {
	core := set.Informers.Core().V1()
	l.sources.Store(&sources{
		live:     set.Kubernetes,
		accounts: core.ServiceAccounts().Lister(),
		secrets:  core.Secrets().Lister(),
		pods:     core.Pods().Lister(),
		nodes:    core.Nodes().Lister(),
	})
}

// find returns the first object that satisfies ok, from the cache or, when the cache's copy does not satisfy or is
// missing (it may be a moment behind), from the store. Not found and not satisfied are told apart by the error.
func find[T any](ctx context.Context, l *Lookup, cached func(*sources) (T, error), live func(context.Context, kubernetes.Interface) (T, error), ok func(T) error) (T, error) {
	var none T
	s := l.sources.Load()
	if s == nil {
		return none, apierrors.NewServiceUnavailable("the server has not finished starting")
	}
	if object, err := cached(s); err == nil && ok(object) == nil {
		return object, nil
	}
	object, err := live(ctx, s.live)
	if err != nil {
		return none, err
	}
	if err := ok(object); err != nil {
		return none, err
	}
	return object, nil
}

func (l *Lookup) account(ctx context.Context, namespace, name string, ok func(*corev1.ServiceAccount) error) (*corev1.ServiceAccount, error) {
	return find(ctx, l,
		func(s *sources) (*corev1.ServiceAccount, error) {
			return s.accounts.ServiceAccounts(namespace).Get(name)
		},
		func(ctx context.Context, k kubernetes.Interface) (*corev1.ServiceAccount, error) {
			return k.CoreV1().ServiceAccounts(namespace).Get(ctx, name, metav1.GetOptions{})
		}, ok)
}

func (l *Lookup) secret(ctx context.Context, namespace, name string, ok func(*corev1.Secret) error) (*corev1.Secret, error) {
	return find(ctx, l,
		func(s *sources) (*corev1.Secret, error) { return s.secrets.Secrets(namespace).Get(name) },
		func(ctx context.Context, k kubernetes.Interface) (*corev1.Secret, error) {
			return k.CoreV1().Secrets(namespace).Get(ctx, name, metav1.GetOptions{})
		}, ok)
}

func (l *Lookup) pod(ctx context.Context, namespace, name string, ok func(*corev1.Pod) error) (*corev1.Pod, error) {
	return find(ctx, l,
		func(s *sources) (*corev1.Pod, error) { return s.pods.Pods(namespace).Get(name) },
		func(ctx context.Context, k kubernetes.Interface) (*corev1.Pod, error) {
			return k.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
		}, ok)
}

func (l *Lookup) node(ctx context.Context, name string, ok func(*corev1.Node) error) (*corev1.Node, error) {
	return find(ctx, l,
		func(s *sources) (*corev1.Node, error) { return s.nodes.Get(name) },
		func(ctx context.Context, k kubernetes.Interface) (*corev1.Node, error) {
			return k.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		}, ok)
}
