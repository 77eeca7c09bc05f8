package dns

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/client-go/tools/cache"

	"wherry.dev/wherry/client"
	"wherry.dev/wherry/embedded/coredns"
)

// specVersion is the version of the Kubernetes DNS specification, answered at dns-version.<zone>.
const specVersion = "1.1.0"

// The indexes that names adds to the shared informers.
const (
	byService   = "dns.wherry.dev/service"    // EndpointSlices by namespace/service
	byClusterIP = "dns.wherry.dev/cluster-ip" // Services
	byNamed     = "dns.wherry.dev/named"      // EndpointSlices by the addresses of endpoints with a hostname
)

// names finds the cluster's names in the informers' stores. Safe for concurrent use; holds nothing itself.
type names struct {
	services, slices cache.Indexer
	self             []netip.Addr // where this server listens
}

// addIndexes prepares the informers' stores. Parts of one process share them.
func addIndexes(services, slices cache.SharedIndexInformer) error {
	missing := func(i cache.SharedIndexInformer, want cache.Indexers) cache.Indexers {
		have := i.GetIndexer().GetIndexers()
		out := cache.Indexers{}
		for name, f := range want {
			if _, ok := have[name]; !ok {
				out[name] = f
			}
		}
		return out
	}
	if err := services.AddIndexers(missing(services, cache.Indexers{byClusterIP: clusterIPsOf, cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})); err != nil {
		return client.Refused(services, err)
	}
	return client.Refused(slices, slices.AddIndexers(missing(slices, cache.Indexers{byService: serviceKeyOf, byNamed: namedAddressesOf})))
}

func clusterIPsOf(obj any) ([]string, error) {
	svc, ok := obj.(*corev1.Service)
	if !ok || headless(svc) || svc.Spec.Type == corev1.ServiceTypeExternalName {
		return nil, nil
	}
	if len(svc.Spec.ClusterIPs) == 0 && svc.Spec.ClusterIP != "" {
		return []string{svc.Spec.ClusterIP}, nil
	}
	return svc.Spec.ClusterIPs, nil
}

func serviceKeyOf(obj any) ([]string, error) {
	es, ok := obj.(*discoveryv1.EndpointSlice)
	if !ok || es.Labels[discoveryv1.LabelServiceName] == "" {
		return nil, nil
	}
	return []string{es.Namespace + "/" + es.Labels[discoveryv1.LabelServiceName]}, nil
}

func namedAddressesOf(obj any) ([]string, error) {
	es, ok := obj.(*discoveryv1.EndpointSlice)
	if !ok || es.Labels[discoveryv1.LabelServiceName] == "" {
		return nil, nil
	}
	var out []string
	for i := range es.Endpoints {
		if e := &es.Endpoints[i]; e.Hostname != nil && *e.Hostname != "" {
			out = append(out, e.Addresses...)
		}
	}
	return out, nil
}

func headless(svc *corev1.Service) bool {
	return svc.Spec.Type != corev1.ServiceTypeExternalName && (svc.Spec.ClusterIP == corev1.ClusterIPNone || svc.Spec.ClusterIP == "")
}

// nameError is the answer for what does not exist.
var nameError = coredns.Answer{}

// Lookup implements coredns.Source.
func (n *names) Lookup(q coredns.Query) coredns.Answer {
	if a, ok := reverseAddress(q.Name); ok {
		return n.reverse(q, a)
	}
	if isReverse(q.Zone) {
		return nameError
	}
	base := strings.TrimSuffix(strings.TrimSuffix(q.Name, q.Zone), ".")
	if base == "" {
		return n.apex(q)
	}
	labels := strings.Split(base, ".")
	last := len(labels) - 1
	switch kind := labels[last]; {
	case base == "dns-version":
		return typed(q, dns.TypeTXT, &dns.TXT{Hdr: header(q, dns.TypeTXT), Txt: []string{specVersion}})
	case base == "ns.dns":
		return n.addresses(q, n.self)
	case base == "dns":
		return coredns.Answer{Exists: true}
	case kind != "svc" && kind != "pod":
		return nameError
	case last == 0:
		return coredns.Answer{Exists: true} // there are names below
	case kind == "pod":
		return pod(q, labels[:last])
	}
	return n.service(q, labels[:last])
}

