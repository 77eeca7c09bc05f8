package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// MemoryOptions of the benchmark of many pods.
type MemoryOptions struct {
	Pods    int
	Workers int
	Settle  time.Duration // how long each state is left alone before it is measured
	After   time.Duration // how long memory is followed after the pods are gone
}

// Memory fills the cluster with pods as a controller makes and a kubelet reports them, reads them back whole and in pages, deletes them, and
// says what the servers' processes take at each step.
func Memory(ctx context.Context, t Target, o MemoryOptions) (results []Result, err error) {
	m := &memoryRun{t: t, o: o}
	err = t.inNamespace(ctx, func(namespace, run string, _ kubernetes.Interface) error {
		if m.rs, err = t.raws(ctx, o.Workers); err != nil {
			return err
		}
		defer func() {
			for _, r := range m.rs {
				r.close()
			}
		}()
		m.pods = "/api/v1/namespaces/" + namespace + "/pods"
		m.fill(ctx, namespace, run)
		m.read(ctx)
		m.empty(ctx)
		return ctx.Err()
	})
	return m.results, err
}

// memoryRun is one run; used by one goroutine.
type memoryRun struct {
	t       Target
	o       MemoryOptions
	rs      []*raw
	pods    string // path of the namespace's pods
	results []Result
}

func (m *memoryRun) add(r Result) { m.results = append(m.results, r) }

func (m *memoryRun) measure(ctx context.Context, what string, workers, count int, f func(r *raw, i int) error) {
	used := m.t.meter()
	m.add(used.fill(each(ctx, what, workers, count, func(_ context.Context, w, i int) error { return f(m.rs[w], i) })))
}

// weigh notes what the processes take now: anonymous memory, all of their own, and their share of what they have mapped.
func (m *memoryRun) weigh(when string) {
	var all footprint
	for _, pid := range m.t.Servers {
		one, err := memory(pid)
		if err != nil {
			m.t.say("%v", err)
			return
		}
		all.pss, all.private, all.anonymous = all.pss+one.pss, all.private+one.private, all.anonymous+one.anonymous
	}
	if len(m.t.Servers) > 0 {
		m.add(Result{Name: "memory " + when, Note: fmt.Sprintf("anonymous %.0f MB, private %.0f MB, PSS %.0f MB", float64(all.anonymous)/1e6, float64(all.private)/1e6, float64(all.pss)/1e6)})
		m.t.say("%s: %s", m.results[len(m.results)-1].Name, m.results[len(m.results)-1].Note)
	}
}

// rest lets the processes settle, and weighs them.
func (m *memoryRun) rest(ctx context.Context, d time.Duration, when string) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
		m.weigh(when)
	}
}

func podName(i int) string { return fmt.Sprintf("web-%03d-%05d", i/500, i) }

func (m *memoryRun) fill(ctx context.Context, namespace, run string) {
	m.weigh("before")
	m.t.say("%d pods", m.o.Pods)
	m.measure(ctx, "create pod", m.o.Workers, m.o.Pods, func(r *raw, i int) error {
		body, err := r.encodePod(m.t.deployed(namespace, run, i))
		if err != nil {
			return err
		}
		_, err = r.do(http.MethodPost, m.pods+"?fieldManager=kube-controller-manager", r.encoding, body, false)
		return err
	})
	m.measure(ctx, "patch status", m.o.Workers, m.o.Pods, func(r *raw, i int) error {
		patch, err := json.Marshal(map[string]any{"status": m.t.running(i)})
		if err != nil {
			return err
		}
		_, err = r.do(http.MethodPatch, m.pods+"/"+podName(i)+"/status?fieldManager=kubelet", string(types.StrategicMergePatchType), patch, false)
		return err
	})
	m.weigh("full, at once")
	m.rest(ctx, m.o.Settle, fmt.Sprintf("full, %v later", m.o.Settle))
}

// read lists everything in pages and at once.
func (m *memoryRun) read(ctx context.Context) {
	next, size := "", 0
	m.measure(ctx, "list 500 of them", 1, (m.o.Pods+499)/500, func(r *raw, _ int) error {
		a, err := r.do(http.MethodGet, m.pods+"?limit=500&continue="+url.QueryEscape(next), "", nil, true)
		if err != nil {
			return err
		}
		b, err := a.content()
		if err != nil {
			return err
		}
		size += len(b)
		var list struct {
			metav1.TypeMeta
			metav1.ListMeta `json:"metadata"`
		}
		if m.t.Encoding == "json" {
			err = json.Unmarshal(b, &list)
			next = list.Continue
			return err
		}
		next, err = continuation(b)
		return err
	})
	m.results[len(m.results)-1].Note = fmt.Sprintf("%.1f MB in all", float64(size)/1e6)
	m.weigh("after the pages")
	var peak int64
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { peak = m.peak(done) })
	m.measure(ctx, "list all", 1, 3, func(r *raw, _ int) error {
		_, err := r.do(http.MethodGet, m.pods, "", nil, false)
		return err
	})
	close(done)
	wg.Wait()
	m.results[len(m.results)-1].Note = fmt.Sprintf("anonymous memory at most %.0f MB meanwhile", float64(peak)/1e6)
	m.rest(ctx, m.o.Settle, fmt.Sprintf("after the lists, %v later", m.o.Settle))
}

