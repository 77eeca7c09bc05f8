package apiserver

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/deprecation"
	apirequest "k8s.io/apiserver/pkg/endpoints/request"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"wherry.dev/wherry/api/kinds"
	"wherry.dev/wherry/apiserver/aggregate"
	"wherry.dev/wherry/apiserver/discovery"
	"wherry.dev/wherry/apiserver/managed"
	"wherry.dev/wherry/apiserver/verbs"
	"wherry.dev/wherry/apiserver/wire"
	"wherry.dev/wherry/store"
)

// table is what is served at one moment. Immutable: a change makes a new one, and requests that have begun go on with theirs.
type table struct {
	kinds     []*kinds.Kind // in discovery order
	served    map[schema.GroupVersionResource]*verbs.Served
	storage   map[string]store.Resource                  // by StoragePrefix
	foreign   map[schema.GroupVersion]*aggregate.Foreign // not changed
	lives     map[schema.GroupVersionResource]*life      // of custom kinds
	order     map[schema.GroupVersion]discovery.Priority // of own groups and versions, where an administrator has changed it; not changed
	discovery func() *discovery.Documents                // made when the first client asks
}

// life is as long as the objects of a custom kind look the same; watches end with it.
type life struct {
	ctx     context.Context
	end     context.CancelFunc
	edition string
}

func newLife(edition string) *life {
	l := &life{edition: edition}
	l.ctx, l.end = context.WithCancel(context.Background())
	return l
}

// SetForeign hands the requests of each group and version of list to its handler, in place of what was set before. Where this server has
// kinds of the same group and version, the other server answers for them as long as it is there. Safe for concurrent use, as are the other
// methods that change what is served. Requests that have begun go on.
func (s *Server) SetForeign(list []aggregate.Foreign) {
	foreign := make(map[schema.GroupVersion]*aggregate.Foreign, len(list))
	for i := range list {
		if gv := list[i].GroupVersion; gv.Group != apiregistrationv1.GroupName { // or nobody could take anything back
			foreign[gv] = &list[i]
		}
	}
	_ = s.change(func(t *table) error { t.foreign = foreign; return nil }) // cannot fail
}

// SetPriorities says where in discovery the named groups and versions of this server's own kinds stand, in place of what was set before; others stand where
// upstream has them.
func (s *Server) SetPriorities(order map[schema.GroupVersion]discovery.Priority) {
	_ = s.change(func(t *table) error { t.order = order; return nil }) // cannot fail
}

// SetKinds changes what is served in one step: the kinds of the removed group, version and resource names go, then those added come, each
// in place of one of the same name if there is one. A stored side is opened for a kind whose prefix has none, and closed with the
// last kind that uses it, which ends its watches. A kind that comes in place of another with the same prefix takes over the stored
// side as it is; watches of a custom kind end then too when its objects may look different now.
// It fails when a kind cannot be stored: a mistake in its description. It does not wait for the stored sides it opens: requests do.
func (s *Server) SetKinds(removed []schema.GroupVersionResource, added []*kinds.Kind) error {
	var ending []context.CancelFunc
	err := s.change(func(t *table) error {
		var closing []store.Resource
		gone := map[schema.GroupVersionResource]bool{}
		for _, gvr := range removed {
			gone[gvr] = true
		}
		for _, k := range added {
			gone[k.GroupVersionResource()] = true
		}
		t.served, t.storage, t.lives = maps.Clone(t.served), maps.Clone(t.storage), maps.Clone(t.lives)
		touched, prefixes := map[string]bool{}, map[schema.GroupVersionResource]string{}
		for gvr := range gone {
			if v := t.served[gvr]; v != nil {
				touched[v.Kind.StoragePrefix], prefixes[gvr] = true, v.Kind.StoragePrefix
				delete(t.served, gvr)
			}

		}
		t.kinds = slices.DeleteFunc(slices.Clone(t.kinds), func(k *kinds.Kind) bool { return gone[k.GroupVersionResource()] })
		t.kinds = append(t.kinds, added...)
		for prefix := range touched {
			used := slices.ContainsFunc(t.kinds, func(k *kinds.Kind) bool { return k.StoragePrefix == prefix })
			if r := t.storage[prefix]; r != nil && !used {
				closing = append(closing, r)
				delete(t.storage, prefix)
			}
		}
		editions := map[schema.GroupVersionResource]string{}
		for _, k := range added {
			editions[k.GroupVersionResource()] = k.Edition
		}
		for gvr := range gone {
			if l := t.lives[gvr]; l != nil && l.edition != editions[gvr] {
				delete(t.lives, gvr)
				if t.storage[prefixes[gvr]] != nil { // else watches end by themselves, when they have told of the last deletions
					ending = append(ending, l.end)
				}
			}
		}
		for _, r := range closing { // before the same prefix is opened again
			r.Close()
		}
		return s.serveKinds(t, added)
	})
	for _, end := range ending { // now that who comes back finds the new kinds
		end()
	}
	if changed := s.kindsChanged.Load(); changed != nil {
		(*changed)()
	}
	return err
}

