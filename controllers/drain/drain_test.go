package drain

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	coordinationlisters "k8s.io/client-go/listers/coordination/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	k8stesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"
	"pgregory.net/rapid"

	"wherry.dev/wherry/client"
	"wherry.dev/wherry/lifecycle"
)

// Streams of events: each is in order, and none waits for another.
const (
	pods = iota
	slices
	leases
	nodes
	streams
)

// cluster is the truth, and a controller that learns of it late. Its methods are called by one goroutine; mu is for the controller's
// workers, which write conditions.
type cluster struct {
	mu       sync.Mutex
	revision uint64
	objects  map[string]metav1.Object // by kind/namespace/name
	late     [streams][]func()        // events that the controller has not seen
	failure  string                   // what went wrong first
	reported map[types.UID]bool
	// ordinary are the slices that named a pod as an ordinary endpoint when it was deleted: 0, or the revision that ended it.
	ordinary map[types.UID]map[types.UID]uint64
	dead     map[string]bool // nodes that say no more
	acked    map[string]uint64
	refuse   int // reports to answer with a conflict

	controller *controller
	indexers   [streams]cache.Indexer
	stop       func()
}

func newCluster(nodeNames ...string) *cluster {
	c := &cluster{revision: 1, objects: map[string]metav1.Object{}, reported: map[types.UID]bool{}, ordinary: map[types.UID]map[types.UID]uint64{}, dead: map[string]bool{}, acked: map[string]uint64{}}
	c.startController()
	for _, name := range nodeNames {
		c.put(nodes, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}})
		c.heartbeat(name)
	}
	c.deliverAll()
	return c
}

// startController starts one that knows the truth as it is now, the old one's memory gone.
func (c *cluster) startController() {
	for i := range c.indexers {
		c.indexers[i] = cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
	}
	api := fake.NewClientset()
	api.PrependReactor("patch", "pods", c.report)
	k := &controller{
		Config: Config{Client: &client.Set{Kubernetes: api}, Log: slog.New(slog.DiscardHandler)},
		pods:   corelisters.NewPodLister(c.indexers[pods]), nodes: corelisters.NewNodeLister(c.indexers[nodes]), leases: coordinationlisters.NewLeaseLister(c.indexers[leases]),
		sliceRevision: func() string { return fmt.Sprint(c.revision) },
	}
	k.ledger = newLedger(k.exists)
	k.loop = client.NewLoop("drain", workers, k.Log, k.sync)
	c.controller = k
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { k.loop.Run(ctx); close(done) }()
	c.stop = func() { cancel(); <-done }
	c.late = [streams][]func(){}
	for key, obj := range c.objects {
		c.handle(streamOf(obj), nil, obj, key)
	}
}

func streamOf(obj any) int {
	switch obj.(type) {
	case *corev1.Pod:
		return pods
	case *discoveryv1.EndpointSlice:
		return slices
	case *coordinationv1.Lease:
		return leases
	default:
		return nodes
	}
}

// handle is what an informer does: the cache first, then the handlers.
func (c *cluster) handle(stream int, old, obj any, _ string) {
	k := c.controller
	if obj == nil {
		_ = c.indexers[stream].Delete(old)
		switch stream {
		case pods:
			k.podGone(old)
		case slices:
			k.sliceGone(old)
		case nodes:
			k.nodeGone(old)
		}
		return
	}
	_ = c.indexers[stream].Add(obj)
	switch stream {
	case pods:
		k.podChanged(old, obj)
	case slices:
		k.sliceChanged(old, obj)
	case leases:
		k.heartbeats.Handler().OnUpdate(old, obj)
		k.leaseChanged(old, obj)
	}
}

func keyOf(stream int, o metav1.Object) string {
	return fmt.Sprint(stream, "/", o.GetNamespace(), "/", o.GetName())
}

// put stores an object and sends the event off. Callers of put and remove do not hold mu.
func (c *cluster) put(stream int, o metav1.Object) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.store(stream, o)
}

func (c *cluster) store(stream int, o metav1.Object) {
	c.revision++
	o.SetResourceVersion(fmt.Sprint(c.revision))
	if o.GetUID() == "" {
		o.SetUID(types.UID(fmt.Sprint("uid-", c.revision)))
	}
	key := keyOf(stream, o)
	var old any
	if before := c.objects[key]; before != nil {
		old = before
	}
	c.objects[key] = o
	c.late[stream] = append(c.late[stream], func() { c.handle(stream, old, o, key) })
}

