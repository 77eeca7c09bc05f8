// Package discovery tells clients which resources are served: group by group in the old form, and all at once in the
// aggregated one (KEP-3352). The documents are made once from the kinds; other kinds are other documents.
package discovery

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"slices"
	"sort"
	"strings"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kubeversion "k8s.io/apimachinery/pkg/version"

	"wherry.dev/wherry/api/kinds"
	"wherry.dev/wherry/apiserver/wire"
)

// Documents answers /api and /apis and all below that is no resource. Immutable.
type Documents struct {
	groups    []*group // by priority, then by name
	listed    []*group // as /apis lists them: by priority, then by the name of the APIService
	byName    map[string]*group
	resources map[schema.GroupVersion]*metav1.APIResourceList
	address   string
	all       map[form]func() (*encoded, error)
}

type group struct {
	name     string
	versions []*groupVersion // preferred first
}

// priority is that of the version of which it is highest.
func (g *group) priority() (p int32, first string) {
	for _, v := range g.versions {
		if name := v.name + "." + g.name; v.priority.Group > p || v.priority.Group == p && (first == "" || name < first) {
			p, first = v.priority.Group, name
		}
	}
	return p, first
}

type groupVersion struct {
	name     string
	priority Priority
	kinds    []*kinds.Kind
	foreign  *Foreign // nil for the server's own
}

// Foreign is a group and version that another server serves. Immutable.
type Foreign struct {
	GroupVersion schema.GroupVersion
	Priority     Priority
	// Resources are for the aggregated form. Nil: they are not known, and the version is shown as stale.
	Resources *apidiscoveryv2.APIVersionDiscovery
}

// New prepares the documents for kinds, which are served at address (host:port), and for the groups of other servers. A group and version
// that another server serves is that server's, whatever kinds there are. priorities are those of groups and versions of kinds that an administrator has
// changed.
func New(list []*kinds.Kind, foreign []Foreign, priorities map[schema.GroupVersion]Priority, address string) *Documents {
	d := &Documents{byName: map[string]*group{}, resources: map[schema.GroupVersion]*metav1.APIResourceList{}, address: address}
	version := func(gv schema.GroupVersion, p Priority) *groupVersion {
		g := d.byName[gv.Group]
		if g == nil {
			g = &group{name: gv.Group}
			d.byName[gv.Group] = g
			d.groups = append(d.groups, g)
		}
		i := slices.IndexFunc(g.versions, func(v *groupVersion) bool { return v.name == gv.Version })
		if i < 0 {
			i = len(g.versions)
			g.versions = append(g.versions, &groupVersion{name: gv.Version, priority: p})
		}
		return g.versions[i]
	}
	for i := range foreign {
		version(foreign[i].GroupVersion, foreign[i].Priority).foreign = &foreign[i]
	}
	for _, k := range list {
		gv := k.GroupVersionKind.GroupVersion()
		p, changed := priorities[gv]
		if !changed {
			p, _ = PriorityOf(k)
		}
		if v := version(gv, p); v.foreign == nil {
			v.kinds = append(v.kinds, k)
		}
	}
	for _, g := range d.groups {
		slices.SortStableFunc(g.versions, func(a, b *groupVersion) int {
			return cmp.Or(cmp.Compare(b.priority.Version, a.priority.Version), kubeversion.CompareKubeAwareVersionStrings(b.name, a.name))
		})
		for _, v := range g.versions {
			sort.Slice(v.kinds, func(i, j int) bool { return v.kinds[i].Plural < v.kinds[j].Plural })
			if v.foreign == nil { // else its server tells
				gv := schema.GroupVersion{Group: g.name, Version: v.name}
				d.resources[gv] = resourceList(gv, v.kinds)
			}
		}
	}
	slices.SortFunc(d.groups, func(a, b *group) int {
		p, _ := a.priority()
		q, _ := b.priority()
		return cmp.Or(cmp.Compare(q, p), cmp.Compare(a.name, b.name))
	})
	d.listed = slices.Clone(d.groups)
	slices.SortFunc(d.listed, func(a, b *group) int {
		p, x := a.priority()
		q, y := b.priority()
		return cmp.Or(cmp.Compare(q, p), cmp.Compare(x, y))
	})
	d.all = d.forms()
	return d
}

