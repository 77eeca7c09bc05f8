package podworker

import (
	"context"
	"fmt"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"wherry.dev/wherry/kubelet/images"
	"wherry.dev/wherry/kubelet/runtime"
	"wherry.dev/wherry/kubelet/status"
)

// Manager owns the workers. It takes pods from a reflector of the API server (Store) and news from the runtime
// (runtime.Sink), and hands them to the worker concerned; none of its methods blocks on anything but its own mutex.
type Manager struct {
	c   *Config
	ctx context.Context
	wg  sync.WaitGroup

	mu       sync.Mutex
	workers  map[types.UID]*worker      // guarded by mu; an entry stays until the API server says that the pod is gone
	finished map[types.UID]bool         // guarded by mu; entries of workers whose worker has returned
	relisted bool                       // guarded by mu; the runtime's state has been read once
	synced   bool                       // guarded by mu; the API server's pods have been read once
	found    map[types.UID]*runtime.Pod // guarded by mu; what the runtime has without a worker; nil: to be read
	gone     map[types.UID]grave        // guarded by mu; pods whose late events mean nothing
	ready    chan struct{}              // closed when both were read
}

// lateEvents is how long events about a pod that is gone are expected, and maxGone how many such pods are remembered.
const (
	lateEvents = time.Minute
	maxGone    = 4096
)

// New makes a manager. Its workers live until ctx ends; then Wait.
func New(ctx context.Context, c Config) *Manager {
	return &Manager{c: &c, ctx: ctx, workers: map[types.UID]*worker{}, finished: map[types.UID]bool{}, found: map[types.UID]*runtime.Pod{},
		gone: map[types.UID]grave{}, ready: make(chan struct{})}
}

// Wait returns when every worker has returned, after the manager's context has ended.
func (m *Manager) Wait() { m.wg.Wait() }

// Ready is closed when the API server's pods and the runtime's have both been read once: from then on Known tells orphans.
func (m *Manager) Ready() <-chan struct{} { return m.ready }

// Known says whether a worker has the pod in its care.
func (m *Manager) Known(uid types.UID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	w := m.workers[uid]
	return w != nil && !m.finished[uid]
}

// launch starts a worker. Callers hold mu.
func (m *Manager) launch(uid types.UID, prepare func(*worker)) *worker {
	w := newWorker(m.c, uid)
	if m.relisted {
		if p, ok := m.found[uid]; !ok {
			w.rtKnown = true // the runtime has nothing of it
		} else if p == nil {
			w.lookUp = true
		} else {
			w.rt.Name, w.rt.Namespace = p.Name, p.Namespace
			w.merge(runtime.Update{Sandboxes: p.Sandboxes, Containers: p.Containers})
		}
		delete(m.found, uid)
	}
	prepare(w)
	m.workers[uid] = w
	m.wg.Go(func() {
		w.run(m.ctx)
		w.running.update(nil)
		m.mu.Lock()
		defer m.mu.Unlock()
		if w.phase != Gone {
			return
		}
		m.bury(uid, w.dead)
		if w.removed || w.orphan {
			delete(m.workers, uid)
		} else {
			m.finished[uid] = true
		}
	})
	return w
}

// grave is what is known of a pod that is gone.
type grave struct {
	at   time.Time
	dead map[string]bool // IDs of sandboxes and containers that it had; immutable
}

// late says whether an update is about nothing but what the pod had.
func (g grave) late(u *runtime.Update) bool {
	if time.Since(g.at) >= lateEvents {
		return false
	}
	for i := range u.Sandboxes {
		if !g.dead[u.Sandboxes[i].ID] {
			return false
		}
	}
	for i := range u.Containers {
		if !g.dead[u.Containers[i].ID] {
			return false
		}
	}
	return true
}

// bury remembers that what comes about a pod's sandboxes and containers from now on is late. dead is not changed any more. Callers hold mu.
func (m *Manager) bury(uid types.UID, dead map[string]bool) {
	now := time.Now()
	if len(m.gone) >= maxGone {
		for id, g := range m.gone {
			if now.Sub(g.at) > lateEvents || len(m.gone) >= 2*maxGone {
				delete(m.gone, id)
			}
		}
	}
	m.gone[uid] = grave{at: now, dead: dead}
}

// set brings a pod from the API server. Callers hold mu.
func (m *Manager) set(pod *v1.Pod) {
	w := m.workers[pod.UID]
	switch {
	case m.finished[pod.UID]: // the last update of a pod that is done with
	case w != nil:
		w.box.update(pod)
	default:
		m.launch(pod.UID, func(w *worker) { w.box.update(pod) })
	}
}

// drop says that a pod is not in the API any more. Callers hold mu.
func (m *Manager) drop(uid types.UID, last *v1.Pod) {
	if m.finished[uid] {
		delete(m.finished, uid)
		delete(m.workers, uid)
		m.bury(uid, m.gone[uid].dead)
		return
	}
	if w := m.workers[uid]; w != nil && !w.orphan {
		w.box.remove(last)
	}
}

// orphans starts a worker for all that the runtime has without a pod. Callers hold mu.
func (m *Manager) orphans() {
	if !m.relisted || !m.synced {
		return
	}
	for uid := range m.found {
		m.launch(uid, func(w *worker) {
			w.orphan = true
			w.log.Info("the container runtime has a pod that the API server does not know; removing it", "podUID", uid)
		})
	}
	select {
	case <-m.ready:
	default:
		close(m.ready)
	}
}

