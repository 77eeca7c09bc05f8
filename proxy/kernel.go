package proxy

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"wherry.dev/wherry/network/nft"
)

// kernel is the proxy's nftables table. Not for concurrent use.
type kernel struct {
	table        *nftables.Table
	v4, v6       *sets
	serviceCIDRs []netip.Prefix
	podCIDRs     []netip.Prefix

	conn *nftables.Conn
	port uint32 // the connection's netlink port: the kernel signs with it what it reports of our own transactions
}

// sendBuffer bounds one transaction. A full load of 10,000 Services takes about 6 MB; the kernel allocates only what is sent.
const sendBuffer = 256 << 20

func openKernel(table string, serviceCIDRs []netip.Prefix) (*kernel, error) {
	t := nft.Table(table)
	k := &kernel{table: t, v4: newSets(t, false), v6: newSets(t, true), serviceCIDRs: serviceCIDRs}
	return k, k.open()
}

// open makes the netlink connection, or makes it anew when a failed transaction may have left answers unread.
func (k *kernel) open() error {
	k.close()
	var err error
	k.conn, err = nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) error {
		if err := c.SetWriteBuffer(sendBuffer); err != nil {
			return err
		}
		raw, err := c.SyscallConn()
		if err != nil {
			return err
		}
		var addr unix.Sockaddr
		var nameErr error
		if err := raw.Control(func(fd uintptr) { addr, nameErr = unix.Getsockname(int(fd)) }); err != nil {
			return err
		} else if nameErr != nil {
			return nameErr
		}
		if nl, ok := addr.(*unix.SockaddrNetlink); ok {
			k.port = nl.Pid
		}
		return nil
	}))
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	return nil
}

func (k *kernel) close() {
	if k.conn != nil {
		k.conn.CloseLasting()
	}
}

func (k *kernel) sets(ipv6 bool) *sets {
	if ipv6 {
		return k.v6
	}
	return k.v4
}

// load replaces the whole table by what c adds to an empty one, in one transaction: other tables and established
// connections notice nothing.
func (k *kernel) load(c *Changes) error {
	k.conn.AddTable(k.table) // so that the deletion finds one
	k.conn.DelTable(k.table)
	k.conn.AddTable(k.table)
	for _, s := range []*sets{k.v4, k.v6} {
		for _, set := range s.all() {
			var elements []nftables.SetElement
			switch set {
			case s.podCIDRs:
				elements = nft.Interval(k.podCIDRs, s.ipv6)
			case s.serviceCIDRs:
				elements = nft.Interval(k.serviceCIDRs, s.ipv6)
			}
			if err := k.conn.AddSet(set, elements); err != nil {
				return fmt.Errorf("load service table: %w", err)
			}
		}
	}
	for _, b := range baseChains() {
		ch := k.conn.AddChain(nft.BaseChain(k.table, b.name, b.kind, b.hook, b.priority))
		for _, s := range []*sets{k.v4, k.v6} {
			k.rules(ch, b.rules(s))
		}
	}
	return k.send(c)
}

// apply makes the changes in one transaction.
func (k *kernel) apply(c *Changes) error { return k.send(c) }

// setPodCIDRs names the addresses whose traffic comes from this node's pods. It takes effect with the next load or, with now, the next transaction.
func (k *kernel) setPodCIDRs(ps []netip.Prefix, now bool) error {
	k.podCIDRs = ps
	if !now {
		return nil
	}
	for _, s := range []*sets{k.v4, k.v6} {
		k.conn.FlushSet(s.podCIDRs)
		if e := nft.Interval(ps, s.ipv6); len(e) > 0 {
			if err := k.conn.SetAddElements(s.podCIDRs, e); err != nil {
				return fmt.Errorf("set pod CIDRs: %w", err)
			}
		}
	}
	return nil
}

func (k *kernel) rules(ch *nftables.Chain, rules []nft.Rule) {
	for _, r := range rules {
		k.conn.AddRule(&nftables.Rule{Table: k.table, Chain: ch, Exprs: r})
	}
}

// send queues the changes and commits whatever is queued.
func (k *kernel) send(c *Changes) error {
	if err := k.queue(c); err != nil {
		return err
	}
	if err := k.conn.Flush(); err != nil {
		err = fmt.Errorf("program %d elements and %d chains: %w", len(c.Add)+len(c.Remove), len(c.NewChains)+len(c.OldChains), err)
		if e := k.open(); e != nil {
			return fmt.Errorf("%w; %w", err, e)
		}
		return err
	}
	return nil
}

func (k *kernel) queue(c *Changes) error {
	for _, ch := range c.NewChains {
		k.rules(k.conn.AddChain(&nftables.Chain{Table: k.table, Name: ch.String()}), ch.rules(k.sets(ch.ipv6)))
	}
	if err := k.elements(c.Remove, k.conn.SetDeleteElements); err != nil {
		return err
	}
	if err := k.elements(c.Add, k.conn.SetAddElements); err != nil {
		return err
	}
	for _, ch := range c.OldChains {
		old := &nftables.Chain{Table: k.table, Name: ch.String()}
		k.conn.FlushChain(old)
		k.conn.DelChain(old)
	}
	return nil
}

// chunk is how many elements go into one message: an attribute cannot be longer than 64 KiB.
const chunk = 300

// elements queues elements set by set.
func (k *kernel) elements(m map[ID]Value, do func(*nftables.Set, []nftables.SetElement) error) error {
	bySet := map[*nftables.Set][]nftables.SetElement{}
	for id, v := range m {
		s := k.sets(id.ipv6())
		e := nftables.SetElement{}
		e.Key, e.KeyEnd = id.encode()
		set := s.named(id.Set)
		switch id.Set {
		case setServices:
			e.VerdictData = &expr.Verdict{Kind: expr.VerdictGoto, Chain: v.Chain.String()}
		case setEndpoints:
			e.Val = append(nft.Address(v.Endpoint.Addr()), nft.Port(v.Endpoint.Port())...)
		}
		bySet[set] = append(bySet[set], e)
	}
	for set, es := range bySet {
		for part := range slices.Chunk(es, chunk) {
			if err := do(set, part); err != nil {
				return fmt.Errorf("encode elements of %s: %w", set.Name, err)
			}
		}
	}
	return nil
}

func (s *sets) named(n Set) *nftables.Set {
	switch n {
	case setServices:
		return s.services
	case setEndpoints:
		return s.endpoints
	case setLive:
		return s.live
	case setFirewalled:
		return s.firewalled
	case setAllowed:
		return s.allowed
	case setHairpin:
		return s.hairpin
	case setClusterIPs:
		return s.clusterIPs
	}
	return s.affinity
}

// Cleanup removes the proxy's table from this network namespace. None there is no error.
func Cleanup(table string) error {
	if table == "" {
		table = DefaultTable
	}
	return nft.DeleteTable(table)
}

// DefaultTable is the nftables table (family inet) of a proxy whose Config names none.
const DefaultTable = "wherry-services"
