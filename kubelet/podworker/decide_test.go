package podworker

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"wherry.dev/wherry/kubelet/containers"
	"wherry.dev/wherry/kubelet/runtime"
)

var (
	now       = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	always    = v1.ContainerRestartPolicyAlways
	never     = v1.ContainerRestartPolicyNever
	onFailure = v1.RestartPolicyOnFailure
)

func podWith(policy v1.RestartPolicy, init []v1.Container, regular ...string) *v1.Pod {
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "u"}, Spec: v1.PodSpec{RestartPolicy: policy, InitContainers: init}}
	for _, name := range regular {
		p.Spec.Containers = append(p.Spec.Containers, v1.Container{Name: name, Image: "i"})
	}
	return p
}

func sidecar(name string) v1.Container {
	return v1.Container{Name: name, Image: "i", RestartPolicy: &always}
}

// view is a pod with volumes, a ready sandbox and every image there, unless a test takes something away.
func view(p *v1.Pod, instances ...runtime.Container) *View {
	v := &View{Now: now, Pod: p, Mounted: true, Images: map[string]Image{}, Busy: map[Key]bool{}, Retry: map[Key]time.Time{}, Backoffs: map[string]Backoff{},
		Unhealthy: map[string]string{}, Started: func(string) bool { return true }}
	v.Runtime.Sandboxes = []runtime.Sandbox{{ID: "s", Ready: true, Detailed: true, IPs: []string{"10.0.0.1"}}}
	v.Runtime.Containers = instances
	v.Runtime.Sort()
	for _, list := range [][]v1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			n := 0
			for _, x := range instances {
				if x.Name == list[i].Name && next(&x) > n {
					n = next(&x)
				}
			}
			v.Images[list[i].Name] = Image{Attempt: n, Ref: "sha256:1"}
		}
	}
	return v
}

func instance(name string, state runtime.State, attempt int) runtime.Container {
	return runtime.Container{ID: fmt.Sprintf("%s-%d", name, attempt), Name: name, SandboxID: "s", Attempt: attempt, State: state,
		CreatedAt: now.Add(-time.Hour).Add(time.Duration(attempt) * time.Minute), Hash: containers.Hash(&v1.Container{Name: name, Image: "i"})}
}

func exited(name string, attempt int, code int32) runtime.Container {
	x := instance(name, runtime.Exited, attempt)
	x.ExitCode, x.FinishedAt = code, now.Add(-time.Second)
	return x
}

func steps(p Plan) string {
	var s []string
	for _, x := range p.Steps {
		text := string(x.Do)
		if x.Container != "" {
			text += " " + x.Container
		}
		if x.Container == "" && x.ID != "" {
			text += " " + x.ID
		}
		if x.Attempt > 0 {
			text += fmt.Sprintf("#%d", x.Attempt)
		}
		s = append(s, text)
	}
	return strings.Join(s, ", ")
}

