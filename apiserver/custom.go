package apiserver

import (
	"context"
	"fmt"
	"sync"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiserver/pkg/authentication/user"

	"wherry.dev/wherry/api/kinds"
	"wherry.dev/wherry/apiserver/admission"
	"wherry.dev/wherry/apiserver/custom"
	"wherry.dev/wherry/apiserver/verbs"
)

// serveCustom serves what definitions define until ctx ends and the returned function is called, which waits for that. It returns
// when what is established already is served.
func (s *Server) serveCustom(ctx context.Context) (wait func()) {
	definitions := s.listerWatcher(apiextensionsv1.SchemeGroupVersion.WithResource("customresourcedefinitions"))
	if definitions == nil {
		return func() {}
	}
	set := s.InProcess(&user.DefaultInfo{Name: user.APIServerUser, Groups: []string{user.SystemPrivilegedGroup, user.AllAuthenticated}})
	ready := make(chan struct{})
	var work sync.WaitGroup
	work.Go(func() {
		err := custom.Run(ctx, custom.Config{Server: s, Client: set, Definitions: definitions, Ready: func() { close(ready) }, Log: s.log,
			Services: admission.ServiceResolver(ctx, set.Kubernetes), Callers: admission.Callers(set.Config)})
		if err != nil {
			s.log.Error("custom resources are not served", "error", err)
		}
	})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		work.Wait()
	}()
	select {
	case <-ready:
	case <-ended:
	}
	return func() { <-ended }
}

// Empty implements custom.Server. Objects that are not there any more when their turn comes are no error.
func (s *Server) Empty(ctx context.Context, k *kinds.Kind) (left int, err error) {
	stored := s.now.Load().storage[k.StoragePrefix]
	if stored == nil { // no version is served
		if stored, err = s.config.Storage(k); err != nil {
			return 0, fmt.Errorf("open storage of %s: %w", k.GroupVersionResource(), err)
		}
		defer stored.Close()
	}
	return verbs.Empty(ctx, k, stored)
}