func (c *cluster) remove(stream int, o metav1.Object) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.objects, keyOf(stream, o))
	c.revision++
	gone := o.(runtime.Object).DeepCopyObject().(metav1.Object)
	gone.SetResourceVersion(fmt.Sprint(c.revision))
	c.late[stream] = append(c.late[stream], func() { c.handle(stream, gone, nil, "") })
}

func (c *cluster) deliver(stream int) {
	c.mu.Lock()
	var event func()
	if len(c.late[stream]) > 0 {
		event, c.late[stream] = c.late[stream][0], c.late[stream][1:]
	}
	c.mu.Unlock()
	if event != nil {
		event()
	}
	synctest.Wait()
}

func (c *cluster) deliverAll() {
	for again := true; again; {
		again = false
		for s := range streams {
			for len(c.late[s]) > 0 {
				c.deliver(s)
				again = true
			}
		}
	}
}

func (c *cluster) pod(name string) *corev1.Pod {
	if o, ok := c.objects[fmt.Sprint(pods, "/ns/", name)]; ok {
		return o.(*corev1.Pod).DeepCopy()
	}
	return nil
}

func (c *cluster) slice(name string) *discoveryv1.EndpointSlice {
	if o, ok := c.objects[fmt.Sprint(slices, "/ns/", name)]; ok {
		return o.(*discoveryv1.EndpointSlice).DeepCopy()
	}
	return nil
}

func (c *cluster) createPod(name string) {
	if c.pod(name) == nil {
		c.put(pods, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}})
	}
}

func (c *cluster) deletePod(name string) {
	pod := c.pod(name)
	if pod == nil || pod.DeletionTimestamp != nil {
		return
	}
	now := metav1.Now()
	pod.DeletionTimestamp = &now
	in := map[types.UID]uint64{}
	for _, s := range c.allSlices() {
		for _, e := range s.Endpoints {
			if s.Namespace == "ns" && e.TargetRef.UID == pod.UID {
				in[s.UID] = 0
			}
		}
	}
	c.ordinary[pod.UID] = in
	c.put(pods, pod)
}

func (c *cluster) allSlices() (out []*discoveryv1.EndpointSlice) {
	for _, o := range c.objects {
		if s, ok := o.(*discoveryv1.EndpointSlice); ok {
			out = append(out, s)
		}
	}
	return out
}

func (c *cluster) removePod(name string) {
	if pod := c.pod(name); pod != nil {
		c.remove(pods, pod)
	}
}

// ended notes that a slice sends to the pod no more, since the revision of now.
func (c *cluster) ended(slice, pod types.UID) {
	if at, ok := c.ordinary[pod][slice]; ok && at == 0 {
		c.ordinary[pod][slice] = c.revision
	}
}

// syncSlice is what the EndpointSlice controller does: the slice names the pods of names, as they are.
func (c *cluster) syncSlice(name string, names ...string) {
	s := c.slice(name)
	if s == nil {
		s = &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}}
	}
	var before []types.UID
	for _, e := range s.Endpoints {
		before = append(before, e.TargetRef.UID)
	}
	s.Endpoints = nil
	named := map[types.UID]bool{}
	for _, n := range names {
		pod := c.pod(n)
		if pod == nil {
			continue
		}
		terminating := pod.DeletionTimestamp != nil
		named[pod.UID] = !terminating
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Conditions: discoveryv1.EndpointConditions{Terminating: &terminating},
			TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: "ns", Name: n, UID: pod.UID}})
	}
	c.put(slices, s)
	for _, uid := range before {
		if !named[uid] {
			c.ended(s.UID, uid)
		}
	}
}

func (c *cluster) removeSlice(name string) {
	s := c.slice(name)
	if s == nil {
		return
	}
	c.remove(slices, s)
	for _, e := range s.Endpoints {
		c.ended(s.UID, e.TargetRef.UID)
	}
}

// acknowledge lets a node say how far it is: as far as the truth.
func (c *cluster) acknowledge(node string) {
	if c.dead[node] {
		return
	}
	c.acked[node] = c.revision
	c.put(leases, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: lifecycle.DrainNamespace, Name: lifecycle.DrainLeasePrefix + node,
		Annotations: map[string]string{lifecycle.ProgrammedAnnotation: fmt.Sprint(c.acked[node])}}})
}

func (c *cluster) heartbeat(node string) {
	if !c.dead[node] {
		now := metav1.NowMicro()
		c.put(leases, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: node}, Spec: coordinationv1.LeaseSpec{RenewTime: &now}})
	}
}

