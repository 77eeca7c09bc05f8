package kubelet

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	typedv1 "k8s.io/client-go/kubernetes/typed/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/record"

	"wherry.dev/wherry/kubelet/podworker"
	"wherry.dev/wherry/kubelet/probes"
	"wherry.dev/wherry/kubelet/runtime"
	"wherry.dev/wherry/kubelet/volumes"
)

// volumeAdapter lets workers use the volume manager in the runtime's terms.
type volumeAdapter struct {
	*volumes.Manager
	recursiveRO *atomic.Bool
}

// Mount implements podworker.Volumes.
func (a volumeAdapter) Mount(ctx context.Context, pod *v1.Pod) []error {
	_, err := a.Manager.Mount(ctx, pod)
	if err == nil {
		return nil
	}
	failures := volumes.Failures(err)
	if len(failures) == 0 {
		return []error{err}
	}
	all := make([]error, len(failures))
	for i, f := range failures {
		all[i] = f
	}
	return all
}

// ContainerMounts implements podworker.Volumes.
func (a volumeAdapter) ContainerMounts(ctx context.Context, pod *v1.Pod, c *v1.Container, env func(string) (string, bool)) ([]*runtime.Mount, error) {
	list, err := a.Manager.ContainerMounts(ctx, volumes.ContainerRequest{
		Pod: pod, Name: c.Name, VolumeMounts: c.VolumeMounts, VolumeDevices: c.VolumeDevices, Env: env, RecursiveReadOnly: a.recursiveRO.Load(),
	})
	if err != nil {
		return nil, err
	}
	out := make([]*runtime.Mount, len(list))
	for i, m := range list {
		x := &runtime.Mount{ContainerPath: m.ContainerPath, HostPath: m.HostPath, Readonly: m.ReadOnly, RecursiveReadOnly: m.RecursiveReadOnly}
		switch m.Propagation {
		case v1.MountPropagationHostToContainer:
			x.Propagation = runtime.PropagationHostToContainer
		case v1.MountPropagationBidirectional:
			x.Propagation = runtime.PropagationBidirectional
		default:
			x.Propagation = runtime.PropagationPrivate
		}
		if m.Image != "" {
			x.Image, x.ImageSubPath = &runtime.ImageSpec{Image: m.Image}, m.ImageSubPath
		}
		out[i] = x
	}
	return out, nil
}

// serviceAdapter lists Services from the shared informer.
type serviceAdapter struct{ corelisters.ServiceLister }

// InNamespace implements podworker.Services.
func (a serviceAdapter) InNamespace(namespace string) ([]*v1.Service, error) {
	return a.Services(namespace).List(labels.Everything())
}

// events sends events to the API server, joined and limited as upstream's kubelet does.
type events struct {
	recorder    record.EventRecorder
	broadcaster record.EventBroadcaster
}

var _ podworker.Events = (*events)(nil)

func newEvents(c *Config) *events {
	b := record.NewBroadcaster()
	b.StartRecordingToSink(&typedv1.EventSinkImpl{Interface: c.Client.Kubernetes.CoreV1().Events("")})
	return &events{b.NewRecorder(scheme.Scheme, v1.EventSource{Component: "kubelet", Host: c.NodeName}), b}
}

// Eventf implements podworker.Events. It never blocks: what does not fit the queue is dropped.
func (e *events) Eventf(object *v1.ObjectReference, eventType, reason, format string, args ...any) {
	e.recorder.Eventf(object, eventType, reason, format, args...)
}

func (e *events) stop() { e.broadcaster.Shutdown() }

// probe reports a failed run of a probe.
func (e *events) probe(t probes.Target, reason, message string) {
	e.recorder.Event(podworker.Reference(t.Pod, t.Container.Name), v1.EventTypeWarning, reason, message)
}

// memoryCapacity is the node's memory in bytes; 0 if it cannot be told.
func memoryCapacity() int64 {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return 0
	}
	return int64(info.Totalram) * int64(info.Unit)
}

// removeLogs removes the log directories (NAMESPACE_NAME_UID) of pods that are not known.
func removeLogs(dir string, known func(types.UID) bool) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("list %s: %w", dir, err)
	}
	for _, e := range entries {
		parts := strings.Split(e.Name(), "_")
		if len(parts) != 3 || !e.IsDir() || known(types.UID(parts[2])) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("remove logs that were left behind: %w", err)
		}
	}
	return nil
}
