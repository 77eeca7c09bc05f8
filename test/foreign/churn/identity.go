package churn

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"

	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// serviceAccount gets a token of each sort, and its secret goes with it.
func (t *turn) serviceAccount(ctx context.Context) error {
	accounts := t.Kube.CoreV1().ServiceAccounts(t.ns)
	if _, err := accounts.Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "robot"}}, metav1.CreateOptions{}); err != nil {
		return err
	}
	secrets := t.Kube.CoreV1().Secrets(t.ns)
	if _, err := secrets.Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "robot", Annotations: map[string]string{corev1.ServiceAccountNameKey: "robot"}},
		Type: corev1.SecretTypeServiceAccountToken}, metav1.CreateOptions{}); err != nil {
		return err
	}
	if err := t.until(ctx, "the account's secret to be filled in", func(ctx context.Context) (bool, error) {
		s, err := secrets.Get(ctx, "robot", metav1.GetOptions{})
		return err == nil && len(s.Data[corev1.ServiceAccountTokenKey]) > 0 && len(s.Data[corev1.ServiceAccountRootCAKey]) > 0, err
	}); err != nil {
		return err
	}
	secret, err := secrets.Get(ctx, "robot", metav1.GetOptions{})
	if err != nil {
		return err
	}
	issued, err := accounts.CreateToken(ctx, "robot", &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: ptr(int64(600))}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	for what, token := range map[string]string{"of the secret": string(secret.Data[corev1.ServiceAccountTokenKey]), "requested": issued.Status.Token} {
		review, err := t.Kube.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}, metav1.CreateOptions{})
		if err != nil {
			return err
		}
		if want := "system:serviceaccount:" + t.ns + ":robot"; review.Status.User.Username != want {
			return fmt.Errorf("token %s is of %q, not %s: %s", what, review.Status.User.Username, want, review.Status.Error)
		}
	}
	if err := accounts.Delete(ctx, "robot", metav1.DeleteOptions{}); err != nil {
		return err
	}
	if err := t.until(ctx, "the secret to go with its account", func(ctx context.Context) (bool, error) {
		_, err := secrets.Get(ctx, "robot", metav1.GetOptions{})
		return err != nil, ignoreNotFound(err)
	}); err != nil {
		return err
	}
	// The namespace's own account and the authority's certificate come back when somebody deletes them.
	if err := accounts.Delete(ctx, "default", metav1.DeleteOptions{}); err != nil {
		return err
	}
	if err := t.Kube.CoreV1().ConfigMaps(t.ns).Delete(ctx, "kube-root-ca.crt", metav1.DeleteOptions{}); err != nil {
		return err
	}
	return t.until(ctx, "the namespace's own objects to come back", func(ctx context.Context) (bool, error) {
		if _, err := accounts.Get(ctx, "default", metav1.GetOptions{}); err != nil {
			return false, ignoreNotFound(err)
		}
		_, err := t.Kube.CoreV1().ConfigMaps(t.ns).Get(ctx, "kube-root-ca.crt", metav1.GetOptions{})
		return err == nil, ignoreNotFound(err)
	})
}

// aggregatedRole gets the rules of roles with a label, as they come and go.
func (t *turn) aggregatedRole(ctx context.Context) error {
	roles := t.Kube.RbacV1().ClusterRoles()
	label := map[string]string{"churn": t.ns}
	if _, err := roles.Create(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: t.ns},
		AggregationRule: &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: label}}}}, metav1.CreateOptions{}); err != nil {
		return err
	}
	defer roles.Delete(ctx, t.ns, metav1.DeleteOptions{})
	part := t.ns + "-part"
	rule := rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"get"}}
	if _, err := roles.Create(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: part, Labels: label}, Rules: []rbacv1.PolicyRule{rule}}, metav1.CreateOptions{}); err != nil {
		return err
	}
	defer roles.Delete(ctx, part, metav1.DeleteOptions{})
	rules := func(n int) error {
		return t.until(ctx, fmt.Sprintf("the role to have %d rules", n), func(ctx context.Context) (bool, error) {
			r, err := roles.Get(ctx, t.ns, metav1.GetOptions{})
			return err == nil && len(r.Rules) == n, err
		})
	}
	if err := rules(1); err != nil {
		return err
	}
	if err := roles.Delete(ctx, part, metav1.DeleteOptions{}); err != nil {
		return err
	}
	return rules(0)
}

// certificate is asked for, approved, and signed.
func (t *turn) certificate(ctx context.Context) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: t.ns}}, key)
	if err != nil {
		return err
	}
	requests := t.Kube.CertificatesV1().CertificateSigningRequests()
	r := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: t.ns}, Spec: certificatesv1.CertificateSigningRequestSpec{
		Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), SignerName: certificatesv1.KubeAPIServerClientSignerName,
		Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth}, ExpirationSeconds: ptr(int32(3600))}}
	if r, err = requests.Create(ctx, r, metav1.CreateOptions{}); err != nil {
		return err
	}
	defer requests.Delete(ctx, t.ns, metav1.DeleteOptions{})
	r.Status.Conditions = append(r.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "Churn", Message: "it is asked for by a test"})
	if _, err := requests.UpdateApproval(ctx, t.ns, r, metav1.UpdateOptions{}); err != nil {
		return err
	}
	return t.until(ctx, "the certificate to be signed", func(ctx context.Context) (bool, error) {
		r, err := requests.Get(ctx, t.ns, metav1.GetOptions{})
		if err != nil || len(r.Status.Certificate) == 0 {
			return false, err
		}
		block, _ := pem.Decode(r.Status.Certificate)
		if block == nil {
			return false, fmt.Errorf("the certificate is no PEM: %s", r.Status.Certificate)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err == nil && c.Subject.CommonName != t.ns {
			err = fmt.Errorf("the certificate is %s's", c.Subject)
		}
		return err == nil, err
	})
}
