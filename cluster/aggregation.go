package cluster

import (
	"slices"

	"wherry.dev/wherry/apiserver/aggregate"
	"wherry.dev/wherry/pki"
)

// trust is what other API servers must know of this one: who signs the certificates of its users, and which proxies may name users in
// headers. This server is such a proxy towards them; further ones are those that it believes itself. clients and proxies are the authorities, in PEM,
// that this server trusts besides its own; proxies is nil when it believes none.
func trust(p *pki.Pairs, h RequestHeader, clients, proxies []byte) *aggregate.Trust {
	t := &aggregate.Trust{ClientCA: slices.Concat(p.CA.CertPEM, clients), ProxyCA: slices.Concat(p.FrontProxyCA.CertPEM, proxies),
		AllowedNames: []string{p.FrontProxyClient.Certificate.Subject.CommonName}}
	t.DefaultHeaders()
	if proxies == nil {
		return t
	}
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
	return t
}
