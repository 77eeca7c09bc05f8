// Package kubelet is the node's agent: stages C7 to C12 of a pod's creation and D3 to D6 of its deletion. It takes the
// pods bound to its node from the API server, has the container runtime run them, and reports what becomes of them.
// Containers outlive it: a kubelet that starts again finds every one and restarts none.
//
// The parts lie in the folders below: podworker (one worker for each pod, the heart), runtime (CRI), containers, images,
// probes, hooks, status, admit; volumes, cgroups, logs, node and server surround them. This package only wires.
package kubelet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"wherry.dev/wherry/client"
	"wherry.dev/wherry/kubelet/admit"
	"wherry.dev/wherry/kubelet/cgroups"
	"wherry.dev/wherry/kubelet/containers"
	"wherry.dev/wherry/kubelet/hooks"
	"wherry.dev/wherry/kubelet/images"
	"wherry.dev/wherry/kubelet/podworker"
	"wherry.dev/wherry/kubelet/probes"
	"wherry.dev/wherry/kubelet/runtime"
	"wherry.dev/wherry/kubelet/volumes"
	"wherry.dev/wherry/trace"
)

// Config says which node this is and where its parts live. Several kubelets run side by side when Root, LogsDir,
// CgroupRoot and RuntimeEndpoint differ.
type Config struct {
	NodeName string
	// Client is the node's identity (system:node:NAME). Its informers are used for Services only.
	Client *client.Set
	// HostIPs are the node's addresses, the primary first; empty: that of the default route.
	HostIPs []string

	// Root is the kubelet's directory, such as /var/lib/kubelet: absolute, without symbolic links.
	Root string
	// LogsDir holds the pods' logs, such as /var/log/pods.
	LogsDir string
	// CgroupRoot is the kubelet's own cgroup below each hierarchy's top, such as /wherry/NAME/node-1.
	CgroupRoot string
	// RuntimeEndpoint is the CRI socket: a path or a unix:// URL.
	RuntimeEndpoint string

	// ClusterDNS are the addresses that pods ask for names, ClusterDomain is the domain of the cluster (cluster.local).
	ClusterDNS    []string
	ClusterDomain string
	// ResolvConf is the node's resolver file; empty: pods get none of it.
	ResolvConf string
	// HostsFile is what host-network pods see as /etc/hosts; empty: /etc/hosts.
	HostsFile string

	// DrainTimeout bounds the wait of a deleted pod for every node to stop sending it new connections (D3). Nil is 2 s; 0 switches it off.
	DrainTimeout *time.Duration
	// MaxParallelPulls bounds image pulls at once; 0 is no bound.
	MaxParallelPulls int
	// Preloaded is closed when the images that come with the node are imported; nothing is pulled before. Nil: there are none.
	Preloaded <-chan struct{}
	// SeccompDefault runs containers that ask for nothing under the runtime's profile, as upstream's --seccomp-default.
	SeccompDefault bool
	// PodPidsLimit bounds the processes of each pod; 0 is no bound.
	PodPidsLimit int64

	Node NodeConfig
	// Server answers logs, exec, attach, port-forward and statistics; nil: none.
	Server *ServerConfig

	Trace trace.Recorder
	Log   *slog.Logger
	// Ready is called once, when the pods of the API server and of the runtime have been read and pods are being run.
	Ready func()
}

// DefaultDrainTimeout is the bound on D3 (docs of the story: default 2 s).
const DefaultDrainTimeout = 2 * time.Second

// userAgent is how probes and HTTP hooks name themselves, as upstream's do.
const userAgent = "kube-probe/1.37"

// Run is the kubelet. It blocks until ctx ends and returns when all of its goroutines have ended; containers go on.
func Run(ctx context.Context, c Config) error {
	k, err := newKubelet(&c)
	if err != nil {
		return fmt.Errorf("start kubelet of node %s: %w", c.NodeName, err)
	}
	defer k.runtime.Close()
	return k.run(ctx)
}

// kubelet is the parts of one Run.
type kubelet struct {
	c       *Config
	log     *slog.Logger
	runtime *runtime.Client
	volumes *volumes.Manager
	cgroups *cgroups.Manager
	ledger  *admit.Ledger
	images  *images.Manager
	pods    *podworker.Manager

	node        atomic.Pointer[v1.Node] // as the API server has it; nil while unknown
	runtimeName atomic.Pointer[string]
	events      atomic.Pointer[events]
	recursiveRO atomic.Bool   // the default runtime handler makes mounts read-only recursively
	nodeKnown   chan struct{} // closed when node is set for the first time
	nodeChanged chan struct{} // capacity 1; has the node's status looked at again
}

