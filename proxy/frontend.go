package proxy

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// Key is what a packet is addressed to: an address (unspecified: any address of this node), protocol number and port.
type Key struct {
	Addr  netip.Addr
	Proto uint8
	Port  uint16
}

func (k Key) String() string {
	proto := map[uint8]string{unix.IPPROTO_TCP: "tcp", unix.IPPROTO_UDP: "udp", unix.IPPROTO_SCTP: "sctp"}[k.Proto]
	if k.Addr.IsUnspecified() {
		return fmt.Sprintf("node:%d/%s", k.Port, proto)
	}
	return fmt.Sprintf("%s/%s", netip.AddrPortFrom(k.Addr, k.Port), proto)
}

// node reports whether the key stands for every address of this node.
func (k Key) node() bool { return k.Addr.IsUnspecified() }

// Frontend says what becomes of new connections to a Key. Immutable. The zero value rejects them.
type Frontend struct {
	Owner    string           // "namespace/name:port", for people
	Cluster  []netip.AddrPort // where to send them; sorted, without duplicates
	Local    []netip.AddrPort // with Edge: where to send those from outside this node; a subset of this node's endpoints
	Edge     bool             // external traffic policy Local: Local for traffic from outside, Cluster for that from this node and its pods
	Masq     bool             // hide the client's address, so that the answer comes back through this node
	Drop     bool             // no endpoint may be used, but some exist elsewhere: drop in place of reject
	Affinity time.Duration    // clients stay with their endpoint until they were away for so long; 0: not at all
	Sources  []netip.Prefix   // only these may connect; nil: everybody
	Hairpin  []netip.Addr     // addresses in Cluster and Local of pods on this node, that may reach themselves
	Serving  []netip.AddrPort // UDP only: every endpoint that may go on with established flows, terminating ones too; sorted
	Staying  []netip.AddrPort // UDP only, with Edge: those of Serving that may do so for clients outside this node; sorted
}

func (f *Frontend) equal(g *Frontend) bool {
	if f == nil || g == nil {
		return f == g
	}
	return f.Owner == g.Owner && f.Edge == g.Edge && f.Masq == g.Masq && f.Drop == g.Drop && f.Affinity == g.Affinity &&
		slices.Equal(f.Cluster, g.Cluster) && slices.Equal(f.Local, g.Local) && slices.Equal(f.Sources, g.Sources) && slices.Equal(f.Hairpin, g.Hairpin) &&
		slices.Equal(f.Serving, g.Serving) && slices.Equal(f.Staying, g.Staying)
}

// Place is where this node is, as far as choosing endpoints goes.
type Place struct {
	Node string
	Zone string // topology.kubernetes.io/zone
}

// ServiceProxyNameLabel marks Services that another proxy serves (service.kubernetes.io/service-proxy-name).
const ServiceProxyNameLabel = "service.kubernetes.io/service-proxy-name"

// Desired is all that a Service needs of this node's kernel.
type Desired struct {
	Frontends  map[Key]*Frontend
	ClusterIPs []netip.Addr // whose other ports are rejected
	// HealthPort is spec.healthCheckNodePort where it is to be served, and LocalReady what it reports.
	HealthPort int
	LocalReady int
}

// Frontends decides what a Service and its endpoints need of this node's kernel. Pure.
func Frontends(svc *corev1.Service, eps []Endpoint, place Place) Desired {
	d := Desired{Frontends: map[Key]*Frontend{}}
	if svc.Spec.Type == corev1.ServiceTypeExternalName || svc.Spec.ClusterIP == "" || svc.Spec.ClusterIP == corev1.ClusterIPNone {
		return d
	}
	if _, other := svc.Labels[ServiceProxyNameLabel]; other {
		return d
	}
	ips := svc.Spec.ClusterIPs
	if len(ips) == 0 {
		ips = []string{svc.Spec.ClusterIP}
	}
	for _, text := range ips {
		ip, err := netip.ParseAddr(text)
		if err != nil {
			continue // validation keeps it out; an address nobody can send to needs no rule
		}
		d.ClusterIPs = append(d.ClusterIPs, ip)
		for i := range svc.Spec.Ports {
			d.add(svc, &svc.Spec.Ports[i], ip, eps, place)
		}
	}
	if svc.Spec.Type == corev1.ServiceTypeLoadBalancer && externalLocal(svc) && svc.Spec.HealthCheckNodePort != 0 && len(d.ClusterIPs) > 0 {
		d.HealthPort = int(svc.Spec.HealthCheckNodePort)
		ready := map[netip.Addr]bool{}
		for _, e := range eps {
			// Of a dual-stack Service one family is enough: the other has the same pods.
			if e.Ready && e.Node == place.Node && e.Addr.Is6() == d.ClusterIPs[0].Is6() {
				ready[e.Addr] = true
			}
		}
		d.LocalReady = len(ready)
	}
	return d
}

