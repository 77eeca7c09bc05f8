// Package volumes makes the volumes of this node's pods (stage C8, volumes) and takes them away again: those whose
// content comes from the API (configMap, secret, projected, downwardAPI), kept current while the pod lives, those the
// node has itself (emptyDir, hostPath), and, through Plugin, those of storage drivers. Directories are laid out as
// upstream's kubelet does, so that tools find them. Nothing is ever deleted through a mount point.
package volumes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"

	"wherry.dev/wherry/client"
	"wherry.dev/wherry/kubelet/volumes/objects"
)

// Config says where volumes live and what they are made from.
type Config struct {
	// Root is the kubelet's directory, such as /var/lib/kubelet: absolute, without symbolic links. Pods' directories are
	// Root/pods/UID. Containers see live mounts only if Root lies on a shared mount.
	Root string
	// Client reads ConfigMaps and Secrets and asks for tokens, as the node.
	Client *client.Set
	// Allocatable is what the node offers pods: it bounds memory volumes without a limit and answers resourceFieldRef. May be nil.
	Allocatable func() corev1.ResourceList
	// Wake is called when something that a failed Mount missed may be there now, so that it is tried again at once. It
	// must not block. May be nil.
	Wake func(pod types.UID)
	// Failed is called when a mounted volume cannot be brought up to date; its old content stays. May be nil.
	Failed func(pod *corev1.Pod, err error)
	// Plugins are asked before the built-in ones.
	Plugins []Plugin
	Log     *slog.Logger
}

// Manager makes and unmakes volumes. Pods are independent of each other; calls for one pod wait for one another. Safe for concurrent use.
type Manager struct {
	c       Config
	log     *slog.Logger
	plugins []Plugin
	objects *objects.Cache
	queue   workqueue.TypedRateLimitingInterface[types.UID]

	mu   sync.Mutex // guards pods
	pods map[types.UID]*podVolumes
}

// podVolumes is what is mounted for one pod.
type podVolumes struct {
	newest atomic.Pointer[corev1.Pod] // the pod as last told; nil before Mount

	mu      sync.Mutex // held while the pod's volumes are made, refreshed or removed; guards the rest
	volumes map[string]Result
	failed  bool // the last Mount failed
	gone    bool // Unmount has begun
}

// New returns a Manager. Run must be called for volumes to stay current; Mount works before it.
func New(c Config) (*Manager, error) {
	if !filepath.IsAbs(c.Root) {
		return nil, fmt.Errorf("volumes: root %q is not an absolute path", c.Root)
	}
	m := &Manager{c: c, log: c.Log, pods: map[types.UID]*podVolumes{},
		queue: workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[types.UID](time.Second, 2*time.Minute))}
	if m.log == nil {
		m.log = slog.Default()
	}
	if m.c.Allocatable == nil {
		m.c.Allocatable = func() corev1.ResourceList { return nil }
	}
	m.objects = objects.New(c.Client.Kubernetes, m.log, m.changed)
	tokens := newTokens(c.Client.Kubernetes)
	tree := contentTree{objects: m.objects, tokens: tokens, certificates: newPodCertificates(c.Client.Kubernetes), allocatable: m.c.Allocatable, api: c.Client.Kubernetes}
	m.plugins = append(append(m.plugins, c.Plugins...),
		&projected{tree}, &configMap{tree}, &secret{tree}, &downwardAPI{tree},
		&emptyDir{allocatable: m.c.Allocatable, mount: mountFilesystem}, hostPath{}, image{})
	if err := os.MkdirAll(m.podsDir(), 0o750); err != nil {
		return nil, fmt.Errorf("make pods directory: %w", err)
	}
	return m, nil
}

// Objects is the cache of referenced ConfigMaps and Secrets, for environment variables and pull secrets. Unmount of a
// pod releases what was read for it.
func (m *Manager) Objects() *objects.Cache { return m.objects }

// Run keeps mounted volumes current until ctx ends, and returns when nothing of the manager runs any more. Volumes stay mounted.
func (m *Manager) Run(ctx context.Context) error {
	const workers = 2
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for {
				uid, stop := m.queue.Get()
				if stop {
					return
				}
				m.refresh(ctx, uid)
				m.queue.Done(uid)
			}
		})
	}
	<-ctx.Done()
	m.queue.ShutDown()
	m.objects.Close()
	wg.Wait()
	return nil
}

