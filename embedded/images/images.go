// Package images carries the two container images that come with Wherry, compressed inside the binary: the sandbox
// image, whose only process holds a pod's namespaces, and the sample app. `make build` puts them into files/.
package images

import (
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
)

//go:embed all:files
var files embed.FS

// Image is one embedded image.
type Image struct {
	Name   string // full reference
	file   string
	Pinned bool // never garbage collected
}

// The images. Their tags change when their content does.
var (
	Sandbox = Image{Name: "wherry.dev/pause:1", file: "pause.tar.zst", Pinned: true}
	Sample  = Image{Name: "wherry.dev/sample:1", file: "sample.tar.zst"}
)

// Open returns the image's OCI archive, zstd-compressed as containerd imports it.
func (i Image) Open() (io.Reader, error) {
	f, err := files.Open("files/" + i.file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("this binary was built without the image %s: build it with `make build`", i.Name)
	} else if err != nil {
		return nil, fmt.Errorf("read embedded image %s: %w", i.Name, err)
	}
	return f, nil
}
