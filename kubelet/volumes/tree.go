package volumes

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// errMount says that a tree was not removed because something is mounted in it.
var errMount = errors.New("something is mounted there")

// isMountPoint says whether something is mounted at path itself (not above it). What is not there is no mount point.
func isMountPoint(path string) (bool, error) {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, 0, &st)
	switch {
	case err == unix.ENOENT || err == unix.ENOTDIR:
		return false, nil
	case err != nil:
		return false, fmt.Errorf("examine %s: %w", path, err)
	case st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT == 0:
		return false, fmt.Errorf("examine %s: this kernel does not tell mount points (Linux 5.8 or newer is needed)", path)
	}
	return st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
}

// unmount takes away everything mounted at path, however often it was mounted over. Nothing mounted is no error. What
// is busy is detached: it goes when its last user does, and nothing can reach it through path any more.
func unmount(path string) error {
	for range 64 {
		mounted, err := isMountPoint(path)
		if err != nil || !mounted {
			return err
		}
		err = unix.Unmount(path, unix.UMOUNT_NOFOLLOW)
		if err == unix.EBUSY {
			err = unix.Unmount(path, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
		}
		if err != nil {
			return fmt.Errorf("unmount %s: %w", path, err)
		}
	}
	return fmt.Errorf("unmount %s: mounted over more than 64 times", path)
}

// removeTree removes path and what is below, but never looks through a mount point: then it fails with errMount and
// leaves the mounted things alone. Every step is relative to an open directory, so a program that swaps names for
// links while we work cannot lead us elsewhere. What is not there is no error.
func removeTree(path string) error {
	parent, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open parent of %s: %w", path, err)
	}
	defer unix.Close(parent)
	return removeAt(parent, filepath.Base(path), path, 0)
}

func removeAt(parent int, name, path string, depth int) error {
	err := unix.Unlinkat(parent, name, 0)
	switch err {
	case nil, unix.ENOENT:
		return nil
	case unix.EISDIR, unix.EPERM: // a directory; EPERM is POSIX' word for it
	case unix.EBUSY:
		return fmt.Errorf("remove %s: %w", path, errMount)
	default:
		return fmt.Errorf("remove %s: %w", path, err)
	}
	if depth > 4096 {
		return fmt.Errorf("remove %s: nested too deeply", path)
	}
	fd, err := unix.Openat(parent, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove %s: %w", path, err)
	}
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, 0, &st); err != nil {
		unix.Close(fd)
		return fmt.Errorf("examine %s: %w", path, err)
	}
	if st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT == 0 || st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0 {
		unix.Close(fd)
		return fmt.Errorf("remove %s: %w", path, errMount)
	}
	dir := os.NewFile(uintptr(fd), path)
	defer dir.Close()
	for {
		names, err := dir.Readdirnames(256)
		for _, n := range names {
			if err := removeAt(int(dir.Fd()), n, filepath.Join(path, n), depth+1); err != nil {
				return err
			}
		}
		if err != nil || len(names) == 0 {
			break // the end, or unreadable: removing the directory tells which
		}
		if _, err := dir.Seek(0, 0); err != nil { // names removed while reading may shift others past the position
			return fmt.Errorf("read %s: %w", path, err)
		}
	}
	if err := unix.Unlinkat(parent, name, unix.AT_REMOVEDIR); err != nil && err != unix.ENOENT {
		return fmt.Errorf("remove %s: %w", path, err)
	}
	return nil
}

// mountsBelow lists the mount points at and below path, deepest and newest first.
func mountsBelow(path string) ([]string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	defer f.Close()
	var found []string
	s := bufio.NewScanner(f)
	s.Buffer(make([]byte, 0, 64<<10), 1<<20)
	for s.Scan() {
		fields := strings.SplitN(s.Text(), " ", 6)
		if len(fields) < 6 {
			continue
		}
		at := unescapeMount(fields[4])
		if at == path || strings.HasPrefix(at, path+"/") {
			found = append(found, at)
		}
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	// mountinfo lists parents before children: backwards is a safe order.
	for i, j := 0, len(found)-1; i < j; i, j = i+1, j-1 {
		found[i], found[j] = found[j], found[i]
	}
	return found, nil
}

// unescapeMount undoes the kernel's octal escapes of space, tab, newline and backslash.
func unescapeMount(s string) string {
	if strings.IndexByte(s, '\\') < 0 {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if c := int(s[i+1]-'0')<<6 | int(s[i+2]-'0')<<3 | int(s[i+3]-'0'); c > 0 && c < 256 {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// removeWithMounts unmounts everything below path, which lies in a pod's own directory, and removes the tree. The
// content of what was mounted stays as it is.
func removeWithMounts(path string) error {
	if err := removeTree(path); !errors.Is(err, errMount) {
		return err
	}
	mounts, err := mountsBelow(path)
	if err != nil {
		return err
	}
	for _, m := range mounts {
		if err := unmount(m); err != nil {
			return err
		}
	}
	return removeTree(path)
}

// setOwnership gives a volume's tree to a group, as fsGroup asks: group owner, group permission (read only for
// volumes that pods cannot write), and the setgid bit on directories so that new files inherit the group.
func setOwnership(dir string, group int64, readOnly bool) error {
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		}
		if err := os.Lchown(path, -1, int(group)); err != nil {
			return err
		}
		if info.Mode()&fs.ModeSymlink != 0 {
			return nil
		}
		mask := fs.FileMode(0o660)
		if readOnly {
			mask = 0o440
		}
		if info.IsDir() {
			mask |= 0o110 | fs.ModeSetgid
		}
		return os.Chmod(path, info.Mode()|mask)
	})
	if err != nil {
		return fmt.Errorf("give %s to group %d: %w", dir, group, err)
	}
	return nil
}