// PodDir is the pod's directory on this node. Its owner is the manager, others may keep the pod's files there (such
// as containers/ and etc-hosts); Unmount removes all of it.
func (m *Manager) PodDir(pod types.UID) string { return filepath.Join(m.podsDir(), string(pod)) }

func (m *Manager) podsDir() string { return filepath.Join(m.c.Root, "pods") }

func (m *Manager) volumesDir(pod types.UID) string { return filepath.Join(m.PodDir(pod), "volumes") }

// Failure is one volume that could not be made. Its text is the message of upstream's FailedMount event.
type Failure struct {
	Volume string
	Err    error
}

func (f *Failure) Error() string {
	return fmt.Sprintf("MountVolume.SetUp failed for volume %q : %v", f.Volume, f.Err)
}

func (f *Failure) Unwrap() error { return f.Err }

// Failures lists the volumes that an error of Mount is about, for one event each.
func Failures(err error) []*Failure {
	var list []*Failure
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			list = append(list, Failures(e)...)
		}
		return list
	}
	var f *Failure
	if errors.As(err, &f) {
		list = append(list, f)
	}
	return list
}

// Mount makes all volumes of the pod and returns them by name; made ones are brought up to date. On error (see
// Failures) the volumes that could be made are there; call it again after a back-off or when Wake says so. It is also how a
// restarted kubelet takes over the volumes of a running pod.
func (m *Manager) Mount(ctx context.Context, pod *corev1.Pod) (map[string]Result, error) {
	m.mu.Lock()
	p := m.pods[pod.UID]
	if p == nil {
		p = &podVolumes{}
		m.pods[pod.UID] = p
	}
	m.mu.Unlock()

	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone {
		return nil, fmt.Errorf("make volumes of pod %s/%s: its volumes are being removed", pod.Namespace, pod.Name)
	}
	p.newest.Store(pod)
	err := m.setUp(ctx, p)
	p.failed = err != nil
	return p.volumes, err
}

// setUp makes every volume of the pod, several at once when there are several. Callers hold p.mu.
func (m *Manager) setUp(ctx context.Context, p *podVolumes) error {
	pod := p.newest.Load()
	results := make([]Result, len(pod.Spec.Volumes))
	errs := make([]error, len(pod.Spec.Volumes))
	if len(pod.Spec.Volumes) > 0 {
		if err := os.MkdirAll(m.volumesDir(pod.UID), 0o750); err != nil {
			return fmt.Errorf("make volumes directory of pod %s/%s: %w", pod.Namespace, pod.Name, err)
		}
	}
	one := func(i int) {
		v := &pod.Spec.Volumes[i]
		plugin := m.plugin(v)
		if plugin == nil {
			errs[i] = &Failure{v.Name, errors.New("no volume plugin matched")}
			return
		}
		var err error
		results[i], err = plugin.SetUp(ctx, Request{Pod: pod, Volume: v, Dir: m.dir(pod.UID, plugin, v.Name)})
		if err != nil {
			errs[i] = &Failure{v.Name, err}
		}
	}
	if n := len(pod.Spec.Volumes); n == 1 {
		one(0) // the token volume alone: most pods
	} else {
		const atOnce = 8
		var wg sync.WaitGroup
		places := make(chan struct{}, atOnce)
		for i := range n {
			places <- struct{}{}
			wg.Go(func() { one(i); <-places })
		}
		wg.Wait()
	}
	volumes := make(map[string]Result, len(results))
	var next time.Time
	for i, r := range results {
		name := pod.Spec.Volumes[i].Name
		if errs[i] != nil {
			// What was there before is there still.
			if old, ok := p.volumes[name]; ok {
				volumes[name] = old
			}
			continue
		}
		volumes[name] = r
		if !r.Refresh.IsZero() && (next.IsZero() || r.Refresh.Before(next)) {
			next = r.Refresh
		}
	}
	p.volumes = volumes
	if !next.IsZero() {
		m.queue.AddAfter(pod.UID, time.Until(next))
	}
	return errors.Join(errs...)
}

func (m *Manager) plugin(v *corev1.Volume) Plugin {
	for _, p := range m.plugins {
		if p.Supports(v) {
			return p
		}
	}
	return nil
}

func (m *Manager) dir(pod types.UID, p Plugin, volume string) string {
	return filepath.Join(m.volumesDir(pod), escape(p.Name()), volume)
}

