package routes

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"wherry.dev/wherry/network/nft"
)

// kernel makes the kernel's state equal to plans. Not for concurrent use.
type kernel struct {
	Config
	netlink *netlink.Handle
	masked  *Plan // whose Own and Inside the nftables table has; nil: none yet
}

// way asks the kernel how it would reach an address.
func (k *kernel) way(a netip.Addr) (Way, bool) {
	routes, err := k.netlink.RouteGet(a.AsSlice())
	if err != nil || len(routes) == 0 {
		return Way{}, false
	}
	r := routes[0]
	return Way{Link: r.LinkIndex, Direct: r.Gw == nil && r.Via == nil && r.Type == unix.RTN_UNICAST}, true
}

// apply makes the kernel follow the plan. It changes only what differs.
func (k *kernel) apply(p Plan) error {
	if err := k.mask(p); err != nil {
		return err
	}
	tunnel, err := k.tunnel(p)
	if err != nil {
		return err
	}
	have, err := k.netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Protocol: Protocol}, netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	var errs []error
	there := map[Route]bool{}
	for i := range have {
		r := read(&have[i], tunnel)
		want, ok := p.Routes[r.Dst]
		switch {
		case ok && want == r:
			there[r] = true
		case ok && want.Kind != Unreachable && r.Kind != Unreachable:
			// replaced below, without a gap
		default:
			if err := k.netlink.RouteDel(&have[i]); err != nil && !errors.Is(err, unix.ESRCH) {
				errs = append(errs, fmt.Errorf("remove stale route %s: %w", r, err))
			}
		}
	}
	for _, r := range p.Routes {
		if there[r] {
			continue
		}
		if err := k.netlink.RouteReplace(r.netlink(tunnel)); err != nil {
			errs = append(errs, fmt.Errorf("add route %s: %w", r, err))
		}
	}
	return errors.Join(errs...)
}

func (r Route) netlink(tunnel int) *netlink.Route {
	n := &netlink.Route{Protocol: Protocol, Dst: &net.IPNet{IP: r.Dst.Addr().AsSlice(), Mask: net.CIDRMask(r.Dst.Bits(), r.Dst.Addr().BitLen())}}
	switch r.Kind {
	case Unreachable:
		n.Type = unix.RTN_UNREACHABLE
	case Direct:
		n.LinkIndex, n.Gw = r.Link, r.Via.AsSlice()
	case Tunnel:
		n.LinkIndex, n.Gw, n.Flags = tunnel, r.Via.AsSlice(), int(netlink.FLAG_ONLINK)
	}
	return n
}

// read is the reverse of Route.netlink.
func read(n *netlink.Route, tunnel int) Route {
	var r Route
	if n.Dst != nil {
		a, _ := netip.AddrFromSlice(n.Dst.IP)
		bits, _ := n.Dst.Mask.Size()
		if a = a.Unmap(); len(n.Dst.Mask) == net.IPv6len && a.Is4() {
			bits -= 96
		}
		r.Dst = netip.PrefixFrom(a, bits)
	}
	if a, ok := netip.AddrFromSlice(n.Gw); ok {
		r.Via = a.Unmap()
	}
	switch {
	case n.Type == unix.RTN_UNREACHABLE:
		r.Kind, r.Via = Unreachable, netip.Addr{}
	case tunnel != 0 && n.LinkIndex == tunnel:
		r.Kind = Tunnel
	default:
		r.Kind, r.Link = Direct, n.LinkIndex
	}
	return r
}

// tunnelName is the VXLAN interface's name.
func (c *Config) tunnelName() string { return fmt.Sprintf("wherry.%d", c.TunnelID) }

// tunnel makes the tunnel follow the plan and returns its interface; 0 when no node is behind it.
func (k *kernel) tunnel(p Plan) (int, error) {
	link, err := k.netlink.LinkByName(k.tunnelName())
	var missing netlink.LinkNotFoundError
	if err != nil && !errors.As(err, &missing) {
		return 0, fmt.Errorf("find tunnel: %w", err)
	}
	if len(p.Peers) == 0 {
		if err == nil {
			if err := k.netlink.LinkDel(link); err != nil {
				return 0, fmt.Errorf("remove tunnel: %w", err)
			}
		}
		return 0, nil
	}
	if err != nil {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.HardwareAddr = k.tunnelName(), tunnelMAC(k.NodeName)
		vxlan := &netlink.Vxlan{LinkAttrs: attrs, VxlanId: k.TunnelID, Port: k.TunnelPort}
		// The kernel takes the MTU of the interface below when it knows one: name it.
		for _, peer := range p.Peers {
			if w, ok := k.way(peer.Outer); ok {
				vxlan.VtepDevIndex = w.Link
				break
			}
		}
		if err := k.netlink.LinkAdd(vxlan); err != nil {
			return 0, fmt.Errorf("make tunnel: %w", err)
		}
		if link, err = k.netlink.LinkByName(k.tunnelName()); err != nil {
			return 0, fmt.Errorf("find tunnel: %w", err)
		}
	}
	index := link.Attrs().Index
	for _, c := range p.Own {
		// Its own address is what this node's packets carry in the tunnel.
		err := k.netlink.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: c.Addr().AsSlice(), Mask: net.CIDRMask(c.Addr().BitLen(), c.Addr().BitLen())}, Flags: unix.IFA_F_NODAD})
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return 0, fmt.Errorf("add address to the tunnel: %w", err)
		}
	}
	if err := k.netlink.LinkSetUp(link); err != nil {
		return 0, fmt.Errorf("set tunnel up: %w", err)
	}
	return index, k.peers(index, p)
}

