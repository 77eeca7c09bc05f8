package whole

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"wherry.dev/wherry/test/outside"
)

// send sends a body as it is and returns the answer's code and Status.
func (s *story) send(t *testing.T, method, path, contentType string, body []byte, header ...string) (int, metav1.Status) {
	t.Helper()
	client, err := rest.HTTPClientFor(s.Config)
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(t.Context(), method, s.Config.Host+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", contentType)
	for i := 0; i+1 < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	response, err := client.Do(request)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer response.Body.Close()
	b, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	var status metav1.Status
	if err := json.Unmarshal(b, &status); err != nil || status.Kind != "Status" {
		t.Errorf("%s %s: the answer is no Status: %d %s", method, path, response.StatusCode, b)
	}
	return response.StatusCode, status
}

// badInput: wrong manifests are refused, each wrong field by its path; and a pod that cannot be placed says why.
func (s *story) badInput(t *testing.T) {
	const pods = "/api/v1/namespaces/shop/pods"
	bad := `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"Bad_Name","labels":{"a b":"c"}},"spec":{"restartPolicy":"Sometimes","containers":[
		{"name":"c","image":"","ports":[{"containerPort":70000}],"resources":{"requests":{"cpu":"2"},"limits":{"cpu":"1"}}},
		{"name":"c","image":"x","volumeMounts":[{"name":"none","mountPath":""}]}]}}`
	code, answer := s.send(t, "POST", pods, "application/json", []byte(bad))
	if code != http.StatusUnprocessableEntity || answer.Reason != metav1.StatusReasonInvalid || answer.Details == nil {
		t.Fatalf("a bad pod gets %d %s: %s", code, answer.Reason, answer.Message)
	}
	var fields []string
	for _, cause := range answer.Details.Causes {
		fields = append(fields, cause.Field)
	}
	slices.Sort(fields)
	want := []string{"metadata.labels", "metadata.name", "spec.containers[0].image", "spec.containers[0].ports[0].containerPort", "spec.containers[0].resources.requests",
		"spec.containers[1].name", "spec.containers[1].volumeMounts[0].mountPath", "spec.containers[1].volumeMounts[0].name", "spec.restartPolicy"}
	if !slices.Equal(fields, want) {
		t.Errorf("causes are by fields %q, want %q", fields, want)
	}
	says(t, "kubectl create of a pod without image", s.KubectlFails(`---
{apiVersion: v1, kind: Pod, metadata: {name: x, namespace: shop}, spec: {containers: [{name: c, image: ""}]}}`, "create", "-f", "-"),
		`The Pod "x" is invalid: spec.containers[0].image: Required value`)
	says(t, "--validate=strict", s.KubectlFails(`---
{apiVersion: v1, kind: Pod, metadata: {name: x, namespace: shop}, spec: {containres: []}}`, "create", "--validate=strict", "-f", "-"), `unknown field "spec.containres"`)

	for _, c := range []struct {
		name, method, path, contentType string
		body                            []byte
		header                          []string
		code                            int
	}{
		{"broken JSON", "POST", pods, "application/json", []byte(`{"kind":`), nil, 400},
		{"another kind", "POST", pods, "application/json", []byte(`{"apiVersion":"v1","kind":"Service","metadata":{"name":"x"}}`), nil, 400},
		{"another namespace", "POST", pods, "application/json", []byte(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"x","namespace":"other"}}`), nil, 400},
		{"unknown content type", "POST", pods, "text/plain", []byte(`{}`), nil, 415},
		{"no such namespace", "POST", "/api/v1/namespaces/nowhere/pods", "application/json", []byte(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"x"},"spec":{"containers":[{"name":"c","image":"x"}]}}`), nil, 404},
		{"verb that is not", "PUT", pods, "application/json", []byte(`{}`), nil, 405},
		{"too large", "POST", pods, "application/json", append([]byte(`{"apiVersion":"v1","kind":"Pod","metadata":{"annotations":{"a":"`), bytes.Repeat([]byte("x"), 4<<20)...), nil, 413},
		{"unknown patch", "PATCH", pods + "/web", "application/json", []byte(`{}`), nil, 415},
		{"broken gzip", "POST", pods, "application/json", []byte("\x1f\x8b no gzip"), []string{"Content-Encoding", "gzip"}, 400},
		{"bad selector", "GET", pods + "?labelSelector=%21%21", "application/json", nil, nil, 400},
	} {
		if code, status := s.send(t, c.method, c.path, c.contentType, c.body, c.header...); code != c.code || int(status.Code) != c.code {
			t.Errorf("%s: %d %s: %s, want %d", c.name, code, status.Reason, status.Message, c.code)
		}
	}

	says(t, "an unknown kind", s.KubectlFails("", "get", "nothings", "-n", "shop"), `the server doesn't have a resource type "nothings"`)
	if got := status(t, s.Config, "/api/v1/namespaces/shop/nothings"); got != http.StatusNotFound { // as upstream, with no Status
		t.Errorf("an unknown resource gets %d", got)
	}

	s.KubectlInput(`---
{apiVersion: v1, kind: Pod, metadata: {name: nowhere, namespace: shop}, spec: {nodeSelector: {planet: mars}, containers: [{name: c, image: "wherry.dev/sample:1"}]}}`, "create", "-f", "-")
	s.KubectlInput(`---
{apiVersion: v1, kind: Pod, metadata: {name: giant, namespace: shop}, spec: {containers: [{name: c, image: "wherry.dev/sample:1", resources: {requests: {memory: 900Gi}}}]}}`, "create", "-f", "-")
	for pod, reason := range map[string]string{"nowhere": "1 node(s) didn't match Pod's node affinity/selector.", "giant": "1 Insufficient memory."} {
		want := fmt.Sprintf("0/%d nodes are available: %s", s.Nodes, reason)
		outside.Eventually(t, 5*time.Second, func() error {
			got := s.Kubectl("get", "pod", pod, "-n", "shop", "-o", `jsonpath={.status.phase} {.status.conditions[?(@.type=="PodScheduled")].reason} {.status.conditions[?(@.type=="PodScheduled")].message}`)
			if !strings.HasPrefix(got, "Pending Unschedulable "+want) {
				return fmt.Errorf("pod %s: %q, want %q", pod, got, want)
			}
			events := s.Kubectl("get", "events", "-n", "shop", "--field-selector", "involvedObject.name="+pod)
			if !strings.Contains(events, "FailedScheduling") || !strings.Contains(events, want) {
				return fmt.Errorf("pod %s: events %s", pod, events)
			}
			return nil
		})
	}
	says(t, "trace of a pod that waits", s.Wherry("trace", "pod", "nowhere", "-n", "shop", "--name", s.Name, "--kubeconfig", s.Kubeconfig), "node affinity/selector")
	// It goes where it could not as soon as it can.
	s.Kubectl("label", "node", s.NodeName(1), "planet=mars")
	s.Kubectl("wait", "--for=condition=Ready", "pod/nowhere", "-n", "shop", "--timeout=20s")
	s.Kubectl("delete", "pod", "nowhere", "giant", "-n", "shop")
}
