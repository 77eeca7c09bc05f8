package status

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"pgregory.net/rapid"

	"wherry.dev/wherry/kubelet/runtime"
)

var now = time.Date(2026, 11, 20, 12, 0, 0, 123456789, time.UTC)

func input(p *v1.Pod, list ...runtime.Container) Input {
	return Input{Now: now, Pod: p, Sandbox: &runtime.Sandbox{ID: "s", Ready: true, Detailed: true, IPs: []string{"10.0.0.1"}}, Containers: list,
		Ready: func(string) bool { return true }, Started: func(string) bool { return true }, HostIPs: []string{"192.0.2.1"}, Runtime: "containerd", Start: now}
}

func pod(policy v1.RestartPolicy, names ...string) *v1.Pod {
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "u", Generation: 3}, Spec: v1.PodSpec{RestartPolicy: policy}}
	for _, n := range names {
		p.Spec.Containers = append(p.Spec.Containers, v1.Container{Name: n, Image: "i"})
	}
	return p
}

func running(name string) runtime.Container {
	return runtime.Container{ID: name + "0", Name: name, State: runtime.Running, StartedAt: now}
}

func ended0(name string, attempt int, code int32) runtime.Container {
	return runtime.Container{ID: fmt.Sprint(name, attempt), Name: name, Attempt: attempt, State: runtime.Exited, StartedAt: now, FinishedAt: now, ExitCode: code}
}

func condition(s *v1.PodStatus, t v1.PodConditionType) *v1.PodCondition {
	for i := range s.Conditions {
		if s.Conditions[i].Type == t {
			return &s.Conditions[i]
		}
	}
	return &v1.PodCondition{}
}

func TestPhases(t *testing.T) {
	terminal := func(in Input) Input { in.Terminal = true; return in }
	crashing := func(in Input) Input {
		in.Waiting = map[string]Waiting{"a": {"CrashLoopBackOff", "m"}}
		return in
	}
	initPod := func() *v1.Pod {
		p := pod("Always", "a")
		p.Spec.InitContainers = []v1.Container{{Name: "i", Image: "i"}}
		return p
	}
	cases := []struct {
		name   string
		in     Input
		want   v1.PodPhase
		ready  string // reason of Ready, "" when true
		reason string // waiting reason of the first regular container
	}{
		{"new", input(pod("Always", "a")), v1.PodPending, "ContainersNotReady", "ContainerCreating"},
		{"running", input(pod("Always", "a"), running("a")), v1.PodRunning, "", ""},
		{"one of two", input(pod("Always", "a", "b"), running("a")), v1.PodPending, "ContainersNotReady", ""},
		{"ended, to be restarted", input(pod("Always", "a"), ended0("a", 0, 1)), v1.PodRunning, "ContainersNotReady", ""},
		{"crash loop", crashing(input(pod("Always", "a"), ended0("a", 1, 1))), v1.PodRunning, "ContainersNotReady", "CrashLoopBackOff"},
		{"succeeded", terminal(input(pod("Never", "a"), ended0("a", 0, 0))), v1.PodSucceeded, "PodCompleted", ""},
		{"failed", terminal(input(pod("Never", "a", "b"), ended0("a", 0, 0), ended0("b", 0, 3))), v1.PodFailed, "PodFailed", ""},
		{"initializing", input(initPod(), running("i")), v1.PodPending, "ContainersNotReady", "PodInitializing"},
		{"initialized", input(initPod(), ended0("i", 0, 0), running("a")), v1.PodRunning, "", ""},
		{"init failed", terminal(input(initPod(), ended0("i", 0, 1))), v1.PodFailed, "PodFailed", "PodInitializing"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s := Generate(c.in)
			if s.Phase != c.want {
				t.Errorf("phase %s, want %s", s.Phase, c.want)
			}
			if r := condition(&s, v1.PodReady); r.Reason != c.ready || (r.Status == v1.ConditionTrue) != (c.ready == "") {
				t.Errorf("Ready: %+v, want reason %q", r, c.ready)
			}
			got := ""
			if w := s.ContainerStatuses[0].State.Waiting; w != nil {
				got = w.Reason
			}
			if got != c.reason {
				t.Errorf("waiting %q, want %q", got, c.reason)
			}
		})
	}
}

func TestTerminalPhaseStays(t *testing.T) {
	p := pod("Never", "a")
	p.Status.Phase = v1.PodSucceeded
	if s := Generate(input(p, ended0("a", 0, 1))); s.Phase != v1.PodSucceeded {
		t.Errorf("phase %s after Succeeded", s.Phase)
	}
}

