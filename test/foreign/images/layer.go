package images

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// layer is a file tree in the making. Paths have no leading slash.
type layer struct {
	entries map[string]entry
}

type entry struct {
	header tar.Header
	body   []byte
}

func (l *layer) begin() { l.entries = map[string]entry{} }

func (l *layer) put(h tar.Header, body []byte) {
	h.Name = clean(h.Name)
	if h.Name == "" {
		return
	}
	for dir := path.Dir(h.Name); dir != "."; dir = path.Dir(dir) {
		if _, ok := l.entries[dir]; !ok {
			l.entries[dir] = entry{header: tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755}}
		}
	}
	h.Size, h.ModTime, h.AccessTime, h.ChangeTime, h.Format = int64(len(body)), time.Unix(0, 0), time.Time{}, time.Time{}, tar.FormatPAX
	l.entries[h.Name] = entry{header: h, body: body}
}

func clean(name string) string { return strings.Trim(path.Clean("/"+name), "/") }

func (l *layer) dir(name string, mode int64) {
	l.put(tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: mode}, nil)
}

func (l *layer) file(name string, body []byte, mode int64) {
	l.put(tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode}, body)
}

func (l *layer) link(name, to string) {
	l.put(tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to, Mode: 0o777}, nil)
}

func (l *layer) copy(name, from string, mode int64) error {
	body, err := os.ReadFile(from)
	if err != nil {
		return fmt.Errorf("read a file of the image: %w", err)
	}
	l.file(name, body, mode)
	return nil
}

// debian adds packages and what they depend on, as apt resolves it for a machine that has nothing. No script of a package runs.
func (l *layer) debian(cache string, packages []string) error {
	dir, err := os.MkdirTemp(cache, "apt-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.MkdirAll(filepath.Join(dir, "partial"), 0o755); err != nil {
		return err
	}
	status := filepath.Join(dir, "status") // that of a machine without any package
	if err := os.WriteFile(status, nil, 0o644); err != nil {
		return err
	}
	args := append([]string{"install", "--yes", "--quiet", "--no-install-recommends", "--download-only", "-o", "Dir::State::status=" + status,
		"-o", "Dir::Cache::archives=" + dir, "-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User=root"}, packages...)
	if out, err := exec.Command("apt-get", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("fetch Debian's %s (is apt-get update due?): %w: %s", strings.Join(packages, ", "), err, out)
	}
	debs, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil {
		return err
	}
	for _, deb := range debs {
		content, err := exec.Command("dpkg-deb", "--fsys-tarfile", deb).Output()
		if err != nil {
			return fmt.Errorf("unpack %s: %w", filepath.Base(deb), err)
		}
		if err := l.untar(content); err != nil {
			return fmt.Errorf("read %s: %w", filepath.Base(deb), err)
		}
	}
	return nil
}

// unneeded are the parts of packages that no container reads.
var unneeded = []string{"usr/share/doc/", "usr/share/man/", "usr/share/locale/", "usr/share/info/", "usr/share/lintian/"}

func (l *layer) untar(content []byte) error {
	r := tar.NewReader(bytes.NewReader(content))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := clean(h.Name)
		if slices.ContainsFunc(unneeded, func(p string) bool { return strings.HasPrefix(name+"/", p) }) {
			continue
		}
		body, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		if old, ok := l.entries[name]; ok && h.Typeflag == tar.TypeDir && old.header.Typeflag == tar.TypeDir {
			continue // the first to own a directory says its mode
		}
		if h.Typeflag == tar.TypeLink {
			h.Linkname = clean(h.Linkname)
		}
		l.put(*h, body)
	}
}

// applets links to BusyBox what no package brought.
func (l *layer) applets(cache string) error {
	program, ok := l.entries["bin/busybox"]
	if !ok {
		return errors.New("there is no bin/busybox to link to")
	}
	f, err := os.CreateTemp(cache, "busybox-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if _, err := f.Write(program.body); err != nil {
		return err
	}
	if err := errors.Join(f.Chmod(0o755), f.Close()); err != nil {
		return err
	}
	out, err := exec.Command(f.Name(), "--list").Output()
	if err != nil {
		return fmt.Errorf("list BusyBox's applets: %w", err)
	}
	for _, applet := range strings.Fields(string(out)) {
		if !l.has("bin/"+applet, "sbin/"+applet, "usr/bin/"+applet, "usr/sbin/"+applet) {
			l.link("bin/"+applet, "busybox")
		}
	}
	return nil
}

func (l *layer) has(names ...string) bool {
	return slices.ContainsFunc(names, func(name string) bool { _, ok := l.entries[name]; return ok })
}

// end packs the tree: parents before children, the targets of hard links before the links.
func (l *layer) end() ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	write := func(e entry) error {
		if e.header.Typeflag == tar.TypeDir {
			e.header.Name += "/"
		}
		if err := w.WriteHeader(&e.header); err != nil {
			return fmt.Errorf("pack %s: %w", e.header.Name, err)
		}
		_, err := w.Write(e.body)
		return err
	}
	var links []entry
	for _, name := range slices.Sorted(maps.Keys(l.entries)) {
		e := l.entries[name]
		if e.header.Typeflag == tar.TypeLink {
			links = append(links, e)
			continue
		}
		if err := write(e); err != nil {
			return nil, err
		}
	}
	for _, e := range links {
		if err := write(e); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
