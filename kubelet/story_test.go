package kubelet_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"wherry.dev/wherry/kubelet/runtime"
	"wherry.dev/wherry/lifecycle"
	"wherry.dev/wherry/trace"
)

// events lists a pod's events as "Reason: message", in order.
func (n *node) events(name string) []string {
	n.t.Helper()
	list, err := n.api.CoreV1().Events("default").List(n.t.Context(), metav1.ListOptions{})
	if err != nil {
		n.t.Fatal(err)
	}
	var out []string
	for _, e := range list.Items {
		if e.InvolvedObject.Name == name {
			out = append(out, e.Reason+": "+e.Message)
		}
	}
	return out
}

// hasEvent waits for an event: they come a moment after what they tell.
func (n *node) hasEvent(name, want string) {
	n.t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for {
		for _, e := range n.events(name) {
			if strings.HasPrefix(e, want) {
				return
			}
		}
		if time.Now().After(deadline) {
			n.t.Errorf("pod %s has no event %q, only\n%s", name, want, strings.Join(n.events(name), "\n"))
			return
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func (n *node) log(p *v1.Pod, container string, attempt int) string {
	b, err := os.ReadFile(filepath.Join(n.config.LogsDir, fmt.Sprintf("default_%s_%s/%s/%d.log", p.Name, p.UID, container, attempt)))
	if err != nil {
		n.t.Error(err)
	}
	return string(b)
}

func containerStatus(p *v1.Pod, name string) v1.ContainerStatus {
	for _, list := range [][]v1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses, p.Status.EphemeralContainerStatuses} {
		for _, c := range list {
			if c.Name == name {
				return c
			}
		}
	}
	return v1.ContainerStatus{}
}

// run makes a container that runs the sample program with arguments; with none it serves.
func run(name string, args ...string) v1.Container {
	c := v1.Container{Name: name, Image: sample, ImagePullPolicy: v1.PullIfNotPresent, TerminationMessagePath: "/dev/termination-log", TerminationMessagePolicy: v1.TerminationMessageReadFile}
	if len(args) > 0 {
		c.Command = append([]string{"/sample"}, args...)
	}
	return c
}

func port(c v1.Container, number int) v1.Container {
	c.Env = append(c.Env, v1.EnvVar{Name: "PORT", Value: fmt.Sprint(number)})
	return c
}

func TestStory(t *testing.T) {
	n := newNode(t)
	n.api.CoreV1().Services("default").Create(t.Context(), &v1.Service{ObjectMeta: metav1.ObjectMeta{Name: "kubernetes", Namespace: "default"},
		Spec: v1.ServiceSpec{ClusterIP: "10.96.0.1", Ports: []v1.ServicePort{{Name: "https", Port: 443, Protocol: v1.ProtocolTCP}}}}, metav1.CreateOptions{})
	n.api.CoreV1().Services("default").Create(t.Context(), &v1.Service{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default"},
		Spec: v1.ServiceSpec{ClusterIP: "10.96.0.2", Selector: map[string]string{"served": "yes"}, Ports: []v1.ServicePort{{Port: 80, Protocol: v1.ProtocolTCP}}}}, metav1.CreateOptions{})
	n.api.CoreV1().ConfigMaps("default").Create(t.Context(), &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "settings", Namespace: "default"}, Data: map[string]string{"GREETING": "ahoy", "bad=key": "x"}}, metav1.CreateOptions{})
	n.up()

	t.Run("environment, volumes, hosts", func(t *testing.T) { n.t = t; environment(n) })
	t.Run("init containers and sidecars", func(t *testing.T) { n.t = t; initAndSidecars(n) })
	t.Run("completion", func(t *testing.T) { n.t = t; completion(n) })
	t.Run("crash loop", func(t *testing.T) { n.t = t; crashLoop(n) })
	t.Run("probes", func(t *testing.T) { n.t = t; probing(n) })
	t.Run("drain before stop", func(t *testing.T) { n.t = t; drain(n) })
	t.Run("kubelet restart", func(t *testing.T) { n.t = t; restart(n) })
	t.Run("refused", func(t *testing.T) { n.t = t; refused(n) })
	t.Run("waiting reasons", func(t *testing.T) { n.t = t; waiting(n) })
	t.Run("force delete", func(t *testing.T) { n.t = t; forced(n) })
	t.Run("shorter grace", func(t *testing.T) { n.t = t; shorter(n) })
	t.Run("ephemeral container", func(t *testing.T) { n.t = t; ephemeral(n) })
	n.t = t
}

