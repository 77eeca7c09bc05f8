package authz

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	authorizationcel "k8s.io/apiserver/pkg/authorization/cel"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// oracle is an authorization webhook: it lets ali do everything, forbids mallory everything, and has no opinion of others.
type oracle struct {
	asked      atomic.Int64
	kubeconfig string
	last       atomic.Pointer[authorizationv1.SubjectAccessReviewSpec]
}

func newOracle(t *testing.T) *oracle {
	t.Helper()
	o := &oracle{kubeconfig: filepath.Join(t.TempDir(), "kubeconfig")}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		o.asked.Add(1)
		var review authorizationv1.SubjectAccessReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
			t.Error(err)
		}
		o.last.Store(&review.Spec)
		review.Status.Allowed, review.Status.Denied = review.Spec.User == "ali", review.Spec.User == "mallory"
		review.Status.Reason = "the oracle has spoken"
		json.NewEncoder(w).Encode(review)
	}))
	t.Cleanup(s.Close)
	if err := clientcmd.WriteToFile(clientcmdapi.Config{CurrentContext: "c", Contexts: map[string]*clientcmdapi.Context{"c": {Cluster: "c"}},
		Clusters: map[string]*clientcmdapi.Cluster{"c": {Server: s.URL}}}, o.kubeconfig); err != nil {
		t.Fatal(err)
	}
	return o
}

// running is an authorizer over an empty cluster.
func running(t *testing.T, s Settings) *Authorizer {
	t.Helper()
	a := New(Config{})
	if err := a.Configure(s); err != nil {
		t.Fatal(err)
	}
	set, _ := fakeSet()
	if err := a.Initialize(t.Context(), set); err != nil {
		t.Fatal(err)
	}
	set.Informers.Start(t.Context().Done())
	return a
}

// The order of the modes decides, reasons are gathered, a denial is the last word, and system:masters needs nobody.
func TestModes(t *testing.T) {
	o := newOracle(t)
	settings := DefaultSettings()
	settings.Modes, settings.Webhook.ConfigFile, settings.Webhook.Version = []string{"Webhook", "RBAC", "AlwaysAllow"}, o.kubeconfig, "v1"
	a := running(t, settings)
	for _, c := range []struct {
		who    string
		want   authorizer.Decision
		reason string
	}{
		{"ali list pods ns", authorizer.DecisionAllow, "the oracle has spoken"},
		{"mallory list pods ns", authorizer.DecisionDeny, "the oracle has spoken"},
		{"jane list pods ns", authorizer.DecisionAllow, ""}, // by AlwaysAllow
		{"root,system:masters list pods ns", authorizer.DecisionAllow, ""},
	} {
		if d, reason, err := a.Authorize(t.Context(), asks(t, c.who)); d != c.want || reason != c.reason || err != nil {
			t.Errorf("%s: %v %q %v", c.who, d, reason, err)
		}
	}
	if n := o.asked.Load(); n != 3 {
		t.Errorf("asked %d times", n)
	}
	if _, _, err := a.Authorize(t.Context(), asks(t, "ali list pods ns")); err != nil || o.asked.Load() != 3 {
		t.Error("asked again within the time for which an answer is believed")
	}
	if _, _, incomplete, err := a.RulesFor(t.Context(), asks(t, "ali list pods ns").User, "ns"); !incomplete || err == nil || !strings.Contains(err.Error(), "webhook authorizer does not support user rule resolution") {
		t.Errorf("rules: %v %v", incomplete, err)
	}
	settings.Modes = []string{"RBAC", "AlwaysDeny", "Webhook"}
	if d, reason, err := running(t, settings).Authorize(t.Context(), asks(t, "jane list pods ns")); d != authorizer.DecisionNoOpinion || reason != "alwaysdeny: Everything is forbidden.\ndefault: the oracle has spoken" || err != nil {
		t.Errorf("%v %q %v", d, reason, err)
	}
	for _, wrong := range []Settings{{Modes: []string{"RBAC", "RBAC"}}, {Modes: []string{"ABAC"}}, {Modes: []string{"Webhook"}}, {Webhook: WebhookSettings{ConfigFile: o.kubeconfig}}, {File: o.kubeconfig}, {File: o.kubeconfig, Modes: []string{"RBAC"}}} {
		if err := New(Config{}).Configure(wrong); err == nil {
			t.Errorf("taken: %+v", wrong)
		}
	}
}

