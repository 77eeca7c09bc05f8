package runtime

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Sink takes what a Watch learns. Both methods are called from one goroutine and must not block.
type Sink interface {
	// RuntimeRelisted gives the whole truth as of at: on the first connection and on each one after.
	// Pods not in the map have nothing in the runtime that is older than at. The receiver owns the map.
	RuntimeRelisted(at time.Time, pods map[string]Pod)
	// RuntimeChanged gives news of one pod.
	RuntimeChanged(Update)
}

// Watch follows the runtime's events until ctx ends. A runtime that goes away is waited for; when it is back the
// whole state is listed anew. Every 90 s the states are listed as a safety net and compared (two calls); a runtime
// without an event stream is listed every second instead.
func (c *Client) Watch(ctx context.Context, log *slog.Logger, sink Sink) {
	w := watch{client: c, log: log, sink: sink, known: map[string]known{}}
	pause := reconnectFirst
	for ctx.Err() == nil {
		began := time.Now()
		err := w.session(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > 10*reconnectLimit {
			pause = reconnectFirst
		}
		log.Warn("container runtime's event stream ended, connecting again", "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, reconnectLimit)
	}
}

// known is what the safety net compares a list against.
type known struct {
	uid     string
	state   State
	sandbox bool
}

// watch is one Watch's state; only its session goroutine touches it.
type watch struct {
	client *Client
	log    *slog.Logger
	sink   Sink
	known  map[string]known // by container or sandbox ID
}

// session is one connection: subscribe, list, then events until the stream breaks.
func (w *watch) session(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	queue := newQueue()
	var drained sync.WaitGroup
	defer drained.Wait()
	defer cancel()

	// WaitForReady makes a runtime that is away an event, not a poll.
	stream, err := w.client.runtime.GetContainerEvents(ctx, &cri.GetEventsRequest{}, grpc.WaitForReady(true))
	if err != nil {
		return err
	}
	drained.Go(func() { queue.drain(stream) })

	at := time.Now()
	if err := w.relist(ctx, at); err != nil {
		return err
	}
	every := safetyRelist
	var polling bool
	net := time.NewTimer(every)
	defer net.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-queue.ready:
			events, err := queue.take()
			for _, e := range events {
				// The stream opens with a replay of the last minutes, which the list has overtaken.
				if e.GetCreatedAt() >= at.UnixNano() {
					w.event(ctx, e)
				}
			}
			switch {
			case err == nil:
			case status.Code(err) == codes.Unimplemented:
				if !polling {
					w.log.Info("container runtime has no event stream, listing every second instead")
					polling, every = true, fallbackRelist
					net.Reset(every)
				}
			default:
				return err
			}
		case <-net.C:
			if err := w.compare(ctx); err != nil {
				return err
			}
			net.Reset(every)
		}
	}
}

// relist reads everything in detail. What the runtime forgets while it is being read is skipped.
func (w *watch) relist(ctx context.Context, at time.Time) error {
	listed, err := w.client.Pods(ctx, "")
	if err != nil {
		return err
	}
	pods := make(map[string]Pod, len(listed))
	clear(w.known)
	for uid, p := range listed {
		if err := w.client.fill(ctx, p); err != nil {
			return err
		}
		pods[uid] = *p
		w.learn(uid, p.Sandboxes, p.Containers)
	}
	w.sink.RuntimeRelisted(at, pods)
	return nil
}

func (w *watch) learn(uid string, sandboxes []Sandbox, containers []Container) {
	for i := range sandboxes {
		w.known[sandboxes[i].ID] = known{uid, sandboxState(sandboxes[i].Ready), true}
	}
	for i := range containers {
		if old, ok := w.known[containers[i].ID]; ok && old.state > containers[i].State {
			continue
		}
		w.known[containers[i].ID] = known{uid, containers[i].State, false}
	}
}

func sandboxState(ready bool) State {
	if ready {
		return Running
	}
	return Exited
}