func externalLocal(svc *corev1.Service) bool {
	return svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

// add puts in the frontends of one port and one address family.
func (d *Desired) add(svc *corev1.Service, port *corev1.ServicePort, ip netip.Addr, all []Endpoint, place Place) {
	proto, ok := protocols[port.Protocol]
	if !ok {
		return
	}
	var eps []Endpoint
	for _, e := range all {
		if e.PortName == port.Name && e.Proto == proto && e.Addr.Is6() == ip.Is6() {
			eps = append(eps, e)
		}
	}
	cluster := usableEndpoints(nearest(eps, place))
	local := usableEndpoints(onNode(eps, place.Node))
	owner := svc.Namespace + "/" + svc.Name
	if port.Name != "" {
		owner += ":" + port.Name
	}
	base := Frontend{Owner: owner}
	var serving, staying []netip.AddrPort
	if proto == unix.IPPROTO_UDP {
		goingOn := filter(eps, func(e *Endpoint) bool { return e.Ready || e.Serving })
		serving, staying = addresses(goingOn), addresses(onNode(goingOn, place.Node))
	}
	base.Serving = serving
	if svc.Spec.SessionAffinity == corev1.ServiceAffinityClientIP {
		seconds := int32(corev1.DefaultClientIPServiceAffinitySeconds)
		if c := svc.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
			seconds = *c.ClientIP.TimeoutSeconds
		}
		base.Affinity = time.Duration(seconds) * time.Second
	}
	put := func(addr netip.Addr, port int32, f Frontend) {
		if port < 1 || port > 65535 {
			return
		}
		f.Hairpin = hairpins(eps, f, place.Node)
		d.Frontends[Key{addr, proto, uint16(port)}] = &f
	}

	inside := base
	inside.Cluster = addresses(cluster)
	if p := svc.Spec.InternalTrafficPolicy; p != nil && *p == corev1.ServiceInternalTrafficPolicyLocal {
		inside.Drop = len(local) == 0 && len(cluster) > 0
		inside.Cluster, inside.Serving = addresses(local), staying
	}
	put(ip, port.Port, inside)

	outside := base
	outside.Cluster = addresses(cluster)
	switch {
	case len(cluster) == 0 && len(local) == 0: // rejected
	case externalLocal(svc):
		outside.Edge, outside.Local, outside.Staying = true, addresses(local), staying
	default:
		outside.Masq = true
	}
	for _, text := range svc.Spec.ExternalIPs {
		if a, err := netip.ParseAddr(text); err == nil && a.Is6() == ip.Is6() {
			put(a, port.Port, outside)
		}
	}
	if svc.Spec.Type != corev1.ServiceTypeNodePort && svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return
	}
	if port.NodePort != 0 {
		any := netip.IPv4Unspecified()
		if ip.Is6() {
			any = netip.IPv6Unspecified()
		}
		put(any, port.NodePort, outside)
	}
	if svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return
	}
	outside.Sources = sources(svc, ip.Is6())
	for _, in := range svc.Status.LoadBalancer.Ingress {
		if in.IPMode != nil && *in.IPMode == corev1.LoadBalancerIPModeProxy {
			continue // traffic must go through the load balancer (KEP-1860)
		}
		if a, err := netip.ParseAddr(in.IP); err == nil && a.Is6() == ip.Is6() {
			put(a, port.Port, outside)
		}
	}
}

var protocols = map[corev1.Protocol]uint8{
	corev1.ProtocolTCP: unix.IPPROTO_TCP, corev1.ProtocolUDP: unix.IPPROTO_UDP, corev1.ProtocolSCTP: unix.IPPROTO_SCTP,
	"": unix.IPPROTO_TCP,
}

// sources are the service's loadBalancerSourceRanges of one family; none of that family means everybody.
func sources(svc *corev1.Service, ipv6 bool) []netip.Prefix {
	var out []netip.Prefix
	for _, text := range svc.Spec.LoadBalancerSourceRanges {
		if p, err := netip.ParsePrefix(trim(text)); err == nil && p.Addr().Is6() == ipv6 {
			out = append(out, p.Masked())
		}
	}
	return disjoint(out)
}

// disjoint leaves out prefixes that lie in others: the kernel takes no overlapping ones.
func disjoint(ps []netip.Prefix) []netip.Prefix {
	slices.SortFunc(ps, func(a, b netip.Prefix) int {
		return cmp.Or(cmp.Compare(a.Bits(), b.Bits()), a.Addr().Compare(b.Addr()))
	})
	var out []netip.Prefix
	for _, p := range ps {
		if !slices.ContainsFunc(out, func(q netip.Prefix) bool { return q.Overlaps(p) }) {
			out = append(out, p)
		}
	}
	return out
}

func hairpins(eps []Endpoint, f Frontend, node string) []netip.Addr {
	var out []netip.Addr
	for _, e := range eps {
		if e.Node != node {
			continue
		}
		ap := netip.AddrPortFrom(e.Addr, e.Port)
		if contains(f.Cluster, ap) || contains(f.Local, ap) {
			out = append(out, e.Addr)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}

func contains(sorted []netip.AddrPort, ap netip.AddrPort) bool {
	_, found := slices.BinarySearchFunc(sorted, ap, netip.AddrPort.Compare)
	return found
}
