package podworker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	k8sfake "k8s.io/client-go/kubernetes/fake"

	"wherry.dev/wherry/kubelet/admit"
	"wherry.dev/wherry/kubelet/hooks"
	"wherry.dev/wherry/kubelet/images"
	"wherry.dev/wherry/kubelet/probes"
	"wherry.dev/wherry/kubelet/runtime"
	"wherry.dev/wherry/kubelet/runtime/fake"
	"wherry.dev/wherry/lifecycle"
	"wherry.dev/wherry/trace"
)

// fixture is a manager on a fake runtime, a fake API server and a bubble's time.
type fixture struct {
	t    *testing.T
	rt   *fake.Runtime
	api  *k8sfake.Clientset
	m    *Manager
	dir  string
	stop func()

	mu       sync.Mutex
	events   []string
	execs    []string
	cgroups  map[types.UID]bool
	services []*v1.Service
	mountErr error
	node     *v1.Node // what the ledger goes by; nil: there is always room
}

func (f *fixture) Eventf(o *v1.ObjectReference, _, reason, format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.events = append(f.events, o.Name+" "+reason+": "+fmt.Sprintf(format, args...))
}

func (f *fixture) InNamespace(string) ([]*v1.Service, error) { return f.services, nil }

func (f *fixture) Mount(context.Context, *v1.Pod) []error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.mountErr != nil {
		return []error{f.mountErr}
	}
	return nil
}

func (f *fixture) ContainerMounts(context.Context, *v1.Pod, *v1.Container, func(string) (string, bool)) ([]*runtime.Mount, error) {
	return nil, nil
}
func (f *fixture) Update(*v1.Pod) {}
func (f *fixture) Unmount(_ context.Context, uid types.UID) error {
	return os.RemoveAll(f.PodDir(uid))
}
func (f *fixture) PodDir(uid types.UID) string { return filepath.Join(f.dir, "pods", string(uid)) }

func (f *fixture) Ensure(_ context.Context, p *v1.Pod) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cgroups[p.UID] = true
	return "/pods/" + string(p.UID), nil
}

func (f *fixture) Remove(_ context.Context, uid types.UID) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.cgroups, uid)
	return nil
}

func (f *fixture) ConfigMap(context.Context, types.UID, string, string) (*v1.ConfigMap, error) {
	return nil, errors.New("no configMaps here")
}

func (f *fixture) Secret(context.Context, types.UID, string, string) (*v1.Secret, error) {
	return nil, errors.New("no secrets here")
}

// ExecSync runs hooks: a command "sleep" takes that long, "false" fails.
func (f *fixture) ExecSync(ctx context.Context, id string, cmd []string, _ time.Duration) ([]byte, []byte, int32, error) {
	f.mu.Lock()
	f.execs = append(f.execs, strings.Join(cmd, " "))
	f.mu.Unlock()
	if cmd[0] == "false" {
		return nil, nil, 1, nil
	}
	if d, err := time.ParseDuration(cmd[len(cmd)-1]); err == nil {
		select {
		case <-time.After(d):
		case <-ctx.Done():
			return nil, nil, 0, ctx.Err()
		}
	}
	return nil, nil, 0, nil
}

// bubble runs a test in bubble time, with a manager whose runtime and API server have been read.
func bubble(t *testing.T, f func(*fixture)) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		x := &fixture{t: t, rt: fake.New("docker.io/library/app:1"), api: k8sfake.NewClientset(), dir: dir, cgroups: map[types.UID]bool{}}
		x.start()
		defer func() { x.stop() }()
		f(x)
	})
}

