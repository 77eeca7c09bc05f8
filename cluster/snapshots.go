package cluster

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"wherry.dev/wherry/embedded/etcd"
)

// SnapshotPath is where the API server hands out a snapshot of etcd, to whoever may read everything.
const SnapshotPath = "/wherry/snapshot"

// Snapshots says when a server takes snapshots of etcd by itself.
type Snapshots struct {
	Every time.Duration // 0: never
	Keep  int           // the newest so many are kept
	Dir   string        // empty: Node.SnapshotDir
}

// SnapshotDir is where a server's snapshots are unless it is told otherwise.
func (n Node) SnapshotDir() string { return filepath.Join(n.DataDir, "snapshots") }

func (s Server) snapshotDir() string {
	if s.Datastore.Snapshots.Dir != "" {
		return s.Datastore.Snapshots.Dir
	}
	return s.Node.SnapshotDir()
}

// snapshotRetry is when a snapshot that failed is tried again.
const snapshotRetry = time.Minute

// takeSnapshots takes one whenever the newest is older than Every; a restart does not put it off.
func (d *datastore) takeSnapshots(ctx context.Context, dir string, s Snapshots) error {
	for {
		wait := time.Until(nextSnapshot(dir, s.Every))
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		path, err := d.takeSnapshot(ctx, dir)
		if err == nil {
			d.log.Info("took a snapshot of etcd", "path", path)
			err = etcd.PruneSnapshots(dir, s.Keep)
		}
		if err != nil && ctx.Err() == nil {
			d.log.Error("scheduled snapshot failed; trying again", "error", err, "in", snapshotRetry)
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(snapshotRetry):
			}
		}
	}
}

// nextSnapshot is when the next one is due: at once if there is none.
func nextSnapshot(dir string, every time.Duration) time.Time {
	files, err := etcd.SnapshotFiles(dir)
	if err != nil {
		return time.Now()
	}
	var newest time.Time
	for _, f := range files {
		if taken, err := etcd.SnapshotTime(f); err == nil && taken.After(newest) {
			newest = taken
		}
	}
	if newest.IsZero() || newest.After(time.Now()) { // a clock that was put back
		return time.Now()
	}
	return newest.Add(every)
}

func (d *datastore) takeSnapshot(ctx context.Context, dir string) (string, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make snapshot directory: %w", err)
	}
	from, err := d.Snapshot(ctx)
	if err != nil {
		return "", err
	}
	defer from.Close()
	path := filepath.Join(dir, etcd.SnapshotName(time.Now()))
	return path, etcd.SaveSnapshot(from, path)
}

// serveSnapshot streams a snapshot. Who may read it has been decided: a path without a resource, of cluster administrators.
func (d *datastore) serveSnapshot(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet {
		http.Error(w, "only GET", http.StatusMethodNotAllowed)
		return
	}
	from, err := d.Snapshot(r.Context())
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	defer from.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Cache-Control", "no-store")
	if _, err := io.Copy(w, from); err != nil {
		panic(http.ErrAbortHandler) // the sum at the end tells too
	}
}

// RestoreSnapshot makes a snapshot the state of a server, which must not run, and returns where the state before is kept, empty if there was none.
func RestoreSnapshot(ctx context.Context, n Node, path string) (kept string, err error) {
	if err := os.MkdirAll(n.DataDir, 0o700); err != nil {
		return "", fmt.Errorf("make data directory: %w", err)
	}
	unlock, err := lockDirectory(n.DataDir)
	if err != nil {
		return "", err
	}
	defer unlock()
	return etcd.RestoreSnapshot(ctx, path, n.EtcdDir())
}
