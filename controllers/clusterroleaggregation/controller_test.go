package clusterroleaggregation

import (
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestGather(t *testing.T) {
	rule := func(resource string) rbacv1.PolicyRule {
		return rbacv1.PolicyRule{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{resource}}
	}
	role := func(name, label string, rules ...rbacv1.PolicyRule) *rbacv1.ClusterRole {
		return &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"to": label}}, Rules: rules}
	}
	selects := func(labels ...string) *rbacv1.ClusterRole {
		r := role("all", "view", rule("own"))
		r.AggregationRule = &rbacv1.AggregationRule{}
		for _, label := range labels {
			r.AggregationRule.ClusterRoleSelectors = append(r.AggregationRule.ClusterRoleSelectors, metav1.LabelSelector{MatchLabels: map[string]string{"to": label}})
		}
		return r
	}
	everything := []*rbacv1.ClusterRole{role("b", "view", rule("b"), rule("shared")), role("c", "edit", rule("c")), role("a", "view", rule("shared"), rule("a"))}
	for _, c := range []struct {
		role *rbacv1.ClusterRole
		want string
	}{
		{selects("view"), "shared a b "},
		{selects("edit", "view"), "c shared a b "},
		{selects("nothing"), ""},
		{selects(), ""},
	} {
		for range 2 { // whatever the order in which the lister gives them
			everything[0], everything[2] = everything[2], everything[0]
			rules, err := gather(c.role, append(everything, c.role)) // itself is not gathered
			got := ""
			for _, r := range rules {
				got += r.Resources[0] + " "
			}
			if err != nil || got != c.want {
				t.Errorf("gathered %q, want %q, %v", got, c.want, err)
			}
		}
	}
}
