package authn

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
)

// legacyIssuer is the issuer of tokens that live in Secrets of type kubernetes.io/service-account-token.
const legacyIssuer = "kubernetes/serviceaccount"

// ServiceAccounts verifies tokens of service accounts: those of TokenRequest, bound to a pod, secret or node
// (KEP-1205, KEP-4193), and those of Secrets. Safe for concurrent use.
type ServiceAccounts struct {
	issuers   []string
	audiences authenticator.Audiences
	keys      []PublicKey
	keysURL   string
	lookup    *Lookup
	now       func() time.Time
	cache     *cache[*verifiedToken]
}

// ServiceAccountConfig says which tokens are accepted.
type ServiceAccountConfig struct {
	// Issuers are the accepted values of "iss"; the first one is that of the Issuer.
	Issuers []string
	// Audiences are the API server's own; a token for none of them is refused.
	Audiences []string
	// Keys verify signatures: *ecdsa.PublicKey or *rsa.PublicKey.
	Keys []crypto.PublicKey
	// KeysURL is where discovery says that the keys are; empty: where this server serves them.
	KeysURL string
	// Lookup finds what tokens are bound to.
	Lookup *Lookup
	// Now is the clock; default time.Now.
	Now func() time.Time
}

// PublicKey is a verification key and the "kid" of tokens it signed: the unpadded base64url SHA-256 of its DER.
type PublicKey struct {
	ID        string
	Algorithm jose.SignatureAlgorithm
	Key       crypto.PublicKey
}

// NewServiceAccounts returns a verifier.
func NewServiceAccounts(c ServiceAccountConfig) (*ServiceAccounts, error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	if len(c.Issuers) == 0 || len(c.Keys) == 0 || c.Lookup == nil {
		return nil, errors.New("verify service-account tokens: issuers, keys and lookup are needed")
	}
	s := &ServiceAccounts{issuers: c.Issuers, audiences: c.Audiences, keysURL: c.KeysURL, lookup: c.Lookup, now: c.Now, cache: newCache[*verifiedToken](32 << 10)}
	for _, key := range c.Keys {
		public, err := newPublicKey(key)
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(s.keys, func(k PublicKey) bool { return k.ID == public.ID }) {
			s.keys = append(s.keys, public)
		}
	}
	return s, nil
}

func newPublicKey(key crypto.PublicKey) (PublicKey, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return PublicKey{}, fmt.Errorf("service-account key: %w", err)
	}
	sum := sha256.Sum256(der)
	public := PublicKey{ID: base64.RawURLEncoding.EncodeToString(sum[:]), Key: key}
	switch key := key.(type) {
	case *rsa.PublicKey:
		public.Algorithm = jose.RS256
	case *ecdsa.PublicKey:
		switch key.Curve.Params().BitSize {
		case 256:
			public.Algorithm = jose.ES256
		case 384:
			public.Algorithm = jose.ES384
		case 521:
			public.Algorithm = jose.ES512
		}
	}
	if public.Algorithm == "" {
		return PublicKey{}, fmt.Errorf("service-account key: unsupported type %T", key)
	}
	return public, nil
}

// reference names one object a token is bound to.
type reference struct {
	Name string `json:"name,omitempty"`
	UID  string `json:"uid,omitempty"`
}

// claims are the payload of a token, as upstream lays it out.
type claims struct {
	jwt.Claims
	// Audiences stands for the embedded claims' Audience, which would be written as a string when it is one.
	Audiences  audiences    `json:"aud,omitempty"`
	Kubernetes *boundClaims `json:"kubernetes.io,omitempty"`
	// The flat claims of tokens that live in Secrets.
	legacyClaims
}

// audiences is a list also when it has one element, as upstream writes it; it reads both forms.
type audiences []string

// UnmarshalJSON implements json.Unmarshaler.
func (a *audiences) UnmarshalJSON(data []byte) error {
	return (*jwt.Audience)(a).UnmarshalJSON(data)
}

type boundClaims struct {
	Namespace      string           `json:"namespace,omitempty"`
	Node           *reference       `json:"node,omitempty"`
	Pod            *reference       `json:"pod,omitempty"`
	Secret         *reference       `json:"secret,omitempty"`
	ServiceAccount reference        `json:"serviceaccount"`
	WarnAfter      *jwt.NumericDate `json:"warnafter,omitempty"`
}

type legacyClaims struct {
	Namespace  string `json:"kubernetes.io/serviceaccount/namespace,omitempty"`
	SecretName string `json:"kubernetes.io/serviceaccount/secret.name,omitempty"`
	Name       string `json:"kubernetes.io/serviceaccount/service-account.name,omitempty"`
	UID        string `json:"kubernetes.io/serviceaccount/service-account.uid,omitempty"`
}

// verifiedToken is a token whose signature and issuer are right. Immutable.
type verifiedToken struct {
	claims claims
	// own is the answer to a request for the API server's own audiences; nil when the token is not for them.
	own  *authenticator.Response
	info user.Info
}

