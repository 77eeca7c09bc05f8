package authz

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"pgregory.net/rapid"

	"wherry.dev/wherry/apiserver/authz/policy"
	"wherry.dev/wherry/client"
)

// loaded returns an index that holds a policy.
func loaded(p *policy.Policy) *rbacIndex {
	x := newRBACIndex()
	for _, r := range p.ClusterRoles {
		x.setRole(roleKey{"", r.Name}, r.Rules)
	}
	for _, r := range p.Roles {
		x.setRole(roleKey{r.Namespace, r.Name}, r.Rules)
	}
	for _, b := range p.ClusterRoleBindings {
		x.setBinding("", b.Name, b.RoleRef, b.Subjects)
	}
	for _, b := range p.RoleBindings {
		x.setBinding(b.Namespace, b.Name, b.RoleRef, b.Subjects)
	}
	return x
}

// asks parses "user,group,group verb [group/]resource[/sub][:name] [namespace]" or "user verb /path".
func asks(t testing.TB, text string) authorizer.AttributesRecord {
	t.Helper()
	words := strings.Fields(text)
	names := strings.Split(words[0], ",")
	a := authorizer.AttributesRecord{User: &user.DefaultInfo{Name: names[0], Groups: names[1:]}, Verb: words[1]}
	what := words[2]
	if strings.HasPrefix(what, "/") {
		a.Path = what
		return a
	}
	a.ResourceRequest, a.APIVersion = true, "v1"
	what, a.Name, _ = strings.Cut(what, ":")
	if group, rest, ok := strings.Cut(what, "|"); ok {
		a.APIGroup, what = group, rest
	}
	a.Resource, a.Subresource, _ = strings.Cut(what, "/")
	if len(words) > 3 {
		a.Namespace = words[3]
	}
	return a
}

