package routes

import (
	"crypto/sha256"
	"fmt"
	"net"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// Node is what the pod network needs to know of a node.
type Node struct {
	Name     string
	PodCIDRs []netip.Prefix
	IPs      []netip.Addr // InternalIP, at most one for each family counts
}

// NodeOf reads a Node object. Addresses that do not parse are left out: the API server validates them.
func NodeOf(n *corev1.Node) Node {
	out := Node{Name: n.Name}
	cidrs := n.Spec.PodCIDRs
	if len(cidrs) == 0 && n.Spec.PodCIDR != "" {
		cidrs = []string{n.Spec.PodCIDR}
	}
	for _, text := range cidrs {
		if p, err := netip.ParsePrefix(text); err == nil {
			out.PodCIDRs = append(out.PodCIDRs, p.Masked())
		}
	}
	for _, a := range n.Status.Addresses {
		if ip, err := netip.ParseAddr(a.Address); err == nil && a.Type == corev1.NodeInternalIP {
			out.IPs = append(out.IPs, ip.Unmap())
		}
	}
	return out
}

func (n Node) equal(m Node) bool {
	return n.Name == m.Name && slices.Equal(n.PodCIDRs, m.PodCIDRs) && slices.Equal(n.IPs, m.IPs)
}

// ip is the node's address of a family.
func (n Node) ip(ipv6 bool) (netip.Addr, bool) {
	for _, a := range n.IPs {
		if a.Is6() == ipv6 {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// Way is how the kernel reaches another node's address now.
type Way struct {
	Link   int  // index of the interface
	Direct bool // the node is on that link
}

// Kind of a route.
type Kind uint8

const (
	Unreachable Kind = iota + 1 // this node's own podCIDR: for addresses that no pod has
	Direct                      // through the other node's address on a shared link
	Tunnel                      // through the VXLAN interface
)

// Route is one that the kernel should have. Comparable.
type Route struct {
	Kind Kind
	Dst  netip.Prefix
	Via  netip.Addr // Direct: the node's address. Tunnel: the tunnel's address there
	Link int        // Direct: the interface
}

func (r Route) String() string {
	switch r.Kind {
	case Unreachable:
		return fmt.Sprintf("unreachable %s", r.Dst)
	case Direct:
		return fmt.Sprintf("%s via %s link %d", r.Dst, r.Via, r.Link)
	}
	return fmt.Sprintf("%s via %s in the tunnel", r.Dst, r.Via)
}

// Peer is the far end of the tunnel on one node. Comparable.
type Peer struct {
	Outer netip.Addr // the node's own address
	MAC   string     // of its tunnel interface, a net.HardwareAddr
}

// Plan is the pod network that a node should have.
type Plan struct {
	Routes map[netip.Prefix]Route // by destination
	Peers  map[netip.Addr]Peer    // by the tunnel's address there (Route.Via)
	Own    []netip.Prefix         // this node's podCIDRs
	Inside []netip.Prefix         // where pod addresses are understood: every podCIDR and node
	Lost   []string               // nodes that there is no way to now
}

// MakePlan decides which routes self needs. way says how the kernel reaches an address; false: not at all. Pure but for way.
func MakePlan(self string, nodes []Node, way func(netip.Addr) (Way, bool)) Plan {
	p := Plan{Routes: map[netip.Prefix]Route{}, Peers: map[netip.Addr]Peer{}}
	slices.SortFunc(nodes, func(a, b Node) int {
		if a.Name == b.Name {
			return 0
		} else if a.Name < b.Name {
			return -1
		}
		return 1
	})
	for _, n := range nodes {
		for _, ip := range n.IPs {
			p.Inside = append(p.Inside, netip.PrefixFrom(ip, ip.BitLen()))
		}
		p.Inside = append(p.Inside, n.PodCIDRs...)
		if n.Name == self {
			p.Own = n.PodCIDRs
			for _, c := range n.PodCIDRs {
				p.Routes[c] = Route{Kind: Unreachable, Dst: c}
			}
			continue
		}
		lost := false
		for _, c := range n.PodCIDRs {
			if _, taken := p.Routes[c]; taken {
				continue // two nodes with one podCIDR: the first keeps it, as the API server's allocator says
			}
			// The tunnel's outer packets may be of either family; a shared link only helps within one.
			ip, ok := n.ip(c.Addr().Is6())
			var w Way
			if ok {
				w, ok = way(ip)
			}
			if ok && w.Direct {
				p.Routes[c] = Route{Kind: Direct, Dst: c, Via: ip, Link: w.Link}
				continue
			}
			if !ok {
				if ip, ok = n.ip(c.Addr().Is4()); ok {
					_, ok = way(ip)
				}
			}
			if !ok {
				lost = true
				continue
			}
			via := c.Addr() // the podCIDR's own address, that no pod gets
			p.Routes[c] = Route{Kind: Tunnel, Dst: c, Via: via}
			p.Peers[via] = Peer{Outer: ip, MAC: tunnelMAC(n.Name).String()}
		}
		if lost {
			p.Lost = append(p.Lost, n.Name)
		}
	}
	p.Inside = disjoint(p.Inside)
	return p
}

// disjoint leaves out prefixes that lie in others: the kernel takes no overlapping ones.
func disjoint(ps []netip.Prefix) []netip.Prefix {
	slices.SortFunc(ps, func(a, b netip.Prefix) int {
		if a.Bits() != b.Bits() {
			return a.Bits() - b.Bits()
		}
		return a.Addr().Compare(b.Addr())
	})
	var out []netip.Prefix
	seen := map[netip.Prefix]bool{}
	for _, p := range ps {
		inside := false
		for bits := p.Bits(); bits >= 0 && !inside; bits-- {
			up, _ := p.Addr().Prefix(bits)
			inside = seen[up]
		}
		if !inside {
			seen[p] = true
			out = append(out, p)
		}
	}
	return out
}

// tunnelMAC is the hardware address of a node's tunnel interface: derived from the name, so that nobody has to publish it.
func tunnelMAC(node string) net.HardwareAddr {
	sum := sha256.Sum256([]byte("wherry tunnel\x00" + node))
	mac := net.HardwareAddr(sum[:6])
	mac[0] = mac[0]&^0x01 | 0x02
	return mac
}
