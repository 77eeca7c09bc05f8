// Package fake is a container runtime in memory, for tests of what is built on kubelet/runtime. It keeps the CRI's rules
// that callers rely on: names are not reused, nothing starts twice, a stopped sandbox takes no container, and events
// tell of everything that happens.
package fake

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"wherry.dev/wherry/kubelet/runtime"
)

// Runtime is the runtime. Its exported fields are set before use. Safe for concurrent use.
type Runtime struct {
	// Sink is told of everything that happens, as a Watch would; nil: nobody.
	Sink runtime.Sink
	// Latency is how long each call takes by its name (RunSandbox, PullImage, ...); it honours the context.
	Latency map[string]time.Duration
	// Outlast has sandboxes made although whoever asked for them has left meanwhile, as containerd does.
	Outlast bool
	// Fail is asked before each call; an error is the call's.
	Fail func(call, name string) error
	// Stubborn containers, by name, do not end on the stop signal.
	Stubborn map[string]bool
	// Images is what is on the node, by full name; pulls add to it.
	Images map[string]runtime.Image

	mu         sync.Mutex
	serial     int
	sandboxes  map[string]*runtime.Sandbox
	containers map[string]*runtime.Container
	signalled  map[string]chan struct{}
	calls      []string
}

// New makes an empty runtime which has the given images.
func New(images ...string) *Runtime {
	f := &Runtime{sandboxes: map[string]*runtime.Sandbox{}, containers: map[string]*runtime.Container{}, signalled: map[string]chan struct{}{}, Images: map[string]runtime.Image{}}
	for _, i := range images {
		f.Images[i] = runtime.Image{ID: "sha256:" + i, RepoTags: []string{i}, Size: 1000}
	}
	return f
}

// Calls lists what was called until now, as "StopContainer app".
func (f *Runtime) Calls() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.calls)
}

// call notes a call, takes its time, and fails it if that is wanted.
func (f *Runtime) call(ctx context.Context, name, what string) error {
	f.mu.Lock()
	f.calls = append(f.calls, name+" "+what)
	latency, fail := f.Latency[name], f.Fail
	f.mu.Unlock()
	if latency > 0 {
		t := time.NewTimer(latency)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		}
	}
	if fail != nil {
		return fail(name, what)
	}
	return ctx.Err()
}

func notFound(id string) error { return status.Errorf(codes.NotFound, "%s: not found", id) }

// tell sends an event about a pod. Callers hold mu.
func (f *Runtime) tell(uid string, removed ...string) {
	if f.Sink == nil {
		return
	}
	u := runtime.Update{PodUID: uid, Removed: removed, At: time.Now()}
	for _, s := range f.sandboxes {
		if s.PodUID == uid {
			u.Sandboxes = append(u.Sandboxes, *s)
		}
	}
	for _, c := range f.containers {
		if c.PodUID == uid {
			u.Containers = append(u.Containers, *c)
		}
	}
	f.Sink.RuntimeChanged(u)
}

// RunSandbox makes a sandbox with an address.
func (f *Runtime) RunSandbox(ctx context.Context, c *runtime.SandboxConfig, handler string) (string, error) {
	if f.Outlast {
		type answer struct {
			id  string
			err error
		}
		made := make(chan answer, 1)
		go func() {
			id, err := f.runSandbox(context.WithoutCancel(ctx), c, handler)
			made <- answer{id, err}
		}()
		select {
		case a := <-made:
			return a.id, a.err
		case <-ctx.Done():
			return "", status.FromContextError(ctx.Err()).Err()
		}
	}
	return f.runSandbox(ctx, c, handler)
}

