package proxy

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	// handshakePatience is how long the first packet of a connection may be under way before it counts as lost. The client sends it again after a second.
	handshakePatience = 200 * time.Millisecond
	handshakeLook     = 5 * time.Millisecond
)

// handshakes reports progress, and holds back the report that an endpoint has left (D3) while a TCP connection to it is still being made. The rules
// decide about a connection when its first packet comes; conntrack leads its next ones the same way, also those which the client repeats because
// the first was lost, a second later and to an endpoint that may have closed its port by then. So a handshake that stays without an answer is taken
// out of conntrack: what the client repeats is a first packet again, and goes where today's rules lead it.
type handshakes struct {
	log      *slog.Logger
	progress Progress
	wake     chan struct{} // capacity 1

	mu       sync.Mutex // guards all below
	gone     map[way]bool
	revision uint64
	leaving  bool
	looking  bool // run has taken what was gone and has not reported yet
}

// way is what conntrack may know a connection by: what the client addressed and who should answer.
type way struct {
	to       Key
	endpoint netip.AddrPort
}

func newHandshakes(progress Progress, log *slog.Logger) *handshakes {
	return &handshakes{log: log, progress: progress, wake: make(chan struct{}, 1), gone: map[way]bool{}}
}

// departed are the ways by which new TCP connections no longer go. Pure.
func departed(old, now map[Key]*Frontend) []way {
	var ways []way
	for key, was := range old {
		is := now[key]
		if key.Proto != unix.IPPROTO_TCP || was == is {
			continue
		}
		if is == nil {
			is = &Frontend{}
		}
		for _, e := range slices.Concat(was.Cluster, was.Local) { // one that is in both is gone twice, which says no more
			if !contains(is.Cluster, e) && !contains(is.Local, e) {
				ways = append(ways, way{key, e})
			}
		}
	}
	return ways
}

// reached is Progress.Reached: at once, if nothing has gone and nothing is being looked at, else by run, once nothing is under way by the ways that are gone. It does not block.
func (h *handshakes) reached(revision uint64, leaving bool, gone []way) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.revision, h.leaving = max(h.revision, revision), h.leaving || leaving
	for _, w := range gone {
		h.gone[w] = true
	}
	if len(h.gone) == 0 && !h.looking {
		h.progress.Reached(h.revision, h.leaving)
		h.leaving = false
		return
	}
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// run looks and reports until ctx ends.
func (h *handshakes) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.wake:
		}
		h.mu.Lock()
		gone, revision, leaving := h.gone, h.revision, h.leaving
		h.gone, h.leaving, h.looking = map[way]bool{}, false, true
		h.mu.Unlock()
		if len(gone) > 0 {
			if err := h.finish(ctx, gone); err != nil {
				h.log.Warn("look for connections that are being made to endpoints which left", "err", err)
			}
		}
		h.mu.Lock()
		h.looking = false
		if ctx.Err() == nil {
			h.progress.Reached(revision, leaving)
		}
		h.mu.Unlock()
	}
}

// finish waits until nothing is under way by the ways that are gone, and takes what will not end by itself out of conntrack.
func (h *handshakes) finish(ctx context.Context, gone map[way]bool) error {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return fmt.Errorf("open conntrack: %w", err)
	}
	defer conn.Close()
	look := time.NewTicker(handshakeLook)
	defer look.Stop()
	deadline := time.Now().Add(handshakePatience)
	for {
		lost, err := unanswered(conn, gone)
		if err != nil || len(lost) == 0 {
			return err
		}
		if time.Now().After(deadline) {
			for _, f := range lost {
				if err := f.remove(conn); err != nil {
					return err
				}
			}
			h.log.Info("took handshakes without an answer away from endpoints that left", "handshakes", len(lost))
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-look.C:
		}
	}
}

// handshake is a conntrack entry of a TCP connection that nobody has answered.
type handshake struct {
	family   uint8
	original []byte // CTA_TUPLE_ORIG, as the kernel writes it
	id       []byte // CTA_ID
}

// linux/netfilter/nfnetlink_conntrack.h and nf_conntrack_common.h
const (
	ctGet    = unix.NFNL_SUBSYS_CTNETLINK<<8 | 1
	ctDelete = unix.NFNL_SUBSYS_CTNETLINK<<8 | 2

	ctaTupleOrig, ctaTupleReply       = 1, 2
	ctaStatus, ctaID, ctaStatusMask   = 3, 12, 26
	ctaTupleIP, ctaTupleProto         = 1, 2
	ctaV4Src, ctaV4Dst                = 1, 2
	ctaV6Src, ctaV6Dst                = 3, 4
	ctaProtoNum, ctaSrcPort, ctaDstPt = 1, 2, 3
	seenReply                         = 1 << 1
)

