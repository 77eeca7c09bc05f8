// Package podworker carries each pod of this node from admission to its end (stages C7 to C12, D3 to D6). Every pod has
// a worker of its own: one goroutine with a mailbox that looks at what is wanted and at what the runtime has, decides
// (Decide, pure) and begins steps, each in a goroutine of its own whose outcome comes back by the mailbox. Nothing that
// one pod waits for is waited for by another.
package podworker

import (
	"context"
	"log/slog"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"wherry.dev/wherry/kubelet/admit"
	"wherry.dev/wherry/kubelet/containers"
	"wherry.dev/wherry/kubelet/hooks"
	"wherry.dev/wherry/kubelet/images"
	"wherry.dev/wherry/kubelet/probes"
	"wherry.dev/wherry/kubelet/runtime"
	"wherry.dev/wherry/trace"
)

// Runtime is what workers need of the container runtime; kubelet/runtime's client is one.
type Runtime interface {
	RunSandbox(ctx context.Context, config *runtime.SandboxConfig, handler string) (string, error)
	SandboxStatus(ctx context.Context, id string) (runtime.Sandbox, error)
	StopSandbox(ctx context.Context, id string) error
	RemoveSandbox(ctx context.Context, id string) error
	CreateContainer(ctx context.Context, sandboxID string, config *runtime.ContainerConfig, sandbox *runtime.SandboxConfig) (string, error)
	StartContainer(ctx context.Context, id string) error
	ContainerStatus(ctx context.Context, id string) (runtime.Container, error)
	StopContainer(ctx context.Context, id string, grace time.Duration) error
	RemoveContainer(ctx context.Context, id string) error
	UpdateResources(ctx context.Context, id string, r *runtime.ContainerResources) error
	Pod(ctx context.Context, uid string) (runtime.Pod, error)
}

// Volumes is what workers need of the volume manager.
type Volumes interface {
	// Mount makes all of the pod's volumes, or says what is missing: each error is one FailedMount event's text.
	Mount(ctx context.Context, pod *v1.Pod) []error
	// ContainerMounts resolves a container's mounts, subPath included.
	ContainerMounts(ctx context.Context, pod *v1.Pod, c *v1.Container, env func(string) (string, bool)) ([]*runtime.Mount, error)
	// Update tells of a newer version of the pod.
	Update(pod *v1.Pod)
	// Unmount removes the pod's volumes and its directory. What is not there is no error.
	Unmount(ctx context.Context, uid types.UID) error
	// PodDir is the pod's directory on this node, in which workers keep the files they manage.
	PodDir(uid types.UID) string
}

// Cgroups is what workers need of the cgroup manager.
type Cgroups interface {
	// Ensure makes the pod's cgroup, or brings its limits up to the pod's, and returns the cgroup parent the runtime is to use.
	Ensure(ctx context.Context, pod *v1.Pod) (string, error)
	// Remove removes the pod's cgroups from every hierarchy. What is not there is no error.
	Remove(ctx context.Context, uid types.UID) error
}

// Services says which Services there are; a lister's answer, never written.
type Services interface {
	// InNamespace lists a namespace's Services.
	InNamespace(namespace string) ([]*v1.Service, error)
}

// Events takes an event about an object; a client-go EventRecorder is one. It must not block.
type Events interface {
	Eventf(object *v1.ObjectReference, eventType, reason, format string, args ...any)
}

// Config is what all workers share. Immutable.
type Config struct {
	NodeName string
	// API reads nothing but writes pods: status patches and the last delete.
	API kubernetes.Interface
	// Node is the node as the API server knows it; nil while unknown.
	Node func() *v1.Node
	// HostIPs are the node's addresses, the primary first.
	HostIPs func() []string

	Runtime Runtime
	// RuntimeName stands before container IDs, as in containerd://ID.
	RuntimeName func() string
	// Handler resolves a pod's RuntimeClass to the runtime's handler; "" is the default.
	Handler func(ctx context.Context, runtimeClass string) (string, error)
	Images  *images.Manager
	Volumes Volumes
	Cgroups Cgroups
	Ledger  *admit.Ledger
	Prober  *probes.Prober
	Hooks   *hooks.Runner
	Objects containers.Objects
	// Services must be synced before the first pod is admitted.
	Services Services
	Events   Events
	Trace    trace.Recorder
	Log      *slog.Logger

	// LogsDir holds a directory of logs for each pod, such as /var/log/pods.
	LogsDir string
	// HostsFile is what host-network pods see as /etc/hosts.
	HostsFile string
	DNS       containers.DNS
	Facts     containers.NodeFacts
	Security  containers.SecurityDefaults
	// DrainTimeout bounds the wait for D3; 0 switches it off.
	DrainTimeout time.Duration
}
