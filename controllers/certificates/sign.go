package certificates

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	backdate        = 5 * time.Minute  // for peers whose clock is behind
	minimumLifetime = 10 * time.Minute // whatever a request asks for
)

// sign puts a certificate into an approved request of a signer of ours, or the condition Failed when the request does not
// follow the signer's rules. Requests of other signers are left alone.
func (x *controller) sign(ctx context.Context, csr *certificatesv1.CertificateSigningRequest) error {
	check := rulesOf(csr.Spec.SignerName)
	if check == nil {
		return nil
	}
	signed := csr.DeepCopy()
	request, err := parseRequest(csr.Spec.Request)
	if err == nil {
		err = check(request, csr.Spec.Usages)
	}
	if err != nil {
		now := metav1.NewTime(x.Now())
		signed.Status.Conditions = append(signed.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
			Type: certificatesv1.CertificateFailed, Status: corev1.ConditionTrue, Reason: "SignerValidationFailure", Message: err.Error(), LastUpdateTime: now, LastTransitionTime: now})
	} else {
		der, err := issue(x.CA, x.Key, request, csr, x.Now(), x.Lifetime)
		if err != nil {
			return fmt.Errorf("sign %s: %w", csr.Name, err)
		}
		signed.Status.Certificate = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	}
	if _, err := x.Client.Kubernetes.CertificatesV1().CertificateSigningRequests().UpdateStatus(ctx, signed, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("store certificate of %s: %w", csr.Name, err)
	}
	return nil
}

const legacyUnknown = "kubernetes.io/legacy-unknown"

// rulesOf returns the check of a signer's rules, nil for signers that are not ours.
func rulesOf(signer string) func(*x509.CertificateRequest, []certificatesv1.KeyUsage) error {
	switch signer {
	case certificatesv1.KubeAPIServerClientKubeletSignerName:
		return validKubeletClient
	case certificatesv1.KubeletServingSignerName:
		return validKubeletServing
	case certificatesv1.KubeAPIServerClientSignerName:
		return func(_ *x509.CertificateRequest, usages []certificatesv1.KeyUsage) error { return clientUsages(usages) }
	case legacyUnknown:
		return func(*x509.CertificateRequest, []certificatesv1.KeyUsage) error { return nil }
	}
	return nil
}

// clientUsages: client auth, with digital signature and key encipherment if wanted.
func clientUsages(usages []certificatesv1.KeyUsage) error {
	client := false
	for _, usage := range usages {
		switch usage {
		case certificatesv1.UsageClientAuth:
			client = true
		case certificatesv1.UsageDigitalSignature, certificatesv1.UsageKeyEncipherment:
		default:
			return fmt.Errorf("usages did not match: %s is not allowed", usage)
		}
	}
	if !client {
		return errors.New("usages did not match: client auth is required")
	}
	return nil
}

// issue signs what the request asks for: subject and names are the request's, never an authority.
func issue(ca *x509.Certificate, key crypto.Signer, r *x509.CertificateRequest, csr *certificatesv1.CertificateSigningRequest, now time.Time, lifetime time.Duration) ([]byte, error) {
	if seconds := csr.Spec.ExpirationSeconds; seconds != nil {
		wanted := max(time.Duration(*seconds)*time.Second, minimumLifetime)
		lifetime = min(wanted, lifetime)
	}
	end := now.Add(lifetime)
	if !now.Before(ca.NotAfter) {
		return nil, errors.New("the cluster's certificate authority has expired")
	}
	if end.After(ca.NotAfter) {
		end = ca.NotAfter
	}
	var serial [16]byte
	_, _ = rand.Read(serial[:]) // never fails
	serial[0] &= 0x7f
	serial[15] |= 1
	usage, purposes, err := keyUsages(csr.Spec.Usages)
	if err != nil {
		return nil, err
	}
	return x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber:          new(big.Int).SetBytes(serial[:]),
		Subject:               r.Subject,
		DNSNames:              r.DNSNames,
		IPAddresses:           r.IPAddresses,
		EmailAddresses:        r.EmailAddresses,
		URIs:                  r.URIs,
		NotBefore:             now.Add(-backdate),
		NotAfter:              end,
		KeyUsage:              usage,
		ExtKeyUsage:           purposes,
		BasicConstraintsValid: true,
		IsCA:                  false,
	}, ca, r.PublicKey, key)
}

// keyUsages translates the API's names.
func keyUsages(usages []certificatesv1.KeyUsage) (x509.KeyUsage, []x509.ExtKeyUsage, error) {
	keys := map[certificatesv1.KeyUsage]x509.KeyUsage{
		certificatesv1.UsageSigning:           x509.KeyUsageDigitalSignature,
		certificatesv1.UsageDigitalSignature:  x509.KeyUsageDigitalSignature,
		certificatesv1.UsageContentCommitment: x509.KeyUsageContentCommitment,
		certificatesv1.UsageKeyEncipherment:   x509.KeyUsageKeyEncipherment,
		certificatesv1.UsageKeyAgreement:      x509.KeyUsageKeyAgreement,
		certificatesv1.UsageDataEncipherment:  x509.KeyUsageDataEncipherment,
		certificatesv1.UsageCertSign:          x509.KeyUsageCertSign,
		certificatesv1.UsageCRLSign:           x509.KeyUsageCRLSign,
		certificatesv1.UsageEncipherOnly:      x509.KeyUsageEncipherOnly,
		certificatesv1.UsageDecipherOnly:      x509.KeyUsageDecipherOnly,
	}
	purposes := map[certificatesv1.KeyUsage]x509.ExtKeyUsage{
		certificatesv1.UsageAny:             x509.ExtKeyUsageAny,
		certificatesv1.UsageServerAuth:      x509.ExtKeyUsageServerAuth,
		certificatesv1.UsageClientAuth:      x509.ExtKeyUsageClientAuth,
		certificatesv1.UsageCodeSigning:     x509.ExtKeyUsageCodeSigning,
		certificatesv1.UsageEmailProtection: x509.ExtKeyUsageEmailProtection,
		certificatesv1.UsageSMIME:           x509.ExtKeyUsageEmailProtection,
		certificatesv1.UsageIPsecEndSystem:  x509.ExtKeyUsageIPSECEndSystem,
		certificatesv1.UsageIPsecTunnel:     x509.ExtKeyUsageIPSECTunnel,
		certificatesv1.UsageIPsecUser:       x509.ExtKeyUsageIPSECUser,
		certificatesv1.UsageTimestamping:    x509.ExtKeyUsageTimeStamping,
		certificatesv1.UsageOCSPSigning:     x509.ExtKeyUsageOCSPSigning,
		certificatesv1.UsageMicrosoftSGC:    x509.ExtKeyUsageMicrosoftServerGatedCrypto,
		certificatesv1.UsageNetscapeSGC:     x509.ExtKeyUsageNetscapeServerGatedCrypto,
	}
	var key x509.KeyUsage
	var extended []x509.ExtKeyUsage
	seen := map[x509.ExtKeyUsage]bool{}
	for _, usage := range usages {
		if bit, ok := keys[usage]; ok {
			key |= bit
		} else if purpose, ok := purposes[usage]; ok {
			if !seen[purpose] {
				seen[purpose] = true
				extended = append(extended, purpose)
			}
		} else {
			return 0, nil, fmt.Errorf("unrecognized usage %q", usage)
		}
	}
	return key, extended, nil
}
