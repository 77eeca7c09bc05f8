// Package admit is stage C7, admit-on-node: the node's last word on a pod that was bound to it, by what the node really
// has. What is refused ends as a Failed pod with upstream's reason, never as silent overcommit.
package admit

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/go-logr/logr"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	helpers "k8s.io/component-helpers/resource"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// Rejection is why the node does not take a pod, as its status shows it.
type Rejection struct{ Reason, Message string }

// Ledger is what is promised to the pods of this node. Safe for concurrent use. Admission is one short critical
// section without I/O, because two pods must not be promised the same room.
type Ledger struct {
	node func() *v1.Node

	mu    sync.Mutex
	pods  map[types.UID]entry                   // guarded by mu
	used  map[v1.ResourceName]resource.Quantity // guarded by mu; sum over pods
	ports map[port]types.UID                    // guarded by mu

	waiting map[types.UID]func() // guarded by mu; told when room has become free, of changes that are put off
}

type entry struct {
	requests v1.ResourceList
	ports    []port
}

type port struct {
	ip       string // 0.0.0.0 for all
	protocol v1.Protocol
	number   int32
}

// New makes an empty ledger. node gives the node as the API server knows it, or nil while it is not known.
func New(node func() *v1.Node) *Ledger {
	return &Ledger{node: node, pods: map[types.UID]entry{}, used: map[v1.ResourceName]resource.Quantity{}, ports: map[port]types.UID{}, waiting: map[types.UID]func(){}}
}

// Admit promises the pod its room, or says why not. A pod that is in the ledger is admitted again at no cost. force
// admits whatever it takes: for pods which were running before the kubelet was.
func (l *Ledger) Admit(pod *v1.Pod, force bool) *Rejection {
	node := l.node()
	if !force {
		if r := fits(pod, node); r != nil {
			return r
		}
	}
	e := entry{requests: requests(pod), ports: hostPorts(pod)}
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.pods[pod.UID]; ok {
		return nil
	}
	if !force && node != nil {
		if r := l.room(pod, e, node); r != nil {
			return r
		}
	}
	l.pods[pod.UID] = e
	for name, q := range e.requests {
		sum := l.used[name]
		sum.Add(q)
		l.used[name] = sum
	}
	for _, p := range e.ports {
		l.ports[p] = pod.UID
	}
	return nil
}

// Resize promises a pod in the ledger the room that it asks for now in place of what it had, or says why not: Infeasible when the node could never give
// it, Deferred when it cannot at present. Then freed, which must not block, is called once when it is worth another try.
func (l *Ledger) Resize(pod *v1.Pod, freed func()) *Rejection {
	node := l.node()
	want := requests(pod)
	l.mu.Lock()
	defer l.mu.Unlock()
	e, ok := l.pods[pod.UID]
	if !ok {
		return nil
	}
	delete(l.waiting, pod.UID)
	less := false
	if node != nil {
		for _, name := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory} {
			had, asked, allocatable := e.requests[name], want[name], node.Status.Allocatable[name]
			if asked.Cmp(had) <= 0 { // what it gives back is always taken
				less = less || asked.Cmp(had) < 0
				continue
			}
			amount := func(q resource.Quantity) int64 {
				if name == v1.ResourceCPU {
					return q.MilliValue()
				}
				return q.Value()
			}
			if asked.Cmp(allocatable) > 0 {
				return &Rejection{v1.PodReasonInfeasible, fmt.Sprintf("Node didn't have enough capacity: %s, requested: %d, capacity: %d", name, amount(asked), amount(allocatable))}
			}
			others := l.used[name].DeepCopy()
			others.Sub(had)
			sum := others.DeepCopy()
			sum.Add(asked)
			if sum.Cmp(allocatable) > 0 {
				l.waiting[pod.UID] = freed
				return &Rejection{v1.PodReasonDeferred, fmt.Sprintf("Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d", name, amount(asked), amount(others), amount(allocatable))}
			}
		}
	}
	for name, q := range e.requests {
		sum := l.used[name]
		sum.Sub(q)
		l.used[name] = sum
	}
	for name, q := range want {
		sum := l.used[name]
		sum.Add(q)
		l.used[name] = sum
	}
	e.requests = want
	l.pods[pod.UID] = e
	if less {
		l.tellFreed()
	}
	return nil
}

// Freed says that the node may have become larger.
func (l *Ledger) Freed() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tellFreed()
}

// tellFreed tells all who wait for room to try again. Callers hold mu.
func (l *Ledger) tellFreed() {
	for uid, freed := range l.waiting {
		delete(l.waiting, uid)
		freed()
	}
}

// Release gives a pod's room back. Releasing what is not there is no error.
func (l *Ledger) Release(uid types.UID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e, ok := l.pods[uid]
	if !ok {
		return
	}
	delete(l.pods, uid)
	delete(l.waiting, uid)
	for name, q := range e.requests {
		sum := l.used[name]
		sum.Sub(q)
		l.used[name] = sum
	}
	for _, p := range e.ports {
		if l.ports[p] == uid {
			delete(l.ports, p)
		}
	}
	l.tellFreed()
}

