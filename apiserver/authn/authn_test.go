package authn

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"

	"wherry.dev/wherry/client"
	"wherry.dev/wherry/pki"
)

const issuerURL = "https://kubernetes.default.svc.cluster.local"

// clock is a time that tests move.
type clock struct{ now time.Time }

func (c *clock) Now() time.Time { return c.now }

type fixture struct {
	*clock
	set      *client.Set
	issuer   *Issuer
	accounts *ServiceAccounts
	authn    *Authenticator
	pki      *pki.PKI
}

func newFixture(t testing.TB, objects ...runtime.Object) *fixture {
	t.Helper()
	keys, err := pki.Ensure(t.TempDir(), pki.Config{})
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{clock: &clock{time.Now().Truncate(time.Second)}, pki: keys}
	k := fake.NewClientset(objects...)
	f.set = &client.Set{Kubernetes: k, Informers: informers.NewSharedInformerFactory(k, 0)}
	lookup := &Lookup{}
	lookup.Initialize(f.set) // its informers never start: every answer is a live read
	key := keys.ServiceAccountSigner()
	if f.issuer, err = NewIssuer(IssuerConfig{URL: issuerURL, Audiences: []string{issuerURL}, Key: key, Lookup: lookup, Now: f.Now}); err != nil {
		t.Fatal(err)
	}
	if f.accounts, err = NewServiceAccounts(ServiceAccountConfig{Issuers: []string{issuerURL}, Audiences: []string{issuerURL}, Keys: []crypto.PublicKey{key.Public()}, Lookup: lookup, Now: f.Now}); err != nil {
		t.Fatal(err)
	}
	pool := keys.CAPool()
	tokens := filepath.Join(t.TempDir(), "tokens")
	if err := os.WriteFile(tokens, []byte("sesame,alibaba,7,\"thieves\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if f.authn, err = New(Config{ClientCAs: func() *x509.CertPool { return pool }, ServiceAccounts: f.accounts, BootstrapTokens: lookup, TokenFile: tokens, Anonymous: Anonymous{Paths: AnonymousPaths()}, Now: f.Now,
		FrontProxy: &FrontProxy{CAs: func() *x509.CertPool {
			pool := x509.NewCertPool()
			pool.AddCert(keys.Pairs().FrontProxyCA.Certificate)
			return pool
		}, AllowedNames: []string{"front-proxy-client"}}}); err != nil {
		t.Fatal(err)
	}
	return f
}

func account(namespace, name, uid string) *corev1.ServiceAccount {
	return &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID(uid)}}
}

func pod(namespace, name, uid, serviceAccount, node string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID(uid)}, Spec: corev1.PodSpec{ServiceAccountName: serviceAccount, NodeName: node}}
}

func (f *fixture) token(t testing.TB, spec authenticationv1.TokenRequestSpec) string {
	t.Helper()
	r, err := f.issuer.Issue(context.Background(), "ns", "robot", &authenticationv1.TokenRequest{Spec: spec})
	if err != nil {
		t.Fatal(err)
	}
	return r.Status.Token
}

func boundTo(kind, name, uid string) *authenticationv1.BoundObjectReference {
	return &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: kind, Name: name, UID: types.UID(uid)}
}

func (f *fixture) ask(token string) (*authenticator.Response, bool, error) {
	r := httptest.NewRequest(http.MethodGet, "/api/v1/pods", nil)
	r.Header.Set("Authorization", "Bearer "+token)
	return f.authn.AuthenticateRequest(r)
}

