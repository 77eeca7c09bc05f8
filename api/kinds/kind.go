// Package kinds says of each resource, in one file each, all there is to say about it: names, scope, verbs,
// defaults, validation, what a write may set, selectable fields, printed columns, deletion. It decides; it stores
// and serves nothing. The API server is its reader; any component may use its pure functions.
package kinds

import (
	"context"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Kind describes one served resource in one group and version. Values are built once at start and immutable after.
type Kind struct {
	GroupVersionKind schema.GroupVersionKind
	Plural           string // URL segment and resource name
	Singular         string
	ShortNames       []string
	Categories       []string
	Namespaced       bool

	// Verbs are the served ones, as discovery lists them: create delete deletecollection get list patch update watch.
	Verbs []string

	New     func() runtime.Object
	NewList func() runtime.Object

	// StoragePrefix is the etcd directory below the server's prefix, as upstream lays it out
	// ("pods", "minions", "services/specs", "events"); keys are <prefix>/[<namespace>/]<name>.
	// Kinds that share a prefix share their stored objects. Empty for kinds that are never stored (reviews).
	StoragePrefix string

	// Hub converts between this served version and the one that is stored, when they differ (events.k8s.io/v1 is
	// stored as core/v1). Nil means this version is stored.
	Hub *Hub

	// Default fills in the documented defaults in place (upstream's SetDefaults_*). Runs on create and on every decoded write.
	Default func(obj runtime.Object)
	// PrepareForCreate resets what a client may not set (status, generation) in place. Nil: nothing.
	PrepareForCreate func(ctx context.Context, obj runtime.Object)
	// PrepareForUpdate copies back what an update of the main resource may not change and bumps
	// metadata.generation when the spec changed. old is immutable.
	PrepareForUpdate func(ctx context.Context, obj, old runtime.Object)
	// Validate returns one error for each wrong field, by path; metadata is included.
	Validate func(ctx context.Context, obj runtime.Object) field.ErrorList
	// ValidateUpdate checks obj as a replacement of old; metadata is included. old is immutable.
	ValidateUpdate func(ctx context.Context, obj, old runtime.Object) field.ErrorList
	// Warnings returns the Warning headers that upstream sends for a create or update (old is nil on create). May be nil.
	Warnings func(ctx context.Context, obj, old runtime.Object) []string

	// ValidateName checks a name for this kind (used for generateName too: prefix is true then).
	ValidateName func(name string, prefix bool) []string

	// Subresources by name ("status", "scale" ...) which are plain get/update/patch of the same stored object.
	// Subresources with a meaning of their own (binding, eviction, log, exec, token ...) live in apiserver/subresources.
	Subresources map[string]*Subresource
	// ConnectSubresources lists the names and verbs of subresources with a meaning of their own, for discovery.
	ConnectSubresources []SubresourceInfo

	// SelectableFields returns the values that field selectors of this kind may name, metadata.name and
	// metadata.namespace included. FieldLabels lists the accepted labels (others are a 400).
	SelectableFields func(obj runtime.Object) fields.Set
	FieldLabels      []string

	// Columns and Row render the Table that kubectl get prints, wide columns (Priority 1) included.
	Columns []metav1.TableColumnDefinition
	Row     func(obj runtime.Object, now time.Time) []any
	// RowConditions returns the conditions of the object's row (Completed, by which clients hide what has ended). Nil: none.
	RowConditions func(obj runtime.Object) []metav1.TableRowCondition

	// Graceful decides a deletion for kinds with graceful deletion (pods). Nil: deleted at once.
	// It may change obj (deletionGracePeriodSeconds is set by the caller); it returns the grace period in seconds, 0 meaning at once.
	Graceful func(obj runtime.Object, options *metav1.DeleteOptions) int64

	// TTL returns how long the object is kept, zero for ever (events).
	TTL func(obj runtime.Object) time.Duration

	AllowCreateOnUpdate      bool // PUT of what is not there creates it
	AllowUnconditionalUpdate bool // PUT without resourceVersion is accepted
	// DefaultOrphan: deletion without a propagation policy orphans dependents (upstream's legacy default for some kinds).
	DefaultOrphan bool
}

// Hub converts between a served and a stored version. Both functions return new objects and leave their argument alone.
type Hub struct {
	New       func() runtime.Object
	ToHub     func(served runtime.Object) (runtime.Object, error)
	FromHub   func(stored runtime.Object) (runtime.Object, error)
	HubIsKind schema.GroupVersionKind
}

// Subresource is a view of the stored object with write rules of its own.
type Subresource struct {
	Verbs            []string // get, patch, update
	PrepareForUpdate func(ctx context.Context, obj, old runtime.Object)
	ValidateUpdate   func(ctx context.Context, obj, old runtime.Object) field.ErrorList
	// Kind is set when the subresource is served as another type (scale); otherwise the parent's.
	Kind schema.GroupVersionKind
	// Read and Write convert between the parent and the other type; nil when Kind is empty. Write returns a new parent.
	Read  func(parent runtime.Object) (runtime.Object, error)
	Write func(parent, sub runtime.Object) (runtime.Object, error)
}

// SubresourceInfo names a subresource in discovery.
type SubresourceInfo struct {
	Name  string // "log", "exec", "token" ...
	Kind  schema.GroupVersionKind
	Verbs []string
}

// GroupVersionResource returns the resource's full name.
func (k *Kind) GroupVersionResource() schema.GroupVersionResource {
	return k.GroupVersionKind.GroupVersion().WithResource(k.Plural)
}
