package store

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/validation/path"
	"k8s.io/apimachinery/pkg/runtime"

	"wherry.dev/wherry/store/share"
	"wherry.dev/wherry/store/watchcache"
)

// freshTimeout is how long a read waits for the cache to reach a revision, as upstream's does.
const freshTimeout = 3 * time.Second

// resource implements Resource: etcd for writes, the cache for reads, and own between the two.
type resource struct {
	s        *Store
	c        ResourceConfig
	codec    codec
	prefix   string // of its keys in etcd, with the slash
	cache    *watchcache.Cache[Object]
	own      ownWrites
	written  atomic.Int64 // highest revision that etcd gave a write of this process
	wanted   atomic.Int64 // highest revision that somebody asks progress for
	progress chan struct{}
	loaded   bool // the cache has the state and follows it; only for the feed
	ready    chan struct{}
	once     sync.Once       // closes ready
	ctx      context.Context // ends with Close, and with the store
	cancel   context.CancelFunc
	fed      chan struct{} // closed when feed has returned
	broken   atomic.Pointer[unreadable]
	reread   chan struct{} // the keys of encryption have changed
	detector *detector
}

func newResource(s *Store, c ResourceConfig) *resource {
	r := &resource{s: s, c: c, codec: s.newCodec(c), prefix: s.c.Prefix + "/" + c.Prefix + "/",
		progress: make(chan struct{}, 1), reread: make(chan struct{}, 1), ready: make(chan struct{}), detector: newDetector(c.GroupResource.String(), s.c.DetectMutations)}
	r.ctx, r.cancel = context.WithCancel(s.ctx)
	r.fed = make(chan struct{})
	r.broken.Store(&unreadable{})
	config := watchcache.Config[Object]{
		Key:      func(o *Object) string { return o.Key },
		Revision: func(o *Object) int64 { return o.Revision },
		Size:     func(o *Object) int { return o.size },
		Departed: departed,
		Progress: r.askProgress,
		Limits:   s.c.Limits,
	}
	if c.Index != nil {
		config.Index = func(o *Object) string { return c.Index(o.Object) }
	}
	r.cache = watchcache.New(config)
	return r
}

// departed is o as a deletion at revision shows it.
func departed(o *Object, revision int64) *Object {
	return newObject(Object{Key: o.Key, Revision: revision, Object: withRevision(o.Object, revision), size: o.size})
}

// newObject is o with a memo of its own.
func newObject(o Object) *Object {
	both := &struct {
		Object
		memo Memo
	}{Object: o}
	both.Memo = &both.memo
	return &both.Object
}

// share lets obj, which the store has taken over, refer to what it has in common with the object that it replaces, nil for none, and with its neighbour.
func (r *resource) share(obj runtime.Object, key string, current *Object) {
	if current != nil {
		share.With(obj, current.Object)
	}
	if near := r.cache.Near(key); near != nil {
		share.With(obj, near.Object)
	}
}

// key returns the key below the prefix. A name that would lead elsewhere is refused in upstream's words.
func (r *resource) key(namespace, name string) (string, error) {
	if name == "" {
		return "", apierrors.NewBadRequest("Name parameter required.")
	}
	if msgs := path.IsValidPathSegmentName(name); len(msgs) != 0 {
		return "", apierrors.NewBadRequest(fmt.Sprintf("Name parameter invalid: %q: %s", name, msgs[0]))
	}
	if !r.c.Namespaced {
		if namespace != "" {
			return "", apierrors.NewBadRequest(fmt.Sprintf("%s has no namespaces", r.c.GroupResource))
		}
		return name, nil
	}
	if namespace == "" {
		return "", apierrors.NewBadRequest("Namespace parameter required.")
	}
	if msgs := path.IsValidPathSegmentName(namespace); len(msgs) != 0 {
		return "", apierrors.NewBadRequest(fmt.Sprintf("Namespace parameter invalid: %q: %s", namespace, msgs[0]))
	}
	return namespace + "/" + name, nil
}

// Ready implements Resource.
func (r *resource) Ready() <-chan struct{} { return r.ready }

// Count implements Resource.
func (r *resource) Count() int { return r.cache.Len() }

// Close implements Resource.
func (r *resource) Close() {
	r.s.forget(r)
	r.cancel()
	<-r.fed
	r.cache.Close()
	r.detector.check()
}

