// Package programs carries the small separate programs that a node and a user need, compressed inside the binary: the
// containerd shim, runc, the CNI plugin and kubectl. They are separate because every exec of a large Go program runs all
// its package initialisers (docs/decisions). `make build` puts them into files/ before it builds the binary.
package programs

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/klauspost/compress/zstd"
)

//go:embed all:files
var files embed.FS

// Node are the programs that a node runs.
var Node = []string{"containerd-shim-runc-v2", "runc", "wherry-cni"}

// Kubectl is the program behind `wherry kubectl`.
const Kubectl = "kubectl"

// Unpack writes the named programs below dir, once for each content, and returns the directory that holds exactly them
// under their own names. Another process may do the same at the same time; a crash at any point leaves nothing half-written under a final name.
func Unpack(dir string, names ...string) (string, error) {
	sum := sha256.New()
	packed := make([][]byte, len(names))
	for i, name := range names {
		b, err := files.ReadFile("files/" + name + ".zst")
		if errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("this binary was built without %s: build it with `make build`", name)
		} else if err != nil {
			return "", fmt.Errorf("read embedded %s: %w", name, err)
		}
		packed[i] = b
		fmt.Fprintf(sum, "%s %d\n", name, len(b))
		sum.Write(b)
	}
	final := filepath.Join(dir, hex.EncodeToString(sum.Sum(nil))[:16])
	if complete(final, names) {
		return final, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("unpack programs: %w", err)
	}
	temp, err := os.MkdirTemp(dir, ".unpack-")
	if err != nil {
		return "", fmt.Errorf("unpack programs: %w", err)
	}
	defer os.RemoveAll(temp)
	if err := os.Chmod(temp, 0o755); err != nil {
		return "", fmt.Errorf("unpack programs: %w", err)
	}
	errs := make([]error, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() { errs[i] = unpackOne(filepath.Join(temp, name), packed[i]) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return "", fmt.Errorf("unpack programs: %w", err)
	}
	if err := os.Rename(temp, final); err != nil && !complete(final, names) {
		return "", fmt.Errorf("unpack programs: %w", err)
	}
	return final, nil
}

func unpackOne(path string, packed []byte) error {
	r, err := zstd.NewReader(bytes.NewReader(packed))
	if err != nil {
		return err
	}
	defer r.Close()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	if _, err := f.ReadFrom(r); err != nil {
		f.Close()
		return err
	}
	// No fsync: the content is checked by name and size on use, and made again after a crash that tore it.
	return f.Close()
}

// complete reports whether every program is there, whole and executable.
func complete(dir string, names []string) bool {
	for _, name := range names {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode()&0o111 == 0 || info.Size() != size(name) {
			return false
		}
	}
	return true
}

// size is the unpacked size that the archive's header states; -1 when it states none.
func size(name string) int64 {
	b, err := files.ReadFile("files/" + name + ".zst")
	if err != nil {
		return -1
	}
	var h zstd.Header
	if err := h.Decode(b); err != nil || !h.HasFCS {
		return -1
	}
	return int64(h.FrameContentSize)
}
