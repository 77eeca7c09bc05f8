package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"wherry.dev/wherry/internal/memory"
	"wherry.dev/wherry/pki"
	"wherry.dev/wherry/scheduler"
)

// RunServer runs a server until ctx ends or a part of it ends. ready is called once, when the API is served and its own
// parts run; the node follows a moment later. Containers, and the containerd that holds them, outlive it.
func RunServer(ctx context.Context, s Server, log *slog.Logger, ready func()) (err error) {
	memory.PaceCollector()
	if err := s.Node.Check(); err != nil {
		return err
	}
	unlock, err := s.Node.claim()
	if err != nil {
		return err
	}
	defer unlock()
	credentials, err := Prepare(s)
	if err != nil {
		return err
	}
	m := newMeasures()
	p := newParts(m.loops.Measuring(ctx), log)
	defer func() {
		if stopped := p.stop(); err == nil {
			err = stopped
		}
	}()

	// containerd and the unpacking of programs take as long as etcd and the API server: side by side.
	runtime := make(chan nodeRuntime, 1)
	if !s.NoNode {
		go func() { runtime <- startRuntime(p.ctx, s.Node, log.With("part", "containerd")) }()
	}
	plane, err := startControlPlane(p.ctx, s, credentials, m, log)
	if err != nil {
		return err
	}
	defer func() { // the parts first, then what they stand on
		stopped := p.stop()
		plane.close()
		if err == nil {
			err = stopped
		}
	}()
	if err := plane.serve(p); err != nil {
		return err
	}
	if !s.Disable["controllers"] {
		plane.lead(p, "controllers", controllersLease, (*controlPlane).runControllers)
	}
	if !s.Disable["scheduler"] {
		plane.lead(p, "scheduler", schedulerLease, func(plane *controlPlane, p *parts) {
			p.run("scheduler", func(ctx context.Context) error {
				return scheduler.Run(ctx, scheduler.Config{Client: plane.as(pki.UserScheduler), Trace: plane.collector, Log: log.With("part", "scheduler")})
			})
		})
	}
	p.run("certificate renewal", plane.renewCertificates)
	p.run("memory", func(ctx context.Context) error { return memory.GiveBack(ctx, plane.store.forgetPages) })
	if ready != nil {
		ready()
	}
	if !s.NoNode {
		if err := plane.runServerNode(p, <-runtime); err != nil {
			return err
		}
	}
	<-p.ctx.Done()
	return nil
}

// renewCertificates keeps the server's own certificates from running out.
func (c *controlPlane) renewCertificates(ctx context.Context) error {
	for {
		wait := max(time.Until(c.credentials.PKI.NextRenewal()), time.Minute)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		if err := c.credentials.PKI.Renew(); err != nil {
			c.log.Error("renew certificates", "error", err)
		}
	}
}

// claim makes the node's directories and keeps other processes from them.
func (n Node) claim() (release func(), err error) {
	for dir, mode := range map[string]os.FileMode{n.DataDir: 0o700, filepath.Join(n.DataDir, "logs"): 0o700, n.RunDir: 0o755} {
		if err := os.MkdirAll(dir, mode); err != nil {
			return nil, fmt.Errorf("make the node's directories: %w", err)
		}
	}
	need := uint64(firstSpace)
	if _, err := os.Stat(n.BinDir()); err == nil {
		need = leastSpace
	}
	if err := checkSpace(n.DataDir, need); err != nil {
		return nil, err
	}
	return lockDirectory(n.DataDir)
}

// What a start takes of the disk, in bytes. At the first, etcd lays out 64 MB of its log ahead, and the unpacked programs are as much; a later one
// finds both. What runs into a full disk afterwards stops with an error; etcd at its start panics.
const (
	firstSpace = 128 << 20
	leastSpace = 16 << 20
)

// checkSpace says whether a directory's file system has room for so many bytes.
func checkSpace(dir string, need uint64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("look for free space in data directory %s: %w", dir, err)
	}
	if free := st.Bavail * uint64(st.Bsize); free < need {
		return fmt.Errorf("data directory %s has %d MiB of free space: make it at least %d MiB, or choose another --data-dir", dir, free>>20, need>>20)
	}
	return nil
}

// lockDirectory keeps two processes from working on one directory. The lock goes with the process, however it ends.
func lockDirectory(dir string) (unlock func(), err error) {
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		if errors.Is(err, fs.ErrPermission) {
			return nil, fmt.Errorf("data directory %s cannot be written: run it as root, or choose another --data-dir", dir)
		}
		return nil, fmt.Errorf("lock data directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("another Wherry works in %s: stop it first, or choose another --data-dir", dir)
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { f.Close() }, nil
}
