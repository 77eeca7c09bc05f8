package proxy

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// routeServices gives the service ranges a route to lo. The kernel looks for a route before it lets the output chain
// rewrite a local process's packet: a node without default route would have none. And what no rule rewrites goes nowhere. The route's
// source is the node's own address, so that packets that go to other nodes after all carry one that these can answer to.
func routeServices(cidrs []netip.Prefix, nodeIPs []netip.Addr) error {
	if len(cidrs) == 0 {
		return nil
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink socket: %w", err)
	}
	defer h.Close()
	lo, err := h.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	var errs []error
	for _, cidr := range cidrs {
		r := &netlink.Route{LinkIndex: lo.Attrs().Index, Protocol: unix.RTPROT_STATIC,
			Dst: &net.IPNet{IP: cidr.Masked().Addr().AsSlice(), Mask: net.CIDRMask(cidr.Bits(), cidr.Addr().BitLen())}}
		if cidr.Addr().Is4() {
			r.Scope = netlink.SCOPE_LINK
		}
		for _, ip := range nodeIPs {
			if ip.Is6() == cidr.Addr().Is6() {
				r.Src = ip.AsSlice()
				break
			}
		}
		err := h.RouteReplace(r)
		if err != nil && r.Src != nil {
			r.Src = nil // the address may not be there yet
			err = h.RouteReplace(r)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("add route to %s: %w", cidr, err))
		}
	}
	return errors.Join(errs...)
}

// RemoveRoutes removes the routes that Run gave to the service ranges. Missing ones are no error.
func RemoveRoutes(cidrs []netip.Prefix) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	var errs []error
	for _, cidr := range cidrs {
		err := netlink.RouteDel(&netlink.Route{LinkIndex: lo.Attrs().Index, Protocol: unix.RTPROT_STATIC,
			Dst: &net.IPNet{IP: cidr.Masked().Addr().AsSlice(), Mask: net.CIDRMask(cidr.Bits(), cidr.Addr().BitLen())}})
		if err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("remove route to %s: %w", cidr, err))
		}
	}
	return errors.Join(errs...)
}
