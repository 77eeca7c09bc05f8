package proxy

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	nl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"

	"wherry.dev/wherry/client"
	"wherry.dev/wherry/lifecycle"
	"wherry.dev/wherry/network/netnstest"
	"wherry.dev/wherry/network/nft"
	"wherry.dev/wherry/trace"
)

const testTable = "wherry-services-test"

// node is a proxy that runs in the test's own namespace, with pods, a machine outside and an API of its own.
type node struct {
	t       *testing.T
	api     *fake.Clientset
	pods    map[string]*pod
	outside *netnstest.Namespace

	mu       sync.Mutex // guards all below
	revision int
	reached  uint64
	leaving  bool
	spans    []trace.Span
}

type pod struct {
	ns     *netnstest.Namespace
	v4, v6 netip.Addr
}

func (n *node) Reached(revision uint64, leaving bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.reached, n.leaving = max(n.reached, revision), n.leaving || leaving
}

func (n *node) Record(s trace.Span) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.spans = append(n.spans, s)
}

func newNode(t *testing.T, pods ...string) *node {
	netnstest.Need(t)
	for _, path := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		if err := os.WriteFile("/proc/sys/net/"+path, []byte("1"), 0); err != nil {
			t.Fatal(err)
		}
	}
	n := &node{t: t, pods: map[string]*pod{}, revision: 100}
	n.api = fake.NewClientset(&corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{corev1.LabelTopologyZone: "z1"}},
		Spec:       corev1.NodeSpec{PodCIDRs: []string{"10.244.0.0/16"}},
		Status:     corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}}},
	})
	connect := func(link string, ns *netnstest.Namespace, subnet4, subnet6 string) *pod {
		netnstest.Connect(t, netnstest.Link{Name: link, Addresses: []string{subnet4 + "1/24", subnet6 + "1/64"}},
			netnstest.Link{Namespace: ns, Name: "eth0", Addresses: []string{subnet4 + "2/24", subnet6 + "2/64"}})
		ns.Route("0.0.0.0/0", subnet4+"1")
		ns.Route("::/0", subnet6+"1")
		return &pod{ns, netip.MustParseAddr(subnet4 + "2"), netip.MustParseAddr(subnet6 + "2")}
	}
	n.outside = netnstest.New(t)
	connect("out", n.outside, "192.0.2.", "2001:db8::")
	for i, p := range pods {
		n.pods[p] = connect(p, netnstest.New(t), fmt.Sprintf("10.244.%d.", i), fmt.Sprintf("fd00:244:0:%d::", i))
		n.pods[p].serve(t, p)
	}
	t.Cleanup(func() {
		h := ownHandle(t)
		for _, name := range append(pods, "out") {
			if l, err := h.LinkByName(name); err == nil {
				h.LinkDel(l)
			}
		}
		Cleanup(testTable)
		RemoveRoutes(serviceCIDRs)
	})
	return n
}

var serviceCIDRs = []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd00:96::/112")}

// serve answers TCP connections and UDP packets on port 8080 with the pod's name and the client's address.
func (p *pod) serve(t *testing.T, who string) {
	var l net.Listener
	var u net.PacketConn
	p.ns.Do(func() (err error) {
		if l, err = net.Listen("tcp", ":8080"); err == nil {
			u, err = net.ListenPacket("udp", ":8080")
		}
		return err
	})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, who+" "+plainHost(c.RemoteAddr()))
			c.Close()
		}
	})
	wg.Go(func() {
		buf := make([]byte, 100)
		for {
			_, from, err := u.ReadFrom(buf)
			if err != nil {
				return
			}
			u.WriteTo([]byte(who+" "+plainHost(from)), from)
		}
	})
	t.Cleanup(func() { l.Close(); u.Close(); wg.Wait() })
}

func plainHost(a net.Addr) string { return netip.MustParseAddrPort(a.String()).Addr().Unmap().String() }