func (n *node) end(p *v1.Pod) {
	n.t.Helper()
	n.remove(p, 2)
	n.until(p.Name, 15*time.Second, "gone", gone)
}

func environment(n *node) {
	t := n.t
	p := n.pod("env", func(p *v1.Pod) {
		c := &p.Spec.Containers[0]
		c.Env = []v1.EnvVar{
			{Name: "IP", ValueFrom: &v1.EnvVarSource{FieldRef: &v1.ObjectFieldSelector{FieldPath: "status.podIP"}}},
			{Name: "MESSAGE", Value: "$(GREETING) from $(IP) via $(KUBERNETES_SERVICE_HOST) $$(IP)"},
		}
		c.EnvFrom = []v1.EnvFromSource{{ConfigMapRef: &v1.ConfigMapEnvSource{LocalObjectReference: v1.LocalObjectReference{Name: "settings"}}}}
		c.VolumeMounts = []v1.VolumeMount{{Name: "files", MountPath: "/files"}, {Name: "scratch", MountPath: "/scratch"}}
		c.Resources = v1.ResourceRequirements{Limits: v1.ResourceList{"cpu": resource.MustParse("500m"), "memory": resource.MustParse("64Mi")}, Requests: v1.ResourceList{"cpu": resource.MustParse("500m"), "memory": resource.MustParse("64Mi")}}
		p.Spec.HostAliases = []v1.HostAlias{{IP: "10.1.2.3", Hostnames: []string{"harbour"}}}
		p.Spec.Volumes = []v1.Volume{
			{Name: "files", VolumeSource: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: v1.LocalObjectReference{Name: "settings"}, Items: []v1.KeyToPath{{Key: "GREETING", Path: "word"}}}}},
			{Name: "scratch", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}},
		}
	})
	got := n.until("env", 10*time.Second, "ready", isReady)
	c, err := runtime.Dial(n.config.RuntimeEndpoint)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	id := strings.TrimPrefix(containerStatus(got, "app").ContainerID, "containerd://")
	out, stderr, code, err := c.ExecSync(t.Context(), id, []string{"/sample", "get", "http://127.0.0.1:8080/"}, 5*time.Second)
	if want := "ahoy from " + got.Status.PodIP + " via 10.96.0.1 $(IP) from env"; err != nil || code != 0 || !strings.Contains(string(out), want) {
		t.Errorf("answer %q %q %d %v, want %q", out, stderr, code, err, want)
	}
	hosts, _ := os.ReadFile(n.config.Root + "/pods/" + string(p.UID) + "/etc-hosts")
	for _, want := range []string{"# Kubernetes-managed hosts file.", got.Status.PodIP + "\tenv\n", "10.1.2.3\tharbour"} {
		if !strings.Contains(string(hosts), want) {
			t.Errorf("hosts file has no %q:\n%s", want, hosts)
		}
	}
	if got.Status.QOSClass != v1.PodQOSGuaranteed {
		t.Errorf("qosClass %s", got.Status.QOSClass)
	}
	n.hasEvent("env", "InvalidEnvironmentVariableNames: ")
	for _, want := range []string{"Pulled: Container image \"" + sample + "\" already present on machine", "Created: Container created", "Started: Container started"} {
		n.hasEvent("env", want)
	}
	n.end(p)
	n.hasEvent("env", "Killing: Stopping container app")
}

