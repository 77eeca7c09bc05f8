package kubelet

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"path/filepath"
	"sync"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"

	"wherry.dev/wherry/kubelet/logs"
	"wherry.dev/wherry/kubelet/node"
	"wherry.dev/wherry/kubelet/runtime"
	"wherry.dev/wherry/kubelet/server"
)

// NodeConfig says how the machine presents itself as a node.
type NodeConfig struct {
	Hostname   string // empty: the node's name
	Labels     map[string]string
	Taints     []v1.Taint // at registration only
	ProviderID string
	Version    string // such as v1.37.2
	MaxPods    int64  // 0 is 110
	// Eviction are the hard thresholds of pressure; nil is upstream's.
	Eviction *node.Thresholds
	// Reserved is kept from pods; what is left is enforced on all pods together.
	Reserved v1.ResourceList
	// OnPodCIDRs is told the node's pod ranges when they are assigned: the network is wired then. May be nil.
	OnPodCIDRs func(cidrs []string)
	// Ready is called once, when the API server has taken the condition Ready. May be nil.
	Ready func()
	// Machine overrides where facts about the machine come from; nil reads the machine.
	Machine node.Machine
}

// ServerConfig says how the kubelet's server listens and whom it believes.
type ServerConfig struct {
	// Address to listen on; empty is ":10250". Listener, if not nil, is used in its place.
	Address  string
	Listener net.Listener
	// Certificate serves TLS; nil: one is obtained by CertificateSigningRequest and kept in Root/pki.
	Certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	// ClientCAs vouch for client certificates, the API server's among them.
	ClientCAs *x509.CertPool
	// VarLog is served at /logs/; empty: not served.
	VarLog string
}

// startNode starts what surrounds the pods: the cgroup root, the node object, the server, log rotation.
func (k *kubelet) startNode(part func(string, func(context.Context) error)) error {
	c := k.c
	if err := k.cgroups.Start(k.enforced()); err != nil {
		return err
	}
	var ips []net.IP
	for _, s := range c.HostIPs {
		ip := net.ParseIP(s)
		if ip == nil {
			return fmt.Errorf("node address %q is not an IP address", s)
		}
		ips = append(ips, ip)
	}
	port, err := k.port()
	if err != nil {
		return err
	}
	known := sync.OnceFunc(func() { close(k.nodeKnown) })
	part("node", func(ctx context.Context) error {
		return node.Run(ctx, node.Config{
			Name: c.NodeName, Client: c.Client, Log: c.Log, Hostname: c.Node.Hostname, IPs: ips, Port: port, Labels: c.Node.Labels,
			Taints: c.Node.Taints, ProviderID: c.Node.ProviderID, Version: c.Node.Version, Root: c.Root, MaxPods: c.Node.MaxPods, Eviction: c.Node.Eviction,
			Reserved: c.Node.Reserved, Runtime: &runtimeStatus{k: k}, Images: k.listImages, Changed: k.nodeChanged, Machine: c.Node.Machine,
			OnPodCIDRs: func(cidrs []string) {
				if c.Node.OnPodCIDRs != nil {
					c.Node.OnPodCIDRs(cidrs)
				}
				k.lookAtNode() // the network may be ready now
			},
			OnNode: func(n *v1.Node) {
				was := k.node.Swap(n)
				known()
				if was != nil && !equality.Semantic.DeepEqual(was.Status.Allocatable, n.Status.Allocatable) {
					k.ledger.Freed()
				}
			},
			Ready: c.Node.Ready,
		})
	})
	part("logs", func(ctx context.Context) error {
		return logs.Rotate(ctx, logs.RotateConfig{Running: k.runningLogs, Reopen: k.runtime.ReopenLog, Log: c.Log})
	})
	if c.Server != nil {
		return k.startServer(part, ips)
	}
	return nil
}

// lookAtNode has the node's status looked at again at once.
func (k *kubelet) lookAtNode() {
	select {
	case k.nodeChanged <- struct{}{}:
	default:
	}
}

// enforced is what all pods together may use: nothing is set unless something is reserved.
func (k *kubelet) enforced() v1.ResourceList {
	reserved, ok := k.c.Node.Reserved[v1.ResourceMemory]
	total := memoryCapacity()
	if !ok || total <= reserved.Value() {
		return nil
	}
	return v1.ResourceList{v1.ResourceMemory: *resource.NewQuantity(total-reserved.Value(), resource.BinarySI)}
}

