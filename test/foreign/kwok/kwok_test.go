// Package kwok lets KWOK keep a thousand nodes and twenty thousand pods on Wherry, and says what that took.
package kwok

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"wherry.dev/wherry/test/foreign/build"
	"wherry.dev/wherry/test/foreign/logs"
	"wherry.dev/wherry/test/foreign/plane"
)

func TestMain(m *testing.M) { plane.Main(m) }

// setting reads a number from the environment.
func setting(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

const (
	annotation = "kwok.x-k8s.io/node"
	workers    = 32
	patience   = 20 * time.Minute // for the whole of it, on a busy machine
)

// TestManyNodes: KWOK readies every node and runs every pod that the scheduler gives it, keeps all leases meanwhile, and lets all pods go again.
func TestManyNodes(t *testing.T) {
	plane.Need(t)
	nodes, pods := setting(t, "WHERRY_FOREIGN_NODES", 1000), setting(t, "WHERRY_FOREIGN_PODS", 20000)
	rest := time.Minute // from the last pod's end to the end: the database is compacted each five minutes
	if text := os.Getenv("WHERRY_FOREIGN_REST"); text != "" {
		d, err := time.ParseDuration(text)
		if err != nil {
			t.Fatalf("WHERRY_FOREIGN_REST: %v", err)
		}
		rest = d
	}
	program := build.Need(t, "kwok")
	p := plane.StartWherry(t, plane.Port, "--pod-cidr", "10.128.0.0/10")
	server := p.Processes[0]
	keeper := plane.Start(t, "kwok", program, "--config", "testdata/stages.yaml", "--kubeconfig", p.Kubeconfig, "--manage-all-nodes=false", "--manage-nodes-with-annotation-selector", annotation+"=fake", "--node-lease-duration-seconds", "40",
		"--cidr", "10.192.0.0/10", "--node-ip", plane.Address, "--server-address", "127.0.0.1:10247")
	ctx, cancel := context.WithTimeout(t.Context(), patience+rest)
	defer cancel()
	usage := func(when string) {
		u, err := plane.Used(server.PID())
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: the server has %d MB PSS, %d MB private, %v of CPU since its start", when, u.PSS>>20, u.Private>>20, u.CPU.Round(10*time.Millisecond))
	}
	usage("empty")

	each(t, "nodes created", nodes, func(i int) error {
		_, err := p.Kube.CoreV1().Nodes().Create(ctx, node(i), metav1.CreateOptions{})
		return err
	})
	count(ctx, t, keeper, "ready nodes", nodes, func() (int, error) {
		l, err := p.Kube.CoreV1().Nodes().List(ctx, metav1.ListOptions{ResourceVersion: "0"})
		if err != nil {
			return 0, err
		}
		n := 0
		for _, node := range l.Items {
			for _, c := range node.Status.Conditions {
				if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
					n++
				}
			}
		}
		return n, nil
	})
	usage("with its nodes")

	if _, err := p.Kube.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "many"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	plane.Eventually(t, "the namespace's service account", time.Minute, func() error {
		_, err := p.Kube.CoreV1().ServiceAccounts("many").Get(ctx, "default", metav1.GetOptions{})
		return err
	}, server)
	running := func() (int, error) {
		l, err := p.Kube.CoreV1().Pods("many").List(ctx, metav1.ListOptions{FieldSelector: "status.phase=Running", ResourceVersion: "0"})
		return len(l.Items), err
	}
	began := time.Now()
	each(t, "pods created", pods, func(i int) error {
		_, err := p.Kube.CoreV1().Pods("many").Create(ctx, pod(i), metav1.CreateOptions{})
		return err
	})
	count(ctx, t, keeper, "running pods", pods, running)
	t.Logf("%d pods from the first create to the last one running: %.0f/s", pods, float64(pods)/time.Since(began).Seconds())
	usage("with its pods")
	saveHeap(ctx, t, p)

	// All leases live: nobody is lost while this much is kept.
	before, err := plane.Used(server.PID())
	if err != nil {
		t.Fatal(err)
	}
	hold := time.Minute
	select {
	case <-time.After(hold):
	case <-ctx.Done():
	}
	after, err := plane.Used(server.PID())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("kept for %v: %.1f%% of a core", hold, 100*float64(after.CPU-before.CPU)/float64(hold))
	l, err := p.Kube.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, node := range l.Items {
		if len(node.Spec.Taints) > 0 {
			t.Fatalf("node %s was lost: %v", node.Name, node.Spec.Taints)
		}
	}

	began = time.Now()
	if err := p.Kube.CoreV1().Pods("many").DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	count(ctx, t, keeper, "pods that are left", 0, func() (int, error) {
		l, err := p.Kube.CoreV1().Pods("many").List(ctx, metav1.ListOptions{ResourceVersion: "0"})
		return len(l.Items), err
	})
	t.Logf("%d pods deleted: %.0f/s", pods, float64(pods)/time.Since(began).Seconds())
	usage("after its pods")
	for waited := time.Duration(0); waited < rest; {
		d := min(hold, rest-waited)
		select {
		case <-time.After(d):
		case <-ctx.Done():
			t.Fatal(ctx.Err())
		}
		waited += d
		usage(fmt.Sprintf("%v after its pods", waited))
	}

	complaints(t, keeper)
}