func TestDefaultPolicyDecisions(t *testing.T) {
	x := loaded(policy.Default())
	x.setBinding("team", "devs", rbacv1.RoleRef{Kind: "ClusterRole", Name: "system:aggregate-to-edit"}, []rbacv1.Subject{{Kind: "Group", Name: "devs"}})
	x.setBinding("team", "robot", rbacv1.RoleRef{Kind: "ClusterRole", Name: "system:aggregate-to-view"}, []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: "ops", Name: "robot"}})
	x.setBinding("team", "gone", rbacv1.RoleRef{Kind: "Role", Name: "gone"}, []rbacv1.Subject{{Kind: "User", Name: "ann"}})
	for text, want := range map[string]string{
		// An empty reason means refused.
		"system:kube-scheduler create pods/binding:p ns":                                                 `RBAC: allowed by ClusterRoleBinding "system:kube-scheduler" of ClusterRole "system:kube-scheduler" to User "system:kube-scheduler"`,
		"system:kube-scheduler create pods ns":                                                           "",
		"system:kube-scheduler get secrets:s ns":                                                         "",
		"system:kube-scheduler get coordination.k8s.io|leases:kube-scheduler ns":                         `RBAC: allowed by ClusterRoleBinding "system:kube-scheduler" of ClusterRole "system:kube-scheduler" to User "system:kube-scheduler"`,
		"system:kube-scheduler update coordination.k8s.io|leases:other ns":                               "",
		"system:kube-scheduler update coordination.k8s.io|leases:x kube-system":                          `RBAC: allowed by RoleBinding "system::leader-locking-kube-scheduler/kube-system" of Role "system::leader-locking-kube-scheduler" to User "system:kube-scheduler"`,
		"jane,devs create pods team":                                                                     `RBAC: allowed by RoleBinding "devs/team" of ClusterRole "system:aggregate-to-edit" to Group "devs"`,
		"jane,devs create pods other":                                                                    "",
		"jane,devs create pods":                                                                          "",
		"jane,devs get /metrics":                                                                         "",
		"jane,system:authenticated get /apis/apps/v1":                                                    `RBAC: allowed by ClusterRoleBinding "system:discovery" of ClusterRole "system:discovery" to Group "system:authenticated"`,
		"jane,system:authenticated get /apisx":                                                           "",
		"jane,system:authenticated post /apis":                                                           "",
		"system:anonymous,system:unauthenticated get /healthz":                                           `RBAC: allowed by ClusterRoleBinding "system:public-info-viewer" of ClusterRole "system:public-info-viewer" to Group "system:unauthenticated"`,
		"system:anonymous,system:unauthenticated get /api":                                               "",
		"system:anonymous get configmaps:cluster-info kube-public":                                       `RBAC: allowed by RoleBinding "wherry:cluster-info/kube-public" of Role "wherry:cluster-info" to User "system:anonymous"`,
		"system:anonymous get configmaps:other kube-public":                                              "",
		"system:anonymous list configmaps kube-public":                                                   "",
		"system:serviceaccount:ops:robot list pods team":                                                 `RBAC: allowed by RoleBinding "robot/team" of ClusterRole "system:aggregate-to-view" to ServiceAccount "robot/ops"`,
		"system:serviceaccount:ops:robot list secrets team":                                              "",
		"system:serviceaccount:team:robot list pods team":                                                "",
		"ann list pods team":                                                                             "",
		"system:serviceaccount:kube-system:horizontal-pod-autoscaler update apps|deployments/scale:d ns": `RBAC: allowed by ClusterRoleBinding "system:controller:horizontal-pod-autoscaler" of ClusterRole "system:controller:horizontal-pod-autoscaler" to ServiceAccount "horizontal-pod-autoscaler/kube-system"`,
		"system:serviceaccount:kube-system:horizontal-pod-autoscaler update apps|deployments:d ns":       "",
		"system:serviceaccount:kube-system:drain-controller patch pods/status:p ns":                      `RBAC: allowed by ClusterRoleBinding "wherry:controller:drain-controller" of ClusterRole "wherry:controller:drain-controller" to ServiceAccount "drain-controller/kube-system"`,
		"system:bootstrap:abcdef,system:bootstrappers:wherry:default-node-token create certificates.k8s.io|certificatesigningrequests/nodeclient": `RBAC: allowed by ClusterRoleBinding "wherry:node-autoapprove-bootstrap" of ClusterRole "system:certificates.k8s.io:certificatesigningrequests:nodeclient" to Group "system:bootstrappers:wherry:default-node-token"`,
		"system:bootstrap:abcdef,system:bootstrappers create certificates.k8s.io|certificatesigningrequests/nodeclient":                           "",
		"system:kube-proxy patch coordination.k8s.io|leases:endpoints-n1 wherry-system":                                                           `RBAC: allowed by RoleBinding "wherry:acknowledge/wherry-system" of Role "wherry:acknowledge" to User "system:kube-proxy"`,
		"system:kube-proxy patch coordination.k8s.io|leases:endpoints-n1 kube-node-lease":                                                         "",
		"kube-apiserver-kubelet-client get nodes/proxy:n1":                                                                                        `RBAC: allowed by ClusterRoleBinding "wherry:apiserver-kubelet-client" of ClusterRole "system:kubelet-api-admin" to User "kube-apiserver-kubelet-client"`,
		"kube-apiserver-kubelet-client get secrets:s ns":                                                                                          "",
	} {
		allowed, reason, _ := x.authorize(asks(t, text))
		if allowed != (want != "") || reason != want {
			t.Errorf("%s:\n got %q\nwant %q", text, reason, want)
		}
	}
	if _, _, err := x.authorize(asks(t, "ann list pods team")); err == nil || err.Error() != `role.rbac.authorization.k8s.io "gone" not found` {
		t.Errorf("a missing role is not told: %v", err)
	}
}

