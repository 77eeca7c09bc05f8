package local

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// Each node has a network namespace and a mount namespace, pinned as files so that they stay while none of the
// node's processes runs. Its mounts (overlays, tmpfs of secrets) are therefore nobody else's and go when the namespace goes.

// onThread runs f on an operating system thread of its own, which is thrown away, so that f may change the thread's namespaces.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the runtime ends the thread with the goroutine
		done <- f()
	}()
	return <-done
}

// ensureNamespaceDir makes the directory of the pins a private mount: a pin on a shared one would be copied into
// the very namespace that it pins, which the kernel refuses.
func (c *Cluster) ensureNamespaceDir() error {
	dir := c.namespaceDir()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make %s: %w", dir, err)
	}
	if mounted, err := isMountPoint(dir); err != nil || mounted {
		return err
	}
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s: %w", dir, err)
	}
	if err := unix.Mount("", dir, "", unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make %s private: %w", dir, err)
	}
	return nil
}

// ensureNamespaces makes node i's namespaces unless they are there, and reports whether the network namespace is new.
func (c *Cluster) ensureNamespaces(i int) (fresh bool, err error) {
	if fresh, err = c.ensureNamespace("net", i, func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("new network namespace: %w", err)
		}
		return nil
	}); err != nil {
		return false, err
	}
	_, err = c.ensureNamespace("mnt", i, func() error {
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("new mount namespace: %w", err)
		}
		// Private first, so that nothing reaches the machine; then shared among the node's own: mount propagation to
		// containers (volumeMounts.mountPropagation) needs it.
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return fmt.Errorf("make mounts private: %w", err)
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
			return fmt.Errorf("make mounts shared within the node: %w", err)
		}
		return nil
	})
	return fresh, err
}

func (c *Cluster) ensureNamespace(kind string, i int, enter func() error) (fresh bool, err error) {
	pin := c.namespace(kind, i)
	if mounted, err := isMountPoint(pin); err != nil || mounted {
		return false, err
	}
	f, err := os.OpenFile(pin, os.O_CREATE|os.O_RDONLY, 0o600)
	if err != nil {
		return false, fmt.Errorf("pin namespace: %w", err)
	}
	f.Close()
	// A mount namespace may be pinned only in one with a lower number, lest they pin each other. Since Linux 6.18 the numbers are dealt
	// out to processors in batches, so that a later namespace may have a lower number than the one we are in. On the
	// processor where ours was made the next one is higher for certain: try them all.
	var allowed unix.CPUSet
	if err := unix.SchedGetaffinity(0, &allowed); err != nil {
		return false, fmt.Errorf("list processors: %w", err)
	}
	err = pinNamespace(kind, pin, enter)
	for cpu := 0; errors.Is(err, unix.EINVAL) && cpu < len(allowed)*64; cpu++ {
		if !allowed.IsSet(cpu) {
			continue
		}
		err = pinNamespace(kind, pin, func() error {
			var one unix.CPUSet
			one.Set(cpu)
			if err := unix.SchedSetaffinity(0, &one); err != nil { // of this thread, which ends
				return fmt.Errorf("move to processor %d: %w", cpu, err)
			}
			return enter()
		})
	}
	if err != nil {
		return false, fmt.Errorf("pin %s namespace of node %d: %w", kind, i, err)
	}
	return true, nil
}

// pinNamespace runs enter, which changes a thread's namespace, and pins what that thread is in then.
func pinNamespace(kind, pin string, enter func() error) error {
	// The pin is mounted by this thread, in the machine's mount namespace, while the other thread is in the new one.
	entered, pinned := make(chan string), make(chan struct{})
	failed := make(chan error, 1)
	go func() {
		failed <- onThread(func() error {
			if err := enter(); err != nil {
				return err
			}
			entered <- filepath.Join("/proc", strconv.Itoa(os.Getpid()), "task", strconv.Itoa(unix.Gettid()), "ns", kind)
			<-pinned
			return nil
		})
	}()
	select {
	case err := <-failed:
		return err
	case path := <-entered:
		err := unix.Mount(path, pin, "", unix.MS_BIND, "")
		close(pinned)
		<-failed
		return err
	}
}

// inNode runs f on a thread in node i's network namespace, and in its mount namespace too if mounts is set.
func (c *Cluster) inNode(i int, mounts bool, f func() error) error {
	return onThread(func() error {
		network, err := openNamespace(c.namespace("net", i))
		if err != nil {
			return err
		}
		defer unix.Close(network)
		if mounts {
			mount, err := openNamespace(c.namespace("mnt", i))
			if err != nil {
				return err
			}
			defer unix.Close(mount)
			// A thread may change its mount namespace only when it shares its root and working directory with no other.
			if err := unix.Unshare(unix.CLONE_FS); err != nil {
				return fmt.Errorf("unshare fs: %w", err)
			}
			if err := unix.Setns(mount, unix.CLONE_NEWNS); err != nil {
				return fmt.Errorf("enter mount namespace of node %d: %w", i, err)
			}
		}
		if err := unix.Setns(network, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace of node %d: %w", i, err)
		}
		return f()
	})
}

func openNamespace(path string) (int, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open namespace %s: %w", path, err)
	}
	return fd, nil
}

// removeNamespaces unpins everything. A namespace ends with its last process.
func (c *Cluster) removeNamespaces() error {
	dir := c.namespaceDir()
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("unpin namespaces: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if err := unmountAll(filepath.Join(dir, e.Name())); err != nil {
			errs = append(errs, err)
		}
	}
	errs = append(errs, unmountAll(dir))
	return errors.Join(errs...)
}

// unmountAll unmounts path as often as something is mounted there; nothing there is no error.
func unmountAll(path string) error {
	for {
		switch err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); {
		case err == nil:
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
			return nil
		default:
			return fmt.Errorf("unmount %s: %w", path, err)
		}
	}
}

// isMountPoint reports whether something is mounted at path itself (statx(2), STATX_ATTR_MOUNT_ROOT).
func isMountPoint(path string) (bool, error) {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, 0, &st)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("stat %s: %w", path, err)
	}
	return st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
}
