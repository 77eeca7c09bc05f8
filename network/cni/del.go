package cni

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// del disconnects a pod. It may be called any number of times, before, during and after the end of the pod's namespace.
func del(args *skel.CmdArgs) error {
	conf, err := parseConf(args.StdinData)
	if err != nil {
		return err
	}
	r, err := openReservations(conf.stateDir())
	if err != nil {
		return err
	}
	addrs, ports, err := r.of(args.ContainerID, args.IfName)
	if err != nil || len(addrs) == 0 {
		return err
	}
	return detach(conf, r, addrs, ports)
}

// detach takes away what leads to the addresses, and then gives them back: in this order, so that whoever gets an address
// next finds no trace of its last holder. The veth pair is left to the end of the pod's namespace: deleting it
// here would wait 30 ms for the kernel, and without its route and with the strict reverse-path check it carries nothing.
func detach(conf *pluginConf, r reservations, addrs []netip.Addr, ports bool) error {
	if ports {
		if err := unmapPorts(conf, r, addrs); err != nil {
			return err
		}
	}
	node, err := nodeHandle()
	if err != nil {
		return err
	}
	defer node.Close()
	for _, a := range addrs {
		route := &netlink.Route{Dst: host(a), Scope: netlink.SCOPE_LINK, Protocol: unix.RTPROT_STATIC}
		if err := node.RouteDel(route); err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("delete route to pod address %s: %w", a, err)
		}
		if err := r.release(a); err != nil {
			return err
		}
	}
	return nil
}

// gc removes every attachment that the runtime does not name (specification 1.1, GC), pairs of veths included.
func gc(args *skel.CmdArgs) error {
	conf, err := parseConf(args.StdinData)
	if err != nil {
		return err
	}
	valid := map[types.GCAttachment]bool{}
	for _, a := range conf.ValidAttachments {
		valid[a] = true
	}
	r, err := openReservations(conf.stateDir())
	if err != nil {
		return err
	}
	all, err := r.all()
	if err != nil {
		return err
	}
	node, err := nodeHandle()
	if err != nil {
		return err
	}
	defer node.Close()
	var errs []error
	for a, o := range all {
		if valid[types.GCAttachment{ContainerID: o.Container, IfName: o.Interface}] {
			continue
		}
		if o.Container != "" {
			if err := removeHostLink(node, hostInterface(o.Container, o.Interface)); err != nil {
				errs = append(errs, err)
				continue
			}
		}
		if err := detach(conf, r, []netip.Addr{a}, o.Ports || o.Container == ""); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
