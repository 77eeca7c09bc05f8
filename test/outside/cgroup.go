package outside

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// hierarchies are the mount points of cgroup hierarchies, v1 by controller, v2 under "".
func hierarchies() (map[string]string, error) {
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		switch {
		case len(f) < 4:
		case f[2] == "cgroup2":
			out[""] = f[1]
		case f[2] == "cgroup":
			for _, option := range strings.Split(f[3], ",") {
				out[option] = f[1]
			}
		}
	}
	return out, nil
}

// Cgroups finds every cgroup, in every hierarchy, whose path contains text.
func Cgroups(text string) ([]string, error) {
	all, err := hierarchies()
	if err != nil {
		return nil, err
	}
	seen, out := map[string]bool{}, []string(nil)
	for _, mount := range all {
		if seen[mount] {
			continue
		}
		seen[mount] = true
		err := filepath.WalkDir(mount, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() && strings.Contains(path, text) {
				out = append(out, path)
			}
			return nil // what goes away while we look is gone
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// CgroupValue reads a file of a container's cgroup: v1 names the controller's hierarchy and the file in it, v2 the file in the
// unified one.
func CgroupValue(uid, container, controller, v1, v2 string) (string, error) {
	all, err := hierarchies()
	if err != nil {
		return "", err
	}
	mount, file := all[controller], v1
	if mount == "" {
		mount, file = all[""], v2
	}
	dirs, err := Cgroups("pod" + uid + "/" + container)
	if err != nil {
		return "", err
	}
	for _, dir := range dirs {
		if strings.HasPrefix(dir, mount+"/") && filepath.Base(dir) == container {
			b, err := os.ReadFile(filepath.Join(dir, file))
			return strings.TrimSpace(string(b)), err
		}
	}
	return "", fmt.Errorf("no cgroup of container %s of pod %s below %s", container, uid, mount)
}

// ContainerPID is the first process in a container's cgroup.
func ContainerPID(uid, container string) (int, error) {
	procs, err := CgroupValue(uid, container, "pids", "cgroup.procs", "cgroup.procs")
	if err != nil {
		return 0, err
	}
	first, _, _ := strings.Cut(procs, "\n")
	return strconv.Atoi(first)
}
