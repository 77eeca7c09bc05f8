package proxy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// image is what a kernel's table would hold; it refuses what the kernel refuses.
type image struct {
	elements map[ID]Value
	chains   map[Chain]bool
}

func newImage() *image { return &image{map[ID]Value{}, map[Chain]bool{}} }

func (m *image) apply(c *Changes) error {
	for _, ch := range c.NewChains {
		for _, to := range ch.all()[1:] {
			if !m.chains[to] {
				return fmt.Errorf("new chain %s goes to %s, which is not there", ch, to)
			}
		}
		if m.chains[ch] {
			return fmt.Errorf("new chain %s is there already", ch)
		}
		m.chains[ch] = true
	}
	for id, v := range c.Remove {
		if was, ok := m.elements[id]; !ok || was != v {
			return fmt.Errorf("remove %s: is %v, %v", id, was, ok)
		}
		delete(m.elements, id)
	}
	for id, v := range c.Add {
		if _, ok := m.elements[id]; ok {
			return fmt.Errorf("add %s: is there", id)
		}
		if id.Set == setServices && !m.chains[v.Chain] {
			return fmt.Errorf("add %s: no chain %s", id, v.Chain)
		}
		m.elements[id] = v
	}
	for _, ch := range c.OldChains {
		for id, v := range m.elements {
			if id.Set == setServices && v.Chain == ch {
				return fmt.Errorf("old chain %s is used by %s", ch, id)
			}
		}
		for other := range m.chains {
			if other != ch && slices.Contains(other.all()[1:], ch) {
				return fmt.Errorf("old chain %s is used by %s", ch, other)
			}
		}
		delete(m.chains, ch)
	}
	return nil
}

// meaning is the image without the indexes, which depend on history: the endpoints of each key and list, sorted.
func (m *image) meaning() (map[ID]Value, map[string][]string, error) {
	plain := map[ID]Value{}
	lists := map[string][]string{}
	indexes := map[string][]uint32{}
	for id, v := range m.elements {
		if id.Set != setEndpoints {
			plain[id] = v
			continue
		}
		list := fmt.Sprint(id.Key, " ", id.Index/localBase)
		lists[list] = append(lists[list], v.Endpoint.String())
		indexes[list] = append(indexes[list], id.Index%localBase)
	}
	for list, is := range indexes {
		slices.Sort(is)
		slices.Sort(lists[list])
		for i, n := range is {
			if int(n) != i {
				return nil, nil, fmt.Errorf("%s has indexes %v", list, is)
			}
		}
	}
	return plain, lists, nil
}

func genDesired(t *rapid.T, svc int) Desired {
	d := Desired{Frontends: map[Key]*Frontend{}}
	if rapid.IntRange(0, 4).Draw(t, "gone") == 0 {
		return d
	}
	eps := rapid.SliceOfNDistinct(rapid.IntRange(1, 9), 0, 5, rapid.ID).Draw(t, "endpoints")
	slices.Sort(eps)
	var list []netip.AddrPort
	for _, e := range eps {
		list = append(list, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 244, 0, byte(e)}), 80))
	}
	clusterIP := netip.AddrFrom4([4]byte{10, 96, 0, byte(svc)})
	d.ClusterIPs = []netip.Addr{clusterIP}
	f := Frontend{Owner: fmt.Sprint(svc), Cluster: list, Drop: rapid.Bool().Draw(t, "drop")}
	if rapid.Bool().Draw(t, "sticky") {
		f.Affinity = time.Minute
	}
	if len(list) > 0 && rapid.Bool().Draw(t, "hairpin") {
		f.Hairpin = []netip.Addr{list[0].Addr()}
	}
	d.Frontends[Key{clusterIP, 6, 80}] = &f
	if rapid.Bool().Draw(t, "external") { // addresses that several Services want
		g := f
		g.Masq = rapid.Bool().Draw(t, "masq")
		if g.Edge = !g.Masq && len(list) > 0; g.Edge {
			g.Local = list[:rapid.IntRange(0, len(list)).Draw(t, "local")]
		}
		if rapid.Bool().Draw(t, "sources") {
			g.Sources = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
		}
		d.Frontends[Key{netip.AddrFrom4([4]byte{192, 0, 2, byte(rapid.IntRange(1, 2).Draw(t, "address"))}), 6, 80}] = &g
		d.Frontends[Key{netip.IPv4Unspecified(), 6, uint16(rapid.IntRange(30000, 30001).Draw(t, "node port"))}] = &g
	}
	return d
}

