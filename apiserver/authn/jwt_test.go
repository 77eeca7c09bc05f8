package authn

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/apiserver/pkg/apis/apiserver/validation"
	authenticationcel "k8s.io/apiserver/pkg/authentication/cel"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// provider is an OpenID provider on loopback.
type provider struct {
	*httptest.Server
	key *ecdsa.PrivateKey
	ca  string
}

func newProvider(t *testing.T) *provider {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p := &provider{key: key}
	p.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch r.URL.Path {
		case "/.well-known/openid-configuration":
			fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q,"id_token_signing_alg_values_supported":["ES256"]}`, p.URL, p.URL+"/keys")
		case "/keys":
			json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k", Algorithm: "ES256", Use: "sig"}}})
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(p.Close)
	p.ca = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Certificate().Raw}))
	return p
}

func (p *provider) token(t *testing.T, claims map[string]any) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: p.key, KeyID: "k"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]any{"iss": p.URL, "aud": "wherry", "exp": time.Now().Add(time.Hour).Unix(), "sub": "jane"}
	for k, v := range claims {
		all[k] = v
	}
	token, err := jwt.Signed(signer).Claims(all).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// settled waits until the providers have been reached.
func settled(t *testing.T, j *JWTs) {
	t.Helper()
	for j.now.Load().reached() != nil {
		if t.Context().Err() != nil {
			t.Fatal("the provider is never reached")
		}
		time.Sleep(time.Millisecond)
	}
}

// The --oidc-* flags mean what they mean upstream.
func TestOIDCFlags(t *testing.T) {
	p, other := newProvider(t), newProvider(t)
	ca := filepath.Join(t.TempDir(), "ca")
	if err := os.WriteFile(ca, []byte(p.ca), 0o600); err != nil {
		t.Fatal(err)
	}
	o := OIDC{IssuerURL: p.URL, ClientID: "wherry", CAFile: ca, UsernameClaim: "sub", GroupsClaim: "groups", GroupsPrefix: "oidc:", SigningAlgorithms: []string{"ES256"}, RequiredClaims: map[string]string{"tenant": "blue"}}
	j, err := NewJWTs(t.Context(), JWTConfig{OIDC: o, Audiences: []string{issuerURL}, Own: []string{issuerURL}})
	if err != nil {
		t.Fatal(err)
	}
	settled(t, j)
	r, ok, err := j.AuthenticateToken(t.Context(), p.token(t, map[string]any{"tenant": "blue", "groups": []string{"devs"}}))
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	if r.User.GetName() != p.URL+"#jane" || !slices.Equal(r.User.GetGroups(), []string{"oidc:devs", "system:authenticated"}) {
		t.Errorf("%+v", r.User)
	}
	for name, token := range map[string]string{
		"another tenant":   p.token(t, map[string]any{"tenant": "red"}),
		"no tenant":        p.token(t, nil),
		"another audience": p.token(t, map[string]any{"tenant": "blue", "aud": "vault"}),
		"expired":          p.token(t, map[string]any{"tenant": "blue", "exp": time.Now().Add(-time.Minute).Unix()}),
		"another's key":    other.token(t, map[string]any{"tenant": "blue", "iss": p.URL}),
		"another provider": other.token(t, map[string]any{"tenant": "blue"}),
		"no token":         "sesame",
	} {
		if _, ok, _ := j.AuthenticateToken(t.Context(), token); ok {
			t.Errorf("%s is let in", name)
		}
	}
	// Our own issuer belongs to service accounts.
	o.IssuerURL = issuerURL
	if _, err := NewJWTs(t.Context(), JWTConfig{OIDC: o, Own: []string{issuerURL}}); err == nil {
		t.Error("a provider may call itself what we call ourselves")
	}
	if _, err := NewJWTs(t.Context(), JWTConfig{OIDC: OIDC{IssuerURL: p.URL}}); err == nil {
		t.Error("an issuer without an audience")
	}
	if j, err := NewJWTs(t.Context(), JWTConfig{}); j != nil || err != nil {
		t.Error(j, err)
	}
}

// A file of several providers, with expressions, is followed when it changes; one that is wrong, or whose provider cannot be reached, is not.
func TestAuthenticationConfiguration(t *testing.T) {
	one, two := newProvider(t), newProvider(t)
	file := filepath.Join(t.TempDir(), "config.yaml")
	write := func(content string) {
		t.Helper()
		if err := os.WriteFile(file+".new", []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	indent := func(text string) string {
		return strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n      ")
	}
	head := "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\nanonymous: {enabled: true, conditions: [{path: /livez}]}\njwt:\n"
	of := func(p *provider, mapping string) string {
		return fmt.Sprintf("- issuer:\n    url: %s\n    audiences: [wherry, other]\n    audienceMatchPolicy: MatchAny\n    certificateAuthority: |\n      %s\n%s", p.URL, indent(p.ca), mapping)
	}
	byRole := of(one, `  claimValidationRules: [{expression: "claims.level >= 3", message: level is too low}]
  claimMappings:
    username: {expression: "'one:' + claims.sub"}
    groups: {expression: "dyn(claims.roles).map(r, 'role:' + string(r))"}
    uid: {claim: id}
    extra: [{key: example.com/tenant, valueExpression: claims.tenant}]
  userValidationRules: [{expression: "!user.username.startsWith('one:system')", message: reserved}]
`)
	plain := of(two, "  claimMappings: {username: {claim: sub, prefix: 'two:'}}\n")
	write(head + byRole)
	j, err := NewJWTs(t.Context(), JWTConfig{File: file, Audiences: []string{issuerURL}, Own: []string{issuerURL}})
	if err != nil {
		t.Fatal(err)
	}
	if a := j.Anonymous(); a == nil || a.Everywhere || !slices.Equal(a.Paths, []string{"/livez"}) {
		t.Errorf("anonymous: %+v", a)
	}
	settled(t, j)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- j.Follow(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	claims := map[string]any{"level": 3, "roles": []string{"dev"}, "id": "7", "tenant": "blue"}
	r, ok, err := j.AuthenticateToken(ctx, one.token(t, claims))
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	if u := r.User; u.GetName() != "one:jane" || u.GetUID() != "7" || !slices.Equal(u.GetGroups(), []string{"role:dev", "system:authenticated"}) || !slices.Equal(u.GetExtra()["example.com/tenant"], []string{"blue"}) {
		t.Errorf("%+v", u)
	}
	for name, change := range map[string]map[string]any{"a low level": {"level": 2}, "a reserved name": {"sub": "system"}} {
		other := map[string]any{}
		for _, m := range []map[string]any{claims, change} {
			for k, v := range m {
				other[k] = v
			}
		}
		if _, ok, err := j.AuthenticateToken(ctx, one.token(t, other)); ok || err == nil {
			t.Errorf("%s is let in", name)
		}
	}
	in := func(p *provider, claims map[string]any) bool {
		_, ok, _ := j.AuthenticateToken(ctx, p.token(t, claims))
		return ok
	}
	if in(two, nil) {
		t.Error("a provider that is not in the file yet")
	}
	write(head + byRole + plain)
	for !in(two, nil) {
		if ctx.Err() != nil {
			t.Fatal("the second provider is never known")
		}
		time.Sleep(time.Millisecond)
	}
	if !in(one, claims) {
		t.Error("the first provider is forgotten")
	}
	// Refused: nonsense, a change of what cannot change, a wrong expression. What comes after them shows that they have been read.
	for _, wrong := range []string{"nonsense", strings.Replace(head, "/livez", "/readyz", 1) + plain, head + strings.Replace(byRole, "claims.level >= 3", "claims.level +", 1)} {
		if err := j.change(ctx, []byte(wrong)); err == nil {
			t.Errorf("taken: %s", wrong)
		}
	}
	if !in(one, claims) || !in(two, nil) {
		t.Error("a wrong file has changed something")
	}
	write(head + plain)
	for in(one, claims) {
		if ctx.Err() != nil {
			t.Fatal("the first provider stays for ever")
		}
		time.Sleep(time.Millisecond)
	}
	if !in(two, nil) {
		t.Error("the second provider is forgotten")
	}
}

// FuzzAuthenticationConfiguration reads files that say whose tokens are accepted; none of them accepts our own issuer's.
func FuzzAuthenticationConfiguration(f *testing.F) {
	f.Add([]byte("apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\nanonymous: {enabled: true}\njwt: [{issuer: {url: \"https://a.example\", audiences: [a]}, claimValidationRules: [{expression: claims.b == 'c'}], claimMappings: {username: {expression: claims.sub}, groups: {claim: g, prefix: \"\"}}, userValidationRules: [{expression: \"!user.username.startsWith('system:')\"}]}]\n"))
	compiler := authenticationcel.NewDefaultCompiler()
	f.Fuzz(func(t *testing.T, content []byte) {
		c, err := decodeConfiguration(content)
		if err != nil {
			return
		}
		if errs := validation.ValidateAuthenticationConfiguration(compiler, c, []string{issuerURL}); len(errs) > 0 {
			return
		}
		for _, j := range c.JWT {
			if j.Issuer.URL == issuerURL || len(j.Issuer.Audiences) == 0 {
				t.Errorf("%+v", j.Issuer)
			}
		}
	})
}

// An API that is asked about tokens says who they are, and is believed for a while.
func TestTokenWebhook(t *testing.T) {
	asked := 0
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		var review authenticationv1.TokenReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
			t.Error(err)
		}
		if review.Spec.Token == "sesame" {
			review.Status = authenticationv1.TokenReviewStatus{Authenticated: true, User: authenticationv1.UserInfo{Username: "ali", Groups: []string{"thieves"}}}
		}
		json.NewEncoder(w).Encode(review)
	}))
	defer hook.Close()
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(clientcmdapi.Config{CurrentContext: "c", Contexts: map[string]*clientcmdapi.Context{"c": {Cluster: "c"}},
		Clusters: map[string]*clientcmdapi.Cluster{"c": {Server: hook.URL}}}, file); err != nil {
		t.Fatal(err)
	}
	w, err := Webhook{ConfigFile: file, Version: "v1", CacheTTL: time.Minute}.New([]string{issuerURL})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		r, ok, err := w.AuthenticateToken(t.Context(), "sesame")
		if err != nil || !ok || r.User.GetName() != "ali" || !slices.Equal(r.User.GetGroups(), []string{"thieves"}) {
			t.Fatal(r, ok, err)
		}
		if _, ok, _ := w.AuthenticateToken(t.Context(), "simsim"); ok {
			t.Error("another word")
		}
	}
	if asked != 2 {
		t.Errorf("asked %d times about two tokens", asked)
	}
	if w, err := (Webhook{}).New(nil); w != nil || err != nil {
		t.Error(w, err)
	}
}
