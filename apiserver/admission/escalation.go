package admission

import (
	"context"
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"wherry.dev/wherry/apiserver/authz"
)

// escalation lets nobody grant by roles and bindings what they do not have, unless they may "escalate" the role or
// "bind" it.
type escalation struct {
	authorizer authorizer.UnconditionalAuthorizer
	rules      Rules
}

func (*escalation) Handles(op admission.Operation) bool {
	return handles(op, admission.Create, admission.Update)
}

// Validate implements admission.ValidationInterface.
func (p *escalation) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetResource().Group != rbacv1.GroupName || a.GetSubresource() != "" || slices.Contains(a.GetUserInfo().GetGroups(), user.SystemPrivilegedGroup) {
		return nil
	}
	switch object := a.GetObject().(type) {
	case *rbacv1.Role:
		old, _ := a.GetOldObject().(*rbacv1.Role)
		if old != nil && equality.Semantic.DeepEqual(old.Rules, object.Rules) || p.may(ctx, a, "escalate", "roles", object.Name) {
			return nil
		}
		return p.covered(ctx, a, object.Rules)
	case *rbacv1.ClusterRole:
		old, _ := a.GetOldObject().(*rbacv1.ClusterRole)
		if old != nil && equality.Semantic.DeepEqual(old.Rules, object.Rules) && equality.Semantic.DeepEqual(old.AggregationRule, object.AggregationRule) {
			return nil
		}
		if p.may(ctx, a, "escalate", "clusterroles", object.Name) {
			return nil
		}
		rules := object.Rules
		if object.AggregationRule != nil && len(object.AggregationRule.ClusterRoleSelectors) > 0 {
			// Whoever writes selectors may gather any role, so must have everything.
			rules = []rbacv1.PolicyRule{{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}}, {Verbs: []string{"*"}, NonResourceURLs: []string{"*"}}}
			if p.covered(ctx, a, rules) != nil {
				return apierrors.NewForbidden(a.GetResource().GroupResource(), object.Name, fmt.Errorf("must have cluster-admin privileges to use the aggregationRule"))
			}
		}
		return p.covered(ctx, a, rules)
	case *rbacv1.RoleBinding:
		old, _ := a.GetOldObject().(*rbacv1.RoleBinding)
		if old != nil && old.RoleRef == object.RoleRef && equality.Semantic.DeepEqual(old.Subjects, object.Subjects) {
			return nil
		}
		return p.bind(ctx, a, object.RoleRef)
	case *rbacv1.ClusterRoleBinding:
		old, _ := a.GetOldObject().(*rbacv1.ClusterRoleBinding)
		if old != nil && old.RoleRef == object.RoleRef && equality.Semantic.DeepEqual(old.Subjects, object.Subjects) {
			return nil
		}
		return p.bind(ctx, a, object.RoleRef)
	}
	return nil
}

func (p *escalation) may(ctx context.Context, a admission.Attributes, verb, resource, name string) bool {
	decision, _, _ := p.authorizer.Authorize(ctx, authorizer.AttributesRecord{
		User: a.GetUserInfo(), Verb: verb, Namespace: a.GetNamespace(), APIGroup: rbacv1.GroupName, APIVersion: "*",
		Resource: resource, Name: name, ResourceRequest: true,
	})
	return decision == authorizer.DecisionAllow
}

// bind checks a binding: the user may bind the role, or has all of its rules.
func (p *escalation) bind(ctx context.Context, a admission.Attributes, ref rbacv1.RoleRef) error {
	namespace, resource := "", "clusterroles"
	if ref.Kind == "Role" {
		namespace, resource = a.GetNamespace(), "roles"
	}
	if p.may(ctx, a, "bind", resource, ref.Name) {
		return nil
	}
	rules, ok, err := p.rules.RoleRules(ctx, namespace, ref.Name)
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	if !ok {
		return apierrors.NewNotFound(rbacv1.Resource(resource), ref.Name)
	}
	return p.covered(ctx, a, rules)
}

// covered refuses when the user lacks any of the wanted rules.
func (p *escalation) covered(ctx context.Context, a admission.Attributes, wanted []rbacv1.PolicyRule) error {
	who := a.GetUserInfo()
	held, unresolved := p.rules.Rules(ctx, who, a.GetNamespace())
	missing := authz.Uncovered(held, wanted)
	if len(missing) == 0 {
		return nil
	}
	lines := make([]string, 0, len(missing))
	for i := range missing {
		lines = append(lines, ruleText(&missing[i]))
	}
	slices.Sort(lines)
	text := fmt.Sprintf("user %q (groups=%q) is attempting to grant RBAC permissions not currently held:\n%s", who.GetName(), who.GetGroups(), strings.Join(lines, "\n"))
	if unresolved != nil {
		text += fmt.Sprintf("; resolution errors: %v", []error{unresolved})
	}
	name := a.GetName()
	if object, ok := a.GetObject().(interface{ GetName() string }); ok && name == "" {
		name = object.GetName()
	}
	return apierrors.NewForbidden(a.GetResource().GroupResource(), name, fmt.Errorf("%s", text))
}

// ruleText writes a rule as {APIGroups:[""], Resources:["pods"], Verbs:["get"]}.
func ruleText(r *rbacv1.PolicyRule) string {
	var parts []string
	for _, part := range []struct {
		name   string
		values []string
	}{
		{"APIGroups", r.APIGroups}, {"Resources", r.Resources}, {"ResourceNames", r.ResourceNames}, {"NonResourceURLs", r.NonResourceURLs}, {"Verbs", r.Verbs},
	} {
		if len(part.values) == 0 {
			continue
		}
		quoted := make([]string, 0, len(part.values))
		for _, value := range part.values {
			quoted = append(quoted, fmt.Sprintf("%q", value))
		}
		parts = append(parts, part.name+":["+strings.Join(quoted, ", ")+"]")
	}
	return "{" + strings.Join(parts, ", ") + "}"
}
