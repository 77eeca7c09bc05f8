package proxy

import (
	"net/netip"
	"time"

	"github.com/google/nftables"

	"wherry.dev/wherry/network/nft"
)

// masqueradeMark is the packet mark's bit that asks for masquerading; it is set and cleared within one packet's way through the node.
const masqueradeMark = 0x1000

// affinityEntries bounds how many clients are remembered on a node, for all Services together. Where there are more, the new ones
// are spread as if they had no affinity.
const affinityEntries = 1 << 18

// sets are the kernel's sets of one address family.
type sets struct {
	ipv6                                                     bool
	services, endpoints, live, affinity, firewalled, allowed *nftables.Set
	hairpin, clusterIPs, podCIDRs, serviceCIDRs              *nftables.Set
}

// setName is the name of a set in the kernel.
func setName(s Set, ipv6 bool) string {
	if ipv6 {
		return string(s) + "6"
	}
	return string(s)
}

func newSets(t *nftables.Table, ipv6 bool) *sets {
	addr, proto, port := nft.AddrType(ipv6), nftables.TypeInetProto, nftables.TypeInetService
	endpoint := nftables.MustConcatSetType(addr, port)
	set := func(name Set, types ...nftables.SetDatatype) *nftables.Set {
		s := &nftables.Set{Table: t, Name: setName(name, ipv6)}
		if len(types) == 1 {
			s.KeyType = types[0]
		} else {
			s.KeyType, s.Concatenation = nftables.MustConcatSetType(types...), true
		}
		return s
	}
	valued := func(s *nftables.Set, data nftables.SetDatatype) *nftables.Set {
		s.IsMap, s.DataType = true, data
		return s
	}
	s := &sets{
		ipv6:         ipv6,
		services:     valued(set(setServices, addr, proto, port), nftables.TypeVerdict),
		endpoints:    valued(set(setEndpoints, addr, proto, port, nftables.TypeMark), endpoint),
		live:         set(setLive, addr, proto, port, addr, port),
		affinity:     valued(set(setAffinity, addr, addr, proto, port), endpoint),
		firewalled:   set(setFirewalled, addr, proto, port),
		allowed:      set(setAllowed, addr, proto, port, addr),
		hairpin:      set(setHairpin, addr, addr),
		clusterIPs:   set(setClusterIPs, addr),
		podCIDRs:     set("pod-cidrs", addr),
		serviceCIDRs: set("service-cidrs", addr),
	}
	s.affinity.Dynamic, s.affinity.HasTimeout, s.affinity.Size = true, true, affinityEntries
	for i, set := range s.all() {
		// Any number will do within one transaction; the library's own counter is shared by all connections without a lock.
		set.ID = uint32(1 + i)
		if ipv6 {
			set.ID += 100
		}
	}
	s.allowed.Interval = true
	s.podCIDRs.Interval, s.serviceCIDRs.Interval = true, true
	return s
}

func (s *sets) all() []*nftables.Set {
	return []*nftables.Set{s.services, s.endpoints, s.live, s.affinity, s.firewalled, s.allowed, s.hairpin, s.clusterIPs, s.podCIDRs, s.serviceCIDRs}
}

// baseChain is one of the chains that the kernel enters, with the rules for each family.
type baseChain struct {
	name     string
	kind     nftables.ChainType
	hook     *nftables.ChainHook
	priority int
	rules    func(s *sets) []nft.Rule
}

