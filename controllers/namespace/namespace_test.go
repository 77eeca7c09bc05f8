package namespace

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	"wherry.dev/wherry/internal/testcluster"
)

// A namespace with a pod that takes its time and an object that somebody holds: the pod goes first, then what can go goes, what stays is named, and
// when the last of it goes, so does the namespace.
func TestEmptiesAndLetsGo(t *testing.T) {
	c := testcluster.Start(t)
	c.Run(t, func(ctx context.Context) error {
		return Run(ctx, Config{Client: c.Set, Log: slog.New(slog.DiscardHandler)})
	})
	ctx, core := t.Context(), c.Kubernetes.CoreV1()
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	meta := func(name string, finalizers ...string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Name: name, Namespace: "shop", Finalizers: finalizers}
	}
	must(core.Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}, metav1.CreateOptions{}))
	must(core.Pods("shop").Create(ctx, &corev1.Pod{ObjectMeta: meta("web"), Spec: corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "c", Image: "i"}}}}, metav1.CreateOptions{}))
	must(core.Secrets("shop").Create(ctx, &corev1.Secret{ObjectMeta: meta("plain")}, metav1.CreateOptions{}))
	must(core.ConfigMaps("shop").Create(ctx, &corev1.ConfigMap{ObjectMeta: meta("held", "example.com/hold")}, metav1.CreateOptions{}))
	must(core.Secrets("default").Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "other", Namespace: "default"}}, metav1.CreateOptions{}))
	if err := core.Namespaces().Delete(ctx, "shop", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}

	condition := func(what corev1.NamespaceConditionType) string {
		n, err := core.Namespaces().Get(ctx, "shop", metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		for _, c := range n.Status.Conditions {
			if c.Type == what && c.Status == corev1.ConditionTrue {
				return c.Message
			}
		}
		return ""
	}
	remains := func(what string) {
		t.Helper()
		testcluster.Until(t, what+" remain", func() bool {
			return condition(corev1.NamespaceContentRemaining) == "Some resources are remaining: "+what+". has 1 resource instances"
		})
	}
	remains("pods")
	if pod, err := core.Pods("shop").Get(ctx, "web", metav1.GetOptions{}); err != nil || pod.DeletionTimestamp == nil || *pod.DeletionGracePeriodSeconds != 30 {
		t.Errorf("the pod's own grace is not kept: %v, %+v", err, pod)
	}
	must(core.Secrets("shop").Get(ctx, "plain", metav1.GetOptions{})) // the pod may still need it

	now := int64(0)
	if err := core.Pods("shop").Delete(ctx, "web", metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
		t.Fatal(err)
	}
	remains("configmaps")
	testcluster.Until(t, "finalizers named", func() bool {
		return strings.HasSuffix(condition(corev1.NamespaceFinalizersRemaining), "finalizers remaining: example.com/hold in 1 resource instances")
	})
	if _, err := core.Secrets("shop").Get(ctx, "plain", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the secret is still there: %v", err)
	}
	must(core.ConfigMaps("shop").Patch(ctx, "held", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}))
	testcluster.Until(t, "the namespace gone", func() bool {
		_, err := core.Namespaces().Get(ctx, "shop", metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
	must(core.Secrets("default").Get(ctx, "other", metav1.GetOptions{}))
}

// TestCustomResourcesGoToo: what a definition defines goes with the namespace, and one that is held keeps it.
func TestCustomResourcesGoToo(t *testing.T) {
	c := testcluster.Start(t)
	c.Run(t, func(ctx context.Context) error {
		return Run(ctx, Config{Client: c.Set, Log: slog.New(slog.DiscardHandler)})
	})
	ctx := t.Context()
	free, err := dynamic.NewForConfig(c.Config)
	if err != nil {
		t.Fatal(err)
	}
	object := func(text string) *unstructured.Unstructured {
		u := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(text), &u.Object); err != nil {
			t.Fatal(err)
		}
		return u
	}
	crds := schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
	if _, err := free.Resource(crds).Create(ctx, object(`{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: cups.shop.example}, spec: {group: shop.example, scope: Namespaced,
  names: {plural: cups, kind: Cup}, versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}]}}`), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Kubernetes.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "mall"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	cups := free.Resource(schema.GroupVersionResource{Group: "shop.example", Version: "v1", Resource: "cups"}).Namespace("mall")
	testcluster.Until(t, "cups are served", func() bool {
		_, err := cups.Create(ctx, object("{apiVersion: shop.example/v1, kind: Cup, metadata: {name: free}}"), metav1.CreateOptions{})
		return err == nil
	})
	if _, err := cups.Create(ctx, object("{apiVersion: shop.example/v1, kind: Cup, metadata: {name: held, finalizers: [shop.example/hold]}}"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := c.Kubernetes.CoreV1().Namespaces().Delete(ctx, "mall", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	testcluster.Until(t, "one is left and named", func() bool {
		n, err := c.Kubernetes.CoreV1().Namespaces().Get(ctx, "mall", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(n.Status.Conditions, func(c corev1.NamespaceCondition) bool {
			return c.Type == corev1.NamespaceContentRemaining && strings.Contains(c.Message, "cups.shop.example has 1 resource instances")
		})
	})
	if _, err := cups.Patch(ctx, "held", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	testcluster.Until(t, "the namespace is gone", func() bool {
		_, err := c.Kubernetes.CoreV1().Namespaces().Get(ctx, "mall", metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
}
