package apiserver

import (
	"net/http"
	"net/url"
	"slices"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"wherry.dev/wherry/apiserver/aggregate"
	"wherry.dev/wherry/apiserver/wire"
)

// raw serves the paths that are no resources.
type raw struct {
	server       *Server
	metrics      http.Handler
	merged       aggregate.Merged
	statusz      func() http.Handler
	flagz        func() http.Handler // nil: it is not served
	shuttingDown atomic.Bool

	mu     sync.RWMutex
	mounts map[string]http.Handler // guarded by mu; by path prefix without trailing slash
}

func newRaw(s *Server) *raw {
	r := &raw{server: s, mounts: map[string]http.Handler{}}
	r.statusz, r.flagz = r.zpages()
	if g := s.config.Gatherer; g != nil {
		r.metrics = promhttp.HandlerFor(withLibraries{g}, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError})
	}
	return r
}

func (r *raw) handle(prefix string, h http.Handler) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mounts[strings.TrimRight(prefix, "/")] = h
}

// mounted finds the longest prefix that another part serves.
func (r *raw) mounted(path string) http.Handler {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for p := path; ; {
		if h := r.mounts[strings.TrimRight(p, "/")]; h != nil {
			return h
		}
		i := strings.LastIndexByte(p, '/')
		if i <= 0 {
			return nil
		}
		p = p[:i]
	}
}

func (r *raw) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	path := req.URL.Path
	if h := r.mounted(path); h != nil {
		h.ServeHTTP(w, req)
		return
	}
	switch first, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/"); first {
	case "api", "apis":
		r.server.now.Load().discovery().ServeHTTP(w, req)
	case "version":
		wire.WriteRawJSON(w, http.StatusOK, r.server.config.Version)
	case "healthz", "livez", "readyz":
		r.health(w, req, first)
	case "openapi":
		r.openAPI(w, req)
	case "metrics":
		if r.metrics == nil {
			notFound(w)
			return
		}
		r.metrics.ServeHTTP(w, req)
	case "":
		r.index(w)
	case "statusz", "flagz":
		page := r.statusz
		if first == "flagz" {
			page = r.flagz
		}
		if page == nil || path != "/"+first {
			notFound(w)
			return
		}
		page().ServeHTTP(w, req)
	default:
		notFound(w)
	}
}

// index lists the paths, as a client that is lost expects.
func (r *raw) index(w http.ResponseWriter) {
	wire.WriteRawJSON(w, http.StatusOK, map[string]any{"paths": r.paths()})
}

// paths are those that are served, sorted.
func (r *raw) paths() []string {
	paths := []string{"/api", "/apis", "/apis/", "/metrics", "/openapi/v2", "/openapi/v3", "/openapi/v3/", "/statusz", "/version"}
	if r.flagz != nil {
		paths = append(paths, "/flagz")
	}
	for gvr := range r.server.now.Load().served {
		if gvr.Group == "" {
			paths = append(paths, "/api/"+gvr.Version)
		} else {
			paths = append(paths, "/apis/"+gvr.Group, "/apis/"+gvr.Group+"/"+gvr.Version)
		}
	}
	for gv := range r.server.now.Load().foreign {
		paths = append(paths, "/apis/"+gv.Group, "/apis/"+gv.String())
	}
	for _, endpoint := range []string{"healthz", "livez", "readyz"} {
		paths = append(paths, "/"+endpoint)
		for _, c := range r.checks(endpoint) {
			paths = append(paths, "/"+endpoint+"/"+c.Name)
		}
	}
	r.mu.RLock()
	for p := range r.mounts {
		paths = append(paths, p)
	}
	r.mu.RUnlock()
	sort.Strings(paths)
	return slices.Compact(paths)
}

// openAPI serves /openapi/v2, /openapi/v3 and each group's document below it.
func (r *raw) openAPI(w http.ResponseWriter, req *http.Request) {
	docs := r.server.config.OpenAPI
	if docs == nil {
		notFound(w)
		return
	}
	accept := req.Header.Get("Accept")
	proto := strings.Contains(accept, "proto-openapi") || strings.Contains(accept, "com.github.proto-openapi.spec")
	path := strings.Trim(strings.TrimPrefix(req.URL.Path, "/openapi/"), "/")
	now := r.server.now.Load()
	switch {
	case path == "v2" && len(now.foreign) > 0:
		etag, doc, err := docs.V2JSON()
		contentType := wire.MediaJSON
		if proto {
			contentType = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
		}
		if err == nil {
			etag, doc, err = r.merged.V2(req.Context(), etag, doc, now.foreignDocuments(), proto)
		}
		r.document(w, req, contentType, etag, doc, true, err)
	case path == "v2":
		if proto {
			etag, doc, err := docs.V2Proto()
			r.document(w, req, "application/com.github.proto-openapi.spec.v2.v1.0+protobuf", etag, doc, true, err)
			return
		}
		etag, doc, err := docs.V2JSON()
		r.document(w, req, wire.MediaJSON, etag, doc, true, err)
	case path == "v3":
		paths, err := docs.V3Paths()
		if err != nil {
			wire.WriteError(w, req, err)
			return
		}
		type link struct {
			ServerRelativeURL string `json:"serverRelativeURL"`
		}
		index := map[string]link{}
		for p, hash := range paths {
			index[p] = link{"/openapi/v3/" + p + "?hash=" + hash}
		}
		for gv := range now.foreign { // theirs to describe
			delete(index, "apis/"+gv.String())
		}
		if len(now.foreign) > 0 {
			for p, hash := range aggregate.V3Paths(req.Context(), now.foreignDocuments()) {
				index[p] = link{"/openapi/v3/" + p + "?hash=" + url.QueryEscape(hash)}
			}
		}
		wire.WriteRawJSON(w, http.StatusOK, map[string]any{"paths": index})
	case strings.HasPrefix(path, "v3/"):
		name := strings.TrimPrefix(path, "v3/")
		if gv, err := schema.ParseGroupVersion(strings.TrimPrefix(name, "apis/")); err == nil && now.foreign[gv] != nil && strings.HasPrefix(name, "apis/") {
			now.foreign[gv].Handler.ServeHTTP(w, req)
			return
		}
		contentType, get := wire.MediaJSON, docs.V3JSON
		if proto {
			contentType, get = "application/com.github.proto-openapi.spec.v3.v1.0+protobuf", docs.V3Proto
		}
		etag, doc, ok, err := get(name)
		if want := req.URL.Query().Get("hash"); ok && err == nil && want != "" {
			if want != etag { // an old link: show the way to the new one
				w.Header().Set("Location", "/openapi/v3/"+name+"?hash="+etag)
				w.WriteHeader(http.StatusMovedPermanently)
				return
			}
			w.Header().Set("Cache-Control", "public, immutable")
			w.Header().Set("Expires", time.Now().AddDate(1, 0, 0).UTC().Format(http.TimeFormat))
		}
		r.document(w, req, contentType, etag, doc, ok, err)
	default:
		notFound(w)
	}
}

func (r *raw) document(w http.ResponseWriter, req *http.Request, contentType, etag string, doc []byte, ok bool, err error) {
	switch {
	case err != nil:
		wire.WriteError(w, req, err)
		return
	case !ok:
		notFound(w)
		return
	}
	w.Header().Add("Vary", "Accept")
	if etag != "" {
		quoted := `"` + strings.Trim(etag, `"`) + `"`
		w.Header().Set("ETag", quoted)
		if req.Header.Get("If-None-Match") == quoted {
			w.WriteHeader(http.StatusNotModified)
			return
		}
	}
	wire.WriteBytes(w, req, http.StatusOK, contentType, doc)
}
