// Package network_test puts the parts of a node's network together as a node does: pods connected by the plugin, routes, proxy, DNS
// and acknowledgement in one namespace, against one API.
package network_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"

	"wherry.dev/wherry/client"
	wherrydns "wherry.dev/wherry/dns"
	"wherry.dev/wherry/lifecycle"
	"wherry.dev/wherry/network/ack"
	"wherry.dev/wherry/network/cni"
	"wherry.dev/wherry/network/netnstest"
	"wherry.dev/wherry/network/routes"
	"wherry.dev/wherry/proxy"
)

const asPlugin = "WHERRY_TEST_AS_PLUGIN"

func TestMain(m *testing.M) {
	if os.Getenv(asPlugin) != "" {
		cni.Main()
		return
	}
	netnstest.Main(m)
}

const (
	nodeIP  = "192.0.2.1"
	podCIDR = "10.244.3.0/24"
)

var (
	serviceCIDR = netip.MustParsePrefix("10.96.0.0/16")
	dnsIP       = netip.MustParseAddr("10.96.0.10")
)

// add connects a pod by the plugin and returns its address.
func add(t *testing.T, conf, container string, ns *netnstest.Namespace, extra string) string {
	t.Helper()
	var list struct {
		Name, CNIVersion string
		Plugins          []map[string]any
	}
	text, err := os.ReadFile(conf)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &list); err != nil {
		t.Fatal(err)
	}
	one := list.Plugins[0]
	one["name"], one["cniVersion"] = list.Name, list.CNIVersion
	if extra != "" {
		one["runtimeConfig"] = json.RawMessage(extra)
	}
	stdin, _ := json.Marshal(one)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), asPlugin+"=1", "CNI_COMMAND=ADD", "CNI_CONTAINERID="+container, "CNI_IFNAME=eth0", "CNI_NETNS="+ns.Path(), "CNI_PATH=/x")
	cmd.Stdin = bytes.NewReader(stdin)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("ADD %s: %v: %s", container, err, out)
	}
	var result struct{ IPs []struct{ Address string } }
	if err := json.Unmarshal(out, &result); err != nil || len(result.IPs) != 1 {
		t.Fatalf("ADD %s: %s", container, out)
	}
	return netip.MustParsePrefix(result.IPs[0].Address).Addr().String()
}

func serve(t *testing.T, ns *netnstest.Namespace, addr, who string) {
	t.Helper()
	var l net.Listener
	listen := func() (err error) { l, err = net.Listen("tcp", addr); return err }
	if ns != nil {
		ns.Do(listen)
	} else if err := listen(); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
			io.WriteString(c, who+" "+host)
			c.Close()
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
}

func ask(ns *netnstest.Namespace, addr string) string {
	var answer string
	f := func() error {
		c, err := net.DialTimeout("tcp", addr, time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(time.Second))
		b, err := io.ReadAll(c)
		answer = string(b)
		return err
	}
	err := f
	if ns != nil {
		err = func() error { return ns.Try(f) }
	}
	if e := err(); e != nil {
		return e.Error()
	}
	return answer
}

func lookup(t *testing.T, ns *netnstest.Namespace, name string) string {
	t.Helper()
	var out string
	err := ns.Try(func() error {
		m, _, err := (&dns.Client{Timeout: time.Second}).Exchange(new(dns.Msg).SetQuestion(name, dns.TypeA), net.JoinHostPort(dnsIP.String(), "53"))
		if err != nil {
			return err
		}
		for _, rr := range m.Answer {
			if a, ok := rr.(*dns.A); ok {
				out += a.A.String()
			}
		}
		return nil
	})
	if err != nil {
		t.Errorf("look up %s: %v", name, err)
	}
	return out
}

func ptr[T any](v T) *T { return &v }

func service(name, ip string, port int32, change func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns"}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP,
		ClusterIP: ip, ClusterIPs: []string{ip}, Ports: []corev1.ServicePort{{Port: port, Protocol: corev1.ProtocolTCP}}}}
	if change != nil {
		change(s)
	}
	return s
}