// saveHeap writes what the server's memory is used for beside the logs.
func saveHeap(ctx context.Context, t *testing.T, p *plane.Plane) {
	t.Helper()
	b, err := p.Kube.CoreV1().RESTClient().Get().AbsPath("/debug/pprof/heap").DoRaw(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(plane.LogDir(t), "heap.pprof"), b, 0o644); err != nil {
		t.Fatal(err)
	}
}

// complaints fails the test when KWOK logged an error, in its own words or client-go's.
func complaints(t *testing.T, keeper *plane.Process) {
	t.Helper()
	if !keeper.Running() {
		t.Errorf("KWOK has ended: %s", keeper.Tail(3))
	}
	all, err := logs.ReadFile(keeper.Log)
	if err != nil {
		t.Fatal(err)
	}
	for c, seen := range all {
		t.Errorf("KWOK logs, %d times: %s", seen.Count, c)
	}
	b, err := os.ReadFile(keeper.Log)
	if err != nil {
		t.Fatal(err)
	}
	shown := 0
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, `"level":"ERROR"`) && shown < 5 {
			shown++
			t.Errorf("KWOK logs: %s", strings.TrimSpace(line))
		}
	}
}

// each does something n times, some at once, and logs the rate.
func each(t *testing.T, what string, n int, do func(i int) error) {
	t.Helper()
	var next atomic.Int64
	var group sync.WaitGroup
	var once sync.Once
	began := time.Now()
	for range workers {
		group.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				if err := do(i); err != nil {
					once.Do(func() { t.Errorf("%s, number %d: %v", what, i, err) })
					return
				}
			}
		})
	}
	group.Wait()
	if t.Failed() {
		t.FailNow()
	}
	t.Logf("%d %s by %d clients: %.0f/s", n, what, workers, float64(n)/time.Since(began).Seconds())
}

// count waits until there are as many as there should be.
func count(ctx context.Context, t *testing.T, keeper *plane.Process, what string, want int, look func() (int, error)) {
	t.Helper()
	last := -1
	for {
		n, err := look()
		if err == nil && n == want {
			return
		}
		last = n
		select {
		case <-time.After(time.Second):
		case <-keeper.Done():
			t.Fatalf("%d %s, not %d, and KWOK has ended: %s", last, what, want, keeper.Tail(3))
		case <-ctx.Done():
			t.Fatalf("%d %s, not %d: %v", last, what, want, err)
		}
	}
}

func node(i int) *corev1.Node {
	name := fmt.Sprintf("kwok-%04d", i)
	room := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("32"), corev1.ResourceMemory: resource.MustParse("256Gi"), corev1.ResourcePods: resource.MustParse("110")}
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{annotation: "fake"}, Labels: map[string]string{corev1.LabelHostname: name, "type": "kwok"}},
		Status:     corev1.NodeStatus{Allocatable: room, Capacity: room},
	}
}

func pod(i int) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("pod-%05d", i), Labels: map[string]string{"app": "many"}}, Spec: corev1.PodSpec{
		Containers: []corev1.Container{{Name: "app", Image: "example.invalid/app:1", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("10m")}}}},
	}}
}