func initAndSidecars(n *node) {
	t := n.t
	always := v1.ContainerRestartPolicyAlways
	p := n.pod("order", func(p *v1.Pod) {
		side := port(run("side"), 9001)
		side.RestartPolicy = &always
		side.StartupProbe = &v1.Probe{ProbeHandler: v1.ProbeHandler{HTTPGet: &v1.HTTPGetAction{Path: "/", Port: intstr.FromInt32(9001)}}, PeriodSeconds: 1, FailureThreshold: 10, TimeoutSeconds: 1}
		last := port(run("last"), 9002)
		last.RestartPolicy = &always
		// The init container can only succeed if the sidecar before it already serves.
		p.Spec.InitContainers = []v1.Container{side, run("check", "get", "http://127.0.0.1:9001/"), last}
		p.Spec.Containers = []v1.Container{run("app")}
	})
	got := n.until("order", 15*time.Second, "ready", isReady)
	if c := containerStatus(got, "check"); c.State.Terminated == nil || c.State.Terminated.Reason != "Completed" || !c.Ready || c.RestartCount != 0 {
		t.Errorf("init container: %+v", c)
	}
	n.remove(p, 10)
	n.until("order", 15*time.Second, "gone", gone)
	// Sidecars stop after the others, the last started first: their ends are in the logs' times.
	_ = t
}

func completion(n *node) {
	t := n.t
	p := n.pod("done", func(p *v1.Pod) {
		p.Spec.RestartPolicy = v1.RestartPolicyNever
		always := v1.ContainerRestartPolicyAlways
		side := port(run("side"), 9001)
		side.RestartPolicy = &always
		p.Spec.InitContainers = []v1.Container{side}
		good := run("good", "get", "http://127.0.0.1:9001/")
		p.Spec.Containers = []v1.Container{good}
	})
	got := n.until("done", 15*time.Second, "ended", func(p *v1.Pod) bool {
		return p != nil && (p.Status.Phase == v1.PodSucceeded || p.Status.Phase == v1.PodFailed)
	})
	c := containerStatus(got, "good")
	if got.Status.Phase != v1.PodSucceeded || c.State.Terminated == nil || c.State.Terminated.ExitCode != 0 || c.State.Terminated.Reason != "Completed" {
		t.Errorf("phase %s, %+v", got.Status.Phase, c.State)
	}
	if s := containerStatus(got, "side"); s.State.Terminated == nil {
		t.Errorf("the sidecar outlived its pod: %+v", s.State)
	}
	if !strings.Contains(n.log(p, "good", 0), "200 OK") {
		t.Errorf("log: %s", n.log(p, "good", 0))
	}
	n.end(p)

	p = n.pod("fails", func(p *v1.Pod) {
		p.Spec.RestartPolicy = v1.RestartPolicyNever
		bad := run("bad", "get")
		bad.TerminationMessagePolicy = v1.TerminationMessageFallbackToLogsOnError
		p.Spec.Containers = []v1.Container{bad}
	})
	got = n.until("fails", 15*time.Second, "failed", func(p *v1.Pod) bool { return p != nil && p.Status.Phase == v1.PodFailed })
	if x := containerStatus(got, "bad").State.Terminated; x == nil || x.ExitCode != 2 || x.Reason != "Error" || !strings.Contains(x.Message, "usage: sample get URL") {
		t.Errorf("terminated: %+v", x)
	}
	n.end(p)
}

func crashLoop(n *node) {
	t := n.t
	p := n.pod("loop", func(p *v1.Pod) { p.Spec.Containers = []v1.Container{run("app", "get")} })
	got := n.until("loop", 15*time.Second, "in a crash loop", func(p *v1.Pod) bool {
		w := containerStatus(p, "app").State.Waiting
		return w != nil && w.Reason == "CrashLoopBackOff"
	})
	c := containerStatus(got, "app")
	if c.RestartCount != 1 || c.LastTerminationState.Terminated == nil || c.LastTerminationState.Terminated.ExitCode != 2 {
		t.Errorf("%+v", c)
	}
	if want := fmt.Sprintf("back-off 10s restarting failed container=app pod=loop_default(%s)", p.UID); c.State.Waiting.Message != want {
		t.Errorf("message %q, want %q", c.State.Waiting.Message, want)
	}
	if got.Status.Phase != v1.PodRunning {
		t.Errorf("phase %s", got.Status.Phase)
	}
	n.hasEvent("loop", "BackOff: Back-off restarting failed container app in pod loop_default("+string(p.UID)+")")
	n.end(p)
}

