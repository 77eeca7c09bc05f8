package ack

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"

	"wherry.dev/wherry/lifecycle"
)

// node runs a tracker with two parties against a fake API, and lets f report.
func node(t *testing.T, client *fake.Clientset, f func(proxy, dns *Party)) {
	t.Helper()
	tr := NewTracker()
	proxy, dns := tr.Party(), tr.Party()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := tr.Run(ctx, Config{Kubernetes: client, NodeName: "n1"}); err != nil {
			t.Error(err)
		}
	})
	f(proxy, dns)
	cancel()
	wg.Wait()
}

// written is the acknowledged revision; empty without Lease.
func written(t *testing.T, client *fake.Clientset) string {
	t.Helper()
	l, err := client.CoordinationV1().Leases(lifecycle.DrainNamespace).Get(t.Context(), "endpoints-n1", metav1.GetOptions{})
	if err != nil {
		return ""
	}
	return l.Annotations[lifecycle.ProgrammedAnnotation]
}

func TestLowestOfAllIsWrittenOnlyWhenSomethingLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		node(t, client, func(proxy, dns *Party) {
			step := func(p *Party, revision uint64, leaving bool, want string) {
				t.Helper()
				p.Reached(revision, leaving)
				synctest.Wait()
				if got := written(t, client); got != want {
					t.Errorf("after %d: %q, want %q", revision, got, want)
				}
			}
			step(proxy, 10, false, "")
			step(dns, 10, false, "")
			step(proxy, 20, true, "10") // all that is true by now; nobody who waits for 20 takes it for more
			step(dns, 15, false, "15")
			step(dns, 20, true, "20")
			step(dns, 30, false, "20") // nothing left: nobody waits
			step(proxy, 40, false, "20")
			step(dns, 50, true, "40")
			step(proxy, 45, false, "45")
			step(proxy, 60, false, "50")
			step(proxy, 55, true, "50") // late news of what is reached already
		})
	})
}

func TestFailedWritesAreRepeatedWithTheNewest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		var mu sync.Mutex
		fail, calls := true, 0
		client.PrependReactor("patch", "leases", func(k8stesting.Action) (bool, runtime.Object, error) {
			mu.Lock()
			defer mu.Unlock()
			calls++
			return fail, nil, errors.New("unreachable")
		})
		node(t, client, func(proxy, dns *Party) {
			for i := range uint64(5) {
				proxy.Reached(100+i, true)
				dns.Reached(100+i, true)
			}
			synctest.Wait()
			mu.Lock()
			fail = false
			mu.Unlock()
			for range 10 {
				ctx, cancel := context.WithTimeout(t.Context(), retryMost)
				<-ctx.Done() // fake time
				cancel()
				synctest.Wait()
			}
		})
		if got := written(t, client); got != "104" {
			t.Errorf("%q after %d calls", got, calls)
		}
		if calls > 12 {
			t.Errorf("%d calls for one revision", calls)
		}
	})
}

func ExampleTracker() {
	t := NewTracker()
	proxy, dns := t.Party(), t.Party()
	proxy.Reached(7, true)
	dns.Reached(5, false)
	fmt.Println(t.lowest())
	// Output: 5
}
