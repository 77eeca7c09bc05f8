package cni

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"wherry.dev/wherry/network/nft"
)

// hostPorts are the ports of this node that lead to pods. The table's rules never change; a pod adds elements to its maps:
//
//	ports     protocol . port                 → pod address . port
//	hostips   host address . protocol . port  → pod address . port
//	hairpin   pod address . pod address
//
// each once for IPv4 and once for IPv6 (with "6" at the end).
type hostPorts struct {
	conn  *nftables.Conn
	table *nftables.Table
}

func openHostPorts(table string) (*hostPorts, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	return &hostPorts{conn, nft.Table(table)}, nil
}

// portSets are the sets of one family.
type portSets struct{ ports, hostIPs, hairpin *nftables.Set }

func (h *hostPorts) sets(ipv6 bool) portSets {
	suffix, addr := "", nft.AddrType(ipv6)
	if ipv6 {
		suffix = "6"
	}
	target := nftables.MustConcatSetType(addr, nftables.TypeInetService)
	set := func(name string, isMap bool, types ...nftables.SetDatatype) *nftables.Set {
		s := &nftables.Set{Table: h.table, Name: name + suffix, KeyType: nftables.MustConcatSetType(types...), Concatenation: true}
		if isMap {
			s.IsMap, s.DataType = true, target
		}
		return s
	}
	return portSets{
		ports:   set("ports", true, nftables.TypeInetProto, nftables.TypeInetService),
		hostIPs: set("hostips", true, addr, nftables.TypeInetProto, nftables.TypeInetService),
		hairpin: set("hairpin", false, addr, addr),
	}
}

// hostPortPriority comes before the service proxy's, so that a host port wins over a node port.
const hostPortPriority = -105

// add leads the mappings' ports to the pod, all or none, making or mending the table on the way. A port that another pod
// holds is an error that names it.
func (h *hostPorts) add(mappings []portMapping, addrs []netip.Addr) error {
	c := h.conn
	c.AddTable(h.table)
	chain := func(name string, hook *nftables.ChainHook, priority int) *nftables.Chain {
		ch := nft.BaseChain(h.table, name, nftables.ChainTypeNAT, hook, priority)
		c.AddChain(ch)
		c.FlushChain(ch)
		return ch
	}
	pre := chain("prerouting", nftables.ChainHookPrerouting, hostPortPriority)
	out := chain("output", nftables.ChainHookOutput, hostPortPriority)
	post := chain("postrouting", nftables.ChainHookPostrouting, 100)
	rule := func(ch *nftables.Chain, parts ...nft.Rule) {
		c.AddRule(&nftables.Rule{Table: h.table, Chain: ch, Exprs: nft.Join(parts...)})
	}
	for _, ipv6 := range []bool{false, true} {
		s := h.sets(ipv6)
		for _, set := range []*nftables.Set{s.ports, s.hostIPs, s.hairpin} {
			if err := c.AddSet(set, nil); err != nil {
				return fmt.Errorf("add host ports: %w", err)
			}
		}
		w := nft.Words(ipv6)
		for _, ch := range []*nftables.Chain{pre, out} {
			local := nft.Join(nft.Family(ipv6), nft.ToLocal(0))
			rule(ch, local, nft.Destination(ipv6, 0), nft.Protocol(w), nft.DestinationPort(w+1),
				nft.Lookup(0, s.hostIPs, 8), nft.DNAT(ipv6, 8, 8+w))
			rule(ch, local, nft.Protocol(0), nft.DestinationPort(1), nft.Lookup(0, s.ports, 8), nft.DNAT(ipv6, 8, 8+w))
		}
		rule(post, nft.Family(ipv6), nft.Translated(), nft.Source(ipv6, 0), nft.Destination(ipv6, w), nft.In(0, s.hairpin), nft.Masquerade())
		if !ipv6 {
			// A process of the node that asks 127.0.0.1 gets an answer from the pod only under an address the pod can answer to.
			loopback := netip.MustParsePrefix("127.0.0.0/8")
			rule(post, nft.Family(ipv6), nft.Translated(), nft.Source(ipv6, 0), nft.Within(0, loopback),
				nft.Destination(ipv6, 0), nft.NotWithin(0, loopback), nft.Masquerade())
		}
	}
	taken, err := h.insert(mappings, addrs)
	if err != nil {
		return err
	}
	if err := c.Flush(); errors.Is(err, unix.EEXIST) || errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("host port %s is already taken by another pod of this node: %w", taken, err)
	} else if err != nil {
		return fmt.Errorf("add host ports %s: %w", taken, err)
	}
	return nil
}