func probing(n *node) {
	t := n.t
	p := n.pod("probes", func(p *v1.Pod) {
		c := &p.Spec.Containers[0]
		c.Env = []v1.EnvVar{{Name: "READY_FILE", Value: "/shared/ready"}}
		c.VolumeMounts = []v1.VolumeMount{{Name: "shared", MountPath: "/shared"}}
		c.ReadinessProbe = &v1.Probe{ProbeHandler: v1.ProbeHandler{HTTPGet: &v1.HTTPGetAction{Path: "/healthz", Port: intstr.FromInt32(8080)}}, PeriodSeconds: 1, FailureThreshold: 1, TimeoutSeconds: 1}
		c.LivenessProbe = &v1.Probe{ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"/sample", "get", "http://127.0.0.1:8080/"}}}, PeriodSeconds: 1, FailureThreshold: 2, TimeoutSeconds: 5}
		p.Spec.Volumes = []v1.Volume{{Name: "shared", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}}}
	})
	n.until("probes", 10*time.Second, "running but not ready", func(p *v1.Pod) bool { return p != nil && p.Status.Phase == v1.PodRunning && !isReady(p) })
	n.hasEvent("probes", "Unhealthy: Readiness probe failed: HTTP probe failed with statuscode: 503")
	file := n.config.Root + "/pods/" + string(p.UID) + "/volumes/kubernetes.io~empty-dir/shared/ready"
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	got := n.until("probes", 10*time.Second, "ready", isReady)
	if containerStatus(got, "app").RestartCount != 0 {
		t.Error("restarted by a liveness probe that should succeed")
	}
	n.end(p)

	p = n.pod("sick", func(p *v1.Pod) {
		c := &p.Spec.Containers[0]
		grace := int64(1)
		c.LivenessProbe = &v1.Probe{ProbeHandler: v1.ProbeHandler{TCPSocket: &v1.TCPSocketAction{Port: intstr.FromInt32(7)}}, PeriodSeconds: 1, FailureThreshold: 1, TimeoutSeconds: 1, TerminationGracePeriodSeconds: &grace}
	})
	n.until("sick", 10*time.Second, "restarted", func(p *v1.Pod) bool { return p != nil && containerStatus(p, "app").RestartCount >= 1 })
	n.hasEvent("sick", "Unhealthy: Liveness probe failed: dial tcp")
	n.hasEvent("sick", "Killing: Container app failed liveness probe, will be restarted")
	n.end(p)
}