// naive decides by the documented rules with no index at all.
func naive(p *policy.Policy, a authorizer.AttributesRecord) bool {
	rules := func(ref rbacv1.RoleRef, namespace string) []rbacv1.PolicyRule {
		if ref.Kind == "ClusterRole" {
			for _, r := range p.ClusterRoles {
				if r.Name == ref.Name {
					return r.Rules
				}
			}
			return nil
		}
		for _, r := range p.Roles {
			if r.Name == ref.Name && r.Namespace == namespace {
				return r.Rules
			}
		}
		return nil
	}
	applies := func(subjects []rbacv1.Subject, namespace string) bool {
		for _, s := range subjects {
			switch s.Kind {
			case "User":
				if s.Name == a.User.GetName() {
					return true
				}
			case "Group":
				if slices.Contains(a.User.GetGroups(), s.Name) {
					return true
				}
			case "ServiceAccount":
				ns := s.Namespace
				if ns == "" {
					ns = namespace
				}
				if ns != "" && a.User.GetName() == "system:serviceaccount:"+ns+":"+s.Name {
					return true
				}
			}
		}
		return false
	}
	in := func(list []string, values ...string) bool {
		return slices.ContainsFunc(values, func(v string) bool { return slices.Contains(list, v) })
	}
	matches := func(rules []rbacv1.PolicyRule) bool {
		for _, r := range rules {
			if !in(r.Verbs, a.Verb, "*") {
				continue
			}
			if !a.ResourceRequest {
				for _, u := range r.NonResourceURLs {
					if u == a.Path || strings.HasSuffix(u, "*") && strings.HasPrefix(a.Path, strings.TrimSuffix(u, "*")) {
						return true
					}
				}
				continue
			}
			resource := a.Resource
			wanted := []string{resource, "*"}
			if a.Subresource != "" {
				wanted = []string{resource + "/" + a.Subresource, "*/" + a.Subresource, "*"}
			}
			if in(r.APIGroups, a.APIGroup, "*") && in(r.Resources, wanted...) && (len(r.ResourceNames) == 0 || in(r.ResourceNames, a.Name)) {
				return true
			}
		}
		return false
	}
	for _, b := range p.ClusterRoleBindings {
		if applies(b.Subjects, "") && matches(rules(b.RoleRef, "")) {
			return true
		}
	}
	for _, b := range p.RoleBindings {
		if a.Namespace != "" && b.Namespace == a.Namespace && applies(b.Subjects, b.Namespace) && matches(rules(b.RoleRef, b.Namespace)) {
			return true
		}
	}
	return false
}

