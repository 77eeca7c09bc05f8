package apiserver

import (
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/cache"

	"wherry.dev/wherry/api/kinds"
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
		if slices.Contains(k.FieldLabels, nodeField) && k.SelectableFields != nil {
			c.IndexField = nodeField
			c.Index = func(obj runtime.Object) string { return k.SelectableFields(obj)[nodeField] }
		}
		if k.StoragePrefix == "" {
			return nil, fmt.Errorf("%s is not stored", k.GroupVersionKind)
		}
		return st.Resource(c), nil
	}
}

// listerWatcher reads a resource's watch cache for the informers of this process; nil for what is not stored as it is served.
func (s *Server) listerWatcher(gvr schema.GroupVersionResource) cache.ListerWatcher {
	v := s.served[gvr]
	if v == nil || v.Store == nil || v.Kind.Hub != nil {
		return nil
	}
	return store.NewListWatch(v.Store, v.Kind.New, v.Kind.SelectableFields)
}
