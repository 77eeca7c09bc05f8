package cgroups

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// hierarchy is one mounted cgroup file system.
type hierarchy struct {
	mount       string
	controllers []string // v1 only; a named hierarchy has "name=..."
	v2          bool
}

func (h *hierarchy) has(controller string) bool { return slices.Contains(h.controllers, controller) }

// ours says whether we set or read something in this v1 hierarchy.
func (h *hierarchy) ours() bool {
	return h.has("cpu") || h.has("cpuacct") || h.has("memory") || h.has("pids") || h.has("hugetlb")
}

// detect reads which hierarchies are mounted. v2 is true when the unified one carries the controllers, false when
// v1 hierarchies do (a unified one may be mounted beside them and is then only cleaned).
func detect(mountInfo string) (found []hierarchy, v2 bool, err error) {
	f, err := os.Open(mountInfo)
	if err != nil {
		return nil, false, fmt.Errorf("look for cgroup hierarchies: %w", err)
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	s.Buffer(make([]byte, 0, 64<<10), 1<<20)
	seen := map[string]bool{}
	for s.Scan() {
		left, right, ok := strings.Cut(s.Text(), " - ")
		if !ok {
			continue
		}
		mount, kind := strings.Fields(left), strings.Fields(right)
		if len(mount) < 6 || len(kind) < 3 || !strings.HasPrefix(kind[0], "cgroup") {
			continue
		}
		// The first mount of a hierarchy is the one that everybody uses; binds of parts of it are not.
		h := hierarchy{mount: mount[4], v2: kind[0] == "cgroup2"}
		if !h.v2 {
			for _, o := range strings.Split(kind[2], ",") {
				if o != "rw" && o != "ro" && o != "xattr" && o != "clone_children" && o != "noprefix" {
					h.controllers = append(h.controllers, o)
				}
			}
		}
		name := strings.Join(h.controllers, ",")
		if seen[name] {
			continue
		}
		seen[name] = true
		found = append(found, h)
	}
	if err := s.Err(); err != nil {
		return nil, false, fmt.Errorf("look for cgroup hierarchies: %w", err)
	}
	if len(found) == 0 {
		return nil, false, errors.New("no cgroup hierarchy is mounted: mount cgroup2 on /sys/fs/cgroup")
	}
	v1 := map[string]bool{}
	for i := range found {
		for _, c := range found[i].controllers {
			v1[c] = true
		}
	}
	if v1["cpu"] && v1["memory"] {
		return found, false, nil
	}
	for i := range found {
		if !found[i].v2 {
			continue
		}
		have, err := os.ReadFile(filepath.Join(found[i].mount, "cgroup.controllers"))
		if err != nil {
			return nil, false, fmt.Errorf("read cgroup controllers: %w", err)
		}
		list := strings.Fields(string(have))
		for _, need := range []string{"cpu", "memory"} {
			if !slices.Contains(list, need) {
				return nil, false, fmt.Errorf("cgroup v2 at %s lacks the controller %s (it has %q): delegate it to this process", found[i].mount, need, list)
			}
		}
		return found, true, nil
	}
	return nil, false, errors.New("no mounted cgroup hierarchy has the controllers cpu and memory")
}
