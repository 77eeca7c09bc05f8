package daemon

import (
	"context"
	"fmt"
	"time"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/containerd/v2/plugins/services"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"
	"google.golang.org/grpc"
)

// taskTimeout bounds a task's creation or start that nobody waits for any more; while somebody waits, it is the same bound as the
// kubelet's longest.
const taskTimeout = 4 * time.Minute

// outlasting is containerd's task service, whose creations and starts are not broken off when the caller leaves.
//
// A gRPC call's context ends with its connection, so a kubelet that is killed cuts off the calls it has under way. containerd 2.4 undoes a
// CRI call that fails, but not all of a task's creation: cut off after the shim was started and before it answered, it forgets the shim and what the shim
// runs; cut off after the shim answered and before the task's pid was read, it keeps a task that CRI believes it does not have. CRI
// then neither stops that container (it "is not running") nor removes it ("cannot delete running task"), for ever. And a
// container that was cut off while it started counts as failed: a pod that must not be restarted would fail because its kubelet was.
type outlasting struct{ tasks.TasksClient }

// Create makes a task, whether or not ctx ends meanwhile.
func (o outlasting) Create(ctx context.Context, r *tasks.CreateTaskRequest, opts ...grpc.CallOption) (*tasks.CreateTaskResponse, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), taskTimeout)
	defer cancel()
	return o.TasksClient.Create(ctx, r, opts...)
}

// Start starts a task's first process, whether or not ctx ends meanwhile. An additional process (exec) is its caller's and ends with it.
func (o outlasting) Start(ctx context.Context, r *tasks.StartRequest, opts ...grpc.CallOption) (*tasks.StartResponse, error) {
	if r.GetExecID() == "" {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), taskTimeout)
		defer cancel()
	}
	return o.TasksClient.Start(ctx, r, opts...)
}

// outlast puts outlasting before the task service that everything else in containerd gets. Call it once, before containerd starts: the
// registry of plugins is the process's own.
func outlast() error {
	all := registry.Graph(func(*plugin.Registration) bool { return false })
	registry.Reset()
	found := false
	for i := range all {
		r := &all[i]
		if r.Type == plugins.ServicePlugin && r.ID == services.TasksService {
			found = true
			inner := r.InitFn
			r.InitFn = func(ic *plugin.InitContext) (any, error) {
				service, err := inner(ic)
				if err != nil {
					return nil, err
				}
				client, ok := service.(tasks.TasksClient)
				if !ok {
					return nil, fmt.Errorf("containerd's task service is a %T, which is no task service", service)
				}
				return outlasting{client}, nil
			}
		}
		registry.Register(r)
	}
	if !found {
		return fmt.Errorf("containerd has no plugin %s.%s", plugins.ServicePlugin, services.TasksService)
	}
	return nil
}
