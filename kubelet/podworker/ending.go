package podworker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"wherry.dev/wherry/kubelet/containers"
	"wherry.dev/wherry/kubelet/runtime"
	"wherry.dev/wherry/lifecycle"
	"wherry.dev/wherry/trace"
)

// why a pod's containers are stopped.
type why int

const (
	endDeleted  why = iota // the API server wants it gone
	endRemoved             // it is gone from the API server: force-deleted, or deleted while the kubelet was away
	endOrphan              // the runtime has it, the API server does not
	endFinished            // all of its containers have ended
	endRefused             // the node did not take it
	endDeadline            // activeDeadlineSeconds
	endEvicted             // the node needs the room
)

// ending is what is known of a pod's way out.
type ending struct {
	why      why
	begun    time.Time
	deadline time.Time     // SIGKILL comes then
	grace    time.Duration // as last asked for

	drainUntil time.Time // zero: no wait for D3
	drained    time.Time // when every node was seen to have acknowledged; zero: not yet

	stopBegun  time.Time
	cut        bool                     // a step was cut off: what it left in the runtime has to be looked up
	preStopped map[string]bool          // instances whose preStop hook has run
	graces     map[string]time.Duration // given by a probe to an instance it failed
	told       map[string]bool          // instances for which Killing was reported
	turns      map[string]chan struct{} // closed when an instance has stopped

	cleanBegun time.Time
	cleaned    bool
	forgotten  bool
}

// whole says whether everything the pod had is taken away; a pod that ended by itself keeps its containers, for their
// logs, until it is deleted.
func (e *ending) whole() bool {
	return e.why == endDeleted || e.why == endRemoved || e.why == endOrphan
}

// minimumGrace is what a container gets to stop in when its time is already over, as upstream.
const minimumGrace = 2 * time.Second

// podGrace is the pod's own grace period.
func podGrace(pod *v1.Pod) time.Duration {
	if g := pod.Spec.TerminationGracePeriodSeconds; g != nil {
		return time.Duration(max(*g, 0)) * time.Second
	}
	return 30 * time.Second
}

// end sends the pod on its way out.
func (w *worker) end(e ending) Phase {
	e.begun = time.Now()
	e.graces = w.ending.graces
	e.preStopped, e.told, e.turns = map[string]bool{}, map[string]bool{}, map[string]chan struct{}{}
	w.ending = e
	w.waiting = nil
	w.ending.grace = w.grace()
	w.ending.deadline = e.begun.Add(w.ending.grace)
	w.ending.cut = w.underWay(RunSandbox, ResetSandbox, Create, Start)
	// What is still under way is not wanted any more; its outcome is waited for in stop.
	w.cancelSteps(MountVolumes, RunSandbox, ResetSandbox, EnsureImage, Create, Start, Remove)
	w.log.Debug("pod ends", "why", int(e.why), "grace", w.ending.grace)
	if wait := w.drainWait(); wait > 0 {
		w.ending.drainUntil = e.begun.Add(wait)
		w.span(lifecycle.Drain, "", e.begun, trace.Waiting, "waiting until every node has stopped sending new connections")
		return Draining
	}
	return Stopping
}

// grace is how long the containers may take, by why they are stopped.
func (w *worker) grace() time.Duration {
	switch w.ending.why {
	case endDeleted, endRemoved:
		if g := w.pod.DeletionGracePeriodSeconds; g != nil {
			return time.Duration(*g) * time.Second
		}
		return podGrace(w.pod)
	case endOrphan:
		for i := range w.rt.Containers {
			if s, err := strconv.Atoi(w.rt.Containers[i].Annotations[runtime.AnnotationPodGracePeriod]); err == nil {
				return time.Duration(s) * time.Second
			}
		}
		return 30 * time.Second
	}
	return podGrace(w.pod)
}

