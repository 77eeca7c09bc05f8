package security

import (
	"context"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"wherry.dev/wherry/cluster"
)

// recommended is a policy after the like of that in upstream's documentation: what holds secrets at Metadata, all else whole.
const recommended = `
apiVersion: audit.k8s.io/v1
kind: Policy
rules:
- level: Metadata
  resources:
  - {group: "", resources: [secrets, configmaps, serviceaccounts/token]}
  - {group: authentication.k8s.io, resources: [tokenreviews]}
- level: RequestResponse
`

// Nothing that a busy server writes down, logs at debug level and audit alike, holds a secret that it was told or has made.
func TestNoSecretIsWrittenDown(t *testing.T) {
	dir := t.TempDir()
	policy, log := filepath.Join(dir, "policy.yaml"), filepath.Join(dir, "audit.log")
	if err := os.WriteFile(policy, []byte(recommended), 0o600); err != nil {
		t.Fatal(err)
	}
	w := start(t, func(s *cluster.Server) {
		s.Identity = cluster.DefaultIdentity()
		s.Identity.Audit.PolicyFile, s.Identity.Audit.Log.Path = policy, log
	})
	ctx := t.Context()
	w.account(t, "leaks", "robot")
	const word = "corpus delicti 0451"
	told := map[string]string{ // what must not be found, by what it is
		"a secret's value":            word,
		"a secret's value in base64":  base64.StdEncoding.EncodeToString([]byte(word)),
		"the join token":              w.token,
		"the join token's secret":     strings.SplitN(w.token, ".", 2)[1],
		"a token":                     w.issue(t, "leaks", "robot", authenticationv1.TokenRequestSpec{}),
		"a token for somebody else":   w.issue(t, "leaks", "robot", authenticationv1.TokenRequestSpec{Audiences: []string{"vault"}}),
		"the administrator's key":     keyText(t, w.keys.Pairs().Admin.KeyPEM),
		"the authority's key":         keyText(t, readFile(t, filepath.Join(w.keys.Dir(), "ca.key"))),
		"a wrong token":               "wrong-token-of-somebody",
		"a password":                  base64.StdEncoding.EncodeToString([]byte("user:password-of-somebody")),
		"a WebSocket's token":         base64.RawURLEncoding.EncodeToString([]byte("token-in-a-protocol")),
		"a token given to be checked": "token-to-be-reviewed",
	}
	for what, token := range map[string]string{"a token": told["a token"], "a token for somebody else": told["a token for somebody else"]} {
		told[what+"'s signature"] = token[strings.LastIndexByte(token, '.')+1:]
	}
	// Every way in which a secret comes by.
	secrets := w.admin.CoreV1().Secrets("leaks")
	s, err := secrets.Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}, StringData: map[string]string{"k": word}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	watching, cancel := context.WithCancel(ctx)
	defer cancel()
	events, err := secrets.Watch(watching, metav1.ListOptions{ResourceVersion: s.ResourceVersion})
	if err != nil {
		t.Fatal(err)
	}
	patch := fmt.Sprintf(`{"stringData":{"other":%q}}`, word)
	for _, kind := range []types.PatchType{types.MergePatchType, types.StrategicMergePatchType} {
		if _, err := secrets.Patch(ctx, "s", kind, []byte(patch), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := secrets.Patch(ctx, "s", types.ApplyPatchType, []byte(`{"apiVersion":"v1","kind":"Secret","stringData":{"applied":"`+word+`"}}`), metav1.PatchOptions{FieldManager: "m"}); err != nil {
		t.Fatal(err)
	}
	if e, ok := <-events.ResultChan(); !ok || e.Type != watch.Modified {
		t.Fatalf("%+v", e)
	}
	for _, wrong := range []string{`{"stringData":{"bad key!":"` + word + `"}}`, `{"stringData":"` + word + `"}`, `{"stringData":{"k":"` + word} { // refused, each for its reason
		if _, err := secrets.Patch(ctx, "s", types.MergePatchType, []byte(wrong), metav1.PatchOptions{}); err == nil {
			t.Errorf("%s was taken", wrong)
		}
	}
	if _, err := secrets.Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "not a name"}, StringData: map[string]string{"k": word}}, metav1.CreateOptions{}); err == nil {
		t.Error("a wrong name")
	}
	if _, err := secrets.List(ctx, metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.admin.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: told["a token given to be checked"]}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.admin.CoreV1().Secrets("kube-system").List(ctx, metav1.ListOptions{}); err != nil { // join tokens among them
		t.Fatal(err)
	}
	routes := w.routes(t)
	basic := &credential{name: "a password", headers: http.Header{"Authorization": {"Basic " + told["a password"]}}}
	protocol := &credential{name: "a protocol", headers: http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Protocol": {"v5.channel.k8s.io, base64url.bearer.authorization.k8s.io." + told["a WebSocket's token"]}}}
	for _, c := range []*credential{withToken("a token", told["a token"]), withToken("a token for somebody else", told["a token for somebody else"]), withToken("a wrong token", told["a wrong token"]),
		withToken("the join token", w.token), basic, protocol} {
		k := w.caller(t, c)
		for _, i := range rand.Perm(len(routes))[:100] {
			if _, _, err := k.send(ctx, routes[i]); err != nil && c != protocol && !errors.Is(err, context.Canceled) {
				t.Fatal(c.name, err)
			}
		}
	}
	audited, logged := string(readFile(t, log)), w.log.String()
	if !strings.Contains(audited, `"resource":"secrets"`) || !strings.Contains(audited, "Authentication failed, attempted: bearer") || !strings.Contains(logged, "authentication failed") {
		t.Error("the server wrote down too little for this test to find anything")
	}
	for what, secret := range told {
		if len(secret) < 8 {
			t.Fatalf("%s is too short to be looked for", what)
		}
		for where, text := range map[string]string{"the log": logged, "the audit log": audited} {
			if i := strings.Index(text, secret); i >= 0 {
				t.Errorf("%s is in %s: …%s…", what, where, text[max(0, i-200):min(len(text), i+len(secret)+50)])
			}
		}
	}
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// keyText is a line of a private key as its file has it.
func keyText(t *testing.T, file []byte) string {
	t.Helper()
	block, _ := pem.Decode(file)
	if block == nil {
		t.Fatal("no key")
	}
	return base64.StdEncoding.EncodeToString(block.Bytes)[:48]
}
