package authn

import (
	"context"
	"crypto/subtle"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"

	"wherry.dev/wherry/pki"
)

// bootstrapTokens authenticates join tokens by their Secrets in kube-system. A token that is unknown, expired, of
// another type or not meant for authentication is simply not known here: the answer tells a guesser nothing.
type bootstrapTokens struct {
	lookup *Lookup
	now    func() time.Time
}

var bootstrapGroup = regexp.MustCompile(`\Asystem:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]\z`)

// AuthenticateToken implements authenticator.Token.
func (b *bootstrapTokens) AuthenticateToken(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	id, secret, ok := pki.ParseBootstrapToken(token)
	if !ok {
		return nil, false, nil
	}
	object, err := b.lookup.secret(ctx, pki.BootstrapTokenNamespace, pki.BootstrapTokenSecretPrefix+id, func(*corev1.Secret) error { return nil })
	if apierrors.IsNotFound(err) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	info, ok := b.user(object, id, secret)
	if !ok {
		return nil, false, nil
	}
	return &authenticator.Response{User: info}, true, nil
}

func (b *bootstrapTokens) user(s *corev1.Secret, id, secret string) (user.Info, bool) {
	right := subtle.ConstantTimeCompare(s.Data[pki.BootstrapTokenSecretKey], []byte(secret)) == 1
	if !right || s.DeletionTimestamp != nil || s.Type != pki.BootstrapTokenSecretType ||
		string(s.Data[pki.BootstrapTokenIDKey]) != id || string(s.Data[pki.BootstrapTokenAuthenticationKey]) != "true" {
		return nil, false
	}
	if text := string(s.Data[pki.BootstrapTokenExpirationKey]); text != "" {
		expires, err := time.Parse(time.RFC3339, text)
		if err != nil || !b.now().Before(expires) { // what cannot be read counts as expired
			return nil, false
		}
	}
	groups, err := bootstrapGroups(string(s.Data[pki.BootstrapTokenExtraGroupsKey]))
	if err != nil {
		return nil, false
	}
	return &user.DefaultInfo{Name: pki.BootstrapUserPrefix + id, Groups: groups}, true
}

// bootstrapGroups returns the token's groups, sorted. One bad name makes the whole token invalid, lest it gain or lose groups unseen.
func bootstrapGroups(extra string) ([]string, error) {
	groups := []string{pki.BootstrapGroup}
	if extra != "" {
		for _, group := range strings.Split(extra, ",") {
			if !bootstrapGroup.MatchString(group) {
				return nil, fmt.Errorf("bootstrap group %q is invalid (must match %v)", group, bootstrapGroup)
			}
			groups = append(groups, group)
		}
	}
	slices.Sort(groups)
	return slices.Compact(groups), nil
}
