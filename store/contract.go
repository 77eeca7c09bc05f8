// Package store is the only door to etcd: keys and values as upstream Kubernetes writes them, optimistic
// transactions, and one watch cache for each stored resource. The API server's verbs are its only writers.
package store

import (
	"context"

	clientv3 "go.etcd.io/etcd/client/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
)

// Object is one stored object: decoded once in the process, shared by every reader, immutable. It also carries
// its encodings, made at most once each, for as long as a reader holds it.
type Object struct {
	Key      string         // below the resource's prefix: "name" or "namespace/name"
	Revision int64          // etcd mod revision; Object's metadata.resourceVersion says the same
	Object   runtime.Object // in the stored version; with metadata.resourceVersion and TypeMeta as decoded
	// Memo caches what is derived from this revision (wire encodings, selectable fields). Safe for concurrent use.
	Memo *Memo

	size  int              // bytes of the encoded object
	lease clientv3.LeaseID // 0: for ever
	stale bool             // stored in yesterday's encryption or version: write it again when asked to write it unchanged
}

// Selector decides which objects a list or watch sees.
type Selector struct {
	Labels labels.Selector // nil: everything
	Fields fields.Selector // nil: everything
	// FieldsOf returns the object's selectable fields; needed only when Fields is not empty.
	FieldsOf func(*Object) fields.Set
}

// ListOptions follow metav1.ListOptions' documented semantics of resourceVersion, resourceVersionMatch, limit and continue.
type ListOptions struct {
	Namespace            string // "" for all
	Name                 string // set when metadata.name is selected, to read one key
	ResourceVersion      string
	ResourceVersionMatch metav1.ResourceVersionMatch
	Limit                int64
	Continue             string
	Selector             Selector
}

// ListResult is one page of a consistent snapshot.
type ListResult struct {
	Items              []*Object // shared and immutable
	ResourceVersion    int64
	Continue           string
	RemainingItemCount *int64
}

// WatchOptions follow metav1.ListOptions' documented semantics for watches, WatchList included.
type WatchOptions struct {
	Namespace            string
	Name                 string
	ResourceVersion      string
	ResourceVersionMatch metav1.ResourceVersionMatch
	SendInitialEvents    *bool
	AllowWatchBookmarks  bool
	Selector             Selector
}

// Event is one change as one watcher sees it: selection already applied (an object that stops matching is Deleted).
// Of a Bookmark only Object's revision counts; InitialEventsEnd marks the bookmark that ends the initial events.
// Of an Error, Err is the Status to send (410 for a watcher that was too slow or a revision that is compacted).
type Event struct {
	Type             watch.EventType
	Object           *Object
	InitialEventsEnd bool
	Err              *metav1.Status
}

// Watcher delivers events in order. Events returns a batch channel-free: Next blocks until at least one event is
// there, the context ends, or the watcher is stopped; the returned slice is valid until the next call.
type Watcher interface {
	Next(ctx context.Context) ([]Event, error) // io.EOF after Stop or after an Error event was delivered
	Stop()
}

// UpdateFunc decides the new value from the current one, which is immutable (nil when there is none and creating on
// update is allowed). It may be called again when another writer was faster. Returning the very object it was
// given means that nothing changes: nothing is written and the current object is returned.
type UpdateFunc func(current *Object) (runtime.Object, error)

// Preconditions of an update or a deletion; a violated one is a 409 Conflict in upstream's words.
type Preconditions struct {
	UID             *types.UID
	ResourceVersion *string
}

// Resource is the stored side of one resource. Errors are upstream's API errors (apierrors.StatusError):
// NotFound, AlreadyExists, Conflict, Expired, Timeout, InternalError, with the resource's group and name.
// Safe for concurrent use.
type Resource interface {
	// Get reads one object. ResourceVersion "" is linearizable, "0" is whatever the cache holds, another is at least that.
	Get(ctx context.Context, namespace, name, resourceVersion string) (*Object, error)
	List(ctx context.Context, o ListOptions) (*ListResult, error)
	Watch(ctx context.Context, o WatchOptions) (Watcher, error)
	// Create stores obj, which it takes over even if it fails; ttlSeconds 0 means what the resource's TTL says, or for ever. The object must not exist.
	Create(ctx context.Context, namespace, name string, obj runtime.Object, ttlSeconds int64) (*Object, error)
	// Update reads, decides and writes in one optimistic transaction. ignoreNotFound lets decide see nil and create.
	// The first attempt starts from what this process knows; a conflict, or a decision against the write, re-reads. An object that
	// encodes to the very bytes of the current one is not written, and keeps its TTL's lease unless the resource renews it.
	Update(ctx context.Context, namespace, name string, p *Preconditions, ignoreNotFound bool, decide UpdateFunc) (*Object, error)
	// Delete removes the object if check (may be nil) agrees with its current value, and returns its last state with the revision of the deletion.
	Delete(ctx context.Context, namespace, name string, p *Preconditions, check func(current *Object) error) (*Object, error)
	// Count returns the number of objects the cache holds.
	Count() int
	// Ready is closed when the cache has caught up for the first time.
	Ready() <-chan struct{}
	// Close ends every watch (io.EOF) and frees the cache; what is stored stays. Reads and writes after it fail. The next
	// Store.Resource for the same prefix starts anew. It waits for the resource's goroutine, and does nothing the second time.
	Close()
}
