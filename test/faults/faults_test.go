// Package faults kills processes of real clusters at any moment, and checks from outside that nothing acknowledged is lost, that no
// container notices, and that nothing stays which belongs to nobody. It needs root.
package faults

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"wherry.dev/wherry/test/outside"
)

func TestMain(m *testing.M) { outside.Main(m) }

// rounds of kill -9: WHERRY_KILL_ROUNDS, or 10.
func rounds(t *testing.T) int {
	text := os.Getenv("WHERRY_KILL_ROUNDS")
	if text == "" {
		return 10
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("WHERRY_KILL_ROUNDS=%q: give a number above 0", text)
	}
	return n
}

func kill(t *testing.T, pid int) {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatalf("open process %d: %v", pid, err)
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil {
		t.Fatalf("kill process %d: %v", pid, err)
	}
	for { // until it has ended: poll returns when a pidfd is readable
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10000)
		if !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// container is what must not change when a part of Wherry is killed.
type container struct {
	id       string
	pid      int
	restarts int32
}

// containers reads who runs, from the API and from the cgroups.
func containers(ctx context.Context, c *outside.Cluster, pods ...string) (map[string]container, error) {
	out := map[string]container{}
	for _, name := range pods {
		pod, err := c.Kube.CoreV1().Pods("default").Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return nil, err
		}
		if len(pod.Status.ContainerStatuses) != 1 || !pod.Status.ContainerStatuses[0].Ready {
			return nil, fmt.Errorf("pod %s is not ready: %+v", name, pod.Status)
		}
		status := pod.Status.ContainerStatuses[0]
		id := strings.TrimPrefix(status.ContainerID, "containerd://")
		pid, err := outside.ContainerPID(string(pod.UID), id)
		if err != nil {
			return nil, fmt.Errorf("pod %s: %w", name, err)
		}
		out[name] = container{id: id, pid: pid, restarts: status.RestartCount}
	}
	return out, nil
}

func mustContainers(t *testing.T, c *outside.Cluster, pods ...string) map[string]container {
	t.Helper()
	out, err := containers(t.Context(), c, pods...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// unchanged waits until the same containers run as before, and fails at once when others do.
func unchanged(t *testing.T, c *outside.Cluster, before map[string]container) {
	t.Helper()
	outside.Eventually(t, 20*time.Second, func() error {
		now, err := containers(t.Context(), c, slices.Collect(maps.Keys(before))...)
		if err != nil {
			return err
		}
		if !maps.Equal(now, before) {
			t.Fatalf("containers were %+v and are %+v", before, now)
		}
		return nil
	})
}

// noOrphans waits until runtime, cgroups and directories of every node have the API's pods and nothing else.
func noOrphans(t *testing.T, c *outside.Cluster) {
	t.Helper()
	outside.Eventually(t, 60*time.Second, func() error {
		list, err := c.Kube.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		for i := 1; i <= c.Nodes; i++ {
			var want []string
			for _, pod := range list.Items {
				if pod.Spec.NodeName == c.NodeName(i) {
					want = append(want, string(pod.UID))
				}
			}
			slices.Sort(want)
			sandboxes, err := c.Sandboxes(i)
			if err != nil {
				return err
			}
			cgroups, err := c.PodsWithCgroups(i)
			if err != nil {
				return err
			}
			directories, err := c.PodsWithDirectories(i)
			if err != nil {
				return err
			}
			shims, err := c.Shims(i)
			if err != nil {
				return err
			}
			if len(shims) != len(sandboxes) {
				return fmt.Errorf("node %d has the shims %v for %d sandboxes", i, shims, len(sandboxes))
			}
			slices.Sort(sandboxes)
			for what, got := range map[string][]string{"sandboxes": sandboxes, "cgroups": slices.Sorted(maps.Keys(cgroups)), "directories": slices.Sorted(maps.Keys(directories))} {
				if !slices.Equal(got, want) {
					return fmt.Errorf("node %d has %s of pods %v, the API has %v", i, what, got, want)
				}
			}
		}
		return nil
	})
}

// run makes a pod and waits for it to be Ready.
func run(c *outside.Cluster, name string, args ...string) {
	c.Kubectl(append([]string{"run", name, "--image=wherry.dev/sample:1"}, args...)...)
	c.Kubectl("wait", "--for=condition=Ready", "pod/"+name, "--timeout=30s")
}

// TestServerKilledUnderWrites kills the server, which is etcd, API server, scheduler, controllers and a node's parts in one process, again and
// again while clients write and pods come and go.
func TestServerKilledUnderWrites(t *testing.T) {
	c := outside.Up(t, "k", 1)
	run(c, "keep-1")
	run(c, "keep-2")
	before := mustContainers(t, c, "keep-1", "keep-2")

	ctx, cancel := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	stop := sync.OnceFunc(func() {
		cancel()
		clients.Wait()
	})
	defer stop()
	ledgers := make([]*ledger, 4)
	for i := range ledgers {
		ledgers[i] = newLedger(i)
		clients.Go(func() { ledgers[i].write(ctx, c.Kube) })
	}
	clients.Go(func() { churn(ctx, c) })
	acknowledged := func() (n int) {
		for _, l := range ledgers {
			n += l.count()
		}
		return n
	}
	for round := range rounds(t) {
		from := acknowledged()
		// A different moment of the work each time.
		outside.Eventually(t, 30*time.Second, func() error {
			if n := acknowledged() - from; n < 40+17*(round%7) {
				return fmt.Errorf("round %d: only %d writes were acknowledged", round, n)
			}
			return nil
		})
		kill(t, c.MainPID(1))
		c.Continue()
		unchanged(t, c, before)
	}
	stop()
	total := 0
	for _, l := range ledgers {
		total += l.check(t, c.Kube)
	}
	t.Logf("%d writes acknowledged over %d kills, none lost", total, rounds(t))
	unchanged(t, c, before)
	c.Kubectl("delete", "pod", "-l", "app=churn", "--timeout=60s")
	noOrphans(t, c)
	run(c, "after") // and it still works
}

// churn creates and deletes pods, so that kills meet sandboxes, volumes and cgroups half-made and half-removed.
func churn(ctx context.Context, c *outside.Cluster) {
	pods := c.Kube.CoreV1().Pods("default")
	for i := 0; ctx.Err() == nil; i++ {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("churn-%d", i), Labels: map[string]string{"app": "churn"}},
			Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "wherry.dev/sample:1"}}}}
		once := func(f func(context.Context) error) {
			call, cancel := context.WithTimeout(ctx, 2*time.Second)
			defer cancel()
			_ = f(call) // the server may be dead; the next call finds out
		}
		once(func(ctx context.Context) error { _, err := pods.Create(ctx, pod, metav1.CreateOptions{}); return err })
		once(func(ctx context.Context) error { // until it runs, or not
			w, err := pods.Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + pod.Name})
			if err != nil {
				return err
			}
			defer w.Stop()
			for event := range w.ResultChan() {
				if p, ok := event.Object.(*corev1.Pod); ok && p.Status.Phase == corev1.PodRunning {
					break
				}
			}
			return nil
		})
		once(func(ctx context.Context) error { return pods.Delete(ctx, pod.Name, metav1.DeleteOptions{}) })
	}
}