func (f *Runtime) runSandbox(ctx context.Context, c *runtime.SandboxConfig, handler string) (string, error) {
	if err := f.call(ctx, "RunSandbox", c.GetMetadata().GetName()); err != nil {
		return "", err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	m := c.GetMetadata()
	for _, s := range f.sandboxes {
		if s.PodUID == m.GetUid() && s.Attempt == int(m.GetAttempt()) {
			return "", status.Errorf(codes.AlreadyExists, "sandbox name of pod %s is reserved", m.GetName())
		}
	}
	f.serial++
	s := &runtime.Sandbox{ID: fmt.Sprintf("sandbox-%d", f.serial), PodUID: m.GetUid(), Name: m.GetName(), Namespace: m.GetNamespace(), Attempt: int(m.GetAttempt()),
		Ready: true, CreatedAt: time.Now(), IPs: []string{fmt.Sprintf("10.0.0.%d", f.serial)}, Detailed: true, RuntimeHandler: handler}
	f.sandboxes[s.ID] = s
	f.tell(s.PodUID)
	return s.ID, nil
}

// SandboxStatus reads a sandbox.
func (f *Runtime) SandboxStatus(_ context.Context, id string) (runtime.Sandbox, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.sandboxes[id]
	if s == nil {
		return runtime.Sandbox{}, notFound(id)
	}
	return *s, nil
}

// StopSandbox ends what runs in it.
func (f *Runtime) StopSandbox(ctx context.Context, id string) error {
	if err := f.call(ctx, "StopSandbox", id); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.sandboxes[id]
	if s == nil {
		return nil
	}
	s.Ready = false
	for _, c := range f.containers {
		if c.SandboxID == id {
			f.exit(c, 137, "Error")
		}
	}
	f.tell(s.PodUID)
	return nil
}

// RemoveSandbox removes it with its containers.
func (f *Runtime) RemoveSandbox(ctx context.Context, id string) error {
	if err := f.call(ctx, "RemoveSandbox", id); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.sandboxes[id]
	if s == nil {
		return nil
	}
	removed := []string{id}
	delete(f.sandboxes, id)
	for cid, c := range f.containers {
		if c.SandboxID == id {
			delete(f.containers, cid)
			removed = append(removed, cid)
		}
	}
	f.tell(s.PodUID, removed...)
	return nil
}

// CreateContainer makes a container.
func (f *Runtime) CreateContainer(ctx context.Context, sandboxID string, c *runtime.ContainerConfig, _ *runtime.SandboxConfig) (string, error) {
	if err := f.call(ctx, "CreateContainer", c.GetMetadata().GetName()); err != nil {
		return "", err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.sandboxes[sandboxID]
	if s == nil || !s.Ready {
		return "", notFound(sandboxID)
	}
	for _, x := range f.containers {
		if x.SandboxID == sandboxID && x.Name == c.GetMetadata().GetName() && x.Attempt == int(c.GetMetadata().GetAttempt()) {
			return "", status.Errorf(codes.AlreadyExists, "container name %s is reserved", x.Name)
		}
	}
	f.serial++
	x := &runtime.Container{ID: fmt.Sprintf("container-%d", f.serial), Name: c.GetMetadata().GetName(), PodUID: s.PodUID, SandboxID: sandboxID,
		Attempt: int(c.GetMetadata().GetAttempt()), CreatedAt: time.Now(), Image: c.GetImage().GetImage(), ImageID: c.GetImage().GetImage(),
		Hash: c.GetAnnotations()[runtime.AnnotationHash], Annotations: c.GetAnnotations()}
	f.containers[x.ID] = x
	f.signalled[x.ID] = make(chan struct{})
	f.tell(s.PodUID)
	return x.ID, nil
}

// StartContainer starts it.
func (f *Runtime) StartContainer(ctx context.Context, id string) error {
	f.mu.Lock()
	x := f.containers[id]
	f.mu.Unlock()
	if x == nil {
		return notFound(id)
	}
	if err := f.call(ctx, "StartContainer", x.Name); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if x.State != runtime.Created {
		return status.Errorf(codes.FailedPrecondition, "container %s is %s", id, x.State)
	}
	x.State, x.StartedAt = runtime.Running, time.Now()
	f.tell(x.PodUID)
	return nil
}

// ContainerStatus reads a container.
func (f *Runtime) ContainerStatus(_ context.Context, id string) (runtime.Container, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	x := f.containers[id]
	if x == nil {
		return runtime.Container{}, notFound(id)
	}
	return *x, nil
}

// StopContainer signals, waits for the grace period if the container is stubborn, and kills.
func (f *Runtime) StopContainer(ctx context.Context, id string, grace time.Duration) error {
	f.mu.Lock()
	x := f.containers[id]
	f.mu.Unlock()
	if x == nil {
		return notFound(id)
	}
	if err := f.call(ctx, "StopContainer", fmt.Sprintf("%s %s", x.Name, grace)); err != nil {
		return err
	}
	f.mu.Lock()
	stubborn := f.Stubborn[x.Name]
	f.mu.Unlock()
	code := int32(0)
	if stubborn && grace > 0 {
		t := time.NewTimer(grace)
		defer t.Stop()
		select {
		case <-t.C:
			code = 137
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		}
	}
	f.Exit(x.PodUID, x.Name, code)
	return nil
}

// exit ends a container. Callers hold mu.
func (f *Runtime) exit(x *runtime.Container, code int32, reason string) {
	if x.State == runtime.Running {
		x.State, x.ExitCode, x.Reason, x.FinishedAt = runtime.Exited, code, reason, time.Now()
	}
}

// Exit has a running container end by itself.
func (f *Runtime) Exit(uid, name string, code int32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	reason := "Completed"
	if code != 0 {
		reason = "Error"
	}
	for _, x := range f.containers {
		if x.PodUID == uid && x.Name == name {
			f.exit(x, code, reason)
		}
	}
	f.tell(uid)
}

// UpdateResources notes what a container is to have.
func (f *Runtime) UpdateResources(ctx context.Context, id string, r *runtime.ContainerResources) error {
	f.mu.Lock()
	x := f.containers[id]
	f.mu.Unlock()
	if x == nil {
		return notFound(id)
	}
	return f.call(ctx, "UpdateResources", fmt.Sprintf("%s %d %d %d", x.Name, r.CpuShares, r.CpuQuota, r.MemoryLimitInBytes))
}

// RemoveContainer removes it.
func (f *Runtime) RemoveContainer(ctx context.Context, id string) error {
	if err := f.call(ctx, "RemoveContainer", id); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if x := f.containers[id]; x != nil {
		delete(f.containers, id)
		f.tell(x.PodUID, id)
	}
	return nil
}

// Pod reads everything of a pod.
func (f *Runtime) Pod(_ context.Context, uid string) (runtime.Pod, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := runtime.Pod{UID: uid}
	for _, s := range f.sandboxes {
		if s.PodUID == uid {
			p.Name, p.Namespace = s.Name, s.Namespace
			p.Sandboxes = append(p.Sandboxes, *s)
		}
	}
	for _, c := range f.containers {
		if c.PodUID == uid {
			p.Containers = append(p.Containers, *c)
		}
	}
	p.Sort()
	return p, nil
}

// ImageStatus looks an image up by name or ID.
func (f *Runtime) ImageStatus(_ context.Context, ref, _ string) (runtime.Image, bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for name, i := range f.Images {
		if name == ref || i.ID == ref {
			return i, true, nil
		}
	}
	return runtime.Image{}, false, nil
}

// PullImage makes an image present.
func (f *Runtime) PullImage(ctx context.Context, ref, _ string, auth *runtime.Auth, _ *runtime.SandboxConfig) (string, error) {
	user := ""
	if auth != nil {
		user = " as " + auth.Username
	}
	if err := f.call(ctx, "PullImage", ref+user); err != nil {
		return "", err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.Images[ref] = runtime.Image{ID: "sha256:" + ref, RepoTags: []string{ref}, Size: 1000}
	return "sha256:" + ref, nil
}