func TestTokenCarriesUpstreamsClaims(t *testing.T) {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "nu"}}
	f := newFixture(t, account("ns", "robot", "su"), pod("ns", "p", "pu", "robot", "n1"), node)
	token := f.token(t, authenticationv1.TokenRequestSpec{BoundObjectRef: boundTo("Pod", "p", "pu"), ExpirationSeconds: new(int64(3607))})
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(payload, &got); err != nil {
		t.Fatal(err)
	}
	id, _ := got["jti"].(string)
	now := f.now.Unix()
	want := map[string]any{
		"aud": []any{issuerURL}, "iss": issuerURL, "sub": "system:serviceaccount:ns:robot", "jti": id,
		"iat": float64(now), "nbf": float64(now), "exp": float64(now + 365*24*3600), // the extended life of a pod's own token
		"kubernetes.io": map[string]any{
			"namespace": "ns", "warnafter": float64(now + 3607), "serviceaccount": map[string]any{"name": "robot", "uid": "su"},
			"pod": map[string]any{"name": "p", "uid": "pu"}, "node": map[string]any{"name": "n1", "uid": "nu"},
		},
	}
	a, _ := json.Marshal(got)
	b, _ := json.Marshal(want)
	if string(a) != string(b) || len(id) != 36 {
		t.Errorf("claims\n%s\nwant\n%s", a, b)
	}
	r, ok, err := f.ask(token)
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	extra := r.User.GetExtra()
	if r.User.GetName() != "system:serviceaccount:ns:robot" || r.User.GetUID() != "su" || !slices.Equal(r.User.GetGroups(), []string{"system:serviceaccounts", "system:serviceaccounts:ns", "system:authenticated"}) ||
		extra["authentication.kubernetes.io/pod-name"][0] != "p" || extra["authentication.kubernetes.io/node-uid"][0] != "nu" || extra["authentication.kubernetes.io/credential-id"][0] != "JTI="+id {
		t.Errorf("user %+v", r.User)
	}
}

// What a token is bound to decides, at once, also when the signature is remembered.
func TestTokenDiesWithWhatItIsBoundTo(t *testing.T) {
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "s", UID: "xu"}}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "nu"}}
	ctx := context.Background()
	for name, c := range map[string]struct {
		ref  *authenticationv1.BoundObjectReference
		kill func(f *fixture) error
		want string
	}{
		"account deleted": {nil, func(f *fixture) error {
			return f.set.Kubernetes.CoreV1().ServiceAccounts("ns").Delete(ctx, "robot", metav1.DeleteOptions{})
		}, "not found"},
		"account made anew": {nil, func(f *fixture) error {
			_, err := f.set.Kubernetes.CoreV1().ServiceAccounts("ns").Update(ctx, account("ns", "robot", "other"), metav1.UpdateOptions{})
			return err
		}, "does not match claim"},
		"pod deleted": {boundTo("Pod", "p", "pu"), func(f *fixture) error {
			return f.set.Kubernetes.CoreV1().Pods("ns").Delete(ctx, "p", metav1.DeleteOptions{})
		}, "invalidated"},
		"pod made anew": {boundTo("Pod", "p", ""), func(f *fixture) error {
			_, err := f.set.Kubernetes.CoreV1().Pods("ns").Update(ctx, pod("ns", "p", "other", "robot", "n1"), metav1.UpdateOptions{})
			return err
		}, "does not match service account pod ref claim"},
		"pod long being deleted": {boundTo("Pod", "p", ""), func(f *fixture) error {
			p := pod("ns", "p", "pu", "robot", "n1")
			p.DeletionTimestamp = new(metav1.NewTime(f.now.Add(-2 * time.Minute)))
			_, err := f.set.Kubernetes.CoreV1().Pods("ns").Update(ctx, p, metav1.UpdateOptions{})
			return err
		}, "invalidated"},
		"secret deleted": {boundTo("Secret", "s", "xu"), func(f *fixture) error {
			return f.set.Kubernetes.CoreV1().Secrets("ns").Delete(ctx, "s", metav1.DeleteOptions{})
		}, "invalidated"},
		"node deleted": {boundTo("Node", "n1", "nu"), func(f *fixture) error {
			return f.set.Kubernetes.CoreV1().Nodes().Delete(ctx, "n1", metav1.DeleteOptions{})
		}, "invalidated"},
		"time over":  {nil, func(f *fixture) error { f.now = f.now.Add(time.Hour + 61*time.Second); return nil }, "expired"},
		"clock back": {nil, func(f *fixture) error { f.now = f.now.Add(-time.Hour); return nil }, "not valid yet"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, account("ns", "robot", "su"), pod("ns", "p", "pu", "robot", "n1"), secret.DeepCopy(), node.DeepCopy())
			token := f.token(t, authenticationv1.TokenRequestSpec{BoundObjectRef: c.ref})
			if _, ok, err := f.ask(token); !ok || err != nil {
				t.Fatal(ok, err)
			}
			if err := c.kill(f); err != nil {
				t.Fatal(err)
			}
			if _, ok, err := f.ask(token); ok || err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("ok %v, error %v, want %q", ok, err, c.want)
			}
		})
	}
}