// started waits for the first load.
func (r *resource) started(ctx context.Context) error {
	select {
	case <-r.ready:
		return nil
	default:
	}
	select {
	case <-r.ready:
		return nil
	case <-r.ctx.Done():
		return watchcache.ErrClosed
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Get implements Resource.
func (r *resource) Get(ctx context.Context, namespace, name, resourceVersion string) (*Object, error) {
	key, err := r.key(namespace, name)
	if err != nil {
		return nil, err
	}
	if err := r.started(ctx); err != nil {
		return nil, failed(r.c.GroupResource, "get", err)
	}
	var o *Object
	switch resourceVersion {
	case "":
		if o, err = r.latest(ctx, key); err != nil {
			return nil, failed(r.c.GroupResource, "get", err)
		}
	default:
		revision, err := parseRevision(resourceVersion)
		if err != nil {
			return nil, err
		}
		if err := r.reach(ctx, revision); err != nil {
			return nil, failed(r.c.GroupResource, "get", err)
		}
		o = r.cache.Get(key)
	}
	if o == nil {
		return nil, r.absent(key, name)
	}
	return o, nil
}

// absent is the error of an object that is not in the cache.
func (r *resource) absent(key, name string) error {
	if err := r.broken.Load().of(key); err != nil {
		return apierrors.NewInternalError(err)
	}
	return apierrors.NewNotFound(r.c.GroupResource, name)
}

// latest is the linearizable read of one key; nil when there is nothing. It waits for nobody: alone on its etcd, this
// process knows every write that anybody was told of; else etcd says which revision is current, and the cache mostly has it.
func (r *resource) latest(ctx context.Context, key string) (*Object, error) {
	if r.s.c.SoleWriter {
		return r.known(key), nil
	}
	resp, err := r.get(ctx, requestGet, r.prefix+key)
	if err != nil || len(resp.Kvs) == 0 {
		return nil, err
	}
	return r.object(ctx, resp.Kvs[0])
}

// stored is the object as etcd has it now, decoded anew; nil when there is none.
func (r *resource) stored(ctx context.Context, key string) (*Object, error) {
	resp, err := r.get(ctx, requestGet, r.prefix+key)
	if err != nil || len(resp.Kvs) == 0 {
		return nil, err
	}
	return r.decode(ctx, resp.Kvs[0])
}

// known is the newest state of key that this process has: its own write if the cache has not come so far, else the cache's.
func (r *resource) known(key string) *Object {
	o, revision, ok := r.own.newest(key)
	if ok && revision > r.cache.Revision() {
		return o // nil if the write was a deletion
	}
	return r.cache.Get(key)
}

// reach waits until the cache has reached revision; too large a revision is upstream's 504.
func (r *resource) reach(ctx context.Context, revision int64) error {
	if r.cache.Revision() >= revision {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, freshTimeout, tooLarge(revision, r.cache.Revision()))
	defer cancel()
	if revision > r.written.Load() { // else the change itself is under way
		raise(&r.wanted, revision)
		r.askProgress()
	}
	return r.cache.Wait(ctx, revision)
}

// raise makes to at least revision.
func raise(to *atomic.Int64, revision int64) {
	for {
		if old := to.Load(); old >= revision || to.CompareAndSwap(old, revision) {
			return
		}
	}
}

// fresh waits until the cache holds everything that was acknowledged to anybody before the call.
func (r *resource) fresh(ctx context.Context) error {
	if r.s.c.SoleWriter {
		written := r.written.Load()
		if r.cache.Revision() >= written {
			return nil
		}
		ctx, cancel := context.WithTimeoutCause(ctx, freshTimeout, context.DeadlineExceeded)
		defer cancel()
		return r.cache.Wait(ctx, written)
	}
	revision, err := r.s.probe.revision(ctx, r.s.work.Go)
	if err != nil {
		return err
	}
	return r.reach(ctx, revision)
}

// parseRevision reads a resourceVersion; "" is 0.
func parseRevision(text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err == nil && n < 0 {
		err = fmt.Errorf("%q is negative", text)
	}
	if err != nil {
		return 0, apierrors.NewBadRequest(fmt.Sprintf("invalid resource version %q: %v", text, err))
	}
	return n, nil
}

// Create implements Resource.
func (r *resource) Create(ctx context.Context, namespace, name string, obj runtime.Object, ttlSeconds int64) (*Object, error) {
	key, err := r.key(namespace, name)
	if err != nil {
		return nil, err
	}
	if ttlSeconds == 0 {
		ttlSeconds = r.ttl(obj)
	}
	o, err := r.prepare(ctx, key, obj, ttlSeconds, 0)
	if err != nil {
		return nil, failed(r.c.GroupResource, "create", err)
	}
	if r.s.c.SoleWriter { // no need to ask etcd what is known; an absent object it does decide on
		select {
		case <-r.ready:
			if r.known(key) != nil {
				return nil, apierrors.NewAlreadyExists(r.c.GroupResource, name)
			}
		default:
		}
	}
	done, _, err := r.write(ctx, o, 0)
	if err != nil {
		return nil, failed(r.c.GroupResource, "create", err)
	}
	if !done {
		return nil, apierrors.NewAlreadyExists(r.c.GroupResource, name)
	}
	return o.object, nil
}

func (r *resource) ttl(obj runtime.Object) int64 {
	if r.c.TTL == nil {
		return 0
	}
	return int64(r.c.TTL(obj) / time.Second)
}

// prepare encodes obj into a write that has not begun. lease is kept when ttlSeconds is 0.
func (r *resource) prepare(ctx context.Context, key string, obj runtime.Object, ttlSeconds int64, lease clientv3.LeaseID) (*ownWrite, error) {
	plain, stored, err := r.codec.encode(ctx, r.prefix+key, obj)
	if err != nil {
		return nil, err
	}
	if ttlSeconds > 0 {
		if lease, err = r.s.leases.get(ctx, ttlSeconds); err != nil {
			return nil, fmt.Errorf("get a lease of %d s: %w", ttlSeconds, err)
		}
	}
	r.codec.settle(obj)
	r.share(obj, key, nil)
	return &ownWrite{key: key, value: stored, object: newObject(Object{Key: key, Object: obj, size: len(plain), lease: lease})}, nil
}

// write puts or deletes w's key if it is at revision at (0: absent), and settles w. If it is not, done is false and met is
// what is there, nil for nothing.
func (r *resource) write(ctx context.Context, w *ownWrite, at int64) (done bool, met *mvccpb.KeyValue, err error) {
	full := r.prefix + w.key
	op := clientv3.OpDelete(full)
	if w.object != nil {
		var opts []clientv3.OpOption
		if w.object.lease != 0 {
			opts = append(opts, clientv3.WithLease(w.object.lease))
		}
		op = clientv3.OpPut(full, string(w.value), opts...)
	}
	r.own.begin(w)
	request, began := requestUpdate, time.Now()
	switch {
	case w.object == nil:
		request = requestDelete
	case at == 0:
		request = requestCreate
	}
	resp, err := r.s.kv.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(full), "=", at)).Then(op).Else(clientv3.OpGet(full)).Commit()
	r.observe(request, began, err)
	if err != nil {
		r.own.abandon(w)
		return false, nil, err
	}
	if !resp.Succeeded {
		r.own.abandon(w)
		at = resp.Header.Revision
		if kvs := resp.Responses[0].GetResponseRange().Kvs; len(kvs) == 1 {
			met, at = kvs[0], kvs[0].ModRevision
		}
		if r.s.c.SoleWriter {
			// etcd told of a write that may not have been acknowledged yet. Whoever acts on that, and then reads, or
			// tells another to, must not be shown less: here reads do not ask etcd.
			err = r.reach(ctx, at)
		}
		return false, met, err
	}
	// In this order: whoever finds the write by name must find it in lists too, from then on.
	revision := resp.Header.Revision
	raise(&r.written, revision)
	r.own.settle(w, revision)
	return true, nil, nil
}