// Whatever is added, replaced and removed in whatever order, the index decides as reading everything would.
func TestIndexAgreesWithNaiveEvaluation(t *testing.T) {
	some := func(t *rapid.T, label string, from ...string) []string {
		return rapid.SliceOfNDistinct(rapid.SampledFrom(from), 0, 3, rapid.ID[string]).Draw(t, label)
	}
	one := func(t *rapid.T, label string, from ...string) string { return rapid.SampledFrom(from).Draw(t, label) }
	rapid.Check(t, func(t *rapid.T) {
		p, x := &policy.Policy{}, newRBACIndex()
		rule := func() rbacv1.PolicyRule {
			if rapid.Bool().Draw(t, "path") {
				return rbacv1.PolicyRule{Verbs: some(t, "verbs", "get", "post", "*"), NonResourceURLs: some(t, "urls", "/api", "/api/*", "*", "/healthz")}
			}
			return rbacv1.PolicyRule{Verbs: some(t, "verbs", "get", "list", "create", "*"), APIGroups: some(t, "groups", "", "apps", "*"),
				Resources: some(t, "resources", "pods", "pods/log", "*/log", "*/scale", "*", "deployments"), ResourceNames: some(t, "names", "a", "b")}
		}
		rules := func() []rbacv1.PolicyRule {
			return []rbacv1.PolicyRule{rule(), rule()}[:rapid.IntRange(0, 2).Draw(t, "n")]
		}
		subjects := func() []rbacv1.Subject {
			var out []rbacv1.Subject
			for range rapid.IntRange(0, 3).Draw(t, "subjects") {
				out = append(out, rbacv1.Subject{Kind: one(t, "kind", "User", "Group", "ServiceAccount"), Name: one(t, "name", "x", "y", "system:serviceaccount:n1:x"), Namespace: one(t, "namespace", "n1", "n2", "")})
			}
			for i := range out {
				if out[i].Kind != "ServiceAccount" {
					out[i].Namespace = ""
				}
			}
			return out
		}
		ref := func(kinds ...string) rbacv1.RoleRef {
			return rbacv1.RoleRef{Kind: one(t, "refkind", kinds...), Name: one(t, "ref", "r1", "r2")}
		}
		for range rapid.IntRange(0, 25).Draw(t, "steps") {
			name, namespace := one(t, "object", "r1", "r2"), one(t, "in", "n1", "n2")
			remove := rapid.IntRange(0, 3).Draw(t, "remove") == 0
			switch rapid.IntRange(0, 3).Draw(t, "what") {
			case 0:
				p.ClusterRoles = slices.DeleteFunc(p.ClusterRoles, func(r rbacv1.ClusterRole) bool { return r.Name == name })
				if x.dropRole(roleKey{"", name}); !remove {
					r := rules()
					p.ClusterRoles = append(p.ClusterRoles, rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: r})
					x.setRole(roleKey{"", name}, r)
				}
			case 1:
				p.Roles = slices.DeleteFunc(p.Roles, func(r rbacv1.Role) bool { return r.Name == name && r.Namespace == namespace })
				if x.dropRole(roleKey{namespace, name}); !remove {
					r := rules()
					p.Roles = append(p.Roles, rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Rules: r})
					x.setRole(roleKey{namespace, name}, r)
				}
			case 2:
				p.ClusterRoleBindings = slices.DeleteFunc(p.ClusterRoleBindings, func(b rbacv1.ClusterRoleBinding) bool { return b.Name == name })
				if remove {
					x.dropBinding(bindingKey{"", name})
					break
				}
				b := rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: name}, RoleRef: ref("ClusterRole"), Subjects: subjects()}
				p.ClusterRoleBindings = append(p.ClusterRoleBindings, b)
				x.setBinding("", name, b.RoleRef, b.Subjects) // replaces
			case 3:
				p.RoleBindings = slices.DeleteFunc(p.RoleBindings, func(b rbacv1.RoleBinding) bool { return b.Name == name && b.Namespace == namespace })
				if remove {
					x.dropBinding(bindingKey{namespace, name})
					break
				}
				b := rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, RoleRef: ref("ClusterRole", "Role"), Subjects: subjects()}
				p.RoleBindings = append(p.RoleBindings, b)
				x.setBinding(namespace, name, b.RoleRef, b.Subjects)
			}
		}
		for range 10 {
			a := authorizer.AttributesRecord{User: &user.DefaultInfo{Name: one(t, "user", "x", "y", "system:serviceaccount:n1:x", "system:serviceaccount:n2:x"), Groups: some(t, "usergroups", "x", "y", "z")},
				Verb: one(t, "verb", "get", "list", "create", "post")}
			if a.ResourceRequest = rapid.Bool().Draw(t, "resource"); a.ResourceRequest {
				a.APIGroup, a.Resource, a.Subresource = one(t, "group", "", "apps", "batch"), one(t, "res", "pods", "deployments"), one(t, "sub", "", "log", "scale", "*")
				a.Name, a.Namespace = one(t, "objname", "", "a", "c"), one(t, "ns", "", "n1", "n2", "n3")
			} else {
				a.Path = one(t, "url", "/api", "/api/v1", "/healthz", "/", "")
			}
			got, _, _ := x.authorize(a)
			if want := naive(p, a); got != want {
				t.Fatalf("index says %v, reading everything says %v for %+v of %+v\n%+v", got, want, a, a.User, p)
			}
		}
	})
}

func fakeSet() (*client.Set, *fake.Clientset) {
	k := fake.NewClientset()
	return &client.Set{Kubernetes: k, Informers: informers.NewSharedInformerFactory(k, 0)}, k
}

// Before roles are read masters may do everything, others wait; afterwards changes count.
func TestAuthorizerFollowsTheCluster(t *testing.T) {
	set, k := fakeSet()
	a := New(Config{})
	master, jane := asks(t, "root,system:masters delete nodes:n"), asks(t, "jane list pods ns")
	if d, _, err := a.Authorize(t.Context(), master); d != authorizer.DecisionAllow || err != nil {
		t.Fatal(d, err)
	}
	done, cancel := context.WithCancel(t.Context())
	cancel()
	if d, _, err := a.Authorize(done, jane); d != authorizer.DecisionNoOpinion || err == nil {
		t.Fatal("decided before roles were read: ", d, err)
	}
	if err := a.Initialize(t.Context(), set); err != nil {
		t.Fatal(err)
	}
	answer := make(chan authorizer.Decision, 1)
	go func() { d, _, _ := a.Authorize(t.Context(), jane); answer <- d }()
	set.Informers.Start(t.Context().Done())
	if d := <-answer; d != authorizer.DecisionNoOpinion {
		t.Fatal(d)
	}
	rbac := k.RbacV1()
	if _, err := rbac.ClusterRoles().Create(t.Context(), &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "r"}, Rules: []rbacv1.PolicyRule{{Verbs: []string{"list"}, APIGroups: []string{""}, Resources: []string{"pods"}}}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := rbac.RoleBindings("ns").Create(t.Context(), &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "b"}, RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "r"},
		Subjects: []rbacv1.Subject{{Kind: "User", Name: "jane"}}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	until(t, func() bool { d, _, _ := a.Authorize(t.Context(), jane); return d == authorizer.DecisionAllow })
	resources, paths, incomplete, err := a.RulesFor(t.Context(), jane.User, "ns")
	if len(resources) != 1 || len(paths) != 0 || incomplete || err != nil {
		t.Errorf("rules %v %v %v %v", resources, paths, incomplete, err)
	}
	if err := rbac.RoleBindings("ns").Delete(t.Context(), "b", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	until(t, func() bool { d, _, _ := a.Authorize(t.Context(), jane); return d == authorizer.DecisionNoOpinion })
}

// until waits for a condition: handlers of one informer run side by side, so no event of ours tells that the index's has run.
func until(t *testing.T, condition func() bool) {
	t.Helper()
	if err := wait.PollUntilContextTimeout(t.Context(), time.Millisecond, 10*time.Second, true, func(context.Context) (bool, error) { return condition(), nil }); err != nil {
		t.Fatal("never came true")
	}
}

func TestUncovered(t *testing.T) {
	held := []rbacv1.PolicyRule{{Verbs: []string{"get", "list"}, APIGroups: []string{""}, Resources: []string{"pods"}}}
	wanted := []rbacv1.PolicyRule{{Verbs: []string{"get", "create", "delete"}, APIGroups: []string{""}, Resources: []string{"pods"}}}
	missing := Uncovered(held, wanted)
	if len(missing) != 1 || !slices.Equal(missing[0].Verbs, []string{"create", "delete"}) {
		t.Errorf("missing %v", missing)
	}
	if missing := Uncovered(wanted, wanted); len(missing) != 0 {
		t.Errorf("missing %v", missing)
	}
}

func BenchmarkAuthorize(b *testing.B) {
	p := policy.Default()
	x := loaded(p)
	for i := range 10_000 { // a cluster with many teams
		name := fmt.Sprintf("team-%d", i)
		x.setBinding(name, "edit", rbacv1.RoleRef{Kind: "ClusterRole", Name: "system:aggregate-to-edit"}, []rbacv1.Subject{{Kind: "Group", Name: name}})
	}
	for name, text := range map[string]string{
		"scheduler-bind": "system:kube-scheduler,system:authenticated create pods/binding:p ns",
		"team-member":    "jane,team-77,system:authenticated create apps|deployments team-77",
		"refused":        "jane,team-77,system:authenticated create apps|deployments team-78",
	} {
		a := asks(b, text)
		var attributes authorizer.Attributes = a
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				x.authorize(attributes)
			}
		})
	}
}
