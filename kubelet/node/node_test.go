package node

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"wherry.dev/wherry/client"
)

// machine is a made-up one.
type machine struct {
	mu   sync.Mutex
	load Load
}

func (*machine) Facts() (Facts, error) {
	return Facts{MachineID: "m", SystemUUID: "s", BootID: "b", Kernel: "6.18", OSImage: "Test OS", CPUs: 4, Memory: 8 << 30, Swap: 1 << 30,
		NodeFSBytes: 100 << 30, HugePages: map[int64]int64{2 << 20: 1 << 30, 1 << 30: 0}}, nil
}

func (m *machine) Load() (Load, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.load, nil
}

func (m *machine) set(l Load) {
	m.mu.Lock()
	m.load = l
	m.mu.Unlock()
}

var plenty = Load{MemoryAvailable: 4 << 30, NodeFSBytes: 100, NodeFSAvailable: 50, NodeFSInodes: 100, NodeFSInodesFree: 50, PIDs: 10, MaxPIDs: 32768}

// engine is a made-up runtime.
type engine struct {
	mu    sync.Mutex
	s     RuntimeStatus
	err   error
	asked int
}

func (e *engine) Status(context.Context) (RuntimeStatus, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.asked++
	return e.s, e.err
}

func (e *engine) set(s RuntimeStatus, err error) {
	e.mu.Lock()
	e.s, e.err = s, err
	e.mu.Unlock()
}

func (e *engine) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.asked
}

var (
	working   = RuntimeStatus{Name: "containerd", Version: "2.4.2", Ready: true, NetworkReady: true, Handlers: []corev1.NodeRuntimeHandler{{Name: "runc"}}}
	noNetwork = RuntimeStatus{Name: "containerd", Version: "2.4.2", Ready: true,
		NetworkMessage: "NetworkReady=false reason:NetworkPluginNotReady message:Network plugin returns error: cni plugin not initialized"}
)

func condition(n *corev1.Node, kind corev1.NodeConditionType) corev1.NodeCondition {
	for _, c := range n.Status.Conditions {
		if c.Type == kind {
			return c
		}
	}
	return corev1.NodeCondition{}
}

