package security

import (
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
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"wherry.dev/wherry/pki"
)

func withToken(name, token string) *credential {
	return &credential{name: name, headers: http.Header{"Authorization": {"Bearer " + token}}}
}

// certificate makes a client certificate of a signer's.
func certificate(t *testing.T, signer *pki.Pair, change func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "mallory", Organization: []string{"system:masters"}}, NotBefore: time.Now().Add(-2 * time.Hour),
		NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	if change != nil {
		change(template)
	}
	parent, parentKey := template, crypto.Signer(key)
	if signer != nil {
		parent, parentKey = signer.Certificate, signer.Key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// forged signs claims of a service account's token with a key and headers of the attacker's choice.
func forged(t *testing.T, claims map[string]any, algorithm jose.SignatureAlgorithm, key any) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: algorithm, Key: key}, nil)
	if err != nil {
		t.Fatal(err)
	}
	token, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// payload reads a token's claims.
func payload(t *testing.T, token string) (claims map[string]any) {
	t.Helper()
	raw, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &claims); err != nil {
		t.Fatal(err)
	}
	return claims
}

// changed is a token's claims with one of them replaced.
func changed(claims map[string]any, name string, value any) map[string]any {
	out := map[string]any{name: value}
	for k, v := range claims {
		if k != name {
			out[k] = v
		}
	}
	return out
}

// wrong are credentials that nobody must be let in with: each looks like one that is good.
func (w *target) wrong(t *testing.T) []*credential {
	t.Helper()
	pairs := w.keys.Pairs()
	w.account(t, "forgery", "robot")
	good := w.issue(t, "forgery", "robot", authenticationv1.TokenRequestSpec{})
	parts := strings.Split(good, ".")
	claims := payload(t, good)
	encode := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(b)
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(pairs.ServiceAccountKey.Public())
	if err != nil {
		t.Fatal(err)
	}
	admin := changed(claims, "sub", "system:serviceaccount:kube-system:clusterrole-aggregation-controller")
	ours := func(c map[string]any) string { return forged(t, c, jose.ES256, pairs.ServiceAccountKey) }
	hour := float64(time.Now().Add(-time.Hour).Unix())
	list := []*credential{
		{name: "none"},
		{name: "an empty bearer", headers: http.Header{"Authorization": {"Bearer "}}},
		{name: "a password", headers: http.Header{"Authorization": {"Basic YWRtaW46YWRtaW4="}}},
		{name: "no scheme", headers: http.Header{"Authorization": {good}}},
		withToken("a word", "sesame"),
		withToken("a token without its signature", parts[0]+"."+parts[1]+"."),
		withToken("a token with another's claims", parts[0]+"."+encode(admin)+"."+parts[2]),
		withToken("a token of no algorithm", encode(map[string]any{"alg": "none"})+"."+encode(admin)+"."),
		withToken("a token signed with the public key", forged(t, admin, jose.HS256, public)),
		withToken("a token of another key", forged(t, claims, jose.ES256, other)),
		withToken("a token in JSON", `{"payload":"`+parts[1]+`","protected":"`+parts[0]+`","signature":"`+parts[2]+`"}`),
		withToken("an expired token", ours(changed(claims, "exp", hour))),
		withToken("a token of the future", ours(changed(changed(claims, "nbf", -hour*-1+7200), "iat", hour+7200))),
		withToken("a token for another audience", w.issue(t, "forgery", "robot", authenticationv1.TokenRequestSpec{Audiences: []string{"vault"}})),
		withToken("a token of another issuer", ours(changed(claims, "iss", "https://kubernetes.default.svc.cluster.local.example"))),
		withToken("a token of an account that is not there", ours(admin)),
		withToken("a join token with another secret", w.token[:len(w.token)-4]+"zzzz"),
		withToken("a join token of nobody", "zzzzzz.0123456789abcdef"),
		{name: "a certificate of its own", certs: []tls.Certificate{certificate(t, nil, nil)}},
		{name: "a certificate of the front proxy's authority", certs: []tls.Certificate{certificate(t, pairs.FrontProxyCA, nil)}},
		{name: "a certificate that a server is known by", certs: []tls.Certificate{certificate(t, pairs.CA, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })}},
		{name: "an expired certificate", certs: []tls.Certificate{certificate(t, pairs.CA, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })}},
		{name: "a certificate of tomorrow", certs: []tls.Certificate{certificate(t, pairs.CA, func(c *x509.Certificate) {
			c.NotBefore = time.Now().Add(time.Hour)
			c.NotAfter = time.Now().Add(2 * time.Hour)
		})}},
		{name: "a front proxy's word", headers: http.Header{"X-Remote-User": {"admin"}, "X-Remote-Group": {"system:masters"}}},
		{name: "an impersonation of nobody's", headers: http.Header{"Impersonate-User": {"admin"}, "Impersonate-Group": {"system:masters"}}},
		{name: "a WebSocket's word", headers: http.Header{"Sec-Websocket-Protocol": {"base64url.bearer.authorization.k8s.io." + base64.RawURLEncoding.EncodeToString([]byte("sesame"))}}},
	}
	// A token that was good until its account went.
	w.account(t, "forgery", "gone")
	gone := w.issue(t, "forgery", "gone", authenticationv1.TokenRequestSpec{})
	if err := w.admin.CoreV1().ServiceAccounts("forgery").Delete(t.Context(), "gone", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	return append(list, withToken("a token of an account that is gone", gone))
}
