package podworker

import (
	"context"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"wherry.dev/wherry/kubelet/containers"
	"wherry.dev/wherry/kubelet/runtime"
	"wherry.dev/wherry/kubelet/status"
	"wherry.dev/wherry/lifecycle"
	"wherry.dev/wherry/trace"
)

// Phase is where a pod is in its life on this node. Each has one method of the worker, which does what there is to do
// and says which phase follows; phases only go forward.
type Phase int

const (
	Arriving   Phase = iota // the runtime's state is not known yet, or the node has not yet taken the pod (C7)
	Syncing                 // the pod is brought, and kept, where its spec wants it (C8 to C12)
	Draining                // waiting until no node sends it new connections (D3)
	Stopping                // its containers are being stopped (D4)
	Cleaning                // what it had on the node is taken away (D5)
	Forgetting              // its last status and its removal go to the API server (D6)
	Ended                   // it has ended for good but is still in the API, for its status and logs
	Gone                    // nothing is left to do
)

func (p Phase) String() string {
	return [...]string{"arriving", "syncing", "draining", "stopping", "cleaning", "forgetting", "ended", "gone"}[p]
}

// worker is one pod's. Fields below mailbox belong to the loop's goroutine.
type worker struct {
	c   *Config
	uid types.UID
	log *slog.Logger
	box mailbox

	ctx   context.Context
	steps sync.WaitGroup
	busy  map[Key]context.CancelFunc

	phase   Phase
	born    time.Time
	pod     *v1.Pod // newest version, with the resources that are granted; for an orphan, what its containers tell
	orphan  bool    // the API server does not know it: no status, no delete
	removed bool    // it was in the API and is not any more

	rt      runtime.Pod // what the runtime has, merged; newest first
	rtKnown bool
	lookUp  bool                 // the runtime has something of the pod, which the worker is to read itself
	seen    map[string]time.Time // when a sandbox or container was last heard of, for Complete updates
	dead    map[string]bool      // IDs known to be removed: late news of them is void

	handler       string
	sandboxConfig *runtime.SandboxConfig
	mounted       bool
	images        map[string]Image
	retry         map[Key]time.Time
	failures      map[Key]int
	failed        map[string]status.Waiting
	backoffs      map[string]Backoff
	unhealthy     map[string]string // by container ID
	replaced      map[string]bool   // container IDs that were killed to be made anew
	probing       map[string]*probing
	hooked        map[string]bool // instances whose postStart hook is still running
	messages      map[string]string
	wakeAt        time.Time
	waiting       map[string]status.Waiting // of the last decision

	verdict  *status.Verdict
	terminal bool
	ending   ending

	resources  resources
	publishing publishing
	spans      spans

	view    atomic.Pointer[Snapshot] // for those outside the loop; nil at first
	running liveness
}

func newWorker(c *Config, uid types.UID) *worker {
	return &worker{
		c: c, uid: uid, log: c.Log, box: mailbox{wake: make(chan struct{}, 1)}, born: time.Now(),
		busy: map[Key]context.CancelFunc{}, seen: map[string]time.Time{}, dead: map[string]bool{}, images: map[string]Image{},
		retry: map[Key]time.Time{}, failures: map[Key]int{}, failed: map[string]status.Waiting{}, backoffs: map[string]Backoff{},
		unhealthy: map[string]string{}, replaced: map[string]bool{}, probing: map[string]*probing{}, hooked: map[string]bool{}, messages: map[string]string{},
	}
}

// mailbox brings news to the loop. Its content is bounded by what it carries: the newest pod, and one message for each
// step under way or event of the pod's own containers.
type mailbox struct {
	mu      sync.Mutex
	pod     *v1.Pod  // guarded by mu; newest version not yet seen by the loop
	removed bool     // guarded by mu
	posted  []func() // guarded by mu; run by the loop in order
	wake    chan struct{}
}

func (b *mailbox) signal() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

