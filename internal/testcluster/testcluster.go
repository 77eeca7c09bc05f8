// Package testcluster gives tests of components the real API server over a real etcd, in process: no socket, no TLS, no node, and
// whoever asks may do anything. Tests only.
package testcluster

import (
	"context"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"k8s.io/apiserver/pkg/authentication/user"

	"wherry.dev/wherry/api/kinds"
	"wherry.dev/wherry/apiserver"
	"wherry.dev/wherry/client"
	"wherry.dev/wherry/embedded/etcd"
	"wherry.dev/wherry/store"
)

// Cluster is a running API server.
type Cluster struct {
	*client.Set
	ctx     context.Context
	running *sync.WaitGroup
}

// Start runs a server until the test ends. Shared objects that somebody changes fail the test.
func Start(t testing.TB) *Cluster {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	running := &sync.WaitGroup{}
	t.Cleanup(cancel)
	e, err := etcd.Start(ctx, etcd.Config{Dir: filepath.Join(t.TempDir(), "etcd")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	st := store.Open(store.Config{Client: e.Client(), SoleWriter: true, DetectMutations: func(what string) { t.Errorf("a shared object was changed: %s", what) }})
	t.Cleanup(st.Close)
	server, err := apiserver.New(apiserver.Config{Kinds: kinds.All(), Storage: apiserver.Storage(st)})
	if err != nil {
		t.Fatal(err)
	}
	c := &Cluster{Set: server.InProcess(&user.DefaultInfo{Name: "root", Groups: []string{user.SystemPrivilegedGroup, user.AllAuthenticated}}), ctx: ctx, running: running}
	ready := make(chan struct{})
	t.Cleanup(func() { cancel(); running.Wait() }) // before what they stand on: cleanups run backwards
	c.Run(t, func(ctx context.Context) error { return server.Run(ctx, func() { close(ready) }) })
	<-ready
	return c
}

// Run runs a component until the test ends.
func (c *Cluster) Run(t testing.TB, f func(ctx context.Context) error) {
	c.running.Go(func() {
		if err := f(c.ctx); err != nil {
			t.Errorf("component ended: %v", err)
		}
	})
}

// patience is for machines that are busy.
const patience = 20 * time.Second

// Until waits until the condition holds, and fails the test when it does not in time.
func Until(t testing.TB, what string, holds func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for !holds() {
		select {
		case <-ctx.Done():
			t.Fatalf("after %v still not: %s", patience, what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}
