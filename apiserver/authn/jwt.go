package authn

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/apis/apiserver/install"
	"k8s.io/apiserver/pkg/apis/apiserver/validation"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	authenticationcel "k8s.io/apiserver/pkg/authentication/cel"
	"k8s.io/apiserver/plugin/pkg/authenticator/token/oidc"

	"wherry.dev/wherry/apiserver/reload"
)

// OIDC is one provider, as upstream's --oidc-* flags describe it.
type OIDC struct {
	IssuerURL, ClientID, CAFile   string
	UsernameClaim, UsernamePrefix string
	GroupsClaim, GroupsPrefix     string
	SigningAlgorithms             []string
	RequiredClaims                map[string]string
}

// configuration is the AuthenticationConfiguration that says the same. Nil when no provider is named.
func (o *OIDC) configuration() (*apiserver.AuthenticationConfiguration, error) {
	if o.IssuerURL == "" && o.ClientID == "" {
		return &apiserver.AuthenticationConfiguration{}, nil
	}
	if o.IssuerURL == "" || o.ClientID == "" {
		return nil, errors.New("--oidc-issuer-url and --oidc-client-id belong together")
	}
	prefix := o.UsernamePrefix
	switch {
	case prefix == "-":
		prefix = ""
	case prefix == "" && o.UsernameClaim != "email": // nobody but the provider says that names do not clash
		prefix = o.IssuerURL + "#"
	}
	j := apiserver.JWTAuthenticator{
		Issuer:        apiserver.Issuer{URL: o.IssuerURL, Audiences: []string{o.ClientID}},
		ClaimMappings: apiserver.ClaimMappings{Username: apiserver.PrefixedClaimOrExpression{Claim: o.UsernameClaim, Prefix: &prefix}},
	}
	if o.GroupsClaim != "" {
		j.ClaimMappings.Groups = apiserver.PrefixedClaimOrExpression{Claim: o.GroupsClaim, Prefix: &o.GroupsPrefix}
	}
	for claim, value := range o.RequiredClaims {
		j.ClaimValidationRules = append(j.ClaimValidationRules, apiserver.ClaimValidationRule{Claim: claim, RequiredValue: value})
	}
	if o.CAFile != "" {
		ca, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, fmt.Errorf("--oidc-ca-file: %w", err)
		}
		j.Issuer.CertificateAuthority = string(ca)
	}
	return &apiserver.AuthenticationConfiguration{JWT: []apiserver.JWTAuthenticator{j}}, nil
}

// JWTConfig says whose JSON web tokens are accepted.
type JWTConfig struct {
	// File holds an AuthenticationConfiguration (KEP-3331); it is read again when it changes. Empty: OIDC says it.
	File string
	OIDC OIDC
	// Audiences are the API server's own, for reviews of tokens.
	Audiences []string
	// Own are the issuers of service accounts' tokens, which no provider may claim to be.
	Own []string
	Log *slog.Logger // nil: discarded
}

// JWTs authenticates by the tokens of OpenID providers. Safe for concurrent use.
type JWTs struct {
	config   JWTConfig
	ctx      context.Context
	compiler authenticationcel.Compiler // dear to make
	file     []byte                     // as it was first read
	first    *apiserver.AuthenticationConfiguration
	now      atomic.Pointer[providers]
	retired  sync.WaitGroup
}

// providers are those of one version of the configuration.
type providers struct {
	tokens tokens
	checks []func() error
	cancel context.CancelFunc
}

// NewJWTs reads the configuration. It returns nil when that names no provider and no file. Connections to providers are made in the
// background and end with ctx; a provider that cannot be reached does not keep the server from starting.
func NewJWTs(ctx context.Context, c JWTConfig) (*JWTs, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	j := &JWTs{config: c, ctx: ctx}
	var err error
	if c.File == "" {
		if j.first, err = c.OIDC.configuration(); err != nil || len(j.first.JWT) == 0 {
			return nil, err
		}
	} else {
		if j.file, err = os.ReadFile(c.File); err != nil {
			return nil, fmt.Errorf("--authentication-config: %w", err)
		}
		if j.first, err = decodeConfiguration(j.file); err != nil {
			return nil, fmt.Errorf("--authentication-config %s: %w", c.File, err)
		}
		if c.OIDC.IssuerURL != "" && len(j.first.JWT) > 0 {
			return nil, errors.New("--authentication-config and --oidc-issuer-url exclude each other: put the provider into the file")
		}
	}
	j.compiler = authenticationcel.NewDefaultCompiler()
	p, err := j.providers(j.first)
	if err != nil {
		return nil, err
	}
	j.now.Store(p)
	return j, nil
}

