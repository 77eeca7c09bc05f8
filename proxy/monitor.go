package proxy

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/mdlayher/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// monitor hears from the kernel when another program changes or deletes the table. Our own transactions are filtered out in
// the kernel, by the netlink port that made them: a large one would overflow the socket.
type monitor struct {
	conn   *netlink.Conn
	table  string
	notify chan<- doubt
	log    *slog.Logger

	mu   sync.Mutex // guards port
	port uint32
}

// doubt is a reason to load the table anew.
type doubt string

const (
	changed doubt = "another program changed the service table; it is loaded anew"
	missed  doubt = "so much changed in nftables that the kernel could not tell it all; the service table is loaded anew, in case it was touched"
)

// receiveBuffer takes what others may change in one go, so that their large tables raise no doubt about ours. The kernel allocates only what is there.
const receiveBuffer = 32 << 20

const groupNFTables = 7 // NFNLGRP_NFTABLES

func watchTable(table string, notify chan<- doubt, log *slog.Logger) (*monitor, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("watch nftables: %w", err)
	}
	m := &monitor{conn: conn, table: table, notify: notify, log: log}
	// Until ignore is called for the first time nothing is ours to find damaged.
	if err = conn.SetBPF([]bpf.RawInstruction{{Op: unix.BPF_RET | unix.BPF_K, K: 0}}); err == nil {
		err = errors.Join(conn.SetReadBuffer(receiveBuffer), conn.JoinGroup(groupNFTables))
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("watch nftables: %w", err)
	}
	return m, nil
}

// follow is ignore for a port that takes the place of the one ignored so far; before there was any it does nothing.
func (m *monitor) follow(port uint32) {
	m.mu.Lock()
	watching := m.port != 0
	m.mu.Unlock()
	if watching {
		m.ignore(port)
	}
}

// ignore lets everything pass but what the socket with that port does.
func (m *monitor) ignore(port uint32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.port == port {
		return
	}
	// The filter loads big-endian; the header's port (offset 12) is in this machine's order.
	var b [4]byte
	binary.NativeEndian.PutUint32(b[:], port)
	program, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: 12, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: binary.BigEndian.Uint32(b[:]), SkipTrue: 1},
		bpf.RetConstant{Val: 1 << 20},
		bpf.RetConstant{Val: 0},
	})
	if err == nil {
		err = m.conn.SetBPF(program)
	}
	if err == nil {
		m.port = port
	}
}

// run reports until ctx ends.
func (m *monitor) run(ctx context.Context) {
	done := context.AfterFunc(ctx, func() { m.conn.Close() })
	defer func() {
		if done() {
			m.conn.Close()
		}
	}()
	for {
		msgs, err := m.conn.Receive()
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, unix.ENOBUFS) {
			m.tell(missed)
			continue
		} else if err != nil {
			m.log.Error("the service table is no longer watched for changes by others", "table", m.table, "err", err)
			return
		}
		for _, msg := range msgs {
			if m.about(msg) {
				m.tell(changed)
				break
			}
		}
	}
}

func (m *monitor) tell(why doubt) {
	select {
	case m.notify <- why:
	default:
	}
}

// about reports whether the message is about our table. Every nftables message names its table in attribute 1; the end of a transaction has none.
func (m *monitor) about(msg netlink.Message) bool {
	if msg.Header.Type>>8 != unix.NFNL_SUBSYS_NFTABLES || msg.Header.Type&0xff == unix.NFT_MSG_NEWGEN || len(msg.Data) < 4 || msg.Data[0] != unix.NFPROTO_INET {
		return false
	}
	attrs, err := netlink.NewAttributeDecoder(msg.Data[4:])
	if err != nil {
		return false
	}
	for attrs.Next() {
		if attrs.Type() == unix.NFTA_TABLE_NAME {
			return attrs.String() == m.table
		}
	}
	return false
}