func (f *fixture) start() {
	ctx, cancel := context.WithCancel(context.Background())
	node := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}
	f.m = New(ctx, Config{
		NodeName: "n", API: f.api, Node: func() *v1.Node { return node }, HostIPs: func() []string { return []string{"192.0.2.1"} },
		Runtime: f.rt, RuntimeName: func() string { return "fake" }, Handler: func(context.Context, string) (string, error) { return "", nil },
		Images:  images.New(images.Config{Runtime: f.rt, Objects: f, Log: slog.New(slog.DiscardHandler)}),
		Volumes: f, Cgroups: f, Ledger: admit.New(func() *v1.Node { return f.node }), Prober: &probes.Prober{Exec: f, Warn: func(probes.Target, string, string) {}},
		Hooks: &hooks.Runner{Exec: f}, Objects: f, Services: f, Events: f, Trace: trace.Nop{}, Log: slog.New(slog.DiscardHandler),
		LogsDir: filepath.Join(f.dir, "logs"), HostsFile: "/dev/null", DrainTimeout: 2 * time.Second,
	})
	f.rt.Sink = f.m
	f.stop = func() {
		cancel()
		f.m.Wait()
	}
	all := map[string]runtime.Pod{}
	list, err := f.api.CoreV1().Pods("ns").List(ctx, metav1.ListOptions{})
	if err != nil {
		f.t.Fatal(err)
	}
	var objects []any
	for i := range list.Items {
		objects = append(objects, &list.Items[i])
		if p, _ := f.rt.Pod(ctx, string(list.Items[i].UID)); len(p.Sandboxes) > 0 {
			all[p.UID] = p
		}
	}
	f.m.RuntimeRelisted(time.Now(), all)
	if err := f.m.Store().Replace(objects, ""); err != nil {
		f.t.Fatal(err)
	}
	synctest.Wait()
}

// add brings a pod as the API server would.
func (f *fixture) add(p *v1.Pod) *v1.Pod {
	f.t.Helper()
	if p.Namespace == "" {
		p.Namespace = "ns"
	}
	p.UID = types.UID("uid-" + p.Name)
	for _, list := range [][]v1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			if list[i].Image == "i" {
				list[i].Image = "app:1"
			}
		}
	}
	made, err := f.api.CoreV1().Pods("ns").Create(f.t.Context(), p, metav1.CreateOptions{})
	if err != nil {
		f.t.Fatal(err)
	}
	f.m.Store().Add(made.DeepCopy())
	return made
}

func (f *fixture) get(name string) *v1.Pod {
	p, err := f.api.CoreV1().Pods("ns").Get(context.Background(), name, metav1.GetOptions{})
	if err != nil {
		return nil
	}
	return p
}

// change changes a pod and lets the kubelet see it.
func (f *fixture) change(name string, how func(*v1.Pod)) {
	f.t.Helper()
	p := f.get(name)
	if p == nil {
		f.t.Fatalf("no pod %s", name)
	}
	p = p.DeepCopy()
	how(p)
	p, err := f.api.CoreV1().Pods("ns").Update(f.t.Context(), p, metav1.UpdateOptions{})
	if err != nil {
		f.t.Fatal(err)
	}
	f.m.Store().Update(p.DeepCopy())
}

func (f *fixture) delete(name string, grace int64) {
	f.t.Helper()
	f.change(name, func(p *v1.Pod) {
		now := metav1.Now()
		p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &now, &grace
	})
}

// after lets time pass until the bubble is still.
func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (f *fixture) saw(want string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.ContainsFunc(f.events, func(e string) bool { return strings.HasPrefix(e, want) })
}

func named(name string, p *v1.Pod) *v1.Pod {
	p.Name, p.Namespace = name, "ns"
	return p
}

func TestOnePodHoldsUpNoOther(t *testing.T) {
	bubble(t, func(f *fixture) {
		f.rt.Latency = map[string]time.Duration{"PullImage": time.Hour}
		slow := named("slow", podWith("Always", nil, "a"))
		slow.Spec.Containers[0].Image = "far:1"
		f.add(slow)
		f.add(named("quick", podWith("Always", nil, "a")))
		after(200 * time.Millisecond)
		if p := f.get("quick"); p.Status.Phase != v1.PodRunning {
			t.Errorf("quick is %s behind a slow pull", p.Status.Phase)
		}
		if p := f.get("slow"); p.Status.Phase != v1.PodPending || p.Status.ContainerStatuses[0].State.Waiting.Reason != "ContainerCreating" {
			t.Errorf("slow: %+v", p.Status)
		}
		f.delete("slow", 30)
		after(time.Second)
		if f.get("slow") != nil {
			t.Error("a pull under way keeps a pod from being deleted")
		}
	})
}