func drain(n *node) {
	t := n.t
	served := func(p *v1.Pod) { p.Labels["served"] = "yes" }
	p := n.pod("served", served)
	n.until("served", 10*time.Second, "ready", isReady)
	n.remove(p, 30)
	// Nothing acknowledges for now: the container must still run while its pod waits.
	time.Sleep(200 * time.Millisecond) // the wait itself is what is tested
	if got := n.until("served", time.Second, "there", func(p *v1.Pod) bool { return p != nil }); containerStatus(got, "app").State.Running == nil {
		t.Error("the container was stopped before any node had acknowledged")
	}
	acknowledged := time.Now()
	cur, err := n.api.CoreV1().Pods("default").Get(t.Context(), "served", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	cur = cur.DeepCopy()
	cur.Status.Conditions = append(cur.Status.Conditions, v1.PodCondition{Type: lifecycle.DrainedCondition, Status: v1.ConditionTrue})
	if _, err := n.api.CoreV1().Pods("default").UpdateStatus(t.Context(), cur, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	n.until("served", 5*time.Second, "gone", gone)
	if took := time.Since(acknowledged); took > time.Second {
		t.Errorf("gone only %s after the acknowledgement", took)
	}
	drained := false
	for _, s := range n.spans.of(p.UID) {
		drained = drained || s.Stage == lifecycle.Drain && s.Outcome == trace.OK
	}
	if !drained {
		t.Error("no span of the stage drain")
	}

	p = n.pod("unserved", nil)
	n.until("unserved", 10*time.Second, "ready", isReady)
	begun := time.Now()
	n.remove(p, 30)
	n.until("unserved", 5*time.Second, "gone", gone)
	if took := time.Since(begun); took > 1500*time.Millisecond {
		t.Errorf("a pod behind no service took %s to go", took)
	}

	p = n.pod("unanswered", served)
	n.until("unanswered", 10*time.Second, "ready", isReady)
	begun = time.Now()
	n.remove(p, 30)
	n.until("unanswered", 10*time.Second, "gone", gone)
	if took := time.Since(begun); took < 2*time.Second || took > 4*time.Second {
		t.Errorf("gone after %s without an acknowledgement, want some 2 s", took)
	}
}

func restart(n *node) {
	t := n.t
	p := n.pod("stays", func(p *v1.Pod) {
		p.Spec.Containers[0].ReadinessProbe = &v1.Probe{ProbeHandler: v1.ProbeHandler{HTTPGet: &v1.HTTPGetAction{Path: "/", Port: intstr.FromInt32(8080)}}, PeriodSeconds: 1, FailureThreshold: 1, TimeoutSeconds: 1}
	})
	leaves := n.pod("leaves", nil)
	before := n.until("stays", 10*time.Second, "ready", isReady)
	n.until("leaves", 10*time.Second, "ready", isReady)
	n.down()
	// Deleted while the kubelet is away: once gracefully, below by force.
	n.remove(leaves, 3)
	forced := n.pod("forced-away", nil)
	if err := n.api.CoreV1().Pods("default").Delete(t.Context(), "forced-away", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	_ = forced
	flips := make(chan struct{}, 100)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w, err := n.api.CoreV1().Pods("default").Watch(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for e := range w.ResultChan() {
			if p, ok := e.Object.(*v1.Pod); ok && p.Name == "stays" && p.DeletionTimestamp == nil && !isReady(p) {
				flips <- struct{}{}
			}
		}
	}()
	n.up()
	n.until("leaves", 10*time.Second, "gone", gone)
	after := n.until("stays", 10*time.Second, "ready", isReady)
	if a, b := containerStatus(before, "app"), containerStatus(after, "app"); a.ContainerID != b.ContainerID || b.RestartCount != 0 {
		t.Errorf("the kubelet's restart restarted a container: %+v, then %+v", a, b)
	}
	w.Stop()
	if len(flips) > 0 {
		t.Error("the pod was not ready for a while after the kubelet's restart")
	}
	n.end(p)
}

func refused(n *node) {
	t := n.t
	n.pod("greedy", func(p *v1.Pod) {
		p.Spec.Containers[0].Resources.Requests = v1.ResourceList{"cpu": resource.MustParse("64")}
	})
	got := n.until("greedy", 5*time.Second, "failed", func(p *v1.Pod) bool { return p != nil && p.Status.Phase == v1.PodFailed })
	if got.Status.Reason != "OutOfcpu" || got.Status.Message != "Pod was rejected: Node didn't have enough resource: cpu, requested: 64000, used: 0, capacity: 2000" {
		t.Errorf("%s: %s", got.Status.Reason, got.Status.Message)
	}
	n.remove(got, 0)
	n.until("greedy", 5*time.Second, "gone", gone)
}

func waiting(n *node) {
	t := n.t
	reason := func(want string) func(*v1.Pod) bool {
		return func(p *v1.Pod) bool {
			if p == nil || len(p.Status.ContainerStatuses) == 0 {
				return false
			}
			w := p.Status.ContainerStatuses[0].State.Waiting
			return w != nil && w.Reason == want
		}
	}
	p := n.pod("unset", func(p *v1.Pod) {
		p.Spec.Containers[0].Env = []v1.EnvVar{{Name: "X", ValueFrom: &v1.EnvVarSource{ConfigMapKeyRef: &v1.ConfigMapKeySelector{LocalObjectReference: v1.LocalObjectReference{Name: "absent"}, Key: "x"}}}}
	})
	got := n.until("unset", 5*time.Second, "waiting for its configMap", reason("CreateContainerConfigError"))
	if m := got.Status.ContainerStatuses[0].State.Waiting.Message; m != `configmap "absent" not found` {
		t.Errorf("message %q", m)
	}
	n.hasEvent("unset", `Failed: Error: configmap "absent" not found`)
	n.api.CoreV1().ConfigMaps("default").Create(t.Context(), &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "absent", Namespace: "default"}, Data: map[string]string{"x": "1"}}, metav1.CreateOptions{})
	n.until("unset", 15*time.Second, "ready", isReady)
	n.end(p)

	p = n.pod("never", func(p *v1.Pod) {
		p.Spec.Containers[0].Image, p.Spec.Containers[0].ImagePullPolicy = "wherry.dev/absent:1", v1.PullNever
	})
	n.until("never", 5*time.Second, "refusing to pull", reason("ErrImageNeverPull"))
	n.end(p)

	p = n.pod("nopull", func(p *v1.Pod) { p.Spec.Containers[0].Image = "127.0.0.1:1/absent:1" })
	n.until("nopull", 10*time.Second, "failing to pull", reason("ErrImagePull"))
	n.until("nopull", 10*time.Second, "backing off", reason("ImagePullBackOff"))
	n.end(p)

	p = n.pod("root", func(p *v1.Pod) {
		yes, zero := true, int64(0)
		p.Spec.Containers[0].SecurityContext = &v1.SecurityContext{RunAsNonRoot: &yes, RunAsUser: &zero}
	})
	n.until("root", 5*time.Second, "refused as root", reason("CreateContainerConfigError"))
	n.end(p)

	p = n.pod("nocommand", func(p *v1.Pod) { p.Spec.Containers[0].Command = []string{"/absent"} })
	n.until("nocommand", 10*time.Second, "failing to run", func(p *v1.Pod) bool {
		c := containerStatus(p, "app")
		return c.State.Waiting != nil && c.LastTerminationState.Terminated != nil && c.LastTerminationState.Terminated.Reason == "StartError"
	})
	n.end(p)
}

func forced(n *node) {
	p := n.pod("force", nil)
	n.until("force", 10*time.Second, "ready", isReady)
	if err := n.api.CoreV1().Pods("default").Delete(n.t.Context(), "force", metav1.DeleteOptions{}); err != nil {
		n.t.Fatal(err)
	}
	n.nothingLeft(p)
}

// nothingLeft waits until the runtime, the directories and the cgroups know nothing of the pod.
func (n *node) nothingLeft(p *v1.Pod) {
	n.t.Helper()
	c, err := runtime.Dial(n.config.RuntimeEndpoint)
	if err != nil {
		n.t.Fatal(err)
	}
	defer c.Close()
	deadline := time.Now().Add(10 * time.Second)
	for {
		var left []string
		pods, err := c.Pods(n.t.Context(), string(p.UID))
		if err != nil {
			n.t.Fatal(err)
		}
		if len(pods) > 0 {
			left = append(left, "containers")
		}
		for _, pattern := range []string{n.config.Root + "/pods/" + string(p.UID), n.config.LogsDir + "/*" + string(p.UID), "/sys/fs/cgroup/*" + n.config.CgroupRoot + "/kubepods/*/pod" + string(p.UID), "/sys/fs/cgroup/*" + n.config.CgroupRoot + "/kubepods/pod" + string(p.UID)} {
			found, _ := filepath.Glob(pattern)
			left = append(left, found...)
		}
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			n.t.Fatalf("pod %s is gone, but left %v", p.Name, left)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func shorter(n *node) {
	p := n.pod("stubborn", func(p *v1.Pod) { p.Spec.Containers[0].Env = []v1.EnvVar{{Name: "STOP_DELAY", Value: "1h"}} })
	n.until("stubborn", 10*time.Second, "ready", isReady)
	n.remove(p, 3600)
	time.Sleep(100 * time.Millisecond)
	begun := time.Now()
	n.remove(p, 1)
	n.until("stubborn", 10*time.Second, "gone", gone)
	if took := time.Since(begun); took > 5*time.Second {
		n.t.Errorf("gone %s after the second delete, which allowed 1 s", took)
	}
	n.nothingLeft(p)
}

func ephemeral(n *node) {
	t := n.t
	p := n.pod("debug", nil)
	got := n.until("debug", 10*time.Second, "ready", isReady)
	got = got.DeepCopy()
	got.Spec.EphemeralContainers = []v1.EphemeralContainer{{TargetContainerName: "app", EphemeralContainerCommon: v1.EphemeralContainerCommon(run("look", "get", "http://127.0.0.1:8080/"))}}
	if _, err := n.api.CoreV1().Pods("default").Update(t.Context(), got, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	got = n.until("debug", 10*time.Second, "looked into", func(p *v1.Pod) bool { return containerStatus(p, "look").State.Terminated != nil })
	if c := containerStatus(got, "look"); c.State.Terminated.ExitCode != 0 || !isReady(got) {
		t.Errorf("%+v", c)
	}
	n.end(p)
}
