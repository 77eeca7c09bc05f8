package kubelet

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"wherry.dev/wherry/kubelet/podworker"
	"wherry.dev/wherry/kubelet/runtime"
	"wherry.dev/wherry/kubelet/server"
)

// backend answers the kubelet's server from what the workers know.
type backend struct{ k *kubelet }

var _ server.Backend = (*backend)(nil)

// podOf is a pod with the status this kubelet sees, which may be newer than the API server's.
func podOf(s *podworker.Snapshot) *v1.Pod {
	if s.Status == nil {
		return s.Pod
	}
	p := *s.Pod
	p.Status = *s.Status
	return &p
}

// Pods implements server.Backend.
func (b *backend) Pods() []*v1.Pod {
	var all []*v1.Pod
	for _, s := range b.k.pods.Snapshots() {
		if s.Pod != nil {
			all = append(all, podOf(s))
		}
	}
	return all
}

// Pod implements server.Backend.
func (b *backend) Pod(namespace, name string, uid types.UID) *v1.Pod {
	s := b.k.pods.Snapshot(namespace, name, uid)
	if s == nil {
		return nil
	}
	return podOf(s)
}

// Instances implements server.Backend.
func (b *backend) Instances() []server.Instance {
	var all []server.Instance
	for _, s := range b.k.pods.Snapshots() {
		if s.Pod == nil {
			continue
		}
		for i := range s.Sandboxes {
			x := &s.Sandboxes[i]
			all = append(all, server.Instance{PodUID: s.Pod.UID, Namespace: s.Pod.Namespace, Pod: s.Pod.Name, ID: x.ID, Started: x.CreatedAt, Running: x.Ready})
		}
		for i := range s.Runtime {
			x := &s.Runtime[i]
			all = append(all, server.Instance{PodUID: s.Pod.UID, Namespace: s.Pod.Namespace, Pod: s.Pod.Name, Name: x.Name, ID: x.ID, Image: x.Image,
				Started: x.StartedAt, Running: x.State == runtime.Running})
		}
	}
	return all
}

// LogPath implements server.Backend.
func (b *backend) LogPath(ctx context.Context, id string) (string, error) {
	for _, s := range b.k.pods.Snapshots() {
		for i := range s.Runtime {
			if x := &s.Runtime[i]; x.ID == id && x.LogPath != "" {
				return x.LogPath, nil
			}
		}
	}
	x, err := b.k.runtime.ContainerStatus(ctx, id)
	if err != nil {
		return "", err
	}
	if x.LogPath == "" {
		return "", fmt.Errorf("container %s has no log file", id)
	}
	return x.LogPath, nil
}

// Ended implements server.Backend.
func (b *backend) Ended(_ context.Context, id string) <-chan struct{} { return b.k.pods.Ended(id) }

// Running implements server.Backend.
func (b *backend) Running(pod types.UID, container string) (string, bool) {
	for _, s := range b.k.pods.Snapshots() {
		if s.Pod == nil || s.Pod.UID != pod {
			continue
		}
		for i := range s.Runtime {
			if x := &s.Runtime[i]; x.Name == container && x.State == runtime.Running {
				return x.ID, true
			}
		}
	}
	return "", false
}

// Sandbox implements server.Backend.
func (b *backend) Sandbox(pod types.UID) (string, bool) {
	for _, s := range b.k.pods.Snapshots() {
		if s.Pod != nil && s.Pod.UID == pod && len(s.Sandboxes) > 0 && s.Sandboxes[0].Ready {
			return s.Sandboxes[0].ID, true
		}
	}
	return "", false
}

// Exec implements server.Backend.
func (b *backend) Exec(ctx context.Context, id string, cmd []string, s server.Streams) (string, error) {
	return b.k.runtime.Exec(ctx, id, cmd, runtime.Streams(s))
}

// Attach implements server.Backend.
func (b *backend) Attach(ctx context.Context, id string, s server.Streams) (string, error) {
	return b.k.runtime.Attach(ctx, id, runtime.Streams(s))
}

// PortForward implements server.Backend.
func (b *backend) PortForward(ctx context.Context, sandbox string, ports []int32) (string, error) {
	return b.k.runtime.PortForward(ctx, sandbox, ports)
}

// ExecSync implements server.Backend.
func (b *backend) ExecSync(ctx context.Context, id string, cmd []string, timeout time.Duration) ([]byte, []byte, int32, error) {
	return b.k.runtime.ExecSync(ctx, id, cmd, timeout)
}

// sortImages puts the largest first: those are the ones a scheduler cares to find on a node.
func sortImages(all []runtime.Image) {
	slices.SortFunc(all, func(a, b runtime.Image) int { return cmp.Or(cmp.Compare(b.Size, a.Size), cmp.Compare(a.ID, b.ID)) })
}