// start runs the proxy until stop or the test's end, and returns when it is ready.
func (n *node) start() (stop func()) {
	n.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	factory := informers.NewSharedInformerFactory(n.api, 0)
	factory.Core().V1().Services().Informer()
	factory.Core().V1().Nodes().Informer()
	factory.Discovery().V1().EndpointSlices().Informer()
	factory.Start(ctx.Done())
	ready := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		done <- Run(ctx, Config{Client: &client.Set{Kubernetes: n.api, Informers: factory}, NodeName: "n1", ServiceCIDRs: serviceCIDRs, Table: testTable,
			Progress: n, Trace: n, Log: slog.New(slog.NewTextHandler(n.t.Output(), nil)), Ready: func() { close(ready) }})
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			n.t.Errorf("Run: %v", err)
		}
		factory.Shutdown()
	})
	n.t.Cleanup(stop)
	select {
	case <-ready:
	case err := <-done:
		n.t.Fatalf("Run ended: %v", err)
	case <-time.After(10 * time.Second):
		n.t.Fatal("not ready within 10 s")
	}
	return stop
}

// service makes or replaces a Service with port 80/TCP and 53/UDP, both leading to 8080.
func (n *node) service(nameAndIP string, change func(*corev1.Service)) {
	n.t.Helper()
	svcName, ip, _ := strings.Cut(nameAndIP, " ")
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: svcName, Namespace: "ns"},
		Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, ClusterIP: strings.Fields(ip)[0], ClusterIPs: strings.Fields(ip),
			Ports: []corev1.ServicePort{{Name: "web", Port: 80, Protocol: corev1.ProtocolTCP}, {Name: "udp", Port: 53, Protocol: corev1.ProtocolUDP}}},
	}
	if change != nil {
		change(svc)
	}
	services := n.api.CoreV1().Services("ns")
	if _, err := services.Update(n.t.Context(), svc, metav1.UpdateOptions{}); err == nil {
		return
	}
	if _, err := services.Create(n.t.Context(), svc, metav1.CreateOptions{}); err != nil {
		n.t.Fatal(err)
	}
}

// endpoint describes one endpoint of a slice in a test.
type endpoint struct {
	pod                 string
	node                string // default n1
	notReady            bool
	terminating, served bool
}

// slice makes or replaces the Service's slices, and returns the revision of the last.
func (n *node) slice(svc string, eps ...endpoint) uint64 {
	n.t.Helper()
	var last uint64
	for _, family := range []discoveryv1.AddressType{discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6} {
		n.revision++
		last = uint64(n.revision)
		es := &discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{Name: svc + strings.ToLower(string(family)), Namespace: "ns", ResourceVersion: strconv.Itoa(n.revision),
				Labels: map[string]string{discoveryv1.LabelServiceName: svc}},
			AddressType: family,
			Ports: []discoveryv1.EndpointPort{
				{Name: ptr("web"), Port: ptr(int32(8080)), Protocol: ptr(corev1.ProtocolTCP)},
				{Name: ptr("udp"), Port: ptr(int32(8080)), Protocol: ptr(corev1.ProtocolUDP)}},
		}
		for _, e := range eps {
			addr := n.pods[e.pod].v4
			if family == discoveryv1.AddressTypeIPv6 {
				addr = n.pods[e.pod].v6
			}
			if e.node == "" {
				e.node = "n1"
			}
			ready := !e.notReady && !e.terminating
			es.Endpoints = append(es.Endpoints, discoveryv1.Endpoint{Addresses: []string{addr.String()}, NodeName: &e.node,
				Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: ptr(ready || e.served), Terminating: &e.terminating},
				TargetRef:  &corev1.ObjectReference{Kind: "Pod", Namespace: "ns", Name: e.pod, UID: types.UID("uid-" + e.pod)}})
		}
		c := n.api.DiscoveryV1().EndpointSlices("ns")
		if _, err := c.Update(n.t.Context(), es, metav1.UpdateOptions{}); err == nil {
			continue
		}
		if _, err := c.Create(n.t.Context(), es, metav1.CreateOptions{}); err != nil {
			n.t.Fatal(err)
		}
	}
	return last
}

func ptr[T any](v T) *T { return &v }

