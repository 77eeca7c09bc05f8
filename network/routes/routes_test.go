package routes

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"pgregory.net/rapid"

	"wherry.dev/wherry/client"
	"wherry.dev/wherry/network/netnstest"
)

func TestMain(m *testing.M) { netnstest.Main(m) }

func apiNode(name, ip string, cidrs ...string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{PodCIDRs: cidrs},
		Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: name}, {Type: corev1.NodeInternalIP, Address: ip}}}}
}

func TestMakePlan(t *testing.T) {
	nodes := []Node{
		NodeOf(apiNode("a", "192.0.2.1", "10.244.1.0/24", "fd00:1::/64")),
		NodeOf(apiNode("b", "192.0.2.2", "10.244.2.0/24", "fd00:2::/64")),
		NodeOf(apiNode("c", "203.0.113.2", "10.244.3.0/24")),
		NodeOf(apiNode("d", "233.252.0.1", "10.244.4.0/24")),
		NodeOf(apiNode("e", "192.0.2.5")), // no podCIDR yet
		NodeOf(apiNode("f", "192.0.2.6", "10.244.2.0/24")),
	}
	p := MakePlan("a", nodes, func(a netip.Addr) (Way, bool) {
		switch {
		case a.String() == "233.252.0.1":
			return Way{}, false
		case strings.HasPrefix(a.String(), "192.0.2."):
			return Way{Link: 7, Direct: true}, true
		}
		return Way{Link: 8}, true
	})
	var got []string
	for _, c := range []string{"10.244.1.0/24", "fd00:1::/64", "10.244.2.0/24", "fd00:2::/64", "10.244.3.0/24", "10.244.4.0/24"} {
		got = append(got, p.Routes[netip.MustParsePrefix(c)].String())
	}
	want := `unreachable 10.244.1.0/24
unreachable fd00:1::/64
10.244.2.0/24 via 192.0.2.2 link 7
fd00:2::/64 via fd00:2:: in the tunnel
10.244.3.0/24 via 10.244.3.0 in the tunnel
invalid Prefix via invalid IP in the tunnel`
	if strings.Join(got, "\n") != want || len(p.Routes) != 5 || fmt.Sprint(p.Lost) != "[d]" || len(p.Peers) != 2 {
		t.Errorf("routes\n%s\nlost %v, peers %v", strings.Join(got, "\n"), p.Lost, p.Peers)
	}
}

func TestDisjointProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ps := rapid.SliceOf(rapid.Custom(func(t *rapid.T) netip.Prefix {
			a := netip.AddrFrom4([4]byte{10, rapid.Byte().Draw(t, "b") & 3, rapid.Byte().Draw(t, "c") & 3, 0})
			p, _ := a.Prefix(rapid.IntRange(6, 32).Draw(t, "bits"))
			return p
		})).Draw(t, "prefixes")
		in := append([]netip.Prefix(nil), ps...)
		out := disjoint(ps)
		for i, p := range out {
			for _, q := range out[i+1:] {
				if p.Overlaps(q) {
					t.Fatalf("%s and %s overlap", p, q)
				}
			}
		}
		for _, p := range in {
			covered := false
			for _, q := range out {
				covered = covered || q.Overlaps(p) && q.Bits() <= p.Bits()
			}
			if !covered {
				t.Fatalf("%s is lost in %v", p, out)
			}
		}
	})
}

// pod connects a pod with one address to a node (nil: the test's own namespace).
func pod(t *testing.T, on *netnstest.Namespace, subnet string) *netnstest.Namespace {
	ns := netnstest.New(t)
	netnstest.Connect(t, netnstest.Link{Namespace: on, Name: "pod", Addresses: []string{subnet + "1/32"}},
		netnstest.Link{Namespace: ns, Name: "eth0", Addresses: []string{subnet + "2/24"}})
	ns.Route("0.0.0.0/0", subnet+"1")
	add := func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		link, err := h.LinkByName("pod")
		if err != nil {
			return err
		}
		ip := net.ParseIP(subnet + "2")
		return h.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Scope: netlink.SCOPE_LINK, Dst: &net.IPNet{IP: ip.To4(), Mask: net.CIDRMask(32, 32)}})
	}
	if on == nil {
		if err := add(); err != nil {
			t.Fatal(err)
		}
	} else {
		on.Do(add)
	}
	serve(t, ns, subnet+"2:80")
	return ns
}