func (b *mailbox) post(f func()) {
	b.mu.Lock()
	b.posted = append(b.posted, f)
	b.mu.Unlock()
	b.signal()
}

func (b *mailbox) update(pod *v1.Pod) {
	b.mu.Lock()
	b.pod = pod
	b.mu.Unlock()
	b.signal()
}

func (b *mailbox) remove(last *v1.Pod) {
	b.mu.Lock()
	if last != nil {
		b.pod = last
	}
	b.removed = true
	b.mu.Unlock()
	b.signal()
}

func (b *mailbox) take() (pod *v1.Pod, removed bool, posted []func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	pod, removed, posted = b.pod, b.removed, b.posted
	b.pod, b.posted = nil, nil
	return
}

// run is the worker's loop. It returns when the pod is gone or ctx ends (the kubelet stops: containers go on), and
// after all of its steps have.
func (w *worker) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer w.steps.Wait()
	defer cancel()
	defer w.stopProbes()
	w.ctx = ctx
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.box.wake:
		case <-timer.C:
		}
		w.absorb()
		w.wakeAt = time.Time{}
		for before := Phase(-1); before != w.phase; {
			before = w.phase
			w.probe() // its verdicts on instances without probes are what decisions look at
			w.phase = w.step()
			if w.phase != before {
				w.log.Debug("pod phase", "from", before, "to", w.phase)
			}
		}
		w.probe()
		w.publish()
		w.show()
		if w.phase == Gone {
			return
		}
		if w.wakeAt.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(max(time.Until(w.wakeAt), 0))
		}
	}
}

// step does what the present phase has to do and returns the phase to go on with.
func (w *worker) step() Phase {
	switch w.phase {
	case Arriving:
		return w.arrive()
	case Syncing:
		return w.sync()
	case Draining:
		return w.drain()
	case Stopping:
		return w.stop()
	case Cleaning:
		return w.clean()
	case Forgetting:
		return w.forget()
	case Ended:
		return w.rest()
	}
	return Gone
}

func (w *worker) wake(t time.Time) {
	if !t.IsZero() && (w.wakeAt.IsZero() || t.Before(w.wakeAt)) {
		w.wakeAt = t
	}
}

// absorb takes the mail in.
func (w *worker) absorb() {
	pod, removed, posted := w.box.take()
	if pod != nil {
		first := w.pod == nil
		w.pod = w.grant(pod)
		w.observe(pod)
		if first {
			w.log = w.c.Log.With("pod", pod.Namespace+"/"+pod.Name)
		} else if w.mounted && w.phase <= Stopping {
			w.c.Volumes.Update(pod)
		}
	}
	w.removed = w.removed || removed
	for _, f := range posted {
		f()
	}
}

// begin starts a step. f does the work and returns what its outcome changes in the worker, which the loop runs; it
// may return nil.
func (w *worker) begin(k Key, f func(ctx context.Context) func()) {
	ctx, cancel := context.WithCancel(w.ctx)
	w.busy[k] = cancel
	w.steps.Go(func() {
		apply := f(ctx)
		w.box.post(func() {
			delete(w.busy, k)
			if apply != nil {
				apply() // asks ctx whether the step was cut off, so it is not ended before
			}
			cancel()
		})
	})
}

// cancelSteps ends the steps of the given kinds that are under way; their outcome still comes.
func (w *worker) cancelSteps(verbs ...Verb) {
	for k, cancel := range w.busy {
		if slices.Contains(verbs, k.Do) {
			cancel()
		}
	}
}

func (w *worker) underWay(verbs ...Verb) bool {
	for k := range w.busy {
		if slices.Contains(verbs, k.Do) {
			return true
		}
	}
	return false
}

// fail puts a step off after a failure: 1 s, doubled up to limit.
func (w *worker) fail(k Key, limit time.Duration) {
	n := w.failures[k]
	w.failures[k] = n + 1
	w.retry[k] = time.Now().Add(min(time.Second<<min(n, 10), limit))
}

func (w *worker) succeed(k Key) {
	delete(w.failures, k)
	delete(w.retry, k)
}

