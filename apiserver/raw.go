package apiserver

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"wherry.dev/wherry/apiserver/discovery"
	"wherry.dev/wherry/apiserver/wire"
)

// raw serves the paths that are no resources.
type raw struct {
	server       *Server
	discovery    *discovery.Documents
	metrics      http.Handler
	shuttingDown atomic.Bool

	mu     sync.RWMutex
	mounts map[string]http.Handler // guarded by mu; by path prefix without trailing slash
}

func newRaw(s *Server, d *discovery.Documents) *raw {
	r := &raw{server: s, discovery: d, mounts: map[string]http.Handler{}}
	if g := s.config.Gatherer; g != nil {
		r.metrics = promhttp.HandlerFor(g, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError})
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
		r.discovery.ServeHTTP(w, req)
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
	default:
		notFound(w)
	}
}

// index lists the paths, as a client that is lost expects.
func (r *raw) index(w http.ResponseWriter) {
	paths := []string{"/api", "/apis", "/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/readyz", "/version"}
	for gvr := range r.server.served {
		if gvr.Group == "" {
			paths = append(paths, "/api/"+gvr.Version)
		} else {
			paths = append(paths, "/apis/"+gvr.Group, "/apis/"+gvr.Group+"/"+gvr.Version)
		}
	}
	for _, c := range r.checks("readyz") {
		paths = append(paths, "/readyz/"+c.Name)
	}
	r.mu.RLock()
	for p := range r.mounts {
		paths = append(paths, p)
	}
	r.mu.RUnlock()
	sort.Strings(paths)
	wire.WriteRawJSON(w, http.StatusOK, map[string]any{"paths": slices.Compact(paths)})
}

// checks are the questions of one of the health paths.
func (r *raw) checks(endpoint string) []Check {
	list := []Check{
		{Name: "ping", Check: func(context.Context) error { return nil }},
	}
	if endpoint == "readyz" {
		list = append(list,
			Check{Name: "watch-caches", Check: func(ctx context.Context) error {
				for prefix, s := range r.server.storage {
					select {
					case <-s.Ready():
					default:
						return fmt.Errorf("%s has not caught up", prefix)
					}
				}
				return nil
			}},
			Check{Name: "shutdown", Check: func(context.Context) error {
				if r.shuttingDown.Load() {
					return fmt.Errorf("process is shutting down")
				}
				return nil
			}})
	}
	for _, c := range r.server.config.Checks {
		if endpoint == "readyz" || !c.ReadyOnly {
			list = append(list, c)
		}
	}
	return list
}

// healthTimeout bounds one round of checks.
const healthTimeout = 10 * time.Second

// health answers /livez, /readyz, /healthz and one check of them by name; ?verbose tells each, ?exclude leaves some out.
func (r *raw) health(w http.ResponseWriter, req *http.Request, endpoint string) {
	ctx, cancel := context.WithTimeout(req.Context(), healthTimeout)
	defer cancel()
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	list := r.checks(endpoint)
	if name, ok := strings.CutPrefix(req.URL.Path, "/"+endpoint+"/"); ok && name != "" {
		i := slices.IndexFunc(list, func(c Check) bool { return c.Name == name })
		if i < 0 {
			notFound(w)
			return
		}
		if err := list[i].Check(ctx); err != nil {
			http.Error(w, fmt.Sprintf("internal server error: %v", err), http.StatusInternalServerError)
			return
		}
		fmt.Fprint(w, "ok")
		return
	}
	q := req.URL.Query()
	_, verbose := q["verbose"]
	var out strings.Builder
	failed := []string{}
	for _, c := range list {
		if slices.Contains(q["exclude"], c.Name) {
			fmt.Fprintf(&out, "[+]%s excluded: ok\n", c.Name)
			continue
		}
		if err := c.Check(ctx); err != nil {
			r.server.log.Debug("health check failed", "endpoint", endpoint, "check", c.Name, "error", err)
			fmt.Fprintf(&out, "[-]%s failed: reason withheld\n", c.Name)
			failed = append(failed, c.Name)
			continue
		}
		fmt.Fprintf(&out, "[+]%s ok\n", c.Name)
	}
	if len(failed) > 0 {
		http.Error(w, fmt.Sprintf("%s%s check failed", out.String(), endpoint), http.StatusInternalServerError)
		return
	}
	if !verbose {
		fmt.Fprint(w, "ok")
		return
	}
	fmt.Fprintf(w, "%s%s check passed\n", out.String(), endpoint)
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
	switch {
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
		wire.WriteRawJSON(w, http.StatusOK, map[string]any{"paths": index})
	case strings.HasPrefix(path, "v3/"):
		name := strings.TrimPrefix(path, "v3/")
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