// AddKinds serves more kinds from now on; see SetKinds.
func (s *Server) AddKinds(added ...*kinds.Kind) error { return s.SetKinds(nil, added) }

// RemoveKinds stops serving what is named; see SetKinds. Stored objects stay stored.
func (s *Server) RemoveKinds(names ...schema.GroupVersionResource) error {
	return s.SetKinds(names, nil)
}

// change makes a new table of the current one. The copy that f gets is shallow: f clones what it changes.
func (s *Server) change(f func(*table) error) error {
	s.changing.Lock()
	defer s.changing.Unlock()
	next := *s.now.Load()
	if err := f(&next); err != nil {
		return err
	}
	s.finishTable(&next)
	s.admit.SetKinds(next.kinds)
	s.now.Store(&next)
	if o, ok := s.config.OpenAPI.(interface{ SetKinds([]*kinds.Kind) }); ok {
		o.SetKinds(next.kinds)
	}
	return nil
}

// finishTable prepares what is made of the kinds.
func (s *Server) finishTable(t *table) {
	list, order, address := t.kinds, t.order, ""
	if s.config.Advertise.IsValid() {
		address = s.config.Advertise.String()
	}
	foreign := make([]discovery.Foreign, 0, len(t.foreign))
	for _, f := range t.foreign {
		foreign = append(foreign, f.Foreign)
	}
	t.discovery = sync.OnceValue(func() *discovery.Documents { return discovery.New(list, foreign, order, address) })
}

// serveKinds adds list, whose stored sides may be open already, to t.
func (s *Server) serveKinds(t *table, list []*kinds.Kind) error {
	// Stored sides first: kinds that share a prefix share one.
	for _, k := range list {
		if k.StoragePrefix == "" || k.Hub != nil && !k.HubOpens || t.storage[k.StoragePrefix] != nil {
			continue
		}
		open := func() (store.Resource, error) { return s.config.Storage(k) }
		if k.Custom {
			t.storage[k.StoragePrefix] = newUnopened(k.GroupVersionResource().GroupResource(), open)
			continue
		}
		r, err := open()
		if err != nil {
			return fmt.Errorf("open storage of %s: %w", k.GroupVersionResource(), err)
		}
		t.storage[k.StoragePrefix] = r
	}
	for _, k := range list {
		gvr := k.GroupVersionResource()
		types := s.types
		if k.MergeTypes != nil {
			types = managed.NewTypes(k.MergeTypes)
		}
		v := &verbs.Served{Kind: k, Type: wire.NewType(k), Store: t.storage[k.StoragePrefix], Managed: map[string]*managed.Manager{"": managed.New(k, "", types)},
			Decoder: s.decoder, Admit: s.admit, Trace: s.config.Trace, Answer: s.config.Answers[gvr], WatchTimeout: s.config.WatchTimeout,
			Watched: newWatched(s.metrics, gvr)}
		if gvr == corev1.SchemeGroupVersion.WithResource("componentstatuses") {
			v.Compute = s.componentStatuses
		}
		v.Notices, v.Removed = s.deprecation(k)
		if k.Custom {
			if t.lives[gvr] == nil {
				t.lives[gvr] = newLife(k.Edition)
			}
			v.Life = t.lives[gvr].ctx
		}
		if k.StoragePrefix != "" && v.Store == nil {
			return fmt.Errorf("kind %s is stored as %s under %q, which no kind stores", k.GroupVersionKind, k.Hub.HubIsKind, k.StoragePrefix)
		}
		for name := range k.Subresources {
			v.Managed[name] = managed.New(k, name, types)
		}
		for _, sub := range k.ConnectSubresources {
			v.Managed[sub.Name] = managed.New(k, sub.Name, types)
		}
		t.served[gvr] = v
	}
	return nil
}

