package nft

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

func millis(n uint64) time.Duration { return time.Duration(n) * time.Millisecond }

// Table is the inet table of that name.
func Table(name string) *nftables.Table {
	return &nftables.Table{Name: name, Family: nftables.TableFamilyINet}
}

// BaseChain describes a chain that the kernel enters by itself.
func BaseChain(t *nftables.Table, name string, kind nftables.ChainType, hook *nftables.ChainHook, priority int) *nftables.Chain {
	return &nftables.Chain{Table: t, Name: name, Type: kind, Hooknum: hook, Priority: nftables.ChainPriorityRef(nftables.ChainPriority(priority))}
}

// DeleteTable removes a table and everything in it from this network namespace. One that is not there is no error.
func DeleteTable(name string) error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("delete nftables table %s: %w", name, err)
	}
	t := Table(name)
	// Adding first makes the deletion of a missing table succeed, in one transaction.
	c.AddTable(t)
	c.DelTable(t)
	if err := c.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("delete nftables table %s: %w", name, err)
	}
	return nil
}

// HasTable reports whether there is an inet table of that name. (The library loses the error number of most queries,
// so that asking for something missing cannot be told from other failures.)
func HasTable(c *nftables.Conn, name string) (bool, error) {
	tables, err := c.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return false, fmt.Errorf("list nftables tables: %w", err)
	}
	for _, t := range tables {
		if t.Name == name {
			return true, nil
		}
	}
	return false, nil
}

// Interval are the elements of an interval set for the prefixes of one family, which must not overlap.
func Interval(ps []netip.Prefix, ipv6 bool) []nftables.SetElement {
	var out []nftables.SetElement
	for _, p := range ps {
		if p.Addr().Is6() != ipv6 {
			continue
		}
		out = append(out, nftables.SetElement{Key: p.Masked().Addr().AsSlice()})
		// The end is the first address after the prefix; a prefix that reaches the last address needs none.
		if end := LastAddr(p).Next(); end.IsValid() {
			out = append(out, nftables.SetElement{Key: end.AsSlice(), IntervalEnd: true})
		}
	}
	return out
}

// LastAddr is the last address of a prefix.
func LastAddr(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := range b {
		switch left := p.Bits() - 8*i; {
		case left <= 0:
			b[i] = 0xff
		case left < 8:
			b[i] |= 0xff >> left
		}
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}
