// Package policy holds the default roles and bindings of a cluster: upstream Kubernetes', name by name and rule by
// rule, and the few that Wherry's own parts need. Reconcile brings a cluster up to them at start. The wiring and the
// API server import it.
package policy

import (
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
)

// Policy is a set of RBAC objects. The caller of Default owns them.
type Policy struct {
	ClusterRoles        []rbacv1.ClusterRole
	ClusterRoleBindings []rbacv1.ClusterRoleBinding
	Roles               []rbacv1.Role
	RoleBindings        []rbacv1.RoleBinding
}

// Default returns the default policy.
func Default() *Policy {
	p := &Policy{}
	p.addClusterRoles("", clusterRoles())
	p.addClusterRoles(controllerPrefix, controllerRoles())
	p.addClusterRoles("", wherryClusterRoles())
	p.addClusterRoleBindings(clusterRoleBindings())
	for _, role := range controllerRoles() {
		p.addClusterRoleBindings([]binding{{name: controllerPrefix + role.name, subjects: subjects{account("kube-system", role.name)}}})
	}
	p.addClusterRoleBindings(wherryClusterRoleBindings())
	p.addRoles(namespaceRoles())
	p.addRoles(wherryNamespaceRoles())
	p.addRoleBindings(namespaceRoleBindings())
	p.addRoleBindings(wherryNamespaceRoleBindings())
	return p
}

// ControllerUser returns the identity under which a built-in controller writes: the service account kube-system/<name>, to
// which the role system:controller:<name> (or wherry:controller:<name>) is bound.
func ControllerUser(name string) user.Info {
	info := serviceaccount.UserInfo("kube-system", name, "").(*user.DefaultInfo)
	info.Groups = append(info.Groups, user.AllAuthenticated)
	return info
}

const controllerPrefix = "system:controller:"

// Sets of verbs and groups that recur.
const (
	read   = "get list watch"
	change = "create delete deletecollection patch update"
	all    = "create delete deletecollection get list patch update watch"
	write  = "create patch update"
	modify = "patch update"

	core       = "core" // the group ""
	apps       = "apps"
	coreEvents = "core events.k8s.io"
)

// role is a role in short: words are separated by blanks.
type role struct {
	namespace string
	name      string
	partOf    string // its rules are gathered by the role that gathers this
	gathers   string // aggregates the rules of roles that are part of this
	rules     rules
}

type rules []rbacv1.PolicyRule

// on allows verbs on resources of groups, if names are given of these names alone.
func on(verbs, groups, resources string, names ...string) rbacv1.PolicyRule {
	g := strings.Fields(groups)
	for i := range g {
		if g[i] == core {
			g[i] = ""
		}
	}
	return rbacv1.PolicyRule{Verbs: strings.Fields(verbs), APIGroups: g, Resources: strings.Fields(resources), ResourceNames: names}
}

// at allows verbs on paths that are no resources.
func at(verbs, paths string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: strings.Fields(verbs), NonResourceURLs: strings.Fields(paths)}
}

// binding grants a role; role is the binding's own name when empty.
type binding struct {
	namespace string
	name      string
	role      string
	kind      string // of the role; default ClusterRole for cluster bindings, Role for others
	subjects  subjects
}

type subjects []rbacv1.Subject

func toUser(name string) rbacv1.Subject {
	return rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: name}
}

func toGroup(name string) rbacv1.Subject {
	return rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: name}
}

func account(namespace, name string) rbacv1.Subject {
	return rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: name}
}

const aggregateTo = "rbac.authorization.k8s.io/aggregate-to-"

func objectMeta(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace:   namespace,
		Name:        name,
		Labels:      map[string]string{"kubernetes.io/bootstrapping": "rbac-defaults"},
		Annotations: map[string]string{rbacv1.AutoUpdateAnnotationKey: "true"},
	}
}

func (p *Policy) addClusterRoles(prefix string, roles []role) {
	for _, r := range roles {
		out := rbacv1.ClusterRole{ObjectMeta: objectMeta("", prefix+r.name), Rules: slices.Clone([]rbacv1.PolicyRule(r.rules))}
		if r.partOf != "" {
			out.Labels[aggregateTo+r.partOf] = "true"
		}
		if r.gathers != "" {
			out.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{
				{MatchLabels: map[string]string{aggregateTo + r.gathers: "true"}}}}
		}
		p.ClusterRoles = append(p.ClusterRoles, out)
	}
}

func (p *Policy) addRoles(roles []role) {
	for _, r := range roles {
		p.Roles = append(p.Roles, rbacv1.Role{ObjectMeta: objectMeta(r.namespace, r.name), Rules: slices.Clone([]rbacv1.PolicyRule(r.rules))})
	}
}

func (b binding) ref(kind string) rbacv1.RoleRef {
	ref := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: b.role}
	if b.kind != "" {
		ref.Kind = b.kind
	}
	if ref.Name == "" {
		ref.Name = b.name
	}
	return ref
}

func (p *Policy) addClusterRoleBindings(bindings []binding) {
	for _, b := range bindings {
		p.ClusterRoleBindings = append(p.ClusterRoleBindings, rbacv1.ClusterRoleBinding{
			ObjectMeta: objectMeta("", b.name), RoleRef: b.ref("ClusterRole"), Subjects: b.subjects})
	}
}

func (p *Policy) addRoleBindings(bindings []binding) {
	for _, b := range bindings {
		p.RoleBindings = append(p.RoleBindings, rbacv1.RoleBinding{
			ObjectMeta: objectMeta(b.namespace, b.name), RoleRef: b.ref("Role"), Subjects: b.subjects})
	}
}
