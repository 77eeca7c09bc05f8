package resourcequota

import (
	"context"
	"log/slog"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	"wherry.dev/wherry/internal/testcluster"
)

const cups = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: cups.shop.example}
spec:
  group: shop.example
  scope: Namespaced
  names: {plural: cups, kind: Cup}
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}]
`

// TestCountsCustomResources: a quota counts what a definition defines, as it comes and goes.
func TestCountsCustomResources(t *testing.T) {
	c := testcluster.Start(t)
	ctx := t.Context()
	free, err := dynamic.NewForConfig(c.Config)
	if err != nil {
		t.Fatal(err)
	}
	definition := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(cups), &definition.Object); err != nil {
		t.Fatal(err)
	}
	crds := schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
	if _, err := free.Resource(crds).Create(ctx, definition, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	resource1 := free.Resource(schema.GroupVersionResource{Group: "shop.example", Version: "v1", Resource: "cups"}).Namespace("default")
	cup := func(name string) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{"apiVersion": "shop.example/v1", "kind": "Cup", "metadata": map[string]any{"name": name}}}
	}
	testcluster.Until(t, "cups are served", func() bool {
		_, err := resource1.Create(ctx, cup("first"), metav1.CreateOptions{})
		return err == nil
	})
	c.Run(t, func(ctx context.Context) error {
		return Run(ctx, Config{Client: c.Set, Log: slog.New(slog.DiscardHandler)})
	})
	quotas := c.Kubernetes.CoreV1().ResourceQuotas("default")
	if _, err := quotas.Create(ctx, &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "q"}, Spec: corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{"count/cups.shop.example": resource.MustParse("5")}}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	used := func(want string) {
		t.Helper()
		testcluster.Until(t, "the quota says "+want, func() bool {
			q, err := quotas.Get(ctx, "q", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			n := q.Status.Used["count/cups.shop.example"]
			return n.String() == want
		})
	}
	used("1")
	if err := resource1.Delete(ctx, "first", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	used("0")
}
