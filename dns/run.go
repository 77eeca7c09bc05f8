package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/google/nftables"
	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/client-go/tools/cache"

	"wherry.dev/wherry/client"
	"wherry.dev/wherry/network/nft"
)

// Config is what the DNS server of a node needs. It works in the network namespace of its process.
type Config struct {
	// Client reads Services and EndpointSlices, through its shared informers. Run does not start the factory. Required.
	Client *client.Set
	// ClusterDNS are the addresses that pods ask, at most one for each family (kubelet's setting of that name). Required.
	ClusterDNS []netip.Addr
	// ClusterDomain is what the cluster's names end in; default "cluster.local".
	ClusterDomain string
	// Upstreams answer for all other names ("address" or "address:port"); nil takes those of the machine's resolv.conf, and
	// an empty list none.
	Upstreams []string
	// ResolvConf is where nil Upstreams are read; default /etc/resolv.conf, or systemd-resolved's own where that names only the local stub.
	ResolvConf string
	// Events hears of a Corefile in the ConfigMap kube-system/coredns that cannot be served; may be nil.
	Events Events
	// Table is the nftables table (family inet) that keeps queries out of conntrack; default DefaultTable.
	Table string
	// Progress hears how far DNS has come; may be nil.
	Progress Progress
	// Log defaults to slog.Default().
	Log *slog.Logger
	// Ready is called once, when names are answered; may be nil.
	Ready func()
}

// Progress hears the highest EndpointSlice resourceVersion that answers are made from, in ascending order. It must not block.
type Progress interface {
	Reached(revision uint64, leaving bool)
}

// DefaultTable is the nftables table of a Config that names none.
const DefaultTable = "wherry-dns"

const port = 53

func (c *Config) setDefaults() {
	if c.ClusterDomain == "" {
		c.ClusterDomain = "cluster.local"
	}
	c.ClusterDomain = strings.TrimSuffix(c.ClusterDomain, ".")
	if c.Table == "" {
		c.Table = DefaultTable
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
}

// Run answers names until ctx ends. The addresses and the table stay, so that queries during a restart fail at once in place of leaving the node;
// Cleanup removes them.
func Run(ctx context.Context, c Config) error {
	c.setDefaults()
	if len(c.ClusterDNS) == 0 {
		return errors.New("run DNS: no address to answer at")
	}
	services := c.Client.Informers.Core().V1().Services().Informer()
	slices := c.Client.Informers.Discovery().V1().EndpointSlices().Informer()
	if err := addIndexes(services, slices); err != nil {
		return fmt.Errorf("index services and endpoints: %w", err)
	}
	if !cache.WaitFor(ctx, "", services.HasSyncedChecker(), slices.HasSyncedChecker()) {
		return fmt.Errorf("wait for services and endpoints: %w", ctx.Err())
	}
	if err := listenLocally(c.ClusterDNS); err != nil {
		return err
	}
	if err := untrack(c.Table, c.ClusterDNS); err != nil {
		return err
	}
	f, err := newCorefiles(&c, &names{services: services.GetIndexer(), slices: slices.GetIndexer(), self: c.ClusterDNS})
	if err != nil {
		return fmt.Errorf("watch the Corefile: %w", err)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	watching, stop := context.WithCancel(ctx)
	defer stop()
	wg.Go(func() { f.informer.RunWithContext(watching) })
	if err := f.start(ctx); err != nil {
		return err
	}
	if c.Progress != nil {
		// What the store has by now is answered from now on; whatever comes later is in the store before its handler hears of it.
		listed, _ := strconv.ParseUint(slices.GetStore().LastStoreSyncResourceVersion(), 10, 64)
		p := &progress{to: c.Progress, reached: listed}
		reg, err := slices.AddEventHandler(p)
		if err != nil {
			return errors.Join(fmt.Errorf("listen to endpoints: %w", client.Refused(slices, err)), f.server.Stop(ctx))
		}
		defer func() { _ = slices.RemoveEventHandler(reg) }()
		c.Progress.Reached(listed, false)
	}
	if c.Ready != nil {
		c.Ready()
	}
	for {
		select {
		case <-ctx.Done():
			return f.server.Stop(ctx)
		case <-f.changed:
			f.follow()
		}
	}
}

// progress reports each EndpointSlice event's revision.
type progress struct {
	to      Progress
	mu      sync.Mutex // guards reached; the informer calls from one goroutine, the lock is for a second handler
	reached uint64
}

func (p *progress) event(obj any) {
	if unknown, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = unknown.Obj
	}
	es, ok := obj.(*discoveryv1.EndpointSlice)
	if !ok {
		return
	}
	rv, err := strconv.ParseUint(es.ResourceVersion, 10, 64)
	if err != nil {
		return
	}
	p.mu.Lock()
	higher := rv > p.reached
	p.reached = max(p.reached, rv)
	p.mu.Unlock()
	if higher {
		p.to.Reached(rv, false) // the proxy says what left: it sees the same events
	}
}

// OnAdd, OnUpdate and OnDelete implement cache.ResourceEventHandler.
func (p *progress) OnAdd(obj any, _ bool) { p.event(obj) }
func (p *progress) OnUpdate(_, obj any)   { p.event(obj) }
func (p *progress) OnDelete(obj any)      { p.event(obj) }

// builtIn is the Corefile of a cluster without the ConfigMap: kubeadm's Corefile, less what a server inside a node's process does not need (health, ready, prometheus, reload, loop). The cluster's own names
// are not cached: they come from memory, and a cached one would outlive its endpoint.
func builtIn(domain string, addresses []netip.Addr, upstreams []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, ".:%d {\n\tbind", port)
	for _, a := range addresses {
		fmt.Fprintf(&b, " %s", a)
	}
	fmt.Fprintf(&b, `
	errors
	kubernetes %s in-addr.arpa ip6.arpa {
		pods insecure
		fallthrough in-addr.arpa ip6.arpa
	}
`, domain)
	if len(upstreams) > 0 {
		fmt.Fprintf(&b, `	forward . %s {
		max_concurrent 1000
	}
`, strings.Join(upstreams, " "))
	}
	fmt.Fprintf(&b, `	cache 30 {
		disable success %[1]s
		disable denial %[1]s
	}
	loadbalance
}
`, domain)
	return b.String()
}

