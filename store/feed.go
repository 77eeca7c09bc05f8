package store

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/metadata"

	"wherry.dev/wherry/store/share"
	"wherry.dev/wherry/store/watchcache"
)

const (
	loadPage  = 5000                   // keys of one range request; bounds etcd's and our memory while loading
	retryMin  = 50 * time.Millisecond  // first wait after etcd failed
	retryMax  = 5 * time.Second        // longest
	streamKey = "wherry-resource"      // a watch stream for each resource: progress of one does not wait for another
	askAgain  = 100 * time.Millisecond // etcd drops a progress request while a watch is behind
	askBehind = 5 * time.Millisecond   // how soon a member that was behind is asked again
)

// Reasons to read the whole state anew. Every watch ends with a 410, and whoever lists then is told what is the matter.
var (
	errLost     = errors.New("etcd has compacted what the watch had still to deliver")
	errSealed   = errors.New("a changed object cannot be decrypted")
	errUnsealed = errors.New("objects that could not be decrypted can be now")
)

// feed keeps the cache at etcd's state until the resource or the store closes. It is the only caller of the cache's feeding methods.
func (r *resource) feed() {
	wait := retryMin
	defer close(r.fed)
	for r.ctx.Err() == nil {
		before := r.cache.Revision()
		err := r.follow()
		switch {
		case r.ctx.Err() != nil:
			return
		case errors.Is(err, errSealed):
			r.loaded = false
		case errors.Is(err, errLost), errors.Is(err, errUnsealed):
			r.loaded = false
			r.s.c.Log.Warn("the watch cache starts again, and with it every watch", "resource", r.c.GroupResource.String(), "error", err)
			continue
		case r.cache.Revision() > before:
			wait = retryMin
		}
		r.s.outage.begin(r.s.c.Log, r.c.GroupResource.String(), err, wait)
		select {
		case <-time.After(wait):
		case <-r.ctx.Done():
		}
		wait = min(2*wait, retryMax)
	}
}

// load reads the whole resource at one revision into the cache.
func (r *resource) load(ctx context.Context) error {
	var objects []*Object
	var revision int64
	var broken unreadable
	key, end := r.prefix, clientv3.GetPrefixRangeEnd(r.prefix)
	for {
		opts := []clientv3.OpOption{clientv3.WithRange(end), clientv3.WithLimit(loadPage)}
		if revision != 0 {
			opts = append(opts, clientv3.WithRev(revision))
		}
		page, err := r.get(ctx, requestList, key, opts...)
		if err != nil {
			return fmt.Errorf("list %s: %w", key, err)
		}
		if revision == 0 {
			revision = page.Header.Revision
		}
		objects = append(objects, r.decodeAll(ctx, page.Kvs, &broken)...)
		if !page.More || len(page.Kvs) == 0 {
			break
		}
		key = string(page.Kvs[len(page.Kvs)-1].Key) + "\x00"
	}
	r.detector.replace(objects)
	r.broken.Load().add(&broken) // in this order: at no moment is something missing that nobody complains of
	r.cache.Reset(objects, revision)
	r.broken.Store(&broken)
	r.own.restart(revision)
	return nil
}

// decodeAll decodes kvs on all processors, keeping their order and leaving out what cannot be decoded.
func (r *resource) decodeAll(ctx context.Context, kvs []*mvccpb.KeyValue, broken *unreadable) []*Object {
	out := make([]*Object, len(kvs))
	workers := min(runtime.GOMAXPROCS(0), 1+len(kvs)/64)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			var before *Object // each worker has a stretch of the keys, where neighbours are alike
			for i := w * len(kvs) / workers; i < (w+1)*len(kvs)/workers; i++ {
				if out[i] = r.decodeOrSkip(ctx, kvs[i], broken, before); out[i] != nil {
					before = out[i]
				}
			}
		})
	}
	wg.Wait()
	keep := out[:0]
	for _, o := range out {
		if o != nil {
			keep = append(keep, o)
		}
	}
	return keep
}

// decodeOrSkip returns the object of one value: the one this process wrote, or else a decoded one. What cannot be decoded is said loudly and is missing from lists; reading it by name is
// an error, so that nobody takes it for absent. What is decoded shares with like, if that is not nil.
func (r *resource) decodeOrSkip(ctx context.Context, kv *mvccpb.KeyValue, broken *unreadable, like *Object) *Object {
	key := strings.TrimPrefix(string(kv.Key), r.prefix)
	if o := r.own.take(key, kv.ModRevision, kv.Value); o != nil {
		return o
	}
	o, err := r.decode(ctx, kv)
	if err != nil {
		broken.set(key, err)
		if isSealed(err) {
			r.s.c.Log.Error("a stored object cannot be decrypted, and lists that would have it fail; add the key with which it was written to the encryption configuration", "key", string(kv.Key), "error", err)
		} else {
			r.s.c.Log.Error("a stored object cannot be read and is left out of every list; mend or delete its key in etcd", "key", string(kv.Key), "error", err)
		}
		return nil
	}
	broken.clear(key)
	if like != nil {
		share.With(o.Object, like.Object)
	} else {
		r.share(o.Object, key, r.cache.Get(key))
	}
	return o
}

