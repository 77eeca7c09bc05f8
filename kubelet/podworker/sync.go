package podworker

import (
	"context"
	"errors"
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"

	"wherry.dev/wherry/kubelet/containers"
	"wherry.dev/wherry/kubelet/images"
	"wherry.dev/wherry/kubelet/runtime"
	"wherry.dev/wherry/kubelet/status"
	"wherry.dev/wherry/lifecycle"
	"wherry.dev/wherry/trace"
)

// sync is C8 to C12: it decides and begins what is to be done.
func (w *worker) sync() Phase {
	if w.removed {
		return w.end(ending{why: endRemoved})
	}
	if w.pod.DeletionTimestamp != nil {
		return w.end(ending{why: endDeleted})
	}
	if late, at := w.pastDeadline(); late {
		w.verdict = &status.Verdict{Reason: "DeadlineExceeded", Message: "Pod was active on the node longer than the specified deadline"}
		w.event("", v1.EventTypeNormal, "DeadlineExceeded", "Pod was active on the node longer than the specified deadline")
		return w.end(ending{why: endDeadline})
	} else {
		w.wake(at)
	}
	w.regrant()
	w.collectMessages()
	busy := make(map[Key]bool, len(w.busy))
	for k := range w.busy {
		busy[k] = true
	}
	plan := Decide(&View{
		Now: time.Now(), Pod: w.pod, Runtime: w.rt, Mounted: w.mounted, Images: w.images, Busy: busy, Retry: w.retry,
		Failed: w.failed, Backoffs: w.backoffs, Unhealthy: w.unhealthy, Replaced: w.replaced, Started: w.started, Applied: w.resources.applied,
	})
	if plan.Finished {
		return w.end(ending{why: endFinished})
	}
	w.tellBackOffs(plan.Waiting)
	w.waiting = plan.Waiting
	w.wake(plan.Wake)
	for _, s := range plan.Steps {
		w.log.Debug("step", "do", s.Do, "container", s.Container, "attempt", s.Attempt)
		w.take(s)
	}
	w.tellResized()
	w.judgeReady()
	return Syncing
}

// pastDeadline holds activeDeadlineSeconds, counted from the status' start time.
func (w *worker) pastDeadline() (late bool, at time.Time) {
	d := w.pod.Spec.ActiveDeadlineSeconds
	if d == nil {
		return false, time.Time{}
	}
	start := w.born
	if w.pod.Status.StartTime != nil {
		start = w.pod.Status.StartTime.Time
	}
	at = start.Add(time.Duration(*d) * time.Second)
	return !time.Now().Before(at), at
}

// tellBackOffs gives an event for each container that newly waits in a crash loop.
func (w *worker) tellBackOffs(now map[string]status.Waiting) {
	for name, x := range now {
		if x.Reason == reasonCrashLoop && w.waiting[name] != x {
			w.event(name, v1.EventTypeWarning, "BackOff", "Back-off restarting failed container %s in pod %s", name, containers.Title(w.pod))
		}
	}
}

// take begins a step.
func (w *worker) take(s Step) {
	switch s.Do {
	case MountVolumes:
		w.mountVolumes(s)
	case RunSandbox:
		w.runSandbox(s)
	case ResetSandbox:
		w.resetSandbox(s)
	case EnsureImage:
		w.ensureImage(s)
	case Create:
		w.create(s)
	case Start:
		w.start(s)
	case Kill:
		w.kill(s)
	case Remove:
		w.remove(s)
	case Resize:
		w.resize(s)
	}
}

const (
	retryVolumes = 10 * time.Second
	retrySandbox = 10 * time.Second
	retryCreate  = 10 * time.Second
)

func (w *worker) mountVolumes(s Step) {
	k, pod := s.Key(), w.pod
	w.begin(k, func(ctx context.Context) func() {
		errs := w.c.Volumes.Mount(ctx, pod)
		return func() {
			if ctx.Err() != nil && len(errs) > 0 {
				return
			}
			if len(errs) == 0 {
				w.succeed(k)
				w.mounted = true
				w.span(lifecycle.Volumes, "", w.spans.volumes, trace.OK, "", trace.Attr{Key: "volumes", Value: itoa(len(pod.Spec.Volumes))})
				return
			}
			for _, err := range errs {
				w.event("", v1.EventTypeWarning, "FailedMount", "%s", err.Error())
			}
			w.span(lifecycle.Volumes, "", w.spans.volumes, trace.Waiting, errors.Join(errs...).Error())
			w.fail(k, retryVolumes)
		}
	})
}

// runSandbox is C9. The cgroup comes first because the runtime puts the sandbox in it; volumes and images are on
// their way meanwhile.
func (w *worker) runSandbox(s Step) {
	k, pod := s.Key(), w.pod
	w.begin(k, func(ctx context.Context) func() {
		config, handler, warning, err := w.sandboxInput(ctx, pod, s.Attempt)
		var id string
		var box runtime.Sandbox
		if err == nil {
			if id, err = w.c.Runtime.RunSandbox(ctx, config, handler); err == nil {
				box, err = w.c.Runtime.SandboxStatus(ctx, id)
			}
		}
		if err == nil {
			err = w.writeHosts(pod, box.IPs)
		}
		return func() {
			if warning != "" {
				w.event("", v1.EventTypeWarning, "DNSConfigForming", "%s", warning)
			}
			if id != "" {
				w.sandboxConfig, w.handler = config, handler
				if box.ID == "" { // made, but not described: enough to find it again and take it down
					box = runtime.Sandbox{ID: id, PodUID: string(w.uid), Name: pod.Name, Namespace: pod.Namespace, Attempt: s.Attempt, Ready: true, CreatedAt: time.Now()}
				}
				w.merge(runtime.Update{Sandboxes: []runtime.Sandbox{box}})
			}
			if err != nil {
				if ctx.Err() != nil {
					return
				}
				w.event("", v1.EventTypeWarning, "FailedCreatePodSandBox", "Failed to create pod sandbox: %s", runtime.Message(err))
				w.span(lifecycle.Sandbox, "", w.spans.sandbox, trace.Waiting, err.Error())
				w.fail(k, retrySandbox)
				return
			}
			w.succeed(k)
			var attrs []trace.Attr
			for _, ip := range box.IPs {
				attrs = append(attrs, trace.Attr{Key: "ip", Value: ip})
			}
			w.span(lifecycle.Sandbox, "", w.spans.sandbox, trace.OK, "", attrs...)
		}
	})
}