// resourceList is the old form of one group and version.
func resourceList(gv schema.GroupVersion, list []*kinds.Kind) *metav1.APIResourceList {
	out := &metav1.APIResourceList{GroupVersion: gv.String(), APIResources: []metav1.APIResource{}}
	for _, k := range list {
		if len(k.Verbs) > 0 {
			r := metav1.APIResource{Name: k.Plural, SingularName: k.Singular, Namespaced: k.Namespaced, Kind: k.GroupVersionKind.Kind,
				Verbs: verbsOf(k), ShortNames: k.ShortNames, Categories: k.Categories}
			if k.StoragePrefix != "" {
				stored := k.GroupVersionKind
				if k.Hub != nil {
					stored = k.Hub.HubIsKind
				}
				r.StorageVersionHash = storageVersionHash(stored)
			}
			out.APIResources = append(out.APIResources, r)
		}
		for _, s := range subresources(k) {
			r := metav1.APIResource{Name: k.Plural + "/" + s.Name, Namespaced: k.Namespaced, Kind: s.Kind.Kind, Verbs: s.Verbs}
			if s.Kind.GroupVersion() != gv {
				r.Group, r.Version = s.Kind.Group, s.Kind.Version
			}
			out.APIResources = append(out.APIResources, r)
		}
	}
	sort.SliceStable(out.APIResources, func(i, j int) bool { return out.APIResources[i].Name < out.APIResources[j].Name })
	return out
}

// storageVersionHash is opaque to clients; equal hashes mean an equal stored version.
func storageVersionHash(gvk schema.GroupVersionKind) string {
	sum := sha256.Sum256([]byte(gvk.Group + "/" + gvk.Version + "/" + gvk.Kind))
	return base64.StdEncoding.EncodeToString(sum[:8])
}

// subresources returns all of k's, by name.
func subresources(k *kinds.Kind) []kinds.SubresourceInfo {
	var out []kinds.SubresourceInfo
	for name, s := range k.Subresources {
		kind := s.Kind
		if kind.Empty() {
			kind = k.GroupVersionKind
		}
		out = append(out, kinds.SubresourceInfo{Name: name, Kind: kind, Verbs: sorted(s.Verbs)})
	}
	for _, s := range k.ConnectSubresources {
		if s.Kind.Empty() {
			s.Kind = k.GroupVersionKind
		}
		s.Verbs = sorted(s.Verbs)
		out = append(out, s)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out
}

// verbsOf are k's verbs, in upstream's order.
func verbsOf(k *kinds.Kind) []string {
	if k.Custom {
		return k.Verbs
	}
	return sorted(k.Verbs)
}

func sorted(v []string) []string {
	v = slices.Clone(v)
	sort.Strings(v)
	return v
}

// ServeHTTP answers /api, /api/{version}, /apis, /apis/{group} and /apis/{group}/{version}, and 404 for the rest.
func (d *Documents) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	switch {
	case len(parts) == 1 && d.aggregated(w, r, parts[0] == "api"):
	case len(parts) == 1 && parts[0] == "api":
		v := &metav1.APIVersions{Versions: []string{}, ServerAddressByClientCIDRs: []metav1.ServerAddressByClientCIDR{{ClientCIDR: "0.0.0.0/0", ServerAddress: d.address}}}
		if g := d.byName[""]; g != nil {
			for _, gv := range g.versions {
				v.Versions = append(v.Versions, gv.name)
			}
		}
		write(w, r, "APIVersions", v)
	case len(parts) == 1 && parts[0] == "apis":
		l := &metav1.APIGroupList{Groups: []metav1.APIGroup{}}
		for _, g := range d.listed {
			if g.name != "" {
				l.Groups = append(l.Groups, g.document())
			}
		}
		write(w, r, "APIGroupList", l)
	case len(parts) == 2 && parts[0] == "api":
		d.resourceList(w, r, schema.GroupVersion{Version: parts[1]})
	case len(parts) == 2 && parts[0] == "apis" && parts[1] != "" && d.byName[parts[1]] != nil:
		g := d.byName[parts[1]].document()
		write(w, r, "APIGroup", &g)
	case len(parts) == 3 && parts[0] == "apis":
		d.resourceList(w, r, schema.GroupVersion{Group: parts[1], Version: parts[2]})
	default:
		http.Error(w, "404 page not found", http.StatusNotFound)
	}
}

func (d *Documents) resourceList(w http.ResponseWriter, r *http.Request, gv schema.GroupVersion) {
	l := d.resources[gv]
	if l == nil && d.byName[gv.Group] != nil {
		wire.WriteError(w, r, apierrors.NewGenericServerResponse(http.StatusNotFound, "", schema.GroupResource{}, "", "", 0, false))
		return
	}
	if l == nil {
		http.Error(w, "404 page not found", http.StatusNotFound)
		return
	}
	write(w, r, "APIResourceList", l)
}

func (g *group) document() metav1.APIGroup {
	out := metav1.APIGroup{Name: g.name}
	for _, v := range g.versions {
		out.Versions = append(out.Versions, metav1.GroupVersionForDiscovery{GroupVersion: g.name + "/" + v.name, Version: v.name})
	}
	out.PreferredVersion = out.Versions[0]
	return out
}

func write(w http.ResponseWriter, r *http.Request, kind string, obj runtime.Object) {
	a, err := wire.Negotiate(r, wire.NoRenderings, false)
	if err != nil {
		wire.WriteError(w, r, err)
		return
	}
	wire.WriteObject(w, r, a, http.StatusOK, schema.GroupVersionKind{Version: "v1", Kind: kind}, obj)
}