func TestDecide(t *testing.T) {
	one := func(policy v1.RestartPolicy) *v1.Pod { return podWith(policy, nil, "a") }
	cases := []struct {
		name     string
		view     *View
		change   func(*View)
		want     string
		finished bool
		waiting  string
	}{
		{name: "new: volumes, sandbox and image at once", view: view(one("Always")), change: func(v *View) { v.Mounted, v.Runtime.Sandboxes, v.Images = false, nil, nil }, want: "volumes, sandbox, image a"},
		{name: "nothing twice", view: view(one("Always")), change: func(v *View) {
			v.Mounted, v.Runtime.Sandboxes, v.Images = false, nil, nil
			v.Busy = map[Key]bool{{MountVolumes, ""}: true, {RunSandbox, ""}: true, {EnsureImage, "a"}: true}
		}, want: ""},
		{name: "create when all is there", view: view(one("Always")), want: "create a"},
		{name: "start what was created", view: view(one("Always"), instance("a", runtime.Created, 0)), want: "start a"},
		{name: "running: nothing", view: view(one("Always"), instance("a", runtime.Running, 0)), want: ""},
		{name: "no container without volumes", view: view(one("Always")), change: func(v *View) { v.Mounted = false; v.Busy[Key{MountVolumes, ""}] = true }, want: ""},
		{name: "no container without image", view: view(one("Always")), change: func(v *View) { v.Images = nil; v.Busy[Key{EnsureImage, "a"}] = true }, want: ""},
		{name: "first restart at once", view: view(one("Always"), exited("a", 0, 0)), want: "create a#1"},
		{name: "second waits", view: view(one("Always"), exited("a", 1, 1)), change: func(v *View) { v.Backoffs["a"] = Backoff{10 * time.Second, now.Add(-2 * time.Second)} }, want: "", waiting: "CrashLoopBackOff"},
		{name: "until its time", view: view(one("Always"), exited("a", 1, 1)), change: func(v *View) {
			v.Backoffs["a"] = Backoff{10 * time.Second, now.Add(-2 * time.Second)}
			v.Now = now.Add(9 * time.Second)
		}, want: "create a#2"},
		{name: "never restarts", view: view(one("Never"), exited("a", 0, 1)), finished: true},
		{name: "on failure, failed", view: view(one("OnFailure"), exited("a", 0, 1)), want: "create a#1"},
		{name: "on failure, succeeded", view: view(one("OnFailure"), exited("a", 0, 0)), finished: true},
		{name: "one of two ended", view: view(podWith("Never", nil, "a", "b"), exited("a", 0, 0), instance("b", runtime.Running, 0)), want: ""},
		{name: "own policy wins", view: view(one("Always"), exited("a", 0, 0)), change: func(v *View) { v.Pod.Spec.Containers[0].RestartPolicy = &never }, finished: true},
		{name: "rule by exit code", view: view(one("Never"), exited("a", 0, 42)), change: func(v *View) {
			v.Pod.Spec.Containers[0].RestartPolicy = &never
			v.Pod.Spec.Containers[0].RestartPolicyRules = []v1.ContainerRestartRule{{Action: v1.ContainerRestartRuleActionRestart,
				ExitCodes: &v1.ContainerRestartRuleOnExitCodes{Operator: v1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{42}}}}
		}, want: "create a#1"},
		{name: "created in order, started in order", view: view(podWith("Always", nil, "a", "b")), want: "create a, create b"},
		{name: "the second's turn comes", view: view(podWith("Always", nil, "a", "b"), instance("a", runtime.Created, 0), instance("b", runtime.Created, 0)), want: "start a"},
		{name: "not while the first's hook runs", view: view(podWith("Always", nil, "a", "b"), instance("a", runtime.Running, 0), instance("b", runtime.Created, 0)),
			change: func(v *View) { v.Busy[Key{Start, "a"}] = true }, want: ""},
		{name: "then the second", view: view(podWith("Always", nil, "a", "b"), instance("a", runtime.Running, 0), instance("b", runtime.Created, 0)), want: "start b"},
		{name: "a crash loop holds nobody up", view: view(podWith("Always", nil, "a", "b"), exited("a", 1, 1), instance("b", runtime.Created, 0)),
			change: func(v *View) { v.Backoffs["a"] = Backoff{10 * time.Second, now} }, want: "start b", waiting: "CrashLoopBackOff"},
		{name: "init first", view: view(podWith("Always", []v1.Container{{Name: "i", Image: "i"}, {Name: "j", Image: "i"}}, "a")), want: "create i"},
		{name: "init still runs", view: view(podWith("Always", []v1.Container{{Name: "i", Image: "i"}}, "a"), instance("i", runtime.Running, 0)), want: ""},
		{name: "next init", view: view(podWith("Always", []v1.Container{{Name: "i", Image: "i"}, {Name: "j", Image: "i"}}, "a"), exited("i", 0, 0)), want: "create j"},
		{name: "init done", view: view(podWith("Always", []v1.Container{{Name: "i", Image: "i"}}, "a"), exited("i", 0, 0)), want: "create a"},
		{name: "init failed, again", view: view(podWith("OnFailure", []v1.Container{{Name: "i", Image: "i"}}, "a"), exited("i", 0, 1)), want: "create i#1"},
		{name: "init failed for good", view: view(podWith("Never", []v1.Container{{Name: "i", Image: "i"}}, "a"), exited("i", 0, 1)), finished: true},
		{name: "a removed init container does not run again", view: view(podWith("Always", []v1.Container{{Name: "i", Image: "i"}}, "a"), instance("a", runtime.Running, 0)), want: ""},
		{name: "sidecar before the rest", view: view(podWith("Always", []v1.Container{sidecar("s"), {Name: "i", Image: "i"}}, "a")), want: "create s"},
		{name: "sidecar must have started", view: view(podWith("Always", []v1.Container{sidecar("s")}, "a"), instance("s", runtime.Running, 0)),
			change: func(v *View) { v.Started = func(string) bool { return false } }, want: ""},
		{name: "then the rest", view: view(podWith("Always", []v1.Container{sidecar("s")}, "a"), instance("s", runtime.Running, 0)), want: "create a"},
		{name: "sidecar restarts though the pod never does", view: view(podWith("Never", []v1.Container{sidecar("s")}, "a"), exited("s", 0, 0), instance("a", runtime.Running, 0)), want: "create s#1"},
		{name: "a running sidecar does not keep the pod", view: view(podWith("Never", []v1.Container{sidecar("s")}, "a"), instance("s", runtime.Running, 0), exited("a", 0, 0)), finished: true},
		{name: "unhealthy", view: view(one("Always"), instance("a", runtime.Running, 0)), change: func(v *View) { v.Unhealthy["a-0"] = "why" }, want: "kill a"},
		{name: "image changed", view: view(one("Always"), instance("a", runtime.Running, 0)), change: func(v *View) { v.Pod.Spec.Containers[0].Image = "other" }, want: "kill a"},
		{name: "sandbox died: take down, then anew", view: view(one("Always"), instance("a", runtime.Running, 0)), change: func(v *View) { v.Runtime.Sandboxes[0].Ready = false }, want: "reset s"},
		{name: "sandbox gone", view: view(one("Always"), exited("a", 0, 137)), change: func(v *View) { v.Runtime.Sandboxes[0].Ready = false }, want: "sandbox#1"},
		{name: "sandbox died, nothing to restart", view: view(one("Never"), exited("a", 0, 137)), change: func(v *View) { v.Runtime.Sandboxes[0].Ready = false }, finished: true},
		{name: "a second ready sandbox goes", view: view(one("Always"), instance("a", runtime.Running, 0)), change: func(v *View) {
			v.Runtime.Sandboxes = append(v.Runtime.Sandboxes, runtime.Sandbox{ID: "old", Ready: true})
		}, want: "reset old"},
		{name: "old instances are removed, the last is kept", view: view(one("Always"), exited("a", 0, 1), exited("a", 1, 1), instance("a", runtime.Running, 2)), want: "remove a-0"},
		{name: "init runs again in a new sandbox", view: view(podWith("Always", []v1.Container{{Name: "i", Image: "i"}}, "a"), exited("i", 0, 0), exited("a", 0, 137)), change: func(v *View) {
			v.Runtime.Sandboxes = []runtime.Sandbox{{ID: "new", Ready: true, Detailed: true, IPs: []string{"10.0.0.2"}}, {ID: "s"}}
		}, want: "create i#1"},
		{name: "failed step waits", view: view(one("Always")), change: func(v *View) { v.Retry[Key{Create, "a"}] = now.Add(time.Second) }, want: ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if c.change != nil {
				c.change(c.view)
			}
			p := Decide(c.view)
			if got := steps(p); got != c.want || p.Finished != c.finished {
				t.Errorf("got %q finished %v, want %q finished %v", got, p.Finished, c.want, c.finished)
			}
			if w := p.Waiting["a"].Reason; w != c.waiting {
				t.Errorf("waiting %q, want %q", w, c.waiting)
			}
		})
	}
}

