// Package coredns runs CoreDNS inside this process: its server, its Corefile and a choice of its plugins. The "kubernetes" directive
// is served by Wherry's own source of names, with the options and the answers of CoreDNS' plugin of that name, so that
// the cluster's objects are in memory once only, in the shared informers. Only package dns imports it.
package coredns

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	_ "github.com/coredns/coredns/plugin/bind"        // directive bind
	_ "github.com/coredns/coredns/plugin/cache"       // directive cache
	_ "github.com/coredns/coredns/plugin/errors"      // directive errors
	_ "github.com/coredns/coredns/plugin/forward"     // directive forward
	_ "github.com/coredns/coredns/plugin/hosts"       // directive hosts
	_ "github.com/coredns/coredns/plugin/loadbalance" // directive loadbalance
	_ "github.com/coredns/coredns/plugin/log"         // directive log
	_ "github.com/coredns/coredns/plugin/rewrite"     // directive rewrite
)

// Server is a running CoreDNS.
type Server struct{ instance *caddy.Instance }

// starting guards what CoreDNS keeps in package variables: its plugin registry, and the source that the Corefile being read belongs to.
var starting struct {
	sync.Mutex
	registered bool
	source     Source
}

// Start reads the Corefile and serves it; source answers for its "kubernetes" directives. It returns when every address listens.
// Servers may run side by side. CoreDNS cannot be interrupted while it starts.
func Start(corefile string, source Source) (*Server, error) {
	starting.Lock()
	defer starting.Unlock()
	if !starting.registered {
		caddy.Quiet, dnsserver.Quiet = true, true
		plugin.Register("kubernetes", setup)
		// CoreDNS' own would end the process when it finds a loop, reload its file from disk, and answer probes of a pod that there is none.
		for _, ignored := range []string{"health", "loop", "ready", "reload"} {
			plugin.Register(ignored, ignore)
		}
		starting.registered = true
	}
	starting.source = source
	defer func() { starting.source = nil }()
	instance, err := caddy.Start(caddy.CaddyfileInput{Filepath: "Corefile", Contents: []byte(corefile), ServerTypeName: "dns"})
	if err != nil {
		if instance != nil {
			err = errors.Join(append([]error{err}, instance.ShutdownCallbacks()...)...)
			_ = instance.Stop() // never fails; closes what listened already
		}
		return nil, fmt.Errorf("start CoreDNS: %w", err)
	}
	return &Server{instance}, nil
}

// Replace serves another Corefile, without a gap on addresses that stay. When it returns an error, the old one is served on.
func (s *Server) Replace(corefile string, source Source) error {
	starting.Lock()
	defer starting.Unlock()
	starting.source = source
	defer func() { starting.source = nil }()
	instance, err := s.instance.Restart(caddy.CaddyfileInput{Filepath: "Corefile", Contents: []byte(corefile), ServerTypeName: "dns"})
	if err != nil {
		return fmt.Errorf("replace Corefile: %w", err)
	}
	s.instance = instance
	return nil
}

// Stop stops serving. Queries under way get their answers.
func (s *Server) Stop(context.Context) error {
	errs := s.instance.ShutdownCallbacks()
	return errors.Join(append(errs, s.instance.Stop())...)
}

// ignore takes a directive and its block, and does nothing.
func ignore(c *caddy.Controller) error {
	for c.Next() {
		c.RemainingArgs()
		for c.NextBlock() {
		}
	}
	return nil
}
