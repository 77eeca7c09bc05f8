// Package cni is Wherry's CNI plugin (CNI specification 1.1: ADD, DEL, CHECK, GC, STATUS, VERSION): one exec gives a pod
// its interface, addresses, routes, host ports and bandwidth limits. It is meant for the small program cmd/wherry-cni, because
// every exec of a large Go program runs all its package initialisers; the node's process imports it only for WriteConfig and Cleanup.
//
// # How a pod is connected
//
// The pod's eth0 and a host interface "wy…" are the two ends of a veth pair. The pod's address is a single one (/32, /128); its
// default route goes to the node's gateway address (the first of the podCIDR, held by the node's lo) through a permanent
// neighbour entry, and the node has one route per pod address. There is no bridge, for three reasons. Traffic between two pods
// of a node passes the IP layer, so that conntrack sees the answer to a Service's DNAT whether or not the kernel has br_netfilter;
// network policy sees every packet in one hook; and a pod cannot answer for a neighbour's address: the host end checks the
// reverse path strictly, so that even a leaked namespace whose address was given out again is cut off.
//
// # What is kept
//
// A reservation is a symbolic link, named by the address, whose target names container, interface and whether host ports
// were asked for. Making one is a single atomic system call which fails when the address is taken: a crash leaves
// either no reservation or a whole one. It is made before anything else and removed after everything else, so that whatever a
// crash leaves behind is found through it by DEL and GC. Addresses are given out in turn, not lowest first, so that one comes back as late as can be.
package cni