// run starts a node in a bubble of fake time and returns how to stop it.
func run(t *testing.T, c Config) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	c.Log = slog.New(slog.DiscardHandler)
	done := make(chan error, 1)
	go func() { done <- Run(ctx, c) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func get(t *testing.T, api *fake.Clientset) *corev1.Node {
	t.Helper()
	n, err := api.CoreV1().Nodes().Get(t.Context(), "n1", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// writes counts calls that change something of a resource.
func writes(api *fake.Clientset, name string) int {
	n := 0
	for _, a := range api.Actions() {
		if a.GetResource().Resource == name && a.GetVerb() != "get" && a.GetVerb() != "watch" && a.GetVerb() != "list" {
			n++
		}
	}
	return n
}

// TestStory: a node registers, gets its range, becomes ready within milliseconds of its network, then costs a lease
// renewal every ten seconds and a status every five minutes, and reports what goes wrong.
func TestStory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := fake.NewClientset()
		m, e := &machine{load: plenty}, &engine{s: noNetwork}
		cidrs := make(chan []string, 4)
		ready := make(chan time.Time, 4)
		changed := make(chan struct{}, 1)
		stop := run(t, Config{Name: "n1", Client: &client.Set{Kubernetes: api}, Machine: m, Runtime: e, Version: "v1.37.2", ProviderID: "wherry://n1",
			IPs: []net.IP{net.IPv4(10, 0, 0, 7), net.ParseIP("fd00::7")}, Labels: map[string]string{"zone": "a"}, Taints: []corev1.Taint{{Key: "k", Effect: corev1.TaintEffectNoSchedule}},
			Reserved: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("500m"), corev1.ResourceMemory: resource.MustParse("1Gi")},
			Images: func(context.Context) ([]corev1.ContainerImage, error) {
				return []corev1.ContainerImage{{Names: []string{"small"}, SizeBytes: 1}, {Names: []string{"big"}, SizeBytes: 2}}, nil
			},
			OnPodCIDRs: func(c []string) { cidrs <- c }, Ready: func() { ready <- time.Now() }, Changed: changed})
		defer stop()
		synctest.Wait()
		n := get(t, api)
		if c := condition(n, corev1.NodeReady); c.Status != corev1.ConditionFalse || c.Reason != "KubeletNotReady" || c.Message != "container runtime network not ready: "+noNetwork.NetworkMessage {
			t.Errorf("before its network: %+v", c)
		}
		for k, v := range map[string]string{"kubernetes.io/hostname": "n1", "kubernetes.io/os": "linux", "beta.kubernetes.io/os": "linux", "zone": "a"} {
			if n.Labels[k] != v {
				t.Errorf("label %s=%q", k, n.Labels[k])
			}
		}
		if n.Spec.ProviderID != "wherry://n1" || len(n.Spec.Taints) != 1 || n.Annotations[managedAttach] != "true" {
			t.Errorf("spec %+v", n.Spec)
		}
		for name, want := range map[corev1.ResourceName][2]string{"cpu": {"4", "3500m"}, "memory": {"8Gi", "6044Mi"}, "pods": {"110", "110"}, "hugepages-2Mi": {"1Gi", "1Gi"}, "hugepages-1Gi": {"0", "0"}, "ephemeral-storage": {"100Gi", "90Gi"}} {
			if c, a := n.Status.Capacity[name], n.Status.Allocatable[name]; c.Cmp(resource.MustParse(want[0])) != 0 || a.Cmp(resource.MustParse(want[1])) != 0 {
				t.Errorf("%s: capacity %s allocatable %s, want %v", name, &c, &a, want)
			}
		}
		i := n.Status.NodeInfo
		if i.ContainerRuntimeVersion != "containerd://2.4.2" || i.KubeletVersion != "v1.37.2" || i.BootID != "b" || i.Swap == nil || n.Status.DaemonEndpoints.KubeletEndpoint.Port != 10250 {
			t.Errorf("node info %+v", i)
		}
		if len(n.Status.Addresses) != 3 || n.Status.Addresses[1].Address != "fd00::7" || n.Status.Addresses[2].Type != corev1.NodeHostName {
			t.Errorf("addresses %+v", n.Status.Addresses)
		}
		if len(n.Status.Images) != 2 || n.Status.Images[0].Names[0] != "big" {
			t.Errorf("images %+v", n.Status.Images)
		}

		// Long without a network, it asks twice a second; the range arrives, and then it asks often.
		time.Sleep(30 * time.Second)
		n = get(t, api)
		n.Spec.PodCIDR, n.Spec.PodCIDRs = "10.1.0.0/24", []string{"10.1.0.0/24"}
		if _, err := api.CoreV1().Nodes().Update(t.Context(), n, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		if got := <-cidrs; !slices.Equal(got, []string{"10.1.0.0/24"}) {
			t.Errorf("ranges %v", got)
		}
		time.Sleep(40 * time.Millisecond)
		up := time.Now()
		e.set(working, nil)
		if took := (<-ready).Sub(up); took > 30*time.Millisecond {
			t.Errorf("ready %s after its network", took)
		}
		synctest.Wait()
		n = get(t, api)
		if c := condition(n, corev1.NodeReady); c.Status != corev1.ConditionTrue || c.Reason != "KubeletReady" || c.Message != "kubelet is posting ready status" || !c.LastTransitionTime.Time.Equal(up.Truncate(time.Second)) && c.LastTransitionTime.Sub(up) > time.Second {
			t.Errorf("ready: %+v", c)
		}

		// An hour in which nothing happens.
		nodes, leases, asked := writes(api, "nodes"), writes(api, "leases"), e.count()
		time.Sleep(time.Hour)
		synctest.Wait()
		if got := writes(api, "nodes") - nodes; got > 12 || got < 11 {
			t.Errorf("%d node writes in a quiet hour", got)
		}
		if got := writes(api, "leases") - leases; got < 359 || got > 361 {
			t.Errorf("%d lease renewals in an hour", got)
		}
		if got := e.count() - asked; got > 361 {
			t.Errorf("runtime asked %d times in a quiet hour", got)
		}
		lease, err := api.CoordinationV1().Leases("kube-node-lease").Get(t.Context(), "n1", metav1.GetOptions{})
		if err != nil || *lease.Spec.HolderIdentity != "n1" || *lease.Spec.LeaseDurationSeconds != 40 || time.Since(lease.Spec.RenewTime.Time) > 10*time.Second || len(lease.OwnerReferences) != 1 {
			t.Errorf("lease %+v %v", lease, err)
		}

		// Memory runs out and comes back: reported within a look, and kept for five minutes.
		low := plenty
		low.MemoryAvailable = 50 << 20
		m.set(low)
		time.Sleep(11 * time.Second)
		if c := condition(get(t, api), corev1.NodeMemoryPressure); c.Status != corev1.ConditionTrue || c.Reason != "KubeletHasInsufficientMemory" {
			t.Errorf("memory low: %+v", c)
		}
		m.set(plenty)
		time.Sleep(4 * time.Minute)
		if c := condition(get(t, api), corev1.NodeMemoryPressure); c.Status != corev1.ConditionTrue {
			t.Errorf("pressure flaps: %+v", c)
		}
		time.Sleep(90 * time.Second)
		if c := condition(get(t, api), corev1.NodeMemoryPressure); c.Status != corev1.ConditionFalse || c.Reason != "KubeletHasSufficientMemory" {
			t.Errorf("memory back: %+v", c)
		}

		// The runtime goes and comes back; a hint makes it seen at once.
		e.set(RuntimeStatus{}, errors.New("connection refused"))
		changed <- struct{}{}
		synctest.Wait()
		if c := condition(get(t, api), corev1.NodeReady); c.Status != corev1.ConditionFalse || c.Message != "container runtime is down: connection refused" {
			t.Errorf("runtime gone: %+v", c)
		}
		e.set(working, nil)
		time.Sleep(time.Second)
		if c := condition(get(t, api), corev1.NodeReady); c.Status != corev1.ConditionTrue {
			t.Errorf("runtime back: %+v", c)
		}
		if len(ready) != 0 {
			t.Error("Ready called twice")
		}
	})
}