func (c *Config) corefile() string {
	upstreams := c.Upstreams
	if upstreams == nil {
		upstreams = machineResolvers(c.ResolvConf, c.ClusterDNS)
		if len(upstreams) == 0 {
			c.Log.Info("the machine names no DNS server; only the cluster's own names are answered")
		}
	}
	return builtIn(c.ClusterDomain, c.ClusterDNS, upstreams)
}

// machineResolvers are the machine's DNS servers, without this server and without a local stub, which would be asked from a place where it
// does not listen or ask back.
func machineResolvers(path string, self []netip.Addr) []string {
	paths := []string{"/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"}
	if path != "" {
		paths = []string{path}
	}
	for _, path := range paths {
		conf, err := dns.ClientConfigFromFile(path)
		if err != nil {
			continue // one that is not there names nobody
		}
		var out []string
		for _, s := range conf.Servers {
			if a, err := netip.ParseAddr(s); err == nil && !slices.Contains(self, a) && !(a.IsLoopback() && path != paths[len(paths)-1]) {
				out = append(out, net.JoinHostPort(s, conf.Port))
			}
		}
		if len(out) > 0 {
			return out[:min(len(out), 15)] // forward takes no more
		}
	}
	return nil
}

// listenLocally puts the addresses on lo, with host scope: no packet that leaves the node ever carries one as its source.
func listenLocally(addrs []netip.Addr) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	for _, a := range addrs {
		err := netlink.AddrAdd(lo, loAddr(a))
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("add DNS address %s to lo: %w", a, err)
		}
	}
	return nil
}

func loAddr(a netip.Addr) *netlink.Addr {
	n := &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}, Scope: unix.RT_SCOPE_HOST}
	if a.Is6() {
		n.Flags = unix.IFA_F_NODAD
		n.PreferedLft, n.ValidLft = 0, 1<<31-1 // deprecated: never chosen as a source
	}
	return n
}

// untrack keeps queries and answers out of conntrack: it would remember each for half a minute, and rewrites nothing.
func untrack(table string, addrs []netip.Addr) error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	t := nft.Table(table)
	c.AddTable(t)
	c.DelTable(t)
	c.AddTable(t)
	pre := c.AddChain(nft.BaseChain(t, "prerouting", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, -300))
	out := c.AddChain(nft.BaseChain(t, "output", nftables.ChainTypeFilter, nftables.ChainHookOutput, -300))
	for _, a := range addrs {
		v6 := a.Is6()
		for _, ch := range []*nftables.Chain{pre, out} {
			for _, proto := range []byte{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
				isProto := nft.Join(nft.Protocol(0), nft.Is(0, []byte{proto}))
				number := []byte{0, port}
				c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: nft.Join(nft.Family(v6), nft.Destination(v6, 0), nft.Is(0, a.AsSlice()),
					isProto, nft.DestinationPort(0), nft.Is(0, number), nft.Untrack())})
				c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: nft.Join(nft.Family(v6), nft.Source(v6, 0), nft.Is(0, a.AsSlice()),
					isProto, nft.SourcePort(0), nft.Is(0, number), nft.Untrack())})
			}
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("keep DNS out of conntrack: %w", err)
	}
	return nil
}

// Cleanup removes what Run leaves behind: the addresses on lo and the nftables table. What is not there is no error.
func Cleanup(table string, addrs []netip.Addr) error {
	if table == "" {
		table = DefaultTable
	}
	errs := []error{nft.DeleteTable(table)}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return errors.Join(append(errs, fmt.Errorf("find lo: %w", err))...)
	}
	for _, a := range addrs {
		if err := netlink.AddrDel(lo, loAddr(a)); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			errs = append(errs, fmt.Errorf("remove DNS address %s from lo: %w", a, err))
		}
	}
	return errors.Join(errs...)
}
