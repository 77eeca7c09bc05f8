package apiserver

import (
	"context"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"wherry.dev/wherry/apiserver/aggregate"
)

// serveAggregated keeps APIServices, and serves through other servers what they name, until ctx ends and the returned function is
// called, which waits for that. It returns when what was there at the start is served.
func (s *Server) serveAggregated(ctx context.Context) (wait func()) {
	config := aggregate.Config{Server: s, Certificate: s.config.ProxyCertificate, Dial: s.config.ProxyDial, Registry: s.config.Registry, Log: s.log,
		APIServices:    s.listerWatcher(apiregistrationv1.SchemeGroupVersion.WithResource("apiservices")),
		Services:       s.listerWatcher(corev1.SchemeGroupVersion.WithResource("services")),
		EndpointSlices: s.listerWatcher(discoveryv1.SchemeGroupVersion.WithResource("endpointslices")),
		Client:         s.InProcess(&user.DefaultInfo{Name: user.APIServerUser, Groups: []string{user.SystemPrivilegedGroup, user.AllAuthenticated}})}
	if config.APIServices == nil || config.Services == nil || config.EndpointSlices == nil {
		return func() {}
	}
	a, err := aggregate.New(config)
	if err != nil {
		s.log.Error("other API servers are not served", "error", err)
		return func() {}
	}
	changed := a.KindsChanged
	s.kindsChanged.Store(&changed)
	unregistered := a.Unregistered
	s.unregistered.Store(&unregistered)
	ready := make(chan struct{})
	var work sync.WaitGroup
	work.Go(func() { a.Run(ctx, func() { close(ready) }) })
	if trust := s.config.Trust; trust != nil {
		if maps := s.listerWatcher(corev1.SchemeGroupVersion.WithResource("configmaps")); maps != nil {
			work.Go(func() { aggregate.KeepTrust(ctx, trust, config.Client.Kubernetes, maps, s.log) })
		}
	}
	select {
	case <-ready:
	case <-ctx.Done():
	}
	return work.Wait
}