// object is what a refused write met, as an object.
func (r *resource) object(ctx context.Context, kv *mvccpb.KeyValue) (*Object, error) {
	if kv == nil {
		return nil, nil
	}
	if o := r.known(string(kv.Key[len(r.prefix):])); o != nil && o.Revision == kv.ModRevision {
		return o, nil
	}
	return r.decode(ctx, kv)
}

// Update implements Resource.
func (r *resource) Update(ctx context.Context, namespace, name string, p *Preconditions, ignoreNotFound bool, decide UpdateFunc) (*Object, error) {
	key, err := r.key(namespace, name)
	if err != nil {
		return nil, err
	}
	if err := r.started(ctx); err != nil {
		return nil, failed(r.c.GroupResource, "update", err)
	}
	// The first attempt starts from what this process knows, which is mostly current; if it is not, the transaction's
	// refusal brings what is. A decision against the write is checked against etcd before it counts.
	current, sure, unsealed := r.known(key), r.s.c.SoleWriter, false
	for {
		next, err := r.decide(ctx, key, name, p, ignoreNotFound, current, decide)
		if (err != nil || next == nil) && !sure {
			fresh, ferr := r.latest(ctx, key)
			if ferr != nil {
				return nil, failed(r.c.GroupResource, "update", ferr)
			}
			sure = true
			if fresh != current && (fresh == nil || current == nil || fresh.Revision != current.Revision) {
				current = fresh
				continue
			}
		}
		if err != nil {
			return nil, failed(r.c.GroupResource, "update", err)
		}
		if next == nil && !unsealed && r.codec.mayBeStale() {
			// The cache does not know with which key the value was written, if that has changed since, or if another server did it.
			// Rotating keys relies on this: every object is updated as it is.
			unsealed = true
			stored, err := r.stored(ctx, key)
			if err != nil {
				return nil, failed(r.c.GroupResource, "update", err)
			}
			if stored == nil || stored.Revision != current.Revision || stored.stale {
				current, sure = stored, true
				continue
			}
		}
		if next == nil {
			return current, nil
		}
		at := int64(0)
		if current != nil {
			at = current.Revision
		}
		done, met, err := r.write(ctx, next, at)
		if err != nil {
			return nil, failed(r.c.GroupResource, "update", err)
		}
		if done {
			return next.object, nil
		}
		sure = true
		if current, err = r.object(ctx, met); err != nil {
			return nil, failed(r.c.GroupResource, "update", err)
		}
	}
}