// apex answers for the zone itself.
func (n *names) apex(q coredns.Query) coredns.Answer {
	ns := "ns.dns." + q.Zone
	a := coredns.Answer{Exists: true}
	switch q.Type {
	case dns.TypeNS:
		a.Records = []dns.RR{&dns.NS{Hdr: header(q, dns.TypeNS), Ns: ns}}
		for _, ip := range n.self {
			a.Extra = append(a.Extra, address(ns, q.Options.TTL, ip))
		}
	case dns.TypeSOA:
		a.Records = []dns.RR{&dns.SOA{Hdr: header(q, dns.TypeSOA), Ns: ns, Mbox: "hostmaster." + q.Zone, Serial: 1,
			Refresh: 7200, Retry: 1800, Expire: 86400, Minttl: q.Options.TTL}}
	}
	return a
}

// pod answers 1-2-3-4.namespace.pod.zone from the name alone (specification 2.3 is deprecated; CoreDNS' mode "insecure").
func pod(q coredns.Query, labels []string) coredns.Answer {
	if !q.Options.Pods || len(labels) > 2 {
		return nameError
	}
	if len(labels) == 1 {
		return coredns.Answer{Exists: true}
	}
	text := labels[0]
	if strings.Count(text, "-") == 3 && !strings.Contains(text, "--") {
		text = strings.ReplaceAll(text, "-", ".")
	} else {
		text = strings.ReplaceAll(text, "-", ":")
	}
	ip, err := netip.ParseAddr(text)
	if err != nil || ip.Zone() != "" {
		return nameError
	}
	return (&names{}).addresses(q, []netip.Addr{ip})
}

// target is one address and port behind a Service's name.
type target struct {
	ip   netip.Addr
	port uint16
	host string // its own name below the Service's, for endpoints
}

// service answers [[_port._proto.|endpoint.]service.]namespace.svc.zone; labels are those before "svc".
func (n *names) service(q coredns.Query, labels []string) coredns.Answer {
	namespace := labels[len(labels)-1]
	if len(labels) == 1 {
		// The namespace's name exists while there are names below it.
		in, err := n.services.IndexKeys(cache.NamespaceIndex, namespace)
		return coredns.Answer{Exists: err == nil && len(in) > 0}
	}
	name := labels[len(labels)-2]
	obj, ok, err := n.services.GetByKey(namespace + "/" + name)
	svc, isService := obj.(*corev1.Service)
	if err != nil || !ok || !isService {
		return nameError
	}
	var port, proto, endpoint string
	switch len(labels) {
	case 2:
	case 3:
		endpoint = labels[0]
	case 4:
		var ok1, ok2 bool
		port, ok1 = strings.CutPrefix(labels[0], "_")
		proto, ok2 = strings.CutPrefix(labels[1], "_")
		if !ok1 || !ok2 {
			return nameError
		}
	default:
		return nameError
	}
	if svc.Spec.Type == corev1.ServiceTypeExternalName {
		return externalName(q, svc, len(labels))
	}
	owner := name + "." + namespace + ".svc." + q.Zone
	var found []target
	if headless(svc) || endpoint != "" {
		found = n.endpoints(namespace+"/"+name, endpoint, port, proto, q.Options.EndpointPodNames)
	} else {
		for i := range svc.Spec.Ports {
			p := &svc.Spec.Ports[i]
			if !matches(port, proto, p.Name, string(p.Protocol)) {
				continue
			}
			for _, text := range clusterIPs(svc) {
				if ip, err := netip.ParseAddr(text); err == nil {
					found = append(found, target{ip: ip, port: uint16(p.Port)})
				}
			}
		}
	}
	if len(found) == 0 {
		return nameError
	}
	switch q.Type {
	case dns.TypeA, dns.TypeAAAA:
		var ips []netip.Addr
		for _, t := range found {
			ips = append(ips, t.ip)
		}
		return n.addresses(q, ips)
	case dns.TypeSRV:
		return srv(q, owner, found)
	}
	return coredns.Answer{Exists: true}
}

