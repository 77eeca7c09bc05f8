package node

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"runtime"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/kubernetes"
)

// The labels and the annotation that upstream's kubelet gives every node.
const (
	betaArch       = "beta.kubernetes.io/arch"
	betaOS         = "beta.kubernetes.io/os"
	managedAttach  = "volumes.kubernetes.io/controller-managed-attach-detach"
	mostImages     = 50
	mostImageNames = 5
)

// object is the Node as we would create it.
func (n *node) object(status corev1.NodeStatus) *corev1.Node {
	labels := maps.Clone(n.c.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	for k, v := range map[string]string{
		corev1.LabelHostname: n.c.Hostname, corev1.LabelOSStable: runtime.GOOS, corev1.LabelArchStable: runtime.GOARCH,
		betaOS: runtime.GOOS, betaArch: runtime.GOARCH,
	} {
		labels[k] = v
	}
	annotations := maps.Clone(n.c.Annotations)
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[managedAttach] = "true"
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: n.c.Name, Labels: labels, Annotations: annotations},
		Spec:       corev1.NodeSpec{ProviderID: n.c.ProviderID, Taints: slices.Clone(n.c.Taints), Unschedulable: n.c.Unschedulable},
		Status:     status,
	}
}

// register creates the Node, or takes over the one that is there, trying until it is done or ctx ends.
func (n *node) register(ctx context.Context) (*corev1.Node, error) {
	for delay := firstRetry; ; delay = min(2*delay, apiRetryMost) {
		o, err := n.tryRegister(ctx)
		if err == nil {
			return o, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		n.log.Warn("node could not be registered; will try again", "err", err)
		timer := time.NewTimer(delay)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil, ctx.Err()
		case <-timer.C:
		}
	}
}

func (n *node) tryRegister(ctx context.Context) (*corev1.Node, error) {
	api := n.c.Client.Kubernetes.CoreV1().Nodes()
	status := n.status(ctx, time.Now())
	want := n.object(status)
	made, err := api.Create(ctx, want, metav1.CreateOptions{})
	if err == nil {
		n.log.Info("node registered")
		n.reported = time.Now()
		return made, nil
	}
	if !apierrors.IsAlreadyExists(err) {
		// A node may be refused the creation and yet exist, as where an administrator made it.
		if !apierrors.IsForbidden(err) {
			return nil, fmt.Errorf("create node %s: %w", n.c.Name, err)
		}
	}
	have, gerr := api.Get(ctx, n.c.Name, metav1.GetOptions{})
	if gerr != nil {
		return nil, fmt.Errorf("create node %s: %w (and it cannot be read: %w)", n.c.Name, err, gerr)
	}
	next := have.DeepCopy()
	if next.Labels == nil {
		next.Labels = map[string]string{}
	}
	// What we say of ourselves follows our configuration; what others have added stays.
	maps.Copy(next.Labels, want.Labels)
	if next.Annotations == nil {
		next.Annotations = map[string]string{}
	}
	maps.Copy(next.Annotations, want.Annotations)
	if next.Spec.ProviderID == "" {
		next.Spec.ProviderID = n.c.ProviderID
	}
	patch, err := mergePatch(have, next)
	if err != nil {
		return nil, err
	}
	if patch != nil {
		if have, err = api.Patch(ctx, n.c.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}); err != nil {
			return nil, fmt.Errorf("update labels of node %s: %w", n.c.Name, err)
		}
	}
	n.log.Info("node was registered before")
	return have, nil
}

// mergePatch is the strategic merge patch from one version of a node to the next; nil if they are the same.
func mergePatch(old, next *corev1.Node) ([]byte, error) {
	a, err := json.Marshal(old)
	if err != nil {
		return nil, fmt.Errorf("encode node: %w", err)
	}
	b, err := json.Marshal(next)
	if err != nil {
		return nil, fmt.Errorf("encode node: %w", err)
	}
	patch, err := strategicpatch.CreateTwoWayMergePatch(a, b, corev1.Node{})
	if err != nil {
		return nil, fmt.Errorf("compare node with its next version: %w", err)
	}
	if string(patch) == "{}" {
		return nil, nil
	}
	return patch, nil
}

// patchStatus brings the status to what it is to be and returns the node as it is then. Conditions that are not ours stay.
func patchStatus(ctx context.Context, api kubernetes.Interface, have *corev1.Node, status corev1.NodeStatus) (*corev1.Node, error) {
	// Only the status takes part, so that the patch never touches what others own.
	old := &corev1.Node{Status: have.Status}
	next := &corev1.Node{Status: status}
	next.Status.Conditions = withForeign(status.Conditions, have.Status.Conditions)
	next.Status.VolumesAttached = have.Status.VolumesAttached // the attach controller's
	next.Status.Phase = have.Status.Phase                     //nolint:staticcheck // deprecated, still not ours to clear
	patch, err := mergePatch(old, next)
	if err != nil {
		return nil, err
	}
	if patch == nil {
		return have, nil
	}
	// Addresses merge by type: two of one type (dual stack) need the whole list replaced.
	if patch, err = replaceAddresses(patch, status.Addresses); err != nil {
		return nil, err
	}
	o, err := api.CoreV1().Nodes().Patch(ctx, have.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if err != nil {
		return nil, fmt.Errorf("patch status of node %s: %w", have.Name, err)
	}
	return o, nil
}

// withForeign keeps conditions that other parts have set (such as NetworkUnavailable).
func withForeign(ours, all []corev1.NodeCondition) []corev1.NodeCondition {
	list := make([]corev1.NodeCondition, 0, len(all)+len(ours))
	for _, c := range all {
		if !slices.ContainsFunc(ours, func(o corev1.NodeCondition) bool { return o.Type == c.Type }) {
			list = append(list, c)
		}
	}
	return append(list, ours...)
}

func replaceAddresses(patch []byte, addresses []corev1.NodeAddress) ([]byte, error) {
	var m map[string]any
	if err := json.Unmarshal(patch, &m); err != nil {
		return nil, fmt.Errorf("read node patch: %w", err)
	}
	status, _ := m["status"].(map[string]any)
	if status == nil || status["addresses"] == nil && status["$setElementOrder/addresses"] == nil {
		return patch, nil
	}
	delete(status, "$setElementOrder/addresses")
	list := []any{map[string]any{"$patch": "replace"}}
	for _, a := range addresses {
		list = append(list, map[string]any{"type": string(a.Type), "address": a.Address})
	}
	status["addresses"] = list
	return json.Marshal(m)
}

// defaultIPs is the machine's own address towards the default route, of each family. No packet is sent: connecting a
// UDP socket only looks the route up.
func defaultIPs() ([]net.IP, error) {
	var ips []net.IP
	for network, target := range map[string]string{"udp4": "192.0.2.1:9", "udp6": "[2001:db8::1]:9"} {
		c, err := net.Dial(network, target)
		if err != nil {
			continue
		}
		if a, ok := c.LocalAddr().(*net.UDPAddr); ok && a.IP.IsGlobalUnicast() {
			ips = append(ips, a.IP)
		}
		c.Close()
	}
	slices.SortFunc(ips, func(a, b net.IP) int { // IPv4 first
		return len(b.To4()) - len(a.To4())
	})
	if len(ips) > 0 {
		return ips, nil
	}
	// No default route: any address that others could reach, else this machine alone.
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
			return []net.IP{n.IP}, nil
		}
	}
	return []net.IP{net.IPv4(127, 0, 0, 1)}, nil
}
