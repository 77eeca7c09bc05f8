package dns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"pgregory.net/rapid"

	"wherry.dev/wherry/client"
	"wherry.dev/wherry/embedded/coredns"
	"wherry.dev/wherry/network/netnstest"
)

func TestMain(m *testing.M) { netnstest.Main(m) }

func ptr[T any](v T) *T { return &v }

func service(name, ips string, change func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns"},
		Spec: corev1.ServiceSpec{ClusterIP: strings.Fields(ips + " None")[0], ClusterIPs: strings.Fields(ips),
			Ports: []corev1.ServicePort{{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP}, {Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP}}}}
	if change != nil {
		change(s)
	}
	return s
}

func slice(name, svc, rv string, eps ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: name, Namespace: "ns", ResourceVersion: rv, Labels: map[string]string{discoveryv1.LabelServiceName: svc}},
		AddressType: discoveryv1.AddressTypeIPv4, Endpoints: eps,
		Ports: []discoveryv1.EndpointPort{{Name: ptr("http"), Port: ptr(int32(8080)), Protocol: ptr(corev1.ProtocolTCP)}}}
}

func objects() []runtime.Object {
	six := slice("db-6", "db", "7", discoveryv1.Endpoint{Addresses: []string{"fd00::a"}, Hostname: ptr("db-0")})
	six.AddressType = discoveryv1.AddressTypeIPv6
	return []runtime.Object{
		service("web", "10.96.0.7 fd00:96::7", nil),
		slice("web-1", "web", "5", discoveryv1.Endpoint{Addresses: []string{"10.244.0.5"}}),
		service("db", "", nil),
		slice("db-1", "db", "6",
			discoveryv1.Endpoint{Addresses: []string{"10.244.0.10"}, Hostname: ptr("db-0")},
			discoveryv1.Endpoint{Addresses: []string{"10.244.0.11"}},
			discoveryv1.Endpoint{Addresses: []string{"10.244.0.12"}, Hostname: ptr("db-2"), Conditions: discoveryv1.EndpointConditions{Ready: ptr(false)}}),
		six,
		service("empty", "", nil),
		service("away", "", func(s *corev1.Service) {
			s.Spec = corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "Web.ns.svc.cluster.local"}
		}),
		service("ring", "", func(s *corev1.Service) {
			s.Spec = corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "ring.ns.svc.cluster.local"}
		}),
		service("outside", "", func(s *corev1.Service) {
			s.Spec = corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "www.example.com"}
		}),
	}
}

// open returns the names of a fake API.
func open(t *testing.T, objs ...runtime.Object) (*names, *client.Set, *fake.Clientset) {
	api := fake.NewClientset(objs...)
	factory := informers.NewSharedInformerFactory(api, 0)
	services, slices := factory.Core().V1().Services().Informer(), factory.Discovery().V1().EndpointSlices().Informer()
	if err := addIndexes(services, slices); err != nil {
		t.Fatal(err)
	}
	if err := addIndexes(services, slices); err != nil {
		t.Errorf("indexes a second time: %v", err)
	}
	stop := make(chan struct{})
	factory.Start(stop)
	factory.WaitForCacheSync(stop)
	t.Cleanup(func() { close(stop); factory.Shutdown() })
	n := &names{services: services.GetIndexer(), slices: slices.GetIndexer(), self: []netip.Addr{netip.MustParseAddr("10.96.0.10")}}
	return n, &client.Set{Kubernetes: api, Informers: factory}, api
}

// text is an answer in one line.
func text(a coredns.Answer) string {
	if !a.Exists {
		return "NXDOMAIN"
	}
	var parts []string
	if a.Alias != "" {
		parts = append(parts, "alias "+a.Alias)
	}
	show := func(rr dns.RR) string {
		return strings.TrimSpace(strings.TrimPrefix(rr.String(), rr.Header().String()))
	}
	for _, rr := range a.Records {
		parts = append(parts, show(rr))
	}
	slices.Sort(parts)
	var extra []string
	for _, rr := range a.Extra {
		extra = append(extra, rr.Header().Name+" "+show(rr))
	}
	slices.Sort(extra)
	if len(extra) > 0 {
		parts = append(parts, "+ "+strings.Join(extra, ", "))
	}
	return strings.Join(parts, "; ")
}

