package kubelet_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"

	"wherry.dev/wherry/client"
	"wherry.dev/wherry/embedded/containerd"
	"wherry.dev/wherry/embedded/images"
	"wherry.dev/wherry/embedded/programs"
	"wherry.dev/wherry/kubelet"
	"wherry.dev/wherry/kubelet/cgroups"
	"wherry.dev/wherry/kubelet/runtime"
	"wherry.dev/wherry/network/cni"
	"wherry.dev/wherry/trace"
)

const inside = "WHERRY_TEST_NODE"

// TestMain runs the tests in network, mount and process namespaces of
// their own: neither packets nor mounts are the machine's, and every process ends with the tests, however they end.
func TestMain(m *testing.M) {
	if os.Getuid() != 0 || os.Getenv(inside) != "" {
		if os.Getenv(inside) != "" {
			if err := settle(); err != nil {
				fmt.Fprintln(os.Stderr, "settle in the test's namespaces:", err)
				os.Exit(1)
			}
		}
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	// Named here, by a process that outlives the tests: it removes what is left of the cgroups.
	group := fmt.Sprintf("/wherry-test-kubelet-%d", os.Getpid())
	home, err := os.MkdirTemp("/run", "wkt") // short: sockets lie below it
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	cmd.Env = append(os.Environ(), inside+"="+group, "TMPDIR="+home)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
	signal.Ignore(syscall.SIGINT, syscall.SIGQUIT)
	goruntime.LockOSThread() // Pdeathsig follows the thread
	err = cmd.Run()
	clearGroups(group)
	if err := os.RemoveAll(home); err != nil {
		fmt.Fprintln(os.Stderr, "remove the test's files:", err)
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		os.Exit(max(exit.ExitCode(), 1))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "run the tests in namespaces of their own:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// clearGroups removes the tests' cgroups; nothing runs in them any more.
func clearGroups(group string) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	m, err := cgroups.New(cgroups.Config{Root: group})
	if err == nil {
		err = m.Clear(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "remove the test's cgroups:", err)
	}
}

func settle() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return err
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

// node is a kubelet with a real containerd and a fake API server.
type node struct {
	t       testing.TB
	api     *fake.Clientset
	config  kubelet.Config
	process *containerd.Process
	spans   *spanList
	stop    func()
	cg      *cgroups.Manager
}

type spanList struct {
	mu  sync.Mutex
	all []trace.Span
}

func (l *spanList) Record(s trace.Span) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, s)
}

func (l *spanList) of(uid types.UID) []trace.Span {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []trace.Span
	for _, s := range l.all {
		if s.PodUID == string(uid) {
			out = append(out, s)
		}
	}
	return out
}

const sample = "wherry.dev/sample:1"

var nodes int