// decide runs one attempt of an update on current, and returns the write to make, nil for none.
func (r *resource) decide(ctx context.Context, key, name string, p *Preconditions, ignoreNotFound bool, current *Object, decide UpdateFunc) (*ownWrite, error) {
	if current == nil && !ignoreNotFound {
		return nil, r.absent(key, name)
	}
	if err := r.check(key, name, p, current); err != nil {
		return nil, err
	}
	obj, err := decide(current)
	if err != nil {
		return nil, err
	}
	if obj == nil {
		return nil, fmt.Errorf("update of %s decided on nothing at all", key)
	}
	if current == nil {
		return r.prepare(ctx, key, obj, r.ttl(obj), 0)
	}
	if obj == current.Object {
		if !current.stale {
			return nil, nil
		}
		obj = withRevision(obj, 0) // written again as it is; the shared object must keep its revision
	}
	plain, stored, err := r.codec.encode(ctx, r.prefix+key, obj)
	if err != nil {
		return nil, err
	}
	// Upstream writes nothing when nothing changed. Equal bytes say so; equal lengths make it worth looking.
	if len(plain) == current.size && !current.stale {
		if same, err := r.same(ctx, key, plain, current); err != nil || same {
			return nil, err
		}
	}
	lease := current.lease
	if ttl := r.ttl(obj); ttl > 0 {
		if lease, err = r.s.leases.get(ctx, ttl); err != nil {
			return nil, fmt.Errorf("get a lease of %d s: %w", ttl, err)
		}
	}
	r.codec.settle(obj)
	r.share(obj, key, current)
	return &ownWrite{key: key, value: stored, object: newObject(Object{Key: current.Key, Object: obj, size: len(plain), lease: lease})}, nil
}

// same says whether current encodes to plain.
func (r *resource) same(ctx context.Context, key string, plain []byte, current *Object) (bool, error) {
	c := r.codec
	c.transformer = nil
	old, _, err := c.encode(ctx, r.prefix+key, withRevision(current.Object, 0))
	return err == nil && string(old) == string(plain), err
}

// check compares the preconditions with current, nil meaning absent.
func (r *resource) check(key, name string, p *Preconditions, current *Object) error {
	if p == nil || current == nil {
		return nil
	}
	m, err := meta.Accessor(current.Object)
	if err != nil {
		return err
	}
	full := r.prefix + key
	if p.UID != nil && *p.UID != m.GetUID() {
		return invalidObject(r.c.GroupResource, full, name, fmt.Sprintf("Precondition failed: UID in precondition: %v, UID in object meta: %v", *p.UID, m.GetUID()))
	}
	if p.ResourceVersion != nil && *p.ResourceVersion != m.GetResourceVersion() {
		return invalidObject(r.c.GroupResource, full, name, fmt.Sprintf("Precondition failed: ResourceVersion in precondition: %v, ResourceVersion in object meta: %v", *p.ResourceVersion, m.GetResourceVersion()))
	}
	return nil
}

// Delete implements Resource.
func (r *resource) Delete(ctx context.Context, namespace, name string, p *Preconditions, check func(*Object) error) (*Object, error) {
	key, err := r.key(namespace, name)
	if err != nil {
		return nil, err
	}
	if err := r.started(ctx); err != nil {
		return nil, failed(r.c.GroupResource, "delete", err)
	}
	current, sure := r.known(key), r.s.c.SoleWriter
	for {
		err := error(nil)
		if current == nil {
			err = r.absent(key, name)
		} else if err = r.check(key, name, p, current); err == nil && check != nil {
			err = check(current)
		}
		if err != nil && !sure {
			fresh, ferr := r.latest(ctx, key)
			if ferr != nil {
				return nil, failed(r.c.GroupResource, "delete", ferr)
			}
			sure = true
			if fresh != current && (fresh == nil || current == nil || fresh.Revision != current.Revision) {
				current = fresh
				continue
			}
		}
		if err != nil {
			return nil, failed(r.c.GroupResource, "delete", err)
		}
		w := &ownWrite{key: current.Key}
		done, met, err := r.write(ctx, w, current.Revision)
		if err != nil {
			return nil, failed(r.c.GroupResource, "delete", err)
		}
		if done {
			return departed(current, w.revision), nil // nobody changes a settled revision
		}
		sure = true
		if current, err = r.object(ctx, met); err != nil {
			return nil, failed(r.c.GroupResource, "delete", err)
		}
	}
}