func TestLookup(t *testing.T) {
	n, _, _ := open(t, objects()...)
	for _, c := range []struct {
		name string
		typ  uint16
		want string
	}{
		{"web.ns.svc", dns.TypeA, "10.96.0.7"},
		{"web.ns.svc", dns.TypeAAAA, "fd00:96::7"},
		{"web.ns.svc", dns.TypeTXT, ""},
		{"web.ns.svc", dns.TypeSRV, "0 50 53 web.ns.svc.cluster.local.; 0 50 80 web.ns.svc.cluster.local.; + web.ns.svc.cluster.local. 10.96.0.7, web.ns.svc.cluster.local. fd00:96::7"},
		{"_http._tcp.web.ns.svc", dns.TypeSRV, "0 100 80 web.ns.svc.cluster.local.; + web.ns.svc.cluster.local. 10.96.0.7, web.ns.svc.cluster.local. fd00:96::7"},
		{"_http._udp.web.ns.svc", dns.TypeSRV, "NXDOMAIN"},
		{"http.tcp.web.ns.svc", dns.TypeSRV, "NXDOMAIN"},
		{"_http._tcp.web.ns.svc", dns.TypeA, "10.96.0.7"},
		{"10-244-0-5.web.ns.svc", dns.TypeA, "10.244.0.5"},
		{"10-244-0-6.web.ns.svc", dns.TypeA, "NXDOMAIN"},
		{"db.ns.svc", dns.TypeA, "10.244.0.10; 10.244.0.11"},
		{"db.ns.svc", dns.TypeAAAA, "fd00::a"},
		{"db-0.db.ns.svc", dns.TypeA, "10.244.0.10"},
		{"db-0.db.ns.svc", dns.TypeAAAA, "fd00::a"},
		{"db-2.db.ns.svc", dns.TypeA, "NXDOMAIN"}, // not ready
		{"10-244-0-11.db.ns.svc", dns.TypeA, "10.244.0.11"},
		{"_http._tcp.db.ns.svc", dns.TypeSRV, "0 50 8080 10-244-0-11.db.ns.svc.cluster.local.; 0 50 8080 db-0.db.ns.svc.cluster.local.; " +
			"+ 10-244-0-11.db.ns.svc.cluster.local. 10.244.0.11, db-0.db.ns.svc.cluster.local. 10.244.0.10, db-0.db.ns.svc.cluster.local. fd00::a"},
		{"empty.ns.svc", dns.TypeA, "NXDOMAIN"},
		{"away.ns.svc", dns.TypeA, "alias web.ns.svc.cluster.local."},
		{"away.ns.svc", dns.TypeSRV, ""},
		{"x.away.ns.svc", dns.TypeA, "NXDOMAIN"},
		{"none.ns.svc", dns.TypeA, "NXDOMAIN"},
		{"a.b.c.web.ns.svc", dns.TypeA, "NXDOMAIN"},
		{"ns.svc", dns.TypeA, ""},
		{"other.svc", dns.TypeA, "NXDOMAIN"},
		{"svc", dns.TypeA, ""},
		{"pod", dns.TypeA, ""},
		{"10-244-0-5.ns.pod", dns.TypeA, "10.244.0.5"},
		{"fd00--1.ns.pod", dns.TypeAAAA, "fd00::1"},
		{"fd00--1.ns.pod", dns.TypeA, ""},
		{"10-244-0.ns.pod", dns.TypeA, "NXDOMAIN"},
		{"x.10-244-0-5.ns.pod", dns.TypeA, "NXDOMAIN"},
		{"dns-version", dns.TypeTXT, `"1.1.0"`},
		{"ns.dns", dns.TypeA, "10.96.0.10"},
		{"", dns.TypeNS, "ns.dns.cluster.local.; + ns.dns.cluster.local. 10.96.0.10"},
		{"", dns.TypeA, ""},
		{"www", dns.TypeA, "NXDOMAIN"},
	} {
		name := c.name + ".cluster.local."
		if c.name == "" {
			name = "cluster.local."
		}
		got := text(n.Lookup(coredns.Query{Name: name, Type: c.typ, Zone: "cluster.local.", Primary: "cluster.local.", Options: coredns.Options{TTL: 5, Pods: true}}))
		if got != c.want {
			t.Errorf("%s %s:\n got %s\nwant %s", c.name, dns.TypeToString[c.typ], got, c.want)
		}
	}
	for address, want := range map[string]string{
		"10.96.0.7": "web.ns.svc.cluster.local.", "fd00:96::7": "web.ns.svc.cluster.local.", "10.244.0.10": "db-0.db.ns.svc.cluster.local.",
		"fd00::a": "db-0.db.ns.svc.cluster.local.", "10.244.0.11": "NXDOMAIN", "10.244.0.12": "NXDOMAIN", "192.0.2.1": "NXDOMAIN",
	} {
		name, err := dns.ReverseAddr(address)
		if err != nil {
			t.Fatal(err)
		}
		zone := "in-addr.arpa."
		if strings.Contains(address, ":") {
			zone = "ip6.arpa."
		}
		if got := text(n.Lookup(coredns.Query{Name: name, Type: dns.TypePTR, Zone: zone, Primary: "cluster.local."})); got != want {
			t.Errorf("%s: got %s, want %s", address, got, want)
		}
	}
}

func TestReverseAddressProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.SampledFrom([]int{4, 16}).Draw(t, "bytes")
		a, _ := netip.AddrFromSlice(rapid.SliceOfN(rapid.Byte(), n, n).Draw(t, "address"))
		name, err := dns.ReverseAddr(a.String())
		if err != nil {
			t.Fatal(err)
		}
		if a.Is4In6() {
			return // such an address is named by its IPv4 form
		}
		if got, ok := reverseAddress(name); !ok || got != a {
			t.Fatalf("%s: %v, %v", name, got, ok)
		}
	})
}

func FuzzLookup(f *testing.F) {
	for _, s := range []string{"web.ns.svc.cluster.local.", "_http._tcp.web.ns.svc.cluster.local.", "..", "1.0.0.10.in-addr.arpa.", "a.ip6.arpa.", "-.ns.pod.cluster.local."} {
		f.Add(s, uint16(1))
	}
	factory := informers.NewSharedInformerFactory(fake.NewClientset(), 0)
	services, slices := factory.Core().V1().Services().Informer(), factory.Discovery().V1().EndpointSlices().Informer()
	if err := addIndexes(services, slices); err != nil {
		f.Fatal(err)
	}
	for _, o := range objects() {
		if s, ok := o.(*corev1.Service); ok {
			services.GetIndexer().Add(s)
		} else {
			slices.GetIndexer().Add(o)
		}
	}
	n := &names{services: services.GetIndexer(), slices: slices.GetIndexer()}
	f.Fuzz(func(t *testing.T, name string, typ uint16) {
		for _, zone := range []string{"cluster.local.", "in-addr.arpa.", "ip6.arpa."} {
			if strings.HasSuffix(name, zone) {
				a := n.Lookup(coredns.Query{Name: name, Type: typ, Zone: zone, Primary: "cluster.local.", Options: coredns.Options{Pods: true}})
				if !a.Exists && len(a.Records) > 0 {
					t.Errorf("%q does not exist and has %v", name, a.Records)
				}
			}
		}
	})
}

type reached struct {
	mu sync.Mutex
	at uint64
}

func (r *reached) Reached(revision uint64, _ bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.at = max(r.at, revision)
}

func (r *reached) get() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.at
}

