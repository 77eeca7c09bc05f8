package nodeipam

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"wherry.dev/wherry/internal/testcluster"
)

// Whatever happens to nodes, whatever a stale cache says of them, and whatever somebody gives by hand: no two overlap.
func TestNoRangeIsGivenTwice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		k := &controller{Config: Config{PodCIDR: netip.MustParsePrefix("10.1.0.0/21"), MaskSize: 24}, given: map[netip.Prefix]string{}}
		truth, cached := map[string]netip.Prefix{}, map[string]netip.Prefix{} // no range: the zero prefix
		nodes := func(of map[string]netip.Prefix) (out []*corev1.Node) {
			for name, p := range of {
				n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
				if p.IsValid() {
					n.Spec.PodCIDR, n.Spec.PodCIDRs = p.String(), []string{p.String()}
				}
				out = append(out, n)
			}
			return out
		}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			name := fmt.Sprint("n", rapid.IntRange(0, 9).Draw(t, "node"))
			have, exists := truth[name]
			switch rapid.IntRange(0, 5).Draw(t, "what") {
			case 0: // made, and seen
				if !exists {
					truth[name], cached[name] = netip.Prefix{}, netip.Prefix{}
				}
			case 1: // removed, and seen: the cache keeps the order of events, so nothing of the node is late
				delete(truth, name)
				delete(cached, name)
			case 2: // by hand, free, seen at once
				p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 1, byte(rapid.IntRange(0, 7).Draw(t, "third")), 0}), rapid.SampledFrom([]int{23, 24, 25}).Draw(t, "bits")).Masked()
				free := exists && !have.IsValid()
				for _, other := range truth {
					free = free && !(other.IsValid() && other.Overlaps(p))
				}
				if free {
					truth[name], cached[name] = p, p
				}
			case 3: // the cache catches up
				for n, p := range truth {
					cached[n] = p
				}
			default:
				if seen, ok := cached[name]; !ok || seen.IsValid() {
					continue
				}
				p, err := k.choose(name, nodes(cached))
				if err != nil {
					used := map[int]bool{}
					for _, o := range truth {
						for i := range 8 {
							if o.IsValid() && o.Overlaps(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 1, byte(i), 0}), 24)) {
								used[i] = true
							}
						}
					}
					for q := range k.given {
						used[int(q.Addr().As4()[2])] = true // promised
					}
					if len(used) < 8 {
						t.Fatalf("%v, and only %v are in use", err, used)
					}
					continue
				}
				k.given[p] = name
				if have.IsValid() {
					if p != have {
						t.Fatalf("node %s has %s and would get %s", name, have, p)
					}
					continue
				}
				for other, o := range truth {
					if o.IsValid() && o.Overlaps(p) {
						t.Fatalf("%s for node %s overlaps %s of node %s", p, name, o, other)
					}
				}
				if rapid.Bool().Draw(t, "written") { // else the patch fails
					truth[name] = p
				}
			}
		}
	})
}

// Against the real server: every node gets a range, the one too many is told why not, and gets the range of one that goes.
func TestExhaustion(t *testing.T) {
	c := testcluster.Start(t)
	c.Run(t, func(ctx context.Context) error {
		return Run(ctx, Config{Client: c.Set, PodCIDR: netip.MustParsePrefix("10.1.0.0/22"), Log: slog.New(slog.DiscardHandler)})
	})
	nodes := c.Kubernetes.CoreV1().Nodes()
	count := func() (out map[string]string) {
		list, err := nodes.List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		out = map[string]string{}
		for _, n := range list.Items {
			if n.Spec.PodCIDR == "" {
				continue
			}
			if out[n.Spec.PodCIDR] != "" {
				t.Fatalf("%s has %s too", n.Name, n.Spec.PodCIDR)
			}
			out[n.Spec.PodCIDR] = n.Name
		}
		return out
	}
	for i := range 5 {
		if _, err := nodes.Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("n", i)}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	testcluster.Until(t, "four of five nodes with ranges", func() bool { return len(count()) == 4 })
	gone := count()["10.1.2.0/24"]
	if err := nodes.Delete(t.Context(), gone, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	testcluster.Until(t, "the freed range given again", func() bool { h := count(); return len(h) == 4 && h["10.1.2.0/24"] != gone })

	k := &controller{Config: Config{PodCIDR: netip.MustParsePrefix("10.1.0.0/24"), MaskSize: 24}, given: map[netip.Prefix]string{}}
	full := []*corev1.Node{{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: corev1.NodeSpec{PodCIDR: "10.1.0.0/24", PodCIDRs: []string{"10.1.0.0/24"}}}}
	if _, err := k.choose("b", full); err == nil || err.Error() != "no range is left in 10.1.0.0/24 for node b: 1 nodes have theirs" {
		t.Error(err)
	}
}