// Anonymous is what the file says of requests without a credential; nil when it says nothing. It does not change while the server runs.
func (j *JWTs) Anonymous() *Anonymous {
	if j == nil || j.first.Anonymous == nil {
		return nil
	}
	a := &Anonymous{Everywhere: j.first.Anonymous.Enabled && len(j.first.Anonymous.Conditions) == 0}
	if j.first.Anonymous.Enabled {
		for _, c := range j.first.Anonymous.Conditions {
			a.Paths = append(a.Paths, c.Path)
		}
	}
	return a
}

// Follow reads the file again whenever it changes, until ctx ends.
func (j *JWTs) Follow(ctx context.Context) error {
	defer j.retired.Wait()
	if j.config.File == "" {
		<-ctx.Done()
		return nil
	}
	return reload.Watch(ctx, j.config.File, j.file, j.change, j.config.Log)
}

// How long new providers may take to be reached before the change is given up, and requests that have begun to end with the old ones.
const (
	providersTimeout = time.Minute
	providersRetry   = 500 * time.Millisecond
	providersGrace   = time.Minute
)

// change puts another configuration into force once its providers have been reached.
func (j *JWTs) change(ctx context.Context, content []byte) error {
	c, err := decodeConfiguration(content)
	if err != nil {
		return err
	}
	if !equality.Semantic.DeepEqual(c.Anonymous, j.first.Anonymous) {
		return errors.New("what it says of anonymous requests can be changed only with a restart")
	}
	next, err := j.providers(c)
	if err != nil {
		return err
	}
	limit, cancel := context.WithTimeout(ctx, providersTimeout)
	defer cancel()
	for err := next.reached(); err != nil; err = next.reached() {
		select {
		case <-limit.Done():
			next.cancel()
			return fmt.Errorf("its providers cannot be reached: %w", err)
		case <-time.After(providersRetry):
		}
	}
	old := j.now.Swap(next)
	j.retired.Go(func() {
		select {
		case <-ctx.Done():
		case <-time.After(providersGrace):
		}
		old.cancel()
	})
	return nil
}

func (p *providers) reached() error {
	var failures []error
	for _, check := range p.checks {
		failures = append(failures, check())
	}
	return errors.Join(failures...)
}

func (j *JWTs) providers(c *apiserver.AuthenticationConfiguration) (*providers, error) {
	if errs := validation.ValidateAuthenticationConfiguration(j.compiler, c, j.config.Own); len(errs) > 0 {
		return nil, fmt.Errorf("authentication configuration: %w", errs.ToAggregate())
	}
	algorithms := j.config.OIDC.SigningAlgorithms
	if j.config.File != "" {
		algorithms = oidc.AllValidSigningAlgorithms()
	}
	ctx, cancel := context.WithCancel(j.ctx)
	p := &providers{cancel: cancel}
	for i := range c.JWT {
		o := oidc.Options{JWTAuthenticator: c.JWT[i], Compiler: j.compiler, SupportedSigningAlgs: algorithms, DisallowedIssuers: j.config.Own}
		if ca := c.JWT[i].Issuer.CertificateAuthority; ca != "" {
			o.CAContentProvider = authority(ca)
		}
		one, err := oidc.New(ctx, o)
		if err != nil {
			cancel()
			return nil, fmt.Errorf("token provider %s: %w", c.JWT[i].Issuer.URL, err)
		}
		p.tokens = append(p.tokens, authenticator.WrapAudienceAgnosticToken(j.config.Audiences, one))
		p.checks = append(p.checks, one.HealthCheck)
	}
	return p, nil
}

// authority implements oidc.CAContentProvider.
type authority string

// CurrentCABundleContent returns PEM.
func (a authority) CurrentCABundleContent() []byte { return []byte(a) }

// AuthenticateToken implements authenticator.Token. Tokens of issuers that nobody named are left to others.
func (j *JWTs) AuthenticateToken(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	return j.now.Load().tokens.AuthenticateToken(ctx, token)
}

// decodeConfiguration reads an AuthenticationConfiguration of any of its versions; fields that nobody knows are an error.
func decodeConfiguration(content []byte) (*apiserver.AuthenticationConfiguration, error) {
	s := runtime.NewScheme()
	install.Install(s)
	o, err := runtime.Decode(serializer.NewCodecFactory(s, serializer.EnableStrict).UniversalDecoder(), content)
	if err != nil {
		return nil, err
	}
	c, ok := o.(*apiserver.AuthenticationConfiguration)
	if !ok {
		return nil, fmt.Errorf("%T where an AuthenticationConfiguration is expected", o)
	}
	return c, nil
}