func TestBackoffGrows(t *testing.T) {
	var b Backoff
	at := now
	var got []time.Duration
	for range 7 {
		b = b.Next(at, at)
		got = append(got, b.Delay)
		at = at.Add(b.Delay)
	}
	want := []time.Duration{10e9, 20e9, 40e9, 80e9, 160e9, 300e9, 300e9}
	if !slices.Equal(got, want) {
		t.Errorf("delays %v, want %v", got, want)
	}
	ended := at.Add(10*time.Minute + time.Second)
	if b.until(ended) != (time.Time{}) || b.Next(ended, ended).Delay != 10*time.Second {
		t.Error("a container that ran for ten minutes still waits")
	}
}

// sim is a world that does what Decide says, with failures thrown in.
type sim struct {
	v     *View
	clock int
	stops int
	log   []string
}

func (m *sim) apply(t *rapid.T, s Step) {
	m.clock++
	at := now.Add(time.Duration(m.clock) * time.Millisecond)
	m.log = append(m.log, fmt.Sprint(s))
	switch s.Do {
	case MountVolumes:
		m.v.Mounted = rapid.Bool().Draw(t, "mounted")
	case RunSandbox:
		for i := range m.v.Runtime.Sandboxes {
			if m.v.Runtime.Sandboxes[i].Ready {
				t.Fatalf("a second sandbox while one is ready")
			}
		}
		m.v.Runtime.Sandboxes = append(m.v.Runtime.Sandboxes, runtime.Sandbox{ID: fmt.Sprint("s", m.clock), Attempt: s.Attempt, Ready: true, Detailed: true, IPs: []string{"1"}, CreatedAt: at})
	case ResetSandbox:
		for i := range m.v.Runtime.Sandboxes {
			if x := &m.v.Runtime.Sandboxes[i]; x.ID == s.ID {
				x.Ready = false
				for j := range m.v.Runtime.Containers {
					if c := &m.v.Runtime.Containers[j]; c.SandboxID == s.ID && c.State == runtime.Running {
						c.State, c.ExitCode, c.FinishedAt = runtime.Exited, 137, at
					}
				}
			}
		}
	case EnsureImage:
		m.v.Images[s.Container] = Image{Attempt: s.Attempt, Ref: "r"}
	case Create:
		if img := m.v.Images[s.Container]; img.Ref == "" || !m.v.Mounted {
			t.Fatalf("created without image or volumes: %+v", s)
		}
		c, _ := find(m.v.Pod, s.Container)
		m.v.Runtime.Containers = append(m.v.Runtime.Containers, runtime.Container{ID: fmt.Sprint(s.Container, "@", m.clock), Name: s.Container, Attempt: s.Attempt,
			SandboxID: m.v.Runtime.Sandboxes[0].ID, CreatedAt: at, Hash: containers.Hash(c)})
	case Start:
		for j := range m.v.Runtime.Containers {
			if x := &m.v.Runtime.Containers[j]; x.ID == s.ID {
				if x.State != runtime.Created {
					t.Fatalf("started twice: %+v", x)
				}
				x.State, x.StartedAt = runtime.Running, at
			}
		}
		m.checkOrder(t, s)
	case Kill:
		for j := range m.v.Runtime.Containers {
			if x := &m.v.Runtime.Containers[j]; x.ID == s.ID {
				x.State, x.ExitCode, x.FinishedAt = runtime.Exited, 137, at
				delete(m.v.Unhealthy, s.ID)
			}
		}
	case Remove:
		m.v.Runtime.Containers = slices.DeleteFunc(m.v.Runtime.Containers, func(x runtime.Container) bool {
			if x.ID == s.ID && x.State == runtime.Running {
				t.Fatalf("removed a running container")
			}
			return x.ID == s.ID
		})
		m.v.Runtime.Sandboxes = slices.DeleteFunc(m.v.Runtime.Sandboxes, func(x runtime.Sandbox) bool { return x.ID == s.ID })
	}
	m.v.Runtime.Sort()
}

