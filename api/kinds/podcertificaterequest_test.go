package kinds

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestIssuedPodCertificates checks answers of signers that upstream's recorded answers cannot, as they count from now.
func TestIssuedPodCertificates(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	stub, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().Truncate(time.Second)
	type answer struct {
		begin, life time.Duration // of the certificate, from now
		refresh     time.Duration // from now
		names       []string
		key         *ecdsa.PrivateKey
		more        string
		change      func(*certificatesv1.PodCertificateRequestStatus)
	}
	usual := func(change func(*answer)) answer {
		a := answer{life: 2 * time.Hour, refresh: time.Hour, key: key}
		if change != nil {
			change(&a)
		}
		return a
	}
	for name, c := range map[string]struct {
		a    answer
		want string // "" for a right answer
	}{
		"right":            {usual(nil), ""},
		"another key":      {usual(func(a *answer) { a.key = other }), "leaf certificate was not issued to the requested public key"},
		"too early":        {usual(func(a *answer) { a.begin = -6 * time.Minute }), "must be set to within 5 minutes of kube-apiserver's current time"},
		"too short":        {usual(func(a *answer) { a.life = 59 * time.Minute; a.refresh = 30 * time.Minute }), "leaf certificate lifetime must be >= 1 hour"},
		"too long":         {usual(func(a *answer) { a.life = 3 * time.Hour }), "leaf certificate lifetime must be <= spec.maxExpirationSeconds (7200)"},
		"renewed at once":  {usual(func(a *answer) { a.refresh = time.Minute }), "must be at least 10 minutes after status.notBefore"},
		"renewed too late": {usual(func(a *answer) { a.refresh = 2 * time.Hour }), "must be at least 10 minutes before status.notAfter"},
		"odd name":         {usual(func(a *answer) { a.names = []string{"a..b"} }), "leaf certificate's DNSName should not contain '..'"},
		"other block":      {usual(func(a *answer) { a.more = "-----BEGIN KEY-----\n-----END KEY-----\n" }), "must consist entirely of CERTFICATE PEM blocks"},
		"broken chain":     {usual(func(a *answer) { a.more = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n" }), "intermediate certificate does not parse as valid X.509"},
		"no times": {usual(func(a *answer) {
			a.change = func(s *certificatesv1.PodCertificateRequestStatus) {
				s.NotBefore, s.NotAfter, s.BeginRefreshAt = nil, nil, nil
			}
		}), "must be present and consistent with the issued certificate"},
		"another end": {usual(func(a *answer) {
			a.change = func(s *certificatesv1.PodCertificateRequestStatus) { s.NotAfter = &metav1.Time{Time: now} }
		}), "must be set to the NotAfter time encoded in the leaf certificate"},
	} {
		seconds := int32(7200)
		old := &certificatesv1.PodCertificateRequest{ObjectMeta: metav1.ObjectMeta{Name: "r", Namespace: "ns", ResourceVersion: "1"}, Spec: certificatesv1.PodCertificateRequestSpec{StubPKCS10Request: stub, MaxExpirationSeconds: &seconds}}
		begin := now.Add(c.a.begin)
		template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: begin, NotAfter: begin.Add(c.a.life), DNSNames: c.a.names}
		der, err := x509.CreateCertificate(rand.Reader, template, template, c.a.key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		r := old.DeepCopy()
		r.Status = certificatesv1.PodCertificateRequestStatus{
			Conditions:       []metav1.Condition{{Type: certificatesv1.PodCertificateRequestConditionTypeIssued, Status: metav1.ConditionTrue, Reason: "Signed", LastTransitionTime: metav1.Time{Time: now}}},
			CertificateChain: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})) + c.a.more,
			NotBefore:        &metav1.Time{Time: begin}, NotAfter: &metav1.Time{Time: begin.Add(c.a.life)}, BeginRefreshAt: &metav1.Time{Time: now.Add(c.a.refresh)},
		}
		if c.a.change != nil {
			c.a.change(&r.Status)
		}
		errs := validatePodCertificateRequestStatus(r, old).ToAggregate()
		if c.want == "" && errs != nil || c.want != "" && (errs == nil || !strings.Contains(errs.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", name, errs, c.want)
		}
	}
}