// deprecation says that a kind is deprecated, in the words that upstream has for it, and in which release it goes. Empty for others.
func (s *Server) deprecation(k *kinds.Kind) (notices []string, removed string) {
	if k.Custom {
		return k.Notices, ""
	}
	major, minor, err := deprecation.MajorMinor(s.config.Version)
	if err != nil {
		return nil, ""
	}
	obj := k.New()
	if !deprecation.IsDeprecated(obj, major, minor) {
		return nil, ""
	}
	obj.GetObjectKind().SetGroupVersionKind(k.GroupVersionKind)
	return []string{deprecation.WarningMessage(obj)}, deprecation.RemovedRelease(obj)
}

// Kinds returns what is served now, foreign groups left out. The slice is shared: callers must not change it.
func (s *Server) Kinds() []*kinds.Kind { return s.now.Load().kinds }

func (s *Server) resource(gvr schema.GroupVersionResource) *verbs.Served {
	return s.now.Load().served[gvr]
}

// known returns the resource that a request is about, nil when there is no such thing.
func (s *Server) known(i *apirequest.RequestInfo) *verbs.Served {
	return s.resource(schema.GroupVersionResource{Group: i.APIGroup, Version: i.APIVersion, Resource: i.Resource})
}

// ownGroup says whether a group is of kinds that are built in.
func (s *Server) ownGroup(group string) bool {
	for gvr, served := range s.now.Load().served {
		if gvr.Group == group && !served.Kind.Custom {
			return true
		}
	}
	return false
}

// elsewhere returns who answers a request instead of this server, nil for nobody.
func (s *Server) elsewhere(i *apirequest.RequestInfo) http.Handler {
	t := s.now.Load()
	if len(t.foreign) == 0 {
		return nil
	}
	gv := schema.GroupVersion{Group: i.APIGroup, Version: i.APIVersion}
	if !i.IsResourceRequest {
		first, rest, _ := strings.Cut(strings.Trim(i.Path, "/"), "/")
		switch first {
		case "api": // the other server answers for all below it
			gv = corev1.SchemeGroupVersion
		case "apis":
			parts := strings.SplitN(rest, "/", 3)
			if len(parts) < 2 {
				return nil
			}
			gv = schema.GroupVersion{Group: parts[0], Version: parts[1]}
		default:
			return nil
		}
	}
	if f := t.foreign[gv]; f != nil {
		return f.Handler
	}
	return nil
}

// foreignDocuments returns what other servers serve, by group and version.
func (t *table) foreignDocuments() []aggregate.Foreign {
	list := make([]aggregate.Foreign, 0, len(t.foreign))
	for _, f := range t.foreign {
		list = append(list, *f)
	}
	slices.SortFunc(list, func(a, b aggregate.Foreign) int {
		return strings.Compare(a.GroupVersion.String(), b.GroupVersion.String())
	})
	return list
}

// Storage returns the stored side of a resource, nil when it is not stored or not stored as it is served. It is for informers in this process.
func (s *Server) Storage(gvr schema.GroupVersionResource) store.Resource {
	if v := s.resource(gvr); v != nil && v.Kind.Hub == nil {
		return v.Store
	}
	return nil
}

// Ready says whether the server can answer: every watch cache has caught up.
func (s *Server) Ready(ctx context.Context) error {
	for prefix, r := range s.now.Load().storage {
		select {
		case <-r.Ready():
		case <-ctx.Done():
			return fmt.Errorf("watch cache of %s has not caught up: %w", prefix, ctx.Err())
		}
	}
	return nil
}