// checkOrder holds that a regular container is never first started before initialization is over.
func (m *sim) checkOrder(t *rapid.T, s Step) {
	if s.Kind != "" {
		return
	}
	box := m.v.Runtime.Sandboxes[0].ID
	others := 0
	for _, x := range m.v.Runtime.Containers {
		if _, kind := find(m.v.Pod, x.Name); kind == "" && x.SandboxID == box && x.State != runtime.Created {
			others++
		}
	}
	if others > 1 {
		return // initialization was over when the first of them started
	}
	for i := range m.v.Pod.Spec.InitContainers {
		c := &m.v.Pod.Spec.InitContainers[i]
		ok := slices.ContainsFunc(m.v.Runtime.Containers, func(x runtime.Container) bool {
			if containers.IsSidecar(c) {
				return x.Name == c.Name && x.SandboxID == box
			}
			return x.Name == c.Name && x.SandboxID == box && x.State == runtime.Exited && x.ExitCode == 0
		})
		if !ok {
			t.Fatalf("%s started before init container %s was done\n%s", s.Container, c.Name, strings.Join(m.log, "\n"))
		}
	}
}

// TestDecideConverges: whatever happens on the way, once nothing more goes wrong the pod gets where it wants to be,
// in a bounded number of steps, with every rule of order held; and then nothing more is done.
func TestDecideConverges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		policy := rapid.SampledFrom([]v1.RestartPolicy{"Always", onFailure, "Never"}).Draw(t, "policy")
		var init []v1.Container
		for i := range rapid.IntRange(0, 3).Draw(t, "init") {
			c := v1.Container{Name: fmt.Sprint("i", i), Image: "i"}
			if rapid.Bool().Draw(t, "sidecar") {
				c.RestartPolicy = &always
			}
			init = append(init, c)
		}
		var names []string
		for i := range rapid.IntRange(1, 3).Draw(t, "regular") {
			names = append(names, fmt.Sprint("a", i))
		}
		m := &sim{v: view(podWith(policy, init, names...))}
		m.v.Mounted, m.v.Runtime, m.v.Images = false, runtime.Pod{}, map[string]Image{}
		trouble := rapid.IntRange(0, 12).Draw(t, "trouble")
		for round := range 200 {
			p := Decide(m.v)
			again := Decide(m.v)
			if steps(p) != steps(again) {
				t.Fatalf("not the same twice: %q, %q", steps(p), steps(again))
			}
			if p.Finished {
				return
			}
			if len(p.Steps) == 0 && trouble == 0 {
				stuck := false
				for i := range m.v.Runtime.Containers { // init containers come to their end
					if x := &m.v.Runtime.Containers[i]; x.State == runtime.Running {
						if _, kind := find(m.v.Pod, x.Name); kind == runtime.ContainerKindInit {
							x.State, x.FinishedAt, stuck = runtime.Exited, now, true
						}
					}
				}
				if stuck {
					continue
				}
				for _, name := range names {
					if !slices.ContainsFunc(m.v.Runtime.Containers, func(x runtime.Container) bool {
						c, _ := find(m.v.Pod, name)
						return x.Name == name && (x.State == runtime.Running || x.State == runtime.Exited && !Restarts(m.v.Pod, c, x.ExitCode))
					}) {
						t.Fatalf("settled without %s running: %+v\n%s", name, m.v.Runtime, strings.Join(m.log, "\n"))
					}
				}
				return
			}
			for _, s := range p.Steps {
				m.apply(t, s)
			}
			if trouble > 0 {
				trouble--
				m.disturb(t)
			}
			_ = round
		}
		t.Fatalf("no end after 200 rounds\n%s", strings.Join(m.log[len(m.log)-20:], "\n"))
	})
}

