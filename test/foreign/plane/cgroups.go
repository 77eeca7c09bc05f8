package plane

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// cgroupParent is where Wherry's clusters have theirs too.
const cgroupParent = "wherry"

// CgroupRoot makes a cgroup for the containers of a test, in every hierarchy of this machine, and returns its path below each. It goes with the tests.
func CgroupRoot(t testing.TB, name string) string {
	t.Helper()
	root := filepath.Join("/", cgroupParent, filepath.Base(os.Getenv(inside)), name)
	mounts, err := hierarchies()
	if err != nil {
		t.Fatal(err)
	}
	for _, mount := range mounts {
		if err := os.MkdirAll(filepath.Join(mount, root), 0o755); err != nil {
			t.Fatalf("make cgroup %s: %v", root, err)
		}
		if err := inheritSets(mount, root); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// inheritSets gives the new cgroups of a cpuset hierarchy their parents' processors and memory: version 1 leaves them without any.
func inheritSets(mount, root string) error {
	dir := mount
	for _, part := range strings.Split(strings.Trim(root, "/"), "/") {
		parent := dir
		dir = filepath.Join(dir, part)
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			now, err := os.ReadFile(filepath.Join(dir, file))
			if err != nil || strings.TrimSpace(string(now)) != "" {
				continue // another hierarchy, or set already
			}
			above, err := os.ReadFile(filepath.Join(parent, file))
			if err != nil {
				return fmt.Errorf("read %s of %s: %w", file, parent, err)
			}
			if err := os.WriteFile(filepath.Join(dir, file), above, 0o644); err != nil {
				return fmt.Errorf("set %s of %s: %w", file, dir, err)
			}
		}
	}
	return nil
}

// hierarchies are the mount points of cgroup hierarchies.
func hierarchies() (mounts []string, err error) {
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) > 3 && (f[2] == "cgroup" || f[2] == "cgroup2") && !slices.Contains(mounts, f[1]) {
			mounts = append(mounts, f[1])
		}
	}
	return mounts, nil
}

// removeCgroups removes the cgroups of tests that have ended, whose processes ended with them.
func removeCgroups(name string) error {
	mounts, err := hierarchies()
	if err != nil {
		return err
	}
	var errs []error
	for _, mount := range mounts {
		parent := filepath.Join(mount, cgroupParent)
		top := filepath.Join(parent, name)
		var dirs []string
		_ = filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		slices.Reverse(dirs) // children before their parents
		for _, dir := range dirs {
			if err := removeCgroup(dir); err != nil {
				errs = append(errs, err)
			}
		}
		if len(dirs) > 0 {
			_ = os.Remove(parent) // when nobody else is in it
		}
	}
	return errors.Join(errs...)
}

// removeCgroup removes an empty cgroup; its last process may still be on its way out.
func removeCgroup(dir string) error {
	deadline := time.Now().Add(5 * time.Second)
	for {
		err := os.Remove(dir)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if !errors.Is(err, syscall.EBUSY) || time.Now().After(deadline) {
			return fmt.Errorf("remove cgroup: %w", err)
		}
		time.Sleep(pollInterval)
	}
}

// Cover mounts a new file system of files in memory over each of the folders, for the tests alone, so that programs which insist on these paths
// do not touch the machine's.
func Cover(t testing.TB, folders ...string) {
	t.Helper()
	for _, folder := range folders {
		if err := syscall.Mount("tmpfs", folder, "tmpfs", 0, ""); err != nil {
			t.Fatalf("cover %s: %v", folder, err)
		}
	}
}

// Sysctl makes a setting of the kernel read as value in the tests' mount namespace; the kernel's own is not touched.
func Sysctl(t testing.TB, name string, value int) {
	t.Helper()
	file := filepath.Join(Dir(t), "value")
	if err := os.WriteFile(file, []byte(strconv.Itoa(value)+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("/proc/sys", strings.ReplaceAll(name, ".", "/"))
	if err := syscall.Mount(file, path, "", syscall.MS_BIND, ""); err != nil {
		t.Fatalf("cover %s: %v", path, err)
	}
}
