package proxy

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"
)

// Hints are followed only when every ready endpoint has them and one is for here.
func TestNearest(t *testing.T) {
	ep := func(last byte, ready bool, zones, nodes string) Endpoint {
		return Endpoint{Addr: netip.AddrFrom4([4]byte{10, 0, 0, last}), Ready: ready, Zones: strings.Fields(zones), Nodes: strings.Fields(nodes)}
	}
	for what, c := range map[string]struct {
		eps  []Endpoint
		zone string
		want string
	}{
		"no hints":                 {[]Endpoint{ep(1, true, "", ""), ep(2, true, "", "")}, "z1", "1 2"},
		"this zone":                {[]Endpoint{ep(1, true, "z1", ""), ep(2, true, "z2", ""), ep(3, true, "z1 z2", "")}, "z1", "1 3"},
		"one without":              {[]Endpoint{ep(1, true, "z1", ""), ep(2, true, "", "")}, "z1", "1 2"},
		"one without, not ready":   {[]Endpoint{ep(1, true, "z1", ""), ep(2, false, "", "")}, "z1", "1"},
		"none for this zone":       {[]Endpoint{ep(1, true, "z2", ""), ep(2, true, "z3", "")}, "z1", "1 2"},
		"zone unknown":             {[]Endpoint{ep(1, true, "z1", ""), ep(2, true, "z2", "")}, "", "1 2"},
		"this node":                {[]Endpoint{ep(1, true, "z1", "n1"), ep(2, true, "z1", "n2")}, "z1", "1"},
		"none for this node":       {[]Endpoint{ep(1, true, "z1", "n3"), ep(2, true, "z2", "n2")}, "z1", "1"},
		"node hints not on all":    {[]Endpoint{ep(1, true, "z1", "n1"), ep(2, true, "z1", "")}, "z1", "1 2"},
		"only one that is leaving": {[]Endpoint{ep(1, false, "z1", "")}, "z1", "1"},
	} {
		var got []string
		for _, e := range nearest(c.eps, Place{Node: "n1", Zone: c.zone}) {
			got = append(got, e.Addr.String()[len("10.0.0."):])
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("%s: %s, want %s", what, s, c.want)
		}
	}
}

// Whatever the slices say: an endpoint that is not ready is used only when none is, one that no longer serves never, and
// the kernel's limits hold.
func TestFrontendsProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		flag := rapid.SampledFrom([]*bool{nil, ptr(true), ptr(false)})
		slicesOf := map[string]*discoveryv1.EndpointSlice{}
		for _, s := range rapid.SliceOfN(rapid.SampledFrom([]string{"s1", "s2", "s3"}), 0, 3).Draw(t, "slices") {
			es := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Name: s}, AddressType: discoveryv1.AddressTypeIPv4,
				Ports: []discoveryv1.EndpointPort{{Name: ptr("p"), Port: ptr(int32(80)), Protocol: ptr(corev1.ProtocolTCP)}, {Name: ptr("none")}}}
			for range rapid.IntRange(0, 4).Draw(t, "endpoints") {
				es.Endpoints = append(es.Endpoints, discoveryv1.Endpoint{
					Addresses:  []string{rapid.SampledFrom([]string{"10.0.0.1", "10.0.0.2", "10.0.0.3", "bad"}).Draw(t, "address")},
					NodeName:   rapid.SampledFrom([]*string{nil, ptr("n1"), ptr("n2")}).Draw(t, "node"),
					Conditions: discoveryv1.EndpointConditions{Ready: flag.Draw(t, "ready"), Serving: flag.Draw(t, "serving"), Terminating: flag.Draw(t, "terminating")}})
			}
			slicesOf[s] = es
		}
		eps := Endpoints(slicesOf)
		svc := &corev1.Service{Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, ClusterIP: "10.96.0.1",
			Ports: []corev1.ServicePort{{Name: "p", Port: 80, NodePort: 30080}}}}
		if rapid.Bool().Draw(t, "external local") {
			svc.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		}
		if rapid.Bool().Draw(t, "internal local") {
			svc.Spec.InternalTrafficPolicy = ptr(corev1.ServiceInternalTrafficPolicyLocal)
		}
		by := map[netip.AddrPort]Endpoint{}
		for _, e := range eps {
			ap := netip.AddrPortFrom(e.Addr, e.Port)
			if _, twice := by[ap]; twice {
				t.Fatalf("%s twice in %v", ap, eps)
			}
			by[ap] = e
		}
		d := Frontends(svc, eps, Place{Node: "n1"})
		if len(d.Frontends) != 2 {
			t.Fatalf("frontends %v", d.Frontends)
		}
		check := func(key Key, list []netip.AddrPort, among []Endpoint) {
			if !slices.IsSortedFunc(list, netip.AddrPort.Compare) {
				t.Fatalf("%s: %v is not sorted", key, list)
			}
			ready := slices.ContainsFunc(among, func(e Endpoint) bool { return e.Ready })
			for _, ap := range list {
				e, ok := by[ap]
				if !ok || ready && !e.Ready || !e.Ready && !(e.Serving && e.Leaving) {
					t.Fatalf("%s uses %s: %+v of %+v", key, ap, e, among)
				}
			}
			if ready && len(list) == 0 {
				t.Fatalf("%s uses none of %+v", key, among)
			}
		}
		for key, f := range d.Frontends {
			among := eps
			if !key.node() && svc.Spec.InternalTrafficPolicy != nil {
				among = onNode(eps, "n1")
			}
			check(key, f.Cluster, among)
			if f.Edge {
				check(key, f.Local, onNode(eps, "n1"))
			}
			if f.Edge && len(f.Cluster) == 0 {
				t.Fatalf("%s: an edge without endpoints", key)
			}
			if err := newImage().apply(func() *Changes { t := NewTable(); t.Set(name{"a", "b"}, d); return t.All() }()); err != nil {
				t.Fatal(err)
			}
		}
	})
}
