package proxy

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// localBase is the first index of a frontend's Local list in the kernel's map of endpoints.
const localBase = 1 << 16

// Set names the kernel's sets and maps; those of IPv6 end in "6".
type Set string

const (
	setServices   Set = "services"    // verdict map: key → chain
	setEndpoints  Set = "endpoints"   // map: key . index → endpoint
	setLive       Set = "live"        // key . endpoint, for session affinity
	setAffinity   Set = "affinity"    // map filled by packets: client . key → endpoint
	setFirewalled Set = "firewalled"  // keys with Sources
	setAllowed    Set = "allowed"     // key . source range
	setHairpin    Set = "hairpin"     // address . address of this node's pods
	setClusterIPs Set = "cluster-ips" // addresses whose other ports are rejected
)

// ID is an element of the kernel's sets: which of its fields are used depends on the set. Comparable.
type ID struct {
	Set      Set
	Key      Key            // services, endpoints, live, firewalled, allowed
	Index    uint32         // endpoints
	Endpoint netip.AddrPort // live
	Source   netip.Prefix   // allowed
	Addr     netip.Addr     // hairpin, cluster-ips
}

// Value is what an element maps to. Comparable; empty for sets.
type Value struct {
	Chain    Chain          // services
	Endpoint netip.AddrPort // endpoints
}

func (id ID) ipv6() bool {
	if id.Addr.IsValid() {
		return id.Addr.Is6()
	}
	return id.Key.Addr.Is6()
}

func (id ID) String() string {
	s := string(id.Set)
	if id.Key.Addr.IsValid() {
		s += " " + id.Key.String()
	}
	switch id.Set {
	case setEndpoints:
		s += fmt.Sprintf(" #%d", id.Index)
	case setLive:
		s += " " + id.Endpoint.String()
	case setAllowed:
		s += " from " + id.Source.String()
	case setHairpin, setClusterIPs:
		s += " " + id.Addr.String()
	}
	return s
}

// Changes turn one state of the kernel's table into another, in one transaction: new chains, elements that go, elements that
// come (an element whose value changes does both), chains that nothing uses any more.
type Changes struct {
	NewChains []Chain
	Remove    map[ID]Value
	Add       map[ID]Value
	OldChains []Chain
}

// Empty reports whether there is nothing to do.
func (c *Changes) Empty() bool {
	return len(c.NewChains)+len(c.Remove)+len(c.Add)+len(c.OldChains) == 0
}

// String lists the changes, one a line, in a fixed order.
func (c *Changes) String() string {
	var lines []string
	for _, ch := range c.NewChains {
		lines = append(lines, "+ chain "+ch.String())
	}
	list := func(sign string, m map[ID]Value) {
		var part []string
		for id, v := range m {
			line := sign + " " + id.String()
			switch id.Set {
			case setServices:
				line += " → " + v.Chain.String()
			case setEndpoints:
				line += " → " + v.Endpoint.String()
			}
			part = append(part, line)
		}
		slices.Sort(part)
		lines = append(lines, part...)
	}
	list("-", c.Remove)
	list("+", c.Add)
	for _, ch := range c.OldChains {
		lines = append(lines, "- chain "+ch.String())
	}
	return strings.Join(lines, "\n")
}

// Table is the state that the kernel should have, and knows what changed since Take was last called. Not for concurrent use.
type Table struct {
	services map[name]map[Key]*Frontend
	clusters map[name][]netip.Addr
	// claims on a key by several Services (an external address, say) are kept in the order of the Services' names: the first counts.
	claims  map[Key][]claim
	placed  map[Key]*placed
	counted map[ID]int    // hairpin, cluster-ips: how many need the element
	chains  map[Chain]int // how many elements lead there

	// what changed: the values before, absent ones as nil
	elements map[ID]*Value
	touched  map[Chain]bool // whether the chain was there before
}

type claim struct {
	owner name
	front *Frontend
}

