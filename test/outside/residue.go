package outside

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Traces is what identifies a cluster on this machine, gathered while it runs.
type Traces struct {
	name       string
	namespaces map[uint64]bool // of its nodes and pods: network and mount
}

// NameOnly is all that is known of a cluster which never came up.
func (c *Cluster) NameOnly() Traces { return Traces{name: c.Name} }

// Traces gathers what the cluster may leave behind: call it while pods run.
func (c *Cluster) Traces() (Traces, error) {
	t := Traces{name: c.Name, namespaces: map[uint64]bool{}}
	for i := 1; i <= c.Nodes; i++ {
		for _, path := range []string{c.Netns(i), c.Mountns(i)} {
			id, err := Identity(path)
			if err != nil {
				return t, err
			}
			t.namespaces[id] = true
		}
	}
	err := eachProcess(func(pid int, dir string) {
		cgroup, _ := os.ReadFile(filepath.Join(dir, "cgroup"))
		if !bytes.Contains(cgroup, []byte(c.Name)) {
			return
		}
		for _, kind := range []string{"net", "mnt", "pid", "ipc", "uts"} {
			own, _ := Identity(filepath.Join("/proc/1/ns", kind))
			if id, err := Identity(filepath.Join(dir, "ns", kind)); err == nil && id != own {
				t.namespaces[id] = true
			}
		}
	})
	return t, err
}

// Left lists what is still there of the cluster on this machine; nothing may be.
func (t Traces) Left() (left []string, err error) {
	err = eachProcess(func(pid int, dir string) {
		command, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		if pid == os.Getpid() || len(command) == 0 { // a zombie has no command line and holds nothing
			return
		}
		for _, kind := range []string{"net", "mnt", "pid", "ipc", "uts"} {
			if id, err := Identity(filepath.Join(dir, "ns", kind)); err == nil && t.namespaces[id] {
				left = append(left, fmt.Sprintf("process %d in a %s namespace of the cluster: %q", pid, kind, command))
			}
		}
		for _, file := range []string{"cmdline", "cgroup", "mountinfo"} {
			b, _ := os.ReadFile(filepath.Join(dir, file))
			for line := range bytes.Lines(b) {
				if bytes.Contains(line, []byte(t.name)) {
					left = append(left, fmt.Sprintf("process %d: %s: %s", pid, file, bytes.TrimSpace(line)))
				}
			}
		}
	})
	if err != nil {
		return nil, err
	}
	cgroups, err := Cgroups(t.name)
	if err != nil {
		return nil, err
	}
	left = append(left, cgroups...)
	state := os.Getenv(insideVariable) // the tests' own records
	for _, root := range []string{"/run", "/var/lib", "/var/log", "/var/tmp", "/tmp", "/etc", "/opt", "/dev/shm", "/usr/libexec"} {
		_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return nil
			}
			if path == state {
				return fs.SkipDir
			}
			if strings.Contains(path, t.name) {
				left = append(left, path)
				if d.IsDir() {
					return fs.SkipDir
				}
			}
			return nil
		})
	}
	slices.Sort(left)
	return slices.Compact(left), nil
}

func eachProcess(f func(pid int, dir string)) error {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			f(pid, filepath.Join("/proc", e.Name()))
		}
	}
	return nil
}

// Surroundings describes this process's own network namespace: interfaces, addresses, nftables, and what `up` may set.
func Surroundings() (string, error) {
	links, err := Links(OwnNetns())
	if err != nil {
		return "", err
	}
	addresses, err := Addresses(OwnNetns())
	if err != nil {
		return "", err
	}
	rules, err := Ruleset(OwnNetns())
	if err != nil {
		return "", err
	}
	routes, err := os.ReadFile("/proc/net/route")
	if err != nil {
		return "", err
	}
	forward, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward")
	return fmt.Sprintf("links %v\naddresses %v\nnftables %s\nroutes %s\nforward %s", links, addresses, rules, routes, forward), err
}
