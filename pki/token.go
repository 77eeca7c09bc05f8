package pki

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Names of the bootstrap token format (https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/).
const (
	BootstrapTokenNamespace    = "kube-system"
	BootstrapTokenSecretPrefix = "bootstrap-token-"
	BootstrapTokenSecretType   = corev1.SecretType("bootstrap.kubernetes.io/token")
	BootstrapUserPrefix        = "system:bootstrap:"
	BootstrapGroup             = "system:bootstrappers"
	// BootstrapNodeGroup is the group of join tokens: whoever is in it may ask for a node's client certificate.
	BootstrapNodeGroup = "system:bootstrappers:wherry:default-node-token"

	BootstrapTokenIDKey             = "token-id"
	BootstrapTokenSecretKey         = "token-secret"
	BootstrapTokenExpirationKey     = "expiration"
	BootstrapTokenDescriptionKey    = "description"
	BootstrapTokenExtraGroupsKey    = "auth-extra-groups"
	BootstrapTokenAuthenticationKey = "usage-bootstrap-authentication"
	BootstrapTokenSigningKey        = "usage-bootstrap-signing"
)

var bootstrapToken = regexp.MustCompile(`^([a-z0-9]{6})\.([a-z0-9]{16})$`)

// ParseBootstrapToken splits a token <id>.<secret>; ok says whether it has that form.
func ParseBootstrapToken(token string) (id, secret string, ok bool) {
	if m := bootstrapToken.FindStringSubmatch(token); m != nil {
		return m[1], m[2], true
	}
	return "", "", false
}

// NewBootstrapToken returns a random token <id>.<secret>.
func NewBootstrapToken() string {
	const alphabet = "abcdefghijklmnopqrstuvwxyz0123456789"
	out := make([]byte, 0, 22)
	var b [1]byte
	for len(out) < 22 {
		_, _ = rand.Read(b[:])                  // never fails
		if int(b[0]) >= 256-256%len(alphabet) { // else the first letters would be likelier
			continue
		}
		out = append(out, alphabet[int(b[0])%len(alphabet)])
	}
	return string(out[:6]) + "." + string(out[6:])
}

// BootstrapTokenSecret returns the Secret that makes a join token valid for ttl (0: for ever): for authentication and
// for signing the cluster-info that joining nodes read. token must be of the right form.
func BootstrapTokenSecret(token, description string, now time.Time, ttl time.Duration) (*corev1.Secret, error) {
	id, secret, ok := ParseBootstrapToken(token)
	if !ok {
		return nil, fmt.Errorf("join token must look like abcdef.0123456789abcdef (six, a dot, sixteen of a-z and 0-9)")
	}
	data := map[string][]byte{
		BootstrapTokenIDKey:             []byte(id),
		BootstrapTokenSecretKey:         []byte(secret),
		BootstrapTokenExtraGroupsKey:    []byte(BootstrapNodeGroup),
		BootstrapTokenAuthenticationKey: []byte("true"),
		BootstrapTokenSigningKey:        []byte("true"),
	}
	if description != "" {
		data[BootstrapTokenDescriptionKey] = []byte(description)
	}
	if ttl > 0 {
		data[BootstrapTokenExpirationKey] = []byte(now.Add(ttl).UTC().Format(time.RFC3339))
	}
	return &corev1.Secret{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
		ObjectMeta: metav1.ObjectMeta{Namespace: BootstrapTokenNamespace, Name: BootstrapTokenSecretPrefix + id},
		Type:       BootstrapTokenSecretType,
		Data:       data,
	}, nil
}

// CAPin returns the pin of an authority, "sha256:<hex of its SubjectPublicKeyInfo>", as kubeadm's
// --discovery-token-ca-cert-hash has it.
func CAPin(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// MatchesPin says whether the authority has one of the pins.
func MatchesPin(cert *x509.Certificate, pins []string) bool {
	have := []byte(CAPin(cert))
	for _, pin := range pins {
		if subtle.ConstantTimeCompare(have, []byte(strings.ToLower(strings.TrimSpace(pin)))) == 1 {
			return true
		}
	}
	return false
}
