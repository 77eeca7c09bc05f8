// Package objects keeps the ConfigMaps and Secrets which the pods of this node refer to: read when first needed,
// then watched one by one (a node may see no others, see the node authorizer), forgotten when the last pod that uses
// them goes. The kubelet's volumes and environment variables read through it.
package objects

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
)

// Cache holds the referenced objects, each with one watch however many pods use it. Its size is bounded by what the
// node's pods refer to. Objects it returns are shared: never change them. Safe for concurrent use.
type Cache struct {
	api    kubernetes.Interface
	log    *slog.Logger
	notify func(types.UID)

	ctx    context.Context // ends every watch
	cancel context.CancelFunc
	wg     sync.WaitGroup // one per watch

	mu      sync.Mutex // guards entries, users and every entry's obj, err and started
	entries map[key]*entry
	users   map[types.UID]map[key]struct{}
}

type kind uint8

const (
	configMaps kind = iota
	secrets
)

func (k kind) String() string {
	if k == secrets {
		return "secret"
	}
	return "configmap"
}

func (k kind) resource() string { return k.String() + "s" }

type key struct {
	kind            kind
	namespace, name string
}

// entry is one object. ready is closed when obj and err hold the first answer.
type entry struct {
	key    key
	cancel context.CancelFunc
	ready  chan struct{}
	users  map[types.UID]struct{}

	obj    runtime.Object // nil when it is not there
	err    error          // why it is not there
	closed bool           // its goroutine has ended and obj will not change: immutable or failed
}

// New returns an empty cache. notify is called, from goroutines of the cache, with each pod that uses an object which
// has changed, appeared or gone; it must not block and may be nil. Close ends the cache.
func New(api kubernetes.Interface, log *slog.Logger, notify func(podUID types.UID)) *Cache {
	ctx, cancel := context.WithCancel(context.Background())
	if notify == nil {
		notify = func(types.UID) {}
	}
	if log == nil {
		log = slog.Default()
	}
	return &Cache{api: api, log: log, notify: notify, ctx: ctx, cancel: cancel,
		entries: map[key]*entry{}, users: map[types.UID]map[key]struct{}{}}
}

// Close ends every watch and waits for them. Reads after Close fail.
func (c *Cache) Close() {
	c.mu.Lock()
	c.cancel() // under the lock: no watch begins after it
	c.mu.Unlock()
	c.wg.Wait()
}

// ConfigMap returns a ConfigMap for a pod, which from now on is told of its changes. What is not there is an error
// that apierrors.IsNotFound knows.
func (c *Cache) ConfigMap(ctx context.Context, pod types.UID, namespace, name string) (*corev1.ConfigMap, error) {
	obj, err := c.get(ctx, pod, key{configMaps, namespace, name})
	if err != nil {
		return nil, err
	}
	return obj.(*corev1.ConfigMap), nil
}

// Secret returns a Secret for a pod, as ConfigMap does.
func (c *Cache) Secret(ctx context.Context, pod types.UID, namespace, name string) (*corev1.Secret, error) {
	obj, err := c.get(ctx, pod, key{secrets, namespace, name})
	if err != nil {
		return nil, err
	}
	return obj.(*corev1.Secret), nil
}

// Release forgets a pod. Objects that no other pod uses are dropped with their watches.
func (c *Cache) Release(pod types.UID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for k := range c.users[pod] {
		e := c.entries[k]
		if e == nil {
			continue
		}
		delete(e.users, pod)
		if len(e.users) == 0 {
			e.cancel()
			delete(c.entries, k)
		}
	}
	delete(c.users, pod)
}

// Len is the number of objects held, for metrics and tests.
func (c *Cache) Len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.entries)
}

func (c *Cache) get(ctx context.Context, pod types.UID, k key) (runtime.Object, error) {
	if k.name == "" {
		return nil, fmt.Errorf("%s without a name", k.kind)
	}
	c.mu.Lock()
	if err := c.ctx.Err(); err != nil {
		c.mu.Unlock()
		return nil, fmt.Errorf("read %s %s/%s: the kubelet is stopping", k.kind, k.namespace, k.name)
	}
	e := c.entries[k]
	if e == nil || e.closed && e.obj == nil {
		// Nothing yet, or the last attempt failed: begin anew, for the pods that already asked as well.
		fresh := &entry{key: k, ready: make(chan struct{}), users: map[types.UID]struct{}{}}
		if e != nil {
			fresh.users = e.users
		}
		e = fresh
		var watching context.Context
		watching, e.cancel = context.WithCancel(c.ctx)
		c.entries[k] = e
		c.wg.Add(1)
		go func() {
			defer c.wg.Done()
			defer e.cancel()
			c.follow(watching, e)
		}()
	}
	e.users[pod] = struct{}{}
	if c.users[pod] == nil {
		c.users[pod] = map[key]struct{}{}
	}
	c.users[pod][k] = struct{}{}
	c.mu.Unlock()

	select {
	case <-e.ready:
	case <-ctx.Done():
		return nil, fmt.Errorf("read %s %s/%s: %w", k.kind, k.namespace, k.name, context.Cause(ctx))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return e.obj, e.err
}

// follow reads the object and keeps it current until ctx ends, the object proves immutable, or the first read fails.
func (c *Cache) follow(ctx context.Context, e *entry) {
	k := e.key
	obj, err := c.read(ctx, k)
	version := ""
	switch {
	case err == nil:
		version = obj.(metav1.Object).GetResourceVersion()
		if c.set(e, obj, nil) {
			return
		}
	case apierrors.IsNotFound(err):
		c.set(e, nil, err)
	default:
		c.mu.Lock()
		e.err, e.closed = fmt.Errorf("read %s %s/%s: %w", k.kind, k.namespace, k.name, err), true
		c.mu.Unlock()
		close(e.ready)
		return
	}
	const first, limit = 50 * time.Millisecond, 30 * time.Second
	for delay := first; ctx.Err() == nil; {
		began := time.Now()
		if version == "" {
			if obj, version, err = c.list(ctx, k); err == nil {
				if obj == nil {
					err = notFound(k)
				}
				if c.set(e, obj, err) {
					return
				}
				err = nil
			}
		}
		if err == nil {
			var done bool
			if version, done, err = c.watch(ctx, e, version); done {
				return
			}
		}
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			version = "" // read again: what we know may be too old to continue from
			if !apierrors.IsResourceExpired(err) && !apierrors.IsGone(err) {
				c.log.Debug("watch of a referenced object failed; will try again", "kind", k.kind.String(), "namespace", k.namespace, "name", k.name, "err", err)
			} else if delay == first {
				continue
			}
		}
		// A server that ends watches as soon as they begin must not make us spin.
		if time.Since(began) > limit {
			delay = first
		}
		timer := time.NewTimer(delay)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
		delay = min(2*delay, limit)
	}
}