// until waits for a condition, and fails when it does not come true.
func (n *node) until(what string, ok func() bool) {
	n.t.Helper()
	deadline := time.Now().Add(15 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			n.t.Fatalf("not within 15 s: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// wait waits until the proxy has reached the revision.
func (n *node) wait(revision uint64) {
	n.t.Helper()
	n.until(fmt.Sprint("revision ", revision, " is reached"), func() bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		return n.reached >= revision
	})
}

// ask connects from ns (nil: the node) and returns "pod client" or the error in a word.
func ask(ns *netnstest.Namespace, network, addr string) string {
	return askWithin(3*time.Second, ns, network, addr)
}

// silence is how long a packet is waited for that should not come.
const silence = 300 * time.Millisecond

func askWithin(patience time.Duration, ns *netnstest.Namespace, network, addr string) string {
	answer := ""
	f := func() error {
		c, err := net.DialTimeout(network, addr, patience)
		if err != nil {
			return err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		if network == "udp" {
			c.Write([]byte("?"))
		}
		buf := make([]byte, 100)
		k, err := c.Read(buf)
		answer = string(buf[:k])
		return err
	}
	var err error
	if ns == nil {
		err = f()
	} else {
		err = ns.Try(f)
	}
	switch {
	case answer != "":
		return answer
	case err == nil:
		return "empty"
	case strings.Contains(err.Error(), "refused"):
		return "refused"
	case strings.Contains(err.Error(), "timeout"):
		return "timeout"
	}
	return err.Error()
}

// answers collects the different answers of k requests, sorted.
func answers(k int, ns *netnstest.Namespace, network, addr string) string {
	seen := map[string]bool{}
	for range k {
		seen[ask(ns, network, addr)] = true
	}
	var out []string
	for a := range seen {
		out = append(out, a)
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

func (n *node) want(ns *netnstest.Namespace, network, addr, want string) {
	n.t.Helper()
	if got := answers(24, ns, network, addr); got != want {
		n.t.Errorf("%s %s answers %q, want %q", network, addr, got, want)
	}
}

// quick is want with one request.
func (n *node) quick(ns *netnstest.Namespace, network, addr, want string) {
	n.t.Helper()
	patience := 3 * time.Second
	if want == "timeout" {
		patience = silence
	}
	if got := askWithin(patience, ns, network, addr); got != want {
		n.t.Errorf("%s %s answers %q, want %q", network, addr, got, want)
	}
}

// Cluster IPs of both families, TCP and UDP, from a pod, from the node, and from an endpoint to itself.
func TestClusterIP(t *testing.T) {
	n := newNode(t, "a", "b", "c")
	n.service("s 10.96.0.1 fd00:96::1", nil)
	n.slice("s", endpoint{pod: "a"}, endpoint{pod: "b"})
	n.start()
	a, c := n.pods["a"], n.pods["c"]
	n.want(c.ns, "tcp", "10.96.0.1:80", "a 10.244.2.2, b 10.244.2.2")
	n.want(c.ns, "tcp", "[fd00:96::1]:80", "a fd00:244:0:2::2, b fd00:244:0:2::2")
	n.want(c.ns, "udp", "10.96.0.1:53", "a 10.244.2.2, b 10.244.2.2")
	n.want(nil, "tcp", "10.96.0.1:80", "a 192.0.2.1, b 192.0.2.1")
	n.want(nil, "udp", "10.96.0.1:53", "a 192.0.2.1, b 192.0.2.1")
	n.want(a.ns, "tcp", "10.96.0.1:80", "a 10.244.0.1, b 10.244.0.2") // itself: by the node's address
	n.quick(c.ns, "tcp", "10.96.0.1:81", "refused")
	n.quick(c.ns, "tcp", "10.96.0.99:80", "timeout") // no such Service
	n.quick(nil, "tcp", "10.96.0.1:81", "refused")

	n.wait(n.slice("s", endpoint{pod: "b"}))
	n.want(c.ns, "tcp", "10.96.0.1:80", "b 10.244.2.2")
	n.wait(n.slice("s"))
	n.quick(c.ns, "tcp", "10.96.0.1:80", "refused")
	n.quick(c.ns, "udp", "10.96.0.1:53", "refused")
	n.quick(nil, "tcp", "10.96.0.1:80", "refused")
	n.quick(c.ns, "tcp", "[fd00:96::1]:80", "refused")
	n.wait(n.slice("s", endpoint{pod: "a"}))
	n.want(c.ns, "tcp", "10.96.0.1:80", "a 10.244.2.2")
	if err := n.api.CoreV1().Services("ns").Delete(t.Context(), "s", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	n.until("the deleted Service is dropped", func() bool { return askWithin(silence, c.ns, "tcp", "10.96.0.1:80") == "timeout" })
}

// Terminating endpoints get new connections only while there are no others and they still serve.
func TestTerminatingFallback(t *testing.T) {
	n := newNode(t, "a", "b", "c")
	n.service("s 10.96.0.1", nil)
	n.slice("s", endpoint{pod: "a", terminating: true, served: true}, endpoint{pod: "b"})
	n.start()
	c := n.pods["c"].ns
	n.want(c, "tcp", "10.96.0.1:80", "b 10.244.2.2")
	n.wait(n.slice("s", endpoint{pod: "a", terminating: true, served: true}, endpoint{pod: "b", notReady: true}))
	n.want(c, "tcp", "10.96.0.1:80", "a 10.244.2.2")
	n.wait(n.slice("s", endpoint{pod: "a", terminating: true}, endpoint{pod: "b", notReady: true}))
	n.quick(c, "tcp", "10.96.0.1:80", "refused")
}

func TestInternalTrafficPolicyLocal(t *testing.T) {
	n := newNode(t, "a", "b", "c")
	n.service("s 10.96.0.1", func(s *corev1.Service) { s.Spec.InternalTrafficPolicy = ptr(corev1.ServiceInternalTrafficPolicyLocal) })
	n.slice("s", endpoint{pod: "a"}, endpoint{pod: "b", node: "n2"})
	n.start()
	c := n.pods["c"].ns
	n.want(c, "tcp", "10.96.0.1:80", "a 10.244.2.2")
	n.wait(n.slice("s", endpoint{pod: "b", node: "n2"}))
	n.quick(c, "tcp", "10.96.0.1:80", "timeout")
	n.wait(n.slice("s"))
	n.quick(c, "tcp", "10.96.0.1:80", "refused")
}

// Node ports, external addresses and load balancer addresses, with both external traffic policies.
func TestExternalTraffic(t *testing.T) {
	n := newNode(t, "a", "b", "c")
	full := func(policy corev1.ServiceExternalTrafficPolicy) func(*corev1.Service) {
		return func(s *corev1.Service) {
			s.Spec.Type, s.Spec.ExternalTrafficPolicy = corev1.ServiceTypeLoadBalancer, policy
			s.Spec.Ports[0].NodePort, s.Spec.Ports[1].NodePort = 30080, 30053
			s.Spec.ExternalIPs = []string{"198.51.100.7"}
			s.Spec.LoadBalancerSourceRanges = []string{"192.0.2.0/30", " 192.0.2.0/24", "2001:db8::/64"}
			s.Spec.HealthCheckNodePort = 30999
			s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "198.51.100.8"}, {IP: "198.51.100.9", IPMode: ptr(corev1.LoadBalancerIPModeProxy)}}
		}
	}
	n.service("s 10.96.0.1 fd00:96::1", full(corev1.ServiceExternalTrafficPolicyCluster))
	n.slice("s", endpoint{pod: "a"}, endpoint{pod: "b", node: "n2"})
	n.outside.Route("198.51.100.0/24", "192.0.2.1")
	n.start()
	c := n.pods["c"].ns
	hidden := "a 10.244.0.1, b 10.244.1.1" // masqueraded by the node
	n.want(n.outside, "tcp", "192.0.2.1:30080", hidden)
	n.want(n.outside, "tcp", "[2001:db8::1]:30080", "a fd00:244::1, b fd00:244:0:1::1")
	n.want(n.outside, "udp", "192.0.2.1:30053", hidden)
	n.want(n.outside, "tcp", "198.51.100.7:80", hidden)
	n.want(n.outside, "tcp", "198.51.100.8:80", hidden)
	n.want(nil, "tcp", "192.0.2.1:30080", hidden)
	n.want(c, "tcp", "192.0.2.1:30080", hidden)
	n.quick(c, "tcp", "198.51.100.8:80", "timeout")         // not in the source ranges
	n.quick(n.outside, "tcp", "127.0.0.1:30080", "refused") // its own loopback
	n.quick(nil, "tcp", "127.0.0.1:30080", "refused")       // node ports are not on loopback, as with upstream's nftables proxy

	n.service("s 10.96.0.1 fd00:96::1", full(corev1.ServiceExternalTrafficPolicyLocal))
	n.until("policy Local keeps the client's address", func() bool { return answers(10, n.outside, "tcp", "192.0.2.1:30080") == "a 192.0.2.2" })
	n.want(n.outside, "tcp", "198.51.100.8:80", "a 192.0.2.2")
	n.want(n.outside, "udp", "192.0.2.1:30053", "a 192.0.2.2")
	n.want(nil, "tcp", "192.0.2.1:30080", hidden)                     // the node itself may go anywhere
	n.want(c, "tcp", "192.0.2.1:30080", "a 10.244.2.2, b 10.244.2.2") // so may its pods, under their own address
	health := func() string {
		r, err := http.Get("http://127.0.0.1:30999/healthz")
		if err != nil {
			return err.Error()
		}
		defer r.Body.Close()
		b, _ := io.ReadAll(r.Body)
		return fmt.Sprint(r.StatusCode, " ", string(b))
	}
	if got := health(); got != `200 {"localEndpoints":1,"service":{"name":"s","namespace":"ns"},"serviceProxyHealthy":true}` {
		t.Errorf("health-check node port: %s", got)
	}
	n.wait(n.slice("s", endpoint{pod: "b", node: "n2"}))
	n.quick(n.outside, "tcp", "192.0.2.1:30080", "timeout")
	n.want(nil, "tcp", "192.0.2.1:30080", "b 10.244.1.1")
	if got := health(); !strings.HasPrefix(got, "503 ") {
		t.Errorf("health-check node port without endpoint: %s", got)
	}
	n.wait(n.slice("s"))
	n.quick(n.outside, "tcp", "192.0.2.1:30080", "refused")
	n.service("s 10.96.0.1", nil)
	n.until("the node port is closed", func() bool { return strings.Contains(health(), "refused") })
}

// A client stays with its endpoint, until it was away for the timeout or the endpoint leaves; another client is not bound by it.
func TestSessionAffinity(t *testing.T) {
	n := newNode(t, "a", "b", "c", "d")
	sticky := func(s *corev1.Service) {
		s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
		s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: ptr(int32(1))}}
	}
	n.service("s 10.96.0.1 fd00:96::1", sticky)
	three := []endpoint{{pod: "a"}, {pod: "b"}, {pod: "c"}}
	n.slice("s", three...)
	n.start()
	d := n.pods["d"].ns
	for _, addr := range []string{"10.96.0.1:80", "[fd00:96::1]:80"} {
		first := ask(d, "tcp", addr)
		n.want(d, "tcp", addr, first)
	}
	first := ask(d, "tcp", "10.96.0.1:80")
	var rest []endpoint
	for _, e := range three {
		if e.pod != first[:1] {
			rest = append(rest, e)
		}
	}
	n.wait(n.slice("s", rest...))
	second := ask(d, "tcp", "10.96.0.1:80")
	if second[:1] == first[:1] {
		t.Fatalf("%s answers although it left", second)
	}
	n.want(d, "tcp", "10.96.0.1:80", second)
	// The one that left comes back: the client must not fall back to it.
	n.wait(n.slice("s", three...))
	n.want(d, "tcp", "10.96.0.1:80", second)
	// 40 clients do not all stay with one endpoint.
	seen := map[string]bool{}
	h := n.pods["d"].ns.Handle()
	link, err := h.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 40 {
		ip := netip.AddrFrom4([4]byte{10, 244, 3, byte(100 + i)})
		if err := h.AddrAdd(link, addrOf(ip)); err != nil {
			t.Fatal(err)
		}
		var got [2]string
		for j := range got {
			err := d.Try(func() error {
				c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: ip.AsSlice()}, Timeout: time.Second}).Dial("tcp", "10.96.0.1:80")
				if err != nil {
					return err
				}
				defer c.Close()
				b, err := io.ReadAll(c)
				got[j] = string(b)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		if got[0] != got[1] {
			t.Errorf("client %s: %v", ip, got)
		}
		seen[got[0][:1]] = true
	}
	if len(seen) != 3 {
		t.Errorf("40 clients went to %v", seen)
	}
	// After the timeout clients are spread anew.
	time.Sleep(1500 * time.Millisecond) // the kernel's clock cannot be faked
	for range 20 {
		time.Sleep(1200 * time.Millisecond)
		if ask(d, "tcp", "10.96.0.1:80") != second {
			return
		}
	}
	t.Error("the affinity never ends")
}

// A UDP client that keeps its port is led away from an endpoint that no longer serves.
func TestStaleUDPFlow(t *testing.T) {
	n := newNode(t, "a", "b", "c")
	n.service("s 10.96.0.1", nil)
	n.slice("s", endpoint{pod: "a"})
	n.start()
	var u net.Conn
	n.pods["c"].ns.Do(func() (err error) { u, err = net.Dial("udp", "10.96.0.1:53"); return err })
	defer u.Close()
	say := func() string {
		u.SetDeadline(time.Now().Add(time.Second))
		u.Write([]byte("?"))
		buf := make([]byte, 100)
		k, err := u.Read(buf)
		if err != nil {
			return "error"
		}
		return string(buf[:k])
	}
	if got := say(); got != "a 10.244.2.2" {
		t.Fatalf("first answer %q", got)
	}
	n.wait(n.slice("s", endpoint{pod: "a", terminating: true, served: true}, endpoint{pod: "b"}))
	if got := say(); got != "a 10.244.2.2" {
		t.Errorf("while the endpoint still serves: %q", got)
	}
	n.wait(n.slice("s", endpoint{pod: "b"}))
	n.until("the flow leads to b", func() bool { return say() == "b 10.244.2.2" })
}

// UDP clients that keep their port, or are given one that another had, obey a traffic policy and source ranges from the moment these change.
func TestUDPFlowsObeyChangedPolicy(t *testing.T) {
	n := newNode(t, "a", "b", "c")
	change := func(policy corev1.ServiceExternalTrafficPolicy, internal corev1.ServiceInternalTrafficPolicy, ranges ...string) {
		n.service("s 10.96.0.1", func(s *corev1.Service) {
			s.Spec.Type, s.Spec.ExternalTrafficPolicy, s.Spec.InternalTrafficPolicy = corev1.ServiceTypeLoadBalancer, policy, &internal
			s.Spec.Ports[1].NodePort, s.Spec.LoadBalancerSourceRanges = 30053, ranges
			s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "198.51.100.8"}}
		})
	}
	change(corev1.ServiceExternalTrafficPolicyCluster, corev1.ServiceInternalTrafficPolicyCluster)
	n.slice("s", endpoint{pod: "a"}, endpoint{pod: "b", node: "n2"})
	n.outside.Route("198.51.100.0/24", "192.0.2.1")
	n.start()
	// ask sends from a port of its own, always the same.
	ask := func(ns *netnstest.Namespace, to string, port int) (answer string) {
		ns.Do(func() error {
			u, err := net.ListenUDP("udp4", &net.UDPAddr{Port: port})
			if err != nil {
				return err
			}
			defer u.Close()
			u.WriteToUDPAddrPort([]byte("?"), netip.MustParseAddrPort(to))
			u.SetDeadline(time.Now().Add(silence))
			buf := make([]byte, 100)
			k, _, _ := u.ReadFromUDP(buf)
			answer = string(buf[:k])
			return nil
		})
		return answer
	}
	const first, clients = 20000, 12
	all := func(ns *netnstest.Namespace, to string) string {
		seen := map[string]bool{}
		for i := range clients {
			seen[ask(ns, to, first+i)] = true
		}
		return strings.Join(slices.Sorted(maps.Keys(seen)), ", ")
	}
	inside := n.pods["c"].ns
	for _, c := range []struct {
		ns       *netnstest.Namespace
		to, want string
	}{
		{n.outside, "192.0.2.1:30053", "a 10.244.0.1, b 10.244.1.1"}, {n.outside, "198.51.100.8:53", "a 10.244.0.1, b 10.244.1.1"}, {inside, "10.96.0.1:53", "a 10.244.2.2, b 10.244.2.2"},
	} {
		if got := all(c.ns, c.to); got != c.want {
			t.Fatalf("%s at first: %q, want %q", c.to, got, c.want)
		}
	}
	change(corev1.ServiceExternalTrafficPolicyLocal, corev1.ServiceInternalTrafficPolicyLocal)
	n.until("policy Local holds for old flows from outside", func() bool { return all(n.outside, "192.0.2.1:30053") == "a 192.0.2.2" })
	n.until("and by the load balancer's address", func() bool { return all(n.outside, "198.51.100.8:53") == "a 192.0.2.2" })
	n.until("and for old flows from pods", func() bool { return all(inside, "10.96.0.1:53") == "a 10.244.2.2" })
	change(corev1.ServiceExternalTrafficPolicyCluster, corev1.ServiceInternalTrafficPolicyCluster, "203.0.113.0/24")
	n.until("old flows from outside the source ranges end", func() bool { return ask(n.outside, "198.51.100.8:53", first) == "" })
	n.until("policy Cluster holds for old flows", func() bool { return ask(n.outside, "192.0.2.1:30053", first) != "a 192.0.2.2" })
}

