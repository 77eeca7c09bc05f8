package runtime

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// CreateContainer makes a container in a sandbox without starting it and returns its ID.
func (c *Client) CreateContainer(ctx context.Context, sandboxID string, config *ContainerConfig, sandbox *SandboxConfig) (string, error) {
	ctx, cancel := limit(ctx)
	defer cancel()
	r, err := c.runtime.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: sandboxID, Config: config, SandboxConfig: sandbox})
	if err != nil {
		return "", fmt.Errorf("create container %s: %w", config.GetMetadata().GetName(), err)
	}
	return r.GetContainerId(), nil
}

// StartContainer starts a created container. Once begun it is not cut off by the end of ctx, only by its own limit: containerd loses track of
// a process whose start is cut off, and whoever no longer wants the container has to wait for the outcome in any case to stop it.
func (c *Client) StartContainer(ctx context.Context, id string) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("start container %s: %w", id, err)
	}
	ctx, cancel := limit(context.WithoutCancel(ctx))
	defer cancel()
	if _, err := c.runtime.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: id}); err != nil {
		return fmt.Errorf("start container %s: %w", id, err)
	}
	return nil
}

// ContainerStatus reads one container. The SandboxID of the answer is empty: the CRI's status does not carry it.
func (c *Client) ContainerStatus(ctx context.Context, id string) (Container, error) {
	ctx, cancel := limit(ctx)
	defer cancel()
	r, err := c.runtime.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		return Container{}, fmt.Errorf("read status of container %s: %w", id, err)
	}
	return containerOfStatus(r.GetStatus(), ""), nil
}

// StopContainer sends the stop signal and, grace later, SIGKILL; it returns when the container has stopped. With no
// grace it kills at once. Stopping what is stopped or not there is no error.
func (c *Client) StopContainer(ctx context.Context, id string, grace time.Duration) error {
	// The runtime counts whole seconds; rounding up never cuts a container's time short.
	seconds := int64((grace + time.Second - 1) / time.Second)
	ctx, cancel := context.WithTimeout(ctx, defaultRequestTimeout+time.Duration(seconds)*time.Second)
	defer cancel()
	if _, err := c.runtime.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: id, Timeout: seconds}); err != nil && !IsNotFound(err) {
		return fmt.Errorf("stop container %s within %d s: %w", id, seconds, err)
	}
	return nil
}

// RemoveContainer removes a container, by force if it runs. Removing what is not there is no error.
func (c *Client) RemoveContainer(ctx context.Context, id string) error {
	ctx, cancel := limit(ctx)
	defer cancel()
	if _, err := c.runtime.RemoveContainer(ctx, &cri.RemoveContainerRequest{ContainerId: id}); err != nil && !IsNotFound(err) {
		return fmt.Errorf("remove container %s: %w", id, err)
	}
	return nil
}

// UpdateResources changes a running container's cgroup limits.
func (c *Client) UpdateResources(ctx context.Context, id string, r *ContainerResources) error {
	ctx, cancel := limit(ctx)
	defer cancel()
	if _, err := c.runtime.UpdateContainerResources(ctx, &cri.UpdateContainerResourcesRequest{ContainerId: id, Linux: r}); err != nil {
		return fmt.Errorf("update resources of container %s: %w", id, err)
	}
	return nil
}

// ErrExecTimeout says that a command run by ExecSync took too long and was killed. It has Timeout() true.
var ErrExecTimeout error = execTimeout{}

type execTimeout struct{}

func (execTimeout) Error() string { return "command timed out" }
func (execTimeout) Timeout() bool { return true }

// ExecSync runs a command in a container and waits for it. A command that ran and failed is no error: see exit.
// With timeout 0 only the context bounds it. Output is cut at 16 MiB by the runtime.
func (c *Client) ExecSync(ctx context.Context, id string, cmd []string, timeout time.Duration) (stdout, stderr []byte, exit int32, err error) {
	if timeout > 0 {
		// The runtime kills the command at the timeout; ours is the net under it.
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout+2*time.Second)
		defer cancel()
	}
	seconds := int64((timeout + time.Second - 1) / time.Second)
	r, err := c.runtime.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: id, Cmd: cmd, Timeout: seconds})
	if err != nil {
		if status.Code(err) == codes.DeadlineExceeded {
			return nil, nil, 0, fmt.Errorf("run %q in container %s: %w after %s", cmd, id, ErrExecTimeout, timeout)
		}
		return nil, nil, 0, fmt.Errorf("run %q in container %s: %w", cmd, id, err)
	}
	return r.GetStdout(), r.GetStderr(), r.GetExitCode(), nil
}

// ReopenLog tells the runtime that a container's log file was moved away, so that it opens a new one.
func (c *Client) ReopenLog(ctx context.Context, id string) error {
	ctx, cancel := limit(ctx)
	defer cancel()
	if _, err := c.runtime.ReopenContainerLog(ctx, &cri.ReopenContainerLogRequest{ContainerId: id}); err != nil {
		return fmt.Errorf("reopen log of container %s: %w", id, err)
	}
	return nil
}

// Streams says which of a process's streams an exec or attach wants.
type Streams struct{ Stdin, Stdout, Stderr, TTY bool }

// Exec returns the URL of the runtime's streaming server at which cmd runs once a client connects.
func (c *Client) Exec(ctx context.Context, id string, cmd []string, s Streams) (string, error) {
	ctx, cancel := limit(ctx)
	defer cancel()
	r, err := c.runtime.Exec(ctx, &cri.ExecRequest{ContainerId: id, Cmd: cmd, Tty: s.TTY, Stdin: s.Stdin, Stdout: s.Stdout, Stderr: s.Stderr})
	if err != nil {
		return "", fmt.Errorf("prepare exec in container %s: %w", id, err)
	}
	return r.GetUrl(), nil
}

// Attach returns the URL at which a client joins the container's own streams.
func (c *Client) Attach(ctx context.Context, id string, s Streams) (string, error) {
	ctx, cancel := limit(ctx)
	defer cancel()
	r, err := c.runtime.Attach(ctx, &cri.AttachRequest{ContainerId: id, Tty: s.TTY, Stdin: s.Stdin, Stdout: s.Stdout, Stderr: s.Stderr})
	if err != nil {
		return "", fmt.Errorf("prepare attach to container %s: %w", id, err)
	}
	return r.GetUrl(), nil
}

// PortForward returns the URL at which a client reaches ports inside a sandbox.
func (c *Client) PortForward(ctx context.Context, sandboxID string, ports []int32) (string, error) {
	ctx, cancel := limit(ctx)
	defer cancel()
	r, err := c.runtime.PortForward(ctx, &cri.PortForwardRequest{PodSandboxId: sandboxID, Port: ports})
	if err != nil {
		return "", fmt.Errorf("prepare port-forward to sandbox %s: %w", sandboxID, err)
	}
	return r.GetUrl(), nil
}
