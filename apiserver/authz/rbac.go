package authz

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/tools/cache"

	"wherry.dev/wherry/client"
)

// rbacIndex holds roles by name and bindings by subject, so that a decision looks only at what is bound to the user and
// the user's groups. Safe for concurrent use.
type rbacIndex struct {
	mu sync.RWMutex // guards all below
	// roles by reference; namespace is empty for ClusterRoles.
	roles map[roleKey][]rbacv1.PolicyRule
	// cluster and namespaced bindings by subject.
	cluster    map[subject][]*grant
	namespaced map[string]map[subject][]*grant
	// subjects of each known binding, so that it can be taken out again. The namespace is empty for ClusterRoleBindings.
	bindings map[bindingKey][]subject
}

type (
	roleKey    struct{ namespace, name string }
	bindingKey struct{ namespace, name string }
	// subject is a user (service accounts by their user name) or a group.
	subject struct {
		group bool
		name  string
	}
	// grant is one binding as one of its subjects sees it. Immutable.
	grant struct {
		binding bindingKey
		role    roleKey
		missing string // what to say when the role is not there
		reason  string // what to say when it allows
	}
)

func newRBACIndex() *rbacIndex {
	return &rbacIndex{
		roles:      map[roleKey][]rbacv1.PolicyRule{},
		cluster:    map[subject][]*grant{},
		namespaced: map[string]map[subject][]*grant{},
		bindings:   map[bindingKey][]subject{},
	}
}

// follow registers with the informers and returns what to wait for.
func (x *rbacIndex) follow(set *client.Set) ([]cache.DoneChecker, error) {
	rbac := set.Informers.Rbac().V1()
	var synced []cache.DoneChecker
	for _, one := range []struct {
		informer cache.SharedIndexInformer
		changed  func(any)
		deleted  func(any)
	}{
		{rbac.ClusterRoles().Informer(),
			func(o any) { r := o.(*rbacv1.ClusterRole); x.setRole(roleKey{"", r.Name}, r.Rules) },
			func(o any) { x.dropRole(roleKey{"", o.(*rbacv1.ClusterRole).Name}) }},
		{rbac.Roles().Informer(),
			func(o any) { r := o.(*rbacv1.Role); x.setRole(roleKey{r.Namespace, r.Name}, r.Rules) },
			func(o any) { r := o.(*rbacv1.Role); x.dropRole(roleKey{r.Namespace, r.Name}) }},
		{rbac.ClusterRoleBindings().Informer(),
			func(o any) { b := o.(*rbacv1.ClusterRoleBinding); x.setBinding("", b.Name, b.RoleRef, b.Subjects) },
			func(o any) { x.dropBinding(bindingKey{"", o.(*rbacv1.ClusterRoleBinding).Name}) }},
		{rbac.RoleBindings().Informer(),
			func(o any) { b := o.(*rbacv1.RoleBinding); x.setBinding(b.Namespace, b.Name, b.RoleRef, b.Subjects) },
			func(o any) { b := o.(*rbacv1.RoleBinding); x.dropBinding(bindingKey{b.Namespace, b.Name}) }},
	} {
		registration, err := one.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    one.changed,
			UpdateFunc: func(_, o any) { one.changed(o) },
			DeleteFunc: func(o any) {
				if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
					o = gone.Obj
				}
				one.deleted(o)
			},
		})
		if err != nil {
			return nil, fmt.Errorf("follow roles and bindings: %w", err)
		}
		synced = append(synced, registration.HasSyncedChecker())
	}
	return synced, nil
}

func (x *rbacIndex) setRole(key roleKey, rules []rbacv1.PolicyRule) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.roles[key] = rules
}

func (x *rbacIndex) dropRole(key roleKey) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.roles, key)
}

func (x *rbacIndex) setBinding(namespace, name string, ref rbacv1.RoleRef, subjects []rbacv1.Subject) {
	key := bindingKey{namespace, name}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.dropLocked(key)
	role := roleKey{name: ref.Name}
	switch {
	case ref.Kind == "ClusterRole":
	case ref.Kind == "Role" && namespace != "":
		role.namespace = namespace
	default:
		return // validation does not let such a reference in
	}
	to := x.cluster
	if namespace != "" {
		if to = x.namespaced[namespace]; to == nil {
			to = map[subject][]*grant{}
			x.namespaced[namespace] = to
		}
	}
	var keys []subject
	for _, s := range subjects {
		k, described, ok := describe(s, namespace)
		if !ok || slices.Contains(keys, k) {
			continue
		}
		keys = append(keys, k)
		kind, label := "ClusterRoleBinding", name
		if namespace != "" {
			kind, label = "RoleBinding", name+"/"+namespace
		}
		to[k] = append(to[k], &grant{
			binding: key,
			role:    role,
			missing: fmt.Sprintf("%s.rbac.authorization.k8s.io %q not found", strings.ToLower(ref.Kind), ref.Name),
			reason:  fmt.Sprintf("RBAC: allowed by %s %q of %s %q to %s", kind, label, ref.Kind, ref.Name, described),
		})
	}
	x.bindings[key] = keys
}