// placed is a frontend with the indexes of its endpoints.
type placed struct {
	front          *Frontend
	cluster, local []netip.AddrPort // by index
}

// NewTable returns the state of a kernel's table in which no Service is yet.
func NewTable() *Table {
	t := &Table{services: map[name]map[Key]*Frontend{}, clusters: map[name][]netip.Addr{}, claims: map[Key][]claim{}, placed: map[Key]*placed{},
		counted: map[ID]int{}, chains: map[Chain]int{}}
	t.reset()
	return t
}

func (t *Table) reset() {
	t.elements, t.touched = map[ID]*Value{}, map[Chain]bool{}
}

// Set replaces what a Service needs; nothing desired removes it.
func (t *Table) Set(svc name, d Desired) {
	old := t.services[svc]
	for key := range old {
		if _, stays := d.Frontends[key]; !stays {
			t.claim(svc, key, nil)
		}
	}
	for key, f := range d.Frontends {
		if !f.equal(old[key]) {
			t.claim(svc, key, f)
		}
	}
	for _, a := range t.clusters[svc] {
		t.count(ID{Set: setClusterIPs, Addr: a}, -1)
	}
	for _, a := range d.ClusterIPs {
		t.count(ID{Set: setClusterIPs, Addr: a}, +1)
	}
	if len(d.Frontends) == 0 && len(d.ClusterIPs) == 0 {
		delete(t.services, svc)
		delete(t.clusters, svc)
		return
	}
	t.services[svc], t.clusters[svc] = d.Frontends, d.ClusterIPs
}

// claim sets (or, with nil, removes) what one Service wants of a key, and carries out whatever is wanted first now.
func (t *Table) claim(svc name, key Key, f *Frontend) {
	claims := t.claims[key]
	i, found := slices.BinarySearchFunc(claims, svc, func(c claim, n name) int {
		return cmp.Or(strings.Compare(c.owner.namespace, n.namespace), strings.Compare(c.owner.name, n.name))
	})
	switch {
	case f == nil && found:
		claims = slices.Delete(claims, i, i+1)
	case found:
		claims[i].front = f
	case f != nil:
		claims = slices.Insert(claims, i, claim{svc, f})
	}
	if len(claims) == 0 {
		delete(t.claims, key)
		t.place(key, nil)
		return
	}
	t.claims[key] = claims
	t.place(key, claims[0].front)
}

// place makes f what the kernel does with key; nil: nothing.
func (t *Table) place(key Key, f *Frontend) {
	old := t.placed[key]
	if old != nil && old.front.equal(f) {
		return
	}
	var next *placed
	if f != nil {
		next = &placed{front: f}
		if old != nil {
			next.cluster, next.local = reuse(old.cluster, f.Cluster), reuse(old.local, f.Local)
		} else {
			next.cluster, next.local = slices.Clone(f.Cluster), slices.Clone(f.Local)
		}
	}
	was, is := elements(key, old), elements(key, next)
	for id, v := range was {
		if now, stays := is[id]; !stays || now != v {
			t.note(id, &v)
		}
	}
	for id := range is {
		if _, there := was[id]; !there {
			t.note(id, nil)
		}
	}
	if next != nil {
		for _, c := range next.front.chain(key).all() {
			t.refer(c, +1)
		}
		for _, a := range next.front.Hairpin {
			t.count(ID{Set: setHairpin, Addr: a}, +1)
		}
		t.placed[key] = next
	} else {
		delete(t.placed, key)
	}
	if old != nil {
		for _, c := range old.front.chain(key).all() {
			t.refer(c, -1)
		}
		for _, a := range old.front.Hairpin {
			t.count(ID{Set: setHairpin, Addr: a}, -1)
		}
	}
}

// note remembers an element's value from before the first change since Take.
func (t *Table) note(id ID, before *Value) {
	if _, noted := t.elements[id]; !noted {
		t.elements[id] = before
	}
}