// A connection whose first packet was lost goes to another endpoint if its own leaves before the client repeats it, and that it has left is only said then.
func TestLostHandshake(t *testing.T) {
	n := newNode(t, "a", "b", "c")
	n.service("s 10.96.0.1 fd00:96::1", func(s *corev1.Service) {
		s.Spec.Type = corev1.ServiceTypeNodePort
		s.Spec.Ports[0].NodePort = 30080
	})
	n.slice("s", endpoint{pod: "a"})
	n.start()
	for _, to := range []struct {
		network, addr string
		ns            *netnstest.Namespace
		want          string
	}{{"tcp4", "10.96.0.1:80", n.pods["c"].ns, "b 10.244.2.2"}, {"tcp6", "[fd00:96::1]:80", n.pods["c"].ns, "b fd00:244:0:2::2"}, {"tcp4", "192.0.2.1:30080", n.outside, "b 10.244.1.1"}} {
		n.wait(n.slice("s", endpoint{pod: "a"}))
		n.quick(to.ns, to.network, to.addr, strings.Replace(strings.Replace(to.want, "b ", "a ", 1), "10.244.1.1", "10.244.0.1", 1))
		// Nothing comes through to a, and nobody is told so.
		h := n.pods["a"].ns.Handle()
		link, err := h.LinkByName("eth0")
		if err != nil {
			t.Fatal(err)
		}
		own := ownHandle(t)
		near, err := own.LinkByName("a")
		if err != nil {
			t.Fatal(err)
		}
		for _, ip := range []netip.Addr{n.pods["a"].v4, n.pods["a"].v6} {
			if err := own.NeighSet(&nl.Neigh{LinkIndex: near.Attrs().Index, State: nl.NUD_PERMANENT, IP: ip.AsSlice(), HardwareAddr: link.Attrs().HardwareAddr}); err != nil {
				t.Fatal(err)
			}
		}
		if err := h.LinkSetDown(link); err != nil {
			t.Fatal(err)
		}
		answer := make(chan string, 1)
		go func() { answer <- askWithin(15*time.Second, to.ns, to.network, to.addr) }()
		key := Key{netip.MustParseAddrPort(to.addr).Addr(), unix.IPPROTO_TCP, netip.MustParseAddrPort(to.addr).Port()}
		a := n.pods["a"].v4
		if to.network == "tcp6" {
			a = n.pods["a"].v6
		}
		under := map[way]bool{{key, netip.AddrPortFrom(a, 8080)}: true}
		conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
		if err != nil {
			t.Fatal(err)
		}
		count := func() int {
			found, err := unanswered(conn, under)
			if err != nil {
				t.Fatal(err)
			}
			return len(found)
		}
		n.until("the handshake is under way", func() bool { return count() > 0 })
		n.wait(n.slice("s", endpoint{pod: "b"}))
		if k := count(); k != 0 {
			t.Errorf("%s: %d handshakes are still under way to an endpoint of which it was said that it has left", to.addr, k)
		}
		if got := <-answer; got != to.want {
			t.Errorf("%s: %q, want %q", to.addr, got, to.want)
		}
		conn.Close()
		if err := h.LinkSetUp(link); err != nil {
			t.Fatal(err)
		}
		n.pods["a"].ns.Route("0.0.0.0/0", "10.244.0.1")
		if err := h.AddrReplace(link, &nl.Addr{IPNet: &net.IPNet{IP: n.pods["a"].v6.AsSlice(), Mask: net.CIDRMask(64, 128)}, Flags: unix.IFA_F_NODAD}); err != nil {
			t.Fatal(err)
		}
		n.pods["a"].ns.Route("::/0", "fd00:244:0:0::1")
	}
}