// set stores what is known, tells the users when it differs from before, and says whether it can never change again.
func (c *Cache) set(e *entry, obj runtime.Object, err error) (final bool) {
	if obj != nil {
		final = immutable(obj)
		obj.(metav1.Object).SetManagedFields(nil)
	}
	c.mu.Lock()
	before := e.obj
	e.obj, e.err = obj, err
	e.closed = final
	users := make([]types.UID, 0, len(e.users))
	for u := range e.users {
		users = append(users, u)
	}
	c.mu.Unlock()
	select {
	case <-e.ready:
		if !same(before, obj) {
			for _, u := range users {
				c.notify(u)
			}
		}
	default:
		close(e.ready)
	}
	return final
}

func same(a, b runtime.Object) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	x, y := a.(metav1.Object), b.(metav1.Object)
	return x.GetUID() == y.GetUID() && x.GetResourceVersion() == y.GetResourceVersion()
}

func immutable(o runtime.Object) bool {
	switch o := o.(type) {
	case *corev1.ConfigMap:
		return o.Immutable != nil && *o.Immutable
	case *corev1.Secret:
		return o.Immutable != nil && *o.Immutable
	}
	return false
}

func notFound(k key) error {
	return apierrors.NewNotFound(corev1.Resource(k.kind.resource()), k.name)
}

func (c *Cache) read(ctx context.Context, k key) (runtime.Object, error) {
	if k.kind == secrets {
		o, err := c.api.CoreV1().Secrets(k.namespace).Get(ctx, k.name, metav1.GetOptions{})
		if err != nil {
			return nil, err
		}
		return o, nil
	}
	o, err := c.api.CoreV1().ConfigMaps(k.namespace).Get(ctx, k.name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	return o, nil
}

func only(name string) string { return fields.OneTermEqualSelector("metadata.name", name).String() }

// list reads the object, nil when it is not there, and the version from which a watch can go on.
func (c *Cache) list(ctx context.Context, k key) (runtime.Object, string, error) {
	options := metav1.ListOptions{FieldSelector: only(k.name)}
	var list runtime.Object
	var err error
	if k.kind == secrets {
		list, err = c.api.CoreV1().Secrets(k.namespace).List(ctx, options)
	} else {
		list, err = c.api.CoreV1().ConfigMaps(k.namespace).List(ctx, options)
	}
	if err != nil {
		return nil, "", err
	}
	version := list.(metav1.ListInterface).GetResourceVersion()
	if version == "" {
		version = "0"
	}
	items, err := meta.ExtractList(list)
	if err != nil {
		return nil, "", err
	}
	for _, o := range items {
		if o.(metav1.Object).GetName() == k.name {
			return o, version, nil
		}
	}
	return nil, version, nil
}

// watch follows the object from a version until the watch ends. It returns the version reached and whether the object can never change again.
func (c *Cache) watch(ctx context.Context, e *entry, version string) (reached string, final bool, err error) {
	k := e.key
	options := metav1.ListOptions{FieldSelector: only(k.name), ResourceVersion: version, AllowWatchBookmarks: true}
	var w watch.Interface
	if k.kind == secrets {
		w, err = c.api.CoreV1().Secrets(k.namespace).Watch(ctx, options)
	} else {
		w, err = c.api.CoreV1().ConfigMaps(k.namespace).Watch(ctx, options)
	}
	if err != nil {
		return version, false, err
	}
	defer w.Stop()
	for {
		select {
		case <-ctx.Done():
			return version, false, ctx.Err()
		case ev, ok := <-w.ResultChan():
			if !ok {
				return version, false, nil
			}
			if ev.Type == watch.Error {
				return version, false, apierrors.FromObject(ev.Object)
			}
			o, ok := ev.Object.(metav1.Object)
			if !ok {
				return version, false, fmt.Errorf("unexpected %T in a watch of %s", ev.Object, k.kind.resource())
			}
			if v := o.GetResourceVersion(); v != "" {
				version = v
			}
			if ev.Type == watch.Bookmark || o.GetName() != k.name {
				continue
			}
			switch ev.Type {
			case watch.Added, watch.Modified:
				// Events may share the object with other watchers: copy before trimming.
				if c.set(e, ev.Object.DeepCopyObject(), nil) {
					return version, true, nil
				}
			case watch.Deleted:
				c.set(e, nil, notFound(k))
			}
		}
	}
}
