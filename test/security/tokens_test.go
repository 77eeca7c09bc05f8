package security

import (
	"context"
	"encoding/json"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A token is good for as long as what it is bound to is there, and no request longer; and only for whom it is meant.
func TestTokensDieWithWhatTheyAreBoundTo(t *testing.T) {
	w, ctx := start(t, nil), t.Context()
	w.account(t, "bound", "robot")
	core := w.admin.CoreV1()
	node, err := core.Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pod := func(name string) *corev1.Pod {
		p, err := core.Pods("bound").Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{ServiceAccountName: "robot", NodeName: "n1", Containers: []corev1.Container{{Name: "c", Image: "i"}}}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	p := pod("p")
	secret, err := core.Secrets("bound").Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	zero := int64(0)
	now := metav1.DeleteOptions{GracePeriodSeconds: &zero}
	for _, c := range []struct {
		kind string
		meta metav1.ObjectMeta
		gone func() error
	}{
		{"Pod", p.ObjectMeta, func() error { return core.Pods("bound").Delete(ctx, "p", now) }},
		{"Secret", secret.ObjectMeta, func() error { return core.Secrets("bound").Delete(ctx, "s", now) }},
		{"Node", node.ObjectMeta, func() error { return core.Nodes().Delete(ctx, "n1", now) }},
		{"", metav1.ObjectMeta{}, func() error { return core.ServiceAccounts("bound").Delete(ctx, "robot", now) }},
	} {
		spec := authenticationv1.TokenRequestSpec{}
		if c.kind != "" {
			spec.BoundObjectRef = &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: c.kind, Name: c.meta.Name, UID: c.meta.UID}
		}
		token := w.issue(t, "bound", "robot", spec)
		k := w.client(t, bearer(token))
		who := func() error {
			_, err := k.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
			return err
		}
		if err := who(); err != nil {
			t.Errorf("bound to %q: %v", c.kind, err)
		}
		if err := c.gone(); err != nil {
			t.Fatal(err)
		}
		// The object is out of the store, so the very next request is refused, although the token has been verified before.
		for err := who(); !apierrors.IsUnauthorized(err); err = who() {
			if err != nil || t.Context().Err() != nil {
				t.Fatalf("bound to %q, which is gone: %v", c.kind, err)
			}
		}
		review, err := w.admin.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}, metav1.CreateOptions{})
		if err != nil || review.Status.Authenticated || review.Status.User.Username != "" {
			t.Errorf("a review of a token bound to %q, which is gone: %+v %v", c.kind, review.Status, err)
		}
	}
}

// What TokenReview says of a token's audiences is what they are.
func TestTokensAreForTheirAudiences(t *testing.T) {
	w, ctx := start(t, nil), t.Context()
	w.account(t, "bound", "robot")
	vault := w.issue(t, "bound", "robot", authenticationv1.TokenRequestSpec{Audiences: []string{"vault", "bank"}})
	if _, err := w.client(t, bearer(vault)).CoreV1().Pods("default").List(ctx, metav1.ListOptions{}); !apierrors.IsUnauthorized(err) {
		t.Errorf("the API takes a token for others: %v", err)
	}
	review := func(audiences ...string) authenticationv1.TokenReviewStatus {
		r, err := w.admin.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: vault, Audiences: audiences}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return r.Status
	}
	if s := review("vault"); !s.Authenticated || len(s.Audiences) != 1 || s.Audiences[0] != "vault" {
		t.Errorf("for vault: %+v", s)
	}
	if s := review("kiosk"); s.Authenticated {
		t.Errorf("for the kiosk: %+v", s)
	}
	if s := review(); s.Authenticated {
		t.Errorf("for the API: %+v", s)
	}
	if b, _ := json.Marshal(payload(t, vault)["aud"]); string(b) != `["vault","bank"]` {
		t.Errorf("audiences %s", b)
	}
	// No token lives for less than ten minutes or for ever.
	for _, seconds := range []int64{1, 599, 1<<32 + 1} {
		if _, err := w.admin.CoreV1().ServiceAccounts("bound").CreateToken(context.Background(), "robot", &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds}}, metav1.CreateOptions{}); !apierrors.IsInvalid(err) {
			t.Errorf("%d seconds: %v", seconds, err)
		}
	}
}
