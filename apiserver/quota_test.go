package apiserver

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"

	"wherry.dev/wherry/api/kinds"
	"wherry.dev/wherry/apiserver/admission"
	"wherry.dev/wherry/client"
)

// TestQuotaUnderConcurrency: many at once get exactly as much as there is room for, and the status says so.
func TestQuotaUnderConcurrency(t *testing.T) {
	chain, err := admission.New(admission.Config{Served: kinds.Served(kinds.All()), Disable: []string{"ServiceAccount"}})
	if err != nil {
		t.Fatal(err)
	}
	w, cs := running(t, func(c *Config) { c.Admission = chain.Plugins() })
	set := &client.Set{Kubernetes: w.client(t, true), Informers: informers.NewSharedInformerFactory(cs, 0)}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if err := chain.Initialize(ctx, set); err != nil {
		t.Fatal(err)
	}
	set.Informers.Start(ctx.Done())
	defer set.Informers.Shutdown()
	defer cancel()
	set.Informers.WaitForCacheSync(ctx.Done())

	const room, asking = 7, 40
	hard := corev1.ResourceList{"configmaps": resource.MustParse(fmt.Sprint(room))}
	quotas := cs.CoreV1().ResourceQuotas("default")
	q, err := quotas.Create(ctx, &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "q"}, Spec: corev1.ResourceQuotaSpec{Hard: hard}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// Until somebody has counted nothing is given.
	configMap := func(name string, options metav1.CreateOptions) error {
		_, err := cs.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, options)
		return err
	}
	q.Status = corev1.ResourceQuotaStatus{Hard: hard, Used: corev1.ResourceList{"configmaps": resource.MustParse("0")}}
	if q, err = quotas.UpdateStatus(ctx, q, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	for seen := ""; seen != q.ResourceVersion; { // by the plugin's own informer, which wakes nobody
		if c, err := set.Informers.Core().V1().ResourceQuotas().Lister().ResourceQuotas("default").Get("q"); err == nil {
			seen = c.ResourceVersion
		}
		if ctx.Err() != nil {
			t.Fatal(ctx.Err())
		}
	}
	if err := configMap("dry", metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}); err != nil {
		t.Errorf("dry run: %v", err)
	}
	var made, refused atomic.Int32
	var all sync.WaitGroup
	for i := range asking {
		all.Go(func() {
			switch err := configMap(fmt.Sprint("m", i), metav1.CreateOptions{}); {
			case err == nil:
				made.Add(1)
			case apierrors.IsForbidden(err) && strings.Contains(err.Error(), "exceeded quota: q, requested: configmaps=1, used: configmaps=7, limited: configmaps=7"):
				refused.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	all.Wait()
	if made.Load() != room || refused.Load() != asking-room {
		t.Errorf("%d made, %d refused, want %d and %d", made.Load(), refused.Load(), room, asking-room)
	}
	if q, err = quotas.Get(ctx, "q", metav1.GetOptions{}); err != nil || q.Status.Used.Name("configmaps", resource.DecimalSI).Value() != room {
		t.Errorf("used %v, %v", q.Status.Used, err)
	}
}
