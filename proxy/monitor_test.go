package proxy

import (
	"context"
	"encoding/binary"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"wherry.dev/wherry/network/netnstest"
	"wherry.dev/wherry/network/nft"
)

// Only what others do to our table raises a doubt: neither our own transactions, after a failed one too, which takes a new connection, nor
// what others do to tables of their own, however much it is.
func TestOnlyDamageIsReported(t *testing.T) {
	netnstest.Need(t)
	// The first socket of a process has its pid as port, and the next one when that is closed; all others have ports that never come again.
	first, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	k, err := openKernel(testTable, serviceCIDRs)
	if err != nil {
		t.Fatal(err)
	}
	defer Cleanup(testTable)
	defer k.close()
	doubts := make(chan doubt, 1)
	m, err := watchTable(testTable, doubts, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { m.run(ctx) })
	defer wg.Wait()
	defer cancel()

	table := NewTable()
	m.follow(k.port)
	if err := k.load(table.All()); err != nil {
		t.Fatal(err)
	}
	m.ignore(k.port)
	before := k.port
	k.conn.DelChain(&nftables.Chain{Table: k.table, Name: "nobody-made-this"})
	if err := k.apply(&Changes{}); err == nil || k.port == before {
		t.Fatalf("a transaction that cannot be made: %v, port %d and then %d", err, before, k.port)
	}
	m.follow(k.port)
	if err := k.load(table.All()); err != nil {
		t.Fatal(err)
	}

	other, err := nftables.New(nftables.WithSockOptions(func(c *netlink.Conn) error { return c.SetWriteBuffer(sendBuffer) }))
	if err != nil {
		t.Fatal(err)
	}
	theirs := other.AddTable(nft.Table("somebody-else"))
	defer nft.DeleteTable("somebody-else")
	set := &nftables.Set{Table: theirs, Name: "many", KeyType: nftables.TypeIPAddr}
	if err := other.AddSet(set, nil); err != nil {
		t.Fatal(err)
	}
	for i := uint32(0); i < 60_000; i += chunk {
		var es []nftables.SetElement
		for j := range uint32(chunk) {
			es = append(es, nftables.SetElement{Key: binary.BigEndian.AppendUint32(nil, i+j)})
		}
		if err := other.SetAddElements(set, es); err != nil {
			t.Fatal(err)
		}
	}
	if err := other.Flush(); err != nil {
		t.Fatal(err)
	}
	select {
	case why := <-doubts:
		t.Errorf("without reason: %s", why)
	case <-time.After(silence):
	}
	other.DelTable(k.table)
	if err := other.Flush(); err != nil {
		t.Fatal(err)
	}
	select {
	case why := <-doubts:
		if why != changed {
			t.Errorf("after damage: %s", why)
		}
	case <-time.After(10 * time.Second):
		t.Error("damage is not reported within 10 s")
	}
}
