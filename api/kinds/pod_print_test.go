package kinds

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

func TestPodRow(t *testing.T) {
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct{ name, pod, want string }{
		{"just created", `status: {phase: Pending}`, "0/1 Pending 0"},
		{"running", `status: {phase: Running, containerStatuses: [{name: c, ready: true, state: {running: {}}}]}`, "1/1 Running 0"},
		{"creating", `status: {phase: Pending, containerStatuses: [{name: c, state: {waiting: {reason: ContainerCreating}}}]}`, "0/1 ContainerCreating 0"},
		{"crashing", `status: {phase: Running, containerStatuses: [{name: c, restartCount: 4, state: {waiting: {reason: CrashLoopBackOff}}, lastState: {terminated: {exitCode: 1, finishedAt: "2026-11-20T11:55:00Z"}}}]}`,
			"0/1 CrashLoopBackOff 4 (5m ago)"},
		{"restarted, time unknown", `status: {phase: Running, containerStatuses: [{name: c, ready: true, restartCount: 2, state: {running: {}}}]}`, "1/1 Running 2"},
		{"gated", `status: {phase: Pending, conditions: [{type: PodScheduled, status: "False", reason: SchedulingGated}]}`, "0/1 SchedulingGated 0"},
		{"evicted", `status: {phase: Failed, reason: Evicted}`, "0/1 Evicted 0"},
		{"completed", `status: {phase: Succeeded, containerStatuses: [{name: c, state: {terminated: {exitCode: 0, reason: Completed}}}]}`, "0/1 Completed 0"},
		{"exit code", `status: {phase: Failed, containerStatuses: [{name: c, state: {terminated: {exitCode: 3}}}]}`, "0/1 ExitCode:3 0"},
		{"signal", `status: {phase: Failed, containerStatuses: [{name: c, state: {terminated: {exitCode: 137, signal: 9}}}]}`, "0/1 Signal:9 0"},
		{"one completed, one running and ready", `
spec: {containers: [{name: c}, {name: d}]}
status: {phase: Running, conditions: [{type: Ready, status: "True"}], containerStatuses: [{name: c, state: {terminated: {exitCode: 0, reason: Completed}}}, {name: d, ready: true, state: {running: {}}}]}`, "1/2 Running 0"},
		{"one completed, one running, not ready", `
spec: {containers: [{name: c}, {name: d}]}
status: {phase: Running, containerStatuses: [{name: c, state: {terminated: {exitCode: 0, reason: Completed}}}, {name: d, ready: true, state: {running: {}}}]}`, "1/2 NotReady 0"},
		{"one completed, one failed", `
spec: {containers: [{name: c}, {name: d}]}
status: {phase: Running, containerStatuses: [{name: c, state: {terminated: {exitCode: 0, reason: Completed}}}, {name: d, state: {terminated: {exitCode: 1, reason: Error}}}]}`, "0/2 Error 0"},
		{"initializing", `
spec: {initContainers: [{name: i}, {name: j}]}
status: {phase: Pending, initContainerStatuses: [{name: i, state: {terminated: {exitCode: 0}}}, {name: j, restartCount: 1, state: {running: {}}}]}`, "0/1 Init:1/2 1"},
		{"init failed", `
spec: {initContainers: [{name: i}]}
status: {phase: Pending, initContainerStatuses: [{name: i, state: {terminated: {exitCode: 2}}}]}`, "0/1 Init:ExitCode:2 0"},
		{"init waits", `
spec: {initContainers: [{name: i}]}
status: {phase: Pending, initContainerStatuses: [{name: i, state: {waiting: {reason: ImagePullBackOff}}}]}`, "0/1 Init:ImagePullBackOff 0"},
		{"sidecar counts", `
spec: {initContainers: [{name: i, restartPolicy: Always}]}
status: {phase: Running, initContainerStatuses: [{name: i, started: true, ready: true, restartCount: 3, state: {running: {}}}], containerStatuses: [{name: c, ready: true, restartCount: 1, state: {running: {}}}]}`, "2/2 Running 4"},
		{"finished init containers' restarts do not count", `
spec: {initContainers: [{name: i}]}
status: {phase: Running, initContainerStatuses: [{name: i, restartCount: 3, state: {terminated: {exitCode: 0}}}], containerStatuses: [{name: c, ready: true, state: {running: {}}}]}`, "1/1 Running 0"},
		{"terminating", `
metadata: {deletionTimestamp: "2026-11-20T11:59:50Z"}
status: {phase: Running, containerStatuses: [{name: c, ready: true, state: {running: {}}}]}`, "1/1 Terminating 0"},
		{"ended while terminating", `
metadata: {deletionTimestamp: "2026-11-20T11:59:50Z"}
status: {phase: Succeeded}`, "0/1 Succeeded 0"},
		{"node lost", `
metadata: {deletionTimestamp: "2026-11-20T11:59:50Z"}
status: {phase: Running, reason: NodeLost}`, "0/1 Unknown 0"},
	} {
		pod := &corev1.Pod{}
		if err := yaml.UnmarshalStrict([]byte(c.pod), pod); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		pod.Name = "p"
		pod.CreationTimestamp = metav1.NewTime(now.Add(-26 * time.Hour))
		if len(pod.Spec.Containers) == 0 {
			pod.Spec.Containers = []corev1.Container{{Name: "c"}}
		}
		row := podRow(pod, now)
		if got, want := strings.TrimSuffix(fmt.Sprintln(row[:5]...), "\n"), "p "+c.want+" 26h"; got != want {
			t.Errorf("%s: %q, want %q", c.name, got, want)
		}
		if len(row) != len(Pods().Columns) {
			t.Errorf("%s: %d cells for %d columns", c.name, len(row), len(Pods().Columns))
		}
		ended := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
		if got := len(podRowConditions(pod)) > 0; got != ended {
			t.Errorf("%s: row condition %v, want %v", c.name, got, ended)
		}
	}
}

func TestPodRowWide(t *testing.T) {
	pod := &corev1.Pod{}
	if got := fmt.Sprint(podRow(pod, time.Now())[4:]...); got != "<unknown><none><none><none><none>" {
		t.Errorf("an empty pod's wide cells are %s", got)
	}
	pod.Status.PodIPs = []corev1.PodIP{{IP: "10.0.0.7"}, {IP: "fd00::7"}}
	pod.Spec.NodeName, pod.Status.NominatedNodeName = "node", "other"
	pod.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: "a"}, {ConditionType: "b"}, {ConditionType: "c"}}
	pod.Status.Conditions = []corev1.PodCondition{{Type: "a", Status: "True"}, {Type: "b", Status: "False"}, {Type: "b", Status: "True"}}
	if got := fmt.Sprint(podRow(pod, time.Now())[5:]...); got != "10.0.0.7nodeother1/3" {
		t.Errorf("wide cells are %s", got)
	}
}

func TestAge(t *testing.T) {
	now := time.Now()
	for want, d := range map[string]time.Duration{"0s": 0, "59s": 59 * time.Second, "119s": 119 * time.Second, "2m": 2 * time.Minute, "5m30s": 330 * time.Second, "3h1m": 181 * time.Minute, "26h": 26 * time.Hour, "2d2h": 50 * time.Hour, "400d": 400 * 24 * time.Hour, "3y": 3 * 365 * 24 * time.Hour} {
		if got := age(metav1.NewTime(now.Add(-d)), now); got != want {
			t.Errorf("%v is %s, want %s", d, got, want)
		}
	}
	if got := age(metav1.Time{}, now); got != "<unknown>" {
		t.Errorf("no time is %s", got)
	}
}