// Spans, revisions and the sign that something left, for every way in which an endpoint may leave.
func TestProgressAndSpans(t *testing.T) {
	n := newNode(t, "a", "b", "c")
	n.service("s 10.96.0.1", nil)
	n.slice("s", endpoint{pod: "a"})
	n.start()
	state := func() (bool, string) {
		n.mu.Lock()
		defer n.mu.Unlock()
		seen := map[string]bool{}
		for _, s := range n.spans {
			seen[fmt.Sprint(s.Stage, " ", s.PodUID, " ", s.Node, " ", s.Detail)] = true
			if s.End.Before(s.Start) || s.Component != "proxy" || s.Outcome != trace.OK {
				t.Errorf("span %+v", s)
			}
		}
		leaving := n.leaving
		n.leaving, n.spans = false, nil
		var out []string
		for s := range seen {
			out = append(out, s)
		}
		slices.Sort(out)
		return leaving, strings.Join(out, ", ")
	}
	for _, step := range []struct {
		eps     []endpoint
		leaving bool
		spans   string
	}{
		{[]endpoint{{pod: "a"}, {pod: "b", notReady: true}}, false, ""},
		{[]endpoint{{pod: "a"}, {pod: "b"}}, false, "program uid-b n1 ns/s"},
		{[]endpoint{{pod: "a", notReady: true}, {pod: "b"}}, false, ""},
		{[]endpoint{{pod: "a"}, {pod: "b"}}, false, "program uid-a n1 ns/s"},
		{[]endpoint{{pod: "a", terminating: true, served: true}, {pod: "b"}}, true, "drain uid-a n1 ns/s"},
		{[]endpoint{{pod: "a", terminating: true}, {pod: "b"}}, false, ""},
		{[]endpoint{{pod: "b"}}, false, ""},
		{[]endpoint{{pod: "c"}}, true, "drain uid-b n1 ns/s, program uid-c n1 ns/s"},
	} {
		n.wait(n.slice("s", step.eps...))
		if leaving, spans := state(); leaving != step.leaving || spans != step.spans {
			t.Errorf("%+v: leaving %v, spans %q", step.eps, leaving, spans)
		}
	}
	for _, name := range []string{"sipv4", "sipv6"} {
		if err := n.api.DiscoveryV1().EndpointSlices("ns").Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	n.until("the deleted slice drains", func() bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		return n.leaving && len(n.spans) == 2 && n.spans[0].Stage == lifecycle.Drain
	})
}