// describe returns the index key of a subject, and the words for it in a reason.
func describe(s rbacv1.Subject, namespace string) (subject, string, bool) {
	switch s.Kind {
	case rbacv1.UserKind:
		return subject{name: s.Name}, fmt.Sprintf("User %q", s.Name), true
	case rbacv1.GroupKind:
		return subject{group: true, name: s.Name}, fmt.Sprintf("Group %q", s.Name), true
	case rbacv1.ServiceAccountKind:
		if s.Namespace != "" {
			namespace = s.Namespace
		}
		if namespace == "" {
			return subject{}, "", false
		}
		return subject{name: serviceaccount.MakeUsername(namespace, s.Name)}, fmt.Sprintf("ServiceAccount %q", s.Name+"/"+namespace), true
	}
	return subject{}, "", false
}

func (x *rbacIndex) dropBinding(key bindingKey) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.dropLocked(key)
}

// dropLocked forgets a binding; callers hold mu.
func (x *rbacIndex) dropLocked(key bindingKey) {
	from := x.cluster
	if key.namespace != "" {
		from = x.namespaced[key.namespace]
	}
	for _, s := range x.bindings[key] {
		if left := slices.DeleteFunc(from[s], func(g *grant) bool { return g.binding == key }); len(left) > 0 {
			from[s] = left
		} else {
			delete(from, s)
		}
	}
	if key.namespace != "" && len(from) == 0 {
		delete(x.namespaced, key.namespace)
	}
	delete(x.bindings, key)
}

// each calls visit for every grant that counts for who in namespace (empty: cluster-wide ones only), until it returns
// false. Callers hold mu for reading.
func (x *rbacIndex) each(who user.Info, namespace string, visit func(*grant) bool) {
	if !eachOf(x.cluster, who, visit) || namespace == "" {
		return
	}
	eachOf(x.namespaced[namespace], who, visit)
}

func eachOf(grants map[subject][]*grant, who user.Info, visit func(*grant) bool) bool {
	if len(grants) == 0 {
		return true
	}
	for _, g := range grants[subject{name: who.GetName()}] {
		if !visit(g) {
			return false
		}
	}
	for _, group := range who.GetGroups() {
		for _, g := range grants[subject{group: true, name: group}] {
			if !visit(g) {
				return false
			}
		}
	}
	return true
}

// authorize decides by roles and bindings alone. err says which bound roles are missing, when nothing else allowed.
func (x *rbacIndex) authorize(a authorizer.Attributes) (allowed bool, reason string, err error) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	var missing []string
	namespace := a.GetNamespace()
	resource, subresource := a.GetResource(), a.GetSubresource()
	combined := resource
	if subresource != "" && a.IsResourceRequest() {
		combined = resource + "/" + subresource
	}
	x.each(a.GetUser(), namespace, func(g *grant) bool {
		rules, ok := x.roles[g.role]
		if !ok {
			missing = append(missing, g.missing)
			return true
		}
		for i := range rules {
			if ruleAllows(&rules[i], a, combined, subresource) {
				allowed, reason = true, g.reason
				return false
			}
		}
		return true
	})
	if !allowed && len(missing) > 0 {
		slices.Sort(missing)
		err = fmt.Errorf("%s", joinErrors(slices.Compact(missing)))
	}
	return allowed, reason, err
}

// joinErrors writes a list as upstream's aggregate error does.
func joinErrors(texts []string) string {
	if len(texts) == 1 {
		return texts[0]
	}
	return "[" + strings.Join(texts, ", ") + "]"
}

// ruleAllows says whether one rule allows the request. combined is the resource with its subresource.
func ruleAllows(rule *rbacv1.PolicyRule, a authorizer.Attributes, combined, subresource string) bool {
	if !contains(rule.Verbs, a.GetVerb(), rbacv1.VerbAll) {
		return false
	}
	if !a.IsResourceRequest() {
		return pathMatches(rule.NonResourceURLs, a.GetPath())
	}
	return contains(rule.APIGroups, a.GetAPIGroup(), rbacv1.APIGroupAll) &&
		resourceMatches(rule.Resources, combined, subresource) &&
		(len(rule.ResourceNames) == 0 || slices.Contains(rule.ResourceNames, a.GetName()))
}

func contains(list []string, value, wildcard string) bool {
	for _, one := range list {
		if one == value || one == wildcard {
			return true
		}
	}
	return false
}

// resourceMatches knows "*" (everything), "pods", "pods/log" and "*/scale" (that subresource of everything).
func resourceMatches(list []string, combined, subresource string) bool {
	for _, one := range list {
		if one == combined || one == rbacv1.ResourceAll {
			return true
		}
		if subresource != "" && len(one) == len(subresource)+2 && one[0] == '*' && one[1] == '/' && one[2:] == subresource {
			return true
		}
	}
	return false
}

// pathMatches knows exact paths and prefixes that end in "*".
func pathMatches(list []string, path string) bool {
	for _, one := range list {
		if one == rbacv1.NonResourceAll || one == path {
			return true
		}
		if prefix, ok := strings.CutSuffix(one, "*"); ok && strings.HasPrefix(path, strings.TrimRight(prefix, "*")) {
			return true
		}
	}
	return false
}
