package etcd

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// Snapshots are files as etcdctl writes them and etcdutl restores them: the database, and its SHA-256 after it.
const (
	snapshotSuffix = ".db"
	partialSuffix  = ".partial" // while it is being written
	namedAfter     = "20060102T150405Z"

	// revisionBump is how far a restored etcd jumps ahead: whoever watches, or holds a list, from before the restore is told that it is too old, and
	// never takes a new change for one that it has seen (upstream's advice for clusters of Kubernetes).
	revisionBump = 1_000_000_000
)

// Snapshot is what a snapshot file has.
type Snapshot struct {
	Path     string    `json:"path"`
	Taken    time.Time `json:"taken"`
	Bytes    int64     `json:"bytes"`
	Revision int64     `json:"revision"`
	Keys     int       `json:"keys"`
}

// SnapshotName is the file name of a snapshot that is taken now; names sort by time.
func SnapshotName(now time.Time) string {
	return "etcd-" + now.UTC().Format(namedAfter) + snapshotSuffix
}

// SaveSnapshot writes what from delivers to path: all of it, checked and on the disk, or nothing. A kill leaves at most a file with the name and .partial after
// it, which the next one of that name replaces.
func SaveSnapshot(from io.Reader, path string) (err error) {
	partial := path + partialSuffix
	f, err := os.OpenFile(partial, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600) // secrets lie in it
	if err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	defer func() {
		f.Close()
		if err != nil {
			os.Remove(partial)
		}
	}()
	if _, err := io.Copy(f, from); err != nil {
		return fmt.Errorf("write snapshot %s: %w", partial, err)
	}
	if err := verifySum(f); err != nil {
		return fmt.Errorf("write snapshot %s: %w", partial, err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("write snapshot %s: %w", partial, err)
	}
	if err := os.Rename(partial, path); err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	return syncDir(filepath.Dir(path))
}

// verifySum holds a snapshot against the sum at its end.
func verifySum(f io.ReadSeeker) error {
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if size < sha256.Size || size%512 != sha256.Size {
		return errors.New("it is cut short, or no snapshot of etcd: take another")
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	h := sha256.New()
	if _, err := io.CopyN(h, f, size-sha256.Size); err != nil {
		return err
	}
	want, err := io.ReadAll(f)
	if err != nil {
		return err
	}
	if !bytes.Equal(h.Sum(nil), want) {
		return errors.New("it is damaged (its SHA-256 is not the one at its end): take another")
	}
	return nil
}

// InspectSnapshot reads a snapshot through and says what it has; an error says what is wrong with it.
func InspectSnapshot(path string) (Snapshot, error) {
	f, err := os.Open(path)
	if err != nil {
		return Snapshot{}, fmt.Errorf("read snapshot: %w", err)
	}
	defer f.Close()
	if err := verifySum(f); err != nil {
		return Snapshot{}, fmt.Errorf("snapshot %s: %w", path, err)
	}
	info, err := f.Stat()
	if err != nil {
		return Snapshot{}, fmt.Errorf("read snapshot: %w", err)
	}
	status, err := snapshot.NewV3(zap.NewNop()).Status(path)
	if err != nil {
		return Snapshot{}, fmt.Errorf("snapshot %s: %w", path, err)
	}
	return Snapshot{Path: path, Taken: info.ModTime(), Bytes: info.Size(), Revision: status.Revision, Keys: status.TotalKey}, nil
}

// SnapshotFiles are the snapshots in a directory, the oldest first, by their names alone. A directory that is not there has none.
func SnapshotFiles(dir string) ([]string, error) {
	all, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("look for snapshots: %w", err)
	}
	var out []string
	for _, e := range all {
		if e.Type().IsRegular() && strings.HasSuffix(e.Name(), snapshotSuffix) {
			out = append(out, filepath.Join(dir, e.Name()))
		}
	}
	slices.Sort(out)
	return out, nil
}

// PruneSnapshots keeps the newest of those that SnapshotName has named, and takes away what writers left that were killed.
func PruneSnapshots(dir string, keep int) error {
	all, err := SnapshotFiles(dir)
	if err != nil {
		return err
	}
	own := slices.DeleteFunc(all, func(path string) bool { _, err := SnapshotTime(path); return err != nil })
	partial, _ := filepath.Glob(filepath.Join(dir, "etcd-*"+snapshotSuffix+partialSuffix))
	for _, path := range append(own[:max(0, len(own)-keep)], partial...) {
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("remove old snapshot: %w", err)
		}
	}
	return nil
}

