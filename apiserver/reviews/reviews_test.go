package reviews

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// asked records the last question.
type asked struct{ last authorizer.AttributesRecord }

func (a *asked) Authorize(_ context.Context, attributes authorizer.Attributes) (authorizer.Decision, string, error) {
	a.last = attributes.(authorizer.AttributesRecord)
	switch a.last.Verb {
	case "get":
		return authorizer.DecisionAllow, "because", nil
	case "delete":
		return authorizer.DecisionDeny, "never", nil
	}
	return authorizer.DecisionNoOpinion, "", errors.New("role missing")
}

func (a *asked) RulesFor(context.Context, user.Info, string) ([]authorizer.ResourceRuleInfo, []authorizer.NonResourceRuleInfo, bool, error) {
	return []authorizer.ResourceRuleInfo{&authorizer.DefaultResourceRuleInfo{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"pods"}}}, nil, true, errors.New("part unknown")
}

func answers(a *asked) map[string]Answer {
	tokens := authenticator.TokenFunc(func(ctx context.Context, token string) (*authenticator.Response, bool, error) {
		requested, _ := authenticator.AudiencesFrom(ctx)
		switch token {
		case "robot": // a service account's: knows its audiences
			if both := (authenticator.Audiences{"us", "vault"}).Intersect(requested); len(both) > 0 {
				return &authenticator.Response{User: &user.DefaultInfo{Name: "robot", Extra: map[string][]string{"k": {"v"}}}, Audiences: both}, true, nil
			}
			return nil, false, errors.New("token audiences are invalid")
		case "static": // says nothing of audiences
			return &authenticator.Response{User: &user.DefaultInfo{Name: "static"}}, true, nil
		}
		return nil, false, errors.New("wrong")
	})
	out := map[string]Answer{}
	for gvr, answer := range New(Config{Tokens: tokens, Authorizer: a, Rules: a, Audiences: []string{"us"}}) {
		out[gvr.Resource] = answer
	}
	return out
}

func TestTokenReview(t *testing.T) {
	for _, c := range []struct {
		token     string
		audiences []string
		name      string
		got       []string
	}{
		{"robot", nil, "robot", []string{"us"}},
		{"robot", []string{"vault", "x"}, "robot", []string{"vault"}},
		{"robot", []string{"x"}, "", nil},
		{"static", nil, "static", []string{"us"}},
		{"static", []string{"vault"}, "", nil},
		{"wrong", nil, "", nil},
	} {
		in := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: c.token, Audiences: c.audiences}}
		out, err := answers(&asked{})["tokenreviews"](t.Context(), nil, in)
		if err != nil {
			t.Fatal(err)
		}
		s := out.(*authenticationv1.TokenReview).Status
		if s.Authenticated != (c.name != "") || s.User.Username != c.name || !slices.Equal(s.Audiences, c.got) || (s.Error == "") != s.Authenticated {
			t.Errorf("%s for %v: %+v", c.token, c.audiences, s)
		}
		if in.Status.Authenticated {
			t.Error("the question was changed")
		}
	}
	if _, err := answers(&asked{})["tokenreviews"](t.Context(), nil, &authenticationv1.TokenReview{}); !apierrors.IsBadRequest(err) {
		t.Error(err)
	}
}

func TestAccessReviews(t *testing.T) {
	a := &asked{}
	all := answers(a)
	spec := authorizationv1.SubjectAccessReviewSpec{User: "jane", Groups: []string{"devs"}, Extra: map[string]authorizationv1.ExtraValue{"Key": {"v"}},
		ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: "ns", Verb: "get", Resource: "pods", Subresource: "log", Name: "p",
			FieldSelector: &authorizationv1.FieldSelectorAttributes{Requirements: []metav1.FieldSelectorRequirement{{Key: "spec.nodeName", Operator: metav1.FieldSelectorOpIn, Values: []string{"n1"}}}}}}
	out, err := all["subjectaccessreviews"](t.Context(), nil, &authorizationv1.SubjectAccessReview{Spec: spec})
	if err != nil {
		t.Fatal(err)
	}
	if s := out.(*authorizationv1.SubjectAccessReview).Status; !s.Allowed || s.Reason != "because" {
		t.Errorf("%+v", s)
	}
	if q := a.last; q.User.GetName() != "jane" || q.User.GetExtra()["key"][0] != "v" || q.APIVersion != "*" || q.Subresource != "log" || len(q.FieldSelectorRequirements) != 1 || q.FieldSelectorRequirements[0].Value != "n1" {
		t.Errorf("asked %+v", q)
	}
	denied, err := all["selfsubjectaccessreviews"](t.Context(), &user.DefaultInfo{Name: "me"}, &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{NonResourceAttributes: &authorizationv1.NonResourceAttributes{Path: "/x", Verb: "delete"}}})
	if err != nil {
		t.Fatal(err)
	}
	if s := denied.(*authorizationv1.SelfSubjectAccessReview).Status; s.Allowed || !s.Denied || a.last.User.GetName() != "me" || a.last.Path != "/x" {
		t.Errorf("%+v", s)
	}
	local := func(namespace string) error {
		_, err := all["localsubjectaccessreviews"](t.Context(), nil, &authorizationv1.LocalSubjectAccessReview{ObjectMeta: metav1.ObjectMeta{Namespace: namespace}, Spec: spec})
		return err
	}
	if err := local("ns"); err != nil {
		t.Error(err)
	}
	if err := local("other"); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "must match metadata.namespace") {
		t.Error(err)
	}
	for want, spec := range map[string]authorizationv1.SubjectAccessReviewSpec{
		"exactly one of nonResourceAttributes or resourceAttributes must be specified": {User: "x"},
		"at least one of user or group must be specified":                              {ResourceAttributes: &authorizationv1.ResourceAttributes{}},
		"cannot be specified in combination with resourceAttributes":                   {User: "x", ResourceAttributes: &authorizationv1.ResourceAttributes{}, NonResourceAttributes: &authorizationv1.NonResourceAttributes{}},
	} {
		if _, err := all["subjectaccessreviews"](t.Context(), nil, &authorizationv1.SubjectAccessReview{Spec: spec}); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func TestSelfReviews(t *testing.T) {
	all := answers(&asked{})
	out, err := all["selfsubjectrulesreviews"](t.Context(), &user.DefaultInfo{Name: "me"}, &authorizationv1.SelfSubjectRulesReview{Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: "ns"}})
	if err != nil {
		t.Fatal(err)
	}
	if s := out.(*authorizationv1.SelfSubjectRulesReview).Status; len(s.ResourceRules) != 1 || s.NonResourceRules == nil || !s.Incomplete || s.EvaluationError != "part unknown" {
		t.Errorf("%+v", s)
	}
	if _, err := all["selfsubjectrulesreviews"](t.Context(), nil, &authorizationv1.SelfSubjectRulesReview{}); !apierrors.IsBadRequest(err) {
		t.Error(err)
	}
	me, err := all["selfsubjectreviews"](t.Context(), &user.DefaultInfo{Name: "me", Groups: []string{"g"}}, &authenticationv1.SelfSubjectReview{})
	if err != nil || me.(*authenticationv1.SelfSubjectReview).Status.UserInfo.Username != "me" {
		t.Errorf("%+v %v", me, err)
	}
}
