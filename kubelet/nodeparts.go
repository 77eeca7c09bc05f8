package kubelet

import "context"

// NodeConfig says how the node presents itself.
type NodeConfig struct{}

// startNode starts what surrounds the pods: the cgroup root.
func (k *kubelet) startNode(_ context.Context, _ func(string, func(context.Context) error)) error {
	return k.cgroups.Start(nil)
}
