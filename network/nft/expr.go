// Package nft says nftables rules in nftables' own words, on top of google/nftables' expressions: a rule is a list of
// statements built by the functions here, in the order in which the kernel runs them. The proxy, the plugin's host ports, the
// pod network's masquerading and the DNS address use it; all of them keep to tables of their own (family inet).
//
// Registers are the kernel's sixteen 32-bit ones, R(0) to R(15). An IPv4 address, a protocol or a port takes one, an IPv6
// address four; values that follow one another in registers form a concatenated key.
package nft

import (
	"encoding/binary"
	"net"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Rule is the statements of one rule.
type Rule []expr.Any

// R is the number of the i-th 32-bit register.
func R(i int) uint32 { return unix.NFT_REG32_00 + uint32(i) }

// Words is the number of registers an address of the family takes.
func Words(ipv6 bool) int {
	if ipv6 {
		return 4
	}
	return 1
}

// AddrType is the set type of the family's addresses.
func AddrType(ipv6 bool) nftables.SetDatatype {
	if ipv6 {
		return nftables.TypeIP6Addr
	}
	return nftables.TypeIPAddr
}

// Join puts statements and lists of them after one another.
func Join(parts ...Rule) Rule {
	var out Rule
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}

// Family lets only packets of one family go on.
func Family(ipv6 bool) Rule {
	proto := byte(unix.NFPROTO_IPV4)
	if ipv6 {
		proto = unix.NFPROTO_IPV6
	}
	return Rule{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: R(0)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: R(0), Data: []byte{proto}},
	}
}

// Source loads the source address into registers from i on.
func Source(ipv6 bool, i int) Rule {
	if ipv6 {
		return Rule{&expr.Payload{DestRegister: R(i), Base: expr.PayloadBaseNetworkHeader, Offset: 8, Len: 16}}
	}
	return Rule{&expr.Payload{DestRegister: R(i), Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4}}
}

// Destination loads the destination address into registers from i on.
func Destination(ipv6 bool, i int) Rule {
	if ipv6 {
		return Rule{&expr.Payload{DestRegister: R(i), Base: expr.PayloadBaseNetworkHeader, Offset: 24, Len: 16}}
	}
	return Rule{&expr.Payload{DestRegister: R(i), Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4}}
}

// Protocol loads the transport protocol's number into register i.
func Protocol(i int) Rule { return Rule{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: R(i)}} }

// DestinationPort loads the destination port into register i.
func DestinationPort(i int) Rule {
	return Rule{&expr.Payload{DestRegister: R(i), Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}}
}

// SourcePort loads the source port into register i.
func SourcePort(i int) Rule {
	return Rule{&expr.Payload{DestRegister: R(i), Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 2}}
}

// Value loads a constant into registers from i on.
func Value(i int, data []byte) Rule { return Rule{&expr.Immediate{Register: R(i), Data: data}} }

// Is goes on when the registers from i on hold data.
func Is(i int, data []byte) Rule {
	return Rule{&expr.Cmp{Op: expr.CmpOpEq, Register: R(i), Data: data}}
}

// IsNot goes on when the registers from i on hold anything but data.
func IsNot(i int, data []byte) Rule {
	return Rule{&expr.Cmp{Op: expr.CmpOpNeq, Register: R(i), Data: data}}
}

// Within goes on when the address in the registers from i on belongs to the prefix.
func Within(i int, p netip.Prefix) Rule { return within(i, p, expr.CmpOpEq) }

// NotWithin goes on when the address in the registers from i on does not belong to the prefix.
func NotWithin(i int, p netip.Prefix) Rule { return within(i, p, expr.CmpOpNeq) }

func within(i int, p netip.Prefix, op expr.CmpOp) Rule {
	n := p.Addr().BitLen() / 8
	mask := net.CIDRMask(p.Bits(), p.Addr().BitLen())
	return Rule{
		&expr.Bitwise{SourceRegister: R(i), DestRegister: R(i), Len: uint32(n), Mask: mask, Xor: make([]byte, n)},
		&expr.Cmp{Op: op, Register: R(i), Data: p.Masked().Addr().AsSlice()},
	}
}

// In goes on when the key in the registers from i on is in the set.
func In(i int, set *nftables.Set) Rule {
	return Rule{&expr.Lookup{SourceRegister: R(i), SetName: set.Name, SetID: set.ID}}
}