func TestCrashLoopTimes(t *testing.T) {
	bubble(t, func(f *fixture) {
		f.add(named("p", podWith("Always", nil, "a")))
		after(0)
		begun := time.Now()
		var starts []time.Duration
		for range 5 {
			f.rt.Exit("uid-p", "a", 1)
			for n := f.get("p").Status.ContainerStatuses[0].RestartCount; f.get("p").Status.ContainerStatuses[0].RestartCount == n; {
				after(10 * time.Millisecond)
			}
			starts = append(starts, time.Since(begun).Round(time.Second))
		}
		if want := []time.Duration{0, 10e9, 30e9, 70e9, 150e9}; !slices.Equal(starts, want) {
			t.Errorf("restarts after %v, want %v", starts, want)
		}
	})
}

func TestGrace(t *testing.T) {
	bubble(t, func(f *fixture) {
		f.rt.Stubborn = map[string]bool{"a": true}
		p := named("p", podWith("Always", nil, "a"))
		p.Spec.Containers[0].Lifecycle = &v1.Lifecycle{PreStop: &v1.LifecycleHandler{Exec: &v1.ExecAction{Command: []string{"sleep", "4s"}}}}
		f.add(p)
		after(0)
		begun := time.Now()
		f.delete("p", 10)
		for f.get("p") != nil {
			after(100 * time.Millisecond)
		}
		if took := time.Since(begun).Round(time.Second); took != 10*time.Second {
			t.Errorf("gone after %s, want 10s: the hook uses the grace period up", took)
		}
		if !slices.ContainsFunc(f.rt.Calls(), func(c string) bool { return strings.HasPrefix(c, "StopContainer a 6s") }) {
			t.Errorf("calls: %v", f.rt.Calls())
		}
	})
}

func TestGraceShortened(t *testing.T) {
	bubble(t, func(f *fixture) {
		f.rt.Stubborn = map[string]bool{"a": true}
		f.add(named("p", podWith("Always", nil, "a")))
		after(0)
		f.delete("p", 3600)
		after(5 * time.Second)
		f.delete("p", 7200) // never longer
		after(5 * time.Second)
		begun := time.Now()
		f.delete("p", 3)
		for f.get("p") != nil {
			after(100 * time.Millisecond)
		}
		if took := time.Since(begun).Round(time.Second); took != 3*time.Second {
			t.Errorf("gone %s after the shorter delete, want 3s", took)
		}
	})
}

func TestSidecarsStopLastInReverse(t *testing.T) {
	bubble(t, func(f *fixture) {
		f.rt.Latency = map[string]time.Duration{"StopContainer": time.Second}
		f.add(named("p", podWith("Always", []v1.Container{sidecar("s1"), sidecar("s2")}, "a", "b")))
		after(0)
		f.delete("p", 5)
		for f.get("p") != nil {
			after(100 * time.Millisecond)
		}
		var order []string
		for _, c := range f.rt.Calls() {
			if name, ok := strings.CutPrefix(c, "StopContainer "); ok {
				order = append(order, strings.Fields(name)[0])
			}
		}
		if len(order) != 4 || !slices.Equal(order[2:], []string{"s2", "s1"}) {
			t.Errorf("stopped %v, want a and b, then s2, s1", order)
		}
	})
}

func TestDrainBeforeHook(t *testing.T) {
	bubble(t, func(f *fixture) {
		f.services = []*v1.Service{{Spec: v1.ServiceSpec{Selector: map[string]string{"app": "x"}}}}
		for _, c := range []struct {
			name         string
			labels       map[string]string
			grace        int64
			acknowledged bool
			hookAfter    time.Duration
		}{
			{"waits", map[string]string{"app": "x"}, 30, false, 2 * time.Second},
			{"acknowledged", map[string]string{"app": "x"}, 30, true, 500*time.Millisecond + drainSettle},
			{"unserved", nil, 30, false, 0},
			{"short", map[string]string{"app": "x"}, 1, false, time.Second},
		} {
			p := named(c.name, podWith("Always", nil, "a"))
			p.Labels = c.labels
			p.Spec.Containers[0].Lifecycle = &v1.Lifecycle{PreStop: &v1.LifecycleHandler{Exec: &v1.ExecAction{Command: []string{"hook", c.name}}}}
			f.add(p)
			after(time.Second)
			begun := time.Now()
			f.delete(c.name, c.grace)
			if c.acknowledged {
				after(500 * time.Millisecond)
				f.change(c.name, func(p *v1.Pod) {
					p.Status.Conditions = append(p.Status.Conditions, v1.PodCondition{Type: lifecycle.DrainedCondition, Status: v1.ConditionTrue})
				})
			}
			for f.get(c.name) != nil {
				after(10 * time.Millisecond)
			}
			if took := time.Since(begun).Round(100 * time.Millisecond); took != c.hookAfter {
				t.Errorf("%s: gone after %s, want %s", c.name, took, c.hookAfter)
			}
		}
	})
}

