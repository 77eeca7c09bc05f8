package cni

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"pgregory.net/rapid"

	"wherry.dev/wherry/network/netnstest"
	"wherry.dev/wherry/network/nft"
)

const asPlugin = "WHERRY_TEST_AS_PLUGIN"

func TestMain(m *testing.M) {
	if os.Getenv(asPlugin) != "" {
		Main()
		return
	}
	netnstest.Main(m)
}

// node is a configuration and a state directory; the node's namespace is the test's own.
type node struct {
	t     testing.TB
	dir   string
	cidrs []string
	extra string // further JSON fields of the configuration
}

func newNode(t testing.TB, cidrs ...string) *node {
	netnstest.Need(t)
	n := &node{t: t, dir: t.TempDir(), cidrs: cidrs}
	t.Cleanup(func() {
		nft.DeleteTable(defaultHostPortTable)
		links, _ := netlink.LinkList()
		for _, l := range links {
			if strings.HasPrefix(l.Attrs().Name, "wy") {
				netlink.LinkDel(l)
			}
		}
	})
	for _, path := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		if err := writeSysctl(path, "1"); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

func (n *node) conf(runtime string) string {
	cidrs, _ := json.Marshal(n.cidrs)
	return fmt.Sprintf(`{"cniVersion":"1.1.0","name":"test","type":"wherry-cni","podCIDRs":%s,"stateDir":%q%s%s}`, cidrs, n.dir, n.extra, runtime)
}

// run executes the plugin as a runtime does: in a process of its own.
func (n *node) run(command, container, netnsPath, conf string) (map[string]any, error) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), asPlugin+"=1", "CNI_COMMAND="+command, "CNI_CONTAINERID="+container, "CNI_IFNAME=eth0",
		"CNI_NETNS="+netnsPath, "CNI_PATH=/opt/cni/bin")
	cmd.Stdin = strings.NewReader(conf)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	out := map[string]any{}
	if stdout.Len() > 0 {
		if e := json.Unmarshal(stdout.Bytes(), &out); e != nil {
			return nil, fmt.Errorf("plugin wrote %q: %w", stdout.String(), e)
		}
	}
	if err != nil {
		return out, fmt.Errorf("%s %s: %w: %s%s", command, container, err, stdout.String(), stderr.String())
	}
	return out, nil
}

func (n *node) must(command, container, netnsPath, conf string) map[string]any {
	n.t.Helper()
	out, err := n.run(command, container, netnsPath, conf)
	if err != nil {
		n.t.Fatal(err)
	}
	return out
}

func addresses(result map[string]any) []netip.Addr {
	var out []netip.Addr
	ips, _ := result["ips"].([]any)
	for _, ip := range ips {
		out = append(out, netip.MustParsePrefix(ip.(map[string]any)["address"].(string)).Addr())
	}
	return out
}

