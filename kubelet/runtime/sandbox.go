package runtime

import (
	"context"
	"fmt"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// RunSandbox makes and starts a sandbox, its network included, and returns its ID. On error the runtime has undone its part, unless the
// call was cut off: then it is still at it, and may even go on. So the end of ctx cuts it off only after sandboxPatience.
func (c *Client) RunSandbox(ctx context.Context, config *SandboxConfig, handler string) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", fmt.Errorf("run sandbox of pod %s/%s: %w", config.GetMetadata().GetNamespace(), config.GetMetadata().GetName(), err)
	}
	asked := ctx
	// Twice the usual limit: CNI plugins may be slow on a busy node, and giving up leaves the runtime to clean up.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*defaultRequestTimeout)
	defer cancel()
	stop := context.AfterFunc(asked, func() {
		select {
		case <-ctx.Done():
		case <-time.After(sandboxPatience):
			cancel()
		}
	})
	defer stop()
	r, err := c.runtime.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: config, RuntimeHandler: handler})
	if err != nil {
		return "", fmt.Errorf("run sandbox of pod %s/%s: %w", config.GetMetadata().GetNamespace(), config.GetMetadata().GetName(), err)
	}
	return r.GetPodSandboxId(), nil
}

// SandboxStatus reads one sandbox, its addresses included.
func (c *Client) SandboxStatus(ctx context.Context, id string) (Sandbox, error) {
	ctx, cancel := limit(ctx)
	defer cancel()
	r, err := c.runtime.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: id})
	if err != nil {
		return Sandbox{}, fmt.Errorf("read status of sandbox %s: %w", id, err)
	}
	return sandboxOfStatus(r.GetStatus()), nil
}

// StopSandbox kills what runs in the sandbox and takes its network down. Stopping what is stopped or not there is no error.
func (c *Client) StopSandbox(ctx context.Context, id string) error {
	ctx, cancel := limit(ctx)
	defer cancel()
	if _, err := c.runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: id}); err != nil && !IsNotFound(err) {
		return fmt.Errorf("stop sandbox %s: %w", id, err)
	}
	return nil
}

// RemoveSandbox removes a sandbox and every container in it. Removing what is not there is no error.
func (c *Client) RemoveSandbox(ctx context.Context, id string) error {
	ctx, cancel := limit(ctx)
	defer cancel()
	if _, err := c.runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: id}); err != nil && !IsNotFound(err) {
		return fmt.Errorf("remove sandbox %s: %w", id, err)
	}
	return nil
}