func (c *cluster) nodeNames() (out []string) {
	for _, o := range c.objects {
		if n, ok := o.(*corev1.Node); ok {
			out = append(out, n.Name)
		}
	}
	return out
}

// pass lets time go by, while living nodes renew their Leases.
func (c *cluster) pass(d time.Duration) {
	for ; d > 0; d -= 10 * time.Second {
		for _, n := range c.nodeNames() {
			c.heartbeat(n)
		}
		c.deliverAll()
		c.sleep(10 * time.Second)
	}
}

// sleep hands the truth over to the controller's workers: what they do meanwhile comes after what was read before.
func (c *cluster) sleep(d time.Duration) {
	c.mu.Lock()
	c.mu.Unlock() //nolint:staticcheck // the order is all that is wanted
	time.Sleep(d)
	synctest.Wait()
}

// report takes the condition and looks whether it is true.
func (c *cluster) report(action k8stesting.Action) (bool, runtime.Object, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	patch := action.(k8stesting.PatchAction)
	var body struct {
		Metadata struct{ UID types.UID }
		Status   struct{ Conditions []corev1.PodCondition }
	}
	if err := json.Unmarshal(patch.GetPatch(), &body); err != nil || patch.GetSubresource() != "status" {
		c.fail("patch %s of %q: %v", patch.GetPatch(), patch.GetSubresource(), err)
	}
	if c.refuse > 0 {
		c.refuse--
		return true, nil, apierrors.NewConflict(schema.GroupResource{Resource: "pods"}, patch.GetName(), fmt.Errorf("too many writers"))
	}
	pod := c.pod(patch.GetName())
	if pod == nil {
		return true, nil, apierrors.NewNotFound(schema.GroupResource{Resource: "pods"}, patch.GetName())
	}
	if pod.UID != body.Metadata.UID {
		return true, nil, apierrors.NewConflict(schema.GroupResource{Resource: "pods"}, patch.GetName(), fmt.Errorf("uid"))
	}
	if pod.DeletionTimestamp == nil {
		c.fail("pod %s is reported drained, and nobody deleted it", pod.Name)
	}
	for slice, at := range c.ordinary[pod.UID] {
		if at == 0 {
			c.fail("pod %s is reported drained while slice %s has it as an ordinary endpoint", pod.Name, slice)
		}
		for _, o := range c.objects {
			if n, ok := o.(*corev1.Node); ok && !c.dead[n.Name] && c.acked[n.Name] < at {
				c.fail("pod %s is reported drained; node %s has reached %d of %d", pod.Name, n.Name, c.acked[n.Name], at)
			}
		}
	}
	c.reported[pod.UID] = true
	pod.Status.Conditions = body.Status.Conditions
	c.store(pods, pod)
	return true, pod, nil
}

func (c *cluster) fail(format string, args ...any) {
	if c.failure == "" {
		c.failure = fmt.Sprintf(format, args...)
	}
}

func (c *cluster) wantReported(t *testing.T, name string, want bool) {
	t.Helper()
	synctest.Wait()
	pod := c.pod(name)
	if pod == nil {
		t.Fatalf("no pod %s", name)
	}
	if got := c.reported[pod.UID]; got != want {
		t.Errorf("pod %s reported drained: %v, want %v", name, got, want)
	}
}

// story runs one test in fake time.
func story(t *testing.T, nodeNames []string, f func(t *testing.T, c *cluster)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(nodeNames...)
		defer func() { c.stop() }()
		f(t, c)
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.failure != "" {
			t.Error(c.failure)
		}
	})
}

func TestEveryNodeIsWaitedFor(t *testing.T) {
	for name, acknowledge := range map[string]func(c *cluster){
		"whose Lease is there already": func(c *cluster) { c.acknowledge("n2"); c.deliverAll() },
		"that never acknowledged":      func(*cluster) {},
	} {
		t.Run(name, func(t *testing.T) {
			story(t, []string{"n1", "n2"}, func(t *testing.T, c *cluster) {
				acknowledge(c)
				c.createPod("web")
				c.syncSlice("a", "web")
				c.deliverAll()
				c.deletePod("web")
				c.syncSlice("a", "web")
				c.deliverAll()
				c.wantReported(t, "web", false)
				c.acknowledge("n1")
				c.deliverAll()
				c.wantReported(t, "web", false)
				c.acknowledge("n2")
				c.deliverAll()
				c.wantReported(t, "web", true)
			})
		})
	}
}

