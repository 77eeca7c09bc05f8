package bench

import (
	"context"
	"fmt"
	"net"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// runLabel marks everything that a run makes.
const runLabel = "bench.wherry.dev/run"

// nobody is a scheduler name that no scheduler has: such pods stay where the benchmark wants them.
const nobody = "bench.wherry.dev/nobody"

// dialFunc opens a connection.
type dialFunc = func(ctx context.Context, network, address string) (net.Conn, error)

func newDialer() dialFunc {
	d := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}
	return d.DialContext
}

// pod is an ordinary small pod: two labels, one container with requests, about 2 KB once it is stored.
func (t Target) pod(namespace, name, run string) *corev1.Pod {
	never := int64(0)
	token := false
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{runLabel: run, "app": "bench"}},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: &never,
			AutomountServiceAccountToken:  &token,
			Containers: []corev1.Container{{
				Name: "app", Image: t.Image,
				Env:   []corev1.EnvVar{{Name: "MESSAGE", Value: "bench"}},
				Ports: []corev1.ContainerPort{{ContainerPort: 8080}},
				Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
					corev1.ResourceCPU: resource.MustParse("1m"), corev1.ResourceMemory: resource.MustParse("8Mi"),
				}},
			}},
		},
	}
}

// inNamespace runs f with a namespace of its own, which is removed afterwards.
func (t Target) inNamespace(ctx context.Context, f func(namespace, run string, cs kubernetes.Interface) error) error {
	all, err := t.clients(1)
	if err != nil {
		return err
	}
	cs, run := all[0], unique()
	namespace := "bench-" + run
	if _, err := cs.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace, Labels: map[string]string{runLabel: run}}}, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("make namespace: %w", err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
		defer cancel()
		now := int64(0)
		_ = cs.CoreV1().Pods(namespace).DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: &now}, metav1.ListOptions{LabelSelector: runLabel + "=" + run})
		_ = cs.CoreV1().Namespaces().Delete(ctx, namespace, metav1.DeleteOptions{})
	}()
	// Controllers make the namespace's service account a moment later, if there are any; pods are refused before.
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	if _, err := cs.CoreV1().ServiceAccounts(namespace).Create(ctx, account, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("make the default service account: %w", err)
	}
	return f(namespace, run, cs)
}