// count adds n to the need for a shared element.
func (t *Table) count(id ID, n int) {
	if t.counted[id] == 0 {
		t.note(id, nil)
	} else {
		t.note(id, &Value{})
	}
	if t.counted[id] += n; t.counted[id] == 0 {
		delete(t.counted, id)
	}
}

func (t *Table) refer(c Chain, n int) {
	if _, noted := t.touched[c]; !noted {
		t.touched[c] = t.chains[c] > 0
	}
	if t.chains[c] += n; t.chains[c] == 0 {
		delete(t.chains, c)
	}
}

// value is an element's present value.
func (t *Table) value(id ID) (Value, bool) {
	switch id.Set {
	case setHairpin, setClusterIPs:
		return Value{}, t.counted[id] > 0
	}
	p := t.placed[id.Key]
	if p == nil {
		return Value{}, false
	}
	switch id.Set {
	case setServices:
		return Value{Chain: p.front.chain(id.Key)}, true
	case setEndpoints:
		list, i := p.cluster, id.Index
		if i >= localBase {
			list, i = p.local, i-localBase
		}
		if int(i) >= len(list) {
			return Value{}, false
		}
		return Value{Endpoint: list[i]}, true
	case setLive:
		return Value{}, p.front.Affinity > 0 && (contains(p.front.Cluster, id.Endpoint) || contains(p.front.Local, id.Endpoint))
	case setFirewalled:
		return Value{}, p.front.Sources != nil
	case setAllowed:
		return Value{}, slices.Contains(p.front.Sources, id.Source)
	}
	return Value{}, false
}

// Take returns what changed since it was last called.
func (t *Table) Take() *Changes {
	c := &Changes{Remove: map[ID]Value{}, Add: map[ID]Value{}}
	for id, before := range t.elements {
		now, there := t.value(id)
		if before != nil && there && *before == now {
			continue
		}
		if before != nil {
			c.Remove[id] = *before
		}
		if there {
			c.Add[id] = now
		}
	}
	for ch, was := range t.touched {
		switch is := t.chains[ch] > 0; {
		case is && !was:
			c.NewChains = append(c.NewChains, ch)
		case was && !is:
			c.OldChains = append(c.OldChains, ch)
		}
	}
	// Chains that others go to come first and leave last.
	slices.SortFunc(c.NewChains, Chain.compare)
	slices.SortFunc(c.OldChains, func(a, b Chain) int { return b.compare(a) })
	t.reset()
	return c
}

// All returns what an empty table lacks; changes noted so far count as taken.
func (t *Table) All() *Changes {
	c := &Changes{Remove: map[ID]Value{}, Add: map[ID]Value{}}
	for key, p := range t.placed {
		maps.Copy(c.Add, elements(key, p))
	}
	for id := range t.counted {
		c.Add[id] = Value{}
	}
	c.NewChains = slices.SortedFunc(maps.Keys(t.chains), Chain.compare)
	t.reset()
	return c
}

// reuse gives the endpoints in next indexes such that few change: who stays keeps his, newcomers and then the last ones fill the gaps.
func reuse(old, next []netip.AddrPort) []netip.AddrPort {
	stay := make(map[netip.AddrPort]bool, len(next))
	for _, e := range next {
		stay[e] = false
	}
	out := make([]netip.AddrPort, len(next))
	var moved []netip.AddrPort
	for i, e := range old {
		if _, ok := stay[e]; !ok {
			continue
		}
		stay[e] = true
		if i < len(out) {
			out[i] = e
		} else {
			moved = append(moved, e)
		}
	}
	for _, e := range next {
		if !stay[e] {
			moved = append(moved, e)
		}
	}
	for i := range out {
		if !out[i].IsValid() {
			out[i], moved = moved[0], moved[1:]
		}
	}
	return out
}

