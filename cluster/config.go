// Package cluster is the wiring: which parts run in this process, what each is given, in which order they start, and the
// reverse in which they stop. It decides nothing about pods; that is the parts' work.
package cluster

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"wherry.dev/wherry/kubelet/node"
)

// Node is what a process with a node's parts must know of its machine and of itself.
type Node struct {
	Name       string
	IP         netip.Addr // the address that other nodes reach it by
	DataDir    string     // everything that outlives a reboot
	RunDir     string     // sockets and pid files; at most 30 characters
	CgroupRoot string     // parent of every pod's cgroup, "/" separated, such as "/wherry/default/1"

	// RuntimeEndpoint is the CRI socket of a runtime that is already there; empty for the embedded containerd.
	RuntimeEndpoint string
	// DrainTimeout bounds the wait of D4 for D3; zero switches the wait off.
	DrainTimeout time.Duration
	MaxPods      int
	// EvictionHard are the thresholds below which the node is under pressure, in upstream's notation; empty for upstream's.
	EvictionHard string

	Labels map[string]string
}

// Network is the cluster's addresses; every node must be given the same.
type Network struct {
	PodCIDR       netip.Prefix
	ServiceCIDR   netip.Prefix
	ClusterDNS    netip.Addr
	ClusterDomain string
}

// Server is a control plane with, unless NoNode is set, a node.
type Server struct {
	Name      string // the cluster's
	Node      Node
	Network   Network
	Port      int // of the API, on the node's address and loopback
	NoNode    bool
	Datastore Datastore
	// Disable names parts that somebody else runs: scheduler, controllers, proxy, dns.
	Disable  map[string]bool
	SANs     []string
	Identity Identity
	Limits   Limits
	// Flags are those of the command, their values by name, for whoever may look at /flagz.
	Flags map[string]string
}

// Limits are what the API server does at once and for how long; upstream's flags. Zero: upstream's defaults.
type Limits struct {
	// MaxRequests and MaxMutatingRequests are added up; FlowSchemas and priority levels share the sum out.
	MaxRequests, MaxMutatingRequests int
	// RequestTimeout bounds requests other than watches and streams; MinRequestTimeout is the shortest life of a watch that names none.
	RequestTimeout, MinRequestTimeout time.Duration
}

// DefaultLimits are upstream's.
var DefaultLimits = Limits{MaxRequests: 400, MaxMutatingRequests: 200, RequestTimeout: time.Minute, MinRequestTimeout: 30 * time.Minute}

// Agent is a node that joins.
type Agent struct {
	Node   Node
	Server string // URL of the API
	Token  string // bootstrap token, id.secret
	CAHash string // sha256:... of the cluster CA's public key, as kubeadm writes it
}

// Default addresses, those that Kubernetes users know from kubeadm.
var (
	DefaultNetwork = Network{
		PodCIDR:       netip.MustParsePrefix("10.244.0.0/16"),
		ServiceCIDR:   netip.MustParsePrefix("10.96.0.0/16"),
		ClusterDNS:    netip.MustParseAddr("10.96.0.10"),
		ClusterDomain: "cluster.local",
	}
	DefaultDrainTimeout = 2 * time.Second
)

const (
	// DefaultPort is the API's.
	DefaultPort = 6443
	// DefaultMaxPods is upstream's.
	DefaultMaxPods = 110
)

// PKIDir is where a server keeps its keys.
func (n Node) PKIDir() string { return filepath.Join(n.DataDir, "pki") }

// EtcdDir is the embedded etcd's data.
func (n Node) EtcdDir() string { return filepath.Join(n.DataDir, "etcd") }

// KubeletDir is the kubelet's root.
func (n Node) KubeletDir() string { return filepath.Join(n.DataDir, "kubelet") }

// BinDir is where the embedded programs are unpacked.
func (n Node) BinDir() string { return filepath.Join(n.DataDir, "bin") }

// AdminKubeconfig is the administrator's credential that a server writes.
func (n Node) AdminKubeconfig() string { return filepath.Join(n.DataDir, "admin.kubeconfig") }

// TokenFile holds the join token that a server makes at its first start.
func (n Node) TokenFile() string { return filepath.Join(n.DataDir, "join-token") }

// Check explains what is wrong with the settings.
func (n Node) Check() error {
	switch {
	case n.Name == "" || n.Name != strings.ToLower(n.Name):
		return fmt.Errorf("node name %q: use lower-case letters, digits, dashes and dots", n.Name)
	case !n.IP.IsValid():
		return fmt.Errorf("node %s: no address: give one with --node-ip", n.Name)
	case !filepath.IsAbs(n.DataDir) || !filepath.IsAbs(n.RunDir):
		return fmt.Errorf("node %s: data and run directories must be absolute paths", n.Name)
	case len(n.RunDir) > 30:
		return fmt.Errorf("node %s: run directory %s has %d characters; sockets below it leave room for 30", n.Name, n.RunDir, len(n.RunDir))
	case os.Getuid() != 0:
		return fmt.Errorf("node %s: a node needs root: run it as root, or with sudo", n.Name)
	}
	if _, err := node.ParseThresholds(n.EvictionHard); err != nil {
		return fmt.Errorf("--eviction-hard: %w", err)
	}
	return nil
}
