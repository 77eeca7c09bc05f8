package podworker

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	v1 "k8s.io/api/core/v1"

	"wherry.dev/wherry/kubelet/containers"
	"wherry.dev/wherry/kubelet/runtime"
	"wherry.dev/wherry/kubelet/status"
	"wherry.dev/wherry/lifecycle"
	"wherry.dev/wherry/trace"
)

// Reasons for which a container waits after its own creation or start failed.
const (
	reasonConfigError    = "CreateContainerConfigError"
	reasonCreateError    = "CreateContainerError"
	reasonRunError       = "RunContainerError"
	reasonPostStartError = "PostStartHookError"
)

// create makes a container: everything that may be done before it is its turn to start.
func (w *worker) create(s Step) {
	k, pod, after := s.Key(), w.pod, s.After
	c, kind := find(pod, s.Container)
	sandbox, image := *w.sandbox(), w.images[s.Container]
	sandboxConfig := w.sandboxConfig
	podIPs := w.podIPs()
	target := w.target(s.Container)
	w.begin(k, func(ctx context.Context) func() {
		fresh := sandboxConfig
		reason := reasonConfigError
		var config *runtime.ContainerConfig
		var invalid []string
		var id string
		var err error
		begun := time.Now()
		if fresh == nil { // taken over from an earlier kubelet
			fresh, _, _, err = w.sandboxInput(ctx, pod, sandbox.Attempt)
		}
		if err == nil {
			config, invalid, err = w.containerConfig(ctx, pod, c, kind, s.Attempt, image, podIPs, target, fresh)
		}
		if err == nil {
			reason = reasonCreateError
			id, err = w.c.Runtime.CreateContainer(ctx, sandbox.ID, config, fresh)
		}
		return func() {
			w.sandboxConfig = fresh
			for _, m := range invalid {
				w.event(c.Name, v1.EventTypeWarning, "InvalidEnvironmentVariableNames", "%s", m)
			}
			if err != nil {
				if ctx.Err() != nil {
					return
				}
				text := err.Error()
				if reason == reasonCreateError {
					text = runtime.Description(err)
				}
				w.event(c.Name, v1.EventTypeWarning, "Failed", "Error: %s", text)
				w.span(lifecycle.Start, c.Name, begun, trace.Waiting, reason+": "+text)
				w.failed[c.Name] = status.Waiting{Reason: reason, Message: text}
				w.fail(k, retryCreate)
				return
			}
			w.succeed(k)
			delete(w.failed, c.Name)
			if after != nil && after.State == runtime.Exited {
				w.backoffs[c.Name] = w.backoffs[c.Name].Next(time.Now(), after.FinishedAt)
			}
			w.given(id, c.Resources)
			w.event(c.Name, v1.EventTypeNormal, "Created", "Container created")
			w.merge(runtime.Update{Containers: []runtime.Container{{
				ID: id, Name: c.Name, PodUID: string(w.uid), SandboxID: sandbox.ID, Attempt: s.Attempt, State: runtime.Created,
				CreatedAt: time.Now(), Hash: containers.Hash(c), Annotations: config.Annotations,
			}}})
		}
	})
}

// target is the running container whose processes an ephemeral container is to see; "" for none.
func (w *worker) target(name string) string {
	for i := range w.pod.Spec.EphemeralContainers {
		e := &w.pod.Spec.EphemeralContainers[i]
		if e.Name != name || e.TargetContainerName == "" {
			continue
		}
		for j := range w.rt.Containers {
			if x := &w.rt.Containers[j]; x.Name == e.TargetContainerName && x.State == runtime.Running {
				return x.ID
			}
		}
	}
	return ""
}

