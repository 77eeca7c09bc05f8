package routes

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/cache"

	"wherry.dev/wherry/client"
)

// Config is what the pod network needs of its node's process.
type Config struct {
	// Client reads Nodes through its shared informers. Run does not start the factory. Required.
	Client *client.Set
	// NodeName is this node's. Required.
	NodeName string
	// Table is the nftables table for masquerading (family inet); default DefaultTable.
	Table string
	// TunnelID is the VXLAN network identifier, the same on all nodes of a cluster; default 87.
	TunnelID int
	// TunnelPort is the UDP port of the tunnel; default 4789 (RFC 7348).
	TunnelPort int
	// Log defaults to slog.Default().
	Log *slog.Logger
	// Ready is called once, when the routes to all nodes known at the start are there; may be nil.
	Ready func()
}

const (
	// DefaultTable is the nftables table of a Config that names none.
	DefaultTable = "wherry-network"
	// Protocol marks Wherry's routes between nodes in the kernel (rtm_protocol).
	Protocol netlink.RouteProtocol = 87

	defaultTunnelID   = 87
	defaultTunnelPort = 4789
	podLinks          = "wy" // how the plugin's host interfaces begin
	retry             = time.Second
)

func (c *Config) setDefaults() {
	if c.Table == "" {
		c.Table = DefaultTable
	}
	if c.TunnelID == 0 {
		c.TunnelID = defaultTunnelID
	}
	if c.TunnelPort == 0 {
		c.TunnelPort = defaultTunnelPort
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
}

// Run keeps the node's pod network as the Nodes want it until ctx ends. What it made stays, so that traffic
// flows while the process restarts; Cleanup removes it.
func Run(ctx context.Context, c Config) error {
	c.setDefaults()
	if err := forwarding(); err != nil {
		return err
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink socket: %w", err)
	}
	defer h.Close()
	k := &kernel{Config: c, netlink: h}

	changed := make(chan struct{}, 1)
	wake := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := watch(ctx, &wg, c.Log, wake); err != nil {
		return err
	}
	informer := c.Client.Informers.Core().V1().Nodes().Informer()
	if !cache.WaitFor(ctx, "", informer.HasSyncedChecker()) {
		return fmt.Errorf("wait for nodes: %w", ctx.Err())
	}
	reg, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { wake() },
		UpdateFunc: func(old, now any) {
			a, ok1 := old.(*corev1.Node)
			b, ok2 := now.(*corev1.Node)
			if ok1 && ok2 && !NodeOf(a).equal(NodeOf(b)) {
				wake()
			}
		},
		DeleteFunc: func(any) { wake() },
	})
	if err != nil {
		return fmt.Errorf("listen to nodes: %w", err)
	}
	defer func() { _ = informer.RemoveEventHandler(reg) }()

	lost, ready := 0, c.Ready
	wake()
	for {
		var again <-chan time.Time
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
		var nodes []Node
		for _, obj := range informer.GetStore().List() {
			if n, ok := obj.(*corev1.Node); ok {
				nodes = append(nodes, NodeOf(n))
			}
		}
		plan := MakePlan(c.NodeName, nodes, k.way)
		// One line when it begins and one when it ends: a rack that comes up would write one for each node.
		switch now := len(plan.Lost); {
		case now > 0 && lost == 0:
			c.Log.Warn("no route to some nodes; their pods are out of reach until there is one", "count", now, "first", plan.Lost[0])
		case now == 0 && lost > 0:
			c.Log.Info("there is a route to every node again")
		}
		lost = len(plan.Lost)
		if err := k.apply(plan); err != nil {
			c.Log.Error("set up the pod network", "err", err, "retry", retry)
			again = time.After(retry)
		} else if ready != nil {
			ready()
			ready = nil
		}
		if again != nil {
			select {
			case <-ctx.Done():
				return nil
			case <-again:
				wake()
			}
		}
	}
}

// forwarding makes a router of the node, as quiet as pods expect one.
func forwarding() error {
	for _, s := range []struct{ path, value string }{
		{"ipv4/ip_forward", "1"},
		{"ipv6/conf/all/forwarding", "1"},
		// Pods' packets may leave where they came in (hairpin); telling the pod of a better way would be wrong.
		{"ipv4/conf/all/send_redirects", "0"},
		{"ipv4/conf/default/send_redirects", "0"},
	} {
		path := "/proc/sys/net/" + s.path
		if old, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(old)) == s.value {
			continue // also where /proc/sys may not be written
		} else if errors.Is(err, os.ErrNotExist) {
			continue // a kernel without IPv6
		}
		if err := os.WriteFile(path, []byte(s.value), 0o644); err != nil {
			return fmt.Errorf("let the node forward: %w", err)
		}
	}
	return nil
}

// watch calls wake for whatever in the kernel may make another round necessary: one of our routes is gone, or a
// link or address changed. Pods' own interfaces are none of it. Its goroutines end with ctx.
func watch(ctx context.Context, wg *sync.WaitGroup, log *slog.Logger, wake func()) error {
	routes := make(chan netlink.RouteUpdate, 64)
	links := make(chan netlink.LinkUpdate, 64)
	addrs := make(chan netlink.AddrUpdate, 64)
	failed := func(err error) {
		if ctx.Err() == nil {
			log.Warn("watch the kernel's routes", "err", err)
			wake()
		}
	}
	if err := netlink.RouteSubscribeWithOptions(routes, ctx.Done(), netlink.RouteSubscribeOptions{ErrorCallback: failed}); err != nil {
		return fmt.Errorf("watch routes: %w", err)
	}
	if err := netlink.LinkSubscribeWithOptions(links, ctx.Done(), netlink.LinkSubscribeOptions{ErrorCallback: failed}); err != nil {
		return fmt.Errorf("watch links: %w", err)
	}
	if err := netlink.AddrSubscribeWithOptions(addrs, ctx.Done(), netlink.AddrSubscribeOptions{ErrorCallback: failed}); err != nil {
		return fmt.Errorf("watch addresses: %w", err)
	}
	// Each channel is drained until its sender closes it, so that none stays blocked.
	wg.Go(func() {
		for u := range routes {
			if u.Type == unix.RTM_DELROUTE && u.Protocol == Protocol {
				wake()
			}
		}
	})
	wg.Go(func() {
		for u := range links {
			if name := u.Link.Attrs().Name; name != "lo" && !strings.HasPrefix(name, podLinks) {
				wake()
			}
		}
	})
	wg.Go(func() {
		for u := range addrs {
			if !u.LinkAddress.IP.IsLoopback() && !ours(u.LinkAddress.IP) {
				wake()
			}
		}
	})
	return nil
}

// ours tells addresses that Wherry itself puts on lo from those that may change the way to a node; a link-local one never does.
func ours(ip []byte) bool {
	a, ok := netip.AddrFromSlice(ip)
	return ok && a.Unmap().IsLinkLocalUnicast()
}
