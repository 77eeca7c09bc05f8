package security

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"wherry.dev/wherry/cluster"
	"wherry.dev/wherry/pki"
)

// Each source that the flags name lets in whom it should, as whom it should, and a front proxy's word counts from the front proxy alone.
func TestSourcesOfIdentity(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "another authority"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	var proxyCA []byte
	w := start(t, func(s *cluster.Server) {
		c, err := cluster.Prepare(*s)
		if err != nil {
			t.Fatal(err)
		}
		proxyCA = c.PKI.Pairs().FrontProxyCA.CertPEM
		s.Identity = cluster.DefaultIdentity()
		a := &s.Identity.Authentication
		a.TokenFile = file("tokens", "sesame,ali,7,\"thieves,system:masters\"\n")
		a.ClientCAFile = file("ca", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
		a.RequestHeader.CAFile = file("proxy", string(proxyCA))
		a.RequestHeader.AllowedNames = []string{"front-proxy-client"}
		a.ServiceAccounts.Issuers = []string{"https://new.example", "https://kubernetes.default.svc.cluster.local"}
		a.ServiceAccounts.MaxExpiration = 2 * time.Hour
	})
	ask := func(c *credential) (int, authenticationv1.UserInfo) {
		t.Helper()
		code, body, err := w.caller(t, c).send(t.Context(), route{method: http.MethodPost, path: "/apis/authentication.k8s.io/v1/selfsubjectreviews", contentType: "application/json", body: `{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}`})
		if err != nil {
			t.Fatal(err)
		}
		var r authenticationv1.SelfSubjectReview
		if code == http.StatusCreated {
			if err := json.Unmarshal(body, &r); err != nil {
				t.Fatal(err)
			}
		}
		return code, r.Status.UserInfo
	}
	proxied := http.Header{"X-Remote-User": {"proxied"}, "X-Remote-Group": {"devs"}, "X-Remote-Extra-Scopes": {"a"}}
	front := w.keys.Pairs().FrontProxyCA
	named := func(name string) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.Subject = pkix.Name{CommonName: name} }
	}
	for name, c := range map[string]struct {
		credential *credential
		user       string // empty: refused
		group      string
	}{
		"token file":                  {withToken("", "sesame"), "ali", "thieves"},
		"not in the token file":       {withToken("", "simsim"), "", ""},
		"the further authority":       {&credential{certs: []tls.Certificate{certificate(t, &pki.Pair{Certificate: ca, Key: key}, named("guest"))}}, "guest", "system:authenticated"},
		"the cluster's own authority": {&credential{certs: []tls.Certificate{certificate(t, w.keys.Pairs().CA, named("host"))}}, "host", "system:authenticated"},
		"the front proxy":             {&credential{headers: proxied, certs: []tls.Certificate{certificate(t, front, named("front-proxy-client"))}}, "proxied", "devs"},
		"another name at the proxy":   {&credential{headers: proxied, certs: []tls.Certificate{certificate(t, front, named("somebody"))}}, "", ""},
		"the proxy for itself":        {&credential{certs: []tls.Certificate{certificate(t, front, named("front-proxy-client"))}}, "", ""},
		"headers without the proxy":   {&credential{headers: proxied}, "", ""},
		"headers with a user's own":   {&credential{headers: proxied, certs: []tls.Certificate{certificate(t, w.keys.Pairs().CA, named("host"))}}, "host", "system:authenticated"},
	} {
		code, who := ask(c.credential)
		if c.user == "" && code != http.StatusUnauthorized || c.user != "" && (who.Username != c.user || !slices.Contains(who.Groups, c.group)) {
			t.Errorf("%s: %d %+v", name, code, who)
		}
	}
	// Tokens come from the first issuer and live no longer than allowed.
	w.account(t, "sources", "robot")
	long := int64(5 * 3600)
	r, err := w.admin.CoreV1().ServiceAccounts("sources").CreateToken(t.Context(), "robot", &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &long}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if claims := payload(t, r.Status.Token); claims["iss"] != "https://new.example" || *r.Spec.ExpirationSeconds != 7200 || claims["exp"].(float64)-claims["iat"].(float64) != 7200 {
		t.Errorf("%+v %v", claims, *r.Spec.ExpirationSeconds)
	}
	if code, who := ask(withToken("", r.Status.Token)); who.Username != "system:serviceaccount:sources:robot" {
		t.Errorf("%d %+v", code, who)
	}
}
