package logs

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// RotateConfig says when log files are rotated and how many are kept.
type RotateConfig struct {
	// MaxSize is the size in bytes from which a file is rotated; 0 is upstream's default of 10 MiB (containerLogMaxSize).
	MaxSize int64
	// MaxFiles is how many files are kept for a container, the current one included; 0 is upstream's default of 5 (containerLogMaxFiles), 2 the least.
	MaxFiles int
	// Interval is how often sizes are looked at; 0 is upstream's default of 10 s (containerLogMonitorInterval).
	Interval time.Duration
	// Running lists the logs of running containers.
	Running func() []File
	// Reopen tells the runtime that the container's log was moved away: it opens a new file before Reopen returns.
	Reopen func(ctx context.Context, containerID string) error
	Log    *slog.Logger
}

// File is the log of one running container.
type File struct{ ContainerID, Path string }

// Rotate keeps log files short until ctx ends. With no container running it costs one timer.
func Rotate(ctx context.Context, c RotateConfig) error {
	if c.MaxSize <= 0 {
		c.MaxSize = 10 << 20
	}
	if c.MaxFiles == 0 {
		c.MaxFiles = 5
	}
	c.MaxFiles = max(c.MaxFiles, 2)
	if c.Interval <= 0 {
		c.Interval = 10 * time.Second
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	ticker := time.NewTicker(c.Interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		for _, f := range c.Running() {
			info, err := os.Stat(f.Path)
			if err != nil {
				if !errors.Is(err, fs.ErrNotExist) {
					c.Log.Warn("log of a container cannot be examined", "container", f.ContainerID, "err", err)
					continue
				}
				// A rotation that was cut off between the rename and the new file: the runtime writes to the old one.
				if ctx.Err() == nil {
					if err := c.Reopen(ctx, f.ContainerID); err != nil {
						c.Log.Warn("log of a container is missing and cannot be reopened", "container", f.ContainerID, "err", err)
					}
				}
				continue
			}
			if info.Size() < c.MaxSize {
				continue
			}
			if err := rotate(ctx, c, f, time.Now()); err != nil && ctx.Err() == nil {
				c.Log.Warn("log of a container could not be rotated", "container", f.ContainerID, "err", err)
			}
		}
	}
}

// The names are upstream's: PATH.20060102-150405, later with .gz, and .tmp while it is being compressed.
const (
	stampLayout      = "20060102-150405"
	compressedSuffix = ".gz"
	unfinishedSuffix = ".tmp"
)

// rotate makes place for the new rotated file, compresses the earlier ones, and moves the current file away.
func rotate(ctx context.Context, c RotateConfig, f File, now time.Time) error {
	old, err := rotatedFiles(f.Path)
	if err != nil {
		return err
	}
	// The current file and the one about to be rotated are two of those kept.
	for len(old) > c.MaxFiles-2 {
		if err := os.Remove(old[0]); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove old log: %w", err)
		}
		old = old[1:]
	}
	for _, o := range old {
		if strings.HasSuffix(o, compressedSuffix) {
			continue
		}
		// No follower reads it any more: it was rotated a whole file ago.
		if err := compress(ctx, o); err != nil {
			return err
		}
	}
	moved := f.Path + "." + now.UTC().Format(stampLayout)
	if _, err := os.Lstat(moved); err == nil {
		return nil // rotated within this second already: the next look will do it
	}
	if err := os.Rename(f.Path, moved); err != nil {
		return fmt.Errorf("rotate log: %w", err)
	}
	if err := c.Reopen(ctx, f.ContainerID); err != nil {
		// The runtime still writes to the moved file: give it its name back, unless there is a new one after all.
		if _, serr := os.Lstat(f.Path); errors.Is(serr, fs.ErrNotExist) {
			err = errors.Join(err, os.Rename(moved, f.Path))
		}
		return fmt.Errorf("rotate log: %w", err)
	}
	return nil
}

// rotatedFiles lists the rotated files of a log, oldest first, after removing what a crash left half done.
func rotatedFiles(path string) ([]string, error) {
	dir, base := filepath.Split(path)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list logs: %w", err)
	}
	var found []string
	for _, e := range entries {
		stamp, ok := strings.CutPrefix(e.Name(), base+".")
		if !ok {
			continue
		}
		full := filepath.Join(dir, e.Name())
		if strings.HasSuffix(stamp, unfinishedSuffix) {
			if err := os.Remove(full); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, fmt.Errorf("remove unfinished log archive: %w", err)
			}
			continue
		}
		if _, err := time.Parse(stampLayout, strings.TrimSuffix(stamp, compressedSuffix)); err != nil {
			continue // not ours
		}
		found = append(found, full)
	}
	slices.Sort(found) // the stamp orders them, and puts PATH before PATH.gz
	// A file beside its finished archive: the crash came before it was removed.
	kept := found[:0]
	for i, f := range found {
		if i+1 < len(found) && found[i+1] == f+compressedSuffix {
			if err := os.Remove(f); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, fmt.Errorf("remove archived log: %w", err)
			}
			continue
		}
		kept = append(kept, f)
	}
	return kept, nil
}

// compress replaces a rotated file by its archive.
func compress(ctx context.Context, path string) (err error) {
	from, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("compress log: %w", err)
	}
	defer from.Close()
	name := path + unfinishedSuffix
	to, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o640)
	if err != nil {
		return fmt.Errorf("compress log: %w", err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("compress log: %w", errors.Join(err, os.Remove(name)))
		}
	}()
	z := gzip.NewWriter(to)
	_, err = io.Copy(z, reading{ctx, from})
	if err = errors.Join(err, z.Close(), to.Close()); err != nil {
		return err
	}
	if err = os.Rename(name, path+compressedSuffix); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("compress log: %w", err)
	}
	return nil
}

// reading stops a long read when its context ends.
type reading struct {
	ctx context.Context
	r   io.Reader
}

func (r reading) Read(b []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(b)
}