// containerConfig gathers all that a container is made from. Runs in a step: it reads objects and makes files.
func (w *worker) containerConfig(ctx context.Context, pod *v1.Pod, c *v1.Container, kind string, attempt int, image Image, podIPs []string, target string,
	sandbox *runtime.SandboxConfig) (*runtime.ContainerConfig, []string, error) {
	services, err := w.services(pod)
	if err != nil {
		return nil, nil, err
	}
	env, invalid, err := containers.Env(ctx, pod, c, containers.EnvSources{
		Objects: w.c.Objects, Services: services, Node: w.c.Node(), HostIPs: w.c.HostIPs(), PodIPs: podIPs,
	})
	if err != nil {
		return nil, invalid, err
	}
	mounts, err := w.c.Volumes.ContainerMounts(ctx, pod, c, func(name string) (string, bool) {
		for i := range env {
			if env[i].Name == name {
				return env[i].Value, true
			}
		}
		return "", false
	})
	if err != nil {
		return nil, invalid, err
	}
	if _, err := os.Stat(w.hostsPath(pod)); err != nil {
		if err := w.writeHosts(pod, podIPs); err != nil {
			return nil, invalid, err
		}
	}
	termination, err := w.terminationFile(pod, c, attempt)
	if err != nil {
		return nil, invalid, err
	}
	if err := os.MkdirAll(filepath.Join(w.logDir(pod), c.Name), 0o755); err != nil {
		return nil, invalid, fmt.Errorf("make log directory of container %s: %w", c.Name, err)
	}
	config, err := containers.Config(pod, c, containers.Input{
		Attempt: attempt, ImageRef: image.Ref, Image: image.Info, Env: env, Mounts: mounts,
		HostsFile: w.hostsPath(pod), Termination: termination, PodLogDir: sandbox.GetLogDirectory(),
		Node: w.c.Facts, Security: w.c.Security, TargetID: target, Kind: kind,
	})
	return config, invalid, err
}

// services are those whose variables the pod's containers see.
func (w *worker) services(pod *v1.Pod) ([]*v1.Service, error) {
	own, err := w.c.Services.InNamespace(pod.Namespace)
	if err != nil {
		return nil, fmt.Errorf("list services of namespace %s: %w", pod.Namespace, err)
	}
	if pod.Namespace == v1.NamespaceDefault {
		return own, nil
	}
	masters, err := w.c.Services.InNamespace(v1.NamespaceDefault)
	if err != nil {
		return nil, fmt.Errorf("list services of namespace %s: %w", v1.NamespaceDefault, err)
	}
	all := append([]*v1.Service(nil), own...)
	for _, s := range masters {
		if s.Name == "kubernetes" {
			all = append(all, s)
		}
	}
	return all, nil
}

// start starts a created container and runs its postStart hook (C11). Later containers wait for it: it is busy until then.
func (w *worker) start(s Step) {
	k, pod := s.Key(), w.pod
	c, _ := find(pod, s.Container)
	var ip string
	if ips := w.podIPs(); len(ips) > 0 {
		ip = ips[0]
	}
	hook := c.Lifecycle != nil && c.Lifecycle.PostStart != nil
	if hook {
		w.hooked[s.ID] = true
	}
	w.begin(k, func(ctx context.Context) func() {
		begun := time.Now()
		err := w.c.Runtime.StartContainer(ctx, s.ID)
		var hookErr error
		if err == nil {
			w.c.Events.Eventf(Reference(pod, c.Name), v1.EventTypeNormal, "Started", "Container started")
		}
		x, statusErr := w.c.Runtime.ContainerStatus(ctx, s.ID)
		if err == nil && hook {
			hookErr = w.c.Hooks.Run(ctx, c, s.ID, ip, c.Lifecycle.PostStart)
		}
		return func() {
			delete(w.hooked, s.ID)
			if statusErr == nil {
				x.Name, x.PodUID = s.Container, string(w.uid)
				w.merge(runtime.Update{Containers: []runtime.Container{x}})
			} else if runtime.IsNotFound(statusErr) {
				w.forgetID(s.ID)
			}
			switch {
			case err != nil && ctx.Err() == nil:
				text := runtime.Description(err)
				w.event(c.Name, v1.EventTypeWarning, "Failed", "Error: %s", text)
				w.span(lifecycle.Start, c.Name, begun, trace.Failed, text)
				w.failed[c.Name] = status.Waiting{Reason: reasonRunError, Message: text}
				w.fail(k, retryCreate)
			case err != nil:
			case hookErr != nil && ctx.Err() == nil:
				w.event(c.Name, v1.EventTypeWarning, "FailedPostStartHook", "PostStartHook failed")
				w.span(lifecycle.Start, c.Name, begun, trace.Failed, "postStart hook: "+hookErr.Error())
				w.log.Info("postStart hook failed", "container", c.Name, "err", hookErr)
				w.failed[c.Name] = status.Waiting{Reason: reasonPostStartError, Message: hookErr.Error()}
				w.unhealthy[s.ID] = "FailedPostStartHook"
			default:
				w.succeed(k)
				delete(w.failed, c.Name)
				w.span(lifecycle.Start, c.Name, begun, trace.OK, "", trace.Attr{Key: "containerID", Value: s.ID}, trace.Attr{Key: "attempt", Value: itoa(s.Attempt)})
			}
		}
	})
}

