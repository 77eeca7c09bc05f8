// Package clusterroleaggregation fills ClusterRoles that have an aggregationRule (admin, edit, view) with the rules of
// the roles that their selectors match (upstream's clusterrole-aggregation controller).
package clusterroleaggregation

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	rbaclisters "k8s.io/client-go/listers/rbac/v1"

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
	loop  *client.Loop
}

// Run works until ctx ends and returns when its goroutine has ended.
func Run(ctx context.Context, c Config) error {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	informer := c.Client.Informers.Rbac().V1().ClusterRoles()
	x := &controller{Config: c, roles: informer.Lister()}
	x.loop = client.NewLoop("clusterroleaggregation", 1, c.Log, x.sync) // one worker: aggregated roles are few and gather each other
	var handlers client.Handlers
	defer handlers.Remove()
	if err := handlers.On(informer.Informer(), client.Each(x.changed)); err != nil {
		return fmt.Errorf("clusterrole aggregation: %w", err)
	}
	if !handlers.Sync(ctx, c.Client) {
		return nil
	}
	if c.Ready != nil {
		c.Ready()
	}
	x.loop.Run(ctx)
	return nil
}

// changed looks at every aggregated role: any role may have become part of any.
func (x *controller) changed(*rbacv1.ClusterRole) {
	all, err := x.roles.List(labels.Everything())
	if err != nil {
		return // the lister reads memory
	}
	for _, role := range all {
		if role.AggregationRule != nil {
			x.loop.Add(role.Name)
		}
	}
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