func (k *kubelet) port() (int32, error) {
	s := k.c.Server
	switch {
	case s == nil:
		return 0, nil
	case s.Listener != nil:
		if a, ok := s.Listener.Addr().(*net.TCPAddr); ok {
			return int32(a.Port), nil
		}
		return 0, fmt.Errorf("the server's listener %s is no TCP listener", s.Listener.Addr())
	case s.Address == "":
		return 0, nil
	}
	_, text, err := net.SplitHostPort(s.Address)
	if err != nil {
		return 0, fmt.Errorf("server address: %w", err)
	}
	n, err := net.LookupPort("tcp", text)
	if err != nil {
		return 0, fmt.Errorf("server address: %w", err)
	}
	return int32(n), nil
}

func (k *kubelet) startServer(part func(string, func(context.Context) error), ips []net.IP) error {
	c := k.c
	certificate := c.Server.Certificate
	if certificate == nil {
		name := c.Node.Hostname
		if name == "" {
			name = c.NodeName
		}
		own, err := node.Serving(node.ServingConfig{Node: c.NodeName, DNSNames: []string{name}, IPs: ips, Dir: filepath.Join(c.Root, "pki"), API: c.Client.Kubernetes, Log: c.Log})
		if err != nil {
			return err
		}
		certificate = own.GetCertificate
		part("serving certificate", own.Run)
	}
	part("server", func(ctx context.Context) error {
		return server.Run(ctx, server.Config{
			NodeName: c.NodeName, Address: c.Server.Address, Listener: c.Server.Listener, Certificate: certificate, ClientCAs: c.Server.ClientCAs,
			Client: c.Client, Backend: &backend{k}, Groups: k.cgroups, Root: c.Root, VarLog: c.Server.VarLog, Log: c.Log,
		})
	})
	return nil
}

// runtimeStatus tells the node how the runtime is, and the workers when its network has become ready.
type runtimeStatus struct {
	k *kubelet

	mu    sync.Mutex
	ready bool // guarded by mu
}

// Status implements node.Runtime.
func (r *runtimeStatus) Status(ctx context.Context) (node.RuntimeStatus, error) {
	name, version, _, err := r.k.runtime.Version(ctx)
	if err != nil {
		return node.RuntimeStatus{}, err
	}
	h, err := r.k.runtime.Health(ctx)
	if err != nil {
		return node.RuntimeStatus{}, err
	}
	r.mu.Lock()
	became := h.NetworkReady && !r.ready
	r.ready = h.NetworkReady
	r.mu.Unlock()
	if became {
		r.k.pods.RetrySandboxes()
	}
	s := node.RuntimeStatus{Name: name, Version: version, Ready: h.RuntimeReady, Message: h.RuntimeMessage, NetworkReady: h.NetworkReady, NetworkMessage: h.NetworkMessage,
		Features: &v1.NodeFeatures{SupplementalGroupsPolicy: &h.SupplementalGroupsPolicy}}
	for _, x := range h.Handlers {
		if x.Name == "" {
			r.k.recursiveRO.Store(x.RecursiveReadOnlyMounts)
		}
		s.Handlers = append(s.Handlers, v1.NodeRuntimeHandler{Name: x.Name, Features: &v1.NodeRuntimeHandlerFeatures{RecursiveReadOnlyMounts: &x.RecursiveReadOnlyMounts, UserNamespaces: &x.UserNamespaces}})
	}
	return s, nil
}

// maxNodeImages is how many images a node's status names, as upstream.
const maxNodeImages = 50

func (k *kubelet) listImages(ctx context.Context) ([]v1.ContainerImage, error) {
	all, err := k.runtime.ListImages(ctx)
	if err != nil {
		return nil, err
	}
	sortImages(all)
	out := make([]v1.ContainerImage, 0, min(len(all), maxNodeImages))
	for i := range all[:min(len(all), maxNodeImages)] {
		names := append(append([]string(nil), all[i].RepoDigests...), all[i].RepoTags...)
		out = append(out, v1.ContainerImage{Names: names[:min(len(names), 5)], SizeBytes: all[i].Size})
	}
	return out, nil
}

func (k *kubelet) runningLogs() []logs.File {
	var files []logs.File
	for _, s := range k.pods.Snapshots() {
		for i := range s.Runtime {
			if x := &s.Runtime[i]; x.State == runtime.Running && x.LogPath != "" {
				files = append(files, logs.File{ContainerID: x.ID, Path: x.LogPath})
			}
		}
	}
	return files
}