func newNode(t testing.TB) *node {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("pods need root")
	}
	nodes++
	state, err := os.MkdirTemp("", "s")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(state) })
	root := t.TempDir()
	bin, err := programs.Unpack(filepath.Join(root, "bin"), containerd.Program, "containerd-shim-runc-v2", "runc", cni.ProgramName)
	if err != nil { // built without `make`: the plugin at least is quickly made
		if bin, err = programs.Unpack(filepath.Join(root, "bin"), containerd.Program, "containerd-shim-runc-v2", "runc"); err != nil {
			t.Skip(err)
		}
		build := exec.Command("go", "build", "-o", filepath.Join(bin, cni.ProgramName), "../cmd/wherry-cni")
		if out, err := build.CombinedOutput(); err != nil {
			t.Skipf("the CNI plugin cannot be built: %v\n%s", err, out)
		}
	}
	netd := filepath.Join(root, "net.d")
	network := cni.Network{Name: "test", PodCIDRs: []string{fmt.Sprintf("10.99.%d.0/24", nodes)}, StateDir: filepath.Join(root, "cni")}
	writeNetwork(t, netd, network)
	cc := containerd.Config{Root: filepath.Join(root, "c"), State: state, BinDir: bin, CNIBinDirs: []string{bin}, CNIConfDir: netd,
		SandboxImage: images.Sandbox.Name, LogFile: filepath.Join(root, "containerd.log")}
	process, err := containerd.Start(t.Context(), cc, slog.New(slog.DiscardHandler))
	if err != nil {
		log, _ := os.ReadFile(cc.LogFile)
		t.Fatalf("%v\n%s", err, log)
	}
	store, err := containerd.OpenImages(cc.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	for _, i := range []images.Image{images.Sandbox, images.Sample} {
		archive, err := i.Open()
		if err != nil {
			t.Skip(err)
		}
		if _, err := store.Import(t.Context(), archive, true); err != nil {
			t.Fatal(err)
		}
	}
	group := fmt.Sprintf("%s/%d", os.Getenv(inside), nodes)
	n := &node{t: t, api: fake.NewClientset(), process: process, spans: &spanList{}}
	n.config = kubelet.Config{
		NodeName: "n1", Client: &client.Set{Kubernetes: n.api, Informers: informers.NewSharedInformerFactory(n.api, 0)}, HostIPs: []string{"127.0.0.1"},
		Root: filepath.Join(root, "kubelet"), LogsDir: filepath.Join(root, "logs"), CgroupRoot: group, RuntimeEndpoint: cc.Endpoint(),
		ClusterDNS: []string{"10.96.0.10"}, ClusterDomain: "cluster.local", Trace: n.spans, Log: slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	n.api.CoreV1().Nodes().Create(t.Context(), &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{"kubernetes.io/os": "linux"}},
		Status: v1.NodeStatus{Allocatable: v1.ResourceList{"cpu": resource.MustParse("2"), "memory": resource.MustParse("4Gi"), "pods": resource.MustParse("110")}}}, metav1.CreateOptions{})
	t.Cleanup(func() {
		n.down()
		n.sweep(cc, group)
		if t.Failed() {
			log, _ := os.ReadFile(cc.LogFile)
			t.Logf("containerd: %s", log[max(0, len(log)-4000):])
		}
	})
	return n
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

func writeNetwork(t testing.TB, dir string, n cni.Network) {
	t.Helper()
	if err := cni.WriteConfig(dir, n); err != nil {
		t.Fatal(err)
	}
}

// sweep removes what a test left: containers through the runtime, then the runtime, then cgroups.
func (n *node) sweep(cc containerd.Config, group string) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if c, err := runtime.Dial(cc.Endpoint()); err == nil {
		pods, err := c.Pods(ctx, "")
		if err != nil {
			n.t.Errorf("sweep: %v", err)
		}
		for _, p := range pods {
			for _, s := range p.Sandboxes {
				if err := errors.Join(c.StopSandbox(ctx, s.ID), c.RemoveSandbox(ctx, s.ID)); err != nil {
					n.t.Errorf("sweep: %v", err)
				}
			}
		}
		c.Close()
	}
	if pid, ok := containerd.Find(cc); ok {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	m, err := cgroups.New(cgroups.Config{Root: group})
	if err == nil {
		err = m.Clear(ctx)
	}
	if err != nil {
		n.t.Errorf("sweep: %v", err)
	}
}

// up starts the kubelet and waits until it runs pods.
func (n *node) up() {
	n.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready := make(chan struct{})
	c := n.config
	c.Client = &client.Set{Kubernetes: n.api, Informers: informers.NewSharedInformerFactory(n.api, 0)}
	c.Ready = sync.OnceFunc(func() { close(ready) })
	done := make(chan error, 1)
	go func() { done <- kubelet.Run(ctx, c) }()
	n.stop = func() {
		cancel()
		if err := <-done; err != nil {
			n.t.Error(err)
		}
	}
	select {
	case <-ready:
	case err := <-done:
		done <- err
		n.t.Fatal(err)
	case <-time.After(10 * time.Second):
		n.t.Fatal("kubelet not ready after 10 s")
	}
}

func (n *node) down() {
	if n.stop != nil {
		n.stop()
		n.stop = nil
	}
}

var uids int

