package cgroups

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
)

const (
	minShares = 2
	maxShares = 262144
	// period of the CPU bandwidth controller, in microseconds; the shortest quota the kernel takes is 1 ms.
	period   = 100_000
	minQuota = 1_000
	// unlimited takes away a limit that was set before.
	unlimited = -1
)

// Limits are a group's settings. Zero values are not set; -1 takes a limit away.
type Limits struct {
	Shares    uint64           // relative CPU weight in v1's terms, 2 to 262144
	Quota     int64            // CPU time in microseconds for each 100 ms
	Memory    int64            // bytes
	Pids      int64            // processes and threads
	HugePages map[string]int64 // bytes, by page size as the kernel writes it, such as 2MB
}

func (l Limits) equal(o Limits) bool {
	return l.Shares == o.Shares && l.Quota == o.Quota && l.Memory == o.Memory && l.Pids == o.Pids && maps.Equal(l.HugePages, o.HugePages)
}

// Shares turns requested CPU into v1 shares as upstream does: 1024 for one CPU, never less than 2.
func Shares(milliCPU int64) uint64 {
	return uint64(min(max(milliCPU*1024/1000, minShares), maxShares))
}

// Quota turns a CPU limit into microseconds of each period of 100 ms; 0 for no limit.
func Quota(milliCPU int64) int64 {
	if milliCPU <= 0 {
		return 0
	}
	return max(milliCPU*period/1000, minQuota)
}

// weight turns v1 shares into v2's cpu.weight, by the curve that runtimes use since 2025: 1024 shares are the default weight of 100.
func weight(shares uint64) uint64 {
	switch {
	case shares <= minShares:
		return 1
	case shares >= maxShares:
		return 10000
	}
	l := math.Log2(float64(shares))
	return uint64(math.Ceil(math.Pow(10, (l*l+125*l)/612.0-7.0/34.0)))
}

// requestedCPU is what the pod's scheduling counted, overhead included, in thousandths of a CPU.
func requestedCPU(pod *corev1.Pod) int64 {
	requests := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})
	return requests.Cpu().MilliValue()
}

// limits are what the pod's group is to have. A limit is set only where every container has one, or the pod as a
// whole; else the containers' own groups are the only bound.
func (m *Manager) limits(pod *corev1.Pod) Limits {
	requests := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})
	limits := resourcehelper.PodLimits(pod, resourcehelper.PodResourcesOptions{})
	cpu, memory := true, true
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			r := &list[i].Resources
			cpu = cpu && !r.Limits.Cpu().IsZero()
			memory = memory && !r.Limits.Memory().IsZero()
		}
	}
	if whole := pod.Spec.Resources; whole != nil {
		cpu = cpu || !whole.Limits.Cpu().IsZero()
		memory = memory || !whole.Limits.Memory().IsZero()
	}
	class := QOSClass(pod)
	l := Limits{Shares: Shares(requests.Cpu().MilliValue()), Quota: unlimited, Memory: unlimited, Pids: unlimited}
	if class == corev1.PodQOSBestEffort {
		l.Shares = minShares
	} else {
		if q := Quota(limits.Cpu().MilliValue()); cpu && q > 0 && !m.c.NoCPUQuota {
			l.Quota = q
		}
		if memory && limits.Memory().Value() > 0 {
			l.Memory = limits.Memory().Value()
		}
	}
	if m.c.PodPids > 0 {
		l.Pids = m.c.PodPids
	}
	for name, q := range requests {
		size, ok := strings.CutPrefix(string(name), corev1.ResourceHugePagesPrefix)
		if !ok {
			continue
		}
		if s, err := resource.ParseQuantity(size); err == nil {
			if l.HugePages == nil {
				l.HugePages = map[string]int64{}
			}
			l.HugePages[pageName(s.Value())] = q.Value()
		}
	}
	return l
}

// pageName is the kernel's name of a huge page size.
func pageName(bytes int64) string {
	switch {
	case bytes >= 1<<30:
		return strconv.FormatInt(bytes>>30, 10) + "GB"
	case bytes >= 1<<20:
		return strconv.FormatInt(bytes>>20, 10) + "MB"
	}
	return strconv.FormatInt(bytes>>10, 10) + "KB"
}

