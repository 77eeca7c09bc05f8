package apiserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestComponentStatuses: components are asked when somebody wants to know, one or all, and shown in every form; nobody writes or watches them.
func TestComponentStatuses(t *testing.T) {
	says := func(status corev1.ConditionStatus, message string, err error) func(context.Context) (corev1.ConditionStatus, string, error) {
		return func(context.Context) (corev1.ConditionStatus, string, error) { return status, message, err }
	}
	w := start(t, func(c *Config) {
		c.Components = []Component{{"etcd-0", says(corev1.ConditionTrue, "ok", nil)}, {"ill", says(corev1.ConditionFalse, "down", nil)}, {"odd", says(corev1.ConditionUnknown, "", errors.New("no answer"))}}
	})
	for name, protobuf := range map[string]bool{"json": false, "protobuf": true} {
		t.Run(name, func(t *testing.T) {
			parts := w.client(t, protobuf).CoreV1().ComponentStatuses()
			list, err := parts.List(t.Context(), metav1.ListOptions{})
			if err != nil || len(list.Items) != 3 || list.Items[1].Name != "ill" || list.Items[1].Conditions[0] != (corev1.ComponentCondition{Type: corev1.ComponentHealthy, Status: corev1.ConditionFalse, Message: "down"}) {
				t.Errorf("%+v %v", list, err)
			}
			if list, err := parts.List(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=odd"}); err != nil || len(list.Items) != 1 || list.Items[0].Conditions[0].Error != "no answer" {
				t.Errorf("%+v %v", list, err)
			}
			if list, err := parts.List(t.Context(), metav1.ListOptions{LabelSelector: "a=b"}); err != nil || len(list.Items) != 0 {
				t.Errorf("%+v %v", list, err)
			}
			if one, err := parts.Get(t.Context(), "etcd-0", metav1.GetOptions{}); err != nil || one.Conditions[0].Message != "ok" {
				t.Errorf("%+v %v", one, err)
			}
			if _, err := parts.Get(t.Context(), "etcd-1", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				t.Errorf("%v", err)
			}
			if err := parts.Delete(t.Context(), "etcd-0", metav1.DeleteOptions{}); !apierrors.IsMethodNotSupported(err) {
				t.Errorf("%v", err)
			}
			if _, err := parts.Watch(t.Context(), metav1.ListOptions{}); !apierrors.IsMethodNotSupported(err) {
				t.Errorf("%v", err)
			}
		})
	}
	const path = "/api/v1/componentstatuses"
	code, header, body := w.raw(t, "GET", path, admin, map[string]string{"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}, "")
	var table metav1.Table
	if err := json.Unmarshal([]byte(body), &table); code != 200 || err != nil || len(table.Rows) != 3 {
		t.Fatal(code, body)
	}
	if want := `299 - "v1 ComponentStatus is deprecated in v1.19+"`; header.Get("Warning") != want {
		t.Errorf("%q", header.Get("Warning"))
	}
	for i, want := range []string{"[etcd-0 Healthy ok ]", "[ill Unhealthy down ]", "[odd Unhealthy  no answer]"} {
		if got := fmt.Sprint(table.Rows[i].Cells); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	code, _, body = w.raw(t, "GET", path, admin, map[string]string{"Accept": "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"}, "")
	var partial metav1.PartialObjectMetadataList
	if err := json.Unmarshal([]byte(body), &partial); code != 200 || err != nil || len(partial.Items) != 3 || partial.Items[2].Name != "odd" || partial.Kind != "PartialObjectMetadataList" {
		t.Error(code, body)
	}
}
