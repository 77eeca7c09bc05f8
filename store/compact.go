package store

import (
	"context"
	"fmt"
	"strconv"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// compactKey coordinates the API servers of one etcd, upstream's among them: whoever moves its version on compacts, the
// others see that somebody did. Its value is the revision compacted to.
const compactKey = "compact_rev_key"

// compactLoop drops etcd's history every interval, keeping the last interval's.
func (s *Store) compactLoop(every time.Duration) {
	t := time.NewTicker(every)
	defer t.Stop()
	var version, revision int64
	for {
		select {
		case <-t.C:
		case <-s.ctx.Done():
			return
		}
		// A resource in which nothing happens must not be left behind at a revision that goes now.
		s.each(func(r *resource) { r.askProgress() })
		var err error
		var gone int64
		version, revision, gone, err = compact(s.ctx, s.c.Client, version, revision)
		if gone > s.compacted.Load() {
			s.compacted.Store(gone)
		}
		if err != nil && s.ctx.Err() == nil {
			s.c.Log.Warn("etcd's history was not compacted; it grows until the next attempt", "error", err, "next", every)
		}
	}
}

// compact compacts to revision if nobody else has since version was read. It returns the key's new version, etcd's
// current revision, to be compacted to next time, and up to where the history is gone, by us or by somebody else.
func compact(ctx context.Context, c *clientv3.Client, version, revision int64) (newVersion, next, gone int64, err error) {
	r, err := c.Txn(ctx).
		If(clientv3.Compare(clientv3.Version(compactKey), "=", version)).
		Then(clientv3.OpPut(compactKey, strconv.FormatInt(revision, 10))).
		Else(clientv3.OpGet(compactKey)).Commit()
	if err != nil {
		return version, revision, 0, fmt.Errorf("take %s: %w", compactKey, err)
	}
	now := r.Header.Revision
	if !r.Succeeded {
		if kvs := r.Responses[0].GetResponseRange().Kvs; len(kvs) == 1 {
			version = kvs[0].Version
			gone, _ = strconv.ParseInt(string(kvs[0].Value), 10, 64) // what is no number tells nothing
		}
		return version, now, gone, nil
	}
	if revision == 0 {
		return version + 1, now, 0, nil // the first round only learns how far etcd is
	}
	if _, err := c.Compact(ctx, revision); err != nil {
		return version + 1, now, 0, fmt.Errorf("compact to revision %d: %w", revision, err)
	}
	return version + 1, now, revision, nil
}
