package cluster

import (
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"

	"wherry.dev/wherry/api/version"
	"wherry.dev/wherry/client"
	"wherry.dev/wherry/dns"
	"wherry.dev/wherry/embedded/containerd"
	"wherry.dev/wherry/embedded/images"
	"wherry.dev/wherry/embedded/programs"
	"wherry.dev/wherry/kubelet"
	"wherry.dev/wherry/kubelet/node"
	"wherry.dev/wherry/network/ack"
	"wherry.dev/wherry/network/cni"
	"wherry.dev/wherry/network/routes"
	"wherry.dev/wherry/proxy"
	"wherry.dev/wherry/trace"
)

// nodeRuntime is the runtime of this node: the embedded one, or one that is there already.
type nodeRuntime struct {
	endpoint string
	process  *containerd.Process // nil for a foreign one
	bin      string              // the unpacked programs; empty for a foreign one
	err      error
}

func (n Node) cniConfDir() string { return filepath.Join(n.DataDir, "cni", "net.d") }

// containerdConfig says where the node's own containerd lives.
func (n Node) containerdConfig(bin string) containerd.Config {
	return containerd.Config{
		Root: filepath.Join(n.DataDir, "containerd"), State: filepath.Join(n.RunDir, "c"), BinDir: bin,
		CNIBinDirs: []string{bin, "/opt/cni/bin"}, CNIConfDir: n.cniConfDir(), RegistryDir: filepath.Join(n.DataDir, "registries"),
		SandboxImage: images.Sandbox.Name, LogFile: filepath.Join(n.DataDir, "logs", "containerd.log"),
	}
}

// startRuntime unpacks the node's programs and starts containerd, or finds the one that runs. The sandbox image is there when it returns.
func startRuntime(ctx context.Context, n Node, log *slog.Logger) nodeRuntime {
	if n.RuntimeEndpoint != "" {
		return nodeRuntime{endpoint: n.RuntimeEndpoint}
	}
	bin, err := programs.Unpack(n.BinDir(), programs.Node...)
	if err != nil {
		return nodeRuntime{err: err}
	}
	process, err := containerd.Start(ctx, n.containerdConfig(bin), log)
	if err != nil {
		return nodeRuntime{err: err}
	}
	if err := importImage(ctx, n.containerdConfig(bin).Address(), images.Sandbox); err != nil {
		return nodeRuntime{err: err}
	}
	return nodeRuntime{endpoint: process.Endpoint(), process: process, bin: bin}
}

func importImage(ctx context.Context, address string, image images.Image) error {
	store, err := containerd.OpenImages(address)
	if err != nil {
		return err
	}
	defer store.Close()
	if store.Has(ctx, image.Name) {
		return nil
	}
	archive, err := image.Open()
	if err != nil {
		return err
	}
	if _, err := store.Import(ctx, archive, image.Pinned); err != nil {
		return fmt.Errorf("image %s: %w", image.Name, err)
	}
	return nil
}

// kubeletPort is where every kubelet's server listens (10250 is upstream's).
const kubeletPort = 10250

// nodeParts is what the parts of a node are given.
type nodeParts struct {
	node    Node
	network Network
	runtime nodeRuntime
	// kubelet acts as the node, shared is what proxy, DNS and routes read through; on a server they share its informers.
	kubelet, shared *client.Set
	// clientCAs vouch for whoever asks the kubelet's server, the API server first of all.
	clientCAs *x509.CertPool
	trace     trace.Recorder
	log       *slog.Logger
	disable   map[string]bool
}

