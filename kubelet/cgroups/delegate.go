package cgroups

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// delegate makes the controllers of a v2 group available to its children, and on the way those of every group above
// it, from the top. What is there already costs one read for each level.
func (m *Manager) delegate(h *hierarchy, group string) error {
	levels := []string{h.mount}
	// Once the class groups stand, everything above a pod is delegated: look at the group itself only.
	if strings.HasPrefix(group, m.kubepods()+"/") {
		levels = nil
		group = strings.TrimPrefix(group, "/")
		levels = append(levels, filepath.Join(h.mount, group))
	} else {
		at := h.mount
		for part := range strings.SplitSeq(strings.Trim(group, "/"), "/") {
			at = filepath.Join(at, part)
			levels = append(levels, at)
		}
	}
	for _, dir := range levels {
		if err := m.delegateOne(dir); err != nil {
			return err
		}
	}
	return nil
}

func (m *Manager) delegateOne(dir string) error {
	have, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("read controllers of %s: %w", dir, err)
	}
	given, err := os.ReadFile(filepath.Join(dir, "cgroup.subtree_control"))
	if err != nil {
		return fmt.Errorf("read delegated controllers of %s: %w", dir, err)
	}
	already := strings.Fields(string(given))
	for _, c := range strings.Fields(string(have)) {
		switch c {
		case "cpu", "cpuset", "memory", "pids", "hugetlb", "io", "rdma", "misc":
		default:
			continue
		}
		if slices.Contains(already, c) {
			continue
		}
		err := m.write(filepath.Join(dir, "cgroup.subtree_control"), "+"+c)
		if err == nil {
			continue
		}
		if errors.Is(err, syscall.EBUSY) {
			return fmt.Errorf("delegate controller %s below %s: processes live in that group itself: start this program in a group of its own (systemd: Delegate=yes and a sub-group): %w", c, dir, err)
		}
		if c == "cpu" || c == "memory" || c == "pids" {
			return fmt.Errorf("delegate controller %s below %s: %w", c, dir, err)
		}
		m.log.Debug("cgroup controller could not be delegated", "controller", c, "group", dir, "err", err)
	}
	return nil
}