// insert queues the elements of one pod, and returns the ports in words.
func (h *hostPorts) insert(mappings []portMapping, addrs []netip.Addr) (string, error) {
	var words []string
	for _, a := range addrs {
		s := h.sets(a.Is6())
		if err := h.conn.SetAddElements(s.hairpin, []nftables.SetElement{{Key: append(nft.Address(a), nft.Address(a)...)}}); err != nil {
			return "", fmt.Errorf("add host ports: %w", err)
		}
		for _, m := range mappings {
			if m.HostPort == 0 {
				continue
			}
			proto, err := m.protocol()
			if err != nil {
				return "", err
			}
			set, key := s.ports, append(nft.Proto(proto), nft.Port(m.HostPort)...)
			if ip, err := netip.ParseAddr(m.HostIP); err == nil && !ip.IsUnspecified() {
				if ip.Unmap().Is6() != a.Is6() {
					continue
				}
				set, key = s.hostIPs, append(nft.Address(ip.Unmap()), key...)
			} else if err == nil && ip.Is6() != a.Is6() {
				continue // 0.0.0.0 and :: mean every address of their family
			}
			words = append(words, fmt.Sprintf("%d/%s", m.HostPort, strings.ToUpper(m.Protocol)))
			if err := h.conn.SetAddElements(set, []nftables.SetElement{{Key: key, Val: append(nft.Address(a), nft.Port(m.ContainerPort)...)}}); err != nil {
				return "", fmt.Errorf("add host ports: %w", err)
			}
		}
	}
	return strings.Join(words, ", "), nil
}

// each calls f with every element that leads to one of addrs, and the set it is in.
func (h *hostPorts) each(addrs []netip.Addr, f func(*nftables.Set, nftables.SetElement) error) error {
	if there, err := nft.HasTable(h.conn, h.table.Name); err != nil || !there {
		return err // no table: nothing leads anywhere
	}
	for _, ipv6 := range []bool{false, true} {
		s := h.sets(ipv6)
		for _, set := range []*nftables.Set{s.ports, s.hostIPs, s.hairpin} {
			elements, err := h.conn.GetSetElements(set)
			if err != nil {
				return fmt.Errorf("list host ports: %w", err)
			}
			for _, e := range elements {
				target := e.Val
				if !set.IsMap {
					target = e.Key
				}
				for _, a := range addrs {
					if a.Is6() == ipv6 && bytes.HasPrefix(target, a.AsSlice()) {
						if err := f(set, e); err != nil {
							return err
						}
					}
				}
			}
		}
	}
	return nil
}

// remove takes away every port that leads to one of addrs, and the UDP flows that came that way. None is no error.
func (h *hostPorts) remove(addrs []netip.Addr) error {
	found, udp := false, false
	err := h.each(addrs, func(set *nftables.Set, e nftables.SetElement) error {
		found = true
		if set.IsMap {
			// Both maps' keys end in protocol and port, a register each.
			udp = udp || e.Key[len(e.Key)-8] == unix.IPPROTO_UDP
		}
		return h.conn.SetDeleteElements(set, []nftables.SetElement{{Key: e.Key}})
	})
	if err != nil || !found {
		return err
	}
	if err := h.conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove host ports: %w", err)
	}
	if udp {
		return forgetFlows(nil, addrs)
	}
	return nil
}

// forgetFlows removes UDP flows that would outlive their host port, or that began before it and lead nowhere. TCP needs none of it:
// a new connection is a new flow, but a UDP client may keep its port, and with it the old way, for ever.
func forgetFlows(mappings []portMapping, addrs []netip.Addr) error {
	match := udpFlows{ports: map[uint16]bool{}, addrs: map[netip.Addr]bool{}}
	for _, m := range mappings {
		if proto, err := m.protocol(); err == nil && proto == unix.IPPROTO_UDP && m.HostPort != 0 {
			match.ports[m.HostPort] = true
		}
	}
	for _, a := range addrs {
		match.addrs[a] = true
	}
	for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		if _, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, family, match); err != nil {
			return fmt.Errorf("forget UDP flows: %w", err)
		}
	}
	return nil
}

// udpFlows matches UDP flows to one of the ports, and translated ones that lead to one of the addresses.
type udpFlows struct {
	ports map[uint16]bool
	addrs map[netip.Addr]bool
}

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (u udpFlows) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	if f.Forward.Protocol != unix.IPPROTO_UDP {
		return false
	}
	answering, _ := netip.AddrFromSlice(f.Reverse.SrcIP)
	return u.ports[f.Forward.DstPort] || u.addrs[answering.Unmap()] && !f.Forward.DstIP.Equal(f.Reverse.SrcIP)
}

// hasUDP reports whether a host port is asked for over UDP.
func hasUDP(mappings []portMapping) bool {
	for _, m := range mappings {
		if proto, err := m.protocol(); err == nil && proto == unix.IPPROTO_UDP && m.HostPort != 0 {
			return true
		}
	}
	return false
}

// count is the number of ports that lead to one of addrs.
func (h *hostPorts) count(addrs []netip.Addr) (int, error) {
	n := 0
	err := h.each(addrs, func(set *nftables.Set, _ nftables.SetElement) error {
		if set.IsMap {
			n++
		}
		return nil
	})
	return n, err
}

func (m portMapping) protocol() (uint8, error) {
	switch strings.ToLower(m.Protocol) {
	case "tcp", "":
		return unix.IPPROTO_TCP, nil
	case "udp":
		return unix.IPPROTO_UDP, nil
	case "sctp":
		return unix.IPPROTO_SCTP, nil
	}
	return 0, fmt.Errorf("port %d: unknown protocol %q", m.HostPort, m.Protocol)
}