// compare is the safety net: pods whose list of states differs from what events told are read again.
func (w *watch) compare(ctx context.Context) error {
	at := time.Now()
	listed, err := w.client.Pods(ctx, "")
	if err != nil {
		return err
	}
	changed := map[string]bool{}
	seen := make(map[string]bool, len(w.known))
	see := func(id, uid string, s State) {
		seen[id] = true
		if old, ok := w.known[id]; !ok || old.state != s {
			changed[uid] = true
		}
	}
	for uid, p := range listed {
		for i := range p.Sandboxes {
			see(p.Sandboxes[i].ID, uid, sandboxState(p.Sandboxes[i].Ready))
		}
		for i := range p.Containers {
			see(p.Containers[i].ID, uid, p.Containers[i].State)
		}
	}
	for id, k := range w.known {
		if !seen[id] {
			changed[k.uid] = true
			delete(w.known, id)
		}
	}
	for uid := range changed {
		p := listed[uid]
		if p == nil {
			p = &Pod{UID: uid}
		}
		if err := w.client.fill(ctx, p); err != nil {
			return err
		}
		w.learn(uid, p.Sandboxes, p.Containers)
		w.sink.RuntimeChanged(Update{PodUID: uid, Name: p.Name, Namespace: p.Namespace, Sandboxes: p.Sandboxes, Containers: p.Containers, Complete: true, At: at})
	}
	return nil
}

// event hands one event on. Containerd's events carry the sandbox and all its containers; for a runtime whose
// events are bare the pod is read.
func (w *watch) event(ctx context.Context, e *cri.ContainerEventResponse) {
	at := nanos(e.GetCreatedAt())
	s := e.GetPodSandboxStatus()
	id := e.GetContainerId()
	removed := e.GetContainerEventType() == cri.ContainerEventType_CONTAINER_DELETED_EVENT
	if s == nil {
		k, ok := w.known[id]
		switch {
		case removed && ok:
			delete(w.known, id)
			w.sink.RuntimeChanged(Update{PodUID: k.uid, Removed: []string{id}, At: at})
		case !removed && ok:
			w.reread(ctx, k.uid)
		case !removed:
			// Nothing tells whose it is: the next comparison finds out, so make it now.
			if err := w.compare(ctx); err != nil && !errors.Is(err, context.Canceled) {
				w.log.Warn("reading the container runtime after a bare event failed", "err", err)
			}
		}
		return
	}
	if s.GetLabels()[LabelPodUID] == "" {
		return
	}
	if len(e.GetContainersStatuses()) == 0 && id != s.GetId() && !removed {
		w.reread(ctx, s.GetMetadata().GetUid())
		return
	}
	u := Update{PodUID: s.GetMetadata().GetUid(), Name: s.GetMetadata().GetName(), Namespace: s.GetMetadata().GetNamespace(), At: at}
	if removed {
		u.Removed = []string{id}
	}
	if !removed || id != s.GetId() {
		u.Sandboxes = []Sandbox{sandboxOfStatus(s)}
	}
	for _, x := range e.GetContainersStatuses() {
		if !removed || x.GetId() != id {
			u.Containers = append(u.Containers, containerOfStatus(x, s.GetId()))
		}
	}
	w.learn(u.PodUID, u.Sandboxes, u.Containers)
	if removed {
		delete(w.known, id)
	}
	w.sink.RuntimeChanged(u)
}

func (w *watch) reread(ctx context.Context, uid string) {
	at := time.Now()
	p, err := w.client.Pod(ctx, uid)
	if err != nil {
		if ctx.Err() == nil {
			w.log.Warn("reading a pod from the container runtime failed", "podUID", uid, "err", err)
		}
		return
	}
	w.learn(uid, p.Sandboxes, p.Containers)
	w.sink.RuntimeChanged(Update{PodUID: uid, Name: p.Name, Namespace: p.Namespace, Sandboxes: p.Sandboxes, Containers: p.Containers, Complete: true, At: at})
}

// queue takes events from the stream as fast as they come: a stream that nobody drains blocks the runtime's own pod
// operations. It is the one unbounded queue here, on purpose; its reader does no I/O on the usual path.
type queue struct {
	mu     sync.Mutex
	events []*cri.ContainerEventResponse // guarded by mu
	err    error                         // guarded by mu; set when the stream has ended
	ready  chan struct{}                 // capacity 1
}

func newQueue() *queue { return &queue{ready: make(chan struct{}, 1)} }

func (q *queue) drain(stream grpc.ServerStreamingClient[cri.ContainerEventResponse]) {
	for {
		e, err := stream.Recv()
		q.mu.Lock()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			q.err = err
		} else {
			q.events = append(q.events, e)
		}
		q.mu.Unlock()
		select {
		case q.ready <- struct{}{}:
		default:
		}
		if err != nil {
			return
		}
	}
}

// take empties the queue. Once the stream has ended it also returns why, each time.
func (q *queue) take() ([]*cri.ContainerEventResponse, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	events := q.events
	q.events = nil
	return events, q.err
}
