package nodelifecycle

import (
	"context"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/record"

	"wherry.dev/wherry/client"
)

// world is a controller in fake time, beside an API that only stores.
type world struct {
	t *testing.T
	kubernetes.Interface
	events *record.FakeRecorder
}

func story(t *testing.T, objects []runtime.Object, f func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		api := fake.NewClientset(objects...)
		w := &world{t: t, Interface: api, events: record.NewFakeRecorder(100)}
		ctx, cancel := context.WithCancel(t.Context())
		set := &client.Set{Kubernetes: api, Informers: informers.NewSharedInformerFactory(api, 0)}
		done := make(chan error, 1)
		go func() {
			done <- Run(ctx, Config{Client: set, Recorder: w.events, Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))})
		}()
		w.wait(time.Second) // client-go looks every 100 ms whether its caches are there
		f(w)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		set.Informers.Shutdown()
	})
}

func readyNode(name string, taints ...corev1.Taint) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, UID: "node-uid", ResourceVersion: "1"}, Spec: corev1.NodeSpec{Taints: taints},
		Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}}}
}

func boundPod(name string, tolerations ...corev1.Toleration) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: "pod-uid"}, Spec: corev1.PodSpec{NodeName: "n1", Tolerations: tolerations},
		Status: corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}}
}

func lease(renewed time.Time) *coordinationv1.Lease {
	at := metav1.NewMicroTime(renewed)
	return &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: "n1"}, Spec: coordinationv1.LeaseSpec{RenewTime: &at}}
}

func (w *world) wait(d time.Duration) { time.Sleep(d); synctest.Wait() }

func (w *world) renew(at time.Time) {
	w.t.Helper()
	if _, err := w.CoordinationV1().Leases(corev1.NamespaceNodeLease).Update(w.t.Context(), lease(at), metav1.UpdateOptions{}); err != nil {
		w.t.Fatal(err)
	}
	synctest.Wait()
}