// shorten follows a later delete with a smaller grace period; it never gets longer.
func (w *worker) shorten() {
	if w.orphan || w.pod.DeletionTimestamp == nil {
		return
	}
	if !w.ending.whole() {
		w.ending.why = endDeleted
	}
	g := w.grace()
	if g >= w.ending.grace {
		return
	}
	w.ending.grace = g
	if until := time.Now().Add(g); until.Before(w.ending.deadline) {
		w.ending.deadline = until
		w.cancelSteps(stopVerb, Kill) // begun again with less time
	}
}

// drainWait is how long D4 waits for D3: only for a pod that was ready and that some Service selects, and never past
// its own grace period.
func (w *worker) drainWait() time.Duration {
	if w.ending.why != endDeleted || w.c.DrainTimeout <= 0 || !w.wasReady() || !w.served() {
		return 0
	}
	return min(w.c.DrainTimeout, w.ending.grace)
}

func (w *worker) wasReady() bool {
	s := &w.pod.Status
	if w.publishing.last != nil {
		s = w.publishing.last
	}
	for i := range s.Conditions {
		if s.Conditions[i].Type == v1.PodReady {
			return s.Conditions[i].Status == v1.ConditionTrue
		}
	}
	return false
}

// served says whether a Service selects the pod.
func (w *worker) served() bool {
	all, err := w.c.Services.InNamespace(w.pod.Namespace)
	if err != nil {
		return true // not known: wait, it is bounded
	}
	for _, s := range all {
		if len(s.Spec.Selector) > 0 && s.Spec.Type != v1.ServiceTypeExternalName && labels.SelectorFromValidatedSet(s.Spec.Selector).Matches(labels.Set(w.pod.Labels)) {
			return true
		}
	}
	return false
}

// drainSettle is what connections that were begun just before the last node acknowledged get to bring their first request. A server that
// is told to stop closes a connection whose request it has not read yet (Go's net/http does), and a client on a busy
// machine may take its time between the two, as its packets may: with 100 ms, one connection of ten thousand was refused while two other
// programs wanted both processors.
const drainSettle = 300 * time.Millisecond

// drain is D3 as the kubelet sees it: it waits for the condition, or for its time to be over. Only then may the preStop
// hook, which may itself stop the server, begin.
func (w *worker) drain() Phase {
	w.shorten()
	until := w.ending.drainUntil
	if w.ending.deadline.Before(until) {
		until = w.ending.deadline
	}
	if w.drainSeen() {
		if w.ending.drained.IsZero() {
			w.ending.drained = time.Now()
		}
		settled := w.ending.drained.Add(drainSettle)
		if until.Before(settled) {
			settled = until
		}
		if !time.Now().Before(settled) || !w.anyRunning() {
			w.span(lifecycle.Drain, "", w.ending.begun, trace.OK, "every node has stopped sending new connections")
			return Stopping
		}
		w.wake(settled)
		return Draining
	}
	if w.removed || w.pod.DeletionTimestamp == nil || !time.Now().Before(until) {
		w.span(lifecycle.Drain, "", w.ending.begun, trace.Failed, "not every node has acknowledged in time")
		return Stopping
	}
	if !w.anyRunning() {
		w.span(lifecycle.Drain, "", w.ending.begun, trace.OK, "its containers have ended by themselves")
		return Stopping
	}
	w.wake(until)
	return Draining
}

func (w *worker) drainSeen() bool {
	for i := range w.pod.Status.Conditions {
		if c := &w.pod.Status.Conditions[i]; c.Type == lifecycle.DrainedCondition && c.Status == v1.ConditionTrue {
			return true
		}
	}
	return false
}

func (w *worker) anyRunning() bool {
	for i := range w.rt.Containers {
		if s := w.rt.Containers[i].State; s == runtime.Running || s == runtime.Unknown {
			return true
		}
	}
	return false
}

const (
	stopVerb   Verb = "stop"
	rereadVerb Verb = "reread"
	cleanVerb  Verb = "clean"
	forgetVerb Verb = "forget"
	statusVerb Verb = "status"
)