func (m *sim) disturb(t *rapid.T) {
	switch rapid.IntRange(0, 3).Draw(t, "what") {
	case 0: // a container ends
		for i := range m.v.Runtime.Containers {
			if x := &m.v.Runtime.Containers[i]; x.State == runtime.Running && rapid.Bool().Draw(t, "this") {
				x.State, x.ExitCode, x.FinishedAt = runtime.Exited, rapid.SampledFrom([]int32{0, 1}).Draw(t, "code"), now
			}
		}
	case 1: // the sandbox dies
		if len(m.v.Runtime.Sandboxes) > 0 {
			m.v.Runtime.Sandboxes[0].Ready = false
		}
	case 2: // a probe fails
		for i := range m.v.Runtime.Containers {
			if x := &m.v.Runtime.Containers[i]; x.State == runtime.Running && rapid.Bool().Draw(t, "sick") {
				m.v.Unhealthy[x.ID] = "probe"
			}
		}
	case 3: // the runtime forgets an ended container
		m.v.Runtime.Containers = slices.DeleteFunc(m.v.Runtime.Containers, func(x runtime.Container) bool {
			_, kind := find(m.v.Pod, x.Name)
			return x.State == runtime.Exited && kind == runtime.ContainerKindSidecar
		})
	}
}

func BenchmarkDecide(b *testing.B) {
	p := podWith("Always", []v1.Container{sidecar("s")}, "a", "b")
	v := view(p, instance("s", runtime.Running, 0), instance("a", runtime.Running, 0), instance("b", runtime.Running, 0))
	b.ReportAllocs()
	for b.Loop() {
		Decide(v)
	}
}