// peers makes the tunnel's neighbours and forwarding entries equal to the plan's.
func (k *kernel) peers(index int, p Plan) error {
	byMAC := map[string]netip.Addr{}
	var errs []error
	for via, peer := range p.Peers {
		mac, err := net.ParseMAC(peer.MAC)
		if err != nil {
			return fmt.Errorf("tunnel peer %s: %w", via, err)
		}
		byMAC[peer.MAC] = peer.Outer
		family := unix.AF_INET
		if via.Is6() {
			family = unix.AF_INET6
		}
		errs = append(errs,
			wrap("add tunnel neighbour", k.netlink.NeighSet(&netlink.Neigh{LinkIndex: index, Family: family, State: netlink.NUD_PERMANENT, IP: via.AsSlice(), HardwareAddr: mac})),
			wrap("add tunnel peer", k.netlink.NeighSet(&netlink.Neigh{LinkIndex: index, Family: unix.AF_BRIDGE, State: netlink.NUD_PERMANENT, Flags: netlink.NTF_SELF, IP: peer.Outer.AsSlice(), HardwareAddr: mac})))
	}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6, unix.AF_BRIDGE} {
		have, err := k.netlink.NeighList(index, family)
		if err != nil {
			errs = append(errs, fmt.Errorf("list tunnel neighbours: %w", err))
			continue
		}
		for i := range have {
			n := &have[i]
			ip, _ := netip.AddrFromSlice(n.IP)
			ip = ip.Unmap()
			_, known := p.Peers[ip]
			if family == unix.AF_BRIDGE {
				known = byMAC[n.HardwareAddr.String()] == ip
			}
			if !known && n.State&netlink.NUD_PERMANENT != 0 {
				err := k.netlink.NeighDel(n)
				if err != nil && !errors.Is(err, unix.ENOENT) {
					errs = append(errs, fmt.Errorf("remove tunnel neighbour %s: %w", ip, err))
				}
			}
		}
	}
	return errors.Join(errs...)
}

func wrap(what string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// mask makes the table that hides pod addresses from the world outside, in one transaction, when it has changed.
func (k *kernel) mask(p Plan) error {
	if k.masked != nil && slices.Equal(k.masked.Own, p.Own) && slices.Equal(k.masked.Inside, p.Inside) {
		return nil
	}
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	t := nft.Table(k.Table)
	c.AddTable(t)
	c.DelTable(t)
	c.AddTable(t)
	post := c.AddChain(nft.BaseChain(t, "postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, 100))
	forward := c.AddChain(nft.BaseChain(t, "forward", nftables.ChainTypeFilter, nftables.ChainHookForward, 0))
	for _, ipv6 := range []bool{false, true} {
		suffix := ""
		if ipv6 {
			suffix = "6"
		}
		// Numbers of our own: the library's counter is shared by all connections without a lock.
		id := uint32(1)
		if ipv6 {
			id = 3
		}
		pods := &nftables.Set{Table: t, ID: id, Name: "pods" + suffix, KeyType: nft.AddrType(ipv6), Interval: true}
		inside := &nftables.Set{Table: t, ID: id + 1, Name: "inside" + suffix, KeyType: nft.AddrType(ipv6), Interval: true}
		for set, ps := range map[*nftables.Set][]netip.Prefix{pods: p.Own, inside: p.Inside} {
			if err := c.AddSet(set, nil); err != nil {
				return fmt.Errorf("mask pod addresses: %w", err)
			}
			for part := range slices.Chunk(nft.Interval(ps, ipv6), 400) {
				if err := c.SetAddElements(set, part); err != nil {
					return fmt.Errorf("mask pod addresses: %w", err)
				}
			}
		}
		c.AddRule(&nftables.Rule{Table: t, Chain: post, Exprs: nft.Join(nft.Family(ipv6), nft.Source(ipv6, 0), nft.In(0, pods),
			nft.Destination(ipv6, 0), nft.NotIn(0, inside), nft.Masquerade())})
	}
	// A packet that conntrack cannot place would reach the pod untranslated, and the pod's reset would end a healthy connection
	// (kubernetes/kubernetes#74839).
	c.AddRule(&nftables.Rule{Table: t, Chain: forward, Exprs: nft.Join(nft.Invalid(), nft.Drop())})
	// New pods have the tunnel's MTU (package cni); those that were there before it, and clients from outside, learn it so.
	c.AddRule(&nftables.Rule{Table: t, Chain: forward, Exprs: nft.ClampMSS(k.tunnelName())})
	if err := c.Flush(); err != nil {
		return fmt.Errorf("mask pod addresses: %w", err)
	}
	k.masked = &p
	return nil
}

// Cleanup removes what Run made: routes, tunnel and nftables table. What is not there is no error. The sysctls stay: others may rely on them by now.
func Cleanup(c Config) error {
	c.setDefaults()
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink socket: %w", err)
	}
	defer h.Close()
	k := &kernel{Config: c, netlink: h, masked: &Plan{}}
	return errors.Join(k.apply(Plan{}), nft.DeleteTable(c.Table))
}
