package cni

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// check compares what ADD said with what is there, and names the first difference.
func check(args *skel.CmdArgs) error {
	conf, err := parseConf(args.StdinData)
	if err != nil {
		return err
	}
	if err := version.ParsePrevResult(&conf.NetConf); err != nil {
		return types.NewError(types.ErrDecodingFailure, "decode prevResult", err.Error())
	}
	if conf.PrevResult == nil {
		return invalid("prevResult is missing: CHECK needs what ADD returned")
	}
	want, err := current.NewResultFromResult(conf.PrevResult)
	if err != nil {
		return types.NewError(types.ErrDecodingFailure, "decode prevResult", err.Error())
	}
	ns, err := podNamespace(args.Netns)
	if err != nil {
		return err
	}
	defer ns.Close()
	r, err := openReservations(conf.stateDir())
	if err != nil {
		return err
	}
	addrs, _, err := r.of(args.ContainerID, args.IfName)
	if err != nil {
		return err
	}
	node, err := nodeHandle()
	if err != nil {
		return err
	}
	defer node.Close()
	pod, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink socket in the pod: %w", err)
	}
	defer pod.Close()

	nodeLink, err := linkUp(node, hostInterface(args.ContainerID, args.IfName))
	if err != nil {
		return err
	}
	podLink, err := linkUp(pod, args.IfName)
	if err != nil {
		return fmt.Errorf("in the pod: %w", err)
	}
	held, err := pod.AddrList(podLink, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list the pod's addresses: %w", err)
	}
	for _, ip := range want.IPs {
		if ip.Interface == nil || *ip.Interface >= len(want.Interfaces) || want.Interfaces[*ip.Interface].Sandbox == "" {
			continue // another plugin's
		}
		i := slices.IndexFunc(addrs, func(a netip.Addr) bool { return net.IP(a.AsSlice()).Equal(ip.Address.IP) })
		if i < 0 {
			return fmt.Errorf("address %s is not reserved for this pod", ip.Address.IP)
		}
		if !slices.ContainsFunc(held, func(a netlink.Addr) bool { return a.IP.Equal(ip.Address.IP) }) {
			return fmt.Errorf("address %s is missing in the pod", ip.Address.IP)
		}
		if err := hasRoute(node, nodeLink, host(addrs[i])); err != nil {
			return err
		}
		if err := hasRoute(pod, podLink, anywhere(addrs[i])); err != nil {
			return fmt.Errorf("in the pod: %w", err)
		}
	}
	if !conf.portsAsked() {
		return nil
	}
	h, err := openHostPorts(conf.HostPortTable)
	if err != nil {
		return err
	}
	n, err := h.count(addrs)
	if err != nil {
		return err
	}
	asked := 0
	for _, m := range conf.RuntimeConfig.PortMappings {
		if m.HostPort != 0 {
			asked++
		}
	}
	if n < asked {
		return fmt.Errorf("%d of %d host ports lead to the pod", n, asked)
	}
	return nil
}

func linkUp(h *netlink.Handle, name string) (netlink.Link, error) {
	link, err := h.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", name, err)
	}
	if link.Attrs().Flags&net.FlagUp == 0 {
		return nil, fmt.Errorf("interface %s is down", name)
	}
	return link, nil
}

func hasRoute(h *netlink.Handle, link netlink.Link, dst *net.IPNet) error {
	fam := unix.AF_INET
	if dst.IP.To4() == nil {
		fam = unix.AF_INET6
	}
	routes, err := h.RouteListFiltered(fam, &netlink.Route{Dst: dst, LinkIndex: link.Attrs().Index}, netlink.RT_FILTER_DST|netlink.RT_FILTER_OIF)
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	if len(routes) == 0 {
		return fmt.Errorf("route to %s through %s is missing", dst, link.Attrs().Name)
	}
	return nil
}
