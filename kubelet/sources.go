package kubelet

import (
	"context"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	apiruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

// watchPods feeds the workers with the pods bound to this node. It is a reflector without a cache behind it: the
// workers hold the only copy.
func (k *kubelet) watchPods(ctx context.Context) {
	api := k.c.Client.Kubernetes
	byNode := fields.OneTermEqualSelector("spec.nodeName", k.c.NodeName).String()
	pods := api.CoreV1().Pods(metav1.NamespaceAll)
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (apiruntime.Object, error) {
			o.FieldSelector = byNode
			return pods.List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = byNode
			return pods.Watch(ctx, o)
		},
	}
	r := cache.NewReflectorWithOptions(cache.ToListWatcherWithWatchListSemantics(lw, api), &v1.Pod{}, k.pods.Store(), cache.ReflectorOptions{Name: "kubelet-pods"})
	r.RunWithContext(ctx)
}

// watchRuntime follows the container runtime. Its name is asked for first: container IDs in status begin with it.
func (k *kubelet) watchRuntime(ctx context.Context) {
	for ctx.Err() == nil {
		name, _, _, err := k.runtime.Version(ctx)
		if err == nil {
			k.runtimeName.Store(&name)
			break
		}
		k.log.Warn("container runtime does not answer yet", "endpoint", k.c.RuntimeEndpoint, "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(250 * time.Millisecond):
		}
	}
	k.runtime.Watch(ctx, k.log, k.pods)
}

func (k *kubelet) nameOfRuntime() string {
	if name := k.runtimeName.Load(); name != nil {
		return *name
	}
	return "containerd"
}

// handler resolves a RuntimeClass. It is read when needed: few pods name one.
func (k *kubelet) handler(ctx context.Context, class string) (string, error) {
	rc, err := k.c.Client.Kubernetes.NodeV1().RuntimeClasses().Get(ctx, class, metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	return rc.Handler, nil
}

// removeLeftovers takes away what a kubelet that was killed left of pods that are gone: their runtime things are the
// orphan workers' affair, these are the directories and cgroups of pods of which the runtime has nothing.
func (k *kubelet) removeLeftovers(ctx context.Context) {
	known := k.pods.Known
	dirs, err := k.volumes.Orphans(known)
	if err != nil {
		k.log.Warn("looking for pods' directories that were left behind failed", "err", err)
	}
	groups, err := k.cgroups.Orphans(known)
	if err != nil {
		k.log.Warn("looking for pods' cgroups that were left behind failed", "err", err)
	}
	for _, uid := range dirs {
		if err := k.volumes.Unmount(ctx, uid); err != nil {
			k.log.Warn("removing a directory that was left behind failed", "podUID", uid, "err", err)
		}
	}
	for _, uid := range groups {
		if err := k.cgroups.Remove(ctx, uid); err != nil {
			k.log.Warn("removing a cgroup that was left behind failed", "podUID", uid, "err", err)
		}
	}
	if err := removeLogs(k.c.LogsDir, func(uid types.UID) bool { return known(uid) }); err != nil {
		k.log.Warn("removing logs that were left behind failed", "err", err)
	}
}