// room checks what depends on the other pods. Callers hold mu.
func (l *Ledger) room(pod *v1.Pod, e entry, node *v1.Node) *Rejection {
	if q, ok := node.Status.Allocatable[v1.ResourcePods]; ok && int64(len(l.pods)) >= q.Value() {
		return resourceRejection(v1.ResourcePods, 1, int64(len(l.pods)), q.Value())
	}
	for _, name := range slices.SortedFunc(maps.Keys(e.requests), order) {
		want := e.requests[name]
		if want.IsZero() {
			continue
		}
		have := node.Status.Allocatable[name]
		used := l.used[name]
		sum := used.DeepCopy()
		sum.Add(want)
		if sum.Cmp(have) <= 0 {
			continue
		}
		if name == v1.ResourceCPU {
			return resourceRejection(name, want.MilliValue(), used.MilliValue(), have.MilliValue())
		}
		return resourceRejection(name, want.Value(), used.Value(), have.Value())
	}
	for _, p := range e.ports {
		for other := range l.ports {
			if p.protocol == other.protocol && p.number == other.number && (p.ip == other.ip || p.ip == "0.0.0.0" || other.ip == "0.0.0.0") {
				return &Rejection{"NodePorts", "Pod was rejected: Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"}
			}
		}
	}
	return nil
}

// order puts the resources that users know first, so that of several shortages the plainest is named.
func order(a, b v1.ResourceName) int {
	rank := func(n v1.ResourceName) int {
		switch n {
		case v1.ResourceCPU:
			return 0
		case v1.ResourceMemory:
			return 1
		}
		return 2
	}
	return cmp.Or(cmp.Compare(rank(a), rank(b)), strings.Compare(string(a), string(b)))
}

func resourceRejection(name v1.ResourceName, want, used, have int64) *Rejection {
	return &Rejection{"OutOf" + string(name), fmt.Sprintf("Pod was rejected: Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d", name, want, used, have)}
}

// fits checks what depends on the pod and the node alone.
func fits(pod *v1.Pod, node *v1.Node) *Rejection {
	if pod.Spec.OS != nil && pod.Spec.OS.Name != v1.Linux {
		return &Rejection{"PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"}
	}
	if node == nil {
		return nil
	}
	if os, ok := pod.Spec.NodeSelector[v1.LabelOSStable]; ok && os != "linux" {
		return &Rejection{"PodOSSelectorNodeLabelDoesNotMatch", fmt.Sprintf("Failed to admit pod as the `%s` label doesn't match node label", v1.LabelOSStable)}
	}
	if pod.Spec.NodeName != "" && pod.Spec.NodeName != node.Name {
		return &Rejection{"NodeName", "Pod was rejected: Predicate NodeName failed: node(s) didn't match the requested node name"}
	}
	if ok, err := nodeaffinity.GetRequiredNodeAffinity(pod).Match(node); err != nil || !ok {
		return &Rejection{"NodeAffinity", "Pod was rejected: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"}
	}
	if static(pod) {
		return nil // a static pod is the node's own: taints do not keep it away
	}
	evicting := func(t *v1.Taint) bool { return t.Effect == v1.TaintEffectNoExecute }
	if taint, bad := untolerated(node.Spec.Taints, pod.Spec.Tolerations, evicting); bad {
		return &Rejection{"TaintToleration", fmt.Sprintf("Pod was rejected: Predicate TaintToleration failed: node(s) had untolerated taint {%s: %s}", taint.Key, taint.Value)}
	}
	return nil
}

func untolerated(taints []v1.Taint, tolerations []v1.Toleration, which func(*v1.Taint) bool) (v1.Taint, bool) {
	for i := range taints {
		if t := &taints[i]; which(t) && !corev1helpers.TolerationsTolerateTaint(logr.Discard(), tolerations, t, true) {
			return *t, true
		}
	}
	return v1.Taint{}, false
}

// static says whether the pod comes from this node's own directory.
func static(pod *v1.Pod) bool {
	source, ok := pod.Annotations["kubernetes.io/config.source"]
	return ok && source != "api"
}

func requests(pod *v1.Pod) v1.ResourceList {
	return helpers.PodRequests(pod, helpers.PodResourcesOptions{})
}

func hostPorts(pod *v1.Pod) []port {
	var all []port
	add := func(c *v1.Container) {
		for _, p := range c.Ports {
			if p.HostPort <= 0 {
				continue
			}
			k := port{p.HostIP, p.Protocol, p.HostPort}
			if k.ip == "" {
				k.ip = "0.0.0.0"
			}
			if k.protocol == "" {
				k.protocol = v1.ProtocolTCP
			}
			all = append(all, k)
		}
	}
	for i := range pod.Spec.Containers {
		add(&pod.Spec.Containers[i])
	}
	for i := range pod.Spec.InitContainers {
		if c := &pod.Spec.InitContainers[i]; c.RestartPolicy != nil && *c.RestartPolicy == v1.ContainerRestartPolicyAlways {
			add(c)
		}
	}
	return all
}
