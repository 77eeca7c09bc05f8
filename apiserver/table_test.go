package apiserver

import (
	"encoding/json"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Clients hide what has ended by the row's condition (kubectl get --show-all=false in its time, dashboards now).
func TestRowsOfEndedPodsSaySo(t *testing.T) {
	w := start(t, nil)
	pods := w.client(t, true).CoreV1().Pods("default")
	for _, phase := range []corev1.PodPhase{corev1.PodRunning, corev1.PodSucceeded} {
		pod, err := pods.Create(t.Context(), testPod("pod-"+map[corev1.PodPhase]string{corev1.PodRunning: "a", corev1.PodSucceeded: "b"}[phase]), metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		pod.Status.Phase = phase
		if _, err := pods.UpdateStatus(t.Context(), pod, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	code, _, body := w.raw(t, "GET", "/api/v1/namespaces/default/pods", admin, map[string]string{"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}, "")
	var table metav1.Table
	if err := json.Unmarshal([]byte(body), &table); code != 200 || err != nil || len(table.Rows) != 2 {
		t.Fatal(code, body)
	}
	if len(table.Rows[0].Conditions) != 0 {
		t.Errorf("a running pod's row has the conditions %v", table.Rows[0].Conditions)
	}
	if c := table.Rows[1].Conditions; len(c) != 1 || c[0].Type != metav1.RowCompleted || c[0].Status != metav1.ConditionTrue || c[0].Reason != "Succeeded" {
		t.Errorf("an ended pod's row has the conditions %v", c)
	}
}