// AuthenticateToken implements authenticator.Token. Tokens of other issuers are left to other authenticators.
func (s *ServiceAccounts) AuthenticateToken(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	key := digest(sha256.Sum256([]byte(token)))
	v, cached := s.cache.get(key)
	if !cached {
		var err error
		if v, err = s.verify(token); v == nil || err != nil {
			return nil, false, err
		}
		s.cache.put(key, v)
	}
	if err := s.check(ctx, v, token); err != nil {
		if errors.Is(err, errExpired) {
			s.cache.drop(key)
		}
		return nil, false, err
	}
	requested, ok := authenticator.AudiencesFrom(ctx)
	if !ok && v.own != nil {
		return v.own, true, nil
	}
	if !ok {
		requested = s.audiences
	}
	has := s.audiencesOf(v)
	accepted := has.Intersect(requested)
	if len(accepted) == 0 && len(s.audiences) > 0 {
		return nil, false, fmt.Errorf("token audiences %q is invalid for the target audiences %q", []string(has), []string(requested))
	}
	return &authenticator.Response{User: v.info, Audiences: accepted}, true, nil
}

// audiencesOf returns the token's audiences; tokens of Secrets have none of their own and are for the API server.
func (s *ServiceAccounts) audiencesOf(v *verifiedToken) authenticator.Audiences {
	if len(v.claims.Audiences) == 0 {
		return s.audiences
	}
	return authenticator.Audiences(v.claims.Audiences)
}

// verify checks form, issuer and signature. Nil without an error: not a token of ours.
func (s *ServiceAccounts) verify(token string) (*verifiedToken, error) {
	issuer, ok := issuerOf(token)
	if !ok || issuer != legacyIssuer && !slices.Contains(s.issuers, issuer) {
		return nil, nil
	}
	algorithms := make([]jose.SignatureAlgorithm, 0, len(s.keys))
	for _, key := range s.keys {
		algorithms = append(algorithms, key.Algorithm)
	}
	parsed, err := jwt.ParseSigned(token, algorithms)
	if err != nil {
		return nil, nil
	}
	var c claims
	if err := s.signature(parsed, &c); err != nil {
		return nil, err
	}
	if c.Issuer != issuer { // the payload that was looked at first must be the signed one
		return nil, fmt.Errorf("token issuer %q is invalid", c.Issuer)
	}
	if c.Kubernetes == nil {
		c.Kubernetes = &boundClaims{}
	}
	v := &verifiedToken{claims: c}
	info := serviceaccount.ServiceAccountInfo{Namespace: c.Kubernetes.Namespace, Name: c.Kubernetes.ServiceAccount.Name, UID: c.Kubernetes.ServiceAccount.UID}
	switch {
	case issuer == legacyIssuer:
		info = serviceaccount.ServiceAccountInfo{Namespace: c.legacyClaims.Namespace, Name: c.legacyClaims.Name, UID: c.legacyClaims.UID}
	case c.ID != "":
		info.CredentialID = "JTI=" + c.ID
	}
	if c.Subject != serviceaccount.MakeUsername(info.Namespace, info.Name) || info.Namespace == "" || info.Name == "" {
		return nil, errors.New("sub claim does not match the service account of the token")
	}
	if pod := c.Kubernetes.Pod; pod != nil {
		info.PodName, info.PodUID = pod.Name, pod.UID
	}
	if node := c.Kubernetes.Node; node != nil {
		info.NodeName, info.NodeUID = node.Name, node.UID
	}
	who := info.UserInfo().(*user.DefaultInfo)
	who.Groups = append(who.Groups, user.AllAuthenticated)
	v.info = who
	if accepted := s.audiencesOf(v).Intersect(s.audiences); len(accepted) > 0 {
		v.own = &authenticator.Response{User: v.info, Audiences: accepted}
	}
	return v, nil
}

// signature tries the key that the token names or, when it names none, every key.
func (s *ServiceAccounts) signature(token *jwt.JSONWebToken, c *claims) error {
	id := ""
	for _, header := range token.Headers {
		if header.KeyID != "" {
			id = header.KeyID
			break
		}
	}
	failure := errors.New("invalid signature, no keys found")
	for _, key := range s.keys {
		if id != "" && key.ID != id {
			continue
		}
		var candidate claims
		if err := token.Claims(key.Key, &candidate); err != nil {
			failure = err
			continue
		}
		*c = candidate
		return nil
	}
	return failure
}

// issuerOf reads the issuer of a token whose signature nobody has checked yet.
func issuerOf(token string) (string, bool) {
	if strings.HasPrefix(strings.TrimSpace(token), "{") {
		return "", false // JWS in JSON form is not accepted
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return "", false
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return "", false
	}
	var c struct {
		Issuer string `json:"iss"`
	}
	if json.Unmarshal(payload, &c) != nil {
		return "", false
	}
	return c.Issuer, true
}

