package proxy

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// Endpoint is one address and port behind a Service, as its EndpointSlices tell it.
type Endpoint struct {
	PortName string
	Proto    uint8
	Addr     netip.Addr
	Port     uint16
	Node     string
	Ready    bool // takes new connections
	Serving  bool // would, were it not Terminating
	Leaving  bool // condition terminating
	Zones    []string
	Nodes    []string
}

// Endpoints gathers the endpoints of a Service from its slices, each address and port once (EndpointSlices may overlap
// while they are rearranged; the one that is ready counts). Sorted. Slices of names (FQDN) are not for proxies.
func Endpoints(slicesOf map[string]*discoveryv1.EndpointSlice) []Endpoint {
	var out []Endpoint
	for _, s := range slicesOf {
		if s.AddressType == discoveryv1.AddressTypeFQDN {
			continue
		}
		for i := range s.Ports {
			p := &s.Ports[i]
			if p.Port == nil || *p.Port < 1 || *p.Port > 65535 {
				continue
			}
			proto := protocols[deref(p.Protocol)]
			for j := range s.Endpoints {
				e := &s.Endpoints[j]
				if len(e.Addresses) == 0 {
					continue
				}
				// All addresses of an endpoint are interchangeable, and consumers use the first (discovery/v1 Endpoint.addresses).
				addr, err := netip.ParseAddr(e.Addresses[0])
				if err != nil || proto == 0 {
					continue
				}
				ep := Endpoint{PortName: deref(p.Name), Proto: proto, Addr: addr.Unmap(), Port: uint16(*p.Port), Node: deref(e.NodeName),
					Ready: ready(e), Serving: serving(e), Leaving: e.Conditions.Terminating != nil && *e.Conditions.Terminating}
				if h := e.Hints; h != nil {
					for _, z := range h.ForZones {
						ep.Zones = append(ep.Zones, z.Name)
					}
					for _, n := range h.ForNodes {
						ep.Nodes = append(ep.Nodes, n.Name)
					}
				}
				out = append(out, ep)
			}
		}
	}
	slices.SortFunc(out, func(a, b Endpoint) int {
		return cmp.Or(strings.Compare(a.PortName, b.PortName), cmp.Compare(a.Proto, b.Proto), a.Addr.Compare(b.Addr), cmp.Compare(a.Port, b.Port),
			before(a.Ready, b.Ready), before(a.Serving, b.Serving), before(!a.Leaving, !b.Leaving), strings.Compare(a.Node, b.Node),
			slices.Compare(a.Zones, b.Zones), slices.Compare(a.Nodes, b.Nodes))
	})
	return slices.CompactFunc(out, func(a, b Endpoint) bool {
		return a.PortName == b.PortName && a.Proto == b.Proto && a.Addr == b.Addr && a.Port == b.Port
	})
}

// before sorts true first.
func before(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

// ready follows the API: nil means true.
func ready(e *discoveryv1.Endpoint) bool { return e.Conditions.Ready == nil || *e.Conditions.Ready }

// serving follows the API: nil means the same as ready.
func serving(e *discoveryv1.Endpoint) bool {
	if e.Conditions.Serving == nil {
		return ready(e)
	}
	return *e.Conditions.Serving
}

// usableEndpoints are the ready ones; where none is, those that terminate but still serve (KEP-1669).
func usableEndpoints(eps []Endpoint) []Endpoint {
	if out := filter(eps, func(e *Endpoint) bool { return e.Ready }); len(out) > 0 {
		return out
	}
	return filter(eps, func(e *Endpoint) bool { return e.Serving && e.Leaving })
}

func onNode(eps []Endpoint, node string) []Endpoint {
	return filter(eps, func(e *Endpoint) bool { return e.Node == node })
}

// nearest follows the hints that trafficDistribution makes (KEP-2433, KEP-3015): this node's endpoints, else this zone's, each only
// when every ready endpoint has such hints and one of them is for here. Else all.
func nearest(eps []Endpoint, place Place) []Endpoint {
	byNode, byZone, forNode, forZone := true, place.Zone != "", false, false
	for i := range eps {
		e := &eps[i]
		if !e.Ready {
			continue
		}
		byNode = byNode && len(e.Nodes) > 0
		byZone = byZone && len(e.Zones) > 0
		forNode = forNode || slices.Contains(e.Nodes, place.Node)
		forZone = forZone || slices.Contains(e.Zones, place.Zone)
	}
	switch {
	case byNode && forNode:
		return filter(eps, func(e *Endpoint) bool { return slices.Contains(e.Nodes, place.Node) })
	case byZone && forZone:
		return filter(eps, func(e *Endpoint) bool { return slices.Contains(e.Zones, place.Zone) })
	}
	return eps
}

func filter(eps []Endpoint, keep func(*Endpoint) bool) []Endpoint {
	var out []Endpoint
	for i := range eps {
		if keep(&eps[i]) {
			out = append(out, eps[i])
		}
	}
	return out
}

// addresses of sorted endpoints of one port and family: sorted, without duplicates. More than a list of indexes can
// hold are cut off; no Service comes near.
func addresses(eps []Endpoint) []netip.AddrPort {
	if len(eps) > localBase {
		eps = eps[:localBase]
	}
	out := make([]netip.AddrPort, len(eps))
	for i, e := range eps {
		out[i] = netip.AddrPortFrom(e.Addr, e.Port)
	}
	return out
}

func deref[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}

func trim(s string) string { return strings.TrimSpace(s) }

// serviceOf names the Service of a slice.
func serviceOf(s *discoveryv1.EndpointSlice) (name, bool) {
	svc := s.Labels[discoveryv1.LabelServiceName]
	return name{s.Namespace, svc}, svc != ""
}

// name is a namespaced name.
type name struct{ namespace, name string }

func (n name) String() string { return n.namespace + "/" + n.name }

func nameOf(svc *corev1.Service) name { return name{svc.Namespace, svc.Name} }
