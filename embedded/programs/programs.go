// Package programs carries the separate programs that a node and a user need, compressed inside the binary: containerd and its
// shim, runc, the CNI plugin and kubectl. They are separate because every exec of a large Go program runs all
// its package initialisers, and because some of them keep the linker from leaving out what nobody calls (docs/decisions). `make build` puts them into files/ before it builds the binary.
package programs

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/klauspost/compress/zstd"
)

//go:embed all:files
var files embed.FS

// Node are the programs that a node runs.
var Node = []string{"containerd", "containerd-shim-runc-v2", "runc", "wherry-cni"}

// Kubectl is the program behind `wherry kubectl`.
const Kubectl = "kubectl"

// Unpack writes the named programs below dir, once for each content, and returns the directory that holds exactly them
// under their own names. Another process may do the same at the same time; a crash at any point leaves nothing half-written under a final name.
func Unpack(dir string, names ...string) (string, error) {
	sum := sha256.New()
	for _, name := range names {
		if err := identify(sum, name); err != nil {
			return "", err
		}
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
		wg.Go(func() { errs[i] = unpackOne(filepath.Join(temp, name), name) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return "", fmt.Errorf("unpack programs: %w", err)
	}
	err = os.Rename(temp, final)
	if err == nil || complete(final, names) {
		return final, nil
	}
	// What is there was torn by a crash of the machine: it makes room for what is whole.
	torn := temp + ".torn"
	if err := os.Rename(final, torn); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("unpack programs: %w", err)
	}
	defer os.RemoveAll(torn)
	if err := os.Rename(temp, final); err != nil && !complete(final, names) {
		return "", fmt.Errorf("unpack programs: %w", err)
	}
	return final, nil
}

// archive is one embedded program, packed. Reading from it copies nothing beforehand.
type archive interface {
	io.ReadCloser
	io.ReaderAt
}

func open(name string) (a archive, size int64, err error) {
	f, err := files.Open("files/" + name + ".zst")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, fmt.Errorf("this binary was built without %s: build it with `make build`", name)
	} else if err != nil {
		return nil, 0, fmt.Errorf("read embedded %s: %w", name, err)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, 0, fmt.Errorf("read embedded %s: %w", name, err)
	}
	return f.(archive), info.Size(), nil // as embed.FS promises of its files
}

// identify writes what tells this content of the program from every other: its sizes, and the checksum that zstd keeps in the last
// four bytes (RFC 8878, 3.1.1). Reading all of it at every start would cost 20 MB of memory and as many milliseconds.
func identify(to io.Writer, name string) error {
	a, size, err := open(name)
	if err != nil {
		return err
	}
	defer a.Close()
	h, err := header(a)
	if err != nil {
		return fmt.Errorf("read embedded %s: %w", name, err)
	}
	const checksum = 4
	b := make([]byte, checksum)
	if !h.HasCheckSum {
		b = make([]byte, size)
	}
	if _, err := a.ReadAt(b, size-int64(len(b))); err != nil {
		return fmt.Errorf("read embedded %s: %w", name, err)
	}
	fmt.Fprintf(to, "%s %d %d %x\n", name, size, h.FrameContentSize, b)
	return nil
}

func header(a archive) (h zstd.Header, err error) {
	b := make([]byte, zstd.HeaderMaxSize)
	n, err := a.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return h, err
	}
	return h, h.Decode(b[:n])
}

func unpackOne(path, name string) error {
	a, _, err := open(name)
	if err != nil {
		return err
	}
	defer a.Close()
	// All programs at the same time, each on one thread.
	r, err := zstd.NewReader(a, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true))
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
	a, _, err := open(name)
	if err != nil {
		return -1
	}
	defer a.Close()
	h, err := header(a)
	if err != nil || !h.HasFCS {
		return -1
	}
	return int64(h.FrameContentSize)
}