func slice(svc, rv string, port int32, eps ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Name: svc + "-1", Namespace: "ns", ResourceVersion: rv, Labels: map[string]string{discoveryv1.LabelServiceName: svc}},
		AddressType: discoveryv1.AddressTypeIPv4, Endpoints: eps, Ports: []discoveryv1.EndpointPort{{Name: ptr(""), Port: &port, Protocol: ptr(corev1.ProtocolTCP)}}}
}

// The plugin, which cannot import the package that makes them, knows the routes between nodes.
func TestRoutesAreKnown(t *testing.T) {
	if cni.RouteProtocol != routes.Protocol {
		t.Errorf("the plugin looks for routes of protocol %d, and they are made with %d", cni.RouteProtocol, routes.Protocol)
	}
}

func TestNode(t *testing.T) {
	netnstest.Need(t)
	outside := netnstest.New(t)
	netnstest.Connect(t, netnstest.Link{Name: "up0", Addresses: []string{nodeIP + "/24"}}, netnstest.Link{Namespace: outside, Name: "eth0", Addresses: []string{"192.0.2.2/24"}})

	api := fake.NewClientset(
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Spec: corev1.NodeSpec{PodCIDRs: []string{podCIDR}},
			Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: nodeIP}}}},
		service("kube-dns", dnsIP.String(), 53, nil), // without endpoints: every node answers itself
		service("kubernetes", "10.96.0.1", 443, nil), slice("kubernetes", "3", 6443, discoveryv1.Endpoint{Addresses: []string{nodeIP}}),
		service("web", "10.96.0.7", 80, func(s *corev1.Service) { s.Spec.Type, s.Spec.Ports[0].NodePort = corev1.ServiceTypeNodePort, 30080 }))
	ctx, cancel := context.WithCancel(t.Context())
	factory := informers.NewSharedInformerFactory(api, 0)
	set := &client.Set{Kubernetes: api, Informers: factory}
	factory.Core().V1().Nodes().Informer()
	factory.Core().V1().Services().Informer()
	factory.Discovery().V1().EndpointSlices().Informer()
	factory.Start(ctx.Done())

	tracker := ack.NewTracker()
	var parts sync.WaitGroup
	var ready sync.WaitGroup
	run := func(name string, f func(ready func()) error) {
		ready.Add(1)
		parts.Go(func() {
			if err := f(ready.Done); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	proxyParty, dnsParty := tracker.Party(), tracker.Party()
	run("routes", func(r func()) error {
		return routes.Run(ctx, routes.Config{Client: set, NodeName: "n1", Ready: r})
	})
	run("proxy", func(r func()) error {
		return proxy.Run(ctx, proxy.Config{Client: set, NodeName: "n1", ServiceCIDRs: []netip.Prefix{serviceCIDR}, Progress: proxyParty, Ready: r})
	})
	run("dns", func(r func()) error {
		return wherrydns.Run(ctx, wherrydns.Config{Client: set, ClusterDNS: []netip.Addr{dnsIP}, Upstreams: []string{}, Progress: dnsParty, Ready: r})
	})
	parts.Go(func() { tracker.Run(ctx, ack.Config{Kubernetes: api, NodeName: "n1"}) })

	dir := t.TempDir()
	network := cni.Network{PodCIDRs: []string{podCIDR}, StateDir: dir + "/state"}
	if err := cni.WriteConfig(dir, network); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cancel()
		parts.Wait()
		factory.Shutdown()
		for what, err := range map[string]error{
			"cni": cni.Cleanup(dir, network), "proxy": proxy.Cleanup(""), "service routes": proxy.RemoveRoutes([]netip.Prefix{serviceCIDR}),
			"dns": wherrydns.Cleanup("", []netip.Addr{dnsIP}), "routes": routes.Cleanup(routes.Config{NodeName: "n1"}),
		} {
			if err != nil {
				t.Errorf("clean up %s: %v", what, err)
			}
		}
		if out, err := exec.Command("nft", "list", "tables").CombinedOutput(); err == nil && len(out) > 0 {
			t.Errorf("tables after cleaning up: %s", out)
		}
	}()
	ready.Wait()

	a, b := netnstest.New(t), netnstest.New(t)
	ipA := add(t, dir+"/10-wherry.conflist", "aaa", a, `{"portMappings":[{"hostPort":8080,"containerPort":80,"protocol":"tcp"}]}`)
	ipB := add(t, dir+"/10-wherry.conflist", "bbb", b, "")
	serve(t, a, ":80", "a")
	serve(t, b, ":80", "b")
	serve(t, nil, nodeIP+":6443", "api")
	both := slice("web", "10", 80, discoveryv1.Endpoint{Addresses: []string{ipA}, NodeName: ptr("n1")}, discoveryv1.Endpoint{Addresses: []string{ipB}, NodeName: ptr("n1")})
	if _, err := api.DiscoveryV1().EndpointSlices("ns").Create(ctx, both, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	until(t, "the Service answers", func() bool { return !strings.Contains(ask(b, "10.96.0.7:80"), " refused") })

	gw := "10.244.3.1"
	for _, c := range []struct {
		what string
		from *netnstest.Namespace
		addr string
		want string
	}{
		{"pod to the Service, itself included", a, "10.96.0.7:80", "a " + gw + ", b " + ipA},
		{"pod to the Service", b, "10.96.0.7:80", "a " + ipB + ", b " + gw},
		{"node to the Service", nil, "10.96.0.7:80", "a " + nodeIP + ", b " + nodeIP},
		{"pod to the API server", a, "10.96.0.1:443", "api " + ipA},
		{"node to the API server", nil, "10.96.0.1:443", "api " + nodeIP},
		{"outside to the node port", outside, nodeIP + ":30080", "a " + gw + ", b " + gw},
		{"pod to the node port", a, nodeIP + ":30080", "a " + gw + ", b " + gw},
		{"outside to the host port", outside, nodeIP + ":8080", "a 192.0.2.2"},
		{"pod to its own host port", a, nodeIP + ":8080", "a " + gw},
	} {
		seen := map[string]bool{}
		for range 24 {
			seen[ask(c.from, c.addr)] = true
		}
		var got []string
		for s := range seen {
			got = append(got, s)
		}
		slices.Sort(got)
		if s := strings.Join(got, ", "); s != c.want {
			t.Errorf("%s (%s): %s; want %s", c.what, c.addr, s, c.want)
		}
	}
	for name, want := range map[string]string{"web.ns.svc.cluster.local.": "10.96.0.7", "kube-dns.ns.svc.cluster.local.": "10.96.0.10"} {
		if got := lookup(t, a, name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	// A pod's packet to an unknown Service address does not leave the node, nor does one to the pod CIDR that no pod has.
	if got := ask(a, "10.96.44.44:80"); !strings.Contains(got, "timeout") {
		t.Errorf("an address without Service: %s", got)
	}

	// The pod leaves: new connections stop, and then the node says so.
	both = both.DeepCopy()
	both.ResourceVersion = "20"
	both.Endpoints[0].Conditions = discoveryv1.EndpointConditions{Ready: ptr(false), Serving: ptr(true), Terminating: ptr(true)}
	if _, err := api.DiscoveryV1().EndpointSlices("ns").Update(ctx, both, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	until(t, "revision 20 is acknowledged", func() bool {
		l, err := api.CoordinationV1().Leases(lifecycle.DrainNamespace).Get(ctx, lifecycle.DrainLeasePrefix+"n1", metav1.GetOptions{})
		return err == nil && l.Annotations[lifecycle.ProgrammedAnnotation] == "20"
	})
	for range 50 {
		if got := ask(b, "10.96.0.7:80"); got != "b "+gw {
			t.Fatalf("after the acknowledgement: %s", got)
		}
	}
	if routes, err := netlink.RouteList(nil, netlink.FAMILY_V4); err == nil {
		for _, r := range routes {
			if r.Dst == nil || r.Dst.String() == "0.0.0.0/0" {
				t.Errorf("the test's node has a default route: %v", r)
			}
		}
	}
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 5 s: %s", what)
		}
	}
}