// A node's server, asked by a pod, by the node, over UDP and TCP and through an upstream, leaves nothing in conntrack and forgets at once.
func TestServer(t *testing.T) {
	netnstest.Need(t)
	pod := netnstest.New(t)
	netnstest.Connect(t, netnstest.Link{Name: "pod", Addresses: []string{"10.244.0.1/24"}}, netnstest.Link{Namespace: pod, Name: "eth0", Addresses: []string{"10.244.0.2/24"}})
	pod.Route("0.0.0.0/0", "10.244.0.1")
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	// An upstream that knows one name.
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	up := &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, r *dns.Msg) {
		m := new(dns.Msg).SetReply(r)
		if r.Question[0].Name == "www.example.com." && r.Question[0].Qtype == dns.TypeA {
			rr, _ := dns.NewRR("www.example.com. 60 IN A 192.0.2.80")
			m.Answer = []dns.RR{rr}
		} else {
			m.Rcode = dns.RcodeNameError
		}
		w.WriteMsg(m)
	})}
	var wg sync.WaitGroup
	wg.Go(func() { up.ActivateAndServe() })
	defer wg.Wait()
	defer up.Shutdown()

	_, set, api := open(t, objects()...)
	at := []netip.Addr{netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("fd00:96::10")}
	ctx, cancel := context.WithCancel(t.Context())
	ready, done := make(chan struct{}), make(chan error, 1)
	var r reached
	told := make(events, 10)
	go func() {
		done <- Run(ctx, Config{Client: set, Events: told, ClusterDNS: at, Upstreams: []string{pc.LocalAddr().String()}, Progress: &r, Ready: func() { close(ready) }})
	}()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		for range 2 {
			if err := Cleanup("", at); err != nil {
				t.Error(err)
			}
		}
		lo, _ := netlink.LinkByName("lo")
		if addrs, err := netlink.AddrList(lo, netlink.FAMILY_ALL); err != nil || len(addrs) != 2 {
			t.Errorf("addresses of lo after Cleanup: %v, %v", addrs, err)
		}
		if l, err := netlink.LinkByName("pod"); err == nil {
			netlink.LinkDel(l)
		}
	}()
	select {
	case <-ready:
	case err := <-done:
		done <- err
		t.Fatal(err)
	case <-time.After(10 * time.Second):
		t.Fatal("not ready within 10 s")
	}

	query := func(ns *netnstest.Namespace, network, server, name string, typ uint16) (string, error) {
		var out string
		ask := func() error {
			c := &dns.Client{Net: network, Timeout: 2 * time.Second}
			m, _, err := c.Exchange(new(dns.Msg).SetQuestion(name, typ), server)
			if err != nil {
				return err
			}
			out = dns.RcodeToString[m.Rcode]
			var parts []string
			for _, rr := range m.Answer {
				parts = append(parts, strings.TrimSpace(strings.TrimPrefix(rr.String(), rr.Header().String())))
			}
			slices.Sort(parts)
			if len(parts) == 0 && len(m.Ns) == 1 {
				parts = append(parts, "SOA of "+m.Ns[0].Header().Name)
			}
			out += " " + strings.Join(parts, " ")
			return nil
		}
		if ns == nil {
			return out, ask()
		}
		err := ns.Try(ask)
		return out, err
	}
	want := func(ns *netnstest.Namespace, network, name string, typ uint16, want string) {
		t.Helper()
		got, err := query(ns, network, "10.96.0.10:53", name, typ)
		if err != nil || got != want {
			t.Errorf("%s %s: %q, %v; want %q", network, name, got, err, want)
		}
	}
	for range 2 {
		want(pod, "udp", "Web.ns.svc.Cluster.local.", dns.TypeA, "NOERROR 10.96.0.7")
		want(pod, "tcp", "web.ns.svc.cluster.local.", dns.TypeA, "NOERROR 10.96.0.7")
	}
	want(pod, "udp", "web.ns.svc.cluster.local.", dns.TypeTXT, "NOERROR SOA of cluster.local.")
	want(pod, "udp", "none.ns.svc.cluster.local.", dns.TypeA, "NXDOMAIN SOA of cluster.local.")
	want(pod, "udp", "away.ns.svc.cluster.local.", dns.TypeA, "NOERROR 10.96.0.7 web.ns.svc.cluster.local.")
	want(pod, "udp", "outside.ns.svc.cluster.local.", dns.TypeA, "NOERROR 192.0.2.80 www.example.com.")
	want(pod, "udp", "www.example.com.", dns.TypeA, "NOERROR 192.0.2.80")
	want(pod, "udp", "7.0.96.10.in-addr.arpa.", dns.TypePTR, "NOERROR web.ns.svc.cluster.local.")
	want(pod, "udp", "1.2.0.192.in-addr.arpa.", dns.TypePTR, "NXDOMAIN ") // the upstream's answer
	if got, err := query(pod, "udp", "10.96.0.10:53", "ring.ns.svc.cluster.local.", dns.TypeA); err != nil || !strings.HasPrefix(got, "NOERROR") {
		t.Errorf("a ring of names: %q, %v", got, err)
	}
	if got, err := query(nil, "udp", "[fd00:96::10]:53", "web.ns.svc.cluster.local.", dns.TypeAAAA); err != nil || got != "NOERROR fd00:96::7" {
		t.Errorf("by IPv6: %q, %v", got, err)
	}
	flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, unix.AF_INET)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range flows {
		if f.Forward.DstIP.Equal(net.IPv4(10, 96, 0, 10)) || f.Forward.SrcIP.Equal(net.IPv4(10, 96, 0, 10)) {
			t.Errorf("a lookup left %v in conntrack", f)
		}
	}

	// An endpoint leaves: as soon as its revision is reached, it is answered no more.
	gone := slice("db-1", "db", "900", discoveryv1.Endpoint{Addresses: []string{"10.244.0.11"}})
	if _, err := api.DiscoveryV1().EndpointSlices("ns").Update(ctx, gone, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(5 * time.Second); r.get() < 900; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("revision %d after 5 s", r.get())
		}
	}
	want(pod, "udp", "db.ns.svc.cluster.local.", dns.TypeA, "NOERROR 10.244.0.11")

	// Another Corefile: kubeadm's, with a name of its own.
	until := func(name, answer string) {
		t.Helper()
		var got string
		for deadline := time.Now().Add(5 * time.Second); got != answer; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: %q after 5 s; want %q", name, got, answer)
			}
			got, _ = query(pod, "udp", "10.96.0.10:53", name, dns.TypeA)
		}
	}
	configMaps := api.CoreV1().ConfigMaps("kube-system")
	configMap := func(corefile string) *corev1.ConfigMap {
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "coredns", Namespace: "kube-system"}, Data: map[string]string{"Corefile": corefile}}
	}
	own := ".:53 {\n errors\n health {\n  lameduck 5s\n }\n ready\n kubernetes cluster.local in-addr.arpa ip6.arpa {\n  pods insecure\n  ttl 30\n }\n" +
		" hosts {\n  192.0.2.99 stub.example\n  fallthrough\n }\n cache 30\n loop\n reload\n loadbalance\n}\n"
	if _, err := configMaps.Create(ctx, configMap(own), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	until("stub.example.", "NOERROR 192.0.2.99")
	want(pod, "tcp", "web.ns.svc.cluster.local.", dns.TypeA, "NOERROR 10.96.0.7")
	if got, err := query(pod, "udp", "10.244.0.1:53", "stub.example.", dns.TypeA); err == nil {
		t.Errorf("a Corefile without bind is served at the node's other addresses: %q", got)
	}
	// Bad ones change nothing, and it is said why.
	for _, bad := range []string{".:53 {\n nonsense\n}\n", ".:53 {\n hosts {\n", ".:53 {\n bind 203.0.113.200\n}\n"} {
		if _, err := configMaps.Update(ctx, configMap(bad), metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		select {
		case what := <-told:
			if !strings.Contains(what, "coredns Warning BadCorefile ") || !strings.Contains(what, "served on") {
				t.Errorf("told of %q: %s", bad, what)
			}
		case <-time.After(5 * time.Second):
			t.Errorf("nothing is told of %q", bad)
		}
		want(pod, "udp", "stub.example.", dns.TypeA, "NOERROR 192.0.2.99")
		want(pod, "tcp", "web.ns.svc.cluster.local.", dns.TypeA, "NOERROR 10.96.0.7")
	}
	if _, err := configMaps.Update(ctx, configMap(strings.ReplaceAll(own, "192.0.2.99", "192.0.2.98")), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	until("stub.example.", "NOERROR 192.0.2.98")
	if err := configMaps.Delete(ctx, "coredns", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	until("stub.example.", "NXDOMAIN ") // the upstream's answer, by the built-in Corefile
}

// events are told to a test.
type events chan string

func (e events) Eventf(about runtime.Object, kind, reason, format string, args ...any) {
	e <- about.(metav1.Object).GetName() + " " + kind + " " + reason + " " + fmt.Sprintf(format, args...)
}

func TestBind(t *testing.T) {
	at := []netip.Addr{netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("fd00:96::10")}
	for _, c := range []struct{ in, want string }{
		{".:53 {\n errors\n}\n", ".:53 { bind 10.96.0.10 fd00:96::10\nerrors\n}\n"},
		{"# names\n\n.:53 {\n\n cache\n errors\n}\n", "\n\n\n.:53 { bind 10.96.0.10 fd00:96::10\ncache\nerrors\n}\n"},
		{".:53 {\n bind 192.0.2.1\n}\n", ".:53 {\nbind 192.0.2.1\n}\n"},
		{"a.example b.example {\n hosts {\n  192.0.2.1 a\n }\n}\n(s) {\n log\n}\n.:53 {\n import s\n template IN A \"# a\" {\n  answer \"{{ .Name }} \\\"x\\\"\"\n }\n}\n",
			"a.example b.example { bind 10.96.0.10 fd00:96::10\nhosts {\n192.0.2.1 a\n}\n}\n.:53 { bind 10.96.0.10 fd00:96::10\nlog\n\n\n\ntemplate IN A \"# a\" {\nanswer \"{{ .Name }} \\\"x\\\"\"\n}\n}\n"},
	} {
		if got, err := coredns.Bind(c.in, at); err != nil || got != c.want {
			t.Errorf("%s\ngives %v\n%s\nwant\n%s", c.in, err, got, c.want)
		}
	}
	for _, bad := range []string{"", ".:53 {\n"} {
		if got, err := coredns.Bind(bad, at); err == nil {
			t.Errorf("%q gives %q", bad, got)
		}
	}
}

func TestCorefile(t *testing.T) {
	dir := t.TempDir()
	resolv := dir + "/resolv.conf"
	os.WriteFile(resolv, []byte("nameserver 10.96.0.10\nnameserver 192.0.2.53\nnameserver 2001:db8::53\n"), 0o600)
	c := Config{ClusterDNS: []netip.Addr{netip.MustParseAddr("10.96.0.10")}, ResolvConf: resolv}
	c.setDefaults()
	got := c.corefile()
	if !strings.Contains(got, "forward . 192.0.2.53:53 [2001:db8::53]:53 {") || !strings.Contains(got, "bind 10.96.0.10\n") {
		t.Errorf("\n%s", got)
	}
	c.Upstreams = []string{}
	if got := c.corefile(); strings.Contains(got, "forward .") {
		t.Errorf("\n%s", got)
	}
	for _, bad := range []string{".:1053 {\n kubernetes in-addr.arpa\n}\n", ".:1053 {\n kubernetes cluster.local {\n  pods verified\n }\n}\n",
		".:1053 {\n kubernetes cluster.local {\n  ttl 99999\n }\n}\n", ".:1053 {\n nonsense\n}\n"} {
		if s, err := coredns.Start(bad, &names{}); err == nil {
			s.Stop(t.Context())
			t.Errorf("accepted:\n%s", bad)
		}
	}
}

func BenchmarkLookup(b *testing.B) {
	factory := informers.NewSharedInformerFactory(fake.NewClientset(), 0)
	services, slices := factory.Core().V1().Services().Informer(), factory.Discovery().V1().EndpointSlices().Informer()
	if err := addIndexes(services, slices); err != nil {
		b.Fatal(err)
	}
	for i := range 10_000 {
		s := service(fmt.Sprint("s", i), fmt.Sprintf("10.96.%d.%d", i>>8, i&255), nil)
		services.GetIndexer().Add(s)
	}
	n := &names{services: services.GetIndexer(), slices: slices.GetIndexer()}
	b.ReportAllocs()
	for b.Loop() {
		if a := n.Lookup(coredns.Query{Name: "s77.ns.svc.cluster.local.", Type: dns.TypeA, Zone: "cluster.local.", Primary: "cluster.local."}); len(a.Records) != 1 {
			b.Fatal("not found")
		}
	}
}
