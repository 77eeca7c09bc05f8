package apiserver

import (
	"strings"
	"sync/atomic"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	registrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// TestCustomAdmission: webhooks and policies see custom resources and their scale as what they are; what a webhook adds without the schema
// knowing it is not stored.
func TestCustomAdmission(t *testing.T) {
	w, cs := startHooked(t)
	d := runCustom(t, w)
	ctx := t.Context()
	define(t, d, widgets)
	c := d.Resource(widgetsV1).Namespace("default")
	var seen atomic.Pointer[admissionv1.AdmissionRequest]
	client := hook(t, func(r *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		seen.Store(r)
		if r.Kind.Kind == "Scale" {
			return &admissionv1.AdmissionResponse{Allowed: true, PatchType: &jsonPatch, Patch: []byte(`[{"op":"replace","path":"/spec/replicas","value":50}]`)}
		}
		return &admissionv1.AdmissionResponse{Allowed: true, PatchType: &jsonPatch, Patch: []byte(`[{"op":"add","path":"/spec/size","value":42},{"op":"add","path":"/spec/unknown","value":1}]`)}
	})
	rule := rules("shop.example", "widgets", registrationv1.Create, registrationv1.Update)
	rule[0].Rule.Resources = []string{"widgets", "widgets/scale"}
	if _, err := cs.AdmissionregistrationV1().MutatingWebhookConfigurations().Create(ctx, &registrationv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "m"}, Webhooks: []registrationv1.MutatingWebhook{{
		Name: "m.example.com", ClientConfig: client, Rules: rule, SideEffects: &noEffects, AdmissionReviewVersions: []string{"v1"}}}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	until(t, "the webhook is called", func() bool {
		_, err := c.Create(ctx, widget(t, "dry", "{color: red}"), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return err == nil && seen.Load() != nil
	})
	u, err := c.Create(ctx, widget(t, "a", "{color: red}"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if spec := u.Object["spec"].(map[string]any); spec["size"] != int64(42) || spec["unknown"] != nil {
		t.Errorf("stored: %v", spec)
	}
	if text := w.bytesOf(t, "/registry/shop.example/widgets/default/a"); strings.Contains(text, "unknown") {
		t.Errorf("in etcd: %s", text)
	}
	if r := seen.Load(); r.Kind.Kind != "Widget" || r.Kind.Version != "v1" || r.Resource.Resource != "widgets" || !strings.Contains(string(r.Object.Raw), `"size":3`) {
		t.Errorf("the webhook was told %+v", r)
	}
	// Through another version: the webhook is asked in the one it knows.
	beta := widgetsV1
	beta.Version = "v1beta1"
	if u, err = d.Resource(beta).Namespace("default").Create(ctx, object(t, "{apiVersion: shop.example/v1beta1, kind: Widget, metadata: {name: b}, spec: {color: green}}"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if r := seen.Load(); r.Kind.Version != "v1" || r.RequestKind.Version != "v1beta1" || u.GetAPIVersion() != "shop.example/v1beta1" || u.Object["spec"].(map[string]any)["size"] != int64(42) {
		t.Errorf("through v1beta1: %+v, %v", r, u.Object)
	}
	// A scale is a Scale to whoever is asked, and can be changed as such.
	scale, err := c.Patch(ctx, "a", types.MergePatchType, []byte(`{"spec":{"replicas":45}}`), metav1.PatchOptions{}, "scale")
	if err != nil {
		t.Fatal(err)
	}
	if r := seen.Load(); r.Kind.Kind != "Scale" || r.Kind.Group != "autoscaling" || r.SubResource != "scale" || !strings.Contains(string(r.OldObject.Raw), `"replicas":42`) || !strings.Contains(string(r.Object.Raw), `"replicas":45`) {
		t.Errorf("the webhook was told of the scale: %+v %s", r.Kind, r.Object.Raw)
	}
	if n := scale.Object["spec"].(map[string]any)["replicas"]; n != int64(50) {
		t.Errorf("scaled to %v", n)
	}

	// A policy in CEL.
	fail := registrationv1.Fail
	if _, err := cs.AdmissionregistrationV1().ValidatingAdmissionPolicies().Create(ctx, &registrationv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: registrationv1.ValidatingAdmissionPolicySpec{
		FailurePolicy: &fail, MatchConstraints: &registrationv1.MatchResources{ResourceRules: []registrationv1.NamedRuleWithOperations{{RuleWithOperations: rules("shop.example", "widgets", registrationv1.Create)[0]}}},
		Validations: []registrationv1.Validation{{Expression: "object.spec.color != 'green' || object.metadata.name.startsWith('g')", Message: "green ones begin with g"}}}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := cs.AdmissionregistrationV1().ValidatingAdmissionPolicyBindings().Create(ctx, &registrationv1.ValidatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: "p"},
		Spec: registrationv1.ValidatingAdmissionPolicyBindingSpec{PolicyName: "p", ValidationActions: []registrationv1.ValidationAction{registrationv1.Deny}}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	until(t, "the policy refuses", func() bool {
		_, err := c.Create(ctx, widget(t, "x", "{color: green}"), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return err != nil && strings.Contains(err.Error(), "green ones begin with g")
	})
	if _, err := c.Create(ctx, widget(t, "g1", "{color: green}"), metav1.CreateOptions{}); err != nil {
		t.Error(err)
	}
}
