package store

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/storage/value"

	"wherry.dev/wherry/api/scheme"
	"wherry.dev/wherry/store/watchcache"
)

// DefaultPrefix is where upstream's API server keeps its objects.
const DefaultPrefix = "/registry"

// Config says which etcd, and how it is shared.
type Config struct {
	// Client reaches etcd; the store does not close it.
	Client *clientv3.Client
	// Prefix precedes every key. Empty: DefaultPrefix.
	Prefix string
	// SoleWriter says that nobody but this Store writes below Prefix (an embedded etcd). Then what this process has
	// written is all there is to wait for, and a consistent read asks etcd nothing.
	SoleWriter bool
	// Transformer encrypts values at rest. Nil: none for any resource. It may return nil for a resource.
	Transformer func(schema.GroupResource) value.Transformer
	// CompactEvery is the time between compactions of etcd's history. 0: five minutes; negative: never.
	CompactEvery time.Duration
	// Limits bound each resource's cache.
	Limits watchcache.Limits
	// Observe, if set, is told of each request to etcd for a resource's objects, in upstream's words: get, list, create, update, delete. It
	// must be quick.
	Observe func(resource schema.GroupResource, request string, took time.Duration, err error)
	// DetectMutations, for tests, is called with a description when a cached object was changed by someone who shares it.
	// It costs a copy of every object. Nil: off.
	DetectMutations func(what string)
	Log             *slog.Logger // nil: slog.Default()
}

// Store is one etcd as one API server sees it. Safe for concurrent use.
type Store struct {
	c      Config
	kv     clientv3.KV
	leases leases
	probe  probe
	outage outage
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	work   sync.WaitGroup // every goroutine of the store

	compacted atomic.Int64 // revision below which there is no history any more, as far as is known

	mu        sync.Mutex
	resources map[string]*resource // by prefix; guarded by mu
	closed    bool                 // guarded by mu
}

// Open returns a store over an etcd that is up. It starts the compaction; resources start as they are asked for.
func Open(c Config) *Store {
	if c.Prefix == "" {
		c.Prefix = DefaultPrefix
	}
	c.Prefix = "/" + strings.Trim(c.Prefix, "/")
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.CompactEvery == 0 {
		c.CompactEvery = 5 * time.Minute
	}
	s := &Store{c: c, kv: c.Client.KV, resources: map[string]*resource{}}
	s.leases.client = c.Client.Lease
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.probe.read = func() (int64, error) {
		ctx, cancel := context.WithTimeout(s.ctx, probeTimeout)
		defer cancel()
		r, err := s.kv.Get(ctx, c.Prefix, clientv3.WithKeysOnly())
		if err != nil {
			return 0, err
		}
		return r.Header.Revision, nil
	}
	if c.CompactEvery > 0 {
		s.work.Go(func() { s.compactLoop(c.CompactEvery) })
	}
	return s
}

// ResourceConfig describes one stored resource.
type ResourceConfig struct {
	// Prefix is its directory in etcd below the store's ("pods", "services/specs").
	Prefix string
	// Namespaced says that keys have a namespace.
	Namespaced bool
	// GroupResource names it in errors.
	GroupResource schema.GroupResource
	// Kind is the stored version; it goes into every value.
	Kind schema.GroupVersionKind
	// Serializer encodes and decodes values. Nil: upstream's protobuf envelope, of the scheme's types; JSON values are
	// read too, as upstream does.
	Serializer runtime.Serializer
	// Default fills in defaults in place, in what was decoded and in what was written, once it is encoded. Nil: none.
	Default func(runtime.Object)
	// Convert brings a value that was stored in another version or kind to Kind's type. Nil: such a value is an error.
	Convert func(runtime.Object) (runtime.Object, error)
	// KeepVersion leaves the versions of values alone, of those that are stored and of those that are to be: whoever reads and writes
	// converts them. Convert is not asked.
	KeepVersion bool
	// TTL is how long an object that is written is kept; zero for ever. Nil: what Create says, and updates keep it.
	TTL func(runtime.Object) time.Duration
	// Index names a field by whose value many watchers select ("spec.nodeName"), and reads it, so that a change costs only
	// those who may want it. Empty: none.
	IndexField string
	Index      func(runtime.Object) string
}

// Resource returns the stored side of a resource, starting its cache at the first call for that prefix. Later calls for the
// same prefix return the same one. It panics on a config that cannot be, such as an empty prefix: that is a mistake in the program.
func (s *Store) Resource(c ResourceConfig) Resource {
	c.Prefix = strings.Trim(c.Prefix, "/")
	if c.Prefix == "" || c.Kind.Empty() || (c.IndexField == "") != (c.Index == nil) {
		panic(fmt.Sprintf("store: bad config of resource %q", c.GroupResource))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.resources[c.Prefix]; r != nil {
		return r
	}
	if s.closed {
		panic("store: Resource after Close")
	}
	r := newResource(s, c)
	s.resources[c.Prefix] = r
	s.work.Go(r.feed)
	return r
}

// Close ends every watch and waits for all the store's goroutines. Reads and writes after it fail. The etcd client stays open.
func (s *Store) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	s.work.Wait()
	for _, r := range s.resources {
		r.cache.Close()
		r.detector.check()
	}
}

// Reread has every resource try again what could not be decrypted. It is called when the keys of encryption have changed.
func (s *Store) Reread() {
	s.each(func(r *resource) {
		select {
		case r.reread <- struct{}{}:
		default:
		}
	})
}

// forget makes room for another resource of r's prefix.
func (s *Store) forget(r *resource) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := strings.Trim(r.c.Prefix, "/"); s.resources[p] == r {
		delete(s.resources, p)
	}
}

// each calls f for every resource there is.
func (s *Store) each(f func(*resource)) {
	s.mu.Lock()
	rs := make([]*resource, 0, len(s.resources))
	for _, r := range s.resources {
		rs = append(rs, r)
	}
	s.mu.Unlock()
	for _, r := range rs {
		f(r)
	}
}

// newCodec returns the codec of a resource.
func (s *Store) newCodec(c ResourceConfig) codec {
	k := codec{kind: c.Kind, serializer: c.Serializer, convert: c.Convert, keep: c.KeepVersion, defaults: c.Default}
	if k.serializer == nil {
		k.serializer = newEnvelope(scheme.Scheme)
	}
	if s.c.Transformer != nil {
		k.transformer = s.c.Transformer(c.GroupResource)
	}
	return k
}
