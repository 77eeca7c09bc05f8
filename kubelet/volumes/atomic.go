package volumes

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// file is one file of a volume whose content comes from the API.
type file struct {
	data []byte
	mode fs.FileMode // permission bits
	user *int64      // owner; nil is root
}

// payload is the whole content of such a volume, by slash-separated relative path.
type payload map[string]file

const (
	dataLink    = "..data"
	newDataLink = "..data_tmp"
)

// writeAtomically makes dir show exactly the payload, all at once: the files lie in a directory with a timestamped
// name, ..data points to it, and every visible name points through ..data, so that one rename changes all of them.
// This is upstream's layout, which programs that watch for ..data rely on. own, if not nil, is applied to the
// timestamped directory before it becomes visible. A crash at any point leaves the old content or the new, and the next
// write clears up after it. Callers hold the volume; dir must exist. changed says whether anything was written.
func writeAtomically(dir string, p payload, own func(dir string) error) (changed bool, err error) {
	for path := range p {
		if err := checkPayloadPath(path); err != nil {
			return false, err
		}
	}
	current, err := os.Readlink(filepath.Join(dir, dataLink))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("read %s of %s: %w", dataLink, dir, err)
	}
	if current != "" && (strings.ContainsRune(current, '/') || !strings.HasPrefix(current, "..")) {
		current = "" // not of our making
	}
	if current == "" || !holds(filepath.Join(dir, current), p) {
		stamped, err := os.MkdirTemp(dir, time.Now().UTC().Format("..2006_01_02_15_04_05."))
		if err != nil {
			return false, fmt.Errorf("make data directory in %s: %w", dir, err)
		}
		if err := fill(stamped, p, own); err != nil {
			return false, errors.Join(err, os.RemoveAll(stamped))
		}
		link := filepath.Join(dir, newDataLink)
		if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, fmt.Errorf("remove leftover of an earlier write: %w", err)
		}
		if err := os.Symlink(filepath.Base(stamped), link); err != nil {
			return false, fmt.Errorf("link new data: %w", err)
		}
		if err := os.Rename(link, filepath.Join(dir, dataLink)); err != nil {
			return false, fmt.Errorf("switch %s to new data: %w", dir, err)
		}
		current, changed = filepath.Base(stamped), true
	}
	if err := showAndTidy(dir, current, p); err != nil {
		return changed, err
	}
	return changed, nil
}

// checkPayloadPath refuses what would leave the volume or collide with the layout.
func checkPayloadPath(path string) error {
	switch {
	case path == "":
		return errors.New("invalid path: must not be empty")
	case strings.HasPrefix(path, "/"):
		return fmt.Errorf("invalid path: must be relative path: %s", path)
	case len(path) > unix.PathMax:
		return fmt.Errorf("invalid path: must be less than or equal to %d characters", unix.PathMax)
	case strings.HasPrefix(path, ".."):
		return fmt.Errorf("invalid path: must not start with '..': %s", path)
	}
	for part := range strings.SplitSeq(path, "/") {
		switch {
		case part == ".." || part == "." || part == "":
			return fmt.Errorf("invalid path: must not contain '..': %s", path)
		case len(part) > 255:
			return fmt.Errorf("invalid path: filenames must be less than or equal to 255 characters: %s", path)
		case strings.IndexByte(part, 0) >= 0:
			return fmt.Errorf("invalid path: must not contain a null byte: %q", path)
		}
	}
	return nil
}

// holds says whether a data directory already has exactly the payload.
func holds(dir string, p payload) bool {
	seen := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		f, ok := p[rel]
		if !ok {
			return errors.New("differs")
		}
		info, err := d.Info()
		// Group bits may have been widened by fsGroup, so only the owner's part of the mode counts.
		if err != nil || !info.Mode().IsRegular() || info.Size() != int64(len(f.data)) || (info.Mode()^f.mode)&0o700 != 0 {
			return errors.New("differs")
		}
		have, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(have, f.data) {
			return errors.New("differs")
		}
		seen++
		return nil
	})
	return err == nil && seen == len(p)
}

// fill writes the payload into a fresh directory.
func fill(dir string, p payload, own func(string) error) error {
	// MkdirTemp makes it 0700; every user of the pod must be able to look inside.
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	for path, f := range p {
		full := filepath.Join(dir, path)
		if strings.Contains(path, "/") {
			if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
				return fmt.Errorf("make directory of %s: %w", path, err)
			}
		}
		if err := writeFile(full, f); err != nil {
			return err
		}
	}
	if own != nil {
		return own(dir)
	}
	return nil
}

func writeFile(path string, f file) error {
	w, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("write volume file: %w", err)
	}
	_, err = w.Write(f.data)
	if err == nil {
		err = w.Chmod(f.mode) // not by open: the process' umask must not take part
	}
	if err == nil && f.user != nil {
		err = w.Chown(int(*f.user), -1)
	}
	if err = errors.Join(err, w.Close()); err != nil {
		return fmt.Errorf("write volume file: %w", err)
	}
	return nil
}

// showAndTidy makes the visible names those of the payload and removes data directories that ..data does not name.
func showAndTidy(dir, current string, p payload) error {
	visible := make(map[string]bool, len(p))
	for path := range p {
		top, _, _ := strings.Cut(path, "/")
		visible[top] = true
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("list %s: %w", dir, err)
	}
	names := make([]string, 0, len(visible))
	for name := range visible {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, e := range entries {
		name := e.Name()
		switch {
		case name == dataLink || name == current:
		case visible[name]:
			// What is already shown stays; what is there but no link of ours is replaced.
			if target, err := os.Readlink(filepath.Join(dir, name)); err == nil && target == filepath.Join(dataLink, name) {
				delete(visible, name)
				continue
			}
			if err := removeTree(filepath.Join(dir, name)); err != nil {
				return err
			}
		default:
			if err := removeTree(filepath.Join(dir, name)); err != nil {
				return err
			}
		}
	}
	for _, name := range names {
		if visible[name] {
			if err := os.Symlink(filepath.Join(dataLink, name), filepath.Join(dir, name)); err != nil {
				return fmt.Errorf("show volume file: %w", err)
			}
		}
	}
	return nil
}