// stop is D4: preStop hook, stop signal, SIGKILL; sidecars last, in reverse order.
func (w *worker) stop() Phase {
	if w.ending.stopBegun.IsZero() {
		w.ending.stopBegun = time.Now()
	}
	if w.underWay(RunSandbox, ResetSandbox, Create, Start, Remove, Kill, MountVolumes, EnsureImage, rereadVerb) {
		return Stopping // they have been told to end; what they leave is looked up below
	}
	w.shorten()
	if w.ending.cut {
		if t := w.retry[Key{rereadVerb, ""}]; time.Now().Before(t) {
			w.wake(t)
		} else {
			w.reread(func() { w.ending.cut = false })
		}
		return Stopping
	}
	w.collectMessages()
	for i := range w.rt.Containers {
		x := &w.rt.Containers[i]
		if w.ending.turns[x.ID] == nil {
			w.ending.turns[x.ID] = make(chan struct{})
		}
		if x.State != runtime.Running && x.State != runtime.Unknown {
			w.stopped(x.ID)
		}
	}
	for i := range w.rt.Containers {
		x := &w.rt.Containers[i]
		k := Key{stopVerb, x.ID}
		if x.State != runtime.Running && x.State != runtime.Unknown || w.busy[k] != nil {
			continue
		}
		if t := w.retry[k]; time.Now().Before(t) {
			w.wake(t)
			continue
		}
		w.stopInstance(k, x)
	}
	if w.anyRunning() || w.underWay(stopVerb) {
		return Stopping
	}
	if w.pod != nil && !w.orphan {
		w.span(lifecycle.Stop, "", w.ending.stopBegun, trace.OK, "")
	}
	w.terminal = true
	return Cleaning
}

// reread asks the runtime what it has of the pod; done is run once it is known.
func (w *worker) reread(done func()) {
	k := Key{rereadVerb, ""}
	w.begin(k, func(ctx context.Context) func() {
		at := time.Now()
		p, err := w.c.Runtime.Pod(ctx, string(w.uid))
		return func() {
			if err != nil {
				if ctx.Err() == nil {
					w.log.Warn("reading what the container runtime has of the pod failed, trying again", "err", err)
					w.fail(k, retrySandbox)
				}
				return
			}
			w.succeed(k)
			w.rt.Name, w.rt.Namespace = p.Name, p.Namespace
			w.merge(runtime.Update{Sandboxes: p.Sandboxes, Containers: p.Containers, Complete: true, At: at})
			if done != nil {
				done()
			}
		}
	})
}

// stopped lets those go on that wait for an instance to have stopped.
func (w *worker) stopped(id string) {
	if c := w.ending.turns[id]; c != nil {
		select {
		case <-c:
		default:
			close(c)
		}
	}
}

// stopInstance begins to stop one running instance.
func (w *worker) stopInstance(k Key, x *runtime.Container) {
	id, name := x.ID, x.Name
	c := w.specOf(x)
	deadline := w.ending.deadline
	if g, ok := w.ending.graces[id]; ok && w.ending.begun.Add(g).Before(deadline) {
		deadline = w.ending.begun.Add(g)
	}
	if !w.ending.told[id] {
		w.ending.told[id] = true
		w.event(name, v1.EventTypeNormal, "Killing", "Stopping container %s", name)
	}
	before := w.before(x)
	if w.ending.preStopped[id] {
		c = &v1.Container{Name: name} // its hook has had its chance
	}
	var ip string
	if s := w.sandbox(); s != nil && len(s.IPs) > 0 {
		ip = s.IPs[0]
	}
	w.begin(k, func(ctx context.Context) func() {
		err := w.stopOne(ctx, c, id, ip, deadline, before)
		var status runtime.Container
		statusErr := err
		if err == nil {
			status, statusErr = w.c.Runtime.ContainerStatus(ctx, id)
		}
		return func() {
			switch {
			case statusErr == nil:
				status.Name = name
				w.merge(runtime.Update{Containers: []runtime.Container{status}})
			case runtime.IsNotFound(statusErr):
				w.forgetID(id)
				w.stopped(id)
			case ctx.Err() == nil:
				w.event(name, v1.EventTypeWarning, "FailedKillPod", "error killing pod: %s", runtime.Message(statusErr))
				w.fail(k, retrySandbox)
			}
		}
	})
}