// Others may flush or delete the table: it comes back.
func TestRepair(t *testing.T) {
	n := newNode(t, "a", "c")
	n.service("s 10.96.0.1", nil)
	n.slice("s", endpoint{pod: "a"})
	n.start()
	for _, damage := range []func(*nftables.Conn){
		func(c *nftables.Conn) { c.DelTable(nft.Table(testTable)) },
		func(c *nftables.Conn) { c.FlushRuleset() },
		func(c *nftables.Conn) { c.FlushTable(nft.Table(testTable)) },
		func(c *nftables.Conn) { c.FlushSet(newSets(nft.Table(testTable), false).services) },
	} {
		c, err := nftables.New()
		if err != nil {
			t.Fatal(err)
		}
		damage(c)
		if err := c.Flush(); err != nil {
			t.Fatal(err)
		}
		n.until("the Service works again", func() bool { return askWithin(silence, n.pods["c"].ns, "tcp", "10.96.0.1:80") == "a 10.244.1.2" })
	}
	n.wait(n.slice("s", endpoint{pod: "c"}))
	n.want(n.pods["a"].ns, "tcp", "10.96.0.1:80", "c 10.244.0.2")
}

// While the proxy is away connections go on, and a restarted one takes over without a gap, with what changed meanwhile.
func TestRestart(t *testing.T) {
	n := newNode(t, "a", "b", "c")
	n.service("s 10.96.0.1", nil)
	n.slice("s", endpoint{pod: "a"})
	n.start()()
	n.slice("s", endpoint{pod: "a"}, endpoint{pod: "b", terminating: true})
	end := make(chan struct{})
	failed := make(chan string, 1)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-end:
				return
			default:
			}
			if got := ask(n.pods["c"].ns, "tcp", "10.96.0.1:80"); got != "a 10.244.2.2" {
				select {
				case failed <- got:
				default:
				}
			}
		}
	})
	n.start()
	close(end)
	wg.Wait()
	select {
	case got := <-failed:
		t.Errorf("during the restart: %s", got)
	default:
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.leaving || n.reached < uint64(n.revision) || len(n.spans) > 0 {
		t.Errorf("after the restart: leaving %v, reached %d of %d, spans %v", n.leaving, n.reached, n.revision, n.spans)
	}
}

func TestCleanup(t *testing.T) {
	n := newNode(t, "a")
	n.service("s 10.96.0.1", nil)
	n.slice("s", endpoint{pod: "a"})
	n.start()()
	for range 2 {
		if err := Cleanup(testTable); err != nil {
			t.Error(err)
		}
		if err := RemoveRoutes(serviceCIDRs); err != nil {
			t.Error(err)
		}
	}
	c, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	if there, err := nft.HasTable(c, testTable); err != nil || there {
		t.Errorf("table after Cleanup: %v, %v", there, err)
	}
}
