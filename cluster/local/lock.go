package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// There are two kinds of locks, both files beside the run directory that exist only while somebody holds or awaits them. Who needs both takes
// the cluster's first.

// lockCluster keeps two `up` or `down` of one cluster from working at once. It is held from beginning to end.
func lockCluster(ctx context.Context, name string) (unlock func(), err error) {
	return lock(ctx, runRoot+"."+name+".lock", "another `wherry up` or `down` of cluster "+name+" is at work")
}

// lockMachine guards what all clusters share: which subnets are taken, and the directories and cgroups above the clusters' own. It is held for
// moments, never while something is waited for, so that clusters come up and go side by side.
func lockMachine(ctx context.Context) (unlock func(), err error) {
	return lock(ctx, runRoot+".lock", "another `wherry up` or `down` is choosing its addresses")
}

// lock waits until nobody else holds the lock at path. Ending without unlock, however that happens, gives it free too, but leaves the file.
func lock(ctx context.Context, path, busy string) (unlock func(), err error) {
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, 200*time.Millisecond) {
		f, err := tryLock(path)
		if err != nil {
			return nil, err
		}
		if f != nil {
			return func() {
				_ = os.Remove(path) // still held, so it is this very file; who waits for it looks again
				f.Close()
			}, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%s: %w", busy, ctx.Err())
		case <-time.After(wait):
		}
	}
}

// tryLock returns the locked file, or nil when somebody else has it.
func tryLock(path string) (*os.File, error) {
	for {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, fmt.Errorf("lock: %w", err)
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			f.Close()
			if errors.Is(err, unix.EWOULDBLOCK) {
				return nil, nil
			}
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		// Between opening and locking, its holder may have removed it: then this lock is one of a file that nobody else will find.
		ours, err := f.Stat()
		if err == nil {
			var there os.FileInfo
			if there, err = os.Stat(path); err == nil && os.SameFile(ours, there) {
				return f, nil
			}
		}
		f.Close()
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
	}
}
