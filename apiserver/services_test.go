package apiserver

import (
	"context"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// running starts a server and what it keeps by itself.
func running(t *testing.T, change func(*Config)) (*world, kubernetes.Interface) {
	t.Helper()
	w := start(t, change)
	ctx, cancel := context.WithCancel(context.Background())
	done, ready := make(chan error, 1), make(chan struct{})
	go func() { done <- w.Run(ctx, func() { close(ready) }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	select {
	case <-ready:
	case <-time.After(10 * time.Second):
		t.Fatal("the server's own objects are not there")
	}
	return w, w.client(t, true)
}

func service(name string, change func(*corev1.ServiceSpec)) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Spec: corev1.ServiceSpec{Selector: map[string]string{"a": "b"}, Ports: []corev1.ServicePort{{Name: "one", Port: 80}}}}
	if change != nil {
		change(&s.Spec)
	}
	return s
}

// TestOwnObjects checks what the server makes for itself at its start.
func TestOwnObjects(t *testing.T) {
	w, cs := running(t, func(c *Config) { c.Advertise = netip.MustParseAddrPort("192.0.2.7:6443") })
	ctx := context.Background()
	for _, name := range systemNamespaces {
		if ns, err := cs.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{}); err != nil || ns.Status.Phase != corev1.NamespaceActive {
			t.Errorf("namespace %s: %v %v", name, ns, err)
		}
	}
	svc, err := cs.CoreV1().Services("default").Get(ctx, "kubernetes", metav1.GetOptions{})
	if err != nil || svc.Spec.ClusterIP != "10.96.0.1" || svc.Spec.Ports[0].Port != 443 || svc.Spec.Ports[0].TargetPort.IntValue() != 6443 {
		t.Fatal(svc, err)
	}
	slice, err := cs.DiscoveryV1().EndpointSlices("default").Get(ctx, "kubernetes", metav1.GetOptions{})
	if err != nil || len(slice.Endpoints) != 1 || slice.Endpoints[0].Addresses[0] != "192.0.2.7" || *slice.Ports[0].Port != 6443 {
		t.Fatal(slice, err)
	}
	// Doing it again changes nothing.
	if err := w.bootstrap(ctx, cs); err != nil {
		t.Fatal(err)
	}
	again, err := cs.DiscoveryV1().EndpointSlices("default").Get(ctx, "kubernetes", metav1.GetOptions{})
	if err != nil || again.ResourceVersion != slice.ResourceVersion {
		t.Fatal("written again", err)
	}
}