// merge takes news from the runtime in. A container's state never goes back, and what is removed stays removed.
func (w *worker) merge(u runtime.Update) {
	w.rtKnown = true
	at := u.At
	if at.IsZero() {
		at = time.Now()
	}
	for _, id := range u.Removed {
		w.forgetID(id)
	}
	for _, s := range u.Sandboxes {
		if w.dead[s.ID] {
			continue
		}
		w.mergeSandbox(s)
		w.heard(s.ID, at)
	}
	for _, c := range u.Containers {
		if w.dead[c.ID] {
			continue
		}
		w.mergeContainer(c)
		w.heard(c.ID, at)
	}
	if u.Complete {
		w.prune(u, at)
	}
	w.rt.Sort()
}

func (w *worker) heard(id string, at time.Time) {
	if w.seen[id].Before(at) {
		w.seen[id] = at
	}
}

func (w *worker) mergeSandbox(s runtime.Sandbox) {
	for i := range w.rt.Sandboxes {
		old := &w.rt.Sandboxes[i]
		if old.ID != s.ID {
			continue
		}
		s.Ready = s.Ready && old.Ready // a sandbox does not come back
		if !s.Detailed && old.Detailed || len(s.IPs) == 0 && len(old.IPs) > 0 {
			s.IPs, s.HostNetwork, s.Detailed = old.IPs, old.HostNetwork, true
		}
		*old = s
		return
	}
	w.rt.Sandboxes = append(w.rt.Sandboxes, s)
}

func (w *worker) mergeContainer(c runtime.Container) {
	for i := range w.rt.Containers {
		old := &w.rt.Containers[i]
		if old.ID != c.ID {
			continue
		}
		if c.SandboxID == "" {
			c.SandboxID = old.SandboxID
		}
		if old.State == runtime.Exited && c.State != runtime.Exited || old.State == runtime.Running && c.State == runtime.Created {
			return
		}
		*old = c
		return
	}
	w.rt.Containers = append(w.rt.Containers, c)
}

// forgetID drops what the runtime has removed.
func (w *worker) forgetID(id string) {
	w.dead[id] = true
	delete(w.seen, id)
	delete(w.resources.applied, id)
	w.rt.Sandboxes = slices.DeleteFunc(w.rt.Sandboxes, func(s runtime.Sandbox) bool { return s.ID == id })
	w.rt.Containers = slices.DeleteFunc(w.rt.Containers, func(c runtime.Container) bool { return c.ID == id })
}

// prune drops what a complete list does not have, unless it is newer than the list.
func (w *worker) prune(u runtime.Update, at time.Time) {
	listed := map[string]bool{}
	for i := range u.Sandboxes {
		listed[u.Sandboxes[i].ID] = true
	}
	for i := range u.Containers {
		listed[u.Containers[i].ID] = true
	}
	for id, heard := range w.seen {
		if !listed[id] && heard.Before(at) {
			w.forgetID(id)
			// A container that vanished may come up again only under a new ID; nothing late is to be feared.
			delete(w.dead, id)
		}
	}
}

// sandbox is the pod's newest; nil if there is none.
func (w *worker) sandbox() *runtime.Sandbox {
	if len(w.rt.Sandboxes) == 0 {
		return nil
	}
	return &w.rt.Sandboxes[0]
}

// podIPs are the pod's addresses as they are known now.
func (w *worker) podIPs() []string {
	if w.pod.Spec.HostNetwork {
		return w.c.HostIPs()
	}
	if s := w.sandbox(); s != nil {
		return s.IPs
	}
	return nil
}

