// Package kinds says of each resource, in one file each, all there is to say about it: names, scope, verbs,
// defaults, validation, what a write may set, selectable fields, printed columns, deletion. It decides; it stores
// and serves nothing. The API server is its reader; any component may use its pure functions.
package kinds

import (
	"context"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// Kind describes one served resource in one group and version. Values are built once at start and immutable after.
type Kind struct {
	GroupVersionKind schema.GroupVersionKind
	Plural           string // URL segment and resource name
	Singular         string
	ShortNames       []string
	Categories       []string
	Namespaced       bool
	// Custom says that the kind is not built in: it comes and goes with a CustomResourceDefinition, and its objects are Unstructured.
	Custom bool

	// Edition names the state of the definition of a Custom kind: objects of two kinds of one group, version and edition look the same.
	Edition string

	// Verbs are the served ones, as discovery lists them: create delete deletecollection get list patch update watch.
	Verbs []string
	// HiddenVerbs are served too, but nobody is told of them.
	HiddenVerbs []string
	// NoCreate says why nothing can be created now, with a 403. Empty: it can.
	NoCreate string

	New     func() runtime.Object
	NewList func() runtime.Object

	// StoragePrefix is the etcd directory below the server's prefix, as upstream lays it out
	// ("pods", "minions", "services/specs", "events"); keys are <prefix>/[<namespace>/]<name>.
	// Kinds that share a prefix share their stored objects. Empty for kinds that are never stored (reviews).
	StoragePrefix string

	// Hub converts between this served version and the one that is stored, when they differ (events.k8s.io/v1 is
	// stored as core/v1). Nil means this version is stored.
	Hub *Hub
	// HubOpens says that the stored side is opened for this kind although it has a Hub: no kind is served just as it is stored.
	HubOpens bool
	// StoredAsJSON says that upstream stores the kind as JSON.
	StoredAsJSON bool
	// MergeTypes makes the merge schema of a kind that is not built in. Nil: the scheme's. Called once, when first needed.
	MergeTypes func() (managedfields.TypeConverter, error)
	// Convert returns a copy of an object, in any version of the kind, in another version, for managed fields that were recorded there. It
	// fails with a NotRegistered error when there is no such version. Nil: this version is the only one that is known.
	Convert func(obj runtime.Object, to schema.GroupVersion) (runtime.Object, error)
	// Schema makes the schema that documents show of a Custom kind, in the dialect of OpenAPI v2 or v3; references are to models of
	// k8s.io/apimachinery. The result is the caller's. Nil for kinds that are built in.
	Schema func(v2 bool) (*spec.Schema, error)

	// Default fills in the documented defaults in place (upstream's SetDefaults_*). Runs on create, on every decoded write, and on what was read from etcd:
	// what a write left out on purpose, or before a default came, is there for every reader.
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
	// Computed kinds are never stored: the server finds out what there is when it is read.
	Computed bool
	// Notices are Warning headers of every answer about this kind (it is deprecated).
	Notices []string

	// ValidateName checks a name for this kind (used for generateName too: prefix is true then).
	ValidateName func(name string, prefix bool) []string

	// Resets are the dotted paths of fields besides status that a write of the main resource cannot change, and so nobody comes to own by it.
	Resets []string

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

	// Terminate marks obj in place when it is first asked to go: finalizers, conditions. Nil: nothing.
	Terminate func(obj runtime.Object)

	// Prune takes away in place what the kind's schema does not know, and returns where that was. Set for Custom kinds only: the
	// type of a built-in kind cannot hold such things.
	Prune func(obj runtime.Object) (unknown []string, err error)

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
	// Keep puts into next, which ToHub has just made and which replaces stored, what stored holds and the served version cannot show. Nil: there is nothing.
	Keep func(next, stored runtime.Object)
}

// Subresource is a view of the stored object with write rules of its own.
type Subresource struct {
	Verbs            []string // get, patch, update
	PrepareForUpdate func(ctx context.Context, obj, old runtime.Object)
	ValidateUpdate   func(ctx context.Context, obj, old runtime.Object) field.ErrorList
	// Resets are the dotted paths of fields besides spec that a write of the status cannot set, and so nobody comes to own by it.
	Resets []string
	// Versions are the other versions of the kind that have this subresource: what this one resets, it resets there too.
	Versions []schema.GroupVersion
	// Kind is set when the subresource is served as another type (scale); otherwise the parent's.
	Kind schema.GroupVersionKind
	// Read and Write convert between the parent and the other type; nil when Kind is empty. Write returns a new parent.
	Read  func(parent runtime.Object) (runtime.Object, error)
	Write func(parent, sub runtime.Object) (runtime.Object, error)
	// Base is what patches start from where that is not what Read shows. Nil: it is.
	Base func(parent runtime.Object) (runtime.Object, error)
	// ReplicasPaths is where each version of the kind, by its apiVersion, keeps the number that a Scale shows; nil where it keeps none.
	// No map: spec.replicas.
	ReplicasPaths map[string][]string
}

// SubresourceInfo names a subresource in discovery.
type SubresourceInfo struct {
	Name  string // "log", "exec", "token" ...
	Kind  schema.GroupVersionKind
	Verbs []string
}

// ModelName is the name of the model of a Custom kind in OpenAPI documents: the group reversed, the version, the kind.
func ModelName(gvk schema.GroupVersionKind) string {
	group := strings.Split(gvk.Group, ".")
	slices.Reverse(group)
	return strings.Join(append(group, gvk.Version, gvk.Kind), ".")
}

// GroupVersionResource returns the resource's full name.
func (k *Kind) GroupVersionResource() schema.GroupVersionResource {
	return k.GroupVersionKind.GroupVersion().WithResource(k.Plural)
}