// killGrace remembers the grace period that a probe gives an instance it has failed.
func (w *worker) killGrace(id string, grace time.Duration) {
	if w.ending.graces == nil {
		w.ending.graces = map[string]time.Duration{}
	}
	w.ending.graces[id] = grace
}

// kill stops one container that has to be started anew: preStop hook, signal, SIGKILL.
func (w *worker) kill(s Step) {
	k, pod := s.Key(), w.pod
	c, _ := find(pod, s.Container)
	if c == nil {
		c = &v1.Container{Name: s.Container}
	}
	if s.Replace {
		w.replaced[s.ID] = true
	}
	grace, ok := w.ending.graces[s.ID]
	if !ok {
		grace = podGrace(pod)
	}
	var ip string
	if ips := w.podIPs(); len(ips) > 0 {
		ip = ips[0]
	}
	reason := s.Reason
	if reason == "FailedPostStartHook" {
		w.event(c.Name, v1.EventTypeNormal, "Killing", "FailedPostStartHook")
	} else {
		w.event(c.Name, v1.EventTypeNormal, "Killing", "%s", reason)
	}
	w.begin(k, func(ctx context.Context) func() {
		err := w.stopOne(ctx, c, s.ID, ip, time.Now().Add(grace), nil)
		x, statusErr := w.c.Runtime.ContainerStatus(ctx, s.ID)
		return func() {
			if err != nil && ctx.Err() == nil {
				w.event(c.Name, v1.EventTypeWarning, "FailedKillPod", "error killing container: %s", runtime.Message(err))
				w.fail(k, retrySandbox)
				return
			}
			delete(w.unhealthy, s.ID)
			if statusErr == nil {
				w.merge(runtime.Update{Containers: []runtime.Container{x}})
			} else if runtime.IsNotFound(statusErr) {
				w.forgetID(s.ID)
			}
		}
	})
}

// remove forgets an ended instance or sandbox.
func (w *worker) remove(s Step) {
	k := s.Key()
	isSandbox := false
	for i := range w.rt.Sandboxes {
		isSandbox = isSandbox || w.rt.Sandboxes[i].ID == s.ID
	}
	var file string
	for i := range w.rt.Containers {
		if x := &w.rt.Containers[i]; x.ID == s.ID {
			file = x.Annotations[runtime.AnnotationTerminationHostPath]
		}
	}
	w.begin(k, func(ctx context.Context) func() {
		var err error
		if isSandbox {
			err = w.c.Runtime.RemoveSandbox(ctx, s.ID)
		} else {
			err = w.c.Runtime.RemoveContainer(ctx, s.ID)
		}
		if err == nil && file != "" {
			// What is left of it goes with the pod's directory.
			_ = os.Remove(file)
		}
		return func() {
			if err != nil {
				w.log.Warn("removing an ended instance failed", "id", s.ID, "err", err)
				w.fail(k, time.Minute)
				return
			}
			delete(w.messages, s.ID)
			w.forgetID(s.ID)
		}
	})
}
