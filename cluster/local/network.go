package local

import (
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"
	"os"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The nodes' network: a bridge in the network namespace that `up` was called in, with one leg of each node. The bridge has
// the subnet's first address and is the nodes' default gateway. Where this namespace has a way out itself, the nodes' packets
// are masqueraded behind it; where it has none, nothing is.

// subnetPool is where clusters' subnets are taken from, a /24 each.
var subnetPool = netip.MustParsePrefix("10.201.0.0/16")

const nodeInterface = "eth0"

func (c *Cluster) prefix() netip.Prefix { return netip.MustParsePrefix(c.Subnet) }

func (c *Cluster) gateway() netip.Addr { return c.prefix().Addr().Next() }

// NodeIP is the address of the i-th node.
func (c *Cluster) NodeIP(i int) netip.Addr {
	a := c.prefix().Addr().As4()
	a[3] = byte(10 + i)
	return netip.AddrFrom4(a)
}

// tag makes short unique names for interfaces, which have at most 15 characters.
func (c *Cluster) tag() string {
	h := fnv.New32a()
	_, _ = h.Write([]byte(c.Name))
	return fmt.Sprintf("%08x", h.Sum32())
}

func (c *Cluster) bridgeName() string   { return "wh-" + c.tag() }
func (c *Cluster) legName(i int) string { return fmt.Sprintf("w%s-%d", c.tag(), i) }
func (c *Cluster) natTableName() string { return "wherry-up-" + c.Name }

// chooseSubnet returns a /24 of the pool which nothing in this namespace uses and no other cluster has recorded.
func chooseSubnet(taken map[string]bool) (string, error) {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return "", fmt.Errorf("list routes: %w", err)
	}
	for third := range 256 {
		p := subnetPool.Addr().As4()
		p[2] = byte(third)
		subnet := netip.PrefixFrom(netip.AddrFrom4(p), 24)
		used := taken[subnet.String()]
		for _, r := range routes {
			if r.Dst == nil {
				continue
			}
			if dst, ok := toPrefix(r.Dst); ok && dst.Bits() > 0 && dst.Overlaps(subnet) {
				used = true
			}
		}
		if !used {
			return subnet.String(), nil
		}
	}
	return "", fmt.Errorf("no free subnet in %s: remove a cluster with `wherry down`", subnetPool)
}

func toPrefix(n *net.IPNet) (netip.Prefix, bool) {
	a, ok := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), bits), ok
}

// ensureBridge makes this namespace's side.
func (c *Cluster) ensureBridge() error {
	name := c.bridgeName()
	link, err := netlink.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = name
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			return fmt.Errorf("add bridge %s: %w", name, err)
		}
		link, err = netlink.LinkByName(name)
	}
	if err != nil {
		return fmt.Errorf("bridge %s: %w", name, err)
	}
	address := &netlink.Addr{IPNet: &net.IPNet{IP: c.gateway().AsSlice(), Mask: net.CIDRMask(24, 32)}}
	if err := netlink.AddrReplace(link, address); err != nil {
		return fmt.Errorf("address bridge %s: %w", name, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("bring up bridge %s: %w", name, err)
	}
	return c.ensureNAT()
}

// ensureLeg joins node i to the bridge: a veth pair, made with its far end in the node's namespace already.
func (c *Cluster) ensureLeg(i int) error {
	bridge, err := netlink.LinkByName(c.bridgeName())
	if err != nil {
		return fmt.Errorf("bridge %s: %w", c.bridgeName(), err)
	}
	near := c.legName(i)
	if _, err := netlink.LinkByName(near); errors.As(err, &netlink.LinkNotFoundError{}) {
		ns, err := os.Open(c.namespace("net", i))
		if err != nil {
			return fmt.Errorf("open namespace of node %d: %w", i, err)
		}
		defer ns.Close()
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MasterIndex = near, bridge.Attrs().Index
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: nodeInterface, PeerNamespace: netlink.NsFd(ns.Fd())}); err != nil {
			return fmt.Errorf("join node %d to the bridge: %w", i, err)
		}
	} else if err != nil {
		return fmt.Errorf("interface %s: %w", near, err)
	}
	leg, err := netlink.LinkByName(near)
	if err != nil {
		return fmt.Errorf("interface %s: %w", near, err)
	}
	// A pair is made first and joined to the bridge by a second message: an `up` that was killed may have done only the one.
	if leg.Attrs().MasterIndex != bridge.Attrs().Index {
		if err := netlink.LinkSetMaster(leg, bridge); err != nil {
			return fmt.Errorf("join %s to the bridge: %w", near, err)
		}
	}
	if err := netlink.LinkSetUp(leg); err != nil {
		return fmt.Errorf("bring up %s: %w", near, err)
	}
	return c.inNode(i, false, func() error { return c.addressNode(i) })
}

