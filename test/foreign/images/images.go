// Package images makes the container images that foreign suites ask for, without any image registry: programs are built from released Go modules,
// the rest is Debian's packages. An image has the name under which its suite asks for it, and is imported onto the nodes.
package images

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"wherry.dev/wherry/test/foreign/build"
)

// Config is what the runtime reads of an image (OCI image specification, config.md).
type Config struct {
	Entrypoint   []string            `json:",omitempty"`
	Cmd          []string            `json:",omitempty"`
	Env          []string            `json:",omitempty"`
	User         string              `json:",omitempty"`
	WorkingDir   string              `json:",omitempty"`
	StopSignal   string              `json:",omitempty"`
	ExposedPorts map[string]struct{} `json:",omitempty"`
}

// Image says what is in an image. Its parts are laid into one layer in the order of the fields: what comes later replaces what came before.
type Image struct {
	Refs     []string          // the names it is imported under
	Debian   []string          // packages, with all that they depend on
	Busybox  bool              // BusyBox's applets, where no package brings the real program
	Files    map[string]string // path in the image → file on this machine
	Programs map[string]string // path in the image → a program of build.Programs
	Modes    map[string]int64  // modes of files that are not what their kind usually has
	Links    map[string]string // path in the image → what the symbolic link says
	Dirs     map[string]int64  // directories and their modes
	Texts    map[string]string // path in the image → content
	Config   Config
}

// Archive makes one archive of all images, in the form of docker save, for `wherry images import`. It is kept, and made anew when what the
// images are made of has changed. It returns the archive's path.
func Archive(dir string, all []Image) (string, error) {
	digest, err := digest(all)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make the images' folder: %w", err)
	}
	path := filepath.Join(dir, "images-"+digest[:16]+".tar")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	if err := write(path+".new", dir, all); err != nil {
		os.Remove(path + ".new")
		return "", err
	}
	old, err := filepath.Glob(filepath.Join(dir, "images-*.tar"))
	if err != nil {
		return "", err
	}
	for _, o := range old { // they are large, and nobody will ask for them
		if err := os.Remove(o); err != nil {
			return "", fmt.Errorf("remove former images: %w", err)
		}
	}
	return path, os.Rename(path+".new", path)
}

// write makes an archive as docker save does: for each image a configuration and one layer, and a manifest of them all.
func write(path, cache string, all []Image) error {
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("make the images' archive: %w", err)
	}
	defer f.Close()
	w := tar.NewWriter(f)
	put := func(name string, body []byte) error {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(body))}); err != nil {
			return fmt.Errorf("write %s to the images' archive: %w", name, err)
		}
		_, err := io.Copy(w, bytes.NewReader(body))
		return err
	}
	type entry struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	var manifest []entry
	written := map[string]bool{}
	for _, i := range all {
		layer, err := i.layer(cache)
		if err != nil {
			return fmt.Errorf("make image %s: %w", i.Refs[0], err)
		}
		config, err := json.Marshal(map[string]any{"os": "linux", "architecture": runtime.GOARCH, "config": i.config(),
			"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + sum(layer)}}})
		if err != nil {
			return err
		}
		e := entry{Config: sum(config) + ".json", RepoTags: i.Refs, Layers: []string{sum(layer) + ".tar"}}
		manifest = append(manifest, e)
		for name, body := range map[string][]byte{e.Config: config, e.Layers[0]: layer} {
			if written[name] {
				continue
			}
			written[name] = true
			if err := put(name, body); err != nil {
				return err
			}
		}
	}
	b, err := json.Marshal(manifest)
	if err != nil {
		return err
	}
	if err := put("manifest.json", b); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return fmt.Errorf("write the images' archive: %w", err)
	}
	return f.Close()
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

// digest is of what the images say, and of the files in them.
func digest(all []Image) (string, error) {
	sum := sha256.New()
	enc := json.NewEncoder(sum)
	for _, i := range all {
		if err := enc.Encode(i); err != nil {
			return "", err
		}
		for _, program := range i.Programs {
			path, err := build.Ensure(program)
			if err != nil {
				return "", err
			}
			info, err := os.Stat(path)
			if err != nil {
				return "", err
			}
			fmt.Fprintln(sum, program, info.Size(), info.ModTime().UnixNano())
		}
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// layer is all files of the image.
func (i Image) layer(cache string) ([]byte, error) {
	var l layer
	l.begin()
	for _, dir := range []string{"etc", "tmp", "var", "root", "usr", "usr/bin", "proc", "sys", "dev"} {
		l.dir(dir, 0o755)
	}
	l.dir("tmp", 0o1777)
	for name, text := range map[string]string{
		"etc/passwd":        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
		"etc/group":         "root:x:0:\nnobody:x:65534:\n",
		"etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
	} {
		l.file(name, []byte(text), 0o644)
	}
	packages := i.Debian
	if i.Busybox {
		packages = append([]string{"busybox"}, packages...)
	}
	if len(packages) > 0 {
		if err := l.debian(cache, packages); err != nil {
			return nil, err
		}
	}
	if i.Busybox {
		if err := l.applets(cache); err != nil {
			return nil, err
		}
	}
	for path, from := range i.Files {
		if err := l.copy(path, from, i.mode(path, 0o644)); err != nil {
			return nil, err
		}
	}
	for path, program := range i.Programs {
		from, err := build.Ensure(program)
		if err != nil {
			return nil, err
		}
		if err := l.copy(path, from, i.mode(path, 0o755)); err != nil {
			return nil, err
		}
	}
	for path, mode := range i.Dirs {
		l.dir(path, mode)
	}
	for path, text := range i.Texts {
		l.file(path, []byte(text), i.mode(path, 0o644))
	}
	for path, to := range i.Links {
		l.link(path, to)
	}
	return l.end()
}

func (i Image) config() Config {
	c := i.Config
	if !hasPath(c.Env) {
		c.Env = append(c.Env, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	}
	return c
}

func (i Image) mode(path string, usual int64) int64 {
	if m, ok := i.Modes[path]; ok {
		return m
	}
	return usual
}

func hasPath(env []string) bool {
	for _, e := range env {
		if strings.HasPrefix(e, "PATH=") {
			return true
		}
	}
	return false
}
