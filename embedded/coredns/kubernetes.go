package coredns

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/pkg/fall"
	"github.com/coredns/coredns/plugin/pkg/upstream"
	"github.com/coredns/coredns/request"
	"github.com/miekg/dns"
)

// Source knows the cluster's names. Safe for concurrent use.
type Source interface {
	// Lookup finds what a name has of a type. name is lower-case and ends in a dot, as does zone, its longest match of the directive's zones.
	Lookup(q Query) Answer
}

// Query is one question.
type Query struct {
	Name    string
	Type    uint16
	Zone    string
	Primary string // the first forward zone of the directive: what reverse lookups answer with
	Options Options
}

// Options of a "kubernetes" directive.
type Options struct {
	TTL              uint32 // seconds
	Pods             bool   // 1-2-3-4.namespace.pod.zone is answered from the name alone
	EndpointPodNames bool   // endpoints without hostname are named by their pod
}

// Answer says whether a name exists, and what it has of the type asked for.
type Answer struct {
	Exists  bool
	Records []dns.RR // for the answer section; their owner name is overwritten with the question's unless Alias
	Extra   []dns.RR // addresses of what Records point to
	Alias   string   // the name is another's: an ExternalName, or empty
}

// handler is the directive in a server's chain of plugins.
type handler struct {
	next     plugin.Handler
	source   Source
	zones    []string
	primary  string
	options  Options
	through  fall.F
	upstream *upstream.Upstream
}

const (
	defaultTTL = 5
	maxTTL     = 3600
)

// setup reads a "kubernetes" directive: ZONES... { pods disabled|insecure; ttl N; fallthrough [ZONES...]; endpoint_pod_names }.
func setup(c *caddy.Controller) error {
	h := &handler{source: starting.source, options: Options{TTL: defaultTTL}, upstream: upstream.New()}
	for i := 0; c.Next(); i++ {
		if i > 0 {
			return plugin.Error("kubernetes", plugin.ErrOnce)
		}
		h.zones = plugin.OriginsFromArgsOrServerBlock(c.RemainingArgs(), c.ServerBlockKeys)
		for c.NextBlock() {
			if err := h.option(c); err != nil {
				return plugin.Error("kubernetes", err)
			}
		}
	}
	for _, z := range h.zones {
		if !isReverse(z) {
			h.primary = z
			break
		}
	}
	if h.primary == "" {
		return plugin.Error("kubernetes", fmt.Errorf("no forward zone among %v", h.zones))
	}
	dnsserver.GetConfig(c).AddPlugin(func(next plugin.Handler) plugin.Handler {
		h.next = next
		return h
	})
	return nil
}

func (h *handler) option(c *caddy.Controller) error {
	args := func() []string { return c.RemainingArgs() }
	switch c.Val() {
	case "pods":
		switch a := args(); {
		case len(a) == 1 && a[0] == "disabled":
			h.options.Pods = false
		case len(a) == 1 && a[0] == "insecure":
			h.options.Pods = true
		case len(a) == 1 && a[0] == "verified":
			return c.Err("pods verified is not supported: it would keep every pod of the cluster in memory on every node")
		default:
			return c.ArgErr()
		}
	case "ttl":
		a := args()
		if len(a) != 1 {
			return c.ArgErr()
		}
		n, err := strconv.Atoi(a[0])
		if err != nil || n < 0 || n > maxTTL {
			return c.Errf("ttl must be in range [0, %d]: %q", maxTTL, a[0])
		}
		h.options.TTL = uint32(n)
	case "fallthrough":
		h.through.SetZonesFromArgs(args())
	case "endpoint_pod_names":
		if len(args()) > 0 {
			return c.ArgErr()
		}
		h.options.EndpointPodNames = true
	default:
		return c.Errf("unknown property %q", c.Val())
	}
	return nil
}

// Name implements plugin.Handler.
func (h *handler) Name() string { return "kubernetes" }

// ServeDNS implements plugin.Handler.
func (h *handler) ServeDNS(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
	state := request.Request{W: w, Req: r}
	name := state.Name()
	zone := plugin.Zones(h.zones).Matches(name)
	if zone == "" {
		return plugin.NextOrFailure(h.Name(), h.next, ctx, w, r)
	}
	a := h.source.Lookup(Query{Name: name, Type: state.QType(), Zone: zone, Primary: h.primary, Options: h.options})
	if !a.Exists && h.through.Through(name) {
		return plugin.NextOrFailure(h.Name(), h.next, ctx, w, r)
	}
	m := new(dns.Msg)
	m.SetReply(r)
	m.Authoritative = true
	m.Extra = a.Extra
	if a.Alias != "" {
		h.alias(ctx, state, m, a.Alias)
	} else {
		for _, rr := range a.Records {
			rr.Header().Name = state.QName() // in the letters in which it was asked for
			m.Answer = append(m.Answer, rr)
		}
		if len(m.Answer) == 0 {
			m.Ns = []dns.RR{soa(zone, h.options.TTL)}
		}
	}
	if !a.Exists {
		m.Rcode = dns.RcodeNameError
	}
	if err := w.WriteMsg(m); err != nil {
		return dns.RcodeServerFailure, err
	}
	return dns.RcodeSuccess, nil
}

// alias answers for an ExternalName: the alias, and what the server itself finds behind it.
func (h *handler) alias(ctx context.Context, state request.Request, m *dns.Msg, target string) {
	m.Answer = []dns.RR{&dns.CNAME{Hdr: dns.RR_Header{Name: state.QName(), Rrtype: dns.TypeCNAME, Class: dns.ClassINET, Ttl: h.options.TTL}, Target: target}}
	if t := state.QType(); t != dns.TypeA && t != dns.TypeAAAA || depth(ctx) >= maxAliases {
		return
	}
	ctx = context.WithValue(ctx, depthKey{}, depth(ctx)+1)
	if behind, err := h.upstream.Lookup(ctx, state, target, state.QType()); err == nil && behind != nil {
		m.Answer = append(m.Answer, behind.Answer...)
	}
}

// maxAliases bounds how many ExternalNames may follow one another: they may form a ring.
const maxAliases = 8

type depthKey struct{}

func depth(ctx context.Context) int {
	n, _ := ctx.Value(depthKey{}).(int)
	return n
}

func soa(zone string, ttl uint32) dns.RR {
	return &dns.SOA{Hdr: dns.RR_Header{Name: zone, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: ttl}, Ns: "ns.dns." + zone, Mbox: "hostmaster." + zone,
		Serial: uint32(time.Now().Unix()), Refresh: 7200, Retry: 1800, Expire: 86400, Minttl: ttl}
}

func isReverse(zone string) bool {
	return strings.HasSuffix(zone, "in-addr.arpa.") || strings.HasSuffix(zone, "ip6.arpa.")
}