// TestServerKilledWhileStarting kills the server exactly while the runtime makes or starts a container for it. The container is not restarted
// for that, not even for a pod that must never be, and it can be removed.
func TestServerKilledWhileStarting(t *testing.T) {
	c := outside.Up(t, "s", 1)
	run(c, "keep")
	before := mustContainers(t, c, "keep")
	for round := range rounds(t) {
		for _, command := range []string{"create", "start"} {
			name := fmt.Sprintf("%s-%d", command, round)
			server := c.MainPID(1)
			c.Kubectl("run", name, "--image=wherry.dev/sample:1", "--restart=Never")
			// runc takes some 20 ms for either: this looks again at once.
			caught := false
			for deadline := time.Now().Add(10 * time.Second); !caught && time.Now().Before(deadline); {
				ids, err := c.RuncUnderWay(1, command)
				if err != nil {
					t.Fatal(err)
				}
				if caught = len(ids) > 0; !caught && command == "start" {
					pod, err := c.Kube.CoreV1().Pods("default").Get(t.Context(), name, metav1.GetOptions{})
					if err == nil && pod.Status.Phase == corev1.PodRunning {
						break // it was too quick; the pod is still worth a kill
					}
				}
			}
			kill(t, server)
			t.Logf("%s: killed under way: %v", name, caught)
			c.Continue()
			c.Kubectl("wait", "--for=condition=Ready", "pod/"+name, "--timeout=30s")
			now := mustContainers(t, c, name)
			if n := now[name].restarts; n != 0 {
				t.Errorf("%s was restarted %d times", name, n)
			}
			c.Kubectl("delete", "pod", name, "--timeout=30s")
		}
	}
	unchanged(t, c, before)
	noOrphans(t, c)
}

// TestAgentKilled: a node whose agent is killed goes on serving, and the agent finds everything again.
func TestAgentKilled(t *testing.T) {
	c := outside.Up(t, "g", 2)
	run(c, "web", "--overrides", fmt.Sprintf(`{"spec":{"nodeName":%q}}`, c.NodeName(2)), "--labels=app=web")
	c.Kubectl("expose", "pod", "web", "--port=80", "--target-port=8080")
	service, err := c.Kube.CoreV1().Services("default").Get(t.Context(), "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	before := mustContainers(t, c, "web")
	ask := func(node int) error {
		_, err := outside.Get(outside.HTTPFrom(c.Netns(node), 2*time.Second), "http://"+service.Spec.ClusterIP+"/")
		return err
	}
	for node := 1; node <= 2; node++ {
		outside.Eventually(t, 5*time.Second, func() error { return ask(node) })
	}
	kill(t, c.MainPID(2))
	for node := 1; node <= 2; node++ { // rules and containers stay without the agent
		if err := ask(node); err != nil {
			t.Errorf("from node %d while the agent is dead: %v", node, err)
		}
	}
	c.Continue()
	unchanged(t, c, before)
	// A pod that is deleted while nobody is there to stop it goes when somebody is again.
	kill(t, c.MainPID(2))
	c.Kubectl("delete", "pod", "web", "--wait=false")
	c.Continue()
	c.Kubectl("wait", "--for=delete", "pod/web", "--timeout=30s")
	noOrphans(t, c)
}

// TestContainerdKilled: containers belong to their shims; a killed containerd is started again and finds them.
func TestContainerdKilled(t *testing.T) {
	c := outside.Up(t, "c", 1)
	run(c, "keep")
	before := mustContainers(t, c, "keep")
	for range 3 {
		pid, err := c.ContainerdPID(1)
		if err != nil {
			t.Fatal(err)
		}
		kill(t, pid)
		outside.Eventually(t, 20*time.Second, func() error {
			now, err := c.ContainerdPID(1)
			if err == nil && now == pid {
				err = fmt.Errorf("process %d is still containerd", pid)
			}
			return err
		})
		unchanged(t, c, before)
		run(c, "next")
		c.Kubectl("delete", "pod", "next")
	}
	unchanged(t, c, before)
	noOrphans(t, c)
}
