package discovery

import (
	"crypto/sha256"
	"fmt"
	"net/http"
	"strings"
	"sync"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	apidiscoveryv2beta1 "k8s.io/api/apidiscovery/v2beta1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"wherry.dev/wherry/apiserver/wire"
)

// form is one of the forms of everything at once.
type form struct {
	core    bool   // of /api, not of /apis
	version string // v2 or v2beta1
	format  wire.Format
}

// encoded is a document as it is sent. Immutable.
type encoded struct {
	etag, contentType string
	body              []byte
}

// forms makes every form when it is first asked for: clients ask again and again, mostly to hear that nothing has changed.
func (d *Documents) forms() map[form]func() (*encoded, error) {
	out := map[form]func() (*encoded, error){}
	for _, core := range []bool{true, false} {
		for _, version := range []string{"v2", "v2beta1"} {
			for _, format := range []wire.Format{wire.JSON, wire.Protobuf} {
				f := form{core, version, format}
				out[f] = sync.OnceValues(func() (*encoded, error) { return d.encode(f) })
			}
		}
	}
	return out
}

// aggregated answers in the new form if r asks for that before anything else it would accept, and says whether it did.
func (d *Documents) aggregated(w http.ResponseWriter, r *http.Request, core bool) bool {
	w.Header().Add("Vary", "Accept")
	version, format := prefers(r.Header.Get("Accept"))
	if version == "" {
		return false
	}
	e, err := d.all[form{core, version, format}]()
	if err != nil {
		wire.WriteError(w, r, err)
		return true
	}
	w.Header().Set("ETag", e.etag)
	w.Header().Set("Cache-Control", "public")
	if r.Header.Get("If-None-Match") == e.etag {
		w.WriteHeader(http.StatusNotModified)
		return true
	}
	wire.WriteBytes(w, r, http.StatusOK, e.contentType, e.body)
	return true
}

func (d *Documents) encode(f form) (*encoded, error) {
	list := &apidiscoveryv2.APIGroupDiscoveryList{Items: []apidiscoveryv2.APIGroupDiscovery{}}
	for _, g := range d.groups {
		if (g.name == "") == f.core {
			list.Items = append(list.Items, g.aggregate())
		}
	}
	gvk := schema.GroupVersionKind{Group: apidiscoveryv2.GroupName, Version: f.version, Kind: "APIGroupDiscoveryList"}
	var obj runtime.Object = list
	if f.version == "v2beta1" { // the same on the wire
		b, err := list.Marshal()
		old := &apidiscoveryv2beta1.APIGroupDiscoveryList{}
		if err == nil {
			err = old.Unmarshal(b)
		}
		if err != nil {
			return nil, fmt.Errorf("convert discovery to %s: %w", f.version, err)
		}
		obj = old
	}
	b, err := wire.Encode(wire.Accept{Format: f.format}, gvk, obj)
	if err != nil {
		return nil, err
	}
	return &encoded{etag: fmt.Sprintf(`"%X"`, sha256.Sum256(b)), contentType: f.format.MediaType() + ";g=" + gvk.Group + ";v=" + gvk.Version + ";as=" + gvk.Kind, body: b}, nil
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
		switch {
		case v.foreign != nil && v.foreign.Resources == nil:
			dv.Freshness = apidiscoveryv2.DiscoveryFreshnessStale
		case v.foreign != nil:
			dv = *v.foreign.Resources
			dv.Version = v.name
		}
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