// TestTakesOver: a node that exists keeps what others gave it, and what the kubelet says of itself is brought up to date.
func TestTakesOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := fake.NewClientset(&corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "u", Labels: map[string]string{"role": "db", "kubernetes.io/arch": "old"}},
			Spec:       corev1.NodeSpec{PodCIDR: "10.2.0.0/24", Unschedulable: true},
			Status: corev1.NodeStatus{Capacity: corev1.ResourceList{"example.com/gpu": resource.MustParse("2")},
				Addresses:  []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.9.9.9"}},
				Conditions: []corev1.NodeCondition{{Type: corev1.NodeNetworkUnavailable, Status: corev1.ConditionFalse, Reason: "RouteCreated"}}},
		})
		ready := make(chan struct{}, 1)
		var cidrs []string
		stop := run(t, Config{Name: "n1", Client: &client.Set{Kubernetes: api}, Machine: &machine{load: plenty}, Runtime: &engine{s: working},
			IPs: []net.IP{net.IPv4(10, 0, 0, 7), net.ParseIP("fd00::7")}, Ready: func() { ready <- struct{}{} }, OnPodCIDRs: func(c []string) { cidrs = c }})
		<-ready
		synctest.Wait()
		n := get(t, api)
		stop()
		if n.Labels["role"] != "db" || n.Labels["kubernetes.io/arch"] == "old" || !n.Spec.Unschedulable {
			t.Errorf("labels %v, unschedulable %v", n.Labels, n.Spec.Unschedulable)
		}
		if condition(n, corev1.NodeNetworkUnavailable).Reason != "RouteCreated" {
			t.Error("another's condition was removed")
		}
		if q := n.Status.Allocatable["example.com/gpu"]; q.Value() != 2 {
			t.Errorf("extended resource: %s", &q)
		}
		if len(n.Status.Addresses) != 3 || n.Status.Addresses[0].Address != "10.0.0.7" {
			t.Errorf("addresses %v", n.Status.Addresses)
		}
		if !slices.Equal(cidrs, []string{"10.2.0.0/24"}) {
			t.Errorf("ranges %v", cidrs)
		}
	})
}

