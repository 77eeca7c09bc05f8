package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// checks are the questions of one of the health paths, in the order in which they are asked.
func (r *raw) checks(endpoint string) []Check {
	ready := endpoint == "readyz"
	list := []Check{{Name: "ping", Check: func(context.Context) error { return nil }}}
	for _, c := range r.server.config.Checks {
		if ready || !c.ReadyOnly {
			list = append(list, c)
		}
	}
	if !ready {
		return list
	}
	return append(list,
		Check{Name: "informer-sync", Check: r.caughtUp},
		Check{Name: "autoregister-completion", Check: func(context.Context) error {
			if missing := r.server.unregistered.Load(); missing != nil {
				return (*missing)()
			}
			return nil
		}},
		Check{Name: "shutdown", Check: func(context.Context) error {
			if r.shuttingDown.Load() {
				return errors.New("process is shutting down")
			}
			return nil
		}})
}

// caughtUp says whether every watch cache has.
func (r *raw) caughtUp(context.Context) error {
	for prefix, s := range r.server.now.Load().storage {
		select {
		case <-s.Ready():
		default:
			return fmt.Errorf("the watch cache of %s has not caught up", prefix)
		}
	}
	return nil
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
	if name, ok := strings.CutPrefix(req.URL.Path, "/"+endpoint+"/"); ok {
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
	exclude := q["exclude"]
	var out strings.Builder
	failed := false
	for _, c := range list {
		if i := slices.Index(exclude, c.Name); i >= 0 {
			exclude = slices.DeleteFunc(exclude, func(name string) bool { return name == c.Name })
			fmt.Fprintf(&out, "[+]%s excluded: ok\n", c.Name)
			continue
		}
		if err := c.Check(ctx); err != nil {
			r.server.log.Debug("health check failed", "endpoint", endpoint, "check", c.Name, "error", err)
			fmt.Fprintf(&out, "[-]%s failed: reason withheld\n", c.Name)
			failed = true
			continue
		}
		fmt.Fprintf(&out, "[+]%s ok\n", c.Name)
	}
	if len(exclude) > 0 {
		quoted := make([]string, len(exclude))
		for i, name := range exclude {
			quoted[i] = fmt.Sprintf("%q", name)
		}
		fmt.Fprintf(&out, "warn: some health checks cannot be excluded: no matches for %s\n", strings.Join(quoted, ", "))
	}
	switch {
	case failed:
		http.Error(w, fmt.Sprintf("%s%s check failed", out.String(), endpoint), http.StatusInternalServerError)
	case verbose:
		fmt.Fprintf(w, "%s%s check passed\n", out.String(), endpoint)
	default:
		fmt.Fprint(w, "ok")
	}
}