// peak watches the processes' anonymous memory until done.
func (m *memoryRun) peak(done <-chan struct{}) (most int64) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		var sum int64
		for _, pid := range m.t.Servers {
			if one, err := memory(pid); err == nil {
				sum += one.anonymous
			}
		}
		most = max(most, sum)
		select {
		case <-done:
			return most
		case <-tick.C:
		}
	}
}

// empty deletes the pods and follows the memory.
func (m *memoryRun) empty(ctx context.Context) {
	m.measure(ctx, "delete pod", m.o.Workers, m.o.Pods, func(r *raw, i int) error {
		_, err := r.do(http.MethodDelete, m.pods+"/"+podName(i), runtime.ContentTypeJSON, deleteNow, false)
		return err
	})
	m.weigh("empty, at once")
	const step = 30 * time.Second
	for d := step; d <= m.o.After && ctx.Err() == nil; d += step {
		m.rest(ctx, step, fmt.Sprintf("empty, %v later", d))
	}
}

// continuation reads the continue token of a list in protobuf, without decoding its items.
func continuation(b []byte) (string, error) {
	var unknown runtime.Unknown
	if err := unknown.Unmarshal(b[4:]); err != nil {
		return "", fmt.Errorf("read a list's envelope: %w", err)
	}
	// Field 1, the metadata, comes first.
	raw := unknown.Raw
	if len(raw) < 2 || raw[0] != 1<<3|2 {
		return "", fmt.Errorf("a list begins with %q, not with its metadata", raw[:min(len(raw), 8)])
	}
	n, at := 0, 1
	for shift := 0; at < len(raw); shift += 7 {
		c := raw[at]
		at++
		n |= int(c&0x7f) << shift
		if c < 0x80 {
			break
		}
	}
	var meta metav1.ListMeta
	if at+n > len(raw) {
		return "", fmt.Errorf("a list's metadata is cut off")
	}
	if err := meta.Unmarshal(raw[at : at+n]); err != nil {
		return "", fmt.Errorf("read a list's metadata: %w", err)
	}
	return meta.Continue, nil
}

// deployed is the i-th pod as a Deployment's ReplicaSet makes it, bound to a node: 500 replicas a set, 110 pods a node. Nothing runs it.
func (t Target) deployed(namespace, run string, i int) *corev1.Pod {
	set, hash := fmt.Sprintf("web-%03d-6d4cf56db6", i/500), "6d4cf56db6"
	yes, wait := true, int64(300)
	pod := t.pod(namespace, podName(i), run)
	pod.GenerateName = set + "-"
	pod.Labels = map[string]string{runLabel: run, "app.kubernetes.io/name": "web", "app.kubernetes.io/instance": fmt.Sprintf("web-%03d", i/500),
		"app.kubernetes.io/part-of": "shop", "pod-template-hash": hash}
	pod.Annotations = map[string]string{"prometheus.io/scrape": "true", "prometheus.io/port": "8080"}
	pod.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: set,
		UID: types.UID(fmt.Sprintf("0b1f7c1e-6d3c-4f0e-9a53-%012d", i/500)), Controller: &yes, BlockOwnerDeletion: &yes}}
	pod.Spec.AutomountServiceAccountToken = nil
	pod.Spec.NodeName, pod.Spec.SchedulerName = fmt.Sprintf("bench-%s-%04d", run, i/110), corev1.DefaultSchedulerName
	pod.Spec.Tolerations = []corev1.Toleration{
		{Key: "node.kubernetes.io/not-ready", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &wait},
		{Key: "node.kubernetes.io/unreachable", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &wait}}
	c := &pod.Spec.Containers[0]
	c.Env = append(c.Env, corev1.EnvVar{Name: "POD_NAME", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}})
	c.Resources.Limits = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("64Mi")}
	c.ReadinessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/ready"}}}
	c.ReadinessProbe.HTTPGet.Port.IntVal = 8080
	return pod
}

// running is the status that a kubelet reports of the i-th pod.
func (t Target) running(i int) corev1.PodStatus {
	now, yes := metav1.Now(), true
	ip, host := fmt.Sprintf("10.%d.%d.%d", i>>16&255, i>>8&255, i&255), fmt.Sprintf("192.168.%d.%d", i/110>>8&255, i/110&255)
	status := corev1.PodStatus{Phase: corev1.PodRunning, HostIP: host, HostIPs: []corev1.HostIP{{IP: host}}, PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}},
		StartTime: &now, ObservedGeneration: 1}
	for _, c := range []corev1.PodConditionType{corev1.PodReadyToStartContainers, corev1.PodInitialized, corev1.PodReady, corev1.ContainersReady, corev1.PodScheduled} {
		status.Conditions = append(status.Conditions, corev1.PodCondition{Type: c, Status: corev1.ConditionTrue, LastTransitionTime: now, ObservedGeneration: 1})
	}
	status.ContainerStatuses = []corev1.ContainerStatus{{Name: "app", Ready: true, Started: &yes, Image: t.Image,
		ImageID:     t.Image + "@sha256:" + strings.Repeat("5a", 32),
		ContainerID: fmt.Sprintf("containerd://%064x", i), State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}}}}
	return status
}
