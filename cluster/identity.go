package cluster

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"slices"
	"time"

	"k8s.io/client-go/util/keyutil"

	"wherry.dev/wherry/apiserver/audit"
	"wherry.dev/wherry/apiserver/authn"
	"wherry.dev/wherry/apiserver/authz"
)

// Identity is how a server knows who asks, decides whether they may, and records that they did: upstream's flags of the API server, under
// their names. The zero value of what is not set by DefaultIdentity leaves a source out.
type Identity struct {
	Authentication Authentication
	Authorization  authz.Settings
	Audit          audit.Config
}

// Authentication are the sources of identity besides those that every cluster has: its own certificates, service accounts and join tokens.
type Authentication struct {
	// ConfigFile holds an AuthenticationConfiguration, read again when it changes.
	ConfigFile string
	OIDC       authn.OIDC
	// Anonymous lets requests without a credential through to authorization, everywhere (true) or nowhere (false). Nil: to health, version
	// and the public half of joining only, or where the ConfigFile says.
	Anonymous *bool
	// ClientCAFile holds further authorities of client certificates, in PEM, read again when it changes.
	ClientCAFile string
	TokenFile    string
	// NoBootstrapTokens leaves join tokens out: no machine can join any more.
	NoBootstrapTokens bool
	RequestHeader     RequestHeader
	Webhook           authn.Webhook
	ServiceAccounts   ServiceAccounts
}

// RequestHeader trusts a proxy that has authenticated the user itself.
type RequestHeader struct {
	CAFile                                               string // read again when it changes; empty: no proxy is trusted
	AllowedNames                                         []string
	UserHeaders, UIDHeaders, GroupHeaders, ExtraPrefixes []string
}

// ServiceAccounts is how tokens of service accounts are issued and known.
type ServiceAccounts struct {
	// Issuers are accepted; the first one is written into new tokens. Empty: the one of this cluster.
	Issuers []string
	// Audiences are the API's own. Empty: the issuers.
	Audiences []string
	// KeyFiles hold further keys that tokens may be signed with; SigningKeyFile that of new ones. Empty: the cluster's own.
	KeyFiles       []string
	SigningKeyFile string
	// JWKSURI is where the keys are said to be found. Empty: here.
	JWKSURI       string
	MaxExpiration time.Duration
	NoExtension   bool
}

// AuditModes are the ways to hand on audit events.
var AuditModes = audit.Modes

// AuthorizationModes are those who can be asked whether somebody may, DefaultAuthorizationModes those who are.
var AuthorizationModes, DefaultAuthorizationModes = authz.Modes, authz.DefaultModes

// DefaultIdentity is what a server has unless told otherwise.
func DefaultIdentity() Identity {
	i := Identity{Audit: audit.Defaults(), Authorization: authz.DefaultSettings()}
	i.Authentication.OIDC.UsernameClaim = "sub"
	i.Authentication.OIDC.SigningAlgorithms = []string{"RS256"}
	i.Authentication.Webhook.Version = "v1"
	i.Authentication.Webhook.CacheTTL = 2 * time.Minute
	return i
}

// identity are the parts of an API server that know who asks.
type identity struct {
	authenticator *authn.Authenticator
	accounts      *authn.ServiceAccounts
	audiences     []string
	jwts          *authn.JWTs // nil without providers
	lookup        *authn.Lookup
	trusted       *trusted
}

// buildIdentity reads all that says who asks, and makes the issuer of tokens.
func (c *controlPlane) buildIdentity(ctx context.Context) (*identity, error) {
	settings, keys := c.settings.Identity.Authentication, c.credentials.PKI
	i := &identity{lookup: &authn.Lookup{}}
	if err := c.buildAccounts(i); err != nil {
		return nil, err
	}
	config := authn.Config{ClientCAs: keys.CAPool, ServiceAccounts: i.accounts, TokenFile: settings.TokenFile, Anonymous: authn.Anonymous{Paths: authn.AnonymousPaths()}}
	if !settings.NoBootstrapTokens {
		config.BootstrapTokens = i.lookup
	}
	var err error
	if i.trusted, err = readTrusted(settings, keys); err != nil {
		return nil, err
	}
	if own := i.trusted.clients; own != nil {
		config.ClientCAs = own.pool
	}
	if proxies := i.trusted.proxies; proxies != nil {
		h := settings.RequestHeader
		config.FrontProxy = &authn.FrontProxy{CAs: proxies.pool, AllowedNames: h.AllowedNames,
			UserHeaders: h.UserHeaders, UIDHeaders: h.UIDHeaders, GroupHeaders: h.GroupHeaders, ExtraPrefixes: h.ExtraPrefixes}
	}
	i.jwts, err = authn.NewJWTs(ctx, authn.JWTConfig{File: settings.ConfigFile, OIDC: settings.OIDC, Audiences: i.audiences, Own: c.issuers(), Log: c.log.With("part", "authentication")})
	if err != nil {
		return nil, err
	}
	if i.jwts != nil {
		config.Tokens = append(config.Tokens, i.jwts)
	}
	switch said := i.jwts.Anonymous(); {
	case said != nil && settings.Anonymous != nil:
		return nil, errors.New("--anonymous-auth and what --authentication-config says of anonymous requests exclude each other")
	case said != nil:
		config.Anonymous = *said
	case settings.Anonymous != nil:
		config.Anonymous = authn.Anonymous{Everywhere: *settings.Anonymous}
	}
	hook, err := settings.Webhook.New(i.audiences)
	if err != nil {
		return nil, err
	}
	if hook != nil {
		config.Tokens = append(config.Tokens, hook)
	}
	i.authenticator, err = authn.New(config)
	return i, err
}

// issuers are those of service accounts' tokens.
func (c *controlPlane) issuers() []string {
	if given := c.settings.Identity.Authentication.ServiceAccounts.Issuers; len(given) > 0 {
		return given
	}
	return []string{"https://kubernetes.default.svc." + c.settings.Network.ClusterDomain}
}

// buildAccounts makes what verifies and what issues the tokens of service accounts.
func (c *controlPlane) buildAccounts(i *identity) error {
	s, issuers := c.settings.Identity.Authentication.ServiceAccounts, c.issuers()
	if i.audiences = s.Audiences; len(i.audiences) == 0 {
		i.audiences = issuers
	}
	if s.MaxExpiration != 0 && (s.MaxExpiration < time.Hour || s.MaxExpiration > 1<<32*time.Second) {
		return fmt.Errorf("--service-account-max-token-expiration is %v: choose between 1h and 2^32 seconds", s.MaxExpiration)
	}
	signer := c.credentials.PKI.ServiceAccountSigner()
	keys := []crypto.PublicKey{signer.Public()}
	if s.SigningKeyFile != "" {
		key, err := keyutil.PrivateKeyFromFile(s.SigningKeyFile)
		if err != nil {
			return fmt.Errorf("--service-account-signing-key-file: %w", err)
		}
		own, ok := key.(crypto.Signer)
		if !ok {
			return fmt.Errorf("--service-account-signing-key-file %s: a %T cannot sign", s.SigningKeyFile, key)
		}
		signer = own
		keys = slices.Insert(keys, 0, own.Public())
	}
	for _, file := range s.KeyFiles {
		more, err := keyutil.PublicKeysFromFile(file)
		if err != nil {
			return fmt.Errorf("--service-account-key-file: %w", err)
		}
		for _, key := range more {
			keys = append(keys, key)
		}
	}
	var err error
	i.accounts, err = authn.NewServiceAccounts(authn.ServiceAccountConfig{Issuers: issuers, Audiences: i.audiences, Keys: keys, KeysURL: s.JWKSURI, Lookup: i.lookup})
	if err != nil {
		return err
	}
	c.issuer, err = authn.NewIssuer(authn.IssuerConfig{URL: issuers[0], Audiences: i.audiences, Key: signer, MaxExpiration: s.MaxExpiration, NoExtension: s.NoExtension, Lookup: i.lookup})
	return err
}