// TestServiceClaims goes through what Services claim and give back.
func TestServiceClaims(t *testing.T) {
	w, cs := running(t, func(c *Config) {
		c.ServiceCIDRs = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/28"), netip.MustParsePrefix("fd00::/112")}
		c.NodePorts = [2]int32{30000, 30003}
	})
	ctx := context.Background()
	services := cs.CoreV1().Services("default")
	create := func(s *corev1.Service) (*corev1.Service, error) {
		return services.Create(ctx, s, metav1.CreateOptions{})
	}
	must := func(s *corev1.Service) *corev1.Service {
		t.Helper()
		out, err := create(s)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	refused := func(s *corev1.Service, want string) {
		t.Helper()
		if _, err := create(s); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), want) {
			t.Fatalf("%v, want %q", err, want)
		}
	}

	a := must(service("a", nil))
	if a.Spec.ClusterIP == "" || len(a.Spec.ClusterIPs) != 1 || len(a.Spec.IPFamilies) != 1 || *a.Spec.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack {
		t.Fatalf("%+v", a.Spec)
	}
	refused(service("b", func(s *corev1.ServiceSpec) { s.ClusterIP = a.Spec.ClusterIP }), "provided IP is already allocated")
	refused(service("b", func(s *corev1.ServiceSpec) { s.ClusterIP = "10.1.0.1" }), "the provided IP (10.1.0.1) is not in the valid range. The range of valid IPs is 10.0.0.0/28")
	dual := must(service("dual", func(s *corev1.ServiceSpec) {
		p := corev1.IPFamilyPolicyPreferDualStack
		s.IPFamilyPolicy = &p
	}))
	if len(dual.Spec.ClusterIPs) != 2 || !strings.HasPrefix(dual.Spec.ClusterIPs[1], "fd00::") {
		t.Fatalf("%+v", dual.Spec)
	}
	if none := must(service("none", func(s *corev1.ServiceSpec) { s.ClusterIP = "None" })); len(none.Spec.ClusterIPs) != 1 || none.Spec.ClusterIPs[0] != "None" {
		t.Fatalf("%+v", none.Spec)
	}

	// Node ports: the same number for two protocols of one port, nothing for a dry run, all back in the end.
	np := must(service("np", func(s *corev1.ServiceSpec) {
		s.Type = corev1.ServiceTypeNodePort
		s.Ports = []corev1.ServicePort{{Name: "t", Port: 53}, {Name: "u", Port: 53, Protocol: corev1.ProtocolUDP}}
	}))
	port := np.Spec.Ports[0].NodePort
	if port < 30000 || port > 30003 || np.Spec.Ports[1].NodePort != port {
		t.Fatalf("%+v", np.Spec.Ports)
	}
	refused(service("c", func(s *corev1.ServiceSpec) { s.Type, s.Ports[0].NodePort = corev1.ServiceTypeNodePort, port }), "provided port is already allocated")
	refused(service("c", func(s *corev1.ServiceSpec) { s.Type, s.Ports[0].NodePort = corev1.ServiceTypeNodePort, 40000 }), "provided port is not in the valid range. The range of valid ports is 30000-30003")
	for range 5 {
		if _, err := services.Create(ctx, service("dry", func(s *corev1.ServiceSpec) { s.Type = corev1.ServiceTypeNodePort }), metav1.CreateOptions{DryRun: []string{"All"}}); err != nil {
			t.Fatal(err)
		}
	}
	np.Spec.Type = corev1.ServiceTypeClusterIP
	np, err := services.Update(ctx, np, metav1.UpdateOptions{})
	if err != nil || np.Spec.Ports[0].NodePort != 0 || np.Spec.ClusterIP == "" {
		t.Fatal(np, err)
	}
	for i, name := range []string{"e", "f", "g", "h"} { // the whole range is free again
		if s := must(service(name, func(s *corev1.ServiceSpec) { s.Type = corev1.ServiceTypeNodePort })); s.Spec.Ports[0].NodePort == 0 {
			t.Fatal(i, s.Spec)
		}
	}
	if _, err := create(service("i", func(s *corev1.ServiceSpec) { s.Type = corev1.ServiceTypeNodePort })); err == nil || !strings.Contains(err.Error(), "failed to allocate a nodePort: range is full") {
		t.Fatal(err)
	}

	// Addresses run out and come back; nobody gets one twice.
	var mu sync.Mutex
	seen := map[string]bool{}
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			s, err := create(service("s"+string(rune('a'+i)), nil))
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil && !strings.Contains(err.Error(), "failed to allocate a serviceIP: range is full"):
				t.Error(err)
			case err == nil && seen[s.Spec.ClusterIP]:
				t.Errorf("%s twice", s.Spec.ClusterIP)
			case err == nil:
				seen[s.Spec.ClusterIP] = true
			}
		})
	}
	wg.Wait()
	if err := services.Delete(ctx, "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if z := must(service("z", nil)); z.Spec.ClusterIP != a.Spec.ClusterIP {
		t.Errorf("%s, the only free one is %s", z.Spec.ClusterIP, a.Spec.ClusterIP)
	}
	if err := w.claims.Repair(ctx, w.now.Load().storage["services/specs"]); err != nil {
		t.Fatal(err)
	}
}
