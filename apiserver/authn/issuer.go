package authn

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/uuid"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/warning"
)

// Bounds of TokenRequest's expirationSeconds, and the value that client libraries of the time before bound tokens are
// forgiven: a pod's token requested for exactly warnOnlySeconds lives extendedSeconds, and its use after the requested
// time is only noted (KEP-1205, "warnafter").
const (
	minExpirationSeconds     = 10 * 60
	maxExpirationSeconds     = 1 << 32
	defaultExpirationSeconds = 60 * 60
	warnOnlySeconds          = 60*60 + 7
	extendedSeconds          = 365 * 24 * 60 * 60
)

// Issuer signs tokens of service accounts. Safe for concurrent use.
type Issuer struct {
	url       string
	audiences []string
	lookup    *Lookup
	max       int64 // seconds; 0: no bound
	extend    bool
	now       func() time.Time
	signer    jose.Signer
}

// IssuerConfig says who signs.
type IssuerConfig struct {
	// URL is the "iss" claim, such as https://kubernetes.default.svc.cluster.local.
	URL string
	// Audiences are those of a request that names none: the API server's own.
	Audiences []string
	// Key signs: an ECDSA or RSA private key.
	Key crypto.Signer
	// Lookup finds accounts and what tokens are to be bound to.
	Lookup *Lookup
	// MaxExpiration bounds the life of tokens; 0: 2^32 seconds. It does not bound the extension of pods' own tokens.
	MaxExpiration time.Duration
	// NoExtension lets pods' own tokens end when they were asked to.
	NoExtension bool
	// Now is the clock; default time.Now.
	Now func() time.Time
}

// NewIssuer returns an issuer.
func NewIssuer(c IssuerConfig) (*Issuer, error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.URL == "" || c.Key == nil || c.Lookup == nil {
		return nil, errors.New("issue service-account tokens: URL, key and lookup are needed")
	}
	public, err := newPublicKey(c.Key.Public())
	if err != nil {
		return nil, err
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: public.Algorithm, Key: jose.JSONWebKey{Key: c.Key, KeyID: public.ID}}, nil)
	if err != nil {
		return nil, fmt.Errorf("issue service-account tokens: %w", err)
	}
	return &Issuer{url: c.URL, audiences: c.Audiences, lookup: c.Lookup, max: int64(c.MaxExpiration / time.Second), extend: !c.NoExtension, now: c.Now, signer: signer}, nil
}

var tokenRequestKind = authenticationv1.SchemeGroupVersion.WithKind("TokenRequest")

// Issue answers POST serviceaccounts/<name>/token. request is the caller's, and left alone; the answer is a new object.
// Errors are API errors.
func (i *Issuer) Issue(ctx context.Context, namespace, name string, request *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
	r := request.DeepCopy()
	meta := field.NewPath("metadata")
	if r.Name != "" && r.Name != name {
		return nil, apierrors.NewInvalid(tokenRequestKind.GroupKind(), name, field.ErrorList{
			field.Invalid(meta.Child("name"), r.Name, "must match the service account name if specified")})
	}
	if r.Namespace != "" && r.Namespace != namespace {
		return nil, apierrors.NewInvalid(tokenRequestKind.GroupKind(), name, field.ErrorList{
			field.Invalid(meta.Child("namespace"), r.Namespace, "must match the service account namespace if specified")})
	}
	account, err := i.lookup.account(ctx, namespace, name, func(*corev1.ServiceAccount) error { return nil })
	if err != nil {
		return nil, err
	}
	if r.UID != "" && r.UID != account.UID {
		return nil, apierrors.NewConflict(schema.GroupResource{Group: tokenRequestKind.Group, Resource: tokenRequestKind.Kind}, name,
			fmt.Errorf("the UID in the token request (%s) does not match the UID of the service account (%s)", r.UID, account.UID))
	}
	if len(r.Spec.Audiences) == 0 {
		r.Spec.Audiences = append([]string(nil), i.audiences...)
	}
	if r.Spec.ExpirationSeconds == nil {
		r.Spec.ExpirationSeconds = new(int64(defaultExpirationSeconds))
	}
	now := i.now()
	r.Name, r.Namespace, r.UID = account.Name, account.Namespace, account.UID
	r.CreationTimestamp = metav1.NewTime(now)
	if errs := validateTokenRequest(r); len(errs) > 0 {
		return nil, apierrors.NewInvalid(tokenRequestKind.GroupKind(), "", errs)
	}
	bound := boundClaims{Namespace: namespace, ServiceAccount: reference{Name: account.Name, UID: string(account.UID)}}
	if ref := r.Spec.BoundObjectRef; ref != nil {
		if err := i.bind(ctx, namespace, name, ref, &bound); err != nil {
			return nil, err
		}
	}
	seconds := *r.Spec.ExpirationSeconds
	if i.max > 0 && seconds > i.max {
		warning.AddWarning(ctx, "", fmt.Sprintf("requested expiration of %d seconds shortened to %d seconds", seconds, i.max))
		seconds = i.max
		r.Spec.ExpirationSeconds = new(i.max)
	}
	if i.extend && seconds == warnOnlySeconds && bound.Pod != nil && i.forUs(r.Spec.Audiences) {
		bound.WarnAfter = jwt.NewNumericDate(now.Add(time.Duration(seconds) * time.Second))
		seconds = extendedSeconds
	}
	id := uuid.NewString()
	token, err := jwt.Signed(i.signer).Claims(claims{
		Claims: jwt.Claims{
			Issuer: i.url, Subject: serviceaccount.MakeUsername(namespace, name), ID: id,
			IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now), Expiry: jwt.NewNumericDate(now.Add(time.Duration(seconds) * time.Second)),
		},
		Audiences:  r.Spec.Audiences,
		Kubernetes: &bound,
	}).Serialize()
	if err != nil {
		return nil, apierrors.NewInternalError(fmt.Errorf("failed to generate token: %w", err))
	}
	r.Status = authenticationv1.TokenRequestStatus{
		Token:               token,
		ExpirationTimestamp: metav1.NewTime(now.Add(time.Duration(*r.Spec.ExpirationSeconds) * time.Second)),
	}
	audit.AddAuditAnnotation(ctx, serviceaccount.IssuedCredentialIDAuditAnnotationKey, "JTI="+id)
	return r, nil
}