// QOSClass is the pod's quality-of-service class: as the API server recorded it, else (static pods) by upstream's
// rules: guaranteed where CPU and memory of every container are limited and requested alike, best effort where
// nothing is asked for, burstable otherwise.
func QOSClass(pod *corev1.Pod) corev1.PodQOSClass {
	if pod.Status.QOSClass != "" {
		return pod.Status.QOSClass
	}
	asks, guaranteed := false, true
	see := func(requests, limits corev1.ResourceList) {
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			r, l := requests[name], limits[name]
			asks = asks || !r.IsZero() || !l.IsZero()
			if l.IsZero() || !r.IsZero() && r.Cmp(l) != 0 {
				guaranteed = false
			}
		}
	}
	if whole := pod.Spec.Resources; whole != nil && (len(whole.Requests) > 0 || len(whole.Limits) > 0) {
		see(whole.Requests, whole.Limits)
	} else {
		for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
			for i := range list {
				see(list[i].Resources.Requests, list[i].Resources.Limits)
			}
		}
	}
	switch {
	case !asks:
		return corev1.PodQOSBestEffort
	case guaranteed:
		return corev1.PodQOSGuaranteed
	}
	return corev1.PodQOSBurstable
}

// setting is one control file to write. hard says that without it the group is not what was asked for.
type setting struct {
	controller, file, value string
	hard                    bool
}

// settings1 and settings2 are what limits come to in v1 and v2.
func settings1(l Limits) []setting {
	var s []setting
	if l.Shares > 0 {
		s = append(s, setting{"cpu", "cpu.shares", strconv.FormatUint(l.Shares, 10), true})
	}
	if l.Quota != 0 {
		if l.Quota > 0 {
			s = append(s, setting{"cpu", "cpu.cfs_period_us", strconv.Itoa(period), true})
		}
		s = append(s, setting{"cpu", "cpu.cfs_quota_us", strconv.FormatInt(l.Quota, 10), l.Quota > 0})
	}
	if l.Memory != 0 {
		s = append(s, setting{"memory", "memory.limit_in_bytes", strconv.FormatInt(l.Memory, 10), l.Memory > 0})
	}
	if l.Pids != 0 {
		s = append(s, setting{"pids", "pids.max", bound(l.Pids), l.Pids > 0})
	}
	for _, size := range sorted(l.HugePages) {
		s = append(s, setting{"hugetlb", "hugetlb." + size + ".limit_in_bytes", strconv.FormatInt(l.HugePages[size], 10), false})
	}
	return s
}

func settings2(l Limits) []setting {
	var s []setting
	if l.Shares > 0 {
		s = append(s, setting{"cpu", "cpu.weight", strconv.FormatUint(weight(l.Shares), 10), true})
	}
	if l.Quota != 0 {
		s = append(s, setting{"cpu", "cpu.max", bound(l.Quota) + " " + strconv.Itoa(period), l.Quota > 0})
	}
	if l.Memory != 0 {
		s = append(s, setting{"memory", "memory.max", bound(l.Memory), l.Memory > 0})
	}
	if l.Pids != 0 {
		s = append(s, setting{"pids", "pids.max", bound(l.Pids), l.Pids > 0})
	}
	for _, size := range sorted(l.HugePages) {
		s = append(s, setting{"hugetlb", "hugetlb." + size + ".max", strconv.FormatInt(l.HugePages[size], 10), false})
	}
	return s
}

func bound(n int64) string {
	if n < 0 {
		return "max"
	}
	return strconv.FormatInt(n, 10)
}

func sorted(m map[string]int64) []string { return slices.Sorted(maps.Keys(m)) }

// apply writes a group's settings. A soft one whose controller or file is missing is passed over.
func (m *Manager) apply(group string, l Limits) error {
	list := settings1(l)
	if m.v2 {
		list = settings2(l)
	}
	for _, s := range list {
		h := m.carrying(s.controller)
		if h == nil {
			if s.hard {
				return fmt.Errorf("cgroup %s: no hierarchy has the controller %s", group, s.controller)
			}
			continue
		}
		err := m.write(filepath.Join(h.mount, group, s.file), s.value)
		if err != nil && (s.hard || !errors.Is(err, fs.ErrNotExist)) {
			return fmt.Errorf("cgroup %s: set %s: %w", group, s.file, err)
		}
	}
	return nil
}

// carrying is the hierarchy that has a controller; nil if none.
func (m *Manager) carrying(controller string) *hierarchy {
	for i := range m.hierarchies {
		h := &m.hierarchies[i]
		if m.v2 && h.v2 || !m.v2 && h.has(controller) {
			return h
		}
	}
	return nil
}
