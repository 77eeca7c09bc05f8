package proxy

import (
	"context"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// flows removes UDP connections from conntrack that today's rules would not have made: those that lead to an endpoint which no longer serves, or
// into nothing although there are endpoints now, or past a traffic policy or source range that came later. TCP needs none of it: a new connection is
// a new flow. UDP clients keep their port, and with it the old way, for ever; and a new client may be given an old one's port.
// The dump of conntrack that it takes is long on a busy node, so that it runs beside the loop, and only for UDP ports that some flow may have to leave.
type flows struct {
	log  *slog.Logger
	wake chan struct{}

	mu       sync.Mutex        // guards all below
	next     map[Key]*Frontend // noted by compare, until start
	pending  map[Key]*Frontend // what flows to each port must fit
	podCIDRs []netip.Prefix
}

func newFlows(log *slog.Logger) *flows {
	return &flows{log: log, wake: make(chan struct{}, 1), next: map[Key]*Frontend{}, pending: map[Key]*Frontend{}}
}

// compare notes the UDP ports of a Service that some of their flows must leave.
func (f *flows) compare(old, now map[Key]*Frontend) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for key, was := range old {
		if key.Proto != unix.IPPROTO_UDP {
			continue
		}
		is := now[key]
		if is == nil {
			is = &Frontend{}
		}
		if outgrown(was, is) {
			f.next[key] = is
		}
	}
	for key, is := range now {
		if key.Proto == unix.IPPROTO_UDP && old[key] == nil && len(is.Serving) > 0 {
			f.next[key] = is // clients may have been there before the Service
		}
	}
}

// outgrown reports whether a flow that fitted one Frontend may not fit the next.
func outgrown(was, is *Frontend) bool {
	if was.Edge != is.Edge || was.Masq != is.Masq || !slices.Equal(was.Sources, is.Sources) || len(was.Serving) == 0 && len(is.Serving) > 0 {
		return true
	}
	return slices.ContainsFunc(was.Serving, func(e netip.AddrPort) bool { return !contains(is.Serving, e) })
}

// start lets run remove what compare noted: the kernel no longer makes such flows. podCIDRs are this node's.
func (f *flows) start(podCIDRs []netip.Prefix) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.next) == 0 {
		return
	}
	maps.Copy(f.pending, f.next)
	clear(f.next)
	f.podCIDRs = podCIDRs
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// run removes flows until ctx ends.
func (f *flows) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.wake:
		}
		f.mu.Lock()
		match := staleFlow{ports: maps.Clone(f.pending), inside: f.podCIDRs}
		clear(f.pending)
		f.mu.Unlock()
		own, err := net.InterfaceAddrs()
		if err != nil {
			f.log.Warn("read this node's addresses, to find stale UDP flows", "err", err)
		}
		for _, a := range own {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				match.inside = append(slices.Clip(match.inside), netip.PrefixFrom(p.Addr(), p.Addr().BitLen()))
			}
		}
		var families [2]bool
		for key := range match.ports {
			families[b2i(key.Addr.Is6())] = true
		}
		for i, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
			if !families[i] {
				continue
			}
			n, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, family, match)
			if err != nil {
				f.log.Warn("remove stale UDP flows", "err", err)
			} else if n > 0 {
				f.log.Debug("removed stale UDP flows", "flows", n)
			}
		}
	}
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// staleFlow matches flows to the ports in it that do not fit their Frontend. Pure.
type staleFlow struct {
	ports  map[Key]*Frontend
	inside []netip.Prefix // addresses of this node and its pods
}

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (s staleFlow) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	if flow.Forward.Protocol != unix.IPPROTO_UDP {
		return false
	}
	client, ok1 := netip.AddrFromSlice(flow.Forward.SrcIP)
	to, ok2 := netip.AddrFromSlice(flow.Forward.DstIP)
	from, ok3 := netip.AddrFromSlice(flow.Reverse.SrcIP)
	seen, ok4 := netip.AddrFromSlice(flow.Reverse.DstIP)
	if !ok1 || !ok2 || !ok3 || !ok4 {
		return false
	}
	client, to, from, seen = client.Unmap(), to.Unmap(), from.Unmap(), seen.Unmap()
	answering := netip.AddrPortFrom(from, flow.Reverse.SrcPort)
	f, ok := s.ports[Key{to, unix.IPPROTO_UDP, flow.Forward.DstPort}]
	if !ok {
		f, ok = s.ports[Key{unspecified(to.Is6()), unix.IPPROTO_UDP, flow.Forward.DstPort}]
		// By the port alone a flow may be anybody's: only one that was translated is a node port's.
		ok = ok && answering != netip.AddrPortFrom(to, flow.Forward.DstPort)
	}
	return ok && !s.fits(f, client, answering, seen != client)
}

// fits reports whether the rules would lead this client to that endpoint, and hide its address if it is hidden.
func (s staleFlow) fits(f *Frontend, client netip.Addr, endpoint netip.AddrPort, hidden bool) bool {
	covers := func(p netip.Prefix) bool { return p.Contains(client) }
	switch {
	case !contains(f.Serving, endpoint) || len(f.Sources) > 0 && !slices.ContainsFunc(f.Sources, covers):
		return false
	case slices.ContainsFunc(s.inside, covers):
		return true // under either policy they may go anywhere, and it is all the same to them what address is seen
	case f.Edge:
		return contains(f.Staying, endpoint) && !hidden
	}
	return hidden || !f.Masq
}
