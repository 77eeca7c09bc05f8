package cgroups

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Usage is what a group has used. Counters only grow while the group lives.
type Usage struct {
	At              time.Time
	CPU             time.Duration // CPU time so far
	CPUThrottled    time.Duration // time held back by the quota so far
	CPUPeriods      uint64
	CPUThrottles    uint64
	Memory          uint64 // bytes now, page cache included
	WorkingSet      uint64 // bytes that could not be reclaimed easily: Memory without inactive file pages
	RSS             uint64
	Cache           uint64
	MappedFile      uint64
	Swap            uint64
	PageFaults      uint64
	MajorPageFaults uint64
	MemoryLimit     uint64 // 0 for none
	Processes       uint64
	OOMKills        uint64 // by the kernel, in this group and below
}

// Pod is what the pod has used.
func (m *Manager) Pod(pod types.UID) (Usage, error) {
	group, err := m.find(pod)
	if err != nil {
		return Usage{}, err
	}
	return m.usage(group)
}

// Container is what one container of the pod, or its sandbox, has used; id is the runtime's.
func (m *Manager) Container(pod types.UID, id string) (Usage, error) {
	group, err := m.find(pod)
	if err != nil {
		return Usage{}, err
	}
	if id == "" || strings.ContainsRune(id, '/') {
		return Usage{}, fmt.Errorf("read usage: %q is no container ID", id)
	}
	return m.usage(group + "/" + id)
}

// Kubepods is what all pods together have used.
func (m *Manager) Kubepods() (Usage, error) { return m.usage(m.kubepods()) }

// Process is the ID of some process of the pod, through which its namespaces can be read.
func (m *Manager) Process(pod types.UID) (int, error) {
	group, err := m.find(pod)
	if err != nil {
		return 0, err
	}
	h := m.carrying("memory")
	pid := 0
	_ = filepath.WalkDir(filepath.Join(h.mount, group), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil
		}
		list, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		if err != nil {
			return nil
		}
		line, _, _ := strings.Cut(string(list), "\n")
		if n, err := strconv.Atoi(line); err == nil {
			pid = n
			return fs.SkipAll
		}
		return nil
	})
	if pid == 0 {
		return 0, fmt.Errorf("pod %s has no process", pod)
	}
	return pid, nil
}

// find is the pod's group: as Ensure made it, or as it is found after a restart.
func (m *Manager) find(pod types.UID) (string, error) {
	m.mu.Lock()
	g, ok := m.pods[pod]
	m.mu.Unlock()
	if ok {
		return g.path, nil
	}
	if err := checkUID(pod); err != nil {
		return "", err
	}
	if h := m.carrying("memory"); h != nil {
		for _, class := range [...]corev1.PodQOSClass{corev1.PodQOSBurstable, corev1.PodQOSBestEffort, corev1.PodQOSGuaranteed} {
			group := m.class(class) + "/pod" + string(pod)
			if _, err := os.Lstat(filepath.Join(h.mount, group)); err == nil {
				return group, nil
			}
		}
	}
	return "", fmt.Errorf("cgroup of pod %s: %w", pod, fs.ErrNotExist)
}

func (m *Manager) usage(group string) (Usage, error) {
	u := Usage{At: time.Now()}
	var err error
	if m.v2 {
		err = m.usage2(group, &u)
	} else {
		err = m.usage1(group, &u)
	}
	if err != nil {
		return Usage{}, fmt.Errorf("read usage of cgroup %s: %w", group, err)
	}
	return u, nil
}

// unlimitedV1 is from where on v1's limit means none: the largest multiple of the page size that fits.
const unlimitedV1 = 1 << 62

func (m *Manager) usage1(group string, u *Usage) error {
	file := func(controller, name string) string {
		if h := m.carrying(controller); h != nil {
			return filepath.Join(h.mount, group, name)
		}
		return ""
	}
	cpu, err := number(file("cpuacct", "cpuacct.usage"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	u.CPU = time.Duration(cpu)
	_ = pairs(file("cpu", "cpu.stat"), func(k string, v uint64) {
		switch k {
		case "nr_periods":
			u.CPUPeriods = v
		case "nr_throttled":
			u.CPUThrottles = v
		case "throttled_time":
			u.CPUThrottled = time.Duration(v)
		}
	})
	if u.Memory, err = number(file("memory", "memory.usage_in_bytes")); err != nil {
		return err
	}
	var inactive uint64
	if err := pairs(file("memory", "memory.stat"), func(k string, v uint64) {
		switch k {
		case "total_inactive_file":
			inactive = v
		case "total_rss":
			u.RSS = v
		case "total_cache":
			u.Cache = v
		case "total_mapped_file":
			u.MappedFile = v
		case "total_swap":
			u.Swap = v
		case "total_pgfault":
			u.PageFaults = v
		case "total_pgmajfault":
			u.MajorPageFaults = v
		}
	}); err != nil {
		return err
	}
	u.WorkingSet = u.Memory - min(inactive, u.Memory)
	if l, err := number(file("memory", "memory.limit_in_bytes")); err == nil && l < unlimitedV1 {
		u.MemoryLimit = l
	}
	// v1 counts a kill in the victim's own group only.
	_ = filepath.WalkDir(filepath.Dir(file("memory", "memory.oom_control")), func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			_ = pairs(filepath.Join(path, "memory.oom_control"), func(k string, v uint64) {
				if k == "oom_kill" {
					u.OOMKills += v
				}
			})
		}
		return nil
	})
	u.Processes, _ = number(file("pids", "pids.current"))
	return nil
}

func (m *Manager) usage2(group string, u *Usage) error {
	dir := filepath.Join(m.carrying("memory").mount, group)
	if err := pairs(filepath.Join(dir, "cpu.stat"), func(k string, v uint64) {
		switch k {
		case "usage_usec":
			u.CPU = time.Duration(v) * time.Microsecond
		case "nr_periods":
			u.CPUPeriods = v
		case "nr_throttled":
			u.CPUThrottles = v
		case "throttled_usec":
			u.CPUThrottled = time.Duration(v) * time.Microsecond
		}
	}); err != nil {
		return err
	}
	var err error
	if u.Memory, err = number(filepath.Join(dir, "memory.current")); err != nil {
		return err
	}
	var inactive uint64
	if err := pairs(filepath.Join(dir, "memory.stat"), func(k string, v uint64) {
		switch k {
		case "inactive_file":
			inactive = v
		case "anon":
			u.RSS = v
		case "file":
			u.Cache = v
		case "file_mapped":
			u.MappedFile = v
		case "pgfault":
			u.PageFaults = v
		case "pgmajfault":
			u.MajorPageFaults = v
		}
	}); err != nil {
		return err
	}
	u.WorkingSet = u.Memory - min(inactive, u.Memory)
	u.Swap, _ = number(filepath.Join(dir, "memory.swap.current"))
	u.MemoryLimit, _ = number(filepath.Join(dir, "memory.max")) // "max" is no number: 0, no limit
	_ = pairs(filepath.Join(dir, "memory.events"), func(k string, v uint64) {
		if k == "oom_kill" {
			u.OOMKills = v
		}
	})
	u.Processes, _ = number(filepath.Join(dir, "pids.current"))
	return nil
}

// number reads a file that holds one number. An empty path is a controller that is not there.
func number(path string) (uint64, error) {
	if path == "" {
		return 0, fs.ErrNotExist
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(string(bytes.TrimSpace(b)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("parse %s: %w", path, err)
	}
	return n, nil
}

// pairs calls f for each line "key number" of a file; other lines are passed over.
func pairs(path string, f func(key string, value uint64)) error {
	if path == "" {
		return fs.ErrNotExist
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	for line := range bytes.Lines(b) {
		k, v, ok := bytes.Cut(bytes.TrimSpace(line), []byte(" "))
		if !ok {
			continue
		}
		if n, err := strconv.ParseUint(string(v), 10, 64); err == nil {
			f(string(k), n)
		}
	}
	return nil
}