// unanswered lists the handshakes that took one of the ways. The kernel sends only those without an answer, or, before 5.17, all it tracks.
func unanswered(conn *netlink.Conn, gone map[way]bool) ([]handshake, error) {
	var families [2]bool
	for w := range gone {
		families[b2i(w.to.Addr.Is6())] = true
	}
	var found []handshake
	for i, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		if !families[i] {
			continue
		}
		attrs, err := netlink.MarshalAttributes([]netlink.Attribute{{Type: ctaStatus, Data: be32(0)}, {Type: ctaStatusMask, Data: be32(seenReply)}})
		if err != nil {
			return nil, fmt.Errorf("ask conntrack: %w", err)
		}
		messages, err := conn.Execute(netlink.Message{Header: netlink.Header{Type: ctGet, Flags: netlink.Request | netlink.Dump}, Data: append([]byte{family, 0, 0, 0}, attrs...)})
		if err != nil && !errors.Is(err, unix.EINTR) { // entries that came and went meanwhile
			return nil, fmt.Errorf("read conntrack: %w", err)
		}
		for _, m := range messages {
			if f, w, ok := parse(family, m.Data); ok && (gone[w] || gone[way{Key{unspecified(family == unix.AF_INET6), w.to.Proto, w.to.Port}, w.endpoint}]) {
				found = append(found, f)
			}
		}
	}
	return found, nil
}

// parse reads one entry; ok says that it is an unanswered TCP connection.
func parse(family uint8, message []byte) (f handshake, w way, ok bool) {
	if len(message) < 4 {
		return f, w, false
	}
	attrs, err := netlink.UnmarshalAttributes(message[4:])
	if err != nil {
		return f, w, false
	}
	f.family = family
	for _, a := range attrs {
		switch a.Type & ^uint16(netlink.Nested|netlink.NetByteOrder) {
		case ctaTupleOrig:
			f.original = a.Data
			var to netip.AddrPort
			if _, to, w.to.Proto, ok = tuple(a.Data); !ok {
				return f, w, false
			}
			w.to.Addr, w.to.Port = to.Addr(), to.Port()
		case ctaTupleReply:
			if w.endpoint, _, _, ok = tuple(a.Data); !ok {
				return f, w, false
			}
		case ctaID:
			f.id = a.Data
		case ctaStatus:
			if len(a.Data) != 4 || binary.BigEndian.Uint32(a.Data)&seenReply != 0 {
				return f, w, false
			}
		}
	}
	return f, w, f.original != nil && f.id != nil && w.endpoint.IsValid() && w.to.Proto == unix.IPPROTO_TCP
}

// tuple reads one direction of an entry.
func tuple(b []byte) (src, dst netip.AddrPort, proto uint8, ok bool) {
	parts, err := netlink.UnmarshalAttributes(b)
	if err != nil {
		return src, dst, 0, false
	}
	var from, to netip.Addr
	var ports [2]uint16
	for _, p := range parts {
		inner, err := netlink.UnmarshalAttributes(p.Data)
		if err != nil {
			return src, dst, 0, false
		}
		kind := p.Type & ^uint16(netlink.Nested)
		for _, a := range inner {
			switch t := a.Type; {
			case kind == ctaTupleIP && (t == ctaV4Src || t == ctaV6Src):
				from, _ = netip.AddrFromSlice(a.Data)
			case kind == ctaTupleIP && (t == ctaV4Dst || t == ctaV6Dst):
				to, _ = netip.AddrFromSlice(a.Data)
			case kind == ctaTupleProto && t == ctaProtoNum && len(a.Data) == 1:
				proto = a.Data[0]
			case kind == ctaTupleProto && (t == ctaSrcPort || t == ctaDstPt) && len(a.Data) == 2:
				ports[t-ctaSrcPort] = binary.BigEndian.Uint16(a.Data)
			}
		}
	}
	return netip.AddrPortFrom(from, ports[0]), netip.AddrPortFrom(to, ports[1]), proto, from.IsValid() && to.IsValid()
}

// remove takes the entry out of conntrack; that it has ended meanwhile is no error.
func (f handshake) remove(conn *netlink.Conn) error {
	attrs, err := netlink.MarshalAttributes([]netlink.Attribute{{Type: ctaTupleOrig | netlink.Nested, Data: f.original}, {Type: ctaID, Data: f.id}})
	if err != nil {
		return fmt.Errorf("remove from conntrack: %w", err)
	}
	_, err = conn.Execute(netlink.Message{Header: netlink.Header{Type: ctDelete, Flags: netlink.Request | netlink.Acknowledge}, Data: append([]byte{f.family, 0, 0, 0}, attrs...)})
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove from conntrack: %w", err)
	}
	return nil
}

func be32(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }
