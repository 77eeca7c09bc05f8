package apiserver

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// granted allows what is in the list, written as "verb group/resource[/sub] [namespace/]name".
func granted(list ...string) authorizer.UnconditionalAuthorizer {
	return authorizer.AuthorizerFunc(func(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
		resource := a.GetAPIGroup() + "/" + a.GetResource()
		if a.GetSubresource() != "" {
			resource += "/" + a.GetSubresource()
		}
		name := a.GetName()
		if a.GetNamespace() != "" {
			name = a.GetNamespace() + "/" + name
		}
		if slices.Contains(list, strings.TrimSpace(fmt.Sprintf("%s %s %s", a.GetVerb(), resource, name))) {
			return authorizer.DecisionAllow, "", nil
		}
		return authorizer.DecisionNoOpinion, "", nil
	})
}

// Who may act as whom, in which way (KEP-5284), and as what they are then served. The request lists the pods of ns.
func TestImpersonation(t *testing.T) {
	on := func(mode string) string { return "impersonate-on:" + mode + ":list /pods ns/" }
	agent := &user.DefaultInfo{Name: "system:serviceaccount:kube-system:agent", Extra: map[string][]string{"authentication.kubernetes.io/node-name": {"n1"}}}
	jane := &user.DefaultInfo{Name: "jane"}
	const authn = "authentication.k8s.io"
	for _, c := range []struct {
		name       string
		real       user.Info
		headers    map[string][]string
		granted    []string
		want       string // "name groups extra constraint", or part of the refusal
		wantRefuse bool
	}{
		{"nobody", jane, map[string][]string{"Impersonate-User": {""}}, nil, "jane [] map[] ", false},
		{"legacy user", jane, map[string][]string{"Impersonate-User": {"joe"}}, []string{"impersonate /users joe"}, "joe [system:authenticated] map[] ", false},
		{"legacy account", jane, map[string][]string{"Impersonate-User": {"system:serviceaccount:ns:robot"}}, []string{"impersonate /serviceaccounts ns/robot"},
			"system:serviceaccount:ns:robot [system:serviceaccounts system:serviceaccounts:ns system:authenticated] map[] ", false},
		{"legacy node is a user", jane, map[string][]string{"Impersonate-User": {"system:node:n1"}, "Impersonate-Group": {"system:nodes"}}, []string{"impersonate /users system:node:n1", "impersonate /groups system:nodes"}, "system:node:n1 [system:nodes system:authenticated] map[] ", false},
		{"legacy masters", jane, map[string][]string{"Impersonate-User": {"joe"}, "Impersonate-Group": {"system:masters"}}, []string{"impersonate /users joe", "impersonate /groups system:masters"}, "joe [system:masters system:authenticated] map[] ", false},
		{"legacy anonymous", jane, map[string][]string{"Impersonate-User": {"system:anonymous"}}, []string{"impersonate /users system:anonymous"}, "system:anonymous [system:unauthenticated] map[] ", false},
		{"refused", jane, map[string][]string{"Impersonate-User": {"joe"}}, nil, `User "jane" cannot impersonate-on:user-info:list resource "pods" in API group "" in the namespace "ns"`, true},

		{"constrained user", jane, map[string][]string{"Impersonate-User": {"joe"}, "Impersonate-Group": {"devs"}, "Impersonate-Uid": {"7"}, "Impersonate-Extra-Example.com%2fscope": {"view"}},
			[]string{on("user-info"), "impersonate:user-info " + authn + "/users joe", "impersonate:user-info " + authn + "/groups devs", "impersonate:user-info " + authn + "/uids 7", "impersonate:user-info " + authn + "/userextras/example.com/scope view"},
			"joe [devs system:authenticated] map[example.com/scope:[view]] impersonate:user-info", false},
		{"constrained to something else", jane, map[string][]string{"Impersonate-User": {"joe"}}, []string{"impersonate-on:user-info:get /pods ns/", "impersonate:user-info " + authn + "/users joe"}, "cannot impersonate-on:user-info:list", true},
		{"constrained without the user", jane, map[string][]string{"Impersonate-User": {"joe"}}, []string{on("user-info")}, `cannot impersonate:user-info resource "users" in API group "authentication.k8s.io"`, true},
		{"constrained masters", jane, map[string][]string{"Impersonate-User": {"joe"}, "Impersonate-Group": {"system:masters"}}, []string{on("user-info"), "impersonate:user-info " + authn + "/users joe", "impersonate:user-info " + authn + "/groups system:masters"},
			"impersonating the system:masters group is not allowed", true},
		{"constrained extra without a domain", jane, map[string][]string{"Impersonate-User": {"joe"}, "Impersonate-Extra-Scope": {"view"}}, []string{on("user-info"), "impersonate:user-info " + authn + "/users joe", "impersonate:user-info " + authn + "/userextras/scope view"},
			"impersonating an invalid key in extra is not allowed", true},
		{"constrained user is no account", jane, map[string][]string{"Impersonate-User": {"system:serviceaccount:ns:robot"}}, []string{on("user-info"), "impersonate:user-info " + authn + "/users system:serviceaccount:ns:robot"}, "cannot impersonate-on:serviceaccount:list", true},
		{"constrained account", jane, map[string][]string{"Impersonate-User": {"system:serviceaccount:ns:robot"}}, []string{on("serviceaccount"), "impersonate:serviceaccount " + authn + "/serviceaccounts ns/robot"},
			"system:serviceaccount:ns:robot [system:serviceaccounts system:serviceaccounts:ns system:authenticated] map[] impersonate:serviceaccount", false},
		{"constrained account with groups", jane, map[string][]string{"Impersonate-User": {"system:serviceaccount:ns:robot"}, "Impersonate-Group": {"devs"}}, []string{on("serviceaccount"), "impersonate:serviceaccount " + authn + "/serviceaccounts ns/robot"}, "cannot impersonate resource", true},
		{"any node", jane, map[string][]string{"Impersonate-User": {"system:node:n2"}}, []string{on("arbitrary-node"), "impersonate:arbitrary-node " + authn + "/nodes n2"}, "system:node:n2 [system:nodes system:authenticated] map[] impersonate:arbitrary-node", false},
		{"its own node", agent, map[string][]string{"Impersonate-User": {"system:node:n1"}}, []string{on("associated-node"), "impersonate:associated-node " + authn + "/nodes *"}, "system:node:n1 [system:nodes system:authenticated] map[] impersonate:associated-node", false},
		{"another node than its own", agent, map[string][]string{"Impersonate-User": {"system:node:n2"}}, []string{on("associated-node"), "impersonate:associated-node " + authn + "/nodes *"}, "cannot impersonate-on:arbitrary-node:list", true},
		{"a node that is none", jane, map[string][]string{"Impersonate-User": {"system:node:N_1"}}, []string{on("arbitrary-node"), "impersonate:arbitrary-node " + authn + "/nodes N_1"}, "cannot impersonate-on:user-info:list", true},
		{"without a name", jane, map[string][]string{"Impersonate-Group": {"devs"}}, nil, "without impersonating a user", true},
	} {
		h := http.Header{"Accept": {"*/*"}}
		maps.Copy(h, c.headers)
		s := &Server{metrics: newMetrics(nil), config: Config{Authorizer: granted(c.granted...)}}
		who, constraint, err := s.impersonate(t.Context(), h, c.real, &authorizer.AttributesRecord{User: c.real, Verb: "list", APIVersion: "v1", Resource: "pods", Namespace: "ns", ResourceRequest: true})
		if c.wantRefuse {
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if got := fmt.Sprintf("%s %v %v %s", who.GetName(), who.GetGroups(), who.GetExtra(), constraint); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
		if len(h) != 1 {
			t.Errorf("%s: the headers go on: %v", c.name, h)
		}
	}
}

// No header makes a server that grants nothing serve somebody as somebody else.
func FuzzImpersonate(f *testing.F) {
	f.Add("joe", "7", "devs", "Impersonate-Extra-Scopes", "all")
	f.Add("", "", "", "Impersonate-Extra-", "")
	f.Add("system:node:", "", "", "Impersonate-Extra-%zz", "x")
	f.Add("system:serviceaccount::", "", "system:masters", "Impersonate-Extra-A%2fB", "x")
	f.Fuzz(func(t *testing.T, name, uid, group, extra, value string) {
		h := http.Header{}
		for k, v := range map[string]string{"Impersonate-User": name, "Impersonate-Uid": uid, "Impersonate-Group": group} {
			if v != "" {
				h[k] = []string{v}
			}
		}
		if strings.HasPrefix(extra, headerExtra) {
			h[http.CanonicalHeaderKey(extra)] = []string{value}
		}
		real := &user.DefaultInfo{Name: "jane"}
		who, _, err := (&Server{metrics: newMetrics(nil), config: Config{Authorizer: granted()}}).impersonate(t.Context(), h, real, &authorizer.AttributesRecord{User: real, Verb: "get", Path: "/"})
		if err == nil && who != user.Info(real) {
			t.Errorf("served as %+v", who)
		}
	})
}
