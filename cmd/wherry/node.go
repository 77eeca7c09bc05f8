package main

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"wherry.dev/wherry/cluster"
)

// addNodeFlags adds the flags that `server` and `agent` share.
func addNodeFlags(cmd *cobra.Command, n *cluster.Node) {
	f := cmd.Flags()
	host, _ := os.Hostname()
	f.StringVar(&n.Name, "node-name", strings.ToLower(host), "the node's name in the cluster")
	f.Var(&addrValue{&n.IP}, "node-ip", "the address that other nodes reach this one by (default: that of the default route)")
	f.StringVar(&n.DataDir, "data-dir", "/var/lib/wherry/node", "what outlives a reboot")
	f.StringVar(&n.RunDir, "run-dir", "/run/wherry/node", "sockets and pid files; at most 30 characters")
	f.StringVar(&n.CgroupRoot, "cgroup-root", "/", "parent of the pods' cgroups")
	f.StringVar(&n.RuntimeEndpoint, "container-runtime-endpoint", "", "CRI socket of a runtime that is there already (default: the embedded containerd)")
	f.DurationVar(&n.DrainTimeout, "drain-timeout", cluster.DefaultDrainTimeout, "how long a deleted pod waits, before it is stopped, for every node to send it no more connections; 0 switches the wait off")
	f.IntVar(&n.MaxPods, "max-pods", cluster.DefaultMaxPods, "pods that the node takes")
	f.StringVar(&n.EvictionHard, "eviction-hard", "", "with less than that free the node takes no more pods (default: upstream's, memory.available<100Mi,nodefs.available<10%,nodefs.inodesFree<5%)")
	f.StringToStringVar(&n.Labels, "node-labels", nil, "labels of the Node object")
}

// completeNode fills in what was left to the machine.
func completeNode(n *cluster.Node) error {
	for _, dir := range []*string{&n.DataDir, &n.RunDir} {
		abs, err := filepath.Abs(*dir)
		if err != nil {
			return fmt.Errorf("%s: %w", *dir, err)
		}
		*dir = abs
	}
	if n.IP.IsValid() {
		return nil
	}
	// No packet is sent: connecting a datagram socket only looks the route up.
	conn, err := net.Dial("udp4", "192.0.2.1:9")
	if err != nil {
		return fmt.Errorf("no default route to take the node's address from: give it with --node-ip")
	}
	defer conn.Close()
	n.IP = conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr()
	return nil
}

type addrValue struct{ to *netip.Addr }

func (a *addrValue) String() string {
	if a.to == nil || !a.to.IsValid() {
		return ""
	}
	return a.to.String()
}
func (a *addrValue) Type() string { return "ip" }
func (a *addrValue) Set(s string) error {
	v, err := netip.ParseAddr(s)
	*a.to = v
	return err
}

type prefixValue struct{ to *netip.Prefix }

func (p *prefixValue) String() string {
	if p.to == nil || !p.to.IsValid() {
		return ""
	}
	return p.to.String()
}
func (p *prefixValue) Type() string { return "cidr" }
func (p *prefixValue) Set(s string) error {
	v, err := netip.ParsePrefix(s)
	*p.to = v.Masked()
	return err
}

// newLogger writes one line an event to standard error, key=value or JSON.
func newLogger(format, level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("log level %q: use debug, info, warn or error", level)
	}
	options := &slog.HandlerOptions{Level: l}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(os.Stderr, options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(os.Stderr, options)), nil
	default:
		return nil, fmt.Errorf("log format %q: use text or json", format)
	}
}

// logFlags are those of long-running commands.
type logFlags struct{ format, level string }

func (l *logFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&l.format, "log-format", "text", "text or json")
	cmd.Flags().StringVar(&l.level, "log-level", "info", "debug, info, warn or error")
}

// start makes the process's logger. Libraries that log by themselves are brought to it.
func (l *logFlags) start() (*slog.Logger, error) {
	log, err := newLogger(l.format, l.level)
	if err != nil {
		return nil, err
	}
	slog.SetDefault(log)
	quietLibraries(log)
	return log, nil
}