// serve answers with the client's address.
func serve(t *testing.T, ns *netnstest.Namespace, addr string) {
	var l net.Listener
	ns.Do(func() (err error) { l, err = net.Listen("tcp", addr); return err })
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
			io.WriteString(c, host)
			c.Close()
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
}

func ask(ns *netnstest.Namespace, addr string) (answer string) {
	err := ns.Try(func() error {
		c, err := net.DialTimeout("tcp", addr, 1500*time.Millisecond)
		if err != nil {
			return err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(1500 * time.Millisecond))
		b, err := io.ReadAll(c)
		answer = string(b)
		return err
	})
	if err != nil {
		return err.Error()
	}
	return answer
}

// segment is how much a TCP connection from there sends in one packet; 0 when it cannot be made.
func segment(ns *netnstest.Namespace, addr string) (size int) {
	_ = ns.Try(func() error {
		c, err := net.DialTimeout("tcp", addr, 1500*time.Millisecond)
		if err != nil {
			return err
		}
		defer c.Close()
		raw, err := c.(*net.TCPConn).SyscallConn()
		if err != nil {
			return err
		}
		return raw.Control(func(fd uintptr) { size, _ = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG) })
	})
	return size
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 5 s: %s", what)
		}
	}
}

// Three nodes: a and b share a link, c is behind a router that knows no pods. Pods of all three reach each other under their own
// addresses, and the world outside (the router) under their node's. a is the test's own namespace, where Run runs.
func TestThreeNodes(t *testing.T) {
	netnstest.Need(t)
	b, c, router := netnstest.New(t), netnstest.New(t), netnstest.New(t)
	netnstest.Connect(t, netnstest.Link{Name: "tob", Addresses: []string{"192.0.2.1/24"}}, netnstest.Link{Namespace: b, Name: "eth0", Addresses: []string{"192.0.2.2/24"}})
	netnstest.Connect(t, netnstest.Link{Name: "tor", Addresses: []string{"198.51.100.1/24"}}, netnstest.Link{Namespace: router, Name: "toa", Addresses: []string{"198.51.100.2/24"}})
	netnstest.Connect(t, netnstest.Link{Namespace: router, Name: "toc", Addresses: []string{"203.0.113.1/24"}}, netnstest.Link{Namespace: c, Name: "eth0", Addresses: []string{"203.0.113.2/24"}})
	own, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	if err := own.RouteAdd(&netlink.Route{Dst: &net.IPNet{IP: net.IPv4(203, 0, 113, 0), Mask: net.CIDRMask(24, 32)}, Gw: net.IPv4(198, 51, 100, 2)}); err != nil {
		t.Fatal(err)
	}
	b.Route("0.0.0.0/0", "192.0.2.1")
	c.Route("0.0.0.0/0", "203.0.113.1")
	router.Route("192.0.2.0/24", "198.51.100.1")
	router.Do(forwarding)
	serve(t, router, "198.51.100.2:81")
	pa, pb, pc := pod(t, nil, "10.244.1."), pod(t, b, "10.244.2."), pod(t, c, "10.244.3.")

	objects := []*corev1.Node{apiNode("a", "192.0.2.1", "10.244.1.0/24"), apiNode("b", "192.0.2.2", "10.244.2.0/24"), apiNode("c", "203.0.113.2", "10.244.3.0/24")}
	api := fake.NewClientset(objects[0], objects[1])
	var nodes []Node
	for _, o := range objects {
		nodes = append(nodes, NodeOf(o))
	}
	// The other nodes' side, by the same code but without API.
	for name, ns := range map[string]*netnstest.Namespace{"b": b, "c": c} {
		ns.Do(func() error {
			if err := forwarding(); err != nil {
				return err
			}
			h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
			if err != nil {
				return err
			}
			defer h.Close()
			k := &kernel{Config: Config{NodeName: name}, netlink: h}
			k.setDefaults()
			return k.apply(MakePlan(name, nodes, k.way))
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	factory := informers.NewSharedInformerFactory(api, 0)
	factory.Core().V1().Nodes().Informer()
	factory.Start(ctx.Done())
	ready, done := make(chan struct{}), make(chan error, 1)
	config := Config{Client: &client.Set{Kubernetes: api, Informers: factory}, NodeName: "a", Ready: func() { close(ready) }}
	go func() { done <- Run(ctx, config) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		factory.Shutdown()
		if err := Cleanup(config); err != nil {
			t.Error(err)
		}
		if routes, _ := own.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Protocol: Protocol}, netlink.RT_FILTER_PROTOCOL); len(routes) > 0 {
			t.Errorf("routes after Cleanup: %v", routes)
		}
		for _, name := range []string{"tob", "tor", "pod"} {
			if l, err := own.LinkByName(name); err == nil {
				own.LinkDel(l)
			}
		}
	}()
	<-ready
	want := func(from *netnstest.Namespace, to, answer string) {
		t.Helper()
		if got := ask(from, to); got != answer {
			t.Errorf("%s answers %q, want %q", to, got, answer)
		}
	}
	want(pa, "10.244.2.2:80", "10.244.1.2")
	want(pb, "10.244.1.2:80", "10.244.2.2")
	want(pa, "198.51.100.2:81", "198.51.100.1") // the world sees the node
	if got := ask(pb, "10.244.1.77:80"); !strings.Contains(got, "no route to host") {
		t.Errorf("an address that no pod has: %q", got)
	}
	if _, err := own.LinkByName("wherry.87"); err == nil {
		t.Error("a tunnel although nobody is behind it")
	}

	// The third node comes.
	if _, err := api.CoreV1().Nodes().Create(ctx, objects[2], metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	until(t, "c's pods are within reach of a's", func() bool { return ask(pa, "10.244.3.2:80") == "10.244.1.2" })
	want(pc, "10.244.1.2:80", "10.244.3.2")
	// Pods that are older than the tunnel send what fits through it (1450), and what fits without it elsewhere. 12 bytes are for timestamps.
	for from, to := range map[*netnstest.Namespace]string{pa: "10.244.3.2:80", pc: "10.244.1.2:80"} {
		if got := segment(from, to); got != 1450-40-12 {
			t.Errorf("segments to %s have %d bytes", to, got)
		}
	}
	if got := segment(pa, "10.244.2.2:80"); got != 1500-40-12 {
		t.Errorf("segments to a node on the same link have %d bytes", got)
	}
	want(pb, "10.244.3.2:80", "10.244.2.2")
	want(pc, "10.244.2.2:80", "10.244.3.2")

	// Somebody removes a route: it comes back.
	routes, err := own.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Protocol: Protocol}, netlink.RT_FILTER_PROTOCOL)
	if err != nil || len(routes) != 3 {
		t.Fatalf("routes %v, %v", routes, err)
	}
	for i := range routes {
		if err := own.RouteDel(&routes[i]); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "removed routes come back", func() bool {
		return ask(pa, "10.244.2.2:80") == "10.244.1.2" && ask(pa, "10.244.3.2:80") == "10.244.1.2"
	})
	// The link goes down and up: so do its routes.
	link, err := own.LinkByName("tob")
	if err != nil {
		t.Fatal(err)
	}
	if err := own.LinkSetDown(link); err != nil {
		t.Fatal(err)
	}
	if err := own.LinkSetUp(link); err != nil {
		t.Fatal(err)
	}
	until(t, "routes come back with the link", func() bool { return ask(pa, "10.244.2.2:80") == "10.244.1.2" })

	// And goes again.
	if err := api.CoreV1().Nodes().Delete(ctx, "c", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	until(t, "the tunnel is gone", func() bool { _, err := own.LinkByName("wherry.87"); return err != nil })
	want(pa, "10.244.2.2:80", "10.244.1.2")
}