func (n *node) pod(name string, change func(*v1.Pod)) *v1.Pod {
	n.t.Helper()
	uids++
	grace := int64(5)
	p := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID(fmt.Sprintf("00000000-0000-4000-8000-%012d", uids)), Labels: map[string]string{"app": name}},
		Spec: v1.PodSpec{NodeName: "n1", RestartPolicy: v1.RestartPolicyAlways, TerminationGracePeriodSeconds: &grace, DNSPolicy: v1.DNSClusterFirst,
			Containers: []v1.Container{{Name: "app", Image: sample, ImagePullPolicy: v1.PullIfNotPresent, TerminationMessagePath: "/dev/termination-log", TerminationMessagePolicy: v1.TerminationMessageReadFile}}},
		Status: v1.PodStatus{Phase: v1.PodPending},
	}
	if change != nil {
		change(p)
	}
	if _, err := n.api.CoreV1().Pods("default").Create(n.t.Context(), p, metav1.CreateOptions{}); err != nil {
		n.t.Fatal(err)
	}
	return p
}

// remove does what the API server does on a graceful delete.
func (n *node) remove(p *v1.Pod, grace int64) {
	n.t.Helper()
	now := metav1.Now()
	cur, err := n.api.CoreV1().Pods(p.Namespace).Get(n.t.Context(), p.Name, metav1.GetOptions{})
	if err != nil {
		n.t.Fatal(err)
	}
	cur = cur.DeepCopy()
	cur.DeletionTimestamp, cur.DeletionGracePeriodSeconds = &now, &grace
	if _, err := n.api.CoreV1().Pods(p.Namespace).Update(n.t.Context(), cur, metav1.UpdateOptions{}); err != nil {
		n.t.Fatal(err)
	}
}

// until waits for the pod to satisfy a condition; ok gets nil when the pod is gone.
func (n *node) until(name string, limit time.Duration, what string, ok func(*v1.Pod) bool) *v1.Pod {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), limit)
	defer cancel()
	w, err := n.api.CoreV1().Pods("default").Watch(ctx, metav1.ListOptions{})
	if err != nil {
		n.t.Fatal(err)
	}
	defer w.Stop()
	var last *v1.Pod
	check := func() bool {
		p, err := n.api.CoreV1().Pods("default").Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			p = nil
		}
		last = p
		return ok(p)
	}
	for !check() {
		select {
		case <-w.ResultChan():
		case <-ctx.Done():
			var text bytes.Buffer
			if last != nil {
				e := json.NewEncoder(&text)
				e.SetIndent("", " ")
				_ = e.Encode(last.Status)
			}
			events, _ := n.api.CoreV1().Events("default").List(context.Background(), metav1.ListOptions{})
			for _, e := range events.Items {
				fmt.Fprintf(&text, "%s %s %s: %s\n", e.InvolvedObject.Name, e.Type, e.Reason, e.Message)
			}
			n.t.Fatalf("pod %s is not %s after %s:\n%s", name, what, limit, text.String())
		}
	}
	return last
}

func isReady(p *v1.Pod) bool {
	if p == nil {
		return false
	}
	for _, c := range p.Status.Conditions {
		if c.Type == v1.PodReady {
			return c.Status == v1.ConditionTrue
		}
	}
	return false
}

func gone(p *v1.Pod) bool { return p == nil }

func TestPodRunsAndGoes(t *testing.T) {
	n := newNode(t)
	n.up()
	begun := time.Now()
	p := n.pod("one", nil)
	got := n.until("one", 10*time.Second, "ready", isReady)
	t.Logf("ready after %s", time.Since(begun))
	if got.Status.Phase != v1.PodRunning || got.Status.PodIP == "" || got.Status.StartTime == nil {
		t.Errorf("status: %+v", got.Status)
	}
	cs := got.Status.ContainerStatuses[0]
	if cs.State.Running == nil || !cs.Ready || cs.Started == nil || !*cs.Started || !strings.HasPrefix(cs.ContainerID, "containerd://") {
		t.Errorf("container status: %+v", cs)
	}
	begun = time.Now()
	n.remove(p, 5)
	n.until("one", 10*time.Second, "gone", gone)
	t.Logf("gone after %s", time.Since(begun))
	for _, dir := range []string{n.config.Root + "/pods/" + string(p.UID), n.config.LogsDir + "/default_one_" + string(p.UID)} {
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s is still there", dir)
		}
	}
	for _, s := range n.spans.of(p.UID) {
		t.Logf("span %s %s %s %s %s", s.Stage, s.Detail, s.End.Sub(s.Start), s.Outcome, s.Message)
	}
}