func clusterIPs(svc *corev1.Service) []string {
	if len(svc.Spec.ClusterIPs) > 0 {
		return svc.Spec.ClusterIPs
	}
	return []string{svc.Spec.ClusterIP}
}

// externalName answers for a name that is another's (specification 2.5).
func externalName(q coredns.Query, svc *corev1.Service, labels int) coredns.Answer {
	if labels > 2 {
		return nameError
	}
	if q.Type != dns.TypeA && q.Type != dns.TypeAAAA && q.Type != dns.TypeCNAME {
		return coredns.Answer{Exists: true}
	}
	return coredns.Answer{Exists: true, Alias: dns.Fqdn(strings.ToLower(svc.Spec.ExternalName))}
}

// endpoints are the ready ones of a Service, in all or only with that name, port and protocol.
func (n *names) endpoints(service, endpoint, port, proto string, podNames bool) []target {
	objs, err := n.slices.ByIndex(byService, service)
	if err != nil {
		return nil // the index is always there
	}
	var out []target
	for _, obj := range objs {
		es, ok := obj.(*discoveryv1.EndpointSlice)
		if !ok || es.AddressType == discoveryv1.AddressTypeFQDN {
			continue
		}
		for i := range es.Endpoints {
			e := &es.Endpoints[i]
			if e.Conditions.Ready != nil && !*e.Conditions.Ready {
				continue
			}
			for _, text := range e.Addresses {
				ip, err := netip.ParseAddr(text)
				host := endpointName(e, text, podNames)
				if err != nil || endpoint != "" && endpoint != host {
					continue
				}
				if len(es.Ports) == 0 && port == "" { // a Service without ports has addresses all the same
					out = append(out, target{ip: ip, host: host})
				}
				for j := range es.Ports {
					p := &es.Ports[j]
					if matches(port, proto, str(p.Name), str((*string)(p.Protocol))) {
						t := target{ip: ip, host: host}
						if p.Port != nil {
							t.port = uint16(*p.Port)
						}
						out = append(out, t)
					}
				}
			}
		}
	}
	return out
}

// endpointName is an endpoint's label below its Service: its hostname, its pod's name where asked for, or its address.
func endpointName(e *discoveryv1.Endpoint, address string, podNames bool) string {
	switch {
	case e.Hostname != nil && *e.Hostname != "":
		return *e.Hostname
	case podNames && e.TargetRef != nil && e.TargetRef.Kind == "Pod" && len(e.TargetRef.Name) <= 63:
		return e.TargetRef.Name
	case strings.Contains(address, ":"):
		return strings.ReplaceAll(address, ":", "-")
	}
	return strings.ReplaceAll(address, ".", "-")
}

// matches compares a port with the name and protocol asked for; empty ones match all.
func matches(port, proto, name, protocol string) bool {
	if protocol == "" {
		protocol = string(corev1.ProtocolTCP)
	}
	return (port == "" || strings.EqualFold(port, name)) && (proto == "" || strings.EqualFold(proto, protocol))
}

// srv answers with ports and names, and with the names' addresses (specification 2.2.2, 2.4.2).
func srv(q coredns.Query, owner string, found []target) coredns.Answer {
	a := coredns.Answer{Exists: true}
	type service struct {
		host string
		port uint16
	}
	seen, extra := map[service]bool{}, map[target]bool{}
	var list []service
	for _, t := range found {
		host := owner
		if t.host != "" {
			host = t.host + "." + owner
		}
		if s := (service{host, t.port}); t.port != 0 && !seen[s] {
			seen[s] = true
			list = append(list, s)
		}
		if x := (target{ip: t.ip, host: host}); t.port != 0 && !extra[x] {
			extra[x] = true
			a.Extra = append(a.Extra, address(host, q.Options.TTL, t.ip))
		}
	}
	for _, s := range list {
		a.Records = append(a.Records, &dns.SRV{Hdr: header(q, dns.TypeSRV), Priority: 0, Weight: uint16(max(1, 100/len(list))), Port: s.port, Target: s.host})
	}
	return a
}

