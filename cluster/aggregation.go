package cluster

import (
	"fmt"
	"os"
	"slices"

	"wherry.dev/wherry/apiserver/aggregate"
	"wherry.dev/wherry/pki"
)

// trust is what other API servers must know of this one: who signs the certificates of its users, and which proxies may name users in
// headers. This server is such a proxy towards them; further ones are those that it believes itself.
func trust(p *pki.Pairs, settings Authentication) (*aggregate.Trust, error) {
	t := &aggregate.Trust{ClientCA: p.CA.CertPEM, ProxyCA: p.FrontProxyCA.CertPEM, AllowedNames: []string{p.FrontProxyClient.Certificate.Subject.CommonName}}
	t.DefaultHeaders()
	if settings.ClientCAFile != "" {
		b, err := os.ReadFile(settings.ClientCAFile)
		if err != nil {
			return nil, fmt.Errorf("read --client-ca-file: %w", err)
		}
		t.ClientCA = slices.Concat(t.ClientCA, b)
	}
	h := settings.RequestHeader
	if h.CAFile == "" {
		return t, nil
	}
	b, err := os.ReadFile(h.CAFile)
	if err != nil {
		return nil, fmt.Errorf("read --requestheader-client-ca-file: %w", err)
	}
	t.ProxyCA = slices.Concat(t.ProxyCA, b)
	if t.AllowedNames = append(t.AllowedNames, h.AllowedNames...); len(h.AllowedNames) == 0 { // any
		t.AllowedNames = nil
	}
	for _, headers := range []struct {
		to   *[]string
		more []string
	}{{&t.UsernameHeaders, h.UserHeaders}, {&t.UIDHeaders, h.UIDHeaders}, {&t.GroupHeaders, h.GroupHeaders}, {&t.ExtraPrefixes, h.ExtraPrefixes}} {
		for _, name := range headers.more {
			if !slices.Contains(*headers.to, name) {
				*headers.to = append(*headers.to, name)
			}
		}
	}
	return t, nil
}