// Update tells the manager of a newer version of a pod: volumes that show its labels or annotations follow.
func (m *Manager) Update(pod *corev1.Pod) {
	m.mu.Lock()
	p := m.pods[pod.UID]
	m.mu.Unlock()
	if p == nil || !showsItself(pod) {
		return
	}
	p.newest.Store(pod)
	m.queue.Add(pod.UID)
}

// showsItself says whether one of the pod's volumes shows fields of the pod that can change.
func showsItself(pod *corev1.Pod) bool {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.DownwardAPI != nil {
			return true
		}
		if v.Projected != nil {
			for j := range v.Projected.Sources {
				if v.Projected.Sources[j].DownwardAPI != nil {
					return true
				}
			}
		}
	}
	return false
}

// changed is told by the object cache that something a pod refers to is different now. It never blocks.
func (m *Manager) changed(pod types.UID) { m.queue.Add(pod) }

// refresh brings a pod's volumes up to date, or has a failed Mount tried again.
func (m *Manager) refresh(ctx context.Context, uid types.UID) {
	m.mu.Lock()
	p := m.pods[uid]
	m.mu.Unlock()
	if p == nil {
		m.queue.Forget(uid)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	pod := p.newest.Load()
	if p.gone || pod == nil {
		return
	}
	if p.failed {
		m.queue.Forget(uid)
		if m.c.Wake != nil {
			m.c.Wake(uid)
		}
		return
	}
	limit, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := m.setUp(limit, p); err != nil {
		if ctx.Err() != nil {
			return
		}
		m.log.Warn("volumes could not be brought up to date; their old content stays", "pod", pod.Namespace+"/"+pod.Name, "err", err)
		if m.c.Failed != nil {
			m.c.Failed(pod, err)
		}
		m.queue.AddRateLimited(uid)
		return
	}
	m.queue.Forget(uid)
}

// Unmount takes away all volumes of a pod and its whole directory. Its containers must be gone. It is idempotent,
// also for a pod of which only the directory is left. The caller sees to it that Mount is not called for the pod any more.
func (m *Manager) Unmount(ctx context.Context, uid types.UID) error {
	if uid == "" || filepath.Base(string(uid)) != string(uid) || uid == "." || uid == ".." {
		return fmt.Errorf("remove volumes: %q is no pod UID", uid)
	}
	m.mu.Lock()
	p := m.pods[uid]
	if p == nil {
		p = &podVolumes{}
		m.pods[uid] = p
	}
	m.mu.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gone = true
	m.objects.Release(uid)
	if err := m.tearDown(ctx, uid); err != nil {
		return fmt.Errorf("remove volumes of pod %s: %w", uid, err)
	}
	m.mu.Lock()
	delete(m.pods, uid)
	m.mu.Unlock()
	return nil
}

func (m *Manager) tearDown(ctx context.Context, uid types.UID) error {
	root := m.PodDir(uid)
	// Bind mounts of subPaths keep the volumes busy: first.
	if err := removeSubPaths(filepath.Join(root, "volume-subpaths")); err != nil {
		return err
	}
	var errs []error
	kinds, err := os.ReadDir(m.volumesDir(uid))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("list volumes: %w", err)
	}
	for _, kind := range kinds {
		var plugin Plugin
		for _, x := range m.plugins {
			if escape(x.Name()) == kind.Name() {
				plugin = x
			}
		}
		base := filepath.Join(m.volumesDir(uid), kind.Name())
		names, err := os.ReadDir(base)
		if err != nil {
			errs = append(errs, fmt.Errorf("list volumes: %w", err))
			continue
		}
		for _, name := range names {
			dir := filepath.Join(base, name.Name())
			if plugin != nil {
				if err := plugin.TearDown(ctx, uid, name.Name(), dir); err != nil {
					errs = append(errs, fmt.Errorf("tear down volume %q: %w", name.Name(), err))
					continue
				}
			}
			if err := unmount(dir); err != nil {
				errs = append(errs, err)
			}
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	return removeWithMounts(root)
}

// Orphans lists pods of which a directory is left on this node though known, asked with each UID, does not know
// them: what a killed kubelet left behind. Unmount each.
func (m *Manager) Orphans(known func(types.UID) bool) ([]types.UID, error) {
	entries, err := os.ReadDir(m.podsDir())
	if err != nil {
		return nil, fmt.Errorf("list pod directories: %w", err)
	}
	var orphans []types.UID
	for _, e := range entries {
		if uid := types.UID(e.Name()); !known(uid) {
			orphans = append(orphans, uid)
		}
	}
	return orphans, nil
}
