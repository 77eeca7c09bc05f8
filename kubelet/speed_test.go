package kubelet_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"

	"wherry.dev/wherry/kubelet/runtime"
)

// alone is what the runtime needs by itself for the same pod: sandbox, container, stop and removal.
func (n *node) alone(c *runtime.Client, i int) (start, stop time.Duration) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	uid := fmt.Sprintf("alone-%d", i)
	dir := n.t.TempDir()
	sandbox := &runtime.SandboxConfig{Metadata: &runtime.SandboxMetadata{Name: uid, Uid: uid, Namespace: "alone"}, LogDirectory: dir, Hostname: uid,
		Linux: &runtime.LinuxSandboxConfig{CgroupParent: n.config.CgroupRoot + "/alone", SecurityContext: &runtime.SandboxSecurity{
			NamespaceOptions: &runtime.NamespaceOption{Pid: runtime.NamespaceContainer}, Seccomp: &runtime.SecurityProfile{ProfileType: runtime.ProfileUnconfined}}}}
	begun := time.Now()
	id, err := c.RunSandbox(ctx, sandbox, "")
	if err != nil {
		n.t.Fatal(err)
	}
	cid, err := c.CreateContainer(ctx, id, &runtime.ContainerConfig{Metadata: &runtime.ContainerMetadata{Name: "app"}, Image: &runtime.ImageSpec{Image: sample}, LogPath: "app.log",
		Linux: &runtime.LinuxContainerConfig{SecurityContext: &runtime.ContainerSecurity{NamespaceOptions: &runtime.NamespaceOption{Pid: runtime.NamespaceContainer},
			Seccomp: &runtime.SecurityProfile{ProfileType: runtime.ProfileUnconfined}}}}, sandbox)
	if err == nil {
		err = c.StartContainer(ctx, cid)
	}
	if err != nil {
		n.t.Fatal(err)
	}
	start = time.Since(begun)
	begun = time.Now()
	err = c.StopContainer(ctx, cid, 5*time.Second)
	for _, err := range []error{err, c.StopSandbox(ctx, id), c.RemoveSandbox(ctx, id)} {
		if err != nil {
			n.t.Fatal(err)
		}
	}
	return start, time.Since(begun)
}

func median(d []time.Duration) float64 {
	slices.Sort(d)
	return float64(d[len(d)/2]) / float64(time.Millisecond)
}

// BenchmarkPod measures what a pod costs beside what the runtime alone costs for the same, in turns.
func BenchmarkPod(b *testing.B) {
	n := newNode(b)
	n.config.Log = slog.New(slog.DiscardHandler)
	n.up()
	c, err := runtime.Dial(n.config.RuntimeEndpoint)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	var start, stop, ourStart, ourStop []time.Duration
	for i := 0; b.Loop(); i++ {
		x, y := n.alone(c, i)
		start, stop = append(start, x), append(stop, y)
		begun := time.Now()
		p := n.pod(fmt.Sprintf("speed-%d", i), nil)
		n.until(p.Name, 10*time.Second, "running", func(p *v1.Pod) bool { return p != nil && p.Status.Phase == v1.PodRunning })
		ourStart = append(ourStart, time.Since(begun))
		begun = time.Now()
		n.remove(p, 5)
		n.until(p.Name, 10*time.Second, "gone", gone)
		ourStop = append(ourStop, time.Since(begun))
	}
	b.ReportMetric(median(start), "runtime-start-ms")
	b.ReportMetric(median(ourStart), "create-to-Running-ms")
	b.ReportMetric(median(stop), "runtime-stop-ms")
	b.ReportMetric(median(ourStop), "delete-to-gone-ms")
}

// TestManyAtOnce runs many pods at once, and takes them back at once: nothing is left.
func TestManyAtOnce(t *testing.T) {
	n := newNode(t)
	n.config.Log = slog.New(slog.DiscardHandler)
	n.up()
	const many = 20
	begun := time.Now()
	var pods []*v1.Pod
	for i := range many {
		pods = append(pods, n.pod(fmt.Sprintf("many-%d", i), nil))
	}
	for _, p := range pods {
		n.until(p.Name, 30*time.Second, "ready", isReady)
	}
	t.Logf("%d pods at once ready after %s", many, time.Since(begun).Round(time.Millisecond))
	begun = time.Now()
	for _, p := range pods {
		n.remove(p, 5)
	}
	for _, p := range pods {
		n.until(p.Name, 30*time.Second, "gone", gone)
		n.nothingLeft(p)
	}
	t.Logf("and gone after %s", time.Since(begun).Round(time.Millisecond))
}

// TestRuntimeComesBack kills the runtime under running pods: they stay, and what happens while it is away is seen after.
func TestRuntimeComesBack(t *testing.T) {
	n := newNode(t)
	ctx, cancel := context.WithCancel(context.Background())
	supervised := make(chan error, 1)
	go func() { supervised <- n.process.Supervise(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-supervised; err != nil {
			t.Error(err)
		}
	})
	n.up()
	p := n.pod("steady", nil)
	before := n.until("steady", 10*time.Second, "ready", isReady)
	if err := unix.Kill(n.process.PID(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	later := n.pod("later", nil) // wants a runtime that is not there just now
	n.until("later", 30*time.Second, "ready", isReady)
	after := n.until("steady", 10*time.Second, "ready", isReady)
	if a, b := containerStatus(before, "app"), containerStatus(after, "app"); a.ContainerID != b.ContainerID || b.RestartCount != 0 {
		t.Errorf("restarted: %+v, then %+v", a, b)
	}
	if id := containerStatus(after, "app").ContainerID; id == "" {
		t.Error("no container")
	}
	n.end(p)
	n.end(later)
}
