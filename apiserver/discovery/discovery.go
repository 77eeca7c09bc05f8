// Package discovery tells clients which resources are served: group by group in the old form, and all at once in the
// aggregated one (KEP-3352). The documents are made once from the kinds and never change.
package discovery

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"slices"
	"sort"
	"strings"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	apidiscoveryv2beta1 "k8s.io/api/apidiscovery/v2beta1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"wherry.dev/wherry/api/kinds"
	"wherry.dev/wherry/apiserver/wire"
)

// Documents answers /api and /apis and all below that is no resource. Immutable.
type Documents struct {
	groups    []*group // in the order of the kinds
	byName    map[string]*group
	resources map[schema.GroupVersion]*metav1.APIResourceList
	address   string
}

type group struct {
	name     string
	versions []*groupVersion // preferred first
}

type groupVersion struct {
	name  string
	kinds []*kinds.Kind
}

// New prepares the documents for kinds, which are served at address (host:port).
func New(list []*kinds.Kind, address string) *Documents {
	d := &Documents{byName: map[string]*group{}, resources: map[schema.GroupVersion]*metav1.APIResourceList{}, address: address}
	for _, k := range list {
		gvk := k.GroupVersionKind
		g := d.byName[gvk.Group]
		if g == nil {
			g = &group{name: gvk.Group}
			d.byName[gvk.Group] = g
			d.groups = append(d.groups, g)
		}
		i := slices.IndexFunc(g.versions, func(v *groupVersion) bool { return v.name == gvk.Version })
		if i < 0 {
			g.versions = append(g.versions, &groupVersion{name: gvk.Version})
			i = len(g.versions) - 1
		}
		g.versions[i].kinds = append(g.versions[i].kinds, k)
	}
	for _, g := range d.groups {
		for _, v := range g.versions {
			sort.Slice(v.kinds, func(i, j int) bool { return v.kinds[i].Plural < v.kinds[j].Plural })
			gv := schema.GroupVersion{Group: g.name, Version: v.name}
			d.resources[gv] = resourceList(gv, v.kinds)
		}
	}
	return d
}

// resourceList is the old form of one group and version.
func resourceList(gv schema.GroupVersion, list []*kinds.Kind) *metav1.APIResourceList {
	out := &metav1.APIResourceList{GroupVersion: gv.String(), APIResources: []metav1.APIResource{}}
	for _, k := range list {
		if len(k.Verbs) > 0 {
			r := metav1.APIResource{Name: k.Plural, SingularName: k.Singular, Namespaced: k.Namespaced, Kind: k.GroupVersionKind.Kind,
				Verbs: sorted(k.Verbs), ShortNames: k.ShortNames, Categories: k.Categories}
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
		for _, g := range d.groups {
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
	a, err := wire.Negotiate(r, false, false)
	if err != nil {
		wire.WriteError(w, r, err)
		return
	}
	wire.WriteObject(w, r, a, http.StatusOK, schema.GroupVersionKind{Version: "v1", Kind: kind}, obj)
}

// aggregated answers in the new form if r asks for that before anything else it would accept, and says whether it did.
func (d *Documents) aggregated(w http.ResponseWriter, r *http.Request, core bool) bool {
	w.Header().Add("Vary", "Accept")
	version, format := prefers(r.Header.Get("Accept"))
	if version == "" {
		return false
	}
	list := &apidiscoveryv2.APIGroupDiscoveryList{Items: []apidiscoveryv2.APIGroupDiscovery{}}
	for _, g := range d.groups {
		if (g.name == "") == core {
			list.Items = append(list.Items, g.aggregate())
		}
	}
	gvk := schema.GroupVersionKind{Group: apidiscoveryv2.GroupName, Version: version, Kind: "APIGroupDiscoveryList"}
	var obj runtime.Object = list
	if version == "v2beta1" { // the same on the wire
		b, err := list.Marshal()
		old := &apidiscoveryv2beta1.APIGroupDiscoveryList{}
		if err == nil {
			err = old.Unmarshal(b)
		}
		if err != nil {
			wire.WriteError(w, r, fmt.Errorf("convert discovery to %s: %w", version, err))
			return true
		}
		obj = old
	}
	b, err := wire.Encode(wire.Accept{Format: format}, gvk, obj)
	if err != nil {
		wire.WriteError(w, r, err)
		return true
	}
	sum := sha256.Sum256(b)
	etag := fmt.Sprintf(`"%X"`, sum)
	w.Header().Set("ETag", etag)
	w.Header().Set("Cache-Control", "public")
	if r.Header.Get("If-None-Match") == etag {
		w.WriteHeader(http.StatusNotModified)
		return true
	}
	wire.WriteBytes(w, r, http.StatusOK, format.MediaType()+";g="+gvk.Group+";v="+gvk.Version+";as="+gvk.Kind, b)
	return true
}

// prefers returns the version of aggregated discovery that the first understood clause of an Accept header asks for.
func prefers(accept string) (version string, format wire.Format) {
	for clause := range strings.SplitSeq(accept, ",") {
		media, params, _ := strings.Cut(strings.TrimSpace(clause), ";")
		switch media {
		case wire.MediaJSON, "*/*", "application/*":
			format = wire.JSON
		case wire.MediaProtobuf:
			format = wire.Protobuf
		default:
			continue
		}
		got := map[string]string{}
		for p := range strings.SplitSeq(params, ";") {
			if k, v, ok := strings.Cut(strings.TrimSpace(p), "="); ok {
				got[k] = v
			}
		}
		switch {
		case got["as"] == "":
			return "", format
		case got["as"] == "APIGroupDiscoveryList" && got["g"] == apidiscoveryv2.GroupName && (got["v"] == "v2" || got["v"] == "v2beta1"):
			return got["v"], format
		}
	}
	return "", wire.JSON
}

func (g *group) aggregate() apidiscoveryv2.APIGroupDiscovery {
	out := apidiscoveryv2.APIGroupDiscovery{ObjectMeta: metav1.ObjectMeta{Name: g.name}}
	for _, v := range g.versions {
		dv := apidiscoveryv2.APIVersionDiscovery{Version: v.name, Freshness: apidiscoveryv2.DiscoveryFreshnessCurrent}
		for _, k := range v.kinds {
			r := apidiscoveryv2.APIResourceDiscovery{Resource: k.Plural, ResponseKind: kindOf(k.GroupVersionKind), Scope: apidiscoveryv2.ScopeCluster,
				SingularResource: k.Singular, Verbs: sorted(k.Verbs), ShortNames: k.ShortNames, Categories: k.Categories}
			if k.Namespaced {
				r.Scope = apidiscoveryv2.ScopeNamespace
			}
			for _, s := range subresources(k) {
				r.Subresources = append(r.Subresources, apidiscoveryv2.APISubresourceDiscovery{Subresource: s.Name, ResponseKind: kindOf(s.Kind), Verbs: s.Verbs})
			}
			dv.Resources = append(dv.Resources, r)
		}
		out.Versions = append(out.Versions, dv)
	}
	return out
}

// kindOf names the kind of an answer; the group stays explicit, empty for the core.
func kindOf(gvk schema.GroupVersionKind) *metav1.GroupVersionKind {
	return &metav1.GroupVersionKind{Group: gvk.Group, Version: gvk.Version, Kind: gvk.Kind}
}
