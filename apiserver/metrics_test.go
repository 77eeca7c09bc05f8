package apiserver

import (
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	registrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// shown are the server's metrics.
func (w *world) shown(t testing.TB) string {
	t.Helper()
	code, _, text := w.raw(t, "GET", "/metrics", admin, nil, "")
	if code != 200 {
		t.Fatal(code, text)
	}
	return text
}

// TestAdmissionIsTimed: each plugin, all of them, and webhooks, by whether they refused.
func TestAdmissionIsTimed(t *testing.T) {
	w, cs := startHooked(t)
	maps := cs.CoreV1().ConfigMaps("default")
	config := hook(t, func(r *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		return &admissionv1.AdmissionResponse{Allowed: r.Name != "no"}
	})
	_, err := cs.AdmissionregistrationV1().ValidatingWebhookConfigurations().Create(t.Context(), &registrationv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "timed"},
		Webhooks: []registrationv1.ValidatingWebhook{{Name: "timed.example.com", ClientConfig: config, SideEffects: &noEffects, AdmissionReviewVersions: []string{"v1"}, Rules: rules("", "configmaps", registrationv1.Create)}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	until(t, "the webhook is asked", func() bool {
		_, err := maps.Create(t.Context(), configMap("no", nil), metav1.CreateOptions{})
		if err == nil {
			if err := maps.Delete(t.Context(), "no", metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		return err != nil
	})
	if _, err := maps.Create(t.Context(), configMap("yes", nil), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	text := w.shown(t)
	for _, series := range []string{
		`apiserver_admission_step_admission_duration_seconds_count{operation="CREATE",rejected="false",type="admit"}`,
		`apiserver_admission_step_admission_duration_seconds_count{operation="CREATE",rejected="true",type="validate"}`,
		`apiserver_admission_controller_admission_duration_seconds_count{name="NamespaceLifecycle",operation="CREATE",rejected="false",type="admit"}`,
		`apiserver_admission_controller_admission_duration_seconds_count{name="ValidatingAdmissionWebhook",operation="CREATE",rejected="true",type="validate"}`,
		`apiserver_admission_webhook_admission_duration_seconds_count{name="timed.example.com",operation="CREATE",rejected="true",type="validating"}`,
		`apiserver_admission_webhook_admission_duration_seconds_count{name="timed.example.com",operation="CREATE",rejected="false",type="validating"}`,
	} {
		if !strings.Contains(text, "\n"+series+" ") {
			t.Errorf("no %s", series)
		}
	}
	if strings.Contains(text, `name="unnamed"`) {
		t.Error("a plugin has no name")
	}
}

// TestDeprecatedKindsAreTold: who uses a deprecated kind is warned in upstream's words, and the metrics and the audit log say that somebody does.
func TestDeprecatedKindsAreTold(t *testing.T) {
	w, events := audited(t, "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n- level: Metadata\n", nil)
	if strings.Contains(w.shown(t), "\napiserver_requested_deprecated_apis{") {
		t.Error("somebody is said to have used what is deprecated")
	}
	code, header, body := w.raw(t, "GET", "/api/v1/namespaces/default/endpoints", admin, nil, "")
	if want := `299 - "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"`; code != 200 || header.Get("Warning") != want {
		t.Errorf("%d %q %s", code, header.Get("Warning"), body)
	}
	text := w.shown(t)
	for _, line := range []string{`apiserver_requested_deprecated_apis{group="",removed_release="",resource="endpoints",subresource="",version="v1"} 1`} {
		if !strings.Contains(text, "\n"+line+"\n") {
			t.Errorf("no %s", line)
		}
	}
	for _, name := range []string{"apiserver_audit_event_total", `apiserver_audit_level_total{level="Metadata"}`, "apiserver_audit_requests_rejected_total"} { // counted by process
		if !strings.Contains(text, "\n"+name+" ") {
			t.Errorf("no %s", name)
		}
	}
	found := false
	for _, e := range events() {
		if e.ObjectRef != nil && e.ObjectRef.Resource == "endpoints" && e.Annotations["k8s.io/deprecated"] == "true" {
			found = true
		} else if e.Annotations["k8s.io/deprecated"] != "" {
			t.Errorf("%s is not deprecated", e.RequestURI)
		}
	}
	if !found {
		t.Error("the audit log does not say that it is deprecated")
	}
}
