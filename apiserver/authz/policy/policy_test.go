package policy

import (
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

func TestPolicyIsWellFormed(t *testing.T) {
	p := Default()
	roles, bindings := map[string]bool{}, map[string]bool{}
	for _, r := range p.ClusterRoles {
		if roles[r.Name] {
			t.Errorf("ClusterRole %s twice", r.Name)
		}
		roles[r.Name] = true
		if r.AggregationRule != nil && len(r.Rules) > 0 {
			t.Errorf("%s gathers and has rules of its own", r.Name)
		}
		for _, rule := range r.Rules {
			if len(rule.Verbs) == 0 || (len(rule.Resources) == 0) == (len(rule.NonResourceURLs) == 0) || len(rule.Resources) > 0 && len(rule.APIGroups) == 0 {
				t.Errorf("%s: incomplete rule %v", r.Name, rule)
			}
		}
	}
	for _, r := range p.Roles {
		roles[r.Namespace+"/"+r.Name] = true
	}
	for _, b := range p.ClusterRoleBindings {
		if bindings[b.Name] {
			t.Errorf("ClusterRoleBinding %s twice", b.Name)
		}
		bindings[b.Name] = true
		if !roles[b.RoleRef.Name] {
			t.Errorf("%s refers to %s, which is not there", b.Name, b.RoleRef.Name)
		}
		if len(b.Subjects) == 0 && b.Name != "system:node" {
			t.Errorf("%s is bound to nobody", b.Name)
		}
	}
	for _, b := range p.RoleBindings {
		if name := b.Namespace + "/" + b.RoleRef.Name; !roles[name] {
			t.Errorf("%s refers to %s, which is not there", b.Name, name)
		}
	}
	for _, name := range []string{"cluster-admin", "admin", "edit", "view", "system:node", "system:kube-controller-manager", "system:controller:job-controller", "system:controller:generic-garbage-collector"} {
		if !roles[name] {
			t.Errorf("no ClusterRole %s", name)
		}
	}
	if n := len(controllerRoles()); n != 41 { // upstream v1.37
		t.Errorf("%d controller roles", n)
	}
}

func writes(k *fake.Clientset) (out []string) {
	for _, a := range k.Actions() {
		if v := a.GetVerb(); v != "list" && v != "get" && v != "watch" {
			name := ""
			if named, ok := a.(interface{ GetName() string }); ok {
				name = named.GetName()
			}
			out = append(out, v+" "+a.GetResource().Resource+" "+name)
		}
	}
	k.ClearActions()
	return out
}

func TestReconcile(t *testing.T) {
	k, ctx, p := fake.NewClientset(), t.Context(), Default()
	if err := Reconcile(ctx, k, p); err != nil {
		t.Fatal(err)
	}
	if got, want := len(writes(k)), len(p.ClusterRoles)+len(p.ClusterRoleBindings)+len(p.Roles)+len(p.RoleBindings); got != want {
		t.Errorf("%d writes, want %d", got, want)
	}
	if err := Reconcile(ctx, k, p); err != nil {
		t.Fatal(err)
	}
	if got := writes(k); len(got) != 0 {
		t.Errorf("a cluster that is up to date was written: %v", got)
	}
	rbac := k.RbacV1()
	edit := func(name string, change func(*rbacv1.ClusterRole)) {
		r, err := rbac.ClusterRoles().Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		change(r)
		if _, err := rbac.ClusterRoles().Update(ctx, r, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	extra := rbacv1.PolicyRule{Verbs: []string{"get"}, APIGroups: []string{"my"}, Resources: []string{"things"}}
	edit("system:kube-scheduler", func(r *rbacv1.ClusterRole) { r.Rules = []rbacv1.PolicyRule{extra} })                             // loses rules, gains one
	edit("system:kube-dns", func(r *rbacv1.ClusterRole) { r.Rules = nil; r.Annotations[rbacv1.AutoUpdateAnnotationKey] = "false" }) // by choice
	edit("view", func(r *rbacv1.ClusterRole) { r.Rules = []rbacv1.PolicyRule{extra} })                                              // the aggregation's business
	b, err := rbac.ClusterRoleBindings().Get(ctx, "system:discovery", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	b.Subjects = []rbacv1.Subject{toUser("jane")}
	if _, err := rbac.ClusterRoleBindings().Update(ctx, b, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	b, err = rbac.ClusterRoleBindings().Get(ctx, "cluster-admin", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	b.RoleRef.Name = "view"
	if _, err := rbac.ClusterRoleBindings().Update(ctx, b, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	k.ClearActions()
	if err := Reconcile(ctx, k, p); err != nil {
		t.Fatal(err)
	}
	got := strings.Join(writes(k), ";")
	for _, want := range []string{"update clusterroles", "update clusterrolebindings", "delete clusterrolebindings cluster-admin", "create clusterrolebindings"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in %q", want, got)
		}
	}
	if n := strings.Count(got, ";") + 1; n != 4 {
		t.Errorf("%d writes: %s", n, got)
	}
	r, _ := rbac.ClusterRoles().Get(ctx, "system:kube-scheduler", metav1.GetOptions{})
	if len(r.Rules) < 20 || r.Rules[0].APIGroups[0] != "my" {
		t.Errorf("rules %v", r.Rules)
	}
	if r, _ := rbac.ClusterRoles().Get(ctx, "system:kube-dns", metav1.GetOptions{}); len(r.Rules) != 0 {
		t.Error("a protected role was changed")
	}
	b, _ = rbac.ClusterRoleBindings().Get(ctx, "system:discovery", metav1.GetOptions{})
	if len(b.Subjects) != 2 {
		t.Errorf("subjects %v", b.Subjects)
	}
	if b, _ = rbac.ClusterRoleBindings().Get(ctx, "cluster-admin", metav1.GetOptions{}); b.RoleRef.Name != "cluster-admin" {
		t.Errorf("role %v", b.RoleRef)
	}
}
