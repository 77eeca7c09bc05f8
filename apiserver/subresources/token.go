package subresources

import (
	"context"
	"net/http"

	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"

	"wherry.dev/wherry/apiserver/verbs"
)

var tokenRequestKind = authenticationv1.SchemeGroupVersion.WithKind("TokenRequest")

// token issues a token for a service account (TokenRequest, KEP-1205).
func (s *Set) token(ctx context.Context, accounts *verbs.Served, r *verbs.Request) (verbs.Answer, error) {
	obj, options, err := accounts.DecodeAs(r, tokenRequestKind, func() runtime.Object { return &authenticationv1.TokenRequest{} })
	if err != nil {
		return verbs.Answer{}, err
	}
	if err := accounts.AdmitOther(ctx, r, admission.Create, tokenRequestKind, obj, r.Info.Name, options); err != nil {
		return verbs.Answer{}, err
	}
	out, err := s.config.Issuer.Issue(ctx, r.Info.Namespace, r.Info.Name, obj.(*authenticationv1.TokenRequest))
	if err != nil {
		return verbs.Answer{}, err
	}
	return verbs.Answer{Code: http.StatusCreated, Object: out, GVK: tokenRequestKind}, nil
}
