package cni

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"wherry.dev/wherry/network/nft"
)

// Main runs the plugin as a runtime calls it: command and names in CNI_* variables, configuration on stdin, result or error as
// JSON on stdout. It exits the process with 1 on errors.
func Main() {
	skel.PluginMainFuncs(Commands(), version.All, "Wherry's CNI plugin: a pod's interface, addresses, routes, host ports and bandwidth in one call")
}

// Commands are the plugin's commands, for callers that speak to it in process.
func Commands() skel.CNIFuncs {
	return skel.CNIFuncs{Add: add, Del: del, Check: check, GC: gc, Status: status}
}

// Cleanup removes what the plugin keeps on a node apart from the pods' interfaces, which go with their namespaces:
// reservations, the host-port table and the configuration in confDir. Nothing there is no error.
func Cleanup(confDir string, n Network) error {
	if n.HostPortTable == "" {
		n.HostPortTable = defaultHostPortTable
	}
	var errs []error
	if confDir != "" {
		if err := os.Remove(filepath.Join(confDir, configFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, fmt.Errorf("remove CNI configuration: %w", err))
		}
	}
	if n.StateDir != "" {
		if n.Name == "" {
			n.Name = defaultName
		}
		if err := os.RemoveAll(filepath.Join(n.StateDir, n.Name)); err != nil {
			errs = append(errs, fmt.Errorf("remove address reservations: %w", err))
		}
	}
	return errors.Join(append(errs, nft.DeleteTable(n.HostPortTable))...)
}

// podNamespace opens the pod's namespace. The caller closes it.
func podNamespace(path string) (netns.NsHandle, error) {
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return ns, types.NewError(types.ErrInvalidNetNS, fmt.Sprintf("open network namespace %s", path), err.Error())
	}
	if own, err := netns.Get(); err == nil {
		same := own.Equal(ns)
		own.Close()
		if same {
			ns.Close()
			return ns, types.NewError(types.ErrInvalidNetNS, "the pod's network namespace is the node's own", path)
		}
	}
	return ns, nil
}

// nodeHandle is a netlink socket in this process's namespace. The caller closes it.
func nodeHandle() (*netlink.Handle, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	return h, nil
}

// linkMissing reports whether err says that there is no such interface.
func linkMissing(err error) bool {
	var missing netlink.LinkNotFoundError
	return errors.As(err, &missing)
}

// status says whether an ADD can succeed now (specification 1.1, STATUS).
func status(args *skel.CmdArgs) error {
	const notAvailable = 50
	conf, err := parseConf(args.StdinData)
	if err != nil {
		return err
	}
	r, err := openReservations(conf.stateDir())
	if err != nil {
		return types.NewError(notAvailable, "plugin not available", err.Error())
	}
	all, err := r.all()
	if err != nil {
		return types.NewError(notAvailable, "plugin not available", err.Error())
	}
	for _, cidr := range conf.cidrs {
		used := 0
		for a := range all {
			if cidr.Contains(a) {
				used++
			}
		}
		if bits := cidr.Addr().BitLen() - cidr.Bits(); bits < 20 && used >= capacity(cidr) {
			return types.NewError(notAvailable, "plugin not available", fmt.Sprintf("all %d addresses of %s are taken", used, cidr))
		}
	}
	return nil
}

// capacity is the number of pods that fit into a small cidr.
func capacity(cidr netip.Prefix) int {
	n := 1<<(cidr.Addr().BitLen()-cidr.Bits()) - 2 // network, gateway
	if cidr.Addr().Is4() {
		n-- // broadcast
	}
	return n
}