func newKubelet(c *Config) (*kubelet, error) {
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.Trace == nil {
		c.Trace = trace.Nop{}
	}
	if c.HostsFile == "" {
		c.HostsFile = "/etc/hosts"
	}
	k := &kubelet{c: c, log: c.Log, nodeKnown: make(chan struct{}), nodeChanged: make(chan struct{}, 1)}
	var err error
	if err := os.MkdirAll(c.LogsDir, 0o755); err != nil {
		return nil, fmt.Errorf("make directory of logs: %w", err)
	}
	if k.runtime, err = runtime.Dial(c.RuntimeEndpoint); err != nil {
		return nil, err
	}
	k.cgroups, err = cgroups.New(cgroups.Config{Root: c.CgroupRoot, PodPids: c.PodPidsLimit, Log: c.Log})
	if err != nil {
		return nil, err
	}
	k.volumes, err = volumes.New(volumes.Config{
		Root: c.Root, Client: c.Client, Log: c.Log,
		Allocatable: func() v1.ResourceList {
			if n := k.node.Load(); n != nil {
				return n.Status.Allocatable
			}
			return nil
		},
		Failed: func(pod *v1.Pod, err error) {
			if e := k.events.Load(); e != nil {
				e.Eventf(podworker.Reference(pod, ""), v1.EventTypeWarning, "FailedMount", "%s", err.Error())
			}
		},
		Wake: func(pod types.UID) {
			if m := k.pods; m != nil {
				m.Retry(pod)
			}
		},
	})
	if err != nil {
		return nil, err
	}
	k.ledger = admit.New(k.node.Load)
	k.images = images.New(images.Config{Runtime: k.runtime, Objects: k.volumes.Objects(), Parallel: c.MaxParallelPulls, Preloaded: c.Preloaded, Log: c.Log})
	return k, nil
}

// run starts the parts in the story's order and stops them in reverse.
func (k *kubelet) run(ctx context.Context) error {
	c := k.c
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// Events outlive the workers, which give them, by a moment.
	events := newEvents(c)
	k.events.Store(events)
	defer events.stop()

	services := c.Client.Informers.Core().V1().Services()
	synced := services.Informer().HasSyncedChecker()
	lister := services.Lister()
	c.Client.Informers.Start(ctx.Done())

	workers, stopWorkers := context.WithCancel(ctx)
	defer stopWorkers()
	k.pods = podworker.New(workers, k.workerConfig(lister, events))

	var parts sync.WaitGroup
	defer parts.Wait()
	defer cancel(nil)
	part := func(name string, run func(context.Context) error) {
		parts.Go(func() {
			if err := run(ctx); err != nil && ctx.Err() == nil {
				cancel(fmt.Errorf("%s: %w", name, err))
			}
		})
	}
	if err := k.startNode(part); err != nil {
		return err
	}
	part("volumes", k.volumes.Run)
	part("runtime", func(ctx context.Context) error {
		k.watchRuntime(ctx)
		return nil
	})
	part("pods", func(ctx context.Context) error {
		// Variables of Services and the question whether a pod is behind one need them all.
		if !cache.WaitFor(ctx, "", synced) {
			return nil
		}
		// What pods are admitted against.
		select {
		case <-ctx.Done():
			return nil
		case <-k.nodeKnown:
		}
		k.watchPods(ctx)
		return nil
	})
	part("ready", func(ctx context.Context) error {
		select {
		case <-ctx.Done():
			return nil
		case <-k.pods.Ready():
		}
		k.removeLeftovers(ctx)
		if c.Ready != nil {
			c.Ready()
		}
		return nil
	})
	<-ctx.Done()
	stopWorkers()
	k.pods.Wait()
	cancel(nil)
	parts.Wait()
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return fmt.Errorf("kubelet of node %s: %w", c.NodeName, cause)
	}
	return nil
}

func (k *kubelet) workerConfig(services corelisters.ServiceLister, ev *events) podworker.Config {
	c := k.c
	drain := DefaultDrainTimeout
	if c.DrainTimeout != nil {
		drain = *c.DrainTimeout
	}
	return podworker.Config{
		NodeName: c.NodeName, API: c.Client.Kubernetes, Node: k.node.Load,
		HostIPs: k.hostIPs,
		Runtime: k.runtime, RuntimeName: k.nameOfRuntime, Handler: k.handler,
		Images: k.images, Volumes: volumeAdapter{k.volumes, &k.recursiveRO}, Cgroups: k.cgroups, Ledger: k.ledger,
		Prober:  &probes.Prober{Exec: k.runtime, UserAgent: userAgent, Warn: ev.probe},
		Hooks:   &hooks.Runner{Exec: k.runtime, UserAgent: "kube-lifecycle/1.37"},
		Objects: k.volumes.Objects(), Services: serviceAdapter{services}, Events: ev, Trace: c.Trace, Log: c.Log,
		LogsDir: c.LogsDir, HostsFile: c.HostsFile,
		DNS:          containers.DNS{ClusterDNS: c.ClusterDNS, ClusterDomain: c.ClusterDomain, ResolvConf: c.ResolvConf},
		Facts:        containers.NodeFacts{MemoryCapacity: memoryCapacity(), CgroupV2: k.cgroups.V2()},
		Security:     containers.SecurityDefaults{SeccompDefault: c.SeccompDefault, SeccompRoot: c.Root + "/seccomp"},
		DrainTimeout: drain,
	}
}

// hostIPs are the node's addresses: as configured, else as the node object has them.
func (k *kubelet) hostIPs() []string {
	if len(k.c.HostIPs) > 0 {
		return k.c.HostIPs
	}
	var ips []string
	if n := k.node.Load(); n != nil {
		for _, a := range n.Status.Addresses {
			if a.Type == v1.NodeInternalIP {
				ips = append(ips, a.Address)
			}
		}
	}
	return ips
}