// Whatever the order and the grouping of events: every batch fits the kernel's state, and the end is the same as if everything
// had been there from the start.
func TestChangesEqualScratch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		table, kernel := NewTable(), newImage()
		last := map[name]Desired{}
		for range rapid.IntRange(1, 12).Draw(t, "batches") {
			for range rapid.IntRange(0, 5).Draw(t, "events") {
				svc := rapid.IntRange(1, 4).Draw(t, "service")
				n := name{"ns", fmt.Sprint("s", svc)}
				d := genDesired(t, svc)
				last[n] = d
				table.Set(n, d)
			}
			c := table.Take()
			if err := kernel.apply(c); err != nil {
				t.Fatalf("%v\nof\n%s", err, c)
			}
			if c := table.Take(); !c.Empty() {
				t.Fatalf("changes without a cause:\n%s", c)
			}
		}
		scratch, fresh := NewTable(), newImage()
		for _, n := range slices.SortedFunc(maps.Keys(last), func(a, b name) int { return slices.Compare([]string{b.name}, []string{a.name}) }) {
			scratch.Set(n, last[n])
		}
		if err := fresh.apply(scratch.All()); err != nil {
			t.Fatal(err)
		}
		reloaded := newImage()
		if err := reloaded.apply(table.All()); err != nil {
			t.Fatal(err)
		}
		wantPlain, wantLists, err := fresh.meaning()
		if err != nil {
			t.Fatal(err)
		}
		for what, m := range map[string]*image{"changes": kernel, "reload": reloaded} {
			plain, lists, err := m.meaning()
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			if !maps.Equal(plain, wantPlain) || !maps.EqualFunc(lists, wantLists, slices.Equal) || !maps.Equal(m.chains, fresh.chains) {
				t.Fatalf("%s lead to\n%v\n%v\n%v\nnot\n%v\n%v\n%v", what, plain, lists, m.chains, wantPlain, wantLists, fresh.chains)
			}
		}
	})
}

// An endpoint that leaves a large Service costs a handful of elements.
func TestLeavingEndpointChangesLittle(t *testing.T) {
	table := NewTable()
	n := name{"ns", "large"}
	d, key := service(5000)
	table.Set(n, d)
	table.Take()
	f := *d.Frontends[key]
	f.Cluster = slices.Delete(slices.Clone(f.Cluster), 17, 18)
	table.Set(n, Desired{Frontends: map[Key]*Frontend{key: &f}, ClusterIPs: d.ClusterIPs})
	c := table.Take()
	if len(c.Add)+len(c.Remove) > 5 || len(c.NewChains) != 1 || len(c.OldChains) != 1 {
		t.Errorf("changes:\n%s", c)
	}
}

// service is a Service with n endpoints.
func service(n int) (Desired, Key) {
	ip := netip.MustParseAddr("10.96.0.1")
	key := Key{ip, 6, 80}
	f := &Frontend{Owner: "ns/large"}
	for i := range n {
		f.Cluster = append(f.Cluster, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 244, byte(i >> 8), byte(i)}), 80))
	}
	return Desired{Frontends: map[Key]*Frontend{key: f}, ClusterIPs: []netip.Addr{ip}}, key
}

// many is the i-th of many Services with two endpoints, of which the last byte can be varied.
func many(i, variant int) (name, Desired) {
	ip := netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)})
	f := &Frontend{Owner: fmt.Sprint("ns/s", i)}
	for e := range 2 {
		f.Cluster = append(f.Cluster, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(128 + e), byte(i >> 8), byte(i + variant*e)}), 8080))
	}
	return name{"ns", fmt.Sprint("s", i)}, Desired{Frontends: map[Key]*Frontend{{ip, 6, 80}: f}, ClusterIPs: []netip.Addr{ip}}
}