func TestRestartedKubeletAdopts(t *testing.T) {
	bubble(t, func(f *fixture) {
		f.add(named("stays", podWith("Always", []v1.Container{sidecar("s")}, "a")))
		f.add(named("goes", podWith("Always", nil, "a")))
		after(time.Second)
		before := f.get("stays").Status.ContainerStatuses[0].ContainerID
		f.stop()
		if n := len(slices.DeleteFunc(f.rt.Calls(), func(c string) bool { return !strings.HasPrefix(c, "Stop") })); n > 0 {
			t.Errorf("the kubelet's end stopped %d things", n)
		}
		f.rt.Sink = nil
		f.api.CoreV1().Pods("ns").Delete(context.Background(), "goes", metav1.DeleteOptions{}) // while nobody looks
		f.start()
		goes, _ := f.rt.Pod(t.Context(), "uid-goes")
		f.m.RuntimeChanged(runtime.Update{PodUID: "uid-goes", Sandboxes: goes.Sandboxes})
		after(time.Minute)
		if got := f.get("stays").Status.ContainerStatuses[0]; got.ContainerID != before || got.RestartCount != 0 || !got.Ready {
			t.Errorf("%+v", got)
		}
		if p, _ := f.rt.Pod(t.Context(), "uid-goes"); len(p.Sandboxes)+len(p.Containers) > 0 {
			t.Errorf("an orphan was left: %+v", p)
		}
	})
}

// TestSandboxAfterTheEnd: a sandbox that the runtime finishes after nobody wanted it any more is taken away, whenever it comes.
func TestSandboxAfterTheEnd(t *testing.T) {
	for _, deleted := range []time.Duration{0, 100 * time.Millisecond, 500 * time.Millisecond, 950 * time.Millisecond, 999 * time.Millisecond, time.Second} {
		for _, slow := range []string{"", "StopSandbox", "RemoveSandbox"} {
			bubble(t, func(f *fixture) {
				f.rt.Outlast = true
				f.rt.Latency = map[string]time.Duration{"RunSandbox": time.Second, slow: 200 * time.Millisecond}
				f.add(named("p", podWith("Always", nil, "a")))
				after(deleted)
				f.delete("p", 0)
				after(30 * time.Second) // no relist comes in this test
				if f.get("p") != nil {
					t.Errorf("deleted after %v: the pod is still there", deleted)
				}
				if p, _ := f.rt.Pod(t.Context(), "uid-p"); len(p.Sandboxes)+len(p.Containers) > 0 {
					t.Errorf("deleted after %v, slow %q: %+v is left", deleted, slow, p)
				}
			})
		}
	}
}

func TestSandboxDies(t *testing.T) {
	bubble(t, func(f *fixture) {
		f.add(named("p", podWith("Always", nil, "a")))
		after(time.Second)
		p, _ := f.rt.Pod(t.Context(), "uid-p")
		f.rt.StopSandbox(t.Context(), p.Sandboxes[0].ID)
		after(time.Minute)
		got := f.get("p")
		if got.Status.ContainerStatuses[0].RestartCount != 1 || got.Status.ContainerStatuses[0].State.Running == nil || got.Status.PodIP == p.Sandboxes[0].IPs[0] {
			t.Errorf("%+v", got.Status)
		}
	})
}

func TestDeadline(t *testing.T) {
	bubble(t, func(f *fixture) {
		p := named("p", podWith("Always", nil, "a"))
		limit := int64(60)
		p.Spec.ActiveDeadlineSeconds = &limit
		f.add(p)
		after(59 * time.Second)
		if f.get("p").Status.Phase != v1.PodRunning {
			t.Error("ended early")
		}
		after(3 * time.Second)
		if s := f.get("p").Status; s.Phase != v1.PodFailed || s.Reason != "DeadlineExceeded" {
			t.Errorf("%s %s", s.Phase, s.Reason)
		}
	})
}

