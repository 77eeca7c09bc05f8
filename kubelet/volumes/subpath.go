package volumes

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// subPath shows a part of a volume to a container: it opens the part without ever leaving the volume, whatever links
// the pod's containers put there at the same moment, and binds what it has opened (not its name) to target, a path only
// the node can write. What is missing is made as a directory. A target that already shows the same part is kept.
func subPath(volume, part, target string) error {
	fd, err := openBeneath(volume, part)
	if err != nil {
		return fmt.Errorf("subpath %q: %w", part, err)
	}
	defer unix.Close(fd)
	var want, have unix.Stat_t
	if err := unix.Fstat(fd, &want); err != nil {
		return fmt.Errorf("examine subpath %q: %w", part, err)
	}
	mounted, err := isMountPoint(target)
	if err != nil {
		return err
	}
	if mounted {
		if err := unix.Lstat(target, &have); err == nil && have.Dev == want.Dev && have.Ino == want.Ino {
			return nil
		}
		// It shows what the part was when the container started before: a file since replaced.
		if err := unmount(target); err != nil {
			return err
		}
	}
	if err := makeTarget(target, want.Mode&unix.S_IFMT == unix.S_IFDIR); err != nil {
		return fmt.Errorf("subpath %q: %w", part, err)
	}
	if err := unix.Mount("/proc/self/fd/"+strconv.Itoa(fd), target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind subpath %q to %s: %w", part, target, err)
	}
	return nil
}

// makeTarget makes the file or directory to bind over, in place of what an earlier attempt left.
func makeTarget(target string, dir bool) error {
	if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
		return err
	}
	if info, err := os.Lstat(target); err == nil {
		if info.IsDir() == dir {
			return nil
		}
		if err := os.Remove(target); err != nil {
			return err
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if dir {
		return os.Mkdir(target, 0o750)
	}
	f, err := os.OpenFile(target, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	return f.Close()
}

// openBeneath opens part below volume as an O_PATH descriptor, making missing directories on the way with the
// volume's own mode. Links are followed while they stay inside the volume; one that leaves it is an error.
func openBeneath(volume, part string) (int, error) {
	if filepath.IsAbs(part) || strings.ContainsRune(part, 0) {
		return -1, fmt.Errorf("must be a relative path")
	}
	for p := range strings.SplitSeq(part, "/") {
		if p == ".." {
			return -1, errors.New("must not contain '..'")
		}
	}
	// The volume's path is the node's own and may be anything the administrator wrote, links included (hostPath).
	root, err := unix.Open(volume, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open volume: %w", err)
	}
	defer unix.Close(root)
	part = filepath.Clean(part)
	fd, err := beneath(root, part)
	if err != unix.ENOENT {
		return fd, leaving(err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(root, &st); err != nil {
		return -1, fmt.Errorf("examine volume: %w", err)
	}
	// Find what there is, then make the rest step by step, each step relative to the directory just opened.
	parts := strings.Split(part, "/")
	have := len(parts) - 1
	for ; have > 0; have-- {
		if fd, err = beneath(root, strings.Join(parts[:have], "/")); err != unix.ENOENT {
			break
		}
	}
	if have == 0 {
		fd, err = unix.Dup(root)
	}
	if err != nil {
		return -1, leaving(err)
	}
	for _, name := range parts[have:] {
		err := unix.Mkdirat(fd, name, 0o700)
		made := err == nil
		if err != nil && err != unix.EEXIST {
			unix.Close(fd)
			return -1, fmt.Errorf("make directory %q: %w", name, err)
		}
		next, err := unix.Openat(fd, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		unix.Close(fd)
		if err != nil {
			return -1, fmt.Errorf("open directory %q: %w", name, err)
		}
		fd = next
		if made {
			// By descriptor, not name; the setgid bit that an fsGroup put on the parent is inherited and must stay.
			var own unix.Stat_t
			if err = unix.Fstat(fd, &own); err == nil {
				err = unix.Fchmodat(unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(fd), st.Mode&0o777|own.Mode&unix.S_ISGID, 0)
			}
			if err != nil {
				unix.Close(fd)
				return -1, fmt.Errorf("set mode of directory %q: %w", name, err)
			}
		}
	}
	return fd, nil
}

// beneath opens path under root with the kernel's own guard against leaving it (openat2, Linux 5.6).
func beneath(root int, path string) (int, error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS}
	for range 32 {
		fd, err := unix.Openat2(root, path, &how)
		if err == unix.EAGAIN { // something was renamed meanwhile, so the kernel cannot be sure: look again
			continue
		}
		return fd, err
	}
	return -1, unix.EAGAIN
}

func leaving(err error) error {
	if err == unix.EXDEV {
		return errors.New("leads out of the volume")
	}
	return err
}

// removeSubPaths unmounts and removes a pod's subPath targets: dir/VOLUME/CONTAINER/INDEX.
func removeSubPaths(dir string) error {
	targets, err := filepath.Glob(filepath.Join(escapeGlob(dir), "*", "*", "*"))
	if err != nil {
		return fmt.Errorf("list subpaths: %w", err)
	}
	for _, t := range targets {
		if err := unmount(t); err != nil {
			return err
		}
	}
	return removeTree(dir)
}

func escapeGlob(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}