// NotIn goes on when the key in the registers from i on is not in the set.
func NotIn(i int, set *nftables.Set) Rule {
	return Rule{&expr.Lookup{SourceRegister: R(i), SetName: set.Name, SetID: set.ID, Invert: true}}
}

// Lookup loads the map's value for the key in the registers from i on into those from to on, and goes on when there is one.
func Lookup(i int, m *nftables.Set, to int) Rule {
	return Rule{&expr.Lookup{SourceRegister: R(i), SetName: m.Name, SetID: m.ID, DestRegister: R(to), IsDestRegSet: true}}
}

// Verdicts does what the verdict map says for the key in the registers from i on; the next rule follows when it says nothing.
func Verdicts(i int, m *nftables.Set) Rule {
	return Rule{&expr.Lookup{SourceRegister: R(i), SetName: m.Name, SetID: m.ID, DestRegister: unix.NFT_REG_VERDICT, IsDestRegSet: true}}
}

// ToLocal goes on when the destination is an address of this node.
func ToLocal(i int) Rule {
	return Rule{
		&expr.Fib{Register: R(i), FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: R(i), Data: native32(unix.RTN_LOCAL)},
	}
}

// FromLocal goes on when the source is an address of this node.
func FromLocal(i int) Rule {
	return Rule{
		&expr.Fib{Register: R(i), FlagSADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: R(i), Data: native32(unix.RTN_LOCAL)},
	}
}

// Random puts a number of [offset, offset+n) into register i, as a 32-bit integer in this machine's byte order.
func Random(i int, n, offset uint32) Rule {
	return Rule{&expr.Numgen{Register: R(i), Modulus: n, Type: unix.NFT_NG_RANDOM, Offset: offset}}
}

// DNAT sends the connection to the address in the registers from addr on and the port in register port.
func DNAT(ipv6 bool, addr, port int) Rule {
	family := uint32(unix.NFPROTO_IPV4)
	if ipv6 {
		family = unix.NFPROTO_IPV6
	}
	return Rule{&expr.NAT{Type: expr.NATTypeDestNAT, Family: family, RegAddrMin: R(addr), RegProtoMin: R(port), Specified: true}}
}

// Masquerade gives the connection the address of the interface it leaves by.
func Masquerade() Rule { return Rule{&expr.Masq{FullyRandom: true, Random: false}} }

// Mark sets bits in the packet's mark.
func Mark(bits uint32) Rule {
	return Rule{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: R(0)},
		&expr.Bitwise{SourceRegister: R(0), DestRegister: R(0), Len: 4, Mask: native32(^bits), Xor: native32(bits)},
		&expr.Meta{Key: expr.MetaKeyMARK, Register: R(0), SourceRegister: true},
	}
}

// Unmark clears bits in the packet's mark.
func Unmark(bits uint32) Rule {
	return Rule{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: R(0)},
		&expr.Bitwise{SourceRegister: R(0), DestRegister: R(0), Len: 4, Mask: native32(^bits), Xor: native32(0)},
		&expr.Meta{Key: expr.MetaKeyMARK, Register: R(0), SourceRegister: true},
	}
}

// Marked goes on when any of the bits is set in the packet's mark.
func Marked(bits uint32) Rule {
	return Rule{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: R(0)},
		&expr.Bitwise{SourceRegister: R(0), DestRegister: R(0), Len: 4, Mask: native32(bits), Xor: native32(0)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: R(0), Data: native32(0)},
	}
}

// Conntrack status and state bits (linux/netfilter/nf_conntrack_common.h, nf_tables.h).
const (
	statusDNAT = 1 << 5
	stateNew   = 1 << 3
	invalid    = 1 << 0
)

// Translated goes on for connections whose destination was rewritten.
func Translated() Rule { return ctBits(expr.CtKeySTATUS, statusDNAT) }

// New goes on for the first packet of a connection.
func New() Rule { return ctBits(expr.CtKeySTATE, stateNew) }

// Invalid goes on for packets that belong to no connection conntrack knows or could know.
func Invalid() Rule { return ctBits(expr.CtKeySTATE, invalid) }

