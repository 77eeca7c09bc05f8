// Package node makes this machine a node of the cluster: it registers the Node object, keeps its status true and its
// Lease alive, hands on the pod ranges that the control plane assigns, and holds the node's certificates (join, client,
// serving). It polls nothing that tells of its changes by itself; a healthy node that nothing happens to costs one
// Lease renewal and one look at the machine every ten seconds.
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"wherry.dev/wherry/client"
)

// Config says which node this is and where its facts come from. Only Name, Client and Runtime are required.
type Config struct {
	Name   string
	Client *client.Set
	Log    *slog.Logger

	// Hostname is the label kubernetes.io/hostname and the address of type Hostname; empty is Name.
	Hostname string
	// IPs are the node's addresses, first the primary one, at most one of each family; empty finds that of the default route.
	IPs []net.IP
	// Port is where the kubelet's server listens; 0 is 10250.
	Port          int32
	Labels        map[string]string // added to upstream's own
	Annotations   map[string]string
	Taints        []corev1.Taint // at registration only
	Unschedulable bool           // at registration only
	ProviderID    string
	Version       string // the kubelet's, such as v1.37.2

	// Root is the kubelet's directory: its file system is the node's ephemeral storage.
	Root    string
	MaxPods int64 // 0 is upstream's 110
	// Reserved is kept from pods (kube-reserved and system-reserved together).
	Reserved corev1.ResourceList
	// Eviction are the hard thresholds; nil is upstream's.
	Eviction *Thresholds
	// Extra is what device plugins and the like add to the capacity; may be nil. It must not block.
	Extra func() (capacity, allocatable corev1.ResourceList)

	Runtime Runtime
	// Images lists the images on the node, largest first; may be nil. Asked when the status is looked at and Changed has fired or a minute has passed.
	Images func(context.Context) ([]corev1.ContainerImage, error)
	// VolumesInUse lists attached volumes in use; may be nil. It must not block.
	VolumesInUse func() []corev1.UniqueVolumeName
	// Changed makes the status be looked at again at once: something the functions here return is different. May be nil.
	Changed <-chan struct{}

	// OnPodCIDRs is told the node's pod ranges when they are assigned and when they change; may be nil. Called from one goroutine.
	OnPodCIDRs func(cidrs []string)
	// OnNode is told every new version of the Node object; may be nil. Called from one goroutine; the object is shared.
	OnNode func(*corev1.Node)
	// Ready is called once, when the API server has taken a status with condition Ready. May be nil.
	Ready func()

	// Machine overrides where facts about the machine are read from, for tests; nil reads the machine.
	Machine Machine
}

// Runtime is what the node must know of the container runtime.
type Runtime interface {
	// Status asks the runtime; an error means that it cannot be reached.
	Status(context.Context) (RuntimeStatus, error)
}

// RuntimeStatus is the runtime's report on itself.
type RuntimeStatus struct {
	Name, Version  string // such as containerd and 2.4.2
	Ready          bool
	Message        string // why not, as "RuntimeReady=false reason:... message:..."
	NetworkReady   bool
	NetworkMessage string // why not, as "NetworkReady=false reason:... message:..."
	Handlers       []corev1.NodeRuntimeHandler
	Features       *corev1.NodeFeatures
}

// Upstream's times (nodeStatusUpdateFrequency, nodeStatusReportFrequency, eviction-pressure-transition-period).
const (
	lookEvery        = 10 * time.Second
	reportEvery      = 5 * time.Minute
	pressureStays    = 5 * time.Minute
	imagesEvery      = time.Minute
	firstRetry       = 10 * time.Millisecond
	runtimeRetryMost = 500 * time.Millisecond
	apiRetryMost     = 5 * time.Second
)

