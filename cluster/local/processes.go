package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// process is a node's main process, `wherry server` or `wherry agent`.
type process struct {
	pid   int
	pidfd int // readable when it has ended
}

func (p *process) close() { unix.Close(p.pidfd) }

func (c *Cluster) pidFile(i int) string { return filepath.Join(c.nodeRunDir(i), "wherry.pid") }

// running returns node i's main process if it runs. Its pid file says which that is; when `up` was killed after it had started
// the process and before it had written that down, the process is found by its command line.
func (c *Cluster) running(i int) (*process, bool) {
	if b, err := os.ReadFile(c.pidFile(i)); err == nil {
		if pid, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil && pid > 1 {
			if p, ok := c.open(i, pid); ok {
				return p, true
			}
		}
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, false
	}
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && c.isMain(i, pid) {
			if p, ok := c.open(i, pid); ok {
				return p, true
			}
		}
	}
	return nil, false
}

// isMain reports whether a process was started as node i's main process.
func (c *Cluster) isMain(i, pid int) bool {
	line, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	if err != nil {
		return false
	}
	args := strings.Split(string(line), "\x00")
	name := slices.Index(args, "--node-name")
	return len(args) > 2 && args[0] == mainProgram && (args[1] == "server" || args[1] == "agent") &&
		name > 0 && name+1 < len(args) && args[name+1] == c.NodeName(i)
}

// open holds on to a process of node i. A pid may be somebody else's by now: only a process in the node's own network
// namespace is the node's.
func (c *Cluster) open(i, pid int) (*process, bool) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, false
	}
	if same, err := sameFile(filepath.Join("/proc", strconv.Itoa(pid), "ns/net"), c.namespace("net", i)); err != nil || !same || ended(fd) {
		unix.Close(fd)
		return nil, false
	}
	return &process{pid: pid, pidfd: fd}, true
}

// mainProgram is what main processes are called in their command lines.
const mainProgram = "wherry"

func ended(pidfd int) bool {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0
}

// spawn starts node i's main process in its namespaces. It is a session of its own and outlives us.
func (c *Cluster) spawn(i int, args ...string) (*process, error) {
	log, err := os.OpenFile(c.logFile(i), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log of node %d: %w", i, err)
	}
	defer log.Close()
	if err := os.MkdirAll(c.nodeRunDir(i), 0o755); err != nil {
		return nil, fmt.Errorf("make run directory of node %d: %w", i, err)
	}
	p := &process{pidfd: -1}
	err = c.inNode(i, true, func() error {
		cmd := exec.Command("/proc/self/exe", args...)
		cmd.Args[0] = mainProgram
		cmd.Dir = "/"
		cmd.Stdout, cmd.Stderr = log, log
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := cmd.Start(); err != nil {
			return fmt.Errorf("start node %d: %w", i, err)
		}
		p.pid = cmd.Process.Pid
		fd, err := unix.PidfdOpen(p.pid, 0)
		if err != nil {
			return fmt.Errorf("watch node %d: %w", i, err)
		}
		p.pidfd = fd
		return cmd.Process.Release()
	})
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(c.pidFile(i), []byte(strconv.Itoa(p.pid)), 0o600); err != nil {
		_ = unix.PidfdSendSignal(p.pidfd, unix.SIGKILL, nil, 0)
		return nil, fmt.Errorf("write pid of node %d: %w", i, err)
	}
	return p, nil
}

