// Package dns answers names on every node, at the cluster's DNS address and node-local: the address is on the node's lo, so that a
// pod's query leaves neither the node nor an entry in conntrack. The server is CoreDNS in this process (embedded/coredns), with its
// plugins and its Corefile; the cluster's names come from the process's shared informers, so that no object is in memory twice. Answers follow the
// Kubernetes DNS specification 1.1.0 (github.com/kubernetes/dns/blob/master/docs/specification.md) and, where it is silent, CoreDNS.
//
// A lookup reads the informers' indexes: what they hold is what is answered. So DNS has reached a revision (D3) as
// soon as the informer has told of it.
package dns
