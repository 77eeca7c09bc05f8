package authz

import (
	"context"
	"errors"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	rbacvalidation "k8s.io/component-helpers/auth/rbac/validation"
)

// Rules returns every RBAC rule that counts for who in namespace (empty: cluster-wide only). Rules that could not be
// found are told by the error; the others are returned all the same. The rules are shared and immutable.
func (a *Authorizer) Rules(ctx context.Context, who user.Info, namespace string) ([]rbacv1.PolicyRule, error) {
	if err := a.wait(ctx); err != nil {
		return nil, err
	}
	x := a.rbac
	x.mu.RLock()
	defer x.mu.RUnlock()
	var rules []rbacv1.PolicyRule
	var missing []error
	x.each(who, namespace, func(g *grant) bool {
		if found, ok := x.roles[g.role]; ok {
			rules = append(rules, found...)
		} else {
			missing = append(missing, errors.New(g.missing))
		}
		return true
	})
	return rules, errors.Join(missing...)
}

// RoleRules returns the rules of a Role (namespace set) or ClusterRole; ok says whether it exists. Shared and immutable.
func (a *Authorizer) RoleRules(ctx context.Context, namespace, name string) (rules []rbacv1.PolicyRule, ok bool, err error) {
	if err := a.wait(ctx); err != nil {
		return nil, false, err
	}
	a.rbac.mu.RLock()
	defer a.rbac.mu.RUnlock()
	rules, ok = a.rbac.roles[roleKey{namespace, name}]
	return rules, ok, nil
}

// RulesFor implements authorizer.RuleResolver for SelfSubjectRulesReview. Rules that nobody can list (those of the node
// authorizer and of webhooks) make the answer incomplete, as upstream's does.
func (a *Authorizer) RulesFor(ctx context.Context, who user.Info, namespace string) ([]authorizer.ResourceRuleInfo, []authorizer.NonResourceRuleInfo, bool, error) {
	var resources []authorizer.ResourceRuleInfo
	var paths []authorizer.NonResourceRuleInfo
	if isMaster(who) {
		resources, paths = everything()
	}
	incomplete := false
	var failures []error
	for _, s := range *a.steps.Load() {
		r, p, partly, err := a.rulesOf(ctx, s, who, namespace)
		resources, paths, incomplete = append(resources, r...), append(paths, p...), incomplete || partly
		if err != nil {
			failures = append(failures, err)
		}
	}
	return resources, paths, incomplete, errors.Join(failures...)
}

// rbacRules are the rules by roles and bindings.
func (a *Authorizer) rbacRules(ctx context.Context, who user.Info, namespace string) (resources []authorizer.ResourceRuleInfo, paths []authorizer.NonResourceRuleInfo, incomplete bool, err error) {
	rules, err := a.Rules(ctx, who, namespace)
	for _, rule := range rules {
		if len(rule.Resources) > 0 {
			resources = append(resources, &authorizer.DefaultResourceRuleInfo{
				Verbs: rule.Verbs, APIGroups: rule.APIGroups, Resources: rule.Resources, ResourceNames: rule.ResourceNames})
		}
		if len(rule.NonResourceURLs) > 0 {
			paths = append(paths, &authorizer.DefaultNonResourceRuleInfo{Verbs: rule.Verbs, NonResourceURLs: rule.NonResourceURLs})
		}
	}
	return resources, paths, false, err
}

// Uncovered returns what of wanted the holder of held does not have, in atomic rules, duplicates joined.
func Uncovered(held, wanted []rbacv1.PolicyRule) []rbacv1.PolicyRule {
	_, missing := rbacvalidation.Covers(held, wanted)
	return compact(missing)
}

// compact joins atomic rules that differ in their verb only.
func compact(rules []rbacv1.PolicyRule) []rbacv1.PolicyRule {
	var out []rbacv1.PolicyRule
next:
	for _, rule := range rules {
		for i := range out {
			same := rule.DeepCopy()
			same.Verbs = out[i].Verbs
			if equality.Semantic.DeepEqual(*same, out[i]) {
				for _, verb := range rule.Verbs {
					if !contains(out[i].Verbs, verb, verb) {
						out[i].Verbs = append(out[i].Verbs[:len(out[i].Verbs):len(out[i].Verbs)], verb)
					}
				}
				continue next
			}
		}
		out = append(out, rule)
	}
	return out
}
