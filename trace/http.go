package trace

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
)

// Paths of the collector below the API server. They have the form of API resources, so that RBAC rules can speak of them:
// nodes may create spans.trace.wherry.dev, readers may get pods.trace.wherry.dev in their namespaces.
const (
	Prefix    = "/apis/trace.wherry.dev/v1/"
	spansPath = Prefix + "spans"
)

// PodPath is the path of one pod's trace. With ?uid= it is that very pod's; with ?watch=true each change is sent as one more JSON document.
func PodPath(namespace, name string) string {
	return Prefix + "namespaces/" + namespace + "/pods/" + name
}

// maxBatch bounds one POST of spans.
const maxBatch = 1 << 20

// ServeHTTP serves the collector's API. The caller has authenticated and authorized the request.
func (c *Collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == spansPath {
		c.servePost(w, r)
		return
	}
	parts := strings.Split(strings.TrimPrefix(r.URL.Path, Prefix), "/")
	if len(parts) != 4 || parts[0] != "namespaces" || parts[2] != "pods" {
		http.NotFound(w, r)
		return
	}
	if r.Method != http.MethodGet {
		http.Error(w, "a trace is read only", http.StatusMethodNotAllowed)
		return
	}
	c.serveTrace(w, r, parts[1], parts[3])
}

func (c *Collector) servePost(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		http.Error(w, "spans are only written", http.StatusMethodNotAllowed)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBatch))
	if err != nil {
		http.Error(w, "read spans: "+err.Error(), http.StatusRequestEntityTooLarge)
		return
	}
	var spans []Span
	if err := json.Unmarshal(body, &spans); err != nil {
		http.Error(w, "decode spans: "+err.Error(), http.StatusBadRequest)
		return
	}
	for _, s := range spans {
		c.Record(s)
	}
	w.WriteHeader(http.StatusNoContent)
}

func (c *Collector) serveTrace(w http.ResponseWriter, r *http.Request, namespace, name string) {
	uid := r.URL.Query().Get("uid")
	t, ok := c.Get(uid)
	if uid == "" {
		t, ok = c.Find(namespace, name)
	}
	// A UID of another namespace must not be a way around authorization.
	if !ok || t.Namespace != namespace || t.Pod != name {
		http.Error(w, "no trace of pod "+namespace+"/"+name+": it never existed, or too many pods came after it", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	encoder := json.NewEncoder(w)
	if r.URL.Query().Get("watch") != "true" {
		_ = encoder.Encode(t)
		return
	}
	flush := http.NewResponseController(w)
	for {
		changed, t := c.Changed(t.PodUID)
		if changed == nil {
			return
		}
		if encoder.Encode(t) != nil || flush.Flush() != nil {
			return
		}
		if t.Gone {
			return
		}
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
	}
}
