package aggregate

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"slices"
	"strings"
	"time"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
)

// When other servers are asked what they serve.
const (
	discoverTimeout = 5 * time.Second
	discoverAgain   = time.Minute // also the longest back-off
	discoverSoon    = 500 * time.Millisecond
	discoverStale   = 4 * discoverSoon // the back-off by which nothing is known any more
)

// selfUser is whom other servers hear that a question comes from which we ask for ourselves.
const selfUser = "system:kube-aggregator"

// acceptDiscovery asks for everything at once (KEP-3352), and takes the list of groups from servers that do not know that.
const acceptDiscovery = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"

// discover asks a remote what it serves, when its time has come, and returns whether the server in front must know. Of a remote that
// does not answer nothing is known.
func (a *Aggregator) discover(ctx context.Context, r *remote, answers bool) (changed bool) {
	a.mu.Lock()
	p, gv, had := r.peer, schema.GroupVersion{Group: r.spec.Group, Version: r.spec.Version}, r.resources
	a.mu.Unlock()
	var got *apidiscoveryv2.APIVersionDiscovery
	switch now := time.Now(); {
	case !answers:
		r.discoverAt, r.delay = time.Time{}, 0 // as soon as it does
	case had != nil && now.Before(r.discoverAt), had == nil && r.delay > 0 && now.Before(r.discoverAt):
		return false
	default:
		etag := r.etag
		if had == nil {
			etag = ""
		}
		found, tag, err := p.discover(ctx, gv, etag)
		switch {
		case errors.Is(err, errUnchanged):
			got, r.delay = had, 0
		case err == nil:
			got, r.etag, r.delay = found, tag, 0
		default:
			a.Log.Debug("could not discover what an APIService serves", "apiservice", r.name, "error", err)
			if r.delay = min(max(2*r.delay, discoverSoon), discoverAgain); r.delay < discoverStale { // it does answer: what it served a moment ago is the best guess
				got = had
			}
		}
		r.discoverAt = time.Now().Add(cmp.Or(r.delay, discoverAgain))
	}
	if apiequality.Semantic.DeepEqual(had, got) {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if r.peer != p { // another server meanwhile
		return false
	}
	r.resources = got
	return true
}

// errUnchanged says that what a server serves is what it served when it gave the tag.
var errUnchanged = errors.New("unchanged")

// discover returns what the server serves of gv, and the tag of that; errUnchanged when etag is not empty and still the tag.
func (p *peer) discover(ctx context.Context, gv schema.GroupVersion, etag string) (_ *apidiscoveryv2.APIVersionDiscovery, tag string, _ error) {
	ctx, cancel := context.WithTimeout(ctx, discoverTimeout)
	defer cancel()
	root := "/apis"
	if gv.Group == "" {
		root = "/api"
	}
	u, err := p.locate(root)
	if err != nil {
		return nil, "", err
	}
	answer, err := p.get(ctx, u, acceptDiscovery, etag, selfUser, user.SystemPrivilegedGroup)
	if err != nil {
		return nil, "", fmt.Errorf("discover %s: %w", gv, err)
	}
	switch {
	case answer.code == http.StatusNotModified && etag != "":
		return nil, "", errUnchanged
	case answer.code == http.StatusServiceUnavailable:
		return nil, "", fmt.Errorf("discover %s: %s says %d", gv, u, answer.code)
	case answer.code == http.StatusOK && aggregated(answer.header.Get("Content-Type")):
		list := &apidiscoveryv2.APIGroupDiscoveryList{}
		if err := json.Unmarshal(answer.body, list); err != nil {
			return nil, "", fmt.Errorf("discover %s: read answer of %s: %w", gv, u, err)
		}
		return versionOf(list, gv), answer.header.Get("ETag"), nil
	}
	u.Path = root + "/" + strings.TrimPrefix(gv.String(), "/")
	if answer, err = p.get(ctx, u, "application/json", "", selfUser, user.SystemPrivilegedGroup); err != nil {
		return nil, "", fmt.Errorf("discover %s: %w", gv, err)
	}
	if answer.code != http.StatusOK {
		return nil, "", fmt.Errorf("discover %s: %s says %d", gv, u, answer.code)
	}
	list := &metav1.APIResourceList{}
	if err := json.Unmarshal(answer.body, list); err != nil {
		return nil, "", fmt.Errorf("discover %s: read answer of %s: %w", gv, u, err)
	}
	return fromResourceList(gv, list), "", nil
}

// aggregated says whether a document has the new form.
func aggregated(contentType string) bool {
	_, params, err := mime.ParseMediaType(contentType)
	return err == nil && params["g"] == apidiscoveryv2.GroupName && params["v"] == "v2" && params["as"] == "APIGroupDiscoveryList"
}

// versionOf finds gv in list. A server that does not name it serves nothing of it.
func versionOf(list *apidiscoveryv2.APIGroupDiscoveryList, gv schema.GroupVersion) *apidiscoveryv2.APIVersionDiscovery {
	out := &apidiscoveryv2.APIVersionDiscovery{Version: gv.Version}
	for _, g := range list.Items {
		if g.Name != gv.Group {
			continue
		}
		if i := slices.IndexFunc(g.Versions, func(v apidiscoveryv2.APIVersionDiscovery) bool { return v.Version == gv.Version }); i >= 0 {
			out = &g.Versions[i]
		}
	}
	out.Freshness = apidiscoveryv2.DiscoveryFreshnessCurrent
	for i := range out.Resources { // clients before 0.26.4 take it for granted
		r := &out.Resources[i]
		if r.ResponseKind == nil {
			r.ResponseKind = &metav1.GroupVersionKind{}
		}
		for j := range r.Subresources {
			if r.Subresources[j].ResponseKind == nil {
				r.Subresources[j].ResponseKind = &metav1.GroupVersionKind{}
			}
		}
	}
	return out
}

// fromResourceList is the new form of a document in the old one. Subresources of what is not listed get a resource without verbs.
func fromResourceList(gv schema.GroupVersion, list *metav1.APIResourceList) *apidiscoveryv2.APIVersionDiscovery {
	out := &apidiscoveryv2.APIVersionDiscovery{Version: gv.Version, Freshness: apidiscoveryv2.DiscoveryFreshnessCurrent}
	at := map[string]int{}
	find := func(name string, namespaced bool) *apidiscoveryv2.APIResourceDiscovery {
		i, ok := at[name]
		if !ok {
			scope := apidiscoveryv2.ScopeCluster
			if namespaced {
				scope = apidiscoveryv2.ScopeNamespace
			}
			i = len(out.Resources)
			at[name] = i
			out.Resources = append(out.Resources, apidiscoveryv2.APIResourceDiscovery{Resource: name, Scope: scope, ResponseKind: &metav1.GroupVersionKind{}})
		}
		return &out.Resources[i]
	}
	kind := func(r *metav1.APIResource) *metav1.GroupVersionKind {
		k := &metav1.GroupVersionKind{Group: r.Group, Version: r.Version, Kind: r.Kind}
		if k.Version == "" {
			k.Group, k.Version = gv.Group, gv.Version
		}
		return k
	}
	for i := range list.APIResources {
		r := &list.APIResources[i]
		if parent, sub, ok := strings.Cut(r.Name, "/"); ok {
			p := find(parent, r.Namespaced)
			p.Subresources = append(p.Subresources, apidiscoveryv2.APISubresourceDiscovery{Subresource: sub, ResponseKind: kind(r), Verbs: r.Verbs})
			continue
		}
		d := find(r.Name, r.Namespaced)
		d.ResponseKind, d.SingularResource, d.Verbs, d.ShortNames, d.Categories = kind(r), r.SingularName, r.Verbs, r.ShortNames, r.Categories
	}
	return out
}
