package podgc

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"

	"wherry.dev/wherry/client"
)

func TestWhichPodsGo(t *testing.T) {
	now := metav1.Now()
	pod := func(name, node string, deleted *metav1.Time) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: "u", DeletionTimestamp: deleted}, Spec: corev1.PodSpec{NodeName: node}}
	}
	synctest.Test(t, func(t *testing.T) {
		api := fake.NewClientset([]runtime.Object{
			&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "there"}}, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "leaving"}},
			pod("on-node", "there", nil), pod("on-node-leaving", "there", &now), pod("orphan", "never-was", nil), pod("left", "leaving", nil),
			pod("unbound", "", nil), pod("unbound-leaving", "", &now),
		}...)
		set := &client.Set{Kubernetes: api, Informers: informers.NewSharedInformerFactory(api, 0)}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- Run(ctx, Config{Client: set, Log: slog.New(slog.DiscardHandler)}) }()
		want := func(when string, names ...string) {
			t.Helper()
			synctest.Wait()
			list, err := api.CoreV1().Pods("ns").List(ctx, metav1.ListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]bool{}
			for _, p := range list.Items {
				got[p.Name] = true
			}
			if len(got) != len(names) {
				t.Errorf("%s: %v are there, want %v", when, got, names)
			}
			for _, n := range names {
				if !got[n] {
					t.Errorf("%s: pod %s is gone", when, n)
				}
			}
		}
		time.Sleep(time.Second)
		want("at once", "on-node", "on-node-leaving", "orphan", "left", "unbound")
		if err := api.CoreV1().Nodes().Delete(ctx, "leaving", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(defaultQuarantine - time.Second/2)
		want("when the orphan's quarantine is over", "on-node", "on-node-leaving", "left", "unbound")
		time.Sleep(2 * time.Second)
		want("when the other's is", "on-node", "on-node-leaving", "unbound")
		failed := 0
		for _, a := range api.Actions() {
			if a.GetVerb() == "patch" && a.GetSubresource() == "status" {
				failed++
			}
		}
		if failed != 3 {
			t.Errorf("%d pods were marked as failed, want 3", failed)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		set.Informers.Shutdown()
	})
}