func (w *world) node() *corev1.Node {
	w.t.Helper()
	n, err := w.CoreV1().Nodes().Get(w.t.Context(), "n1", metav1.GetOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

func (w *world) wantReady(want corev1.ConditionStatus) {
	w.t.Helper()
	if got := readiness(w.node()); got != want {
		w.t.Errorf("Ready is %q, want %q", got, want)
	}
}

func (w *world) wantTaints(want ...string) {
	w.t.Helper()
	var got []string
	for _, t := range w.node().Spec.Taints {
		got = append(got, t.Key+":"+string(t.Effect))
		if t.Effect == corev1.TaintEffectNoExecute && slices.Contains(ours, t.Key) && t.TimeAdded == nil {
			w.t.Errorf("taint %s says not since when", t.Key)
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		w.t.Errorf("taints %v, want %v", got, want)
	}
}

func (w *world) podThere(name string) bool {
	_, err := w.CoreV1().Pods("ns").Get(w.t.Context(), name, metav1.GetOptions{})
	return err == nil
}

func (w *world) setReady(s corev1.ConditionStatus) {
	w.t.Helper()
	n := w.node()
	n.Status.Conditions[slices.IndexFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool { return c.Type == corev1.NodeReady })].Status = s
	if _, err := w.CoreV1().Nodes().UpdateStatus(w.t.Context(), n, metav1.UpdateOptions{}); err != nil {
		w.t.Fatal(err)
	}
	synctest.Wait()
}

const unreachable = corev1.TaintNodeUnreachable

func TestASilentNode(t *testing.T) {
	story(t, []runtime.Object{readyNode("n1"), lease(time.Now()), boundPod("web", corev1.Toleration{Key: unreachable, Operator: corev1.TolerationOpExists})}, func(w *world) {
		for range 30 { // a living node's clock may be as wrong as it likes
			w.wait(10 * time.Second)
			w.renew(time.Now().Add(-time.Hour))
		}
		w.wantReady(corev1.ConditionTrue)
		w.wantTaints()
		w.wait(defaultGracePeriod - time.Second)
		w.wantReady(corev1.ConditionTrue)
		w.wait(2 * time.Second)
		w.wantReady(corev1.ConditionUnknown)
		w.wantTaints(unreachable+":NoSchedule", unreachable+":NoExecute")
		pod, err := w.CoreV1().Pods("ns").Get(t.Context(), "web", metav1.GetOptions{})
		if err != nil || pod.Status.Conditions[0].Status != corev1.ConditionFalse || pod.Status.Conditions[0].Reason != "NodeNotReady" {
			t.Errorf("pod %+v, %v", pod.Status.Conditions, err)
		}
		w.renew(time.Now())
		w.setReady(corev1.ConditionTrue) // it is back
		w.wantTaints()
	})
}

// A server that was away knows nothing of what was renewed meanwhile: nobody is silent because of it.
func TestAStartCountsAsAHeartbeat(t *testing.T) {
	story(t, []runtime.Object{readyNode("n1"), lease(time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC))}, func(w *world) {
		w.wait(time.Second)
		w.wantReady(corev1.ConditionTrue)
		w.wait(defaultGracePeriod)
		w.wantReady(corev1.ConditionUnknown)
	})
}

func TestANodeThatNeverSpeaks(t *testing.T) {
	admitted := corev1.Taint{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule}
	node := readyNode("n1", admitted)
	node.Status.Conditions, node.Spec.Unschedulable = nil, true
	story(t, []runtime.Object{node}, func(w *world) {
		w.wait(startupGracePeriod - 2*time.Second)
		w.wantReady("")
		w.wantTaints(corev1.TaintNodeNotReady+":NoSchedule", corev1.TaintNodeUnschedulable+":NoSchedule")
		w.wait(2 * time.Second)
		w.wantReady(corev1.ConditionUnknown)
		if c := w.node().Status.Conditions[0]; c.Reason != "NodeStatusNeverUpdated" {
			t.Errorf("reason %q", c.Reason)
		}
		w.wantTaints(unreachable+":NoSchedule", unreachable+":NoExecute", corev1.TaintNodeUnschedulable+":NoSchedule")
	})
}

func TestForeignTaintsStay(t *testing.T) {
	mine := corev1.Taint{Key: "example.com/mine", Effect: corev1.TaintEffectNoSchedule}
	node := readyNode("n1", mine)
	node.Status.Conditions = append(node.Status.Conditions, corev1.NodeCondition{Type: corev1.NodeDiskPressure, Status: corev1.ConditionTrue})
	story(t, []runtime.Object{node, lease(time.Now())}, func(w *world) {
		w.wantTaints("example.com/mine:NoSchedule", corev1.TaintNodeDiskPressure+":NoSchedule")
		w.setReady(corev1.ConditionFalse)
		w.wantTaints("example.com/mine:NoSchedule", corev1.TaintNodeDiskPressure+":NoSchedule", corev1.TaintNodeNotReady+":NoSchedule", corev1.TaintNodeNotReady+":NoExecute")
		w.setReady(corev1.ConditionTrue)
		w.wantTaints("example.com/mine:NoSchedule", corev1.TaintNodeDiskPressure+":NoSchedule")
	})
}

func seconds(n int64) *int64 { return &n }

func TestEviction(t *testing.T) {
	out := corev1.Toleration{Key: "out", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute}
	minute, forever := out, out
	minute.TolerationSeconds = seconds(60)
	huge := out
	huge.TolerationSeconds = seconds(1 << 62)
	objects := []runtime.Object{readyNode("n1"), lease(time.Now()), boundPod("none"), boundPod("minute", minute), boundPod("forever", forever), boundPod("huge", huge), boundPod("first-counts", minute, forever)}
	story(t, objects, func(w *world) {
		taint := func(taints ...corev1.Taint) {
			n := w.node()
			n.Spec.Taints = taints
			if _, err := w.CoreV1().Nodes().Update(t.Context(), n, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		want := func(names ...string) {
			t.Helper()
			for _, o := range objects[2:] {
				name := o.(*corev1.Pod).Name
				if got := w.podThere(name); got != slices.Contains(names, name) {
					t.Errorf("pod %s is there: %v", name, got)
				}
			}
		}
		for range 10 { // the node lives on
			w.wait(10 * time.Second)
			w.renew(time.Now())
		}
		taint(corev1.Taint{Key: "out", Effect: corev1.TaintEffectNoExecute}) // as kubectl does: without a time
		want("minute", "forever", "huge", "first-counts")
		w.wait(30 * time.Second)
		w.renew(time.Now())
		taint() // taken away in time: the clock starts anew
		taint(corev1.Taint{Key: "out", Effect: corev1.TaintEffectNoExecute})
		w.wait(40 * time.Second)
		w.renew(time.Now())
		want("minute", "forever", "huge", "first-counts")
		w.wait(21 * time.Second)
		want("forever", "huge")
		w.renew(time.Now())

		// One that comes to a node which was tainted long ago has its time too.
		late := boundPod("late", minute)
		late.CreationTimestamp = metav1.Now()
		if _, err := w.CoreV1().Pods("ns").Create(t.Context(), late, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		w.wait(30 * time.Second)
		w.renew(time.Now())
		w.wait(29 * time.Second)
		if !w.podThere("late") {
			t.Error("evicted before its time")
		}
		w.wait(2 * time.Second)
		if w.podThere("late") {
			t.Error("not evicted in time")
		}
	})
}