func TestEveryStepMayFail(t *testing.T) {
	for _, call := range []string{"RunSandbox", "CreateContainer", "StartContainer", "StopContainer", "StopSandbox", "RemoveSandbox"} {
		t.Run(call, func(t *testing.T) {
			bubble(t, func(f *fixture) {
				var mu sync.Mutex
				failures := 2
				f.rt.Fail = func(c, _ string) error {
					mu.Lock()
					defer mu.Unlock()
					if c == call && failures > 0 {
						failures--
						return errors.New("broken")
					}
					return nil
				}
				f.add(named("p", podWith("Always", nil, "a")))
				after(time.Minute)
				if p := f.get("p"); p.Status.Phase != v1.PodRunning {
					t.Fatalf("not running after a minute: %+v", p.Status)
				}
				f.delete("p", 5)
				after(time.Minute)
				if f.get("p") != nil {
					t.Fatal("not gone after a minute")
				}
				if p, _ := f.rt.Pod(t.Context(), "uid-p"); len(p.Sandboxes)+len(p.Containers) > 0 {
					t.Errorf("left in the runtime: %+v", p)
				}
				if len(f.cgroups) > 0 {
					t.Errorf("left cgroups: %v", f.cgroups)
				}
			})
		})
	}
}

func TestDeletedOnTheWay(t *testing.T) {
	for _, at := range []time.Duration{0, 50, 150, 250, 350} {
		bubble(t, func(f *fixture) {
			f.rt.Latency = map[string]time.Duration{"RunSandbox": 100 * time.Millisecond, "CreateContainer": 100 * time.Millisecond, "StartContainer": 100 * time.Millisecond}
			f.add(named("p", podWith("Always", nil, "a")))
			after(at * time.Millisecond)
			f.delete("p", 5)
			after(30 * time.Second)
			if f.get("p") != nil {
				t.Errorf("deleted after %d ms: not gone", at)
			}
			if p, _ := f.rt.Pod(t.Context(), "uid-p"); len(p.Sandboxes)+len(p.Containers) > 0 {
				t.Errorf("deleted after %d ms: left %+v", at, p)
			}
		})
	}
}

func TestMissingVolumeWaits(t *testing.T) {
	bubble(t, func(f *fixture) {
		f.mountErr = errors.New(`MountVolume.SetUp failed for volume "v" : configmap "c" not found`)
		f.add(named("p", podWith("Always", nil, "a")))
		after(time.Second)
		if !f.saw(`p FailedMount: MountVolume.SetUp failed for volume "v" : configmap "c" not found`) {
			t.Errorf("events: %v", f.events)
		}
		f.mu.Lock()
		f.mountErr = nil
		f.mu.Unlock()
		f.m.Retry("uid-p")
		after(time.Second)
		if p := f.get("p"); p.Status.Phase != v1.PodRunning {
			t.Errorf("phase %s", p.Status.Phase)
		}
	})
}

func TestPostStart(t *testing.T) {
	bubble(t, func(f *fixture) {
		p := named("p", podWith("Always", nil, "a", "b"))
		p.Spec.Containers[0].Lifecycle = &v1.Lifecycle{PostStart: &v1.LifecycleHandler{Exec: &v1.ExecAction{Command: []string{"sleep", "5s"}}}}
		f.add(p)
		after(4 * time.Second)
		if s := f.get("p").Status; s.ContainerStatuses[0].State.Running != nil || s.ContainerStatuses[1].State.Running != nil {
			t.Errorf("running while the first's hook is: %+v", s.ContainerStatuses)
		}
		after(2 * time.Second)
		if s := f.get("p").Status; s.Phase != v1.PodRunning {
			t.Errorf("%+v", s.ContainerStatuses)
		}
		bad := named("bad", podWith("Always", nil, "a"))
		bad.Spec.Containers[0].Lifecycle = &v1.Lifecycle{PostStart: &v1.LifecycleHandler{Exec: &v1.ExecAction{Command: []string{"false"}}}}
		f.add(bad)
		after(time.Second)
		if !f.saw("bad FailedPostStartHook: PostStartHook failed") || f.get("bad").Status.ContainerStatuses[0].State.Running != nil {
			t.Errorf("%v %+v", f.events, f.get("bad").Status.ContainerStatuses)
		}
	})
}
