package cluster

import (
	"context"
	"net/http"
	"net/http/pprof"
	"runtime/debug"
	"time"
)

// profiling serves this process's profiles below /debug/pprof, as upstream's API server does: for whoever is authorized for that path,
// which by default is the administrator.
func profiling() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return mux
}

// startSettles is when a start's garbage is garbage: after the caches are filled and the first objects are written.
const startSettles = 5 * time.Second

// returnStartMemory gives the machine back what only the start needed. Once, so that an idle process stays idle.
func returnStartMemory(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-time.After(startSettles):
	}
	debug.FreeOSMemory()
	<-ctx.Done()
	return nil
}
