package apiserver

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/cache"

	"wherry.dev/wherry/api/kinds"
	"wherry.dev/wherry/apiserver/custom"
	"wherry.dev/wherry/store"
)

// nodeField is what thousands of kubelets select by: each wants its own pods only.
const nodeField = "spec.nodeName"

// Storage opens kinds in st, for Config.
func Storage(st *store.Store) func(*kinds.Kind) (store.Resource, error) {
	return func(k *kinds.Kind) (store.Resource, error) {
		c := store.ResourceConfig{Prefix: k.StoragePrefix, Namespaced: k.Namespaced, GroupResource: k.GroupVersionResource().GroupResource(), Kind: k.GroupVersionKind}
		if k.TTL != nil {
			c.TTL = func(obj runtime.Object) time.Duration { return k.TTL(obj) }
		}
		if slices.Contains(k.FieldLabels, nodeField) && k.SelectableFields != nil && !k.Custom { // a custom kind's stored version may not have the field
			c.IndexField = nodeField
			c.Index = func(obj runtime.Object) string { return storedNode(k, obj) }
		}
		Describe(k, &c)
		if k.StoragePrefix == "" {
			return nil, fmt.Errorf("%s is not stored", k.GroupVersionKind)
		}
		return st.Resource(c), nil
	}
}

// storedNode returns the node that a stored object names, "" for one that cannot be read.
func storedNode(k *kinds.Kind, stored runtime.Object) string {
	if k.Hub == nil {
		return k.SelectableFields(stored)[nodeField]
	}
	served, err := k.Hub.FromHub(stored)
	if err != nil {
		return ""
	}
	return k.SelectableFields(served)[nodeField]
}

// unopened is the stored side of a custom kind, which is opened when somebody asks for an object: nobody ever asks for most of them.
// Safe for concurrent use.
type unopened struct {
	resource schema.GroupResource
	open     func() (store.Resource, error)

	mu     sync.Mutex
	r      store.Resource // guarded by mu; nil until it is opened
	closed bool           // guarded by mu
}

func newUnopened(r schema.GroupResource, open func() (store.Resource, error)) *unopened {
	return &unopened{resource: r, open: open}
}

// get opens the resource if it is not yet.
func (u *unopened) get() (store.Resource, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.r != nil || u.closed {
		if u.closed {
			return nil, goneWithDefinition(u.resource)
		}
		return u.r, nil
	}
	r, err := u.open()
	if err != nil {
		return nil, fmt.Errorf("open storage of %s: %w", u.resource, err)
	}
	u.r = r
	return r, nil
}

// goneWithDefinition answers a request that found its resource still served and its store closed: as clients read the answer when they come a moment later and the
// path is unknown.
func goneWithDefinition(r schema.GroupResource) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: http.StatusNotFound, Reason: metav1.StatusReasonNotFound,
		Details: &metav1.StatusDetails{Group: r.Group, Kind: r.Resource}, Message: "the server could not find the requested resource"}}
}

// opened is the resource if it is open, else nil.
func (u *unopened) opened() store.Resource {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.r
}

func (u *unopened) Get(ctx context.Context, namespace, name, resourceVersion string) (*store.Object, error) {
	r, err := u.get()
	if err != nil {
		return nil, err
	}
	return r.Get(ctx, namespace, name, resourceVersion)
}

func (u *unopened) List(ctx context.Context, o store.ListOptions) (*store.ListResult, error) {
	r, err := u.get()
	if err != nil {
		return nil, err
	}
	return r.List(ctx, o)
}

func (u *unopened) Watch(ctx context.Context, o store.WatchOptions) (store.Watcher, error) {
	r, err := u.get()
	if err != nil {
		return nil, err
	}
	return r.Watch(ctx, o)
}

func (u *unopened) Create(ctx context.Context, namespace, name string, obj runtime.Object, ttlSeconds int64) (*store.Object, error) {
	r, err := u.get()
	if err != nil {
		return nil, err
	}
	return r.Create(ctx, namespace, name, obj, ttlSeconds)
}

func (u *unopened) Update(ctx context.Context, namespace, name string, p *store.Preconditions, ignoreNotFound bool, decide store.UpdateFunc) (*store.Object, error) {
	r, err := u.get()
	if err != nil {
		return nil, err
	}
	return r.Update(ctx, namespace, name, p, ignoreNotFound, decide)
}

func (u *unopened) Delete(ctx context.Context, namespace, name string, p *store.Preconditions, check func(*store.Object) error) (*store.Object, error) {
	r, err := u.get()
	if err != nil {
		return nil, err
	}
	return r.Delete(ctx, namespace, name, p, check)
}

// Count implements store.Resource: what is not open holds nothing.
func (u *unopened) Count() int {
	if r := u.opened(); r != nil {
		return r.Count()
	}
	return 0
}

// Ready implements store.Resource: nobody has to wait for what nobody has asked for.
func (u *unopened) Ready() <-chan struct{} {
	if r := u.opened(); r != nil {
		return r.Ready()
	}
	return alwaysReady
}

var alwaysReady = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// Close implements store.Resource.
func (u *unopened) Close() {
	u.mu.Lock()
	r := u.r
	u.closed = true
	u.mu.Unlock()
	if r != nil {
		r.Close()
	}
}

// Describe completes c with how objects of a custom kind are stored: as JSON, in the version of their Hub; and with how definitions are. It
// leaves other kinds alone.
func Describe(k *kinds.Kind, c *store.ResourceConfig) {
	if k.GroupVersionKind.GroupKind() == (schema.GroupKind{Group: apiextensionsv1.GroupName, Kind: "CustomResourceDefinition"}) {
		c.Serializer = custom.Stored{Other: store.Envelope()}
	}
	switch {
	case k.Custom:
		c.Kind, c.Serializer, c.KeepVersion = k.Hub.HubIsKind, customJSON{unstructured.UnstructuredJSONScheme}, true
	case k.Hub != nil:
		c.Kind, c.Convert = k.Hub.HubIsKind, k.Hub.ToHub
	default:
		c.Default = k.Default
		if fill := k.Default; k.GroupVersionKind.GroupKind() == (schema.GroupKind{Group: discoveryv1.GroupName, Kind: "EndpointSlice"}) {
			c.Default = func(obj runtime.Object) {
				if fill != nil {
					fill(obj)
				}
				if s, ok := obj.(*discoveryv1.EndpointSlice); ok && len(s.Ports) == 0 {
					s.Ports = nil // an empty list, which JSON tells from none, is none when it is stored
				}
			}
		}
	}
	if k.StoredAsJSON {
		c.Serializer = store.JSON()
	}
}

// customJSON is JSON as upstream stores custom resources.
type customJSON struct{ runtime.Serializer }

// Decode implements runtime.Decoder. A field named items makes no list of an object.
func (s customJSON) Decode(data []byte, defaults *schema.GroupVersionKind, _ runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	return s.Serializer.Decode(data, defaults, &unstructured.Unstructured{})
}

// listerWatcher reads a resource's watch cache for the informers of this process; nil for what is not stored as it is served.
func (s *Server) listerWatcher(gvr schema.GroupVersionResource) cache.ListerWatcher {
	v := s.resource(gvr)
	if v == nil || v.Store == nil || v.Kind.Hub != nil {
		return nil
	}
	return store.NewListWatch(v.Store, v.Kind.New, v.Kind.SelectableFields)
}