// container finds a container's spec by name, with the role recorded when it is made; nil if there is none.
func find(pod *v1.Pod, name string) (c *v1.Container, kind string) {
	for i := range pod.Spec.Containers {
		if pod.Spec.Containers[i].Name == name {
			return &pod.Spec.Containers[i], ""
		}
	}
	for i := range pod.Spec.InitContainers {
		if c := &pod.Spec.InitContainers[i]; c.Name == name {
			if containers.IsSidecar(c) {
				return c, runtime.ContainerKindSidecar
			}
			return c, runtime.ContainerKindInit
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		if e := &pod.Spec.EphemeralContainers[i]; e.Name == name {
			plain := v1.Container(e.EphemeralContainerCommon)
			return &plain, runtime.ContainerKindEphemeral
		}
	}
	return nil, ""
}

// event reports about the pod, or about one of its containers.
func (w *worker) event(container, eventType, reason, format string, args ...any) {
	if w.orphan || w.pod == nil {
		return
	}
	w.c.Events.Eventf(Reference(w.pod, container), eventType, reason, format, args...)
}

// Reference names a pod, or a container of it by field path, as upstream's events do.
func Reference(pod *v1.Pod, container string) *v1.ObjectReference {
	ref := &v1.ObjectReference{Kind: "Pod", APIVersion: "v1", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, ResourceVersion: pod.ResourceVersion}
	if container == "" {
		return ref
	}
	ref.FieldPath = fieldPath(pod, container)
	return ref
}

func fieldPath(pod *v1.Pod, container string) string {
	switch _, kind := find(pod, container); kind {
	case runtime.ContainerKindInit, runtime.ContainerKindSidecar:
		return "spec.initContainers{" + container + "}"
	case runtime.ContainerKindEphemeral:
		return "spec.ephemeralContainers{" + container + "}"
	}
	return "spec.containers{" + container + "}"
}

// span records a stage of this pod.
func (w *worker) span(stage lifecycle.Stage, detail string, start time.Time, outcome trace.Outcome, message string, attrs ...trace.Attr) {
	if w.pod == nil {
		return
	}
	s := trace.Span{PodUID: string(w.uid), Namespace: w.pod.Namespace, Pod: w.pod.Name, Stage: stage, Component: "kubelet", Node: w.c.NodeName,
		Detail: detail, Start: start, Outcome: outcome, Message: message, Attrs: attrs}
	if outcome != trace.Waiting {
		s.End = time.Now()
	}
	w.c.Trace.Record(s)
}

// spans remembers when stages that span several steps began.
type spans struct {
	volumes, sandbox time.Time
	ready            time.Time // containers all started
	readyDone        bool
	readyWhy         string
}

// Snapshot is a pod as its worker saw it last. Immutable.
type Snapshot struct {
	Pod       *v1.Pod       // newest from the API; nil for an orphan
	Status    *v1.PodStatus // as this kubelet sees it; nil before the first
	Phase     Phase
	Sandboxes []runtime.Sandbox   // newest first
	Runtime   []runtime.Container // newest first
}

// show lets those outside the loop see the pod.
func (w *worker) show() {
	w.view.Store(&Snapshot{Pod: w.pod, Status: w.publishing.last, Phase: w.phase,
		Sandboxes: slices.Clone(w.rt.Sandboxes), Runtime: slices.Clone(w.rt.Containers)})
	w.running.update(w.rt.Containers)
}

// liveness lets others wait for the end of a container.
type liveness struct {
	mu  sync.Mutex
	ids map[string]chan struct{} // guarded by mu; of running containers, closed when they have ended
}

func (l *liveness) update(list []runtime.Container) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, c := range l.ids {
		if !slices.ContainsFunc(list, func(x runtime.Container) bool { return x.ID == id && x.State == runtime.Running }) {
			close(c)
			delete(l.ids, id)
		}
	}
	for i := range list {
		if x := &list[i]; x.State == runtime.Running && l.ids[x.ID] == nil {
			if l.ids == nil {
				l.ids = map[string]chan struct{}{}
			}
			l.ids[x.ID] = make(chan struct{})
		}
	}
}

// channel is nil for a container that does not run.
func (l *liveness) channel(id string) <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c, ok := l.ids[id]; ok {
		return c
	}
	return nil
}

func itoa(n int) string { return strconv.Itoa(n) }