// Legacy signs the token of a Secret of type kubernetes.io/service-account-token. It does not expire; it is valid for
// as long as that Secret holds it.
func (i *Issuer) Legacy(account *corev1.ServiceAccount, secretName string) (string, error) {
	return jwt.Signed(i.signer).Claims(claims{
		Claims: jwt.Claims{Issuer: legacyIssuer, Subject: serviceaccount.MakeUsername(account.Namespace, account.Name)},
		legacyClaims: legacyClaims{
			Namespace: account.Namespace, SecretName: secretName, Name: account.Name, UID: string(account.UID)},
	}).Serialize()
}

// forUs says whether the token is for the API server and nobody else.
func (i *Issuer) forUs(audiences []string) bool {
	for _, audience := range audiences {
		ours := false
		for _, own := range i.audiences {
			ours = ours || own == audience
		}
		if !ours {
			return false
		}
	}
	return true
}

// bind fills in what the token is bound to.
func (i *Issuer) bind(ctx context.Context, namespace, account string, ref *authenticationv1.BoundObjectReference, bound *boundClaims) error {
	kind := schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind)
	var uid types.UID
	switch {
	case kind.Group == "" && kind.Kind == "Pod":
		pod, err := i.lookup.pod(ctx, namespace, ref.Name, func(pod *corev1.Pod) error {
			if pod.Spec.ServiceAccountName != account {
				return apierrors.NewBadRequest(fmt.Sprintf("cannot bind token for serviceaccount %q to pod running with different serviceaccount name.", account))
			}
			if ref.UID != "" && pod.UID != ref.UID {
				return i.stale(kind, ref)
			}
			return nil
		})
		if err != nil {
			return err
		}
		uid = pod.UID
		bound.Pod = &reference{Name: pod.Name, UID: string(pod.UID)}
		if pod.Spec.NodeName != "" {
			bound.Node = &reference{Name: pod.Spec.NodeName}
			node, err := i.lookup.node(ctx, pod.Spec.NodeName, func(*corev1.Node) error { return nil })
			if err != nil && !apierrors.IsNotFound(err) {
				return apierrors.NewInternalError(err)
			}
			if err == nil {
				bound.Node.UID = string(node.UID)
			}
		}
	case kind.Group == "" && kind.Kind == "Node":
		node, err := i.lookup.node(ctx, ref.Name, func(node *corev1.Node) error {
			if ref.UID != "" && node.UID != ref.UID {
				return i.stale(kind, ref)
			}
			return nil
		})
		if err != nil {
			return err
		}
		uid = node.UID
		bound.Node = &reference{Name: node.Name, UID: string(node.UID)}
	case kind.Group == "" && kind.Kind == "Secret":
		secret, err := i.lookup.secret(ctx, namespace, ref.Name, func(secret *corev1.Secret) error {
			if ref.UID != "" && secret.UID != ref.UID {
				return i.stale(kind, ref)
			}
			return nil
		})
		if err != nil {
			return err
		}
		uid = secret.UID
		bound.Secret = &reference{Name: secret.Name, UID: string(secret.UID)}
	default:
		return apierrors.NewBadRequest(fmt.Sprintf("cannot bind token to object of type %s", kind.String()))
	}
	if ref.UID != "" && ref.UID != uid {
		return i.stale(kind, ref)
	}
	return nil
}

func (i *Issuer) stale(kind schema.GroupVersionKind, ref *authenticationv1.BoundObjectReference) error {
	return apierrors.NewConflict(schema.GroupResource{Group: kind.Group, Resource: kind.Kind}, ref.Name,
		fmt.Errorf("the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", ref.UID))
}

func validateTokenRequest(r *authenticationv1.TokenRequest) field.ErrorList {
	var errs field.ErrorList
	expiration := field.NewPath("spec").Child("expirationSeconds")
	switch seconds := *r.Spec.ExpirationSeconds; {
	case seconds < minExpirationSeconds:
		errs = append(errs, field.Invalid(expiration, seconds, "may not specify a duration less than 10 minutes"))
	case seconds > maxExpirationSeconds:
		errs = append(errs, field.Invalid(expiration, seconds, "may not specify a duration larger than 2^32 seconds"))
	}
	return errs
}