// SnapshotTime is when a snapshot was taken that SnapshotName has named.
func SnapshotTime(path string) (time.Time, error) {
	name := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(path), "etcd-"), snapshotSuffix)
	return time.Parse(namedAfter, name)
}

// RestoreSnapshot makes a snapshot the content of a data directory, which no etcd may use. The two are exchanged in one step of the file system when the new one is
// whole and on the disk: a kill leaves the old directory or the new one. It returns where the old one is kept, empty if there was none.
func RestoreSnapshot(ctx context.Context, path, dir string) (kept string, err error) {
	if _, err := InspectSnapshot(path); err != nil {
		return "", err
	}
	dir = filepath.Clean(dir)
	restoring := dir + ".restoring"
	if err := os.RemoveAll(restoring); err != nil { // of one that was killed
		return "", fmt.Errorf("restore snapshot: %w", err)
	}
	defer os.RemoveAll(restoring)
	old := true
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		old = false
		if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
			return "", fmt.Errorf("restore snapshot: %w", err)
		}
	} else {
		lock, err := lockDir(dir)
		if err != nil {
			return "", err
		}
		defer lock.Close()
		if err := checkDir(dir); err != nil && strings.Contains(err.Error(), "locked") {
			return "", err
		}
	}
	segmentOnce.Do(func() { wal.SegmentSizeBytes = walSegment })
	err = snapshot.NewV3(zap.NewNop()).Restore(snapshot.RestoreConfig{SnapshotPath: path, Name: memberName, OutputDataDir: restoring, PeerURLs: []string{peerURL},
		InitialCluster: memberName + "=" + peerURL, InitialClusterToken: clusterToken, RevisionBump: revisionBump, MarkCompacted: true})
	if err != nil {
		return "", fmt.Errorf("restore snapshot %s: %w", path, err)
	}
	if err := syncTree(restoring); err != nil {
		return "", fmt.Errorf("restore snapshot %s: %w", path, err)
	}
	if ctx.Err() != nil { // the last moment at which nothing has happened
		return "", fmt.Errorf("restore snapshot %s: %w", path, context.Cause(ctx))
	}
	if !old {
		if err := os.Rename(restoring, dir); err != nil {
			return "", fmt.Errorf("restore snapshot: %w", err)
		}
		return "", syncDir(filepath.Dir(dir))
	}
	// The new data takes the name under which the old is to be kept, and then the two change places: so the old data never has a name that the next restore clears
	// away, whenever this one is killed.
	kept = dir + ".before-" + time.Now().UTC().Format(namedAfter+".000000000")
	if err := os.Rename(restoring, kept); err != nil {
		return "", fmt.Errorf("restore snapshot: %w", err)
	}
	if err := unix.Renameat2(unix.AT_FDCWD, kept, unix.AT_FDCWD, dir, unix.RENAME_EXCHANGE); err != nil {
		_ = os.RemoveAll(kept)
		return "", fmt.Errorf("restore snapshot: exchange %s and %s: %w", kept, dir, err)
	}
	return kept, syncDir(filepath.Dir(dir))
}

// syncTree puts everything below dir on the disk.
func syncTree(dir string) error {
	return filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return syncDir(path) // files too
	})
}

func syncDir(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
