// Package nodeipam gives each node its range of pod addresses, spec.podCIDR. Upstream's counterpart is the node IPAM controller with its
// range allocator.
package nodeipam

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"wherry.dev/wherry/client"
)

// Config is what the controller needs.
type Config struct {
	Client  *client.Set
	PodCIDR netip.Prefix // of the cluster, IPv4
	// MaskSize is the size of a node's range; 0 for upstream's 24.
	MaskSize int
	Recorder record.EventRecorder // may be nil
	Log      *slog.Logger
}

type controller struct {
	Config
	nodes corelisters.NodeLister
	loop  *client.Loop
	// given are ranges written but perhaps not in the cache yet. Used by the one worker only.
	given map[netip.Prefix]string
	// wrote names the nodes that have been given a range which the cache does not show yet. Used by the one worker only.
	wrote map[string]types.UID
}

// Run gives out ranges until ctx ends.
func Run(ctx context.Context, c Config) error {
	if c.MaskSize == 0 {
		c.MaskSize = 24
	}
	if c.MaskSize < c.PodCIDR.Bits() || !c.PodCIDR.Addr().Is4() || c.MaskSize > 30 {
		return fmt.Errorf("pod range %s cannot be cut into nodes' ranges of /%d", c.PodCIDR, c.MaskSize)
	}
	nodes := c.Client.Informers.Core().V1().Nodes()
	k := &controller{Config: c, nodes: nodes.Lister(), given: map[netip.Prefix]string{}, wrote: map[string]types.UID{}}
	// One worker: two must not choose the same range.
	k.loop = client.NewLoop("nodeipam", 1, c.Log, k.sync)
	var handlers client.Handlers
	defer handlers.Remove()
	changed := func(obj any) {
		if n := obj.(*corev1.Node); n.Spec.PodCIDR == "" {
			k.loop.Add(n.Name)
		}
	}
	if err := handlers.On(nodes.Informer(), cache.ResourceEventHandlerFuncs{AddFunc: changed, UpdateFunc: func(_, obj any) { changed(obj) }, DeleteFunc: func(any) { k.wake() }}); err != nil {
		return err
	}
	handlers.Sync(ctx, c.Client) // or ctx has ended, which the loop sees
	k.loop.Run(ctx)
	return nil
}

// wake looks again at the nodes that have no range: one has come free, perhaps the one they lacked.
func (k *controller) wake() {
	nodes, err := k.nodes.List(labels.Everything())
	if err != nil {
		return
	}
	for _, n := range nodes {
		if n.Spec.PodCIDR == "" {
			k.loop.Add(n.Name)
		}
	}
}

func (k *controller) sync(ctx context.Context, name string) error {
	node, err := k.nodes.Get(name)
	if apierrors.IsNotFound(err) || err == nil && node.Spec.PodCIDR != "" {
		delete(k.wrote, name)
		return nil
	} else if err != nil {
		return err
	}
	if k.wrote[name] == node.UID {
		return nil // it has its range; only the cache does not show it yet
	}
	all, err := k.nodes.List(labels.Everything())
	if err != nil {
		return err
	}
	prefix, err := k.choose(name, all)
	if err != nil {
		if k.Recorder != nil {
			k.Recorder.Eventf(node, corev1.EventTypeNormal, "CIDRNotAvailable", "Node %s status is now: CIDRNotAvailable", name)
		}
		return err
	}
	// The UID keeps a node of the same name, made anew meanwhile, from getting a range chosen for the old one.
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": node.UID},
		"spec":     map[string]any{"podCIDR": prefix.String(), "podCIDRs": []string{prefix.String()}},
	})
	if err != nil {
		return fmt.Errorf("encode patch: %w", err)
	}
	k.given[prefix] = name
	if _, err := k.Client.Kubernetes.CoreV1().Nodes().Patch(ctx, name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("give node %s the range %s: %w", name, prefix, err)
	}
	k.wrote[name] = node.UID
	k.Log.Info("gave a node its range of pod addresses", "node", name, "podCIDR", prefix.String())
	return nil
}

// choose returns the lowest range that overlaps no node's.
func (k *controller) choose(name string, all []*corev1.Node) (netip.Prefix, error) {
	var used []netip.Prefix
	exists := map[string]bool{}
	have := 0
	for _, node := range all {
		exists[node.Name] = true
		if node.Spec.PodCIDR != "" {
			have++
		}
		for _, cidr := range append([]string{node.Spec.PodCIDR}, node.Spec.PodCIDRs...) {
			if p, err := netip.ParsePrefix(cidr); err == nil {
				used = append(used, p)
			}
		}
	}
	for p, owner := range k.given {
		switch {
		case owner == name:
			// An attempt that failed, or that the cache has not seen. Somebody may have given it by hand meanwhile.
			if !slices.ContainsFunc(used, p.Overlaps) {
				return p, nil
			}
			delete(k.given, p)
		case exists[owner]:
			used = append(used, p)
		default:
			delete(k.given, p)
		}
	}
	taken := make(map[netip.Prefix]bool, len(used))
	var odd []netip.Prefix // ranges of another size, perhaps given by hand
	for _, u := range used {
		if u.Bits() == k.MaskSize {
			taken[u.Masked()] = true
		} else {
			odd = append(odd, u)
		}
	}
	step := uint32(1) << (32 - k.MaskSize)
	base := k.PodCIDR.Masked().Addr().As4()
	first := uint32(base[0])<<24 | uint32(base[1])<<16 | uint32(base[2])<<8 | uint32(base[3])
next:
	for i := range uint32(1) << (k.MaskSize - k.PodCIDR.Bits()) {
		v := first + i*step
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)}), k.MaskSize)
		if taken[p] {
			continue
		}
		for _, o := range odd {
			if o.Overlaps(p) {
				continue next
			}
		}
		return p, nil
	}
	return netip.Prefix{}, fmt.Errorf("no range is left in %s for node %s: %d nodes have theirs", k.PodCIDR, name, have)
}
