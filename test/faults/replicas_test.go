package faults

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"wherry.dev/wherry/test/outside"
)

// TestSeveralServers: three API servers over one etcd agree on who is there, who leads and what is taken; one that dies is missed within seconds.
func TestSeveralServers(t *testing.T) {
	began := time.Now()
	r := outside.StartReplicas(t, 1, 3)
	t.Logf("three servers are ready after %v", time.Since(began))
	first := r.Servers[0].Kube

	// Everybody is an endpoint of the Service by which pods find the API, and has its Lease.
	endpoints := func(want ...string) func() error {
		return func() error {
			slice, err := first.DiscoveryV1().EndpointSlices("default").Get(t.Context(), "kubernetes", metav1.GetOptions{})
			if err != nil {
				return err
			}
			var have []string
			for _, e := range slice.Endpoints {
				have = append(have, e.Addresses...)
			}
			if slices.Sort(have); !slices.Equal(have, want) {
				return fmt.Errorf("endpoints %v, want %v", have, want)
			}
			return nil
		}
	}
	outside.Eventually(t, 30*time.Second, endpoints("10.99.0.11", "10.99.0.12", "10.99.0.13"))
	outside.Eventually(t, 30*time.Second, func() error {
		leases, err := first.CoordinationV1().Leases("kube-system").List(t.Context(), metav1.ListOptions{LabelSelector: "apiserver.kubernetes.io/identity=kube-apiserver"})
		if err != nil {
			return err
		}
		var hosts []string
		for _, l := range leases.Items {
			hosts = append(hosts, l.Labels["kubernetes.io/hostname"])
		}
		if slices.Sort(hosts); !slices.Equal(hosts, []string{"s1", "s2", "s3"}) {
			return fmt.Errorf("identity leases of %v", hosts)
		}
		return nil
	})

	// What one writes all others read at once, and no address and no port is given twice, whoever is asked.
	const each = 40
	var mu sync.Mutex
	taken := map[string]string{}
	var clients sync.WaitGroup
	for n, s := range r.Servers {
		for half := range 2 {
			clients.Go(func() {
				for i := range each / 2 {
					name := fmt.Sprintf("svc-%d-%d-%d", n, half, i)
					svc, err := s.Kube.CoreV1().Services("default").Create(t.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name},
						Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{{Port: 80}}}}, metav1.CreateOptions{})
					if err != nil {
						t.Errorf("create %s: %v", name, err)
						return
					}
					other := r.Servers[(n+1)%len(r.Servers)]
					if got, err := other.Kube.CoreV1().Services("default").Get(t.Context(), name, metav1.GetOptions{}); err != nil || got.ResourceVersion != svc.ResourceVersion {
						t.Errorf("%s does not know what %s has stored: %v", other.Name, s.Name, err)
					}
					mu.Lock()
					for _, what := range []string{svc.Spec.ClusterIP, fmt.Sprint(svc.Spec.Ports[0].NodePort)} {
						if who := taken[what]; who != "" {
							t.Errorf("%s was given to %s and to %s", what, who, name)
						}
						taken[what] = name
					}
					mu.Unlock()
				}
			})
		}
	}
	clients.Wait()
	if len(taken) != 2*each*len(r.Servers) {
		t.Fatalf("%d addresses and ports for %d services", len(taken), each*len(r.Servers))
	}

	// The leader's death: another one takes over both leases, and the endpoints lose the dead one's address.
	leader := func(lease string) string {
		l, err := first.CoordinationV1().Leases("kube-system").Get(t.Context(), lease, metav1.GetOptions{})
		if err != nil || l.Spec.HolderIdentity == nil {
			return ""
		}
		host, _, _ := strings.Cut(*l.Spec.HolderIdentity, "_")
		return host
	}
	outside.Eventually(t, 30*time.Second, func() error {
		if leader("kube-controller-manager") == "" || leader("kube-scheduler") == "" {
			return fmt.Errorf("no leader")
		}
		return nil
	})
	// Work for both: the service account that a controller makes in a new namespace, a pod that the scheduler binds.
	work := func(s *outside.Server, name string) {
		t.Helper()
		kube := s.Kube
		if _, err := kube.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		outside.Eventually(t, 40*time.Second, func() error {
			_, err := kube.CoreV1().ServiceAccounts(name).Get(t.Context(), "default", metav1.GetOptions{})
			return err
		})
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
		if _, err := kube.CoreV1().Pods(name).Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		outside.Eventually(t, 40*time.Second, func() error {
			got, err := kube.CoreV1().Pods(name).Get(t.Context(), "p", metav1.GetOptions{})
			if err == nil && got.Spec.NodeName == "" {
				err = fmt.Errorf("the pod has no node: %+v", got.Status)
			}
			return err
		})
	}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Status: corev1.NodeStatus{
		Capacity: corev1.ResourceList{"cpu": q("8"), "memory": q("8Gi"), "pods": q("110")}, Allocatable: corev1.ResourceList{"cpu": q("8"), "memory": q("8Gi"), "pods": q("110")},
		Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: metav1.Now(), LastTransitionTime: metav1.Now()}}}}
	if _, err := first.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	outside.Eventually(t, 20*time.Second, func() error { // the taint of a node that is not ready goes
		n, err := first.CoreV1().Nodes().Get(t.Context(), "n", metav1.GetOptions{})
		if err == nil && len(n.Spec.Taints) > 0 {
			err = fmt.Errorf("taints %v", n.Spec.Taints)
		}
		return err
	})
	work(r.Servers[0], "before")

	dead := slices.IndexFunc(r.Servers, func(s *outside.Server) bool { return s.Name == leader("kube-controller-manager") })
	alive := r.Servers[(dead+1)%3]
	first = alive.Kube
	killed := time.Now()
	r.Servers[dead].Kill()
	outside.Eventually(t, 60*time.Second, func() error {
		for _, lease := range []string{"kube-controller-manager", "kube-scheduler"} {
			if who := leader(lease); who == "" || who == r.Servers[dead].Name {
				return fmt.Errorf("%s is led by %q", lease, who)
			}
		}
		return nil
	})
	t.Logf("another server leads %v after the leader's death", time.Since(killed))
	work(alive, "after")
	var left []string
	for i, s := range r.Servers {
		if i != dead {
			left = append(left, s.IP)
		}
	}
	outside.Eventually(t, 40*time.Second, endpoints(left...))

	// A server that is asked to end goes at once from the endpoints, and gives its leases to another without a wait.
	next := slices.IndexFunc(r.Servers, func(s *outside.Server) bool { return s.Name == leader("kube-controller-manager") })
	last := r.Servers[3-dead-next]
	first = last.Kube
	stopped := time.Now()
	r.Servers[next].Stop()
	outside.Eventually(t, 10*time.Second, endpoints(last.IP))
	outside.Eventually(t, 14*time.Second, func() error { // sooner than the lease runs out
		if who := leader("kube-controller-manager"); who != last.Name {
			return fmt.Errorf("led by %q", who)
		}
		return nil
	})
	t.Logf("another server leads %v after the leader was asked to end", time.Since(stopped))
	work(last, "alone")
}

func q(text string) resource.Quantity { return resource.MustParse(text) }
