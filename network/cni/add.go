package cni

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// add connects a pod. Either all of it is done, or none of it and an error says which step failed.
func add(args *skel.CmdArgs) error {
	conf, err := parseConf(args.StdinData)
	if err != nil {
		return err
	}
	ns, err := podNamespace(args.Netns)
	if err != nil {
		return err
	}
	defer ns.Close()
	result, err := attach(conf, args.ContainerID, args.IfName, args.Netns, ns)
	if err != nil {
		return err
	}
	return types.PrintResult(result, conf.CNIVersion)
}

// attach does ADD's work. Every step's undo is registered right after it, and run in reverse when a later one fails.
func attach(conf *pluginConf, container, ifName, netnsPath string, ns netns.NsHandle) (_ *current.Result, err error) {
	var undo []func() error
	defer func() {
		if err == nil {
			return
		}
		for i := len(undo) - 1; i >= 0; i-- {
			err = errors.Join(err, undo[i]())
		}
	}()
	node, err := nodeHandle()
	if err != nil {
		return nil, err
	}
	defer node.Close()
	pod, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket in the pod: %w", err)
	}
	defer pod.Close()

	r, err := openReservations(conf.stateDir())
	if err != nil {
		return nil, err
	}
	var addrs []netip.Addr
	me := owner{Container: container, Interface: ifName, Ports: conf.portsAsked()}
	for _, cidr := range conf.cidrs {
		a, err := r.reserve(cidr, me)
		if errors.Is(err, errFull) {
			return nil, types.NewError(types.ErrTryAgainLater, "no pod address is free", err.Error())
		} else if err != nil {
			return nil, err
		}
		undo = append(undo, func() error { return r.release(a) })
		addrs = append(addrs, a)
	}

	mtu := conf.MTU
	if mtu == 0 {
		mtu = smallestMTU(node)
	}
	p, err := connect(node, pod, int(ns), container, ifName, mtu)
	if p != nil {
		undo = append(undo, func() error { return removeHostLink(node, hostInterface(container, ifName)) })
	}
	if err != nil {
		return nil, err
	}
	ipv6 := false
	for _, a := range addrs {
		ipv6 = ipv6 || a.Is6()
	}
	if err := p.up(ipv6, conf.portsAsked()); err != nil {
		return nil, err
	}
	for i, a := range addrs {
		gw := gateway(conf.cidrs[i])
		if err := ensureGateway(node, gw); err != nil {
			return nil, err
		}
		if err := p.address(a, gw); err != nil {
			return nil, err
		}
	}
	if b := conf.RuntimeConfig.Bandwidth; b != nil {
		if err := p.shape(b); err != nil {
			return nil, err
		}
	}
	if conf.portsAsked() {
		if err := mapPorts(conf, r, addrs); err != nil {
			return nil, err
		}
		undo = append(undo, func() error { return unmapPorts(conf, r, addrs) })
	}
	return p.result(conf, addrs, netnsPath), nil
}

func mapPorts(conf *pluginConf, r reservations, addrs []netip.Addr) error {
	unlock, err := r.lock() // two first pods must not both make the table's rules
	if err != nil {
		return err
	}
	defer unlock()
	h, err := openHostPorts(conf.HostPortTable)
	if err != nil {
		return err
	}
	// An element may be left of an earlier holder of the address, whose end a crash has hidden from us.
	if err := h.remove(addrs); err != nil {
		return err
	}
	if err := h.add(conf.RuntimeConfig.PortMappings, addrs); err != nil {
		return err
	}
	if hasUDP(conf.RuntimeConfig.PortMappings) {
		if err := forgetFlows(conf.RuntimeConfig.PortMappings, nil); err != nil {
			return errors.Join(err, h.remove(addrs))
		}
	}
	return nil
}

func unmapPorts(conf *pluginConf, r reservations, addrs []netip.Addr) error {
	unlock, err := r.lock()
	if err != nil {
		return err
	}
	defer unlock()
	h, err := openHostPorts(conf.HostPortTable)
	if err != nil {
		return err
	}
	return h.remove(addrs)
}

// shape limits the pod's bandwidth: what it receives on the host end, what it sends on its own end.
func (p *pair) shape(b *bandwidth) error {
	if b.IngressRate > 0 {
		if err := limit(p.node, p.nodeLink, b.IngressRate, b.IngressBurst); err != nil {
			return fmt.Errorf("limit the pod's ingress to %d bit/s: %w", b.IngressRate, err)
		}
	}
	if b.EgressRate > 0 {
		if err := limit(p.pod, p.podLink, b.EgressRate, b.EgressBurst); err != nil {
			return fmt.Errorf("limit the pod's egress to %d bit/s: %w", b.EgressRate, err)
		}
	}
	return nil
}

// result describes the attachment in CNI's terms.
func (p *pair) result(conf *pluginConf, addrs []netip.Addr, netnsPath string) *current.Result {
	mtu := p.podLink.Attrs().MTU
	r := &current.Result{
		CNIVersion: current.ImplementedSpecVersion,
		Interfaces: []*current.Interface{
			{Name: p.nodeLink.Attrs().Name, Mac: p.nodeMAC.String(), Mtu: mtu},
			{Name: p.podLink.Attrs().Name, Mac: p.podMAC.String(), Mtu: mtu, Sandbox: netnsPath},
		},
		DNS: conf.DNS,
	}
	for i, a := range addrs {
		gw := net.IP(gateway(conf.cidrs[i]).AsSlice())
		r.IPs = append(r.IPs, &current.IPConfig{Interface: current.Int(1), Address: *host(a), Gateway: gw})
		r.Routes = append(r.Routes, &types.Route{Dst: *anywhere(a), GW: gw})
	}
	return r
}

// removeHostLink deletes a host end and with it the pair. Waiting for that is slow (about 30 ms), so only failures use it.
func removeHostLink(node *netlink.Handle, name string) error {
	link, err := node.LinkByName(name)
	if linkMissing(err) {
		return nil
	} else if err != nil {
		return fmt.Errorf("find interface %s: %w", name, err)
	}
	if err := node.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete interface %s: %w", name, err)
	}
	return nil
}