// TestSurvivesErrors: an API server that fails for a while delays registration and renewals and ends nothing.
func TestSurvivesErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := fake.NewClientset()
		var mu sync.Mutex
		failing := true
		api.PrependReactor("*", "*", func(a clienttesting.Action) (bool, runtime.Object, error) {
			mu.Lock()
			defer mu.Unlock()
			return failing && a.GetVerb() != "watch", nil, errors.New("API server is away")
		})
		away := func(f bool) { mu.Lock(); failing = f; mu.Unlock() }
		ready := make(chan struct{}, 1)
		e := &engine{s: working}
		stop := run(t, Config{Name: "n1", Client: &client.Set{Kubernetes: api}, Machine: &machine{load: plenty}, Runtime: e, IPs: []net.IP{net.IPv4(10, 0, 0, 7)}, Ready: func() { ready <- struct{}{} }})
		defer stop()
		time.Sleep(time.Minute)
		away(false)
		<-ready
		synctest.Wait()
		away(true)
		e.set(noNetwork, nil)
		time.Sleep(time.Minute)
		away(false)
		time.Sleep(6 * time.Second)
		synctest.Wait()
		if c := condition(get(t, api), corev1.NodeReady); c.Status != corev1.ConditionFalse {
			t.Errorf("after the API server came back: %+v", c)
		}
		lease, err := api.CoordinationV1().Leases("kube-node-lease").Get(t.Context(), "n1", metav1.GetOptions{})
		if err != nil || time.Since(lease.Spec.RenewTime.Time) > 12*time.Second {
			t.Errorf("lease after the API server came back: %+v %v", lease, err)
		}
	})
}

// TestPatchTouchesStatusOnly: what the node sends never names what others own.
func TestPatchTouchesStatusOnly(t *testing.T) {
	have := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{"a": "b"}}, Spec: corev1.NodeSpec{PodCIDR: "10.0.0.0/24"},
		Status: corev1.NodeStatus{VolumesAttached: []corev1.AttachedVolume{{Name: "v"}}}}
	api := fake.NewClientset(have)
	if _, err := patchStatus(t.Context(), api, have, corev1.NodeStatus{VolumesInUse: []corev1.UniqueVolumeName{"v"}, Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "1.2.3.4"}}}); err != nil {
		t.Fatal(err)
	}
	p := api.Actions()[0].(clienttesting.PatchAction)
	if p.GetSubresource() != "status" || p.GetPatchType() != types.StrategicMergePatchType {
		t.Errorf("patch of %q as %s", p.GetSubresource(), p.GetPatchType())
	}
	var m map[string]map[string]any
	if err := json.Unmarshal(p.GetPatch(), &m); err != nil {
		t.Fatal(err)
	}
	if keys := slices.Sorted(maps.Keys(m["status"])); len(m) != 1 || !slices.Equal(keys, []string{"addresses", "volumesInUse"}) {
		t.Errorf("patch %s", p.GetPatch())
	}
}

func TestTrimImages(t *testing.T) {
	var many []corev1.ContainerImage
	for i := range 60 {
		many = append(many, corev1.ContainerImage{SizeBytes: int64(i), Names: slices.Repeat([]string{"x"}, 9)})
	}
	got := trimImages(many)
	if len(got) != 50 || got[0].SizeBytes != 59 || len(got[0].Names) != 5 {
		t.Errorf("%d images, first %+v", len(got), got[0])
	}
}

// TestHost reads this machine, which has at least these things.
func TestHost(t *testing.T) {
	h := host{root: t.TempDir()}
	f, err := h.Facts()
	if err != nil {
		t.Fatal(err)
	}
	if f.CPUs < 1 || f.Memory < 1<<20 || f.NodeFSBytes < 1<<20 || f.Kernel == "" || f.BootID == "" || f.OSImage == "" || strings.Contains(f.OSImage, `"`) {
		t.Errorf("facts %+v", f)
	}
	l, err := h.Load()
	if err != nil || l.MemoryAvailable <= 0 || l.MemoryAvailable > f.Memory || l.NodeFSBytes != f.NodeFSBytes || l.PIDs < 1 || l.MaxPIDs < l.PIDs {
		t.Errorf("load %+v %v", l, err)
	}
	ips, err := defaultIPs()
	if err != nil || len(ips) == 0 || ips[0].To4() == nil && len(ips) > 1 {
		t.Errorf("addresses %v %v", ips, err)
	}
}

func BenchmarkQuietLook(b *testing.B) {
	api := fake.NewClientset()
	n := &node{log: slog.New(slog.DiscardHandler), c: Config{Name: "n1", Hostname: "n1", Client: &client.Set{Kubernetes: api}, Machine: host{}, Runtime: &engine{s: working}, MaxPods: 110, Eviction: &Thresholds{}}}
	n.facts, _ = host{}.Facts()
	n.reported = time.Now()
	n.known = &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Status: n.status(b.Context(), time.Now())}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := n.look(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	if len(api.Actions()) != 0 {
		b.Fatal("a quiet look wrote something")
	}
}
