// Package cgroups keeps the control groups of this node's pods: one root for each kubelet (several may share a
// machine), below it kubepods and the quality-of-service classes as upstream lays them out, one group for each pod, in
// cgroup v2 or, where a host still has it, in every v1 hierarchy. It names the parent in which the runtime makes
// containers (cgroupfs driver), sets the pods' limits, reads their usage, and removes what the runtime leaves behind.
package cgroups

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Config says where the groups live.
type Config struct {
	// Root is the kubelet's own group, from the top of each hierarchy, such as "/wherry/NAME/node-1".
	Root string
	// PodPids bounds the processes of each pod; 0 or less is no bound.
	PodPids int64
	// NoCPUQuota leaves CPU limits unenforced, as upstream's --cpu-cfs-quota=false.
	NoCPUQuota bool
	// MountInfo is where the mounted hierarchies are read from; empty is /proc/self/mountinfo.
	MountInfo string
	Log       *slog.Logger
}

// Manager keeps the groups of one kubelet. Pods are independent of each other. Safe for concurrent use; calls for one
// pod must not overlap.
type Manager struct {
	c           Config
	log         *slog.Logger
	v2          bool
	hierarchies []hierarchy
	write       func(path, value string) error // replaced by tests that have no cgroup file system

	mu        sync.Mutex             // guards pods and burstable
	pods      map[types.UID]podGroup // what has been applied
	burstable uint64                 // CPU shares last set on the class
}

// podGroup is a pod's group as last applied.
type podGroup struct {
	path     string
	class    corev1.PodQOSClass
	milliCPU int64 // requested
	limits   Limits
}

// New looks at the mounted hierarchies. It makes nothing yet: see Start.
func New(c Config) (*Manager, error) {
	if !path.IsAbs(c.Root) || path.Clean(c.Root) == "/" {
		return nil, fmt.Errorf("cgroups: root %q must be an absolute path below the top", c.Root)
	}
	c.Root = path.Clean(c.Root)
	if c.MountInfo == "" {
		c.MountInfo = "/proc/self/mountinfo"
	}
	m := &Manager{c: c, log: c.Log, write: writeControl, pods: map[types.UID]podGroup{}}
	if m.log == nil {
		m.log = slog.Default()
	}
	var err error
	if m.hierarchies, m.v2, err = detect(c.MountInfo); err != nil {
		return nil, err
	}
	return m, nil
}

// V2 says whether the unified hierarchy (cgroup v2) carries the controllers.
func (m *Manager) V2() bool { return m.v2 }

// Start makes the kubelet's groups down to the quality-of-service classes and holds all pods together to enforced,
// what the node offers them (its capacity without what is reserved); absent amounts are not enforced. Existing groups
// are taken over.
func (m *Manager) Start(enforced corev1.ResourceList) error {
	whole := Limits{}
	if q, ok := enforced[corev1.ResourceCPU]; ok {
		whole.Shares = Shares(q.MilliValue())
	}
	if q, ok := enforced[corev1.ResourceMemory]; ok {
		whole.Memory = q.Value()
	}
	steps := []struct {
		group  string
		limits Limits
	}{
		{m.c.Root, Limits{}},
		{m.kubepods(), whole},
		{m.class(corev1.PodQOSBurstable), Limits{Shares: minShares}},
		{m.class(corev1.PodQOSBestEffort), Limits{Shares: minShares}},
	}
	for _, s := range steps {
		if err := m.make(s.group); err != nil {
			return err
		}
		if err := m.apply(s.group, s.limits); err != nil {
			return err
		}
	}
	return nil
}

// Root is the kubelet's own group.
func (m *Manager) Root() string { return m.c.Root }

func (m *Manager) kubepods() string { return m.c.Root + "/kubepods" }

// class is the group of a quality-of-service class.
func (m *Manager) class(c corev1.PodQOSClass) string {
	switch c {
	case corev1.PodQOSBurstable:
		return m.kubepods() + "/burstable"
	case corev1.PodQOSBestEffort:
		return m.kubepods() + "/besteffort"
	}
	return m.kubepods()
}

// Parent is the group in which the runtime makes the pod's sandbox and containers: the CRI's cgroup_parent.
func (m *Manager) Parent(pod *corev1.Pod) string {
	return m.class(QOSClass(pod)) + "/pod" + string(pod.UID)
}

// Ensure makes the pod's group with its limits, or brings the limits of an existing one up to the pod's spec (in-place
// resize), and returns it as Parent does. Lowering a memory limit below what is used fails on v1 and leaves the old one.
func (m *Manager) Ensure(_ context.Context, pod *corev1.Pod) (string, error) {
	if err := checkUID(pod.UID); err != nil {
		return "", err
	}
	want := podGroup{path: m.Parent(pod), class: QOSClass(pod), milliCPU: requestedCPU(pod), limits: m.limits(pod)}
	m.mu.Lock()
	have, ok := m.pods[pod.UID]
	m.mu.Unlock()
	if ok && have.path == want.path && have.limits.equal(want.limits) {
		return want.path, nil
	}
	if !ok || have.path != want.path {
		if err := m.make(want.path); err != nil {
			return "", err
		}
	}
	if err := m.apply(want.path, want.limits); err != nil {
		return "", fmt.Errorf("set limits of pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pods[pod.UID] = want
	return want.path, m.balance()
}

// Applied is the pod's limits as Ensure last set them; ok is false for a pod it has not seen.
func (m *Manager) Applied(pod types.UID) (l Limits, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	g, ok := m.pods[pod]
	return g.limits, ok
}

// balance gives the burstable class the CPU shares of what its pods request together. Callers hold mu.
func (m *Manager) balance() error {
	var milli int64
	for _, g := range m.pods {
		if g.class == corev1.PodQOSBurstable {
			milli += g.milliCPU
		}
	}
	shares := Shares(milli)
	if shares == m.burstable {
		return nil
	}
	if err := m.apply(m.class(corev1.PodQOSBurstable), Limits{Shares: shares}); err != nil {
		return err
	}
	m.burstable = shares
	return nil
}

// make makes a group in every hierarchy in which we set or read something. The runtime makes it in the others.
func (m *Manager) make(group string) error {
	for i := range m.hierarchies {
		h := &m.hierarchies[i]
		if h.v2 && !m.v2 || !h.v2 && !h.ours() {
			continue
		}
		dir := filepath.Join(h.mount, group)
		err := os.Mkdir(dir, 0o755)
		switch {
		case err == nil, errors.Is(err, fs.ErrExist):
		case errors.Is(err, fs.ErrNotExist): // the first group of all: make what leads to it
			if err = os.MkdirAll(dir, 0o755); err != nil {
				return fmt.Errorf("make cgroup %s: %w", group, err)
			}
		default:
			return fmt.Errorf("make cgroup %s: %w", group, err)
		}
		if h.v2 {
			if err := m.delegate(h, group); err != nil {
				return err
			}
		}
	}
	return nil
}

// Orphans lists pods that have a group here though known, asked with each UID, does not know them. Remove each.
func (m *Manager) Orphans(known func(types.UID) bool) ([]types.UID, error) {
	seen := map[types.UID]bool{}
	var orphans []types.UID
	for _, h := range m.hierarchies {
		for _, class := range classes {
			entries, err := os.ReadDir(filepath.Join(h.mount, m.class(class)))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("list cgroups: %w", err)
			}
			for _, e := range entries {
				uid, ok := strings.CutPrefix(e.Name(), "pod")
				if !ok || !e.IsDir() || seen[types.UID(uid)] || checkUID(types.UID(uid)) != nil {
					continue
				}
				seen[types.UID(uid)] = true
				if !known(types.UID(uid)) {
					orphans = append(orphans, types.UID(uid))
				}
			}
		}
	}
	return orphans, nil
}

var classes = [...]corev1.PodQOSClass{corev1.PodQOSGuaranteed, corev1.PodQOSBurstable, corev1.PodQOSBestEffort}

func checkUID(uid types.UID) error {
	if uid == "" || strings.ContainsAny(string(uid), "/\x00\n") || strings.HasPrefix(string(uid), ".") {
		return fmt.Errorf("cgroups: %q is no pod UID", uid)
	}
	return nil
}

// writeControl writes one control file. Control files exist with their group: none is ever created.
func writeControl(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %q: %w", value, err)
	}
	return nil
}
