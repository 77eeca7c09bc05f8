package cni

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// hostInterface is the name of the host end of an attachment's veth pair, so that DEL and GC find it without any record.
func hostInterface(container, ifName string) string {
	sum := sha256.Sum256([]byte(container + "\x00" + ifName))
	return "wy" + hex.EncodeToString(sum[:6]) // 14 of the 15 characters an interface name may have
}

// hardwareAddr derives a locally administered unicast address, so that both ends know each other's without a query.
func hardwareAddr(container, ifName, end string) net.HardwareAddr {
	sum := sha256.Sum256([]byte(end + "\x00" + container + "\x00" + ifName))
	mac := net.HardwareAddr(sum[:6])
	mac[0] = mac[0]&^0x01 | 0x02
	return mac
}

// pair is a veth pair between the node and a pod's namespace.
type pair struct {
	node, pod       *netlink.Handle
	nodeLink        netlink.Link
	podLink         netlink.Link
	nodeMAC, podMAC net.HardwareAddr
}

// connect makes the pair: the host end here, ifName in the namespace of netnsFD, both up. An old host end of the same
// attachment, left by a run that was killed, goes first.
func connect(node, pod *netlink.Handle, netnsFD int, container, ifName string, mtu int) (*pair, error) {
	p := &pair{node: node, pod: pod, nodeMAC: hardwareAddr(container, ifName, "node"), podMAC: hardwareAddr(container, ifName, "pod")}
	name := hostInterface(container, ifName)
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = name, mtu, p.nodeMAC
	// One queue is what a veth pair without packet steering uses; more cost memory for every pod.
	attrs.NumTxQueues, attrs.NumRxQueues, attrs.TxQLen = 1, 1, 1000
	veth := netlink.NewVeth(attrs)
	veth.PeerName, veth.PeerHardwareAddr, veth.PeerNamespace = ifName, p.podMAC, netlink.NsFd(netnsFD)
	veth.PeerNumTxQueues, veth.PeerNumRxQueues, veth.PeerMTU = 1, 1, uint32(mtu)

	err := node.LinkAdd(veth)
	if errors.Is(err, unix.EEXIST) {
		if old, e := node.LinkByName(name); e == nil {
			if e := node.LinkDel(old); e != nil {
				return nil, fmt.Errorf("remove left-over interface %s: %w", name, e)
			}
			err = node.LinkAdd(veth)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("create interface %s and %s in the pod: %w", name, ifName, err)
	}
	if p.nodeLink, err = node.LinkByName(name); err != nil {
		return p, fmt.Errorf("find interface %s: %w", name, err)
	}
	if p.podLink, err = pod.LinkByName(ifName); err != nil {
		return p, fmt.Errorf("find interface %s in the pod: %w", ifName, err)
	}
	return p, nil
}

// up starts both ends. Before, so that no packet passes unchecked, the host end gets its settings.
func (p *pair) up(ipv6, localhostPorts bool) error {
	name := p.nodeLink.Attrs().Name
	settings := []struct{ path, value string }{
		{"ipv4/conf/" + name + "/rp_filter", "1"},      // a pod speaks only for addresses that are routed to it
		{"ipv4/conf/" + name + "/send_redirects", "0"}, // hairpin traffic leaves where it came in, by design
	}
	if ipv6 {
		settings = append(settings, struct{ path, value string }{"ipv6/conf/" + name + "/accept_ra", "0"})
	} else {
		settings = append(settings, struct{ path, value string }{"ipv6/conf/" + name + "/disable_ipv6", "1"})
	}
	if localhostPorts {
		settings = append(settings, struct{ path, value string }{"ipv4/conf/" + name + "/route_localnet", "1"})
	}
	for _, s := range settings {
		if err := writeSysctl(s.path, s.value); err != nil {
			return err
		}
	}
	if err := p.node.LinkSetUp(p.nodeLink); err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	if err := p.pod.LinkSetUp(p.podLink); err != nil {
		return fmt.Errorf("set %s up in the pod: %w", p.podLink.Attrs().Name, err)
	}
	return nil
}

// address gives the pod addr, with gw as its way out, and the node the way back.
func (p *pair) address(addr, gw netip.Addr) error {
	podIP := net.IP(addr.AsSlice())
	gwIP := net.IP(gw.AsSlice())
	if err := p.pod.AddrAdd(p.podLink, &netlink.Addr{IPNet: host(addr), Flags: addrFlags(addr)}); err != nil {
		return fmt.Errorf("add address %s to the pod: %w", addr, err)
	}
	// Permanent entries on both sides: the first packet waits for no ARP or neighbour discovery.
	if err := p.pod.NeighSet(&netlink.Neigh{LinkIndex: p.podLink.Attrs().Index, Family: family(addr), State: netlink.NUD_PERMANENT,
		IP: gwIP, HardwareAddr: p.nodeMAC}); err != nil {
		return fmt.Errorf("add the gateway's neighbour entry to the pod: %w", err)
	}
	if err := p.pod.RouteReplace(&netlink.Route{LinkIndex: p.podLink.Attrs().Index, Gw: gwIP, Flags: int(netlink.FLAG_ONLINK), Dst: anywhere(addr)}); err != nil {
		return fmt.Errorf("add default route through %s to the pod: %w", gw, err)
	}
	if err := p.node.NeighSet(&netlink.Neigh{LinkIndex: p.nodeLink.Attrs().Index, Family: family(addr), State: netlink.NUD_PERMANENT,
		IP: podIP, HardwareAddr: p.podMAC}); err != nil {
		return fmt.Errorf("add neighbour entry of %s: %w", addr, err)
	}
	if err := p.node.RouteReplace(podRoute(addr, gw, p.nodeLink.Attrs().Index)); err != nil {
		return fmt.Errorf("add route to pod address %s: %w", addr, err)
	}
	return nil
}

// podRoute is the node's route to one pod address. Its source is the gateway address, so that the node talks to
// its pods (probes, logs) from an address that belongs to the pod network.
func podRoute(addr, gw netip.Addr, index int) *netlink.Route {
	return &netlink.Route{LinkIndex: index, Dst: host(addr), Src: net.IP(gw.AsSlice()), Scope: netlink.SCOPE_LINK, Protocol: unix.RTPROT_STATIC}
}

// ensureGateway puts the node's own address of each podCIDR on lo; it stays when the pods go.
func ensureGateway(node *netlink.Handle, gw netip.Addr) error {
	lo, err := node.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	err = node.AddrAdd(lo, &netlink.Addr{IPNet: host(gw), Flags: addrFlags(gw)})
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add gateway address %s to lo: %w", gw, err)
	}
	return nil
}