// specOf is a container's spec; of an orphan, what its annotations tell.
func (w *worker) specOf(x *runtime.Container) *v1.Container {
	if w.pod != nil {
		if c, _ := find(w.pod, x.Name); c != nil {
			return c
		}
	}
	return containers.FromAnnotations(x.Name, x.Annotations)
}

// before lists the instances that must have stopped before x is told to: for a sidecar all but sidecars, and the
// sidecars that were started after it (KEP-753). nil: none.
func (w *worker) before(x *runtime.Container) []<-chan struct{} {
	if !w.sidecar(x) {
		return nil
	}
	place := w.place(x.Name)
	var list []<-chan struct{}
	for i := range w.rt.Containers {
		o := &w.rt.Containers[i]
		if o.State != runtime.Running && o.State != runtime.Unknown || o.ID == x.ID {
			continue
		}
		if !w.sidecar(o) || w.place(o.Name) > place {
			list = append(list, w.ending.turns[o.ID])
		}
	}
	return list
}

func (w *worker) sidecar(x *runtime.Container) bool {
	if w.pod != nil {
		if _, kind := find(w.pod, x.Name); kind != "" {
			return kind == runtime.ContainerKindSidecar
		}
	}
	return x.Kind() == runtime.ContainerKindSidecar
}

func (w *worker) place(name string) int {
	if w.pod != nil {
		for i := range w.pod.Spec.InitContainers {
			if w.pod.Spec.InitContainers[i].Name == name {
				return i
			}
		}
	}
	return 0
}