// RuntimeRelisted implements runtime.Sink.
func (m *Manager) RuntimeRelisted(at time.Time, pods map[string]runtime.Pod) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.relisted = true
	clear(m.found)
	for uid, w := range m.workers {
		if m.finished[uid] {
			continue
		}
		p := pods[string(uid)]
		w.box.post(func() {
			w.merge(runtime.Update{Sandboxes: p.Sandboxes, Containers: p.Containers, Complete: true, At: at})
			// The runtime is back: what failed because it was away need not wait its time out.
			for k := range w.retry {
				if k.Do != statusVerb && k.Do != forgetVerb {
					delete(w.retry, k)
				}
			}
			for name, i := range w.images {
				if i.Waiting != nil && i.Waiting.Reason == images.ErrImageInspect {
					delete(w.images, name)
				}
			}
		})
	}
	for uid, p := range pods {
		id := types.UID(uid)
		if m.workers[id] == nil || m.finished[id] {
			m.found[id] = &p
		}
	}
	for uid := range m.finished {
		if m.found[uid] != nil { // its worker believed all gone; whoever is right, look again
			delete(m.workers, uid)
			delete(m.finished, uid)
		}
	}
	m.orphans()
}

// RuntimeChanged implements runtime.Sink.
func (m *Manager) RuntimeChanged(u runtime.Update) {
	uid := types.UID(u.PodUID)
	m.mu.Lock()
	defer m.mu.Unlock()
	if w := m.workers[uid]; w != nil && !m.finished[uid] {
		w.box.post(func() { w.merge(u) })
		return
	}
	if g, ok := m.gone[uid]; ok && g.late(&u) {
		return
	}
	if len(u.Sandboxes)+len(u.Containers) == 0 {
		return
	}
	// Its worker, if it had one, believed all gone: a start that was under way has brought this after it.
	delete(m.workers, uid)
	delete(m.finished, uid)
	m.found[uid] = nil
	m.orphans()
}

// Evict ends a pod because the node needs the room: it becomes Failed with the reason. A pod that is not known, or
// that is ending already, is left alone. The seam for pressure and graceful node shutdown.
func (m *Manager) Evict(uid types.UID, reason, message string) {
	m.mu.Lock()
	w := m.workers[uid]
	m.mu.Unlock()
	if w == nil {
		return
	}
	w.box.post(func() {
		if w.phase != Syncing || w.pod == nil {
			return
		}
		w.verdict = &status.Verdict{Reason: reason, Message: message}
		w.event("", v1.EventTypeWarning, reason, "%s", message)
		w.phase = w.end(ending{why: endEvicted})
	})
}

// Retry has a pod's volumes tried again at once, because what they missed may be there now.
func (m *Manager) Retry(uid types.UID) {
	m.mu.Lock()
	w := m.workers[uid]
	m.mu.Unlock()
	if w == nil {
		return
	}
	w.box.post(func() {
		for k := range w.retry {
			if k.Do == MountVolumes || k.Do == Create {
				delete(w.retry, k)
			}
		}
	})
}

// RetrySandboxes has sandboxes that could not be made tried again at once: the network has become ready.
func (m *Manager) RetrySandboxes() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, w := range m.workers {
		w.box.post(func() { delete(w.retry, Key{RunSandbox, ""}) })
	}
}

// Ended returns a channel that is closed when a container has ended; closed already if none of that ID runs.
func (m *Manager) Ended(id string) <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, w := range m.workers {
		if c := w.running.channel(id); c != nil {
			return c
		}
	}
	over := make(chan struct{})
	close(over)
	return over
}

// Snapshots lists the pods of the node as their workers see them.
func (m *Manager) Snapshots() []*Snapshot {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := make([]*Snapshot, 0, len(m.workers))
	for uid, w := range m.workers {
		if s := w.view.Load(); s != nil && !m.finished[uid] {
			all = append(all, s)
		}
	}
	return all
}

// Snapshot finds one pod; nil if there is none.
func (m *Manager) Snapshot(namespace, name string, uid types.UID) *Snapshot {
	var found *Snapshot
	for _, s := range m.Snapshots() {
		if s.Pod == nil || s.Pod.Namespace != namespace || s.Pod.Name != name || uid != "" && s.Pod.UID != uid {
			continue
		}
		// While a pod is being replaced by one of its name, the newer one is meant.
		if found == nil || found.Pod.CreationTimestamp.Before(&s.Pod.CreationTimestamp) {
			found = s
		}
	}
	return found
}

// Store takes the API server's pods from a reflector.
type Store struct{ m *Manager }

// Store returns the manager's side of a reflector.
func (m *Manager) Store() *Store { return &Store{m} }

// Add brings a new pod.
func (s *Store) Add(obj any) error { return s.Update(obj) }

// Update brings a newer version of a pod.
func (s *Store) Update(obj any) error {
	pod, ok := obj.(*v1.Pod)
	if !ok {
		return fmt.Errorf("expected a pod, got %T", obj)
	}
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	s.m.set(pod)
	return nil
}

// Delete says that a pod is gone.
func (s *Store) Delete(obj any) error {
	pod, ok := obj.(*v1.Pod)
	if !ok {
		return fmt.Errorf("expected a pod, got %T", obj)
	}
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	s.m.drop(pod.UID, pod)
	return nil
}

// Replace brings all pods; those not among them are gone.
func (s *Store) Replace(list []any, _ string) error {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	listed := make(map[types.UID]bool, len(list))
	for _, obj := range list {
		pod, ok := obj.(*v1.Pod)
		if !ok {
			return fmt.Errorf("expected a pod, got %T", obj)
		}
		listed[pod.UID] = true
		s.m.set(pod)
	}
	for uid := range s.m.workers {
		if !listed[uid] {
			s.m.drop(uid, nil)
		}
	}
	s.m.synced = true
	s.m.orphans()
	return nil
}

// Resync does nothing: workers miss nothing.
func (s *Store) Resync() error { return nil }