// reverse answers for an address (specification 2.2.3, 2.4.3).
func (n *names) reverse(q coredns.Query, ip netip.Addr) coredns.Answer {
	var hosts []string
	if objs, err := n.services.ByIndex(byClusterIP, ip.String()); err == nil {
		for _, obj := range objs {
			if svc, ok := obj.(*corev1.Service); ok {
				hosts = append(hosts, svc.Name+"."+svc.Namespace+".svc."+q.Primary)
			}
		}
	}
	if len(hosts) == 0 {
		objs, err := n.slices.ByIndex(byNamed, ip.String())
		for _, obj := range objs {
			es, ok := obj.(*discoveryv1.EndpointSlice)
			if err != nil || !ok {
				continue
			}
			for i := range es.Endpoints {
				if e := &es.Endpoints[i]; str(e.Hostname) != "" && slices.Contains(e.Addresses, ip.String()) && (e.Conditions.Ready == nil || *e.Conditions.Ready) {
					hosts = append(hosts, *e.Hostname+"."+es.Labels[discoveryv1.LabelServiceName]+"."+es.Namespace+".svc."+q.Primary)
				}
			}
		}
	}
	if len(hosts) == 0 {
		return nameError
	}
	slices.Sort(hosts)
	var records []dns.RR
	for _, host := range slices.Compact(hosts) {
		records = append(records, &dns.PTR{Hdr: header(q, dns.TypePTR), Ptr: host})
	}
	return typed(q, dns.TypePTR, records...)
}

// addresses answers with those of the family asked for, each once.
func (n *names) addresses(q coredns.Query, ips []netip.Addr) coredns.Answer {
	a := coredns.Answer{Exists: true}
	if q.Type != dns.TypeA && q.Type != dns.TypeAAAA {
		return a
	}
	ips = slices.Clone(ips)
	slices.SortFunc(ips, func(x, y netip.Addr) int { return cmp.Or(x.Compare(y)) })
	for _, ip := range slices.Compact(ips) {
		if ip.Is4() == (q.Type == dns.TypeA) {
			a.Records = append(a.Records, address(q.Name, q.Options.TTL, ip))
		}
	}
	return a
}

// typed is the answer for a name that has records of one type only.
func typed(q coredns.Query, t uint16, records ...dns.RR) coredns.Answer {
	if q.Type != t {
		records = nil
	}
	return coredns.Answer{Exists: true, Records: records}
}

func header(q coredns.Query, t uint16) dns.RR_Header {
	return dns.RR_Header{Name: q.Name, Rrtype: t, Class: dns.ClassINET, Ttl: q.Options.TTL}
}

func address(name string, ttl uint32, ip netip.Addr) dns.RR {
	h := dns.RR_Header{Name: name, Class: dns.ClassINET, Ttl: ttl}
	if ip.Is4() {
		h.Rrtype = dns.TypeA
		return &dns.A{Hdr: h, A: ip.AsSlice()}
	}
	h.Rrtype = dns.TypeAAAA
	return &dns.AAAA{Hdr: h, AAAA: ip.AsSlice()}
}

func str(p *string) string {
	if p == nil {
		return ""
	}
	return *p
}

func isReverse(zone string) bool {
	return strings.HasSuffix(zone, "in-addr.arpa.") || strings.HasSuffix(zone, "ip6.arpa.")
}

// reverseAddress reads a whole address from a name below in-addr.arpa or ip6.arpa.
func reverseAddress(name string) (netip.Addr, bool) {
	if base, ok := strings.CutSuffix(name, ".in-addr.arpa."); ok {
		parts := strings.Split(base, ".")
		slices.Reverse(parts)
		a, err := netip.ParseAddr(strings.Join(parts, "."))
		return a, err == nil && a.Is4()
	}
	base, ok := strings.CutSuffix(name, ".ip6.arpa.")
	if !ok || len(base) != 63 {
		return netip.Addr{}, false
	}
	var text strings.Builder
	for i := len(base) - 1; i >= 0; i -= 2 {
		if i < len(base)-1 && base[i+1] != '.' {
			return netip.Addr{}, false
		}
		text.WriteByte(base[i])
		if n := (len(base) - i) / 2; n%4 == 3 && i > 0 {
			text.WriteByte(':')
		}
	}
	a, err := netip.ParseAddr(text.String())
	return a, err == nil && a.Is6()
}
