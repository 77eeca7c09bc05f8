package scheduler

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"wherry.dev/wherry/client"
)

// start runs a scheduler on a fake API whose binding subresource binds, as the real one does.
func start(t *testing.T, objects ...runtime.Object) (*fake.Clientset, *int) {
	t.Helper()
	cs := fake.NewClientset(objects...)
	refuse := 0
	cs.PrependReactor("create", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
		if action.GetSubresource() != "binding" {
			return false, nil, nil
		}
		if refuse > 0 {
			refuse--
			return true, nil, apierrors.NewInternalError(fmt.Errorf("refused by the test"))
		}
		binding := action.(clienttesting.CreateAction).GetObject().(*corev1.Binding)
		resource := schema.GroupVersionResource{Version: "v1", Resource: "pods"}
		obj, err := cs.Tracker().Get(resource, binding.Namespace, binding.Name)
		if err != nil {
			return true, nil, err
		}
		pod := obj.(*corev1.Pod).DeepCopy()
		pod.Spec.NodeName = binding.Target.Name
		return true, binding, cs.Tracker().Update(resource, pod, binding.Namespace)
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	set := &client.Set{Kubernetes: cs, Informers: informers.NewSharedInformerFactory(cs, 0)}
	ready := make(chan struct{})
	go func() {
		done <- Run(ctx, Config{Client: set, Log: slog.New(slog.DiscardHandler), Ready: func() { close(ready) }})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		set.Informers.Shutdown()
	})
	select {
	case <-ready:
	case <-time.After(10 * time.Second):
		t.Fatal("scheduler is not ready after 10 s")
	}
	return cs, &refuse
}

// await watches a pod until it is as wanted.
func await(t *testing.T, cs *fake.Clientset, name string, ok func(*corev1.Pod) bool) *corev1.Pod {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	w, err := cs.CoreV1().Pods("default").Watch(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	pod, err := cs.CoreV1().Pods("default").Get(ctx, name, metav1.GetOptions{})
	for err == nil && !ok(pod) {
		select {
		case e := <-w.ResultChan():
			if p, is := e.Object.(*corev1.Pod); is && p.Name == name && e.Type != watch.Deleted {
				pod = p
			}
		case <-ctx.Done():
			t.Fatalf("pod %s is not as wanted: node %q, conditions %v", name, pod.Spec.NodeName, pod.Status.Conditions)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return pod
}

func TestRunBindsExplainsAndRetries(t *testing.T) {
	cs, refuse := start(t, testNode("n1", 1000, 1<<30, 10, nil), testNode("n2", 1000, 1<<30, 10, func(n *corev1.Node) {
		n.Spec.Taints = []corev1.Taint{{Key: "k", Effect: corev1.TaintEffectNoSchedule}}
	}))
	create := func(p *corev1.Pod) {
		t.Helper()
		if _, err := cs.CoreV1().Pods("default").Create(t.Context(), p, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	*refuse = 1 // a bind that fails is decided again
	create(testPod("a", 600, 0, nil))
	if pod := await(t, cs, "a", func(p *corev1.Pod) bool { return p.Spec.NodeName != "" }); pod.Spec.NodeName != "n1" {
		t.Errorf("a is on %s", pod.Spec.NodeName)
	}
	create(testPod("b", 600, 0, nil))
	pod := await(t, cs, "b", func(p *corev1.Pod) bool { return len(p.Status.Conditions) > 0 })
	if got, want := pod.Status.Conditions[0].Message, "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint(s). preemption: 0/2 nodes are available: 1 No preemption victims found for incoming pod, 1 Preemption is not helpful for scheduling."; got != want {
		t.Errorf("message %q, want %q", got, want)
	}
	// Room that is made wakes it.
	if err := cs.CoreV1().Pods("default").Delete(t.Context(), "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	await(t, cs, "b", func(p *corev1.Pod) bool { return p.Spec.NodeName == "n1" })
}