// wait returns when the process has ended, or with ctx's error.
func (p *process) wait(ctx context.Context) error {
	for {
		fds := []unix.PollFd{{Fd: int32(p.pidfd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 20) // ms; only while up or down wait for it
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for process %d: %w", p.pid, err)
		}
		if n > 0 {
			_, _ = unix.Wait4(p.pid, nil, unix.WNOHANG, nil)
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// killAll ends every process of the cluster: those in a namespace of a node (Wherry, containerd, shims) and those in a
// cgroup of a node (containers, which have namespaces of their own). It looks again until none is left.
func (c *Cluster) killAll(ctx context.Context) error {
	for wait := time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		pids, err := c.processes()
		if err != nil {
			return err
		}
		if len(pids) == 0 {
			return nil
		}
		for _, pid := range pids {
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("kill process %d: %w", pid, err)
			}
			_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil) // ours only if this very process started it
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("processes %v of cluster %s do not end: %w", pids, c.Name, ctx.Err())
		case <-time.After(wait):
		}
	}
}

// processes lists the cluster's living processes. Zombies are not counted: they hold nothing.
func (c *Cluster) processes() ([]int, error) {
	var pins []os.FileInfo
	for i := range c.Nodes {
		for _, kind := range []string{"net", "mnt"} {
			if info, err := os.Stat(c.namespace(kind, i+1)); err == nil {
				if mounted, _ := isMountPoint(c.namespace(kind, i+1)); mounted {
					pins = append(pins, info)
				}
			}
		}
	}
	inCgroup, err := cgroupProcesses(c.cgroupRoot())
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		if (inCgroup[pid] || inNamespace(pid, pins)) && !zombie(pid) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

func inNamespace(pid int, pins []os.FileInfo) bool {
	for _, kind := range []string{"net", "mnt"} {
		info, err := os.Stat(filepath.Join("/proc", strconv.Itoa(pid), "ns", kind))
		if err != nil {
			continue
		}
		if slices.ContainsFunc(pins, func(pin os.FileInfo) bool { return os.SameFile(pin, info) }) {
			return true
		}
	}
	return false
}

func zombie(pid int) bool {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return true
	}
	_, after, ok := strings.Cut(string(b), ") ")
	return ok && strings.HasPrefix(after, "Z")
}

func sameFile(a, b string) (bool, error) {
	ia, err := os.Stat(a)
	if err != nil {
		return false, err
	}
	ib, err := os.Stat(b)
	if err != nil {
		return false, err
	}
	return os.SameFile(ia, ib), nil
}

// cgroupDirs are the directories of a cgroup path in every mounted hierarchy, v1 and v2.
func cgroupDirs(path string) ([]string, error) {
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return nil, fmt.Errorf("list cgroup hierarchies: %w", err)
	}
	var dirs []string
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) > 2 && (f[2] == "cgroup" || f[2] == "cgroup2") {
			if dir := filepath.Join(f[1], path); isDir(dir) {
				dirs = append(dirs, dir)
			}
		}
	}
	return dirs, nil
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

func cgroupProcesses(path string) (map[int]bool, error) {
	dirs, err := cgroupDirs(path)
	if err != nil {
		return nil, err
	}
	pids := map[int]bool{}
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(sub string, d fs.DirEntry, err error) error {
			if err != nil || !d.IsDir() {
				return nil // going away while we look
			}
			b, _ := os.ReadFile(filepath.Join(sub, "cgroup.procs"))
			for line := range strings.Lines(string(b)) {
				if pid, err := strconv.Atoi(strings.TrimSpace(line)); err == nil {
					pids[pid] = true
				}
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("read cgroup %s: %w", dir, err)
		}
	}
	return pids, nil
}

// removeCgroups removes the cluster's cgroups in every hierarchy.
func (c *Cluster) removeCgroups(ctx context.Context) error {
	dirs, err := cgroupDirs(c.cgroupRoot())
	if err != nil {
		return err
	}
	var errs []error
	for _, dir := range dirs {
		var subs []string
		_ = filepath.WalkDir(dir, func(sub string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				subs = append(subs, sub)
			}
			return nil
		})
		slices.Reverse(subs) // children before parents
		for _, sub := range subs {
			errs = append(errs, removeCgroup(ctx, sub))
		}
	}
	return errors.Join(errs...)
}

// removeCgroupParents removes what all clusters' cgroups lie below, where it is empty. Callers hold the machine's lock and know of no cluster.
func removeCgroupParents() {
	dirs, err := cgroupDirs(cgroupParent)
	if err != nil {
		return
	}
	for _, dir := range dirs {
		_ = os.Remove(dir) // a server that is none of ours may be in it
	}
}

// removeCgroup waits for the kernel to have let go of the last process.
func removeCgroup(ctx context.Context, dir string) error {
	for wait := time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		err := unix.Rmdir(dir)
		switch {
		case err == nil, errors.Is(err, unix.ENOENT):
			return nil
		case !errors.Is(err, unix.EBUSY):
			return fmt.Errorf("remove cgroup %s: %w", dir, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("remove cgroup %s: still in use: %w", dir, ctx.Err())
		case <-time.After(wait):
		}
	}
}