// serve answers each TCP connection in ns with the name.
func serve(t testing.TB, ns *netnstest.Namespace, addr, name string) {
	t.Helper()
	var l net.Listener
	listen := func() (err error) { l, err = net.Listen("tcp", addr); return err }
	if ns == nil {
		if err := listen(); err != nil {
			t.Fatal(err)
		}
	} else {
		ns.Do(listen)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
			io.WriteString(c, name+" "+host)
			c.Close()
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
}

// ask connects to addr and returns what it answers.
func ask(ns *netnstest.Namespace, addr string) (answer string, err error) {
	f := func() error {
		c, err := net.DialTimeout("tcp", addr, 2*time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(2 * time.Second))
		b, err := io.ReadAll(c)
		answer = string(b)
		return err
	}
	if ns == nil {
		return answer, errors.Join(f())
	}
	err = ns.Try(f)
	return answer, err
}

func want(t testing.TB, ns *netnstest.Namespace, addr, answer string) {
	t.Helper()
	got, err := ask(ns, addr)
	if err != nil || got != answer {
		t.Errorf("%s answers %q, %v; want %q", addr, got, err, answer)
	}
}

// Two pods of a dual-stack node reach each other and the node, and the node reaches them, from the gateway address.
func TestAddConnects(t *testing.T) {
	n := newNode(t, "10.244.7.0/24", "fd00:7::/64")
	a, b := netnstest.New(t), netnstest.New(t)
	ra := n.must("ADD", "aaa", a.Path(), n.conf(""))
	rb := n.must("ADD", "bbb", b.Path(), n.conf(""))
	aa, ba := addresses(ra), addresses(rb)
	if fmt.Sprint(aa, ba) != "[10.244.7.2 fd00:7::2] [10.244.7.3 fd00:7::3]" {
		t.Fatalf("addresses %v %v", aa, ba)
	}
	serve(t, b, "[::]:80", "b")
	for i := range 2 {
		want(t, a, net.JoinHostPort(ba[i].String(), "80"), "b "+plain(aa[i]))
		want(t, nil, net.JoinHostPort(ba[i].String(), "80"), "b "+plain(gateway(netip.MustParsePrefix(n.cidrs[i]))))
	}
	for _, c := range []string{"aaa", "bbb"} {
		ns, prev := a, ra
		if c == "bbb" {
			ns, prev = b, rb
		}
		text, _ := json.Marshal(prev)
		n.must("CHECK", c, ns.Path(), n.conf(`,"prevResult":`+string(text)))
	}
}

// Pods have the MTU that fits through the tunnel to other nodes, once there is one; the configuration may say otherwise.
func TestMTU(t *testing.T) {
	n := newNode(t, "10.244.7.0/24")
	outside := netnstest.New(t)
	netnstest.Connect(t, netnstest.Link{Name: "up0", Addresses: []string{"192.0.2.1/24"}}, netnstest.Link{Namespace: outside, Name: "eth0", Addresses: []string{"192.0.2.2/24"}})
	mtu := func(container string) (mtus [2]int) {
		t.Helper()
		ns := netnstest.New(t)
		result := n.must("ADD", container, ns.Path(), n.conf(""))
		for i, l := range result["interfaces"].([]any)[:2] {
			mtus[i] = int(l.(map[string]any)["mtu"].(float64))
		}
		ns.Do(func() error {
			l, err := net.InterfaceByName("eth0")
			if err == nil && l.MTU != mtus[1] {
				t.Errorf("%s: eth0 has MTU %d, and the result says %v", container, l.MTU, mtus)
			}
			return err
		})
		return mtus
	}
	if got := mtu("before"); got != [2]int{1500, 1500} {
		t.Errorf("without a tunnel: %v", got)
	}
	under, err := netlink.LinkByName("up0")
	if err != nil {
		t.Fatal(err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "wherry.87"
	tunnel := &netlink.Vxlan{LinkAttrs: attrs, VxlanId: 87, Port: 4789, VtepDevIndex: under.Attrs().Index}
	if err := netlink.LinkAdd(tunnel); err != nil {
		t.Fatal(err)
	}
	defer netlink.LinkDel(tunnel)
	if err := netlink.LinkSetUp(tunnel); err != nil {
		t.Fatal(err)
	}
	if got := mtu("unused"); got != [2]int{1500, 1500} {
		t.Errorf("with a tunnel that no route uses: %v", got)
	}
	for dst, link := range map[string]netlink.Link{"10.244.8.0/24": tunnel, "10.244.9.0/24": under} {
		to := netip.MustParsePrefix(dst)
		if err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Protocol: RouteProtocol, Dst: &net.IPNet{IP: to.Addr().AsSlice(), Mask: net.CIDRMask(24, 32)}}); err != nil {
			t.Fatal(err)
		}
	}
	if got := mtu("through"); got != [2]int{1450, 1450} {
		t.Errorf("with a tunnel to another node: %v", got)
	}
	n.extra = `,"mtu":1300`
	if got := mtu("told"); got != [2]int{1300, 1300} {
		t.Errorf("with an MTU in the configuration: %v", got)
	}
}

// plain is an address as a dual-stack listener reports it.
func plain(a netip.Addr) string { return a.String() }

func TestCheckFindsWhatIsMissing(t *testing.T) {
	n := newNode(t, "10.244.7.0/24")
	a := netnstest.New(t)
	prev, _ := json.Marshal(n.must("ADD", "aaa", a.Path(), n.conf("")))
	conf := n.conf(`,"prevResult":` + string(prev))
	link, err := netlink.LinkByName(hostInterface("aaa", "eth0"))
	if err != nil {
		t.Fatal(err)
	}
	route := podRoute(netip.MustParseAddr("10.244.7.2"), netip.MustParseAddr("10.244.7.1"), link.Attrs().Index)
	if err := netlink.RouteDel(route); err != nil {
		t.Fatal(err)
	}
	if _, err := n.run("CHECK", "aaa", a.Path(), conf); err == nil || !strings.Contains(err.Error(), "route to 10.244.7.2/32") {
		t.Errorf("CHECK without route: %v", err)
	}
	if err := netlink.RouteAdd(route); err != nil {
		t.Fatal(err)
	}
	n.must("CHECK", "aaa", a.Path(), conf)
	if err := netlink.LinkDel(link); err != nil {
		t.Fatal(err)
	}
	if _, err := n.run("CHECK", "aaa", a.Path(), conf); err == nil {
		t.Error("CHECK finds nothing wrong without the interface")
	}
}

// DEL may come twice, without a namespace, for what never was; an address is used again only after it, and late.
func TestDelIsIdempotent(t *testing.T) {
	n := newNode(t, "10.244.7.0/29") // 2 to 6
	a := netnstest.New(t)
	first := addresses(n.must("ADD", "aaa", a.Path(), n.conf("")))[0]
	n.must("DEL", "aaa", a.Path(), n.conf(""))
	n.must("DEL", "aaa", a.Path(), n.conf(""))
	n.must("DEL", "aaa", "", n.conf(""))
	n.must("DEL", "never", "/no/such/namespace", n.conf(""))
	if routes, _ := netlink.RouteGet(net.IP(first.AsSlice())); len(routes) > 0 && routes[0].LinkIndex != 1 {
		if l, err := netlink.LinkByIndex(routes[0].LinkIndex); err == nil && strings.HasPrefix(l.Attrs().Name, "wy") {
			t.Errorf("route to %s is still there: %v", first, routes[0])
		}
	}
	var got []string
	for i := range 5 {
		ns := netnstest.New(t)
		got = append(got, addresses(n.must("ADD", fmt.Sprint("c", i), ns.Path(), n.conf("")))[0].String())
	}
	if s := strings.Join(got, " "); s != "10.244.7.3 10.244.7.4 10.244.7.5 10.244.7.6 10.244.7.2" {
		t.Errorf("addresses in turn: %s", s)
	}
	if _, err := n.run("STATUS", "", "", n.conf("")); err == nil || !strings.Contains(err.Error(), "50") {
		t.Errorf("STATUS of a full range: %v", err)
	}
	ns := netnstest.New(t)
	if _, err := n.run("ADD", "more", ns.Path(), n.conf("")); err == nil || !strings.Contains(err.Error(), `"code": 11`) {
		t.Errorf("ADD to a full range: %v", err)
	}
	n.must("DEL", "c2", "", n.conf(""))
	n.must("STATUS", "", "", n.conf(""))
}

// A leaked namespace, whose address was given out again, is cut off: neither can it speak for the address nor does it hear.
func TestLeakedNamespaceIsCutOff(t *testing.T) {
	n := newNode(t, "10.244.7.0/30") // 2 only
	old, new := netnstest.New(t), netnstest.New(t)
	serve(t, nil, "127.0.0.1:0", "unused")
	a := addresses(n.must("ADD", "old", old.Path(), n.conf("")))[0]
	serve(t, old, ":80", "old")
	want(t, nil, a.String()+":80", "old 10.244.7.1")
	n.must("DEL", "old", old.Path(), n.conf(""))
	if b := addresses(n.must("ADD", "new", new.Path(), n.conf("")))[0]; a != b {
		t.Fatalf("second address %s, first %s", b, a)
	}
	serve(t, new, ":80", "new")
	serve(t, nil, "10.244.7.1:81", "node")
	want(t, nil, a.String()+":80", "new 10.244.7.1")
	want(t, new, "10.244.7.1:81", "node "+a.String())
	old.Do(func() error {
		if c, err := net.DialTimeout("tcp", "10.244.7.1:81", 200*time.Millisecond); err == nil {
			c.Close()
			t.Error("the leaked namespace still speaks for the address")
		}
		return nil
	})
}

func TestConcurrentAdds(t *testing.T) {
	n := newNode(t, "10.244.7.0/24", "fd00:7::/64")
	const pods = 12
	var mu sync.Mutex
	seen := map[netip.Addr]int{}
	var wg sync.WaitGroup
	for i := range pods {
		ns := netnstest.New(t)
		wg.Go(func() {
			ports := fmt.Sprintf(`,"runtimeConfig":{"portMappings":[{"hostPort":%d,"containerPort":80,"protocol":"tcp"}]}`, 9000+i)
			out, err := n.run("ADD", fmt.Sprint("c", i), ns.Path(), n.conf(ports))
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			for _, a := range addresses(out) {
				seen[a]++
			}
		})
	}
	wg.Wait()
	if len(seen) != 2*pods {
		t.Errorf("%d distinct addresses for %d pods: %v", len(seen), pods, seen)
	}
}

// GC removes what the runtime does not name, the veth pairs included, and leaves the rest alone.
func TestGC(t *testing.T) {
	n := newNode(t, "10.244.7.0/24")
	for _, c := range []string{"keep", "lost1", "lost2"} {
		ns := netnstest.New(t)
		n.must("ADD", c, ns.Path(), n.conf(""))
	}
	n.must("GC", "", "", n.conf(`,"cni.dev/valid-attachments":[{"containerID":"keep","ifname":"eth0"}]`))
	r := reservations{filepath.Join(n.dir, "test")}
	all, err := r.all()
	if err != nil || len(all) != 1 {
		t.Fatalf("after GC: %v, %v", all, err)
	}
	for _, o := range all {
		if o.Container != "keep" {
			t.Errorf("GC kept %v", o)
		}
	}
	for name, there := range map[string]bool{"keep": true, "lost1": false, "lost2": false} {
		if _, err := netlink.LinkByName(hostInterface(name, "eth0")); (err == nil) != there {
			t.Errorf("interface of %s: %v", name, err)
		}
	}
}

// Whatever step of ADD fails, or wherever its process is killed, a second ADD works and DEL leaves nothing.
func TestFailedAddLeavesNothing(t *testing.T) {
	n := newNode(t, "10.244.7.0/24")
	ns := netnstest.New(t)
	// eth0 is taken: making the pair fails after the reservation.
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "eth0"
	ns.Do(func() error {
		h, err := netlink.NewHandle()
		if err != nil {
			return err
		}
		defer h.Close()
		return h.LinkAdd(&netlink.Bridge{LinkAttrs: attrs})
	})
	if _, err := n.run("ADD", "aaa", ns.Path(), n.conf("")); err == nil {
		t.Fatal("ADD succeeds although eth0 is there")
	}
	r := reservations{filepath.Join(n.dir, "test")}
	if all, _ := r.all(); len(all) != 0 {
		t.Errorf("reservations after a failed ADD: %v", all)
	}
	if _, err := netlink.LinkByName(hostInterface("aaa", "eth0")); err == nil {
		t.Error("interface after a failed ADD")
	}

	// Killed after the reservation; killed after the pair was made.
	ns2 := netnstest.New(t)
	if _, err := r.reserve(netip.MustParsePrefix("10.244.7.0/24"), owner{Container: "bbb", Interface: "eth0"}); err != nil {
		t.Fatal(err)
	}
	h, err := netlink.NewHandle()
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if _, err := connect(h, ns2.Handle(), ns2.FD(), "bbb", "eth0", 1400); err != nil {
		t.Fatal(err)
	}
	n.must("ADD", "bbb", ns2.Path(), n.conf(""))
	want := addressOf(t, ns2)
	serve(t, ns2, ":80", "bbb")
	if got, err := ask(nil, want+":80"); err != nil || got != "bbb 10.244.7.1" {
		t.Errorf("after a killed ADD: %q, %v", got, err)
	}
	n.must("DEL", "bbb", "", n.conf(""))
	if all, _ := r.all(); len(all) != 0 {
		t.Errorf("reservations after DEL: %v", all)
	}
}

func addressOf(t *testing.T, ns *netnstest.Namespace) string {
	h := ns.Handle()
	link, err := h.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	addrs, err := h.AddrList(link, netlink.FAMILY_V4)
	if err != nil || len(addrs) != 1 {
		t.Fatalf("addresses of eth0: %v, %v", addrs, err)
	}
	return addrs[0].IP.String()
}

// A host port leads to the pod from outside, from the node (also by localhost), from another pod and from the pod itself.
func TestHostPorts(t *testing.T) {
	n := newNode(t, "10.244.7.0/24")
	outside, a, b := netnstest.New(t), netnstest.New(t), netnstest.New(t)
	netnstest.Connect(t, netnstest.Link{Name: "up0", Addresses: []string{"192.0.2.1/24"}},
		netnstest.Link{Namespace: outside, Name: "eth0", Addresses: []string{"192.0.2.2/24"}})
	t.Cleanup(func() {
		if l, err := netlink.LinkByName("up0"); err == nil {
			netlink.LinkDel(l)
		}
	})
	ports := `,"runtimeConfig":{"portMappings":[{"hostPort":8080,"containerPort":80,"protocol":"TCP"},
		{"hostPort":8081,"containerPort":80,"protocol":"tcp","hostIP":"192.0.2.1"},{"hostPort":0,"containerPort":99,"protocol":"udp"}]}`
	conf := n.conf(ports)
	prev := n.must("ADD", "aaa", a.Path(), conf)
	n.must("ADD", "bbb", b.Path(), n.conf(""))
	serve(t, a, ":80", "a")
	want(t, outside, "192.0.2.1:8080", "a 192.0.2.2")
	want(t, outside, "192.0.2.1:8081", "a 192.0.2.2")
	want(t, nil, "192.0.2.1:8080", "a 192.0.2.1")
	want(t, nil, "127.0.0.1:8080", "a 10.244.7.1")
	want(t, b, "192.0.2.1:8080", "a 10.244.7.3")
	want(t, a, "192.0.2.1:8080", "a 10.244.7.1")
	if got, err := ask(b, "10.244.7.1:8081"); err == nil {
		t.Errorf("the port of one host address answers on another: %q", got)
	}
	text, _ := json.Marshal(prev)
	n.must("CHECK", "aaa", a.Path(), n.conf(ports+`,"prevResult":`+string(text)))

	c := netnstest.New(t)
	if _, err := n.run("ADD", "ccc", c.Path(), conf); err == nil || !strings.Contains(err.Error(), "host port 8080/TCP") {
		t.Errorf("second pod with the same host port: %v", err)
	}
	n.must("DEL", "aaa", a.Path(), n.conf("")) // the runtime may have forgotten the ports
	n.must("DEL", "aaa", a.Path(), n.conf(""))
	n.must("ADD", "ccc", c.Path(), conf)
	serve(t, c, ":80", "c")
	want(t, outside, "192.0.2.1:8080", "c 192.0.2.2")
}

// A UDP client that keeps its port follows the host port from pod to pod.
func TestUDPHostPortMoves(t *testing.T) {
	n := newNode(t, "10.244.7.0/24")
	outside := netnstest.New(t)
	netnstest.Connect(t, netnstest.Link{Name: "up0", Addresses: []string{"192.0.2.1/24"}},
		netnstest.Link{Namespace: outside, Name: "eth0", Addresses: []string{"192.0.2.2/24"}})
	var u net.Conn
	outside.Do(func() (err error) { u, err = net.Dial("udp", "192.0.2.1:5353"); return err })
	defer u.Close()
	question := 0
	say := func() string {
		buf := make([]byte, 20)
		for range 50 { // the first may meet a closed port
			question++
			u.SetDeadline(time.Now().Add(100 * time.Millisecond))
			fmt.Fprint(u, question)
			for {
				k, err := u.Read(buf)
				if err != nil {
					break
				}
				// An answer to an earlier question may still be in the socket.
				if who, ok := strings.CutSuffix(string(buf[:k]), fmt.Sprint(" ", question)); ok {
					return who
				}
			}
		}
		return "nothing"
	}
	conf := n.conf(`,"runtimeConfig":{"portMappings":[{"hostPort":5353,"containerPort":53,"protocol":"udp"}]}`)
	u.Write([]byte("?")) // a flow from before there was anybody
	for _, who := range []string{"first", "second"} {
		ns := netnstest.New(t)
		n.must("ADD", who, ns.Path(), conf)
		var pc net.PacketConn
		ns.Do(func() (err error) { pc, err = net.ListenPacket("udp", ":53"); return err })
		var wg sync.WaitGroup
		wg.Go(func() {
			buf := make([]byte, 10)
			for {
				k, from, err := pc.ReadFrom(buf)
				if err != nil {
					return
				}
				pc.WriteTo([]byte(who+" "+string(buf[:k])), from)
			}
		})
		if got := say(); got != who {
			t.Errorf("%s answers, want %s", got, who)
		}
		n.must("DEL", who, ns.Path(), n.conf(""))
		pc.Close()
		wg.Wait()
	}
}

func TestBandwidth(t *testing.T) {
	n := newNode(t, "10.244.7.0/24")
	ns := netnstest.New(t)
	n.must("ADD", "aaa", ns.Path(), n.conf(`,"runtimeConfig":{"bandwidth":{"ingressRate":8000000,"ingressBurst":800000,"egressRate":16000000}}`))
	link, err := netlink.LinkByName(hostInterface("aaa", "eth0"))
	if err != nil {
		t.Fatal(err)
	}
	qdiscs, err := netlink.QdiscList(link)
	if err != nil || len(qdiscs) != 1 {
		t.Fatalf("qdiscs: %v, %v", qdiscs, err)
	}
	if tbf, ok := qdiscs[0].(*netlink.Tbf); !ok || tbf.Rate != 1_000_000 {
		t.Errorf("ingress qdisc %v", qdiscs[0])
	}
}

func TestBadConfigurations(t *testing.T) {
	for name, c := range map[string]string{
		"no podCIDRs":      `{"name":"x","stateDir":"/s"}`,
		"relative state":   `{"name":"x","podCIDRs":["10.0.0.0/24"],"stateDir":"s"}`,
		"bad CIDR":         `{"name":"x","podCIDRs":["10.0.0.0/33"],"stateDir":"/s"}`,
		"no room":          `{"name":"x","podCIDRs":["10.0.0.0/31"],"stateDir":"/s"}`,
		"two of a family":  `{"name":"x","podCIDRs":["10.0.0.0/24","10.0.1.0/24"],"stateDir":"/s"}`,
		"unknown protocol": `{"name":"x","podCIDRs":["10.0.0.0/24"],"stateDir":"/s","runtimeConfig":{"portMappings":[{"hostPort":1,"protocol":"icmp"}]}}`,
		"not JSON":         `{`,
	} {
		if _, err := parseConf([]byte(c)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// What a runtime writes may be anything: it is refused or usable.
func FuzzParseConf(f *testing.F) {
	f.Add([]byte(`{"name":"x","podCIDRs":["10.0.0.0/24","fd00::/64"],"stateDir":"/s","runtimeConfig":{"portMappings":[{"hostPort":80,"hostIP":"::"}]}}`))
	f.Add([]byte(`{"podCIDRs":["::/0"],"stateDir":"/"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := parseConf(b)
		if err != nil {
			return
		}
		for _, p := range c.cidrs {
			if first, last := usable(p); last.Less(first) || !p.Contains(first) || !p.Contains(last) {
				t.Errorf("%s: from %s to %s", p, first, last)
			}
		}
	})
}

func TestWriteConfig(t *testing.T) {
	dir := t.TempDir()
	net := Network{PodCIDRs: []string{"10.1.0.0/24"}, StateDir: filepath.Join(dir, "state"), MTU: 1400}
	for range 2 {
		if err := WriteConfig(filepath.Join(dir, "conf"), net); err != nil {
			t.Fatal(err)
		}
	}
	files, _ := filepath.Glob(filepath.Join(dir, "conf", "*"))
	if len(files) != 1 {
		t.Fatalf("files %v", files)
	}
	var list struct {
		Name, CNIVersion string
		Plugins          []json.RawMessage
	}
	b, _ := os.ReadFile(files[0])
	if err := json.Unmarshal(b, &list); err != nil || list.Name != "wherry" || list.CNIVersion != "1.1.0" || len(list.Plugins) != 1 {
		t.Fatalf("%s: %v", b, err)
	}
	if err := WriteConfig(dir, Network{StateDir: "/x"}); err == nil {
		t.Error("configuration without podCIDR is written")
	}
	if err := WriteConfig(dir, Network{StateDir: "/x", PodCIDRs: []string{"10.1.0.0/32"}}); err == nil {
		t.Error("configuration with a useless podCIDR is written")
	}
}

// Whatever is reserved and released in whatever order: no address twice, none outside the range, none lost.
func TestReservationsProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "reservations")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		r := reservations{dir}
		cidr := netip.MustParsePrefix(rapid.SampledFrom([]string{"10.0.0.0/29", "10.0.0.8/30", "fd00::/125", "10.9.0.0/16"}).Draw(t, "cidr"))
		held := map[netip.Addr]bool{}
		for i := range rapid.IntRange(1, 30).Draw(t, "steps") {
			if rapid.Bool().Draw(t, "release") && len(held) > 0 {
				for a := range held {
					if err := r.release(a); err != nil {
						t.Fatal(err)
					}
					delete(held, a)
					break
				}
				continue
			}
			a, err := r.reserve(cidr, owner{Container: fmt.Sprint("c", i), Interface: "eth0"})
			if errors.Is(err, errFull) {
				if len(held) != capacity(cidr) {
					t.Fatalf("full with %d of %d", len(held), capacity(cidr))
				}
				continue
			} else if err != nil {
				t.Fatal(err)
			}
			if held[a] || !cidr.Contains(a) || a == gateway(cidr) || a == cidr.Addr() {
				t.Fatalf("bad address %s of %s; held %v", a, cidr, held)
			}
			held[a] = true
		}
		all, err := r.all()
		if err != nil || len(all) != len(held) {
			t.Fatalf("reservations %v, held %v, %v", all, held, err)
		}
	})
}

// The namespaces stay until the end: removing one holds the kernel's routing lock for some 30 ms, and would be measured too.
func BenchmarkAdd(b *testing.B) { benchmark(b, true) }
func BenchmarkDel(b *testing.B) { benchmark(b, false) }

func benchmark(b *testing.B, add bool) {
	n := newNode(b, "10.244.0.0/16")
	conf := n.conf("")
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		ns := netnstest.New(b)
		container := fmt.Sprint("bench", i)
		if add {
			b.StartTimer()
		}
		n.must("ADD", container, ns.Path(), conf)
		if !add {
			b.StartTimer()
		}
		if !add {
			n.must("DEL", container, ns.Path(), conf)
		}
	}
}