// elements are a placed frontend's elements; none for nil. Hairpin elements are shared and counted elsewhere.
func elements(key Key, p *placed) map[ID]Value {
	if p == nil {
		return nil
	}
	m := make(map[ID]Value, 1+len(p.cluster)+len(p.local))
	m[ID{Set: setServices, Key: key}] = Value{Chain: p.front.chain(key)}
	list := func(base uint32, eps []netip.AddrPort) {
		for i, e := range eps {
			m[ID{Set: setEndpoints, Key: key, Index: base + uint32(i)}] = Value{Endpoint: e}
			if p.front.Affinity > 0 {
				m[ID{Set: setLive, Key: key, Endpoint: e}] = Value{}
			}
		}
	}
	list(0, p.cluster)
	list(localBase, p.local)
	if p.front.Sources != nil {
		m[ID{Set: setFirewalled, Key: key}] = Value{}
		for _, s := range p.front.Sources {
			m[ID{Set: setAllowed, Key: key, Source: s}] = Value{}
		}
	}
	return m
}

// Chain describes one of the chains that Services share. Comparable; its String is its name in the kernel.
type Chain struct {
	kind    chainKind
	ipv6    bool
	node    bool // the key's address is the unspecified one
	n       int  // endpoints to choose from (cluster-wide, for edge)
	local   int  // edge: how many of them for traffic from outside
	atLocal bool // pick: from the Local list
	masq    bool
	sticky  time.Duration
}

type chainKind uint8

const (
	chainPick   chainKind = iota + 1 // one of n endpoints
	chainEdge                        // Cluster or Local list, by where the packet comes from
	chainReject                      // no endpoints
	chainDrop                        // none that may be used
)

// chain is where packets for the frontend's key go.
func (f *Frontend) chain(key Key) Chain {
	switch {
	case f.Edge:
		return Chain{kind: chainEdge, ipv6: key.Addr.Is6(), node: key.node(), n: len(f.Cluster), local: len(f.Local), sticky: f.Affinity}
	case len(f.Cluster) > 0:
		return Chain{kind: chainPick, ipv6: key.Addr.Is6(), node: key.node(), n: len(f.Cluster), masq: f.Masq, sticky: f.Affinity}
	case f.Drop:
		return Chain{kind: chainDrop}
	}
	return Chain{kind: chainReject}
}

// all is the chain and those it goes to.
func (c Chain) all() []Chain {
	if c.kind != chainEdge {
		return []Chain{c}
	}
	out := []Chain{c}
	if c.n > 0 {
		out = append(out, c.clusterPick())
	}
	if c.local > 0 {
		out = append(out, c.localPick())
	}
	return out
}

func (c Chain) clusterPick() Chain {
	return Chain{kind: chainPick, ipv6: c.ipv6, node: c.node, n: c.n, sticky: c.sticky}
}

func (c Chain) localPick() Chain {
	return Chain{kind: chainPick, ipv6: c.ipv6, node: c.node, n: c.local, atLocal: true, sticky: c.sticky}
}

func (c Chain) String() string {
	switch c.kind {
	case chainReject:
		return "reject"
	case chainDrop:
		return "drop"
	}
	s := "vip"
	if c.node {
		s = "node"
	}
	if c.ipv6 {
		s += "6"
	}
	if c.kind == chainEdge {
		s += fmt.Sprintf("-edge-%d", c.local)
	}
	if c.atLocal {
		s += "-local"
	}
	s += fmt.Sprintf("-%d", c.n)
	if c.masq {
		s += "-masq"
	}
	if c.sticky > 0 {
		s += fmt.Sprintf("-sticky%ds", int64(c.sticky/time.Second))
	}
	return s
}

// compare puts chains after those they go to.
func (c Chain) compare(d Chain) int {
	return cmp.Or(before(c.kind != chainEdge, d.kind != chainEdge), strings.Compare(c.String(), d.String()))
}
