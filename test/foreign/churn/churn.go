// Package churn makes work for controllers and a scheduler: objects of every kind that they look after are made, changed and deleted, round after
// round, and each round waits for what must come of it. Nodes are hollow.
package churn

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	"wherry.dev/wherry/test/foreign/hollow"
)

// Cluster is what is churned.
type Cluster struct {
	Kube    kubernetes.Interface
	Dynamic dynamic.Interface
	Nodes   *hollow.Nodes
	// Say is told of the progress.
	Say func(format string, args ...any)
}

// turn is one scenario in one namespace.
type turn struct {
	Cluster
	ns string
}

// scenarios, each over objects of its own; every one cleans up what is not in its namespace.
var scenarios = []struct {
	name string
	run  func(*turn, context.Context) error
}{
	{"deployment", (*turn).deployment},
	{"statefulset", (*turn).statefulSet},
	{"daemonset", (*turn).daemonSet},
	{"replication controller", (*turn).replicationController},
	{"job", (*turn).job},
	{"cronjob", (*turn).cronJob},
	{"autoscaler", (*turn).autoscaler},
	{"service", (*turn).service},
	{"quota", (*turn).quota},
	{"disruption", (*turn).disruption},
	{"service account", (*turn).serviceAccount},
	{"aggregated role", (*turn).aggregatedRole},
	{"certificate", (*turn).certificate},
	{"volume", (*turn).volume},
	{"late volume", (*turn).lateVolume},
	{"custom resource", (*turn).customResource},
	{"owner", (*turn).owner},
	{"node", (*turn).node},
	{"taint", (*turn).taint},
	{"priority", (*turn).priority},
	{"finalizer", (*turn).finalizer},
	{"policy", (*turn).policy},
}

// patience bounds each wait. A busy machine is slow; a lost event is for ever.
const patience = 5 * time.Minute

// Run churns until the time is over, a round at a time, in each round every scenario, some beside each other. It returns how many rounds there were.
func (c Cluster) Run(ctx context.Context, d time.Duration, parallel int) (rounds int, err error) {
	end := time.Now().Add(d)
	for rounds == 0 || time.Now().Before(end) {
		if err := c.round(ctx, parallel); err != nil {
			return rounds, err
		}
		rounds++
	}
	return rounds, nil
}

func (c Cluster) round(ctx context.Context, parallel int) error {
	began := time.Now()
	room := make(chan struct{}, parallel)
	errs := make([]error, len(scenarios))
	var group sync.WaitGroup
	for i, s := range scenarios {
		room <- struct{}{}
		group.Go(func() {
			defer func() { <-room }()
			if err := c.turn(ctx, s.run); err != nil {
				errs[i] = fmt.Errorf("%s: %w", s.name, err)
			}
		})
	}
	group.Wait()
	if c.Say != nil {
		c.Say("a round of %d scenarios in %v", len(scenarios), time.Since(began).Round(time.Millisecond))
	}
	return errors.Join(errs...)
}

// turn runs one scenario in a namespace of its own, and waits until the namespace is gone again with all that is in it.
func (c Cluster) turn(ctx context.Context, run func(*turn, context.Context) error) error {
	t := &turn{Cluster: c, ns: unique("churn")}
	namespaces := c.Kube.CoreV1().Namespaces()
	if _, err := namespaces.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: t.ns}}, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("make namespace: %w", err)
	}
	err := t.until(ctx, "the namespace's service account", func(ctx context.Context) (bool, error) {
		_, err := c.Kube.CoreV1().ServiceAccounts(t.ns).Get(ctx, "default", metav1.GetOptions{})
		return err == nil, ignoreNotFound(err)
	})
	if err == nil {
		err = run(t, ctx)
	}
	if err := namespaces.Delete(ctx, t.ns, metav1.DeleteOptions{}); err != nil {
		return fmt.Errorf("delete namespace: %w", err)
	}
	return errors.Join(err, t.until(ctx, "the namespace to be gone", func(ctx context.Context) (bool, error) {
		_, err := namespaces.Get(ctx, t.ns, metav1.GetOptions{})
		return apierrors.IsNotFound(err), ignoreNotFound(err)
	}))
}

// until looks until something holds.
func (t *turn) until(ctx context.Context, what string, look func(context.Context) (bool, error)) error {
	err := wait.PollUntilContextTimeout(ctx, 100*time.Millisecond, patience, true, look)
	if err != nil {
		return fmt.Errorf("wait for %s in %s: %w", what, t.ns, err)
	}
	return nil
}

// pods counts those that match and are not on their way out.
func (t *turn) pods(ctx context.Context, selector string, counts func(*corev1.Pod) bool) (n int, err error) {
	list, err := t.Kube.CoreV1().Pods(t.ns).List(ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return 0, err
	}
	for i := range list.Items {
		if p := &list.Items[i]; p.DeletionTimestamp == nil && counts(p) {
			n++
		}
	}
	return n, nil
}

// untilPods waits for so many running pods.
func (t *turn) untilPods(ctx context.Context, selector string, want int) error {
	return t.until(ctx, fmt.Sprintf("%d running pods with %s", want, selector), func(ctx context.Context) (bool, error) {
		n, err := t.pods(ctx, selector, func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodRunning })
		return n == want, err
	})
}

func ignoreNotFound(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// unique makes names of one turn differ from another's.
func unique(prefix string) string {
	b := make([]byte, 4)
	_, _ = rand.Read(b)
	return prefix + "-" + hex.EncodeToString(b)
}

func labels(app string) map[string]string { return map[string]string{"app": app} }

func selector(app string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: labels(app)}
}

// template is a small pod.
func template(app string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels(app)}, Spec: podSpec()}
}

func podSpec() corev1.PodSpec {
	return corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "example.invalid/app:1", Ports: []corev1.ContainerPort{{ContainerPort: 80}},
		Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("10m"), corev1.ResourceMemory: resource.MustParse("16Mi")}}}}}
}

func ptr[T any](v T) *T { return &v }