func ctBits(key expr.CtKey, bits uint32) Rule {
	return Rule{
		&expr.Ct{Key: key, Register: R(0)},
		&expr.Bitwise{SourceRegister: R(0), DestRegister: R(0), Len: 4, Mask: native32(bits), Xor: native32(0)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: R(0), Data: native32(0)},
	}
}

// ClampMSS lets a TCP connection that begins through the interface of that name ask for no larger segments than the way there takes. It goes
// on for all other packets.
func ClampMSS(link string) Rule {
	const flags, syn, rst, maxseg = 13, 1 << 1, 1 << 2, 2 // RFC 9293
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, link)
	return Join(
		Rule{&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: R(0)}, &expr.Cmp{Op: expr.CmpOpEq, Register: R(0), Data: name}},
		Protocol(0), Is(0, []byte{unix.IPPROTO_TCP}),
		Rule{
			&expr.Payload{DestRegister: R(0), Base: expr.PayloadBaseTransportHeader, Offset: flags, Len: 1},
			&expr.Bitwise{SourceRegister: R(0), DestRegister: R(0), Len: 1, Mask: []byte{syn | rst}, Xor: []byte{0}},
			&expr.Cmp{Op: expr.CmpOpEq, Register: R(0), Data: []byte{syn}},
			&expr.Rt{Key: expr.RtTCPMSS, Register: R(0)},
			&expr.Byteorder{SourceRegister: R(0), DestRegister: R(0), Op: expr.ByteorderHton, Len: 2, Size: 2},
			&expr.Exthdr{SourceRegister: R(0), Op: expr.ExthdrOpTcpopt, Type: maxseg, Offset: 2, Len: 2}, // the kernel only ever lowers it
		})
}

// Untrack keeps the packet out of conntrack.
func Untrack() Rule { return Rule{&expr.Notrack{}} }

// Reset answers a TCP packet with a reset, which the asking process learns of at once; it goes on for all other packets.
func Reset() Rule {
	return Join(Protocol(0), Is(0, []byte{unix.IPPROTO_TCP}), Rule{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}})
}

// Reject answers with ICMP port unreachable, in the packet's family. A process of this node whose connect(2) is rejected so
// learns of it only with its second SYN, a second later: put a rule with Reset before.
func Reject() Rule {
	return Rule{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_PORT_UNREACH}}
}

// Drop, Accept and Return are the verdicts of those names.
func Drop() Rule   { return Rule{&expr.Verdict{Kind: expr.VerdictDrop}} }
func Accept() Rule { return Rule{&expr.Verdict{Kind: expr.VerdictAccept}} }
func Return() Rule { return Rule{&expr.Verdict{Kind: expr.VerdictReturn}} }

// Goto and Jump go to a chain of the same table.
func Goto(chain string) Rule { return Rule{&expr.Verdict{Kind: expr.VerdictGoto, Chain: chain}} }
func Jump(chain string) Rule { return Rule{&expr.Verdict{Kind: expr.VerdictJump, Chain: chain}} }

// Operations of Remember.
const (
	Add    = uint32(unix.NFT_DYNSET_OP_ADD)
	Update = uint32(unix.NFT_DYNSET_OP_UPDATE)
	Delete = uint32(2) // NFT_DYNSET_OP_DELETE, not in x/sys
)

// Remember adds, refreshes or deletes an element of a dynamic map: the key in the registers from i on, the value in those from
// value on. Add and Update go on only when the element is there afterwards. A zero timeout is the map's own.
func Remember(op uint32, m *nftables.Set, i, value int, timeoutMillis uint64) Rule {
	// Delete looks at the key alone, but the kernel wants a value for every operation on a map.
	return Rule{&expr.Dynset{Operation: op, SrcRegKey: R(i), SrcRegData: R(value), SetName: m.Name, SetID: m.ID, Timeout: millis(timeoutMillis)}}
}

// Address is an address as register and set content.
func Address(a netip.Addr) []byte { return a.AsSlice() }

// Port is a port as register and set content, padded to a whole register.
func Port(p uint16) []byte { return []byte{byte(p >> 8), byte(p), 0, 0} }

// Proto is a protocol number as register and set content, padded to a whole register.
func Proto(p uint8) []byte { return []byte{p, 0, 0, 0} }

// Index is a 32-bit number as Random makes it.
func Index(n uint32) []byte { return native32(n) }

func native32(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }
