// Package authn answers the second question of the story (C2): who is it? It knows client certificates, service-account
// tokens, join tokens, a static token file, authenticating front proxies, and whatever further token authenticators it
// is given (OIDC, webhook). It also issues service-account tokens. The API server imports it; components never do.
//
// Verification is the hot path: signatures are checked once and remembered in bounded caches, while what can be revoked
// (the account, pod, secret, node a token is bound to) is looked up in the process's own informers on every request.
package authn

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/request/bearertoken"
	"k8s.io/apiserver/pkg/authentication/request/headerrequest"
	"k8s.io/apiserver/pkg/authentication/request/websocket"
	"k8s.io/apiserver/pkg/authentication/token/tokenfile"
	"k8s.io/apiserver/pkg/authentication/user"
)

// AnonymousPaths are what may be asked without any credential: health, the version, and the public half of joining a cluster.
// (AuthenticationConfiguration's anonymous.conditions, KEP-4633.)
func AnonymousPaths() []string {
	return []string{"/healthz", "/livez", "/readyz", "/version", "/version/", "/api/v1/namespaces/kube-public/configmaps/cluster-info"}
}

// Config names the sources of identity. Each may be left out.
type Config struct {
	// ClientCAs returns the authorities of client certificates. Returning another pool forgets what was verified before.
	ClientCAs func() *x509.CertPool
	// FrontProxy trusts a proxy that authenticated the user itself.
	FrontProxy *FrontProxy
	// ServiceAccounts verifies tokens of service accounts.
	ServiceAccounts *ServiceAccounts
	// BootstrapTokens reads the Secrets of join tokens. Nil: no join tokens.
	BootstrapTokens *Lookup
	// TokenFile is a CSV file of tokens (token,user,uid,"group,group"), read once. Empty: none.
	TokenFile string
	// Tokens are asked after all of these, in order (OIDC, webhook).
	Tokens []authenticator.Token
	// Anonymous is where requests without a credential are let through, for the authorizer to judge.
	Anonymous Anonymous
	// Now is the clock; default time.Now.
	Now func() time.Time
}

// Anonymous says which requests may come without a credential (AuthenticationConfiguration's anonymous, KEP-4633).
type Anonymous struct {
	Paths      []string // exactly these
	Everywhere bool
}

// FrontProxy trusts X-Remote-* headers of requests whose client certificate its authority has signed (requestheader-* flags upstream).
type FrontProxy struct {
	CAs func() *x509.CertPool
	// AllowedNames are the accepted common names; empty: any.
	AllowedNames []string
	// Headers that name the user, its UID and its groups, and the prefixes of those that carry extra; each nil: X-Remote-*.
	UserHeaders, UIDHeaders, GroupHeaders, ExtraPrefixes []string
}

func orElse(headers []string, name string) headerrequest.StaticStringSlice {
	if len(headers) == 0 {
		return headerrequest.StaticStringSlice{name}
	}
	return headers
}

// Authenticator implements authenticator.Request. Safe for concurrent use.
type Authenticator struct {
	front        authenticator.Request // nil without a front proxy
	frontHeaders []string              // those that name the user
	certificates *certificates         // nil without client CAs
	tokens       tokens
	bearer       authenticator.Request
	websocket    authenticator.Request
	anonymous    map[string]bool
	everywhere   bool // anonymous requests are let through wherever they go
}

// New puts the configured sources together, in upstream's order.
func New(c Config) (*Authenticator, error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	a := &Authenticator{anonymous: make(map[string]bool, len(c.Anonymous.Paths)), everywhere: c.Anonymous.Everywhere}
	for _, path := range c.Anonymous.Paths {
		a.anonymous[path] = true
	}
	if c.FrontProxy != nil {
		a.front = headerrequest.NewDynamicVerifyOptionsSecure(
			func() (x509.VerifyOptions, bool) {
				return x509.VerifyOptions{Roots: c.FrontProxy.CAs(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, true
			},
			headerrequest.StaticStringSlice(c.FrontProxy.AllowedNames),
			orElse(c.FrontProxy.UserHeaders, "X-Remote-User"),
			orElse(c.FrontProxy.UIDHeaders, "X-Remote-Uid"),
			orElse(c.FrontProxy.GroupHeaders, "X-Remote-Group"),
			orElse(c.FrontProxy.ExtraPrefixes, "X-Remote-Extra-"))
		a.frontHeaders = orElse(c.FrontProxy.UserHeaders, "X-Remote-User")
	}
	if c.ClientCAs != nil {
		a.certificates = newCertificates(c.ClientCAs, c.Now)
	}
	if c.TokenFile != "" {
		file, err := tokenfile.NewCSV(c.TokenFile)
		if err != nil {
			return nil, fmt.Errorf("read token file %s: %w", c.TokenFile, err)
		}
		a.tokens = append(a.tokens, file)
	}
	if c.ServiceAccounts != nil {
		a.tokens = append(a.tokens, c.ServiceAccounts)
	}
	if c.BootstrapTokens != nil {
		a.tokens = append(a.tokens, &bootstrapTokens{lookup: c.BootstrapTokens, now: c.Now})
	}
	a.tokens = append(a.tokens, c.Tokens...)
	a.bearer = bearertoken.New(a.tokens)
	a.websocket = websocket.NewProtocolAuthenticator(a.tokens)
	return a, nil
}

// Token returns the token half alone, as TokenReview asks it. Groups of its answers include system:authenticated.
func (a *Authenticator) Token() authenticator.Token { return a.tokens }

// AuthenticateRequest implements authenticator.Request. The answer's User is shared and immutable. The Authorization
// header is removed from a request that was authenticated by it, so that no later step can pass it on.
//
// A credential that is wrong is an error, never an anonymous request: who mistypes a token must not see less without being told why.
func (a *Authenticator) AuthenticateRequest(r *http.Request) (*authenticator.Response, bool, error) {
	var failures []error
	if a.front != nil && r.TLS != nil && len(r.TLS.PeerCertificates) > 0 && slices.ContainsFunc(a.frontHeaders, func(h string) bool { return r.Header.Get(h) != "" }) {
		response, ok, err := a.front.AuthenticateRequest(r)
		if ok {
			return withAuthenticated(response), true, nil
		}
		if err != nil {
			failures = append(failures, err)
		}
	}
	if a.certificates != nil && r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		response, ok, err := a.certificates.authenticate(r.TLS.PeerCertificates)
		if ok {
			return response, true, nil
		}
		if err != nil {
			failures = append(failures, err)
		}
	}
	if len(a.tokens) > 0 {
		if r.Header.Get("Authorization") != "" {
			response, ok, err := a.bearer.AuthenticateRequest(r)
			if ok {
				return response, true, nil
			}
			if err != nil {
				failures = append(failures, err)
			}
		} else if r.Header.Get("Sec-Websocket-Protocol") != "" {
			response, ok, err := a.websocket.AuthenticateRequest(r)
			if ok {
				return response, true, nil
			}
			if err != nil {
				failures = append(failures, err)
			}
		}
	}
	if len(failures) > 0 {
		return nil, false, utilerrors.NewAggregate(failures)
	}
	if a.everywhere || a.anonymous[r.URL.Path] {
		audiences, _ := authenticator.AudiencesFrom(r.Context())
		return &authenticator.Response{
			User:      &user.DefaultInfo{Name: user.Anonymous, Groups: []string{user.AllUnauthenticated}},
			Audiences: audiences,
		}, true, nil
	}
	return nil, false, nil
}

// tokens asks each authenticator in turn until one accepts.
type tokens []authenticator.Token

// AuthenticateToken implements authenticator.Token.
func (t tokens) AuthenticateToken(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	var failures []error
	for _, one := range t {
		response, ok, err := one.AuthenticateToken(ctx, token)
		if ok {
			return withAuthenticated(response), true, nil
		}
		if err != nil {
			failures = append(failures, err)
		}
	}
	return nil, false, errors.Join(failures...)
}

// withAuthenticated adds the group of everybody who gave a credential, unless it is there.
func withAuthenticated(r *authenticator.Response) *authenticator.Response {
	groups := r.User.GetGroups()
	if r.User.GetName() == user.Anonymous || slices.Contains(groups, user.AllAuthenticated) || slices.Contains(groups, user.AllUnauthenticated) {
		return r
	}
	return &authenticator.Response{
		Audiences: r.Audiences,
		User: &user.DefaultInfo{
			Name:   r.User.GetName(),
			UID:    r.User.GetUID(),
			Groups: append(slices.Clone(groups), user.AllAuthenticated),
			Extra:  r.User.GetExtra(),
		},
	}
}