// A file is followed; its conditions decide which requests the webhook hears of; what it must not leave out it cannot.
func TestAuthorizationConfiguration(t *testing.T) {
	o := newOracle(t)
	file := filepath.Join(t.TempDir(), "config.yaml")
	config := func(condition, policy string, local ...string) string {
		text := "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\nauthorizers:\n" + fmt.Sprintf(`- type: Webhook
  name: oracle.example.com
  webhook:
    timeout: 3s
    subjectAccessReviewVersion: v1
    matchConditionSubjectAccessReviewVersion: v1
    failurePolicy: %s
    authorizedTTL: 1s
    unauthorizedTTL: 1s
    cacheAuthorizedRequests: false
    cacheUnauthorizedRequests: false
    connectionInfo: {type: KubeConfigFile, kubeConfigFile: %s}
    matchConditions: [{expression: %q}]
`, policy, o.kubeconfig, condition)
		for _, mode := range local {
			text += "- {type: " + mode + ", name: " + strings.ToLower(mode) + "}\n"
		}
		return text
	}
	write := func(content string) {
		t.Helper()
		if err := os.WriteFile(file+".new", []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	write(config("has(request.resourceAttributes) && request.resourceAttributes.resource == 'secrets'", "Deny", "Node", "RBAC"))
	a := running(t, Settings{File: file})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Follow(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	decide := func(who string) authorizer.Decision {
		d, _, _ := a.Authorize(ctx, asks(t, who))
		return d
	}
	if d := decide("ali list pods ns"); d != authorizer.DecisionNoOpinion || o.asked.Load() != 0 {
		t.Errorf("pods: %v, asked %d times", d, o.asked.Load())
	}
	if d := decide("ali list secrets ns"); d != authorizer.DecisionAllow || o.last.Load().ResourceAttributes.Namespace != "ns" {
		t.Errorf("secrets: %v %+v", d, o.last.Load())
	}
	// Refused: nonsense, a chain without what was there at start, a name of its own.
	for _, wrong := range []string{"nonsense", config("true", "Deny", "Node"), config("request.", "Deny", "Node", "RBAC"), strings.Replace(config("true", "Deny", "Node", "RBAC"), "name: rbac", "name: other", 1)} {
		if err := a.change([]byte(wrong)); err == nil {
			t.Errorf("taken: %s", wrong)
		}
	}
	if d := decide("ali list secrets ns"); d != authorizer.DecisionAllow {
		t.Errorf("a wrong file changed something: %v", d)
	}
	write(config("true", "Deny", "Node", "RBAC"))
	until(t, func() bool { return decide("ali list pods ns") == authorizer.DecisionAllow })
	// The webhook is gone: the failure policy decides.
	if err := os.WriteFile(o.kubeconfig, []byte(strings.Replace(string(readFile(t, o.kubeconfig)), "server: http://127.0.0.1:", "server: http://127.0.0.1:1", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	write(config("request.user == 'ali'", "Deny", "Node", "RBAC"))
	until(t, func() bool { return decide("ali list pods ns") == authorizer.DecisionDeny })
	write(config("request.user == 'ali'", "NoOpinion", "Node", "RBAC"))
	until(t, func() bool { return decide("ali list pods ns") == authorizer.DecisionNoOpinion })
}

// FuzzAuthorizationConfiguration reads files that say who is asked.
func FuzzAuthorizationConfiguration(f *testing.F) {
	f.Add([]byte("apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\nauthorizers: [{type: Node, name: node}, {type: RBAC, name: rbac}, {type: Webhook, name: w, webhook: {timeout: 3s, subjectAccessReviewVersion: v1, matchConditionSubjectAccessReviewVersion: v1, failurePolicy: Deny, connectionInfo: {type: KubeConfigFile, kubeConfigFile: /none}, matchConditions: [{expression: \"request.user == 'a'\"}]}}]\n"))
	c := &configured{compiler: authorizationcel.NewDefaultCompiler()}
	f.Fuzz(func(t *testing.T, content []byte) {
		parsed, err := c.parse(content)
		if err == nil && len(parsed.Authorizers) == 0 {
			t.Error("nobody is asked")
		}
	})
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
