package apiserver

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	registrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	plugins "k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/kubernetes"

	"wherry.dev/wherry/apiserver/admission"
)

// startHooked runs a server with webhooks and policies, and the namespace default.
func startHooked(t testing.TB) (*world, kubernetes.Interface) {
	t.Helper()
	var chain *admission.Chain
	w := start(t, func(c *Config) {
		var err error
		if chain, err = admission.New(admission.Config{Authorizer: everybody{}}); err != nil {
			t.Fatal(err)
		}
		c.Admission, c.AdmissionNames = chain.Plugins(), chain.Names()
	})
	masters := w.InProcess(&user.DefaultInfo{Name: user.APIServerUser, Groups: []string{user.SystemPrivilegedGroup, user.AllAuthenticated}})
	if err := chain.Initialize(t.Context(), masters); err != nil {
		t.Fatal(err)
	}
	masters.Informers.Start(t.Context().Done())
	cs := w.client(t, false)
	if _, err := cs.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return w, cs
}

// everybody may do anything.
type everybody struct{}

func (everybody) Authorize(_ context.Context, _ authorizer.Attributes) (authorizer.Decision, string, error) {
	return authorizer.DecisionAllow, "", nil
}

// hook is a webhook server that answers by what decide says.
func hook(t testing.TB, decide func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse) registrationv1.WebhookClientConfig {
	t.Helper()
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review admissionv1.AdmissionReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
			t.Errorf("a webhook was sent nonsense: %v", err)
		}
		review.Response = decide(review.Request)
		review.Response.UID = review.Request.UID
		review.Request = nil
		_ = json.NewEncoder(w).Encode(review)
	}))
	t.Cleanup(s.Close)
	return registrationv1.WebhookClientConfig{URL: &s.URL, CABundle: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})}
}

func rules(group, resource string, operations ...registrationv1.OperationType) []registrationv1.RuleWithOperations {
	return []registrationv1.RuleWithOperations{{Operations: operations, Rule: registrationv1.Rule{APIGroups: []string{group}, APIVersions: []string{"v1"}, Resources: []string{resource}}}}
}

var (
	noEffects = registrationv1.SideEffectClassNone
	jsonPatch = admissionv1.PatchTypeJSONPatch
)