// stopOne stops one instance: hook, then those that go before it, then the signal. It runs in a step. The hook and the
// waiting use up the grace period; what is left, or two seconds, is the container's.
func (w *worker) stopOne(ctx context.Context, c *v1.Container, id, ip string, deadline time.Time, before []<-chan struct{}) error {
	if c.Lifecycle != nil && c.Lifecycle.PreStop != nil && time.Until(deadline) > 0 {
		limit, cancel := context.WithDeadline(ctx, deadline)
		err := w.c.Hooks.Run(limit, c, id, ip, c.Lifecycle.PreStop)
		cancel()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		w.box.post(func() { w.ending.preStopped[id] = true })
		if err != nil && !runtime.IsNotFound(err) {
			w.log.Info("preStop hook failed", "container", c.Name, "err", err)
			w.box.post(func() { w.event(c.Name, v1.EventTypeWarning, "FailedPreStopHook", "PreStopHook failed") })
		}
	}
	if len(before) > 0 {
		over := time.NewTimer(max(time.Until(deadline), 0))
		defer over.Stop()
	wait:
		for _, stopped := range before {
			select {
			case <-stopped:
			case <-over.C:
				break wait
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	return w.c.Runtime.StopContainer(ctx, id, max(time.Until(deadline), minimumGrace))
}

// clean is D5, or for a pod that ended by itself the part of it that does not take its logs.
func (w *worker) clean() Phase {
	if w.ending.cleaned {
		w.c.Ledger.Release(w.uid)
		switch {
		case w.orphan || w.removed:
			return Gone
		case w.ending.whole():
			return Forgetting
		}
		return Ended
	}
	k := Key{cleanVerb, ""}
	if w.busy[k] != nil {
		return Cleaning
	}
	if t := w.retry[k]; time.Now().Before(t) {
		w.wake(t)
		return Cleaning
	}
	if w.ending.cleanBegun.IsZero() {
		w.ending.cleanBegun = time.Now()
	}
	w.freeze()
	whole := w.ending.whole()
	boxes := append([]runtime.Sandbox(nil), w.rt.Sandboxes...)
	all := append([]runtime.Container(nil), w.rt.Containers...)
	logs := ""
	if whole {
		logs = w.logs()
	}
	w.begin(k, func(ctx context.Context) func() {
		err := w.takeAway(ctx, whole, boxes, all, logs)
		return func() {
			if err == nil {
				if whole {
					for i := range boxes {
						w.forgetID(boxes[i].ID)
					}
					for i := range all {
						w.forgetID(all[i].ID)
					}
					if len(w.rt.Sandboxes)+len(w.rt.Containers) > 0 {
						return // a start that nobody wanted any more has brought them meanwhile: once more
					}
				}
				w.ending.cleaned = true
				w.span(lifecycle.Clean, "", w.ending.cleanBegun, trace.OK, "")
				return
			}
			if ctx.Err() == nil {
				w.log.Warn("cleaning up after the pod failed, trying again", "err", err)
				w.event("", v1.EventTypeWarning, "FailedKillPod", "error killing pod: %s", runtime.Message(err))
				w.span(lifecycle.Clean, "", w.ending.cleanBegun, trace.Waiting, err.Error())
				w.fail(k, retrySandbox)
			}
		}
	})
	return Cleaning
}

// takeAway removes what the pod had on the node. Sandboxes are stopped first: then no process is left that could hold
// volumes, which go while the runtime removes its own things. Runs in a step.
func (w *worker) takeAway(ctx context.Context, whole bool, boxes []runtime.Sandbox, all []runtime.Container, logs string) error {
	var errs []error
	for i := range boxes {
		if boxes[i].Ready || whole {
			errs = append(errs, w.c.Runtime.StopSandbox(ctx, boxes[i].ID))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	var volumesErr error
	var volumes sync.WaitGroup
	volumes.Go(func() { volumesErr = w.c.Volumes.Unmount(ctx, w.uid) })
	if whole {
		for i := range all { // those of a sandbox go with it; the runtime may have lost a sandbox
			if all[i].SandboxID == "" || !has(boxes, all[i].SandboxID) {
				errs = append(errs, w.c.Runtime.RemoveContainer(ctx, all[i].ID))
			}
		}
		for i := range boxes {
			errs = append(errs, w.c.Runtime.RemoveSandbox(ctx, boxes[i].ID))
		}
	}
	volumes.Wait()
	errs = append(errs, volumesErr)
	if err := errors.Join(errs...); err != nil {
		if whole {
			// A runtime can lose track of a process, as containerd does when it is itself killed at a bad moment or, being
			// another than the embedded one, has a start cut off (embedded/containerd, outlast). The pod's cgroup still knows it.
			err = errors.Join(err, w.c.Cgroups.Remove(ctx, w.uid))
		}
		return err
	}
	if err := w.c.Cgroups.Remove(ctx, w.uid); err != nil {
		return err
	}
	w.c.Images.Forget(w.uid)
	if logs == "" {
		return nil
	}
	// It holds plain files only; nothing is mounted there.
	if err := os.RemoveAll(logs); err != nil {
		return fmt.Errorf("remove logs: %w", err)
	}
	return nil
}

func has(boxes []runtime.Sandbox, id string) bool {
	for i := range boxes {
		if boxes[i].ID == id {
			return true
		}
	}
	return false
}

// logs is the pod's log directory; "" if the pod's name is not known.
func (w *worker) logs() string {
	namespace, name := w.rt.Namespace, w.rt.Name
	if w.pod != nil {
		namespace, name = w.pod.Namespace, w.pod.Name
	}
	if name == "" {
		return ""
	}
	return filepath.Join(w.c.LogsDir, containers.LogDirName(namespace, name, string(w.uid)))
}

// rest is the life of a pod that has ended by itself: its status is kept right until it is deleted.
func (w *worker) rest() Phase {
	switch {
	case w.removed:
		return w.end(ending{why: endRemoved})
	case w.pod.DeletionTimestamp != nil:
		return w.end(ending{why: endDeleted})
	}
	return Ended
}
