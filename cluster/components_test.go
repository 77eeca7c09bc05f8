package cluster

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestAskHealth(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/healthz" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		w.Write([]byte("ok"))
	}))
	for url, want := range map[string]struct {
		status  corev1.ConditionStatus
		message string
	}{s.URL + "/healthz": {corev1.ConditionTrue, "ok"}, s.URL + "/ill": {corev1.ConditionFalse, "HTTP probe failed with statuscode: 503"}} {
		if status, message, err := askHealth(t.Context(), url); status != want.status || message != want.message || err != nil {
			t.Errorf("%s: %s %q %v", url, status, message, err)
		}
	}
	s.Close()
	if status, message, err := askHealth(t.Context(), s.URL); status != corev1.ConditionFalse || !strings.Contains(message, "connection refused") || err != nil {
		t.Errorf("%s %q %v", status, message, err)
	}
}