// until repeats try, whose outcome depends on what an informer has seen, until it is right.
func until(t testing.TB, what string, try func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !try(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}

func TestMutatingWebhook(t *testing.T) {
	_, cs := startHooked(t)
	ctx := t.Context()
	maps := cs.CoreV1().ConfigMaps("default")
	var seen atomic.Pointer[admissionv1.AdmissionRequest]
	client := hook(t, func(r *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		seen.Store(r)
		return &admissionv1.AdmissionResponse{Allowed: true, PatchType: &jsonPatch, Patch: []byte(`[{"op":"add","path":"/data/hooked","value":"yes"}]`), Warnings: []string{"hooked"}}
	})
	registration := &registrationv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "m"}, Webhooks: []registrationv1.MutatingWebhook{{
		Name: "m.example.com", ClientConfig: client, Rules: rules("", "configmaps", registrationv1.Create, registrationv1.Update), SideEffects: &noEffects, AdmissionReviewVersions: []string{"v1"},
		ObjectSelector:  &metav1.LabelSelector{MatchLabels: map[string]string{"hook": "me"}},
		MatchConditions: []registrationv1.MatchCondition{{Name: "not-spared", Expression: "!('spared' in object.data)"}}}}}
	if _, err := cs.AdmissionregistrationV1().MutatingWebhookConfigurations().Create(ctx, registration, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	make := func(name string, labels map[string]string, data string, dry ...string) *corev1.ConfigMap {
		t.Helper()
		m, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}, Data: map[string]string{data: "x"}}, metav1.CreateOptions{DryRun: dry})
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	hooked := map[string]string{"hook": "me"}
	until(t, "the webhook is called", func() bool { return make("dry", hooked, "a", metav1.DryRunAll).Data["hooked"] == "yes" })
	if r := seen.Load(); r.Kind.Kind != "ConfigMap" || r.Operation != admissionv1.Create || r.DryRun == nil || !*r.DryRun || r.UserInfo.Username != "root" || r.Namespace != "default" {
		t.Errorf("the webhook was told %+v", r)
	}
	if m := make("a", hooked, "a"); m.Data["hooked"] != "yes" {
		t.Errorf("stored %v", m.Data)
	}
	if m, err := maps.Get(ctx, "a", metav1.GetOptions{}); err != nil || m.Data["hooked"] != "yes" || m.Data["a"] != "x" {
		t.Errorf("read %v, %v", m, err)
	}
	if m := make("b", nil, "a"); m.Data["hooked"] != "" {
		t.Error("the object selector does not count")
	}
	if m := make("c", hooked, "spared"); m.Data["hooked"] != "" {
		t.Error("the match condition does not count")
	}
	if _, err := maps.Patch(ctx, "b", "application/merge-patch+json", []byte(`{"metadata":{"labels":{"hook":"me"}}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	if m, err := maps.Get(ctx, "b", metav1.GetOptions{}); err != nil || m.Data["hooked"] != "yes" {
		t.Errorf("after a patch: %v, %v", m, err)
	}
}

func TestValidatingWebhook(t *testing.T) {
	_, cs := startHooked(t)
	ctx := t.Context()
	client := hook(t, func(r *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		return &admissionv1.AdmissionResponse{Allowed: r.Operation == admissionv1.Create, Result: &metav1.Status{Message: "stay as you are", Code: http.StatusTeapot}}
	})
	dead := httptest.NewTLSServer(nil)
	dead.Close()
	ignore := registrationv1.Ignore
	one := func(name string, client registrationv1.WebhookClientConfig, policy *registrationv1.FailurePolicyType, rules []registrationv1.RuleWithOperations) registrationv1.ValidatingWebhook {
		return registrationv1.ValidatingWebhook{Name: name + ".example.com", ClientConfig: client, Rules: rules, FailurePolicy: policy, SideEffects: &noEffects, AdmissionReviewVersions: []string{"v1"}}
	}
	registration := &registrationv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "v"}, Webhooks: []registrationv1.ValidatingWebhook{
		one("keep", client, nil, rules("", "configmaps", registrationv1.OperationAll)),
		one("ignored", registrationv1.WebhookClientConfig{URL: &dead.URL}, &ignore, rules("", "configmaps", registrationv1.Create)),
		one("dead", registrationv1.WebhookClientConfig{URL: &dead.URL}, nil, rules("", "secrets", registrationv1.Create)),
		one("events", client, nil, rules("events.k8s.io", "events", registrationv1.Update)),
	}}
	registrations := cs.AdmissionregistrationV1().ValidatingWebhookConfigurations()
	if _, err := registrations.Create(ctx, registration, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	until(t, "a dead webhook stops what it should see", func() bool {
		_, err := cs.CoreV1().Secrets("default").Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{GenerateName: "s"}}, metav1.CreateOptions{})
		return apierrors.IsInternalError(err) && strings.Contains(err.Error(), `failed calling webhook "dead.example.com"`)
	})
	maps := cs.CoreV1().ConfigMaps("default")
	m, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "a"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	m.Data = map[string]string{"b": "c"}
	refused := func(what string, err error) {
		t.Helper()
		status, ok := err.(apierrors.APIStatus)
		if !ok || status.Status().Code != http.StatusTeapot || !strings.Contains(err.Error(), `admission webhook "`) || !strings.Contains(err.Error(), "denied the request: stay as you are") {
			t.Errorf("%s: %v", what, err)
		}
	}
	_, err = maps.Update(ctx, m, metav1.UpdateOptions{})
	refused("update", err)
	refused("delete", maps.Delete(ctx, "a", metav1.DeleteOptions{}))
	refused("delete of all", maps.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}))

	// A rule about one version of a resource concerns its equivalents too.
	e, err := cs.CoreV1().Events("default").Create(ctx, &corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: "e", Namespace: "default"}, InvolvedObject: corev1.ObjectReference{Namespace: "default"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	e.Message = "new"
	_, err = cs.CoreV1().Events("default").Update(ctx, e, metav1.UpdateOptions{})
	refused("equivalent update", err)
	if _, err := registrations.Patch(ctx, "v", "application/json-patch+json", []byte(`[{"op":"replace","path":"/webhooks/3/matchPolicy","value":"Exact"}]`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	until(t, "an exact rule leaves the other version alone", func() bool {
		_, err := cs.CoreV1().Events("default").Update(ctx, e, metav1.UpdateOptions{})
		return err == nil
	})

	// Without registrations nothing is asked.
	if err := registrations.Delete(ctx, "v", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	until(t, "the webhooks are gone", func() bool { return maps.Delete(ctx, "a", metav1.DeleteOptions{}) == nil })
}

func TestAdmissionPolicies(t *testing.T) {
	_, cs := startHooked(t)
	ctx := t.Context()
	maps := cs.CoreV1().ConfigMaps("default")
	constraints := &registrationv1.MatchResources{ResourceRules: []registrationv1.NamedRuleWithOperations{{RuleWithOperations: rules("", "configmaps", registrationv1.Create)[0]}}}
	v1 := cs.AdmissionregistrationV1()
	if _, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "limit"}, Data: map[string]string{"most": "2"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	deny := registrationv1.DenyAction
	_, err := v1.ValidatingAdmissionPolicies().Create(ctx, &registrationv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "few"}, Spec: registrationv1.ValidatingAdmissionPolicySpec{
		ParamKind: &registrationv1.ParamKind{APIVersion: "v1", Kind: "ConfigMap"}, MatchConstraints: constraints,
		Variables:   []registrationv1.Variable{{Name: "most", Expression: "int(params.data.most)"}},
		Validations: []registrationv1.Validation{{Expression: "size(object.data) <= variables.most", MessageExpression: "'at most ' + string(variables.most)"}}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = v1.ValidatingAdmissionPolicyBindings().Create(ctx, &registrationv1.ValidatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: "few"}, Spec: registrationv1.ValidatingAdmissionPolicyBindingSpec{
		PolicyName: "few", ParamRef: &registrationv1.ParamRef{Name: "limit", ParameterNotFoundAction: &deny}, ValidationActions: []registrationv1.ValidationAction{registrationv1.Deny}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	three := func() error {
		_, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "m"}, Data: map[string]string{"a": "", "b": "", "c": ""}}, metav1.CreateOptions{})
		return err
	}
	until(t, "the policy refuses", func() bool {
		err := three()
		return apierrors.IsInvalid(err) && strings.Contains(err.Error(), "ValidatingAdmissionPolicy 'few' with binding 'few' denied request: at most 2")
	})

	_, err = v1.MutatingAdmissionPolicies().Create(ctx, &registrationv1.MutatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "mark"}, Spec: registrationv1.MutatingAdmissionPolicySpec{
		MatchConstraints: constraints, ReinvocationPolicy: registrationv1.NeverReinvocationPolicy,
		Mutations: []registrationv1.Mutation{
			{PatchType: registrationv1.PatchTypeApplyConfiguration, ApplyConfiguration: &registrationv1.ApplyConfiguration{Expression: "Object{metadata: Object.metadata{labels: {'marked': 'yes'}}}"}},
			{PatchType: registrationv1.PatchTypeJSONPatch, JSONPatch: &registrationv1.JSONPatch{Expression: "[JSONPatch{op: 'add', path: '/metadata/labels/too', value: 'yes'}]"}},
		}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = v1.MutatingAdmissionPolicyBindings().Create(ctx, &registrationv1.MutatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: "mark"}, Spec: registrationv1.MutatingAdmissionPolicyBindingSpec{PolicyName: "mark"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	until(t, "the policy changes objects", func() bool {
		m, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "m"}, Data: map[string]string{"a": ""}}, metav1.CreateOptions{})
		if apierrors.IsServiceUnavailable(err) {
			t.Fatalf("the policy has come, the schemas not yet: %v", err)
		}
		if err != nil {
			t.Log(err)
			return false
		}
		return m.Labels["marked"] == "yes" && m.Labels["too"] == "yes" && m.Kind == "" && len(m.Data) == 1
	})
}

// A cluster without webhooks and policies pays nothing for the possibility.
func TestNoHooksCostNothing(t *testing.T) {
	chain, err := admission.New(admission.Config{Authorizer: everybody{}})
	if err != nil {
		t.Fatal(err)
	}
	w := start(t, nil)
	masters := w.InProcess(&user.DefaultInfo{Name: user.APIServerUser, Groups: []string{user.SystemPrivilegedGroup}})
	if err := chain.Initialize(t.Context(), masters); err != nil {
		t.Fatal(err)
	}
	masters.Informers.Start(t.Context().Done())
	masters.Informers.WaitForCacheSync(t.Context().Done())
	attrs := plugins.NewAttributesRecord(&corev1.Pod{}, nil, corev1.SchemeGroupVersion.WithKind("Pod"), "default", "p", corev1.SchemeGroupVersion.WithResource("pods"), "", plugins.Create, nil, false, nil)
	last := chain.Plugins()[len(chain.Plugins())-4:] // webhooks and policies come last
	ask := func() {
		for _, p := range last {
			switch p := p.(type) {
			case plugins.MutationInterface:
				err = errors.Join(err, p.Admit(t.Context(), attrs, nil))
			case plugins.ValidationInterface:
				err = errors.Join(err, p.Validate(t.Context(), attrs, nil))
			}
		}
	}
	ask()
	if n := testing.AllocsPerRun(100, ask); n != 0 || err != nil {
		t.Errorf("%v allocations, %v", n, err)
	}
}