// sandboxInput prepares the sandbox's configuration, with the cgroup and the log directory it names. Runs in a step.
func (w *worker) sandboxInput(ctx context.Context, pod *v1.Pod, attempt int) (config *runtime.SandboxConfig, handler, warning string, err error) {
	if pod.Spec.RuntimeClassName != nil && *pod.Spec.RuntimeClassName != "" {
		if handler, err = w.c.Handler(ctx, *pod.Spec.RuntimeClassName); err != nil {
			return nil, "", "", err
		}
	}
	parent, err := w.c.Cgroups.Ensure(ctx, pod)
	if err != nil {
		return nil, "", "", fmt.Errorf("make cgroup: %w", err)
	}
	config, warning, err = containers.Sandbox(pod, containers.SandboxInput{
		Attempt: attempt, CgroupParent: parent, LogDir: w.logDir(pod), DNS: w.c.DNS, Node: w.c.Facts, Security: w.c.Security,
	})
	if err != nil {
		return nil, "", "", err
	}
	return config, handler, warning, w.makeLogDir(pod)
}

// resetSandbox takes a sandbox down that cannot be used any more, with what runs in it.
func (w *worker) resetSandbox(s Step) {
	k := s.Key()
	w.event("", v1.EventTypeNormal, "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.")
	w.begin(k, func(ctx context.Context) func() {
		err := w.c.Runtime.StopSandbox(ctx, s.ID)
		var p runtime.Pod
		at := time.Now()
		if err == nil {
			p, err = w.c.Runtime.Pod(ctx, string(w.uid))
		}
		return func() {
			if err != nil {
				if ctx.Err() == nil {
					w.event("", v1.EventTypeWarning, "FailedKillPod", "error killing pod: %s", runtime.Message(err))
					w.fail(k, retrySandbox)
				}
				return
			}
			w.succeed(k)
			w.merge(runtime.Update{Sandboxes: p.Sandboxes, Containers: p.Containers, Complete: true, At: at})
		}
	})
}

// ensureImage is C10.
func (w *worker) ensureImage(s Step) {
	k, pod, sandbox := s.Key(), w.pod, w.sandboxConfig
	c, _ := find(pod, s.Container)
	w.begin(k, func(ctx context.Context) func() {
		begun := time.Now()
		handler := ""
		var err error
		if pod.Spec.RuntimeClassName != nil && *pod.Spec.RuntimeClassName != "" {
			handler, err = w.c.Handler(ctx, *pod.Spec.RuntimeClassName)
		}
		var got images.Pulled
		if err == nil {
			got, err = w.c.Images.Ensure(ctx, pod, c, handler, sandbox, func(eventType, reason, message string) {
				w.c.Events.Eventf(Reference(pod, c.Name), eventType, reason, "%s", message)
			})
		}
		return func() {
			if err == nil {
				img := got.Image
				w.images[c.Name] = Image{Attempt: s.Attempt, Ref: got.Ref, Info: &img}
				attrs := []trace.Attr{{Key: "image", Value: c.Image}, {Key: "bytes", Value: fmt.Sprint(img.Size)}, {Key: "pulled", Value: fmt.Sprint(got.Pulled)}}
				w.span(lifecycle.Pull, c.Name, begun, trace.OK, "", attrs...)
				return
			}
			if ctx.Err() != nil {
				return
			}
			var problem *images.Problem
			if !errors.As(err, &problem) {
				problem = &images.Problem{Reason: images.ErrImageInspect, Message: err.Error(), Retry: time.Now().Add(retryCreate)}
			}
			w.images[c.Name] = Image{Attempt: s.Attempt, Waiting: &status.Waiting{Reason: problem.Reason, Message: problem.Message}, Retry: problem.Retry}
			w.span(lifecycle.Pull, c.Name, begun, trace.Waiting, problem.Reason+": "+problem.Message, trace.Attr{Key: "image", Value: c.Image})
		}
	})
}

// judgeReady records the stage ready (C12): from the last start to the first time the pod is ready.
func (w *worker) judgeReady() {
	if w.spans.readyDone {
		return
	}
	all := true
	for i := range w.pod.Spec.Containers {
		name := w.pod.Spec.Containers[i].Name
		running, ready := false, false
		for j := range w.rt.Containers {
			if x := &w.rt.Containers[j]; x.Name == name && x.State == runtime.Running {
				running, ready = true, w.started(x.ID) && w.ready(x.ID)
			}
		}
		if !running {
			return
		}
		all = all && ready
	}
	if w.spans.ready.IsZero() {
		w.spans.ready = time.Now()
		if !all {
			w.span(lifecycle.Ready, "", w.spans.ready, trace.Waiting, "probes have not succeeded yet")
		}
	}
	if all {
		w.spans.readyDone = true
		w.span(lifecycle.Ready, "", w.spans.ready, trace.OK, "")
	} else if w.spans.readyWhy != "" {
		w.span(lifecycle.Ready, "", w.spans.ready, trace.Waiting, w.spans.readyWhy)
		w.spans.readyWhy = ""
	}
}
