// Package clusterroleaggregation fills ClusterRoles that have an aggregationRule (admin, edit, view) with the rules of
// the roles that their selectors match (upstream's clusterrole-aggregation controller).
package clusterroleaggregation

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	rbaclisters "k8s.io/client-go/listers/rbac/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"wherry.dev/wherry/client"
)

// Config of the controller.
type Config struct {
	// Client acts as the service account kube-system/clusterrole-aggregation-controller, which may escalate.
	Client *client.Set
	Log    *slog.Logger
	// Ready is called when roles are being watched. May be nil.
	Ready func()
}

type controller struct {
	Config
	roles rbaclisters.ClusterRoleLister
	queue workqueue.TypedRateLimitingInterface[string]
}

// Run works until ctx ends and returns when its goroutine has ended.
func Run(ctx context.Context, c Config) error {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	informer := c.Client.Informers.Rbac().V1().ClusterRoles()
	x := &controller{Config: c, roles: informer.Lister(), queue: workqueue.NewTypedRateLimitingQueue(
		workqueue.NewTypedItemExponentialFailureRateLimiter[string](5*time.Millisecond, 30*time.Second))}
	registration, err := informer.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { x.enqueueAll() }, UpdateFunc: func(any, any) { x.enqueueAll() }, DeleteFunc: func(any) { x.enqueueAll() }})
	if err != nil {
		return fmt.Errorf("clusterrole aggregation: %w", err)
	}
	defer func() { _ = informer.Informer().RemoveEventHandler(registration) }()
	c.Client.Informers.StartWithContext(ctx)
	if !cache.WaitForNamedCacheSyncWithContext(ctx, registration.HasSynced) {
		x.queue.ShutDown()
		return nil
	}
	var done sync.WaitGroup
	done.Go(func() { // one worker: aggregated roles are few and gather each other
		for x.next(ctx) {
		}
	})
	if c.Ready != nil {
		c.Ready()
	}
	<-ctx.Done()
	x.queue.ShutDown()
	done.Wait()
	return nil
}

// enqueueAll looks at every aggregated role: any role may have become part of any.
func (x *controller) enqueueAll() {
	all, err := x.roles.List(labels.Everything())
	if err != nil {
		return // the lister reads memory
	}
	for _, role := range all {
		if role.AggregationRule != nil {
			x.queue.Add(role.Name)
		}
	}
}

func (x *controller) next(ctx context.Context) bool {
	name, quit := x.queue.Get()
	if quit {
		return false
	}
	defer x.queue.Done(name)
	if err := x.sync(ctx, name); err != nil && ctx.Err() == nil {
		if !apierrors.IsConflict(err) {
			x.Log.Warn("aggregate cluster role", "name", name, "err", err)
		}
		x.queue.AddRateLimited(name)
		return true
	}
	x.queue.Forget(name)
	return true
}

func (x *controller) sync(ctx context.Context, name string) error {
	role, err := x.roles.Get(name)
	if apierrors.IsNotFound(err) || err == nil && role.AggregationRule == nil {
		return nil
	}
	if err != nil {
		return err
	}
	all, err := x.roles.List(labels.Everything())
	if err != nil {
		return err
	}
	rules, err := gather(role, all)
	if err != nil {
		return err
	}
	if equality.Semantic.DeepEqual(rules, role.Rules) {
		return nil
	}
	fresh := role.DeepCopy()
	fresh.Rules = rules
	if _, err := x.Client.Kubernetes.RbacV1().ClusterRoles().Update(ctx, fresh, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("update cluster role %s: %w", name, err)
	}
	return nil
}

// gather returns the rules of all roles that role selects, each once, in the order of the selectors and then of names,
// so that the same roles always give the same list.
func gather(role *rbacv1.ClusterRole, all []*rbacv1.ClusterRole) ([]rbacv1.PolicyRule, error) {
	var out []rbacv1.PolicyRule
	for i := range role.AggregationRule.ClusterRoleSelectors {
		selector, err := metav1.LabelSelectorAsSelector(&role.AggregationRule.ClusterRoleSelectors[i])
		if err != nil {
			return nil, fmt.Errorf("aggregation rule of %s: %w", role.Name, err)
		}
		var selected []*rbacv1.ClusterRole
		for _, other := range all {
			if other.Name != role.Name && selector.Matches(labels.Set(other.Labels)) {
				selected = append(selected, other)
			}
		}
		slices.SortFunc(selected, func(a, b *rbacv1.ClusterRole) int { return strings.Compare(a.Name, b.Name) })
		for _, other := range selected {
			for _, rule := range other.Rules {
				if !slices.ContainsFunc(out, func(have rbacv1.PolicyRule) bool { return equality.Semantic.DeepEqual(have, rule) }) {
					out = append(out, *rule.DeepCopy())
				}
			}
		}
	}
	return out, nil
}