// baseChains are the proxy's ways into the kernel's packet path, in the order in which packets meet them.
func baseChains() []baseChain {
	return []baseChain{
		{"prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, -100, translate},
		{"output", nftables.ChainTypeNAT, nftables.ChainHookOutput, -100, translate},
		{"forward-undelivered", nftables.ChainTypeFilter, nftables.ChainHookForward, 0, undelivered},
		{"output-undelivered", nftables.ChainTypeFilter, nftables.ChainHookOutput, 0, undelivered},
		{"postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, 100, masquerade},
	}
}

// translate finds the Service of a new connection, by address and then, for addresses of this node, by port alone.
func translate(s *sets) []nft.Rule {
	w := nft.Words(s.ipv6)
	key := nft.Join(nft.Family(s.ipv6), nft.Destination(s.ipv6, 0), nft.Protocol(w), nft.DestinationPort(w+1))
	loopback := netip.MustParsePrefix("127.0.0.0/8")
	if s.ipv6 {
		loopback = netip.MustParsePrefix("::1/128")
	}
	return []nft.Rule{
		nft.Join(key, nft.In(0, s.firewalled), nft.Source(s.ipv6, w+2), nft.NotIn(0, s.allowed), nft.Drop()),
		nft.Join(key, nft.Verdicts(0, s.services)),
		nft.Join(nft.Family(s.ipv6), nft.ToLocal(0), nft.Destination(s.ipv6, 0), nft.NotWithin(0, loopback),
			nft.Value(0, unspecified(s.ipv6).AsSlice()), nft.Protocol(w), nft.DestinationPort(w+1), nft.Verdicts(0, s.services)),
	}
}

// undelivered stops what is still addressed to a Service after translation: the address is not this node's, and nobody else's either.
func undelivered(s *sets) []nft.Rule {
	to := func(set *nftables.Set) nft.Rule {
		return nft.Join(nft.Family(s.ipv6), nft.Destination(s.ipv6, 0), nft.In(0, set))
	}
	return []nft.Rule{
		// Addresses that a process of this node holds (node-local DNS) are delivered.
		nft.Join(to(s.clusterIPs), nft.ToLocal(0), nft.Return()),
		nft.Join(to(s.clusterIPs), nft.Reset()),
		nft.Join(to(s.clusterIPs), nft.Reject()),
		nft.Join(to(s.serviceCIDRs), nft.ToLocal(0), nft.Return()),
		nft.Join(to(s.serviceCIDRs), nft.Drop()),
	}
}

func masquerade(s *sets) []nft.Rule {
	return []nft.Rule{
		nft.Join(nft.Family(s.ipv6), nft.Marked(masqueradeMark), nft.Unmark(masqueradeMark), nft.Masquerade()),
		nft.Join(nft.Family(s.ipv6), nft.Translated(), nft.Source(s.ipv6, 0), nft.Destination(s.ipv6, nft.Words(s.ipv6)), nft.In(0, s.hairpin), nft.Masquerade()),
	}
}

func unspecified(ipv6 bool) netip.Addr {
	if ipv6 {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}

// rules are what the chain does.
func (c Chain) rules(s *sets) []nft.Rule {
	switch c.kind {
	case chainReject:
		return []nft.Rule{nft.Reset(), nft.Reject()}
	case chainDrop:
		return []nft.Rule{nft.Drop()}
	case chainEdge:
		return c.edge(s)
	}
	return c.pick(s)
}

// edge parts traffic from this node and its pods, which may go anywhere, from that from outside, which must not leave
// this node so that the client's address stays visible (externalTrafficPolicy Local).
func (c Chain) edge(s *sets) []nft.Rule {
	all := nft.Goto(c.clusterPick().String())
	rules := []nft.Rule{
		nft.Join(nft.Source(c.ipv6, 0), nft.In(0, s.podCIDRs), all),
		nft.Join(nft.FromLocal(0), nft.Mark(masqueradeMark)),
		nft.Join(nft.FromLocal(0), all),
	}
	if c.local == 0 {
		return append(rules, nft.Drop())
	}
	return append(rules, nft.Goto(c.localPick().String()))
}

// pick sends the connection to one of n endpoints.
func (c Chain) pick(s *sets) []nft.Rule {
	var (
		w     = nft.Words(c.ipv6)
		base  = uint32(0)
		rules []nft.Rule
	)
	if c.atLocal {
		base = localBase
	}
	if c.masq {
		rules = append(rules, nft.Mark(masqueradeMark))
	}
	// key loads the Service's key into registers from i on, and returns the first register after it.
	key := func(i int) (nft.Rule, int) {
		addr := nft.Destination(c.ipv6, i)
		if c.node {
			addr = nft.Value(i, unspecified(c.ipv6).AsSlice())
		}
		return nft.Join(addr, nft.Protocol(i+w), nft.DestinationPort(i+w+1)), i + w + 2
	}
	if c.sticky > 0 {
		// client . key . endpoint, in this order, so that the affinity map's key and value and the live set's key are each in one piece.
		load, end := key(w)
		load = nft.Join(nft.Source(c.ipv6, 0), load)
		timeout := uint64(c.sticky / time.Millisecond)
		rules = append(rules,
			nft.Join(load, nft.Lookup(0, s.affinity, end), nft.In(w, s.live),
				nft.Remember(nft.Update, s.affinity, 0, end, timeout), nft.DNAT(c.ipv6, end, end+w)),
			nft.Join(load, nft.Random(end, uint32(c.n), base), nft.Lookup(w, s.endpoints, end),
				nft.Remember(nft.Delete, s.affinity, 0, end, 0), nft.Remember(nft.Add, s.affinity, 0, end, timeout), nft.DNAT(c.ipv6, end, end+w)))
	}
	load, end := key(0)
	return append(rules, nft.Join(load, nft.Random(end, uint32(c.n), base), nft.Lookup(0, s.endpoints, end), nft.DNAT(c.ipv6, end, end+w)))
}

// encode is the element in the kernel's bytes. end is the last key of an interval, nil for all others.
func (id ID) encode() (key, end []byte) {
	addr := func(a netip.Addr) { key = append(key, a.AsSlice()...) }
	front := func() {
		addr(id.Key.Addr)
		key = append(key, nft.Proto(id.Key.Proto)...)
		key = append(key, nft.Port(id.Key.Port)...)
	}
	switch id.Set {
	case setServices, setFirewalled:
		front()
	case setEndpoints:
		front()
		key = append(key, nft.Index(id.Index)...)
	case setLive:
		front()
		addr(id.Endpoint.Addr())
		key = append(key, nft.Port(id.Endpoint.Port())...)
	case setAllowed:
		front()
		end = append(end, key...)
		addr(id.Source.Masked().Addr())
		end = append(end, nft.LastAddr(id.Source).AsSlice()...)
	case setHairpin:
		addr(id.Addr)
		addr(id.Addr)
	case setClusterIPs:
		addr(id.Addr)
	}
	return key, end
}
