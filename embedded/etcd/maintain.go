package etcd

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/storage/schema"
	"golang.org/x/sys/unix"

	"wherry.dev/wherry/internal/memory"
)

const (
	// How often sizes are looked at; see lookAgain.
	maintainEvery = 10 * time.Second
	maintainSoon  = time.Second
	maintainNow   = 100 * time.Millisecond

	// defragBytes and defragShare of free pages in the database make it worth rewriting: nobody reads or writes meanwhile, a second or so for each GB.
	defragBytes = 64 << 20
	defragShare = 0.5

	// diskLow is the room on the disk below which writes are refused: etcd ends when it cannot write. It is enough for the next two segments of
	// the log, which deletions need too. diskGood is where they are taken again, diskNear where it is looked at more often.
	diskLow  = 2*walSegment + 16<<20
	diskGood = diskLow + 16<<20
	diskNear = 1 << 30

	// quotaGood is the share of the quota below which writes are taken again.
	quotaGood = 0.9
)

// size is what one look at the member and its disk found.
type size struct {
	database, used int64 // bytes of the database file, and of what is in it
	quota          int64
	free           uint64 // bytes on the disk
	refusing       bool   // the NOSPACE alarm is on
}

// lookAgain is when to look next: sooner the fuller the disk is, since a second of writes may be a hundred megabytes.
func (s size) lookAgain() time.Duration {
	switch {
	case s.free < 4*diskLow:
		return maintainNow
	case s.free < diskNear:
		return maintainSoon
	}
	return maintainEvery
}

// upkeep is what is to be done about a size.
type upkeep struct {
	refuse  string // arm the alarm, with the reason for the log
	compact bool   // drop history first
	defrag  bool
	allow   bool // disarm the alarm, if it still holds after the rest
}

// decide is pure. A full database is mended by dropping its history and rewriting it, as far as its users have deleted something.
func (s size) decide() upkeep {
	wasted := s.database - s.used
	u := upkeep{defrag: wasted > defragBytes && float64(wasted) > defragShare*float64(s.database) && s.free > uint64(s.used)+diskGood}
	switch {
	case s.free < diskLow && !s.refusing:
		u.refuse = fmt.Sprintf("the disk has %d MiB of free space: make room, at least %d MiB; what was acknowledged is kept, deletions are taken, writes are taken again by themselves", s.free>>20, diskGood>>20)
		u.defrag = false
	case s.refusing && s.free >= diskGood:
		good := quotaGood * float64(s.quota)
		if u.allow = float64(s.database) <= good; !u.allow {
			u.compact = true
			u.defrag = float64(s.used) <= good && s.free > uint64(s.used)+diskGood
			u.allow = u.defrag
		}
	}
	return u
}

// Maintain rewrites the database when that pays, and refuses writes before the disk is full, until ctx ends. When there is room again, on the disk or in the quota, writes are taken again.
func (e *Etcd) Maintain(ctx context.Context) error {
	next := time.NewTimer(0)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-next.C:
		}
		s, err := e.look(ctx)
		if err == nil {
			err = e.maintain(ctx, s)
		}
		if err != nil && ctx.Err() == nil {
			e.c.Log.Warn("could not look after etcd's database", "error", err)
		}
		next.Reset(s.lookAgain())
	}
}

func (e *Etcd) look(ctx context.Context) (size, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(e.c.Dir, &st); err != nil {
		return size{}, fmt.Errorf("look for free space in %s: %w", e.c.Dir, err)
	}
	status, err := e.client.Status(ctx, "")
	if err != nil {
		return size{}, fmt.Errorf("status of etcd: %w", err)
	}
	alarms, err := e.client.AlarmList(ctx)
	if err != nil {
		return size{}, fmt.Errorf("alarms of etcd: %w", err)
	}
	s := size{database: status.DbSize, used: status.DbSizeInUse, quota: e.c.Quota, free: st.Bavail * uint64(st.Bsize)}
	for _, a := range alarms.Alarms {
		s.refusing = s.refusing || a.Alarm == pb.AlarmType_NOSPACE
	}
	return s, nil
}

func (e *Etcd) maintain(ctx context.Context, s size) error {
	u := s.decide()
	if u.refuse != "" {
		e.c.Log.Error("etcd takes no more writes: "+u.refuse, "dir", e.c.Dir)
		return e.alarm(ctx, pb.AlarmRequest_ACTIVATE)
	}
	if u.compact {
		if err := e.dropHistory(ctx); err != nil {
			return err
		}
		var err error
		if s, err = e.look(ctx); err != nil {
			return err
		}
		u = s.decide()
	}
	if u.defrag {
		began := time.Now()
		if err := e.server.Backend().Defrag(); err != nil {
			return fmt.Errorf("rewrite the database: %w", err)
		}
		e.c.Log.Info("rewrote etcd's database to give free space back", "bytes", s.database, "in use", s.used, "took", time.Since(began).Round(time.Millisecond))
	}
	if !u.allow {
		return nil
	}
	now, err := e.look(ctx)
	if err != nil {
		return err
	}
	if float64(now.database) > quotaGood*float64(now.quota) || now.free < diskGood {
		return nil // still: the next look tries again
	}
	if err := e.alarm(ctx, pb.AlarmRequest_DEACTIVATE); err != nil {
		return err
	}
	e.c.Log.Info("etcd takes writes again", "bytes", now.database, "quota", now.quota)
	return nil
}

// ForgetPages unmaps what this process has mapped of the database: etcd has all of it mapped from the start. It stays in the page cache while there is room, and is
// mapped again where it is read. The server must not be closed before it returns.
func (e *Etcd) ForgetPages() {
	select {
	case <-e.Stopped():
		return
	default:
	}
	tx := e.server.Backend().ConcurrentReadTx()
	tx.RLock()
	defer tx.RUnlock() // until then the database can be neither closed nor replaced, and its mapping is where it is
	memory.ForgetFile(filepath.Join(e.c.Dir, "member", "snap", "db"))
}

// dropHistory compacts up to now, and returns when what that freed is counted as free.
func (e *Etcd) dropHistory(ctx context.Context) error {
	r, err := e.client.Get(ctx, "revision")
	if err != nil {
		return fmt.Errorf("current revision: %w", err)
	}
	if _, err := e.client.Compact(ctx, r.Header.Revision, clientv3.WithCompactPhysical()); err != nil && !errors.Is(err, rpctypes.ErrCompacted) {
		return fmt.Errorf("compact: %w", err)
	}
	// A page that a transaction frees is free for the next one, and the size in use is as of the last one that ended. While writes are refused
	// there may be no next one ever: these delete what is not there.
	for range 2 {
		tx := e.server.Backend().BatchTx()
		tx.LockOutsideApply()
		tx.UnsafeDelete(schema.Meta, []byte("none"))
		tx.Unlock() // commits, because something was deleted
	}
	return nil
}

func (e *Etcd) alarm(ctx context.Context, action pb.AlarmRequest_AlarmAction) error {
	r := &pb.AlarmRequest{Action: action, MemberID: uint64(e.server.MemberID()), Alarm: pb.AlarmType_NOSPACE}
	if _, err := e.server.Alarm(ctx, r); err != nil {
		return errors.Join(errors.New("change etcd's NOSPACE alarm"), err)
	}
	return nil
}