func TestTokenForOthersIsRefused(t *testing.T) {
	f, other := newFixture(t, account("ns", "robot", "su")), newFixture(t, account("ns", "robot", "su"))
	if _, ok, err := f.ask(f.token(t, authenticationv1.TokenRequestSpec{Audiences: []string{"vault"}})); ok || err == nil || !strings.Contains(err.Error(), `token audiences ["vault"] is invalid for the target audiences`) {
		t.Errorf("another audience: %v %v", ok, err)
	}
	ctx := authenticator.WithAudiences(context.Background(), authenticator.Audiences{"vault", "x"})
	r, ok, err := f.accounts.AuthenticateToken(ctx, f.token(t, authenticationv1.TokenRequestSpec{Audiences: []string{"vault", issuerURL}}))
	if err != nil || !ok || !slices.Equal(r.Audiences, authenticator.Audiences{"vault"}) {
		t.Errorf("review for an audience: %v %v %v", r, ok, err)
	}
	if _, ok, err := f.ask(other.token(t, authenticationv1.TokenRequestSpec{})); ok || err == nil {
		t.Errorf("another cluster's token: %v %v", ok, err)
	}
	good := f.token(t, authenticationv1.TokenRequestSpec{})
	parts := strings.Split(good, ".")
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`))
	for name, bad := range map[string]string{
		"alg none":       none + "." + parts[1] + ".",
		"no signature":   parts[0] + "." + parts[1] + ".",
		"cut":            good[:len(good)-2],
		"claims changed": parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(`{"iss":"`+issuerURL+`","sub":"system:serviceaccount:kube-system:admin"}`)) + "." + parts[2],
		"garbage":        "x",
		"dots":           "..",
	} {
		if r, ok, err := f.ask(bad); ok || err == nil {
			t.Errorf("%s: %v %v %v", name, r, ok, err)
		}
	}
}

func TestTokenRequestValidation(t *testing.T) {
	f := newFixture(t, account("ns", "robot", "su"), account("ns", "other", "ou"), pod("ns", "p", "pu", "robot", ""))
	for name, c := range map[string]struct {
		name string
		r    authenticationv1.TokenRequest
		is   func(error) bool
		text string
	}{
		"too short":      {"robot", authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: new(int64(599))}}, apierrors.IsInvalid, "may not specify a duration less than 10 minutes"},
		"too long":       {"robot", authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: new(int64(1<<32 + 1))}}, apierrors.IsInvalid, "2^32"},
		"no account":     {"nobody", authenticationv1.TokenRequest{}, apierrors.IsNotFound, "nobody"},
		"other name":     {"robot", authenticationv1.TokenRequest{ObjectMeta: metav1.ObjectMeta{Name: "x"}}, apierrors.IsInvalid, "must match the service account name"},
		"other account":  {"other", authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: boundTo("Pod", "p", "pu")}}, apierrors.IsBadRequest, "different serviceaccount"},
		"stale pod":      {"robot", authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: boundTo("Pod", "p", "old")}}, apierrors.IsConflict, "does not match the UID in record"},
		"strange object": {"robot", authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: boundTo("ConfigMap", "p", "")}}, apierrors.IsBadRequest, "cannot bind token to object of type"},
		"stale account":  {"robot", authenticationv1.TokenRequest{ObjectMeta: metav1.ObjectMeta{UID: "old"}}, apierrors.IsConflict, "does not match the UID of the service account"},
	} {
		if _, err := f.issuer.Issue(context.Background(), "ns", c.name, &c.r); err == nil || !c.is(err) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSecretTokens(t *testing.T) {
	f := newFixture(t, account("ns", "robot", "su"))
	token, err := f.issuer.Legacy(account("ns", "robot", "su"), "s")
	if err != nil {
		t.Fatal(err)
	}
	if _, ok, _ := f.ask(token); ok {
		t.Error("accepted before its secret is there")
	}
	ctx := context.Background()
	if _, err := f.set.Kubernetes.CoreV1().Secrets("ns").Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "s"}, Data: map[string][]byte{"token": []byte(token)}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	r, ok, err := f.ask(token)
	if err != nil || !ok || r.User.GetName() != "system:serviceaccount:ns:robot" {
		t.Fatal(r, ok, err)
	}
	used, err := f.set.Kubernetes.CoreV1().Secrets("ns").Get(ctx, "s", metav1.GetOptions{})
	if err != nil || used.Labels[lastUsedLabel] != f.Now().UTC().Format(time.DateOnly) {
		t.Errorf("the day of its use is not written down: %v, %v", used.Labels, err)
	}
	used.Labels[invalidSinceLabel] = "2026-01-01"
	if _, err := f.set.Kubernetes.CoreV1().Secrets("ns").Update(ctx, used, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := f.ask(token); ok || err == nil || !strings.Contains(err.Error(), "has been marked invalid") {
		t.Errorf("after it was marked as invalid: %v, %v", ok, err)
	}
	if err := f.set.Kubernetes.CoreV1().Secrets("ns").Delete(ctx, "s", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, ok, _ := f.ask(token); ok {
		t.Error("accepted after its secret is gone")
	}
}

func TestBootstrapTokens(t *testing.T) {
	const token = "abcdef.0123456789abcdef"
	for name, c := range map[string]struct {
		change func(*corev1.Secret)
		ok     bool
	}{
		"good":      {func(*corev1.Secret) {}, true},
		"no expiry": {func(s *corev1.Secret) { delete(s.Data, "expiration") }, true},
		"expired": {func(s *corev1.Secret) {
			s.Data["expiration"] = []byte(time.Now().Add(-time.Second).UTC().Format(time.RFC3339))
		}, false},
		"unreadable expiry":  {func(s *corev1.Secret) { s.Data["expiration"] = []byte("soon") }, false},
		"other secret":       {func(s *corev1.Secret) { s.Data["token-secret"] = []byte("0123456789abcdee") }, false},
		"other id":           {func(s *corev1.Secret) { s.Data["token-id"] = []byte("abcdee") }, false},
		"other type":         {func(s *corev1.Secret) { s.Type = corev1.SecretTypeOpaque }, false},
		"not for this":       {func(s *corev1.Secret) { delete(s.Data, "usage-bootstrap-authentication") }, false},
		"being deleted":      {func(s *corev1.Secret) { s.DeletionTimestamp = new(metav1.Now()) }, false},
		"group outside":      {func(s *corev1.Secret) { s.Data["auth-extra-groups"] = []byte("system:masters") }, false},
		"group with newline": {func(s *corev1.Secret) { s.Data["auth-extra-groups"] = []byte("system:bootstrappers:x\n") }, false},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := pki.BootstrapTokenSecret(token, "", time.Now(), time.Hour)
			if err != nil {
				t.Fatal(err)
			}
			c.change(s)
			r, ok, err := newFixture(t, s).ask(token)
			if ok != c.ok || ok == (err != nil) {
				t.Fatalf("%v %v %v", r, ok, err)
			}
			if ok && (r.User.GetName() != "system:bootstrap:abcdef" || !slices.Equal(r.User.GetGroups(), []string{"system:bootstrappers", "system:bootstrappers:wherry:default-node-token", "system:authenticated"})) {
				t.Errorf("user %+v", r.User)
			}
		})
	}
}

func withCert(r *http.Request, certs ...*x509.Certificate) *http.Request {
	r.TLS = &tls.ConnectionState{PeerCertificates: certs}
	return r
}

func TestRequests(t *testing.T) {
	f := newFixture(t, account("ns", "robot", "su"))
	stranger, err := pki.Ensure(t.TempDir(), pki.Config{})
	if err != nil {
		t.Fatal(err)
	}
	get := func(path string) *http.Request { return httptest.NewRequest(http.MethodGet, path, nil) }
	bearer := func(r *http.Request, token string) *http.Request {
		r.Header.Set("Authorization", "Bearer "+token)
		return r
	}
	front := func(r *http.Request, user string) *http.Request {
		r.Header.Set("X-Remote-User", user)
		r.Header.Add("X-Remote-Group", "g")
		return r
	}
	p := f.pki.Pairs()
	for name, c := range map[string]struct {
		r      *http.Request
		user   string // empty: refused
		failed bool
	}{
		"certificate":                 {withCert(get("/x"), p.Scheduler.Certificate), "system:kube-scheduler", false},
		"server's certificate":        {withCert(get("/x"), p.APIServer.Certificate), "", true},
		"stranger's certificate":      {withCert(get("/x"), stranger.Pairs().Admin.Certificate), "", true},
		"stranger's, but a token":     {bearer(withCert(get("/x"), stranger.Pairs().Admin.Certificate), "sesame"), "alibaba", false},
		"token file":                  {bearer(get("/x"), "sesame"), "alibaba", false},
		"wrong token":                 {bearer(get("/x"), "open"), "", true},
		"wrong token, public path":    {bearer(get("/healthz"), "open"), "", true},
		"nothing":                     {get("/x"), "", false},
		"nothing, public path":        {get("/readyz"), "system:anonymous", false},
		"nothing, cluster-info":       {get("/api/v1/namespaces/kube-public/configmaps/cluster-info"), "system:anonymous", false},
		"nothing, below public":       {get("/healthz/../api"), "", false},
		"front proxy":                 {front(withCert(get("/x"), p.FrontProxyClient.Certificate), "jane"), "jane", false},
		"front proxy headers alone":   {front(get("/x"), "jane"), "", false},
		"front proxy headers of user": {front(withCert(get("/x"), p.Scheduler.Certificate), "jane"), "system:kube-scheduler", false},
	} {
		t.Run(name, func(t *testing.T) {
			for range 2 { // the second time from the cache
				r, ok, err := f.authn.AuthenticateRequest(c.r.Clone(context.Background()))
				if ok != (c.user != "") || (err != nil) != c.failed {
					t.Fatalf("%v %v %v", r, ok, err)
				}
				if ok && r.User.GetName() != c.user {
					t.Errorf("user %q, want %q", r.User.GetName(), c.user)
				}
				if ok && (c.user != "system:anonymous") != slices.Contains(r.User.GetGroups(), "system:authenticated") {
					t.Errorf("groups %v", r.User.GetGroups())
				}
			}
		})
	}
	r := bearer(get("/x"), "sesame")
	if _, _, err := f.authn.AuthenticateRequest(r); err != nil || r.Header.Get("Authorization") != "" {
		t.Error("the credential stays on the request")
	}
}

// A cached certificate ends when it, or its chain, expires, and when the authorities change.
func TestCertificateCacheForgets(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := &clock{time.Now()}
	issue := func(template, parent *x509.Certificate) *x509.Certificate {
		der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	authority := func(n int64, name string, end time.Duration) *x509.Certificate {
		return &x509.Certificate{SerialNumber: big.NewInt(n), Subject: pkix.Name{CommonName: name}, NotBefore: now.now.Add(-time.Hour), NotAfter: now.now.Add(end), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	}
	root := issue(authority(1, "root", 100*time.Hour), authority(1, "root", 100*time.Hour))
	middle := issue(authority(2, "middle", time.Hour), root)
	leaf := issue(&x509.Certificate{SerialNumber: big.NewInt(3), Subject: pkix.Name{CommonName: "jane"}, NotBefore: now.now.Add(-time.Hour), NotAfter: now.now.Add(2 * time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, middle)
	pool := x509.NewCertPool()
	pool.AddCert(root)
	c := newCertificates(func() *x509.CertPool { return pool }, now.Now)
	for range 2 {
		if _, ok, err := c.authenticate([]*x509.Certificate{leaf, middle}); !ok || err != nil {
			t.Fatal(ok, err)
		}
	}
	if _, ok, err := c.authenticate([]*x509.Certificate{leaf}); ok || err == nil {
		t.Error("the leaf without its chain was accepted from the cache")
	}
	now.now = now.now.Add(61 * time.Minute) // the leaf lives, the authority above it does not
	if _, ok, err := c.authenticate([]*x509.Certificate{leaf, middle}); ok || err == nil {
		t.Error("accepted under an expired authority")
	}
	now.now = now.now.Add(-61 * time.Minute)
	pool = x509.NewCertPool()
	if _, ok, err := c.authenticate([]*x509.Certificate{leaf, middle}); ok || err == nil {
		t.Error("accepted after its authority was taken away")
	}
}

func TestCacheIsBounded(t *testing.T) {
	c := newCache[int](100)
	for i := range 10_000 {
		c.put(digest{byte(i), byte(i >> 8)}, i)
		if v, ok := c.get(digest{byte(i), byte(i >> 8)}); !ok || v != i {
			t.Fatal("what was put is not there")
		}
	}
	if n := c.len(); n > 100 {
		t.Errorf("%d entries", n)
	}
}

func TestOpenIDDiscoveryVerifiesTokens(t *testing.T) {
	f := newFixture(t, account("ns", "robot", "su"))
	handlers, err := f.accounts.OpenIDHandlers("https://10.0.0.1:6443")
	if err != nil {
		t.Fatal(err)
	}
	read := func(path string) map[string]any {
		w := httptest.NewRecorder()
		handlers[path].ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		var out map[string]any
		if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil {
			t.Fatal(err)
		}
		return out
	}
	configuration := read(OpenIDConfigurationPath)
	if configuration["issuer"] != issuerURL || configuration["jwks_uri"] != "https://10.0.0.1:6443/openid/v1/jwks" {
		t.Errorf("configuration %v", configuration)
	}
	keys, _ := read(OpenIDKeysPath)["keys"].([]any)
	key, _ := keys[0].(map[string]any)
	header, err := base64.RawURLEncoding.DecodeString(strings.Split(f.token(t, authenticationv1.TokenRequestSpec{}), ".")[0])
	if err != nil {
		t.Fatal(err)
	}
	var h map[string]string
	if err := json.Unmarshal(header, &h); err != nil {
		t.Fatal(err)
	}
	if key["kid"] != h["kid"] || key["alg"] != h["alg"] || key["d"] != nil {
		t.Errorf("key %v, token %v", key, h)
	}
}

func BenchmarkServiceAccountToken(b *testing.B) {
	f := newFixture(b, account("ns", "robot", "su"), pod("ns", "p", "pu", "robot", ""))
	f.set.Informers.Start(b.Context().Done())
	f.set.Informers.WaitForCacheSync(b.Context().Done())
	token := f.token(b, authenticationv1.TokenRequestSpec{BoundObjectRef: boundTo("Pod", "p", "pu")})
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		if _, ok, err := f.accounts.AuthenticateToken(ctx, token); !ok {
			b.Fatal(err)
		}
	}
}

func BenchmarkClientCertificate(b *testing.B) {
	f := newFixture(b)
	r := withCert(httptest.NewRequest(http.MethodGet, "/api/v1/pods", nil), f.pki.Pairs().Admin.Certificate)
	b.ReportAllocs()
	for b.Loop() {
		if _, ok, err := f.authn.AuthenticateRequest(r); !ok {
			b.Fatal(err)
		}
	}
}

func (c *cache[V]) len() int {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return len(c.young) + len(c.old)
}
