package namespace

import (
	"context"
	"log/slog"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"wherry.dev/wherry/internal/testcluster"
)

// A namespace with a pod that takes its time and an object that somebody holds: what can go goes, what stays is named, and when
// the last of it goes, so does the namespace.
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
	const remain = "Some resources are remaining: configmaps. has 1 resource instances, pods. has 1 resource instances"
	testcluster.Until(t, remain, func() bool { return condition(corev1.NamespaceContentRemaining) == remain })
	testcluster.Until(t, "finalizers named", func() bool {
		return strings.HasSuffix(condition(corev1.NamespaceFinalizersRemaining), "finalizers remaining: example.com/hold in 1 resource instances")
	})
	if pod, err := core.Pods("shop").Get(ctx, "web", metav1.GetOptions{}); err != nil || pod.DeletionTimestamp == nil || *pod.DeletionGracePeriodSeconds != 30 {
		t.Errorf("the pod's own grace is not kept: %v, %+v", err, pod)
	}
	if _, err := core.Secrets("shop").Get(ctx, "plain", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the secret is still there: %v", err)
	}

	must(core.ConfigMaps("shop").Patch(ctx, "held", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}))
	now := int64(0)
	if err := core.Pods("shop").Delete(ctx, "web", metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
		t.Fatal(err)
	}
	testcluster.Until(t, "the namespace gone", func() bool {
		_, err := core.Namespaces().Get(ctx, "shop", metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
	must(core.Secrets("default").Get(ctx, "other", metav1.GetOptions{}))
}