func TestTheLastOfSeveralSlicesCounts(t *testing.T) {
	story(t, []string{"n1"}, func(t *testing.T, c *cluster) {
		c.createPod("web")
		c.syncSlice("a", "web")
		c.syncSlice("b", "web")
		c.deletePod("web")
		c.syncSlice("a", "web")
		c.acknowledge("n1")
		c.deliverAll()
		c.wantReported(t, "web", false)
		c.syncSlice("b", "web")
		c.deliverAll()
		c.wantReported(t, "web", false)
		c.acknowledge("n1")
		c.deliverAll()
		c.wantReported(t, "web", true)
	})
}

func TestWhoIsNotWaitedFor(t *testing.T) {
	for name, die := range map[string]func(c *cluster){
		"a node that is removed": func(c *cluster) {
			c.remove(nodes, c.objects[fmt.Sprint(nodes, "//n2")])
			c.deliverAll()
		},
		"a node that falls silent": func(c *cluster) { c.dead["n2"] = true; c.pass(2 * heartbeatLimit) },
	} {
		t.Run(name, func(t *testing.T) {
			story(t, []string{"n1", "n2"}, func(t *testing.T, c *cluster) {
				c.createPod("web")
				c.syncSlice("a", "web")
				c.deletePod("web")
				c.syncSlice("a", "web")
				c.acknowledge("n1")
				c.deliverAll()
				c.wantReported(t, "web", false)
				die(c)
				c.wantReported(t, "web", true)
			})
		})
	}
	t.Run("a fake node without kubelet", func(t *testing.T) {
		story(t, []string{"n1"}, func(t *testing.T, c *cluster) {
			c.put(nodes, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "fake"}})
			c.dead["fake"] = true // it never was alive
			c.createPod("web")
			c.syncSlice("a", "web")
			c.deletePod("web")
			c.syncSlice("a", "web")
			c.acknowledge("n1")
			c.deliverAll()
			c.wantReported(t, "web", true)
		})
	})
}

func TestClocksOfNodesDoNotCount(t *testing.T) {
	story(t, []string{"n1"}, func(t *testing.T, c *cluster) {
		wrong := metav1.NewMicroTime(time.Now().Add(-time.Hour))
		c.put(leases, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: "n1"}, Spec: coordinationv1.LeaseSpec{RenewTime: &wrong}})
		c.createPod("web")
		c.syncSlice("a", "web")
		c.deletePod("web")
		c.syncSlice("a", "web")
		c.deliverAll()
		c.wantReported(t, "web", false)
	})
}

func TestSlicesThatGo(t *testing.T) {
	for name, missed := range map[string]bool{"seen": false, "missed, learned from a list": true} {
		t.Run(name, func(t *testing.T) {
			story(t, []string{"n1"}, func(t *testing.T, c *cluster) {
				c.createPod("web")
				c.syncSlice("a", "web")
				c.deletePod("web")
				c.deliverAll()
				s := c.slice("a")
				c.acknowledge("n1") // of everything before the removal
				c.removeSlice("a")
				if missed {
					c.late[slices] = nil
					_ = c.indexers[slices].Delete(s)
					c.controller.sliceGone(cache.DeletedFinalStateUnknown{Key: "ns/a", Obj: s})
				}
				c.deliverAll()
				c.wantReported(t, "web", false)
				c.acknowledge("n1")
				c.deliverAll()
				c.wantReported(t, "web", true)
			})
		})
	}
	t.Run("before the pod's own deletion is seen", func(t *testing.T) {
		story(t, []string{"n1"}, func(t *testing.T, c *cluster) {
			c.createPod("web")
			c.syncSlice("a", "web")
			c.deliverAll()
			c.deletePod("web")
			c.removeSlice("a")
			for len(c.late[slices]) > 0 {
				c.deliver(slices)
			}
			c.deliverAll()
			c.wantReported(t, "web", false)
			c.acknowledge("n1")
			c.deliverAll()
			c.wantReported(t, "web", true)
		})
	})
}

func TestAForeignNamespacesSliceSaysNothing(t *testing.T) {
	story(t, []string{"n1"}, func(t *testing.T, c *cluster) {
		c.createPod("web")
		c.syncSlice("a", "web")
		c.put(slices, &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "mallory", Name: "x"}, Endpoints: []discoveryv1.Endpoint{
			{TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: "ns", Name: "web", UID: c.pod("web").UID}}}})
		c.deletePod("web")
		c.syncSlice("a", "web")
		c.acknowledge("n1")
		c.deliverAll()
		c.wantReported(t, "web", true)
	})
}

