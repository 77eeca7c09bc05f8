package volumes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// hostPath shows a path of the node itself. It owns nothing and so removes nothing.
type hostPath struct{}

func (hostPath) Name() string                   { return "kubernetes.io/host-path" }
func (hostPath) Supports(v *corev1.Volume) bool { return v.HostPath != nil }

func (hostPath) SetUp(_ context.Context, r Request) (Result, error) {
	path := r.Volume.HostPath.Path
	if !filepath.IsAbs(path) {
		return Result{}, fmt.Errorf("hostPath %q is not an absolute path", path)
	}
	path = filepath.Clean(path)
	if t := r.Volume.HostPath.Type; t != nil {
		if err := checkHostPath(path, *t); err != nil {
			return Result{}, err
		}
	}
	return Result{Path: path}, nil
}

func (hostPath) TearDown(context.Context, types.UID, string, string) error { return nil }

// checkHostPath holds the path against the type the volume asks for, and makes it where the type says so.
func checkHostPath(path string, t corev1.HostPathType) error {
	if t == corev1.HostPathUnset {
		return nil
	}
	info, err := os.Stat(path)
	absent := errors.Is(err, fs.ErrNotExist)
	if err != nil && !absent {
		return fmt.Errorf("hostPath type check failed: %w", err)
	}
	if absent {
		switch t {
		case corev1.HostPathDirectoryOrCreate:
			if err := os.MkdirAll(path, 0o755); err != nil {
				return fmt.Errorf("hostPath type check failed: %w", err)
			}
			return nil
		case corev1.HostPathFileOrCreate:
			f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
			if errors.Is(err, fs.ErrExist) {
				return checkHostPath(path, corev1.HostPathFile) // another pod was first
			}
			if err != nil {
				return fmt.Errorf("hostPath type check failed: %w", err)
			}
			return f.Close()
		}
	}
	var is func(fs.FileMode) bool
	var what string
	switch t {
	case corev1.HostPathDirectory, corev1.HostPathDirectoryOrCreate:
		what, is = "a directory", fs.FileMode.IsDir
	case corev1.HostPathFile, corev1.HostPathFileOrCreate:
		what, is = "a file", fs.FileMode.IsRegular
	case corev1.HostPathSocket:
		what, is = "a socket file", func(m fs.FileMode) bool { return m&fs.ModeSocket != 0 }
	case corev1.HostPathCharDev:
		what, is = "a character device", func(m fs.FileMode) bool { return m&fs.ModeCharDevice != 0 }
	case corev1.HostPathBlockDev:
		what, is = "a block device", func(m fs.FileMode) bool { return m&fs.ModeDevice != 0 && m&fs.ModeCharDevice == 0 }
	default:
		return fmt.Errorf("%s is an invalid volume type", t)
	}
	if absent || !is(info.Mode()) {
		return fmt.Errorf("hostPath type check failed: %s is not %s", path, what)
	}
	return nil
}