// Run registers the node and keeps it until ctx ends; the Node object stays. It returns when nothing of it runs any more.
func Run(ctx context.Context, c Config) error {
	if c.Name == "" || c.Client == nil || c.Runtime == nil {
		return errors.New("node: Name, Client and Runtime are required")
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.Hostname == "" {
		c.Hostname = c.Name
	}
	if c.Port == 0 {
		c.Port = 10250
	}
	if c.MaxPods == 0 {
		c.MaxPods = 110
	}
	if c.Eviction == nil {
		t := DefaultThresholds()
		c.Eviction = &t
	}
	if c.Machine == nil {
		c.Machine = host{root: c.Root}
	}
	n := &node{c: c, log: c.Log.With("node", c.Name), nodes: make(chan *corev1.Node, 1)}
	facts, err := c.Machine.Facts()
	if err != nil {
		return fmt.Errorf("read facts about this machine: %w", err)
	}
	n.facts = facts
	if len(n.c.IPs) == 0 {
		if n.c.IPs, err = defaultIPs(); err != nil {
			return fmt.Errorf("find this node's address (or name it): %w", err)
		}
	}

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	registered, err := n.register(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { keepLease(ctx, c.Client.Kubernetes, registered, n.log) })
	wg.Go(func() { n.watch(ctx) })
	n.observe(registered)
	n.keepStatus(ctx)
	return nil
}

type node struct {
	c     Config
	log   *slog.Logger
	facts Facts
	nodes chan *corev1.Node // newest version seen by the watch

	// The rest belongs to Run's goroutine.
	known       *corev1.Node // newest version we know; the API server's
	cidrs       []string     // as last handed on
	ready       bool         // Config.Ready has been called
	reported    time.Time    // when the API server last took our status
	images      []corev1.ContainerImage
	imagesAt    time.Time
	pressure    map[corev1.NodeConditionType]time.Time // since when each was last seen
	runtimeInfo RuntimeStatus
	runtimeErr  error
}

// watch follows the Node object.
func (n *node) watch(ctx context.Context) {
	informer := informers.NewSharedInformerFactoryWithOptions(n.c.Client.Kubernetes, 0, informers.WithTweakListOptions(func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, n.c.Name).String()
	})).Core().V1().Nodes().Informer()
	take := func(obj any) {
		o, ok := obj.(*corev1.Node)
		if !ok || o.Name != n.c.Name {
			return
		}
		// Keep only the newest: the reader may be slow.
		for {
			select {
			case n.nodes <- o:
				return
			default:
			}
			select {
			case <-n.nodes:
			default:
			}
		}
	}
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    take,
		UpdateFunc: func(_, obj any) { take(obj) },
		DeleteFunc: func(any) {
			n.log.Warn("the Node object was deleted; restart the kubelet to register the node again")
		},
	}); err != nil {
		n.log.Error("the node cannot be watched", "err", err)
		return
	}
	informer.RunWithContext(ctx)
}

// observe takes in a newer version of the Node object and hands on what others wait for.
func (n *node) observe(o *corev1.Node) {
	n.known = o
	if n.c.OnNode != nil {
		n.c.OnNode(o)
	}
	cidrs := o.Spec.PodCIDRs
	if len(cidrs) == 0 && o.Spec.PodCIDR != "" {
		cidrs = []string{o.Spec.PodCIDR}
	}
	if len(cidrs) > 0 && !slices.Equal(cidrs, n.cidrs) {
		n.cidrs = slices.Clone(cidrs)
		n.log.Info("pod ranges assigned", "cidrs", cidrs)
		if n.c.OnPodCIDRs != nil {
			n.c.OnPodCIDRs(slices.Clone(cidrs))
		}
	}
}

// keepStatus keeps the Node's status true until ctx ends.
func (n *node) keepStatus(ctx context.Context) {
	delay := firstRetry
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		looked := false
		select {
		case <-ctx.Done():
			return
		case o := <-n.nodes:
			waiting := len(n.cidrs) == 0
			n.observe(o)
			if !waiting || len(n.cidrs) == 0 {
				continue
			}
			// The network can be set up now, and the runtime tells nobody when it has been: begin asking often again.
			delay = firstRetry
		case <-n.c.Changed:
			n.imagesAt = time.Time{}
			delay = firstRetry
		case <-timer.C:
			looked = true
		}
		healthy, err := n.look(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			n.log.Warn("node status could not be reported; will try again", "err", err)
			delay = min(2*delay, apiRetryMost)
			timer.Reset(delay)
		case !healthy:
			// CRI has no event for the network becoming ready, so ask, ever less often.
			if looked {
				delay = min(delay*3/2, runtimeRetryMost)
			}
			timer.Reset(delay)
		default:
			delay = firstRetry
			timer.Reset(lookEvery)
		}
	}
}

// look compares the node's status with what the API server has, and patches what differs. healthy is false while the
// runtime or its network is not ready.
func (n *node) look(ctx context.Context) (healthy bool, err error) {
	status := n.status(ctx, time.Now())
	healthy = n.runtimeErr == nil && n.runtimeInfo.Ready && n.runtimeInfo.NetworkReady
	if time.Since(n.reported) >= reportEvery || differs(&n.known.Status, &status) {
		next, err := patchStatus(ctx, n.c.Client.Kubernetes, n.known, status)
		if apierrors.IsNotFound(err) {
			return true, nil // deleted: the watch has said so; nothing to be done every moment
		}
		if err != nil {
			return healthy, err
		}
		n.reported = time.Now()
		n.observe(next)
	}
	if !n.ready && isReady(&n.known.Status) {
		n.ready = true
		n.log.Info("node is ready")
		if n.c.Ready != nil {
			n.c.Ready()
		}
	}
	return healthy, nil
}

func isReady(s *corev1.NodeStatus) bool {
	for i := range s.Conditions {
		if s.Conditions[i].Type == corev1.NodeReady {
			return s.Conditions[i].Status == corev1.ConditionTrue
		}
	}
	return false
}