func TestConflictsAreTriedAgain(t *testing.T) {
	story(t, []string{"n1"}, func(t *testing.T, c *cluster) {
		c.refuse = 3
		c.createPod("web")
		c.syncSlice("a", "web")
		c.deletePod("web")
		c.syncSlice("a", "web")
		c.acknowledge("n1")
		c.deliverAll()
		c.sleep(time.Second)
		c.wantReported(t, "web", true)
	})
}

// Whatever the order in which things happen and become known: never too early, always in the end, and nothing is kept.
func TestPromise(t *testing.T) {
	podNames, sliceNames, nodeNames := []string{"p0", "p1", "p2"}, []string{"s0", "s1", "s2"}, []string{"n0", "n1", "n2"}
	rapid.Check(t, func(rt *rapid.T) {
		// Drawn first: rapid gives up a draw by a panic, which must not happen in the bubble's goroutine.
		steps := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) [3]int {
			return [3]int{rapid.IntRange(0, 15).Draw(rt, "what"), rapid.IntRange(0, 2).Draw(rt, "which"), rapid.IntRange(0, 7).Draw(rt, "of")}
		}), 1, 80).Draw(rt, "steps")
		var failure string
		synctest.Test(t, func(*testing.T) {
			c := newCluster(nodeNames...)
			defer func() { c.stop() }()
			restarted := false
			for _, s := range steps {
				pod, slice, node := podNames[s[1]], sliceNames[s[1]], nodeNames[s[1]]
				switch s[0] {
				case 0, 1:
					c.createPod(pod)
				case 2, 3:
					c.deletePod(pod)
				case 4:
					if p := c.pod(pod); p != nil && p.DeletionTimestamp != nil {
						c.removePod(pod)
					}
				case 5, 6, 7:
					var names []string
					for i, n := range podNames {
						if s[2]&(1<<i) != 0 {
							names = append(names, n)
						}
					}
					c.syncSlice(slice, names...)
				case 8:
					c.removeSlice(slice)
				case 9, 10:
					c.acknowledge(node)
				case 11:
					if s[2] == 0 && node != "n0" {
						c.dead[node] = true
					}
				case 12:
					if s[2] == 0 {
						c.deliverAll()
						c.stop()
						c.startController()
						restarted = true
					} else if s[2] == 1 {
						c.pass(10 * time.Second)
					}
				default:
					c.deliver(s[2] % streams)
				}
			}
			// In the end every slice says what is, the living nodes follow, and the dead ones are known to be.
			for _, s := range c.allSlices() {
				var names []string
				for _, e := range s.Endpoints {
					names = append(names, e.TargetRef.Name)
				}
				c.syncSlice(s.Name, names...)
			}
			for _, n := range nodeNames {
				c.acknowledge(n)
			}
			c.deliverAll()
			c.pass(2 * heartbeatLimit)
			c.mu.Lock()
			for _, n := range podNames {
				pod := c.pod(n)
				if pod == nil || pod.DeletionTimestamp == nil || c.reported[pod.UID] || len(c.ordinary[pod.UID]) == 0 {
					continue
				}
				named := false // what a slice that is gone had said does not survive a restart
				for _, s := range c.allSlices() {
					for _, e := range s.Endpoints {
						named = named || e.TargetRef.UID == pod.UID
					}
				}
				if named || !restarted {
					c.fail("pod %s is never reported drained", n)
				}
			}
			c.mu.Unlock()
			for _, n := range podNames {
				c.removePod(n)
			}
			for _, n := range sliceNames {
				c.removeSlice(n)
			}
			c.deliverAll()
			if l := c.controller.ledger; len(l.pods)+len(l.bySlice)+len(l.waiting) != 0 {
				c.fail("kept when all is gone: %v, %v, %v", l.pods, l.bySlice, l.waiting)
			}
			failure = c.failure
		})
		if failure != "" {
			rt.Fatal(failure)
		}
	})
}

func BenchmarkSliceOfAHundred(b *testing.B) {
	l := newLedger(func(identity) bool { return true })
	no, s := false, &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "s", UID: "s"}}
	for i := range 100 {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Conditions: discoveryv1.EndpointConditions{Terminating: &no},
			TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: "ns", Name: fmt.Sprint("p", i), UID: types.UID(fmt.Sprint("u", i))}})
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		l.slice(s, revision(i+1))
	}
}
