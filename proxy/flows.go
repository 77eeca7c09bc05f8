package proxy

import (
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// flows removes UDP connections from conntrack that still lead to an endpoint which no longer serves, or into nothing although there are endpoints
// now. TCP needs none of it: a new connection is a new flow. UDP clients keep their port, and with it the old way, for ever.
// The dump of conntrack that it takes is long on a busy node, so that it runs beside the loop, and only for UDP ports that lost an endpoint.
type flows struct {
	log  *slog.Logger
	wake chan struct{}

	mu      sync.Mutex                      // guards the maps
	next    map[Key]map[netip.AddrPort]bool // noted by compare, until start
	pending map[Key]map[netip.AddrPort]bool // what may stay of each port's flows
}

func newFlows(log *slog.Logger) *flows {
	return &flows{log: log, wake: make(chan struct{}, 1), next: map[Key]map[netip.AddrPort]bool{}, pending: map[Key]map[netip.AddrPort]bool{}}
}

// compare notes the UDP ports of a Service whose old flows must go.
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
		stale := len(was.Serving) == 0 && len(is.Serving) > 0
		for _, e := range was.Serving {
			stale = stale || !contains(is.Serving, e)
		}
		if stale {
			f.note(key, is)
		}
	}
	for key, is := range now {
		if key.Proto == unix.IPPROTO_UDP && old[key] == nil && len(is.Serving) > 0 {
			f.note(key, is) // clients may have been there before the Service
		}
	}
}

func (f *flows) note(key Key, is *Frontend) {
	keep := make(map[netip.AddrPort]bool, len(is.Serving))
	for _, e := range is.Serving {
		keep[e] = true
	}
	f.next[key] = keep
}

// start lets run remove what compare noted: the kernel no longer makes such flows.
func (f *flows) start() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.next) == 0 {
		return
	}
	maps.Copy(f.pending, f.next)
	clear(f.next)
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
		match := make(staleFlow, len(f.pending))
		maps.Copy(match, f.pending)
		clear(f.pending)
		f.mu.Unlock()
		var families [2]bool
		for key := range match {
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

// staleFlow matches flows to the ports in it whose answers come from elsewhere than it allows.
type staleFlow map[Key]map[netip.AddrPort]bool

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (s staleFlow) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	if flow.Forward.Protocol != unix.IPPROTO_UDP {
		return false
	}
	to, ok1 := netip.AddrFromSlice(flow.Forward.DstIP)
	from, ok2 := netip.AddrFromSlice(flow.Reverse.SrcIP)
	if !ok1 || !ok2 {
		return false
	}
	to, from = to.Unmap(), from.Unmap()
	answering := netip.AddrPortFrom(from, flow.Reverse.SrcPort)
	if keep, ok := s[Key{to, unix.IPPROTO_UDP, flow.Forward.DstPort}]; ok {
		return !keep[answering]
	}
	keep, ok := s[Key{unspecified(to.Is6()), unix.IPPROTO_UDP, flow.Forward.DstPort}]
	// By the port alone a flow may be anybody's: only one that was translated is a node port's.
	return ok && answering != netip.AddrPortFrom(to, flow.Forward.DstPort) && !keep[answering]
}