var (
	errExpired     = errors.New("service account token has expired")
	errInvalidated = errors.New("service account token has been invalidated")
)

// leeway is how far clocks may be apart, and how long what is being deleted still counts.
const leeway = jwt.DefaultLeeway

// check looks at what may change after a signature was verified: the time, and whether what the token is bound to still exists.
func (s *ServiceAccounts) check(ctx context.Context, v *verifiedToken, token string) error {
	now := s.now()
	c := &v.claims
	switch {
	case c.NotBefore != nil && now.Add(leeway).Before(c.NotBefore.Time()):
		return errors.New("service account token is not valid yet")
	case c.Expiry != nil && now.Add(-leeway).After(c.Expiry.Time()):
		return errExpired
	case c.IssuedAt != nil && now.Add(leeway).Before(c.IssuedAt.Time()):
		return errors.New("service account token is issued in the future")
	}
	deleted := func(meta *metav1.ObjectMeta) bool {
		return meta.DeletionTimestamp != nil && meta.DeletionTimestamp.Time.Before(now.Add(-leeway))
	}
	if c.Issuer == legacyIssuer {
		return s.checkLegacy(ctx, c, token, deleted)
	}
	namespace, account := c.Kubernetes.Namespace, c.Kubernetes.ServiceAccount
	if _, err := s.lookup.account(ctx, namespace, account.Name, func(sa *corev1.ServiceAccount) error {
		switch {
		case string(sa.UID) != account.UID:
			return fmt.Errorf("service account UID (%s) does not match claim (%s)", sa.UID, account.UID)
		case deleted(&sa.ObjectMeta):
			return fmt.Errorf("service account %s/%s has been deleted", namespace, account.Name)
		}
		return nil
	}); err != nil {
		return err
	}
	// bound says whether the object is still the one that the token names.
	bound := func(kind string, meta *metav1.ObjectMeta, ref *reference) error {
		switch {
		case string(meta.UID) != ref.UID:
			return mismatch{fmt.Sprintf("%s UID (%s) does not match service account %s ref claim (%s)", kind, meta.UID, strings.ToLower(kind), ref.UID)}
		case deleted(meta):
			return errInvalidated
		}
		return nil
	}
	if ref := c.Kubernetes.Secret; ref != nil {
		_, err := s.lookup.secret(ctx, namespace, ref.Name, func(o *corev1.Secret) error { return bound("secret", &o.ObjectMeta, ref) })
		if err != nil {
			return invalidated(err)
		}
	}
	if ref := c.Kubernetes.Pod; ref != nil {
		_, err := s.lookup.pod(ctx, namespace, ref.Name, func(o *corev1.Pod) error { return bound("pod", &o.ObjectMeta, ref) })
		if err != nil {
			return invalidated(err)
		}
	} else if ref := c.Kubernetes.Node; ref != nil { // of a pod's token the node is information, not a bond
		_, err := s.lookup.node(ctx, ref.Name, func(o *corev1.Node) error { return bound("node", &o.ObjectMeta, ref) })
		if err != nil {
			return invalidated(err)
		}
	}
	return nil
}

// mismatch is a failure that may be told to the client in detail.
type mismatch struct{ text string }

func (m mismatch) Error() string { return m.text }

// invalidated hides from the client why a bound object was not found.
func invalidated(err error) error {
	var m mismatch
	if errors.As(err, &m) {
		return err
	}
	return errInvalidated
}

// checkLegacy checks a token that lives in a Secret: it must still be there, byte for byte.
func (s *ServiceAccounts) checkLegacy(ctx context.Context, c *claims, token string, deleted func(*metav1.ObjectMeta) bool) error {
	l := &c.legacyClaims
	if l.SecretName == "" || l.UID == "" {
		return errors.New("secret.name or service-account.uid claim is missing")
	}
	secret, err := s.lookup.secret(ctx, l.Namespace, l.SecretName, func(o *corev1.Secret) error {
		if deleted(&o.ObjectMeta) || subtle.ConstantTimeCompare(o.Data[corev1.ServiceAccountTokenKey], []byte(token)) != 1 {
			return errInvalidated
		}
		return nil
	})
	if err != nil {
		return errInvalidated
	}
	if _, err := s.lookup.account(ctx, l.Namespace, l.Name, func(sa *corev1.ServiceAccount) error {
		switch {
		case string(sa.UID) != l.UID:
			return fmt.Errorf("ServiceAccount UID (%s) does not match claim (%s)", sa.UID, l.UID)
		case deleted(&sa.ObjectMeta):
			return fmt.Errorf("ServiceAccount %s/%s has been deleted", l.Namespace, l.Name)
		}
		return nil
	}); err != nil {
		return err
	}
	if err := checkMarked(secret, l.Name); err != nil {
		return err
	}
	s.lookup.markUsed(ctx, secret, s.now())
	return nil
}
