package authn

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/client-go/kubernetes/fake"

	"wherry.dev/wherry/internal/bounded"
)

// FuzzToken feeds what comes after "Bearer": nobody is let in by a token that nobody issued.
func FuzzToken(f *testing.F) {
	x := newFixture(f, account("ns", "robot", "su"))
	good := x.token(f, authenticationv1.TokenRequestSpec{})
	for _, seed := range []string{good, good + ".", " " + good, "..", "{\"payload\":\"\"}", "abcdef.0123456789abcdef", "eyJhbGciOiJub25lIn0.eyJpc3MiOiJrdWJlcm5ldGVzL3NlcnZpY2VhY2NvdW50In0.", "sesame"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, token string) {
		bounded.Work(t, len(token), func() {
			r, ok, _ := x.accounts.AuthenticateToken(context.Background(), token)
			// The last letter of the signature carries bits that are no part of it, so other spellings of it are the same token.
			if ok && (!strings.HasPrefix(token, good[:len(good)-1]) || r.User.GetName() != "system:serviceaccount:ns:robot") {
				t.Fatalf("a token that nobody issued was accepted: %q", token)
			}
			if _, ok, _ := x.ask(token); ok && token != "sesame" && !strings.HasPrefix(strings.TrimSpace(token), good[:len(good)-1]) {
				t.Fatalf("accepted: %q", token)
			}
		})
		x.set.Kubernetes.(*fake.Clientset).ClearActions()
	})
}

// FuzzClaims feeds headers and claims that are signed with the right key, so that all that reads them is reached: only tokens of the account that
// there is, bound to what there is, let somebody in, as that account and nobody else; and none does that is signed with another key or changed.
func FuzzClaims(f *testing.F) {
	x := newFixture(f, account("ns", "robot", "su"), pod("ns", "p", "pu", "robot", "n1"))
	x.now = time.Unix(1_800_000_000, 0) // claims stay as old as they are
	key, ok := x.pki.ServiceAccountSigner().(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		f.Fatalf("tokens are signed with a %T", x.pki.ServiceAccountSigner())
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	const bound = `"kubernetes.io":{"namespace":"ns","serviceaccount":{"name":"robot","uid":"su"}`
	for _, claims := range []string{
		`"aud":["` + issuerURL + `"],"exp":1800003600,"iat":1800000000,"nbf":1800000000,` + bound + `}`,
		`"aud":"` + issuerURL + `","exp":1.8e9,` + bound + `,"pod":{"name":"p","uid":"pu"},"node":{"name":"n1","uid":"nu"},"warnafter":1}`,
		`"aud":[],"exp":-1,"jti":"j",` + bound + `,"secret":{"name":"s","uid":"t"}}`,
		`"kubernetes.io":null,"aud":null,"nbf":99999999999999999999`,
		`"kubernetes.io/serviceaccount/namespace":"ns","kubernetes.io/serviceaccount/secret.name":"s","kubernetes.io/serviceaccount/service-account.name":"robot","kubernetes.io/serviceaccount/service-account.uid":"su"`,
	} {
		for _, issuer := range []string{issuerURL, legacyIssuer} {
			for how := range uint8(3) {
				f.Add([]byte(`{"alg":"ES256","typ":"JWT"}`), []byte(`{"iss":"`+issuer+`","sub":"system:serviceaccount:ns:robot",`+claims+`}`), how)
			}
		}
	}
	f.Add([]byte(`{"alg":"none"}`), []byte(`{"iss":"`+issuerURL+`"}`), uint8(0))
	f.Add([]byte(`{"alg":"ES256","crit":["b64"],"b64":false,"kid":"x","jwk":{},"x5c":["MA=="]}`), []byte(`{"iss":"`+issuerURL+`"}`), uint8(0))
	enc := base64.RawURLEncoding.EncodeToString
	f.Fuzz(func(t *testing.T, header, payload []byte, how uint8) {
		by := key
		if how%3 == 1 {
			by = other
		}
		text := enc(header) + "." + enc(payload)
		sum := sha256.Sum256([]byte(text))
		r, s, err := ecdsa.Sign(rand.Reader, by, sum[:])
		if err != nil {
			t.Fatal(err)
		}
		signature := append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
		if how%3 == 2 {
			signature[0] ^= 1
		}
		token := text + "." + enc(signature)
		bounded.Work(t, len(token), func() {
			for range 2 { // the second answer comes from what is remembered
				a, ok, err := x.accounts.AuthenticateToken(context.Background(), token)
				if !ok {
					continue
				}
				u := a.User
				if how%3 != 0 {
					t.Fatalf("accepted though it is not ours: %s %s", header, payload)
				}
				if err != nil || u.GetName() != "system:serviceaccount:ns:robot" || u.GetUID() != "su" || !bytes.Contains(payload, []byte("robot")) ||
					!slices.Equal(u.GetGroups(), []string{"system:serviceaccounts", "system:serviceaccounts:ns", "system:authenticated"}) || !slices.Contains(a.Audiences, issuerURL) {
					t.Fatalf("%s is let in as %+v of %v, %v", payload, u, a.Audiences, err)
				}
				if pod := u.GetExtra()["authentication.kubernetes.io/pod-uid"]; len(pod) > 0 && fmt.Sprint(pod) != "[pu]" {
					t.Fatalf("bound to a pod that is not there: %v", pod)
				}
			}
		})
		x.set.Kubernetes.(*fake.Clientset).ClearActions()
	})
}
