package server

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/client-go/kubernetes"
)

// How long answers of the API server are believed: upstream's defaults.
const (
	tokenTTL   = 2 * time.Minute
	allowedTTL = 5 * time.Minute
	deniedTTL  = 30 * time.Second
	mostCached = 1024
)

// auth finds out who asks and whether they may. Answers are cached, bounded in number and time.
type auth struct {
	api      kubernetes.Interface
	node     string
	clientCA *x509.CertPool
	tokens   *cache.LRUExpireCache // SHA-256 of the token (never the token itself) → *authenticationv1.UserInfo, nil for a bad one
	access   *cache.LRUExpireCache // user and attributes → bool
}

func newAuth(api kubernetes.Interface, node string, clientCA *x509.CertPool) *auth {
	return &auth{api: api, node: node, clientCA: clientCA,
		tokens: cache.NewLRUExpireCache(mostCached), access: cache.NewLRUExpireCache(mostCached)}
}

var errNobody = errors.New("neither a client certificate nor a bearer token")

// authenticate says who asks: by client certificate (common name and organizations), else by bearer token.
func (a *auth) authenticate(r *http.Request) (*authenticationv1.UserInfo, error) {
	var why error = errNobody
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 && a.clientCA != nil {
		leaf := r.TLS.PeerCertificates[0]
		between := x509.NewCertPool()
		for _, c := range r.TLS.PeerCertificates[1:] {
			between.AddCert(c)
		}
		_, err := leaf.Verify(x509.VerifyOptions{Roots: a.clientCA, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
		switch {
		case err != nil:
			why = fmt.Errorf("verify client certificate: %w", err)
		case leaf.Subject.CommonName == "":
			why = errors.New("client certificate without a common name")
		default:
			return &authenticationv1.UserInfo{Username: leaf.Subject.CommonName, Groups: append(slices.Clone(leaf.Subject.Organization), "system:authenticated")}, nil
		}
	}
	kind, token, _ := strings.Cut(strings.TrimSpace(r.Header.Get("Authorization")), " ")
	token = strings.TrimSpace(token)
	if !strings.EqualFold(kind, "bearer") || token == "" {
		return nil, why
	}
	sum := sha256.Sum256([]byte(token))
	if known, ok := a.tokens.Get(sum); ok {
		if user := known.(*authenticationv1.UserInfo); user != nil {
			return user, nil
		}
		return nil, errors.New("bearer token not accepted")
	}
	review, err := a.api.AuthenticationV1().TokenReviews().Create(r.Context(),
		&authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("review token: %w", err)
	}
	if !review.Status.Authenticated {
		a.tokens.Add(sum, (*authenticationv1.UserInfo)(nil), deniedTTL)
		return nil, errors.New("bearer token not accepted")
	}
	user := review.Status.User
	a.tokens.Add(sum, &user, tokenTTL)
	return &user, nil
}

// asked is what a request comes to in terms of access: a verb on subresources of this node, any of which will do.
type asked struct {
	verb         string
	subresources []string
}

func (a asked) list() string { return strings.Join(a.subresources, " ") }

// attributes are those of upstream's kubelet (KEP-2862): the fine-grained subresource first, nodes/proxy for whoever
// may do everything. One thing is stricter: what runs a program in a container or opens its ports is a create, also when a
// WebSocket asks for it by GET, so that read access to nodes/proxy never grants it.
func attributes(r *http.Request) asked {
	a := asked{verb: map[string]string{http.MethodPost: "create", http.MethodGet: "get", http.MethodHead: "get", http.MethodPut: "update",
		http.MethodPatch: "patch", http.MethodDelete: "delete"}[r.Method]}
	under := func(prefix string) bool {
		return r.URL.Path == prefix || strings.HasPrefix(r.URL.Path, prefix+"/")
	}
	switch {
	case under("/stats"):
		a.subresources = []string{"stats"}
	case under("/metrics"):
		a.subresources = []string{"metrics"}
	case under("/logs"):
		a.subresources = []string{"log"}
	case under("/healthz"):
		a.subresources = []string{"healthz", "proxy"}
	case under("/configz"):
		a.subresources = []string{"configz", "proxy"}
	case under("/pods"), under("/runningpods"):
		a.subresources = []string{"pods", "proxy"}
	case under("/exec"), under("/attach"), under("/portForward"), under("/run"):
		a.subresources = []string{"proxy"}
		a.verb = "create"
	default:
		a.subresources = []string{"proxy"}
	}
	return a
}

// authorize asks the API server whether the user may do any of what the request comes to.
func (a *auth) authorize(ctx context.Context, user *authenticationv1.UserInfo, r *http.Request) (bool, asked, error) {
	want := attributes(r)
	var errs []error
	for _, sub := range want.subresources {
		ok, err := a.may(ctx, user, want.verb, sub)
		if ok {
			return true, want, nil
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	return false, want, errors.Join(errs...)
}

func (a *auth) may(ctx context.Context, user *authenticationv1.UserInfo, verb, subresource string) (bool, error) {
	key := accessKey(user, verb, subresource)
	if known, ok := a.access.Get(key); ok {
		return known.(bool), nil
	}
	review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: user.Username, UID: user.UID, Groups: user.Groups,
		ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: verb, Version: "v1", Resource: "nodes", Subresource: subresource, Name: a.node},
	}}
	if len(user.Extra) > 0 {
		review.Spec.Extra = map[string]authorizationv1.ExtraValue{}
		for k, v := range user.Extra {
			review.Spec.Extra[k] = authorizationv1.ExtraValue(v)
		}
	}
	answer, err := a.api.AuthorizationV1().SubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
	if err != nil {
		return false, fmt.Errorf("review access of %s to nodes/%s: %w", user.Username, subresource, err)
	}
	ttl := allowedTTL
	if !answer.Status.Allowed {
		ttl = deniedTTL
	}
	a.access.Add(key, answer.Status.Allowed, ttl)
	return answer.Status.Allowed, nil
}

// accessKey distinguishes who asks for what. Each part's length precedes it, so that no two askers share a key.
func accessKey(user *authenticationv1.UserInfo, verb, subresource string) string {
	var b strings.Builder
	add := func(s string) { fmt.Fprintf(&b, "%d:%s", len(s), s) }
	for _, s := range []string{verb, subresource, user.Username, user.UID} {
		add(s)
	}
	groups := slices.Clone(user.Groups)
	slices.Sort(groups)
	for _, g := range groups {
		add(g)
	}
	b.WriteByte('|')
	keys := make([]string, 0, len(user.Extra))
	for k := range user.Extra {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		add(k)
		for _, v := range user.Extra[k] {
			add(v)
		}
		b.WriteByte('|')
	}
	return b.String()
}
