// Command build packs one program that `make build` compiled into an OCI image archive.
//
//	build -name REF -program FILE -to ARCHIVE.tar.zst [-user UID] [-port N]
package main

import (
	"archive/tar"
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/klauspost/compress/zstd"
)

func main() {
	ref := flag.String("name", "", "the image's full reference")
	program := flag.String("program", "", "the image's only program")
	to := flag.String("to", "", "file to write")
	user := flag.String("user", "", "uid[:gid] it runs as")
	port := flag.Int("port", 0, "port it exposes")
	flag.Parse()
	fail(image(*ref, *program, *user, *port, *to))
}

func image(ref, program, user string, port int, to string) error {
	tag, err := name.NewTag(ref)
	if err != nil {
		return err
	}
	body, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	file := filepath.Base(program)
	var layerTar bytes.Buffer
	w := tar.NewWriter(&layerTar)
	// Reproducible: no times, no names of the builder.
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: file, Mode: 0o755, Size: int64(len(body)), Format: tar.FormatPAX, ModTime: time.Unix(0, 0)}); err != nil {
		return err
	}
	if _, err := w.Write(body); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layerTar.Bytes())), nil })
	if err != nil {
		return err
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return err
	}
	config := v1.Config{Entrypoint: []string{"/" + file}, WorkingDir: "/", User: user}
	if port != 0 {
		config.ExposedPorts = map[string]struct{}{fmt.Sprintf("%d/tcp", port): {}}
	}
	if img, err = mutate.ConfigFile(img, &v1.ConfigFile{
		OS: "linux", Architecture: runtime.GOARCH, Config: config, RootFS: rootFS(img),
	}); err != nil {
		return err
	}
	var archive bytes.Buffer
	if err := tarball.Write(tag, img, &archive); err != nil {
		return err
	}
	return pack(archive.Bytes(), to)
}

func rootFS(img v1.Image) v1.RootFS {
	c, err := img.ConfigFile()
	fail(err)
	return c.RootFS
}

func pack(b []byte, to string) error {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression))
	if err != nil {
		return err
	}
	temp := to + ".tmp"
	if err := os.WriteFile(temp, e.EncodeAll(b, nil), 0o644); err != nil {
		return err
	}
	return os.Rename(temp, to)
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "build:", err)
		os.Exit(1)
	}
}