func TestLastState(t *testing.T) {
	in := input(pod("Always", "a"), running("a"), ended0("a", 1, 137))
	in.Containers[0].Attempt = 2
	in.Containers[1].Reason = "OOMKilled"
	in.Messages = map[string]string{"a1": "last words"}
	s := Generate(in)
	c := s.ContainerStatuses[0]
	l := c.LastTerminationState.Terminated
	if c.RestartCount != 2 || l == nil || l.Reason != "OOMKilled" || l.ExitCode != 137 || l.Message != "last words" || l.ContainerID != "containerd://a1" {
		t.Errorf("%+v", c)
	}
	// The runtime forgets the ended one; the status does not.
	in.Previous, in.Containers = &s, in.Containers[:1]
	if l := Generate(in).ContainerStatuses[0].LastTerminationState.Terminated; l == nil || l.Reason != "OOMKilled" {
		t.Errorf("last state forgotten: %+v", l)
	}
}

func TestGatesAndOthersConditions(t *testing.T) {
	p := pod("Always", "a")
	p.Spec.ReadinessGates = []v1.PodReadinessGate{{ConditionType: "x.example/ok"}}
	s := Generate(input(p, running("a")))
	if r := condition(&s, v1.PodReady); r.Status != v1.ConditionFalse || r.Reason != "ReadinessGatesNotReady" || r.Message != `corresponding condition of pod readiness gate "x.example/ok" does not exist.` {
		t.Errorf("%+v", r)
	}
	p.Status.Conditions = []v1.PodCondition{{Type: "x.example/ok", Status: v1.ConditionTrue}, {Type: v1.PodScheduled, Status: v1.ConditionTrue, Reason: "theirs"}}
	s = Generate(input(p, running("a")))
	if condition(&s, v1.PodReady).Status != v1.ConditionTrue || condition(&s, "x.example/ok").Status != v1.ConditionTrue || condition(&s, v1.PodScheduled).Reason != "theirs" {
		t.Errorf("%+v", s.Conditions)
	}
}

func drawStatus(t *rapid.T, label string) *v1.PodStatus {
	s := &v1.PodStatus{
		Phase:   rapid.SampledFrom([]v1.PodPhase{"", v1.PodPending, v1.PodRunning}).Draw(t, label+"phase"),
		Message: rapid.SampledFrom([]string{"", "m"}).Draw(t, label+"message"),
		Reason:  rapid.SampledFrom([]string{"", "r"}).Draw(t, label+"reason"),
		PodIP:   rapid.SampledFrom([]string{"", "10.0.0.1"}).Draw(t, label+"ip"), ObservedGeneration: int64(rapid.IntRange(0, 2).Draw(t, label+"gen")),
	}
	for _, ip := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"10.0.0.1", "10.0.0.2", "fd00::1"}), 0, 3, rapid.ID[string]).Draw(t, label+"ips") {
		s.PodIPs = append(s.PodIPs, v1.PodIP{IP: ip})
		s.HostIPs = append(s.HostIPs, v1.HostIP{IP: ip})
	}
	for _, name := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b"}), 0, 2, rapid.ID[string]).Draw(t, label+"containers") {
		s.ContainerStatuses = append(s.ContainerStatuses, v1.ContainerStatus{Name: name, RestartCount: int32(rapid.IntRange(0, 2).Draw(t, label+"restarts")), Image: "i"})
	}
	for _, o := range owned {
		s.Conditions = append(s.Conditions, v1.PodCondition{Type: o, Status: rapid.SampledFrom([]v1.ConditionStatus{"True", "False"}).Draw(t, label+"status"),
			Reason: rapid.SampledFrom([]string{"", "why"}).Draw(t, label+"why"), LastTransitionTime: metav1.NewTime(now.Truncate(time.Second))})
	}
	return s
}

// TestPatchIsTheDifference: the patch, applied as the API server applies it, makes the status ours, and leaves what is
// not ours alone, even if we have not seen it.
func TestPatchIsTheDifference(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		old, next := drawStatus(t, "old "), drawStatus(t, "new ")
		patch, changed, err := Patch("u", old, next)
		if err != nil {
			t.Fatal(err)
		}
		if !changed {
			if !equality.Semantic.DeepEqual(old, next) {
				t.Fatalf("a difference was overlooked: %+v, %+v", old, next)
			}
			return
		}
		stored := old.DeepCopy()
		theirs := v1.PodCondition{Type: "drained", Status: v1.ConditionTrue}
		stored.Conditions = append(stored.Conditions, theirs)
		before, _ := json.Marshal(&v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "u"}, Status: *stored})
		after, err := strategicpatch.StrategicMergePatch(before, patch, &v1.Pod{})
		if err != nil {
			t.Fatal(err)
		}
		var got v1.Pod
		if err := json.Unmarshal(after, &got); err != nil {
			t.Fatal(err)
		}
		want := next.DeepCopy()
		want.Conditions = append(want.Conditions, theirs)
		if !equality.Semantic.DeepEqual(&got.Status, want) {
			t.Fatalf("got  %+v\nwant %+v\npatch %s", got.Status, want, patch)
		}
	})
}

func BenchmarkGenerateAndPatch(b *testing.B) {
	p := pod("Always", "a")
	in := input(p, running("a"))
	b.ReportAllocs()
	for b.Loop() {
		s := Generate(in)
		if _, _, err := Patch("u", &p.Status, &s); err != nil {
			b.Fatal(err)
		}
	}
}