// RouteProtocol marks the routes between nodes in the kernel (rtm_protocol), whoever of Wherry makes them.
const RouteProtocol = 87

// smallestMTU is what a pod's packets of that size get through everywhere with: the smallest MTU of the interfaces that carry the node's
// default route and its routes to other nodes, such as a tunnel; 0 when there are none.
func smallestMTU(node *netlink.Handle) int {
	smallest := 0
	for _, only := range []struct {
		route  netlink.Route
		filter uint64
	}{
		{netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_DST | netlink.RT_FILTER_TABLE},
		{netlink.Route{Protocol: RouteProtocol}, netlink.RT_FILTER_PROTOCOL},
	} {
		routes, err := node.RouteListFiltered(netlink.FAMILY_ALL, &only.route, only.filter)
		if err != nil {
			continue
		}
		for _, r := range routes {
			if r.Type == unix.RTN_UNREACHABLE {
				continue
			}
			link, err := node.LinkByIndex(r.LinkIndex)
			if err == nil && (smallest == 0 || link.Attrs().MTU < smallest) {
				smallest = link.Attrs().MTU
			}
		}
	}
	return smallest
}

// limit shapes what the kernel sends on a link. rate in bits per second, burst in bits.
func limit(h *netlink.Handle, link netlink.Link, rate, burst uint64) error {
	const (
		microseconds = 1_000_000
		latency      = 25_000 // µs a packet may wait before it is dropped
		maxBurst     = 1 << 31
	)
	bytes := rate / 8
	if burst == 0 || burst > maxBurst {
		burst = maxBurst
	}
	burstBytes := burst / 8
	buffer := float64(burstBytes) * microseconds / float64(bytes) * netlink.TickInUsec()
	queue := float64(bytes)*latency/microseconds + float64(burstBytes)
	return h.QdiscReplace(&netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
		Rate:       bytes,
		Limit:      uint32(min(queue, 1<<32-1)),
		Buffer:     uint32(min(buffer, 1<<32-1)),
	})
}

func host(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}

func anywhere(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: make(net.IP, a.BitLen()/8), Mask: net.CIDRMask(0, a.BitLen())}
}

// addrFlags leaves out duplicate address detection: the address is ours by reservation, and a pod should not wait a second for it.
func addrFlags(a netip.Addr) int {
	if a.Is6() {
		return unix.IFA_F_NODAD
	}
	return 0
}

func family(a netip.Addr) int {
	if a.Is6() {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

// writeSysctl sets a value below net/ in this process's namespace. A kernel without IPv6 has nothing to be switched off.
func writeSysctl(path, value string) error {
	f, err := os.OpenFile("/proc/sys/net/"+path, os.O_WRONLY, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("set sysctl net/%s: %w", path, err)
	}
	defer f.Close()
	if _, err := f.WriteString(value); err != nil {
		return fmt.Errorf("set sysctl net/%s to %s: %w", path, value, err)
	}
	return nil
}