// addressNode runs inside node i's network namespace.
func (c *Cluster) addressNode(i int) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("loopback of node %d: %w", i, err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("bring up loopback of node %d: %w", i, err)
	}
	link, err := netlink.LinkByName(nodeInterface)
	if err != nil {
		return fmt.Errorf("interface of node %d: %w", i, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("bring up interface of node %d: %w", i, err)
	}
	address := &netlink.Addr{IPNet: &net.IPNet{IP: c.NodeIP(i).AsSlice(), Mask: net.CIDRMask(24, 32)}}
	if err := netlink.AddrReplace(link, address); err != nil {
		return fmt.Errorf("address node %d: %w", i, err)
	}
	if err := netlink.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: c.gateway().AsSlice()}); err != nil {
		return fmt.Errorf("default route of node %d: %w", i, err)
	}
	return nil
}

// ensureNAT lets nodes reach what this namespace reaches. Without a default route there is nothing to reach, and
// neither rules nor sysctls are touched.
func (c *Cluster) ensureNAT() error {
	if ok, err := hasDefaultRoute(); err != nil || !ok {
		return err
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644); err != nil {
		return fmt.Errorf("let nodes out: %w", err)
	}
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	table := &nftables.Table{Name: c.natTableName(), Family: nftables.TableFamilyIPv4}
	conn.AddTable(table)
	conn.FlushTable(table)
	chain := conn.AddChain(&nftables.Chain{Name: "postrouting", Table: table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource})
	source := c.prefix().Addr().As4()
	name := make([]byte, 16)
	copy(name, c.bridgeName())
	conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		// ip saddr SUBNET
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.BigEndian.PutUint32(0xffffff00), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: source[:]},
		// oifname != BRIDGE
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: name},
		&expr.Masq{},
	}})
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("masquerade the nodes: %w", err)
	}
	return nil
}

func hasDefaultRoute() (bool, error) {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return false, fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		if r.Dst == nil {
			return true, nil
		}
		if p, ok := toPrefix(r.Dst); ok && p.Bits() == 0 {
			return true, nil
		}
	}
	return false, nil
}

// removeNetwork takes away this namespace's side; the nodes' side goes with their namespaces.
func (c *Cluster) removeNetwork() error {
	var errs []error
	for i := range c.Nodes {
		errs = append(errs, removeLink(c.legName(i+1)))
	}
	errs = append(errs, removeLink(c.bridgeName()))
	conn, err := nftables.New()
	if err != nil {
		return errors.Join(append(errs, fmt.Errorf("nftables: %w", err))...)
	}
	tables, err := conn.ListTablesOfFamily(nftables.TableFamilyIPv4)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		errs = append(errs, fmt.Errorf("list nftables tables: %w", err))
	}
	for _, t := range tables {
		if t.Name == c.natTableName() {
			conn.DelTable(t)
			errs = append(errs, conn.Flush())
		}
	}
	return errors.Join(errs...)
}

func removeLink(name string) error {
	link, err := netlink.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	} else if err != nil {
		return fmt.Errorf("interface %s: %w", name, err)
	}
	// A node's leg goes by itself with the node's namespace, which the kernel may end just now.
	if err := netlink.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove interface %s: %w", name, err)
	}
	return nil
}
