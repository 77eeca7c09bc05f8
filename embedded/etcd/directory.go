package etcd

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"
)

// lockDir takes the directory for this process. The kernel drops the lock when the process ends, however it ends, so
// that a lock is never stale; the file that remains means nothing.
func lockDir(dir string) (*os.File, error) {
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open etcd lock %s: %w; make the directory writable for this user", path, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock etcd data directory %s: %w", dir, err)
		}
		holder := "another process"
		if b, err := io.ReadAll(io.LimitReader(f, 32)); err == nil && len(b) > 0 {
			holder = "process " + strings.TrimSpace(string(b))
		}
		return nil, fmt.Errorf("etcd data directory %s is in use by %s; stop it, or give another directory", dir, holder)
	}
	if err := f.Truncate(0); err == nil {
		fmt.Fprintf(f, "%d\n", os.Getpid()) // for the message above; the lock does not depend on it
	}
	return f, nil
}

// firstPages is how long bbolt makes a new database.
const firstPages = 4 * 4096

// neverLogged says that the directory has no log: nothing was ever written there that could be missed.
func neverLogged(dir string) bool {
	logs, err := filepath.Glob(filepath.Join(dir, "member", "wal", "*.wal"))
	return err == nil && len(logs) == 0
}

// checkDir refuses what etcd would wait for or die of in a goroutine of its own: a database that a foreign etcd holds (etcd
// waits for it for ever), one that is no database, and a log whose database is gone. A first start that was cut short
// leaves nothing in the way: etcd makes the log under a temporary name, a database without a log is an empty one, and one that is not even made is
// removed.
func checkDir(dir string) error {
	database := filepath.Join(dir, "member", "snap", "db")
	info, err := os.Stat(database)
	if errors.Is(err, os.ErrNotExist) {
		snaps, _ := filepath.Glob(filepath.Join(dir, "member", "snap", "*.snap"))
		if len(snaps) > 0 {
			return damaged(dir, fmt.Errorf("the database %s is missing beside its log", database))
		}
		return nil
	}
	db, err := bbolt.Open(database, 0o600, &bbolt.Options{ReadOnly: true, Timeout: time.Millisecond})
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return damaged(dir, errors.New("its database is locked by a foreign etcd"))
	case err != nil && info != nil && info.Size() <= firstPages && neverLogged(dir):
		return os.Remove(database) // a first start was killed while it made it
	case err != nil:
		return damaged(dir, fmt.Errorf("read the database %s: %w", database, err))
	}
	return db.Close()
}
