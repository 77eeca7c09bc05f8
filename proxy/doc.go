// Package proxy is the service proxy of one node: it makes the kernel (nftables, through netlink) send what is addressed to a
// Service to one of its endpoints. It owns stage C14 (program) of a pod's life and, with DNS, D3 (drain).
//
// # From objects to packets
//
//	Service, EndpointSlices ──Frontends──▶ Frontend per address and port ──Table.Set──▶ Changes ──kernel.apply──▶ one transaction
//
// Frontends and Table are pure. A Changes value can be printed and compared; the same Services give the same table
// whatever the order and grouping of events.
//
// # The rules never change, only the data
//
// Per-service chains, as upstream's proxy makes them, cost the kernel a validation of every chain for each transaction. Here a Service is
// nothing but elements of maps:
//
//	services   address . protocol . port         → goto the chain that picks one of n endpoints
//	endpoints  address . protocol . port . index → endpoint address . port
//
// A chain "vip-3" draws a number below 3, looks up the endpoint and rewrites the destination; it serves every
// Service with three endpoints. Such chains come and go with the numbers in use. When an endpoint leaves, the last one takes
// its index: three elements change, however large the Service. Node ports are keyed by the unspecified address. Indexes from localBase on
// name the node's own endpoints, for traffic policy Local.
//
// Session affinity is a dynamic map from client and service address to endpoint, with a timeout, filled by the packets themselves; a
// remembered endpoint counts only while it is in the set "live", so that one that leaves is forgotten in the transaction that removes it.
//
// That an endpoint has left is reported (D3) when no TCP handshake with it is under way any more; see handshakes.
//
// A Service without endpoints is rejected, an address of the service range without Service is dropped, and the node has a
// route for that range to lo: service traffic that nothing delivers never leaves the node, default route or not.
package proxy
