package cgroups

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// Remove removes the pod's group and everything below from every hierarchy, also those where only the runtime made
// something, killing what still runs there. Removing what is not there is no error. It waits for killed processes to
// end until ctx ends.
func (m *Manager) Remove(ctx context.Context, pod types.UID) error {
	if err := checkUID(pod); err != nil {
		return err
	}
	var errs []error
	for i := range m.hierarchies {
		h := &m.hierarchies[i]
		for _, class := range classes {
			if err := m.removeGroup(ctx, h, m.class(class)+"/pod"+string(pod)); err != nil {
				errs = append(errs, err)
			}
		}
	}
	if len(errs) > 0 {
		return fmt.Errorf("remove cgroups of pod %s: %w", pod, errors.Join(errs...))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.pods, pod)
	return m.balance()
}

// Clear removes the kubelet's own groups, pods and all: for a node that goes for good. Processes in them are killed.
func (m *Manager) Clear(ctx context.Context) error {
	var errs []error
	for i := range m.hierarchies {
		h := &m.hierarchies[i]
		if err := m.removeGroup(ctx, h, m.c.Root); err != nil {
			errs = append(errs, err)
			continue
		}
		// The groups that only led to ours go too, if nobody else lives there.
		for up := filepath.Dir(m.c.Root); up != "/"; up = filepath.Dir(up) {
			if syscall.Rmdir(filepath.Join(h.mount, up)) != nil {
				break
			}
		}
	}
	return errors.Join(errs...)
}

func (m *Manager) removeGroup(ctx context.Context, h *hierarchy, group string) error {
	top := filepath.Join(h.mount, group)
	if _, err := os.Lstat(top); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	const first, limit = time.Millisecond, 100 * time.Millisecond
	for delay := first; ; delay = min(2*delay, limit) {
		err := removeDirs(top)
		if err == nil {
			return nil
		}
		if !errors.Is(err, syscall.EBUSY) {
			return err
		}
		// EBUSY has one cause here: processes. They are the pod's; kill them and look again once they can be gone.
		m.kill(h, top)
		timer := time.NewTimer(delay)
		select {
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("%w (processes in it do not end: %w)", err, context.Cause(ctx))
		case <-timer.C:
		}
	}
}

// removeDirs removes a group's directory, children first. Control files vanish with their directory.
func removeDirs(dir string) error {
	err := syscall.Rmdir(dir)
	if err == nil || err == syscall.ENOENT {
		return nil
	}
	entries, rerr := os.ReadDir(dir)
	if errors.Is(rerr, fs.ErrNotExist) {
		return nil
	}
	if rerr != nil {
		return fmt.Errorf("list cgroup: %w", rerr)
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeDirs(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := syscall.Rmdir(dir); err != nil && err != syscall.ENOENT {
		return &fs.PathError{Op: "remove cgroup", Path: dir, Err: err}
	}
	return nil
}

// kill kills every process in the group and below.
func (m *Manager) kill(h *hierarchy, top string) {
	if h.v2 {
		if err := m.write(filepath.Join(top, "cgroup.kill"), "1"); err == nil {
			return
		} // before Linux 5.14: one by one, as in v1
	}
	self := os.Getpid()
	_ = filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil
		}
		if h.has("freezer") { // what is frozen cannot die
			_ = m.write(filepath.Join(path, "freezer.state"), "THAWED")
		}
		list, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		if err != nil {
			return nil
		}
		for line := range strings.Lines(string(list)) {
			if pid, err := strconv.Atoi(strings.TrimSpace(line)); err == nil && pid > 1 && pid != self {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		return nil
	})
}