// decode makes the object of an etcd value.
func (r *resource) decode(ctx context.Context, kv *mvccpb.KeyValue) (*Object, error) {
	obj, size, stale, err := r.codec.decode(ctx, string(kv.Key), kv.Value, kv.ModRevision)
	if err != nil {
		return nil, err
	}
	o := newObject(Object{Key: strings.TrimPrefix(string(kv.Key), r.prefix), Revision: kv.ModRevision, Object: obj, size: size, lease: clientv3.LeaseID(kv.Lease), stale: stale})
	return o, nil
}

// follow applies etcd's changes until the watch ends, and says why it did. The first time it watches from now on, and reads
// the state once the watch is there: etcd delivers to a watch that starts at the present at once, but to one that has
// something to catch up with only every 100 ms.
func (r *resource) follow() error {
	ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(r.ctx, streamKey, r.c.Prefix))
	defer cancel()
	ctx = clientv3.WithRequireLeader(ctx)
	opts := []clientv3.OpOption{clientv3.WithPrefix(), clientv3.WithProgressNotify(), clientv3.WithCreatedNotify()}
	if r.loaded {
		opts = append(opts, clientv3.WithRev(r.cache.Revision()+1))
	}
	watch := r.s.c.Client.Watch(ctx, r.prefix, opts...)
	var again *time.Timer // asks for progress once more if the answer does not come
	defer func() {
		if again != nil {
			again.Stop()
		}
	}()
	wait := unsealMin
	unseal := time.NewTimer(wait) // waits for nothing most of the time
	defer unseal.Stop()
	for {
		select {
		case <-r.reread:
			unseal.Reset(0)
		case <-unseal.C:
			if r.unsealed(ctx) {
				return errUnsealed
			}
			wait = min(2*wait, unsealMax)
			if r.broken.Load().count.Load() > 0 {
				unseal.Reset(wait)
			}
		case <-r.progress:
			if err := r.s.c.Client.RequestProgress(ctx); err != nil {
				return fmt.Errorf("request progress: %w", err)
			}
			if again == nil {
				again = time.AfterFunc(askAgain, r.askProgress)
			} else {
				again.Reset(askAgain)
			}
		case resp, ok := <-watch:
			switch {
			case !ok:
				return errors.New("the watch was closed")
			case resp.CompactRevision != 0, errors.Is(resp.Err(), rpctypes.ErrCompacted):
				return errLost
			case resp.Err() != nil:
				return resp.Err()
			case resp.Created && r.loaded:
				r.s.outage.end(r.s.c.Log, r.c.GroupResource.String())
			case resp.Created:
				if err := r.load(ctx); err != nil {
					return err
				}
				r.loaded = true
				r.s.outage.end(r.s.c.Log, r.c.GroupResource.String())
				unseal.Reset(wait)
				r.once.Do(func() { close(r.ready) })
			case resp.IsProgressNotify():
				r.cache.Progress(resp.Header.Revision)
				switch {
				case again == nil:
				case resp.Header.Revision < r.wanted.Load(): // the member of etcd that serves the watch is behind the one that told of the revision
					again.Reset(askBehind)
				default:
					again.Stop()
				}
			default:
				if err := r.apply(ctx, resp.Events); err != nil {
					return err
				}
			}
		}
	}
}

// apply brings one batch of changes, which etcd never splits within a revision, into the cache.
func (r *resource) apply(ctx context.Context, events []*clientv3.Event) error {
	if len(events) == 0 {
		return nil
	}
	updates := make([]watchcache.Update[Object], 0, len(events))
	keys := make([]string, 0, len(events))
	for _, e := range events {
		key := string(e.Kv.Key[len(r.prefix):])
		u := watchcache.Update[Object]{Key: key, Revision: e.Kv.ModRevision}
		if e.Type == mvccpb.Event_PUT {
			broken := r.broken.Load()
			before := broken.of(key)
			if u.Object = r.decodeOrSkip(ctx, e.Kv, broken, nil); u.Object == nil && before == nil && isSealed(broken.of(key)) {
				return errSealed // nobody may see it as deleted, or miss it
			}
		}
		if u.Object != nil {
			u.Key = u.Object.Key // one string for both
			r.detector.add(u.Object)
		} else {
			r.detector.remove(key)
			if e.Type == mvccpb.Event_DELETE {
				r.broken.Load().clear(key)
			}
		}
		updates = append(updates, u)
		keys = append(keys, u.Key)
	}
	r.cache.Apply(updates)
	r.own.pass(keys, updates[len(updates)-1].Revision)
	return nil
}

// unsealed says whether something that could not be decrypted can be now.
func (r *resource) unsealed(ctx context.Context) bool {
	for _, key := range r.broken.Load().sealed(unsealTry) {
		if _, err := r.stored(ctx, key); err == nil {
			return true
		}
	}
	return false
}

// askProgress makes the feed ask etcd how far this resource's watch is. It never blocks.
func (r *resource) askProgress() {
	select {
	case r.progress <- struct{}{}:
	default:
	}
}