// run starts the node's parts (C7 to C12, C14, D3 to D5) in p.
func (n *nodeParts) run(p *parts) error {
	if n.runtime.err != nil {
		return n.runtime.err
	}
	preloaded := make(chan struct{})
	if n.runtime.process == nil {
		close(preloaded)
	} else {
		p.run("containerd", n.runtime.process.Supervise)
		p.run("sample image", func(ctx context.Context) error {
			// Off the path to Ready: nobody needs it before a user has typed something.
			if err := importImage(ctx, n.node.containerdConfig(n.runtime.bin).Address(), images.Sample); err != nil {
				n.log.Warn("the sample app's image is not imported", "error", err)
			}
			close(preloaded)
			<-ctx.Done()
			return nil
		})
	}
	n.runNetwork(p)
	drain := n.node.DrainTimeout
	eviction, err := node.ParseThresholds(n.node.EvictionHard)
	if err != nil {
		return err
	}
	p.run("kubelet", func(ctx context.Context) error {
		return kubelet.Run(ctx, kubelet.Config{
			NodeName: n.node.Name, Client: n.kubelet, HostIPs: []string{n.node.IP.String()},
			Root: n.node.KubeletDir(), LogsDir: filepath.Join(n.node.DataDir, "pod-logs"), CgroupRoot: n.node.CgroupRoot, RuntimeEndpoint: n.runtime.endpoint,
			ClusterDNS: []string{n.network.ClusterDNS.String()}, ClusterDomain: n.network.ClusterDomain, ResolvConf: "/etc/resolv.conf",
			DrainTimeout: &drain, Preloaded: preloaded,
			Node: kubelet.NodeConfig{
				Labels: n.node.Labels, Version: version.Kubernetes, MaxPods: int64(n.node.MaxPods), Eviction: &eviction, OnPodCIDRs: n.configureCNI,
				Ready: func() { n.log.Info("node is Ready", "node", n.node.Name) },
			},
			Server: &kubelet.ServerConfig{ClientCAs: n.clientCAs, Address: netip.AddrPortFrom(n.node.IP, kubeletPort).String()},
			Trace:  n.trace, Log: n.log.With("part", "kubelet"),
		})
	})
	return nil
}

// runNetwork starts what carries the pods' packets.
func (n *nodeParts) runNetwork(p *parts) {
	// These parts share informers, which are started here, once they are all known.
	shared := n.shared.Informers
	for _, informer := range []interface{ HasSynced() bool }{
		shared.Core().V1().Services().Informer(), shared.Core().V1().Nodes().Informer(), shared.Core().V1().Namespaces().Informer(),
		shared.Discovery().V1().EndpointSlices().Informer(),
	} {
		_ = informer // made by being asked for
	}
	shared.Start(p.ctx.Done())
	tracker := ack.NewTracker()
	acknowledging := false
	if !n.disable["proxy"] {
		progress := tracker.Party()
		acknowledging = true
		p.run("proxy", func(ctx context.Context) error {
			return proxy.Run(ctx, proxy.Config{Client: n.shared, NodeName: n.node.Name, ServiceCIDRs: []netip.Prefix{n.network.ServiceCIDR}, Progress: progress, Trace: n.trace, Log: n.log.With("part", "proxy")})
		})
	}
	if !n.disable["dns"] {
		progress := tracker.Party()
		p.run("dns", func(ctx context.Context) error {
			return dns.Run(ctx, dns.Config{Client: n.shared, ClusterDNS: []netip.Addr{n.network.ClusterDNS}, ClusterDomain: n.network.ClusterDomain, Progress: progress,
				Events: recordEvents(p, "dns", n.shared), Log: n.log.With("part", "dns")})
		})
	}
	if acknowledging {
		p.run("acknowledgement", func(ctx context.Context) error {
			return tracker.Run(ctx, ack.Config{Kubernetes: n.shared.Kubernetes, NodeName: n.node.Name, Log: n.log.With("part", "ack")})
		})
	}
	p.run("routes", func(ctx context.Context) error {
		return routes.Run(ctx, routes.Config{Client: n.shared, NodeName: n.node.Name, Log: n.log.With("part", "routes")})
	})
}

// configureCNI is called when the node knows its range of pod addresses; the runtime's network is ready from then on.
func (n *nodeParts) configureCNI(cidrs []string) {
	if n.runtime.process == nil {
		return // a foreign runtime has a network of its own
	}
	err := cni.WriteConfig(n.node.cniConfDir(), cni.Network{PodCIDRs: cidrs, StateDir: filepath.Join(n.node.RunDir, "cni")})
	if err != nil {
		n.log.Error("configure the pod network", "error", err)
	}
}

// runServerNode runs a node beside the control plane: its parts call straight into the API server.
func (c *controlPlane) runServerNode(p *parts, runtime nodeRuntime) error {
	n := &nodeParts{
		node: c.settings.Node, network: c.settings.Network, runtime: runtime,
		kubelet:   c.as("system:node:"+c.settings.Node.Name, "system:nodes"),
		shared:    c.as("system:node:"+c.settings.Node.Name, "system:nodes"),
		clientCAs: c.credentials.PKI.CAPool(), trace: c.collector, log: c.log, disable: c.settings.Disable,
	}
	return n.run(p)
}

// RuntimeAddress is the socket of the node's embedded containerd.
func (n Node) RuntimeAddress() string { return n.containerdConfig("").Address() }
