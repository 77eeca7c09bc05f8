package apiserver

import (
	"strings"
	"testing"
)

// TestAccessIsCounted: who is recognised, who is not, who may and who may not.
func TestAccessIsCounted(t *testing.T) {
	w := start(t, nil)
	count := func() string {
		_, _, text := w.raw(t, "GET", "/metrics", admin, nil, "")
		return text
	}
	for token, code := range map[string]int{admin: 200, nobody: 403, "a stranger's": 401} {
		if got, _, _ := w.raw(t, "GET", "/api/v1/pods", token, nil, ""); got != code {
			t.Fatalf("%s: %d", token, got)
		}
	}
	text := count() // by one more who is recognised and may
	for _, line := range []string{`authentication_attempts{result="success"} 3`, `authentication_attempts{result="failure"} 1`, `authentication_attempts{result="error"} 0`, `authentication_duration_seconds_count{result="success"} 3`,
		`authorization_attempts_total{result="allowed"} 2`, `authorization_attempts_total{result="no-opinion"} 1`, `authorization_duration_seconds_count{result="no-opinion"} 1`} {
		if !strings.Contains(text, line+"\n") {
			t.Errorf("metrics lack %s", line)
		}
	}
}
