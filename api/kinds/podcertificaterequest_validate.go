package kinds

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/mail"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const (
	maxPodCertificateStub  = 10 << 10  // bytes of the request in a request
	maxPodCertificateChain = 100 << 10 // bytes of the answer
	maxUIDLength           = 128
	minPodCertificate      = 60 * 60           // seconds
	maxPodCertificate      = 91 * 24 * 60 * 60 // seconds
	maxOwnPodCertificate   = 24 * 60 * 60      // seconds, of Kubernetes' own signers
	refreshMargin          = 10 * time.Minute  // between a certificate's begin or end and the time to renew it
	signerClockSkew        = 5 * time.Minute
)

// outcomes are the conditions of which a request gets one.
var outcomes = []string{certificatesv1.PodCertificateRequestConditionTypeIssued, certificatesv1.PodCertificateRequestConditionTypeDenied, certificatesv1.PodCertificateRequestConditionTypeFailed}

func isOutcome(condition string) bool { return slices.Contains(outcomes, condition) }

// outcomeOf is how the request ended, or "".
func outcomeOf(s *certificatesv1.PodCertificateRequestStatus) string {
	for _, c := range s.Conditions {
		if isOutcome(c.Type) && c.Status == metav1.ConditionTrue {
			return c.Type
		}
	}
	return ""
}

func validatePodCertificateRequest(r *certificatesv1.PodCertificateRequest) field.ErrorList {
	f := faults{list: ValidateMeta(&r.ObjectMeta, true, NameIsDNSSubdomain)}
	s, spec := &r.Spec, &where{name: "spec"}
	f.add(validateSignerName(s.SignerName, specPath.Child("signerName")))
	f.userAnnotations(spec.field("unverifiedUserAnnotations"), s.UnverifiedUserAnnotations)
	for _, one := range []struct{ field, name, uid string }{
		{"pod", s.PodName, string(s.PodUID)}, {"serviceAccount", s.ServiceAccountName, string(s.ServiceAccountUID)}, {"node", string(s.NodeName), string(s.NodeUID)},
	} {
		f.each(spec.field(one.field+"Name"), one.name, NameIsDNSSubdomain(one.name, false))
		at := spec.field(one.field + "UID")
		if one.uid == "" {
			f.invalid(at, one.uid, "must not be empty")
		}
		if len(one.uid) > maxUIDLength {
			f.tooLong(at, one.uid, maxUIDLength)
		}
	}
	if s.MaxExpirationSeconds == nil {
		f.required(spec.field("maxExpirationSeconds"), "must be set")
		return f.list
	}
	longest := int32(maxPodCertificate)
	if ownSigner(s.SignerName) {
		longest = maxOwnPodCertificate
	}
	if n := *s.MaxExpirationSeconds; n < minPodCertificate || n > longest {
		f.invalid(spec.field("maxExpirationSeconds"), n, fmt.Sprintf("must be in the range [%d, %d]", minPodCertificate, longest))
	}
	if len(s.StubPKCS10Request) == 0 {
		f.invalid(spec, field.OmitValueType{}, "exactly one of (stubPKCS10Request) or (pkixPublicKey, proofOfPossession) must be set")
		return f.list
	}
	f.stubRequest(spec.field("stubPKCS10Request"), s.StubPKCS10Request)
	return f.list
}

// ownSigner says whether a signer is of Kubernetes' own domain.
func ownSigner(name string) bool {
	domain, _, _ := strings.Cut(name, "/")
	return domain == "kubernetes.io" || strings.HasSuffix(domain, ".kubernetes.io")
}

// stubRequest checks the key and the signature of a PKCS#10 request, which says nothing else.
func (f *faults) stubRequest(w *where, der []byte) {
	if len(der) > maxPodCertificateStub {
		f.tooLong(w, string(der), maxPodCertificateStub)
		return
	}
	request, err := x509.ParseCertificateRequest(der)
	if err != nil {
		f.invalid(w, field.OmitValueType{}, "must be a valid PKCS#10 CSR")
		return
	}
	switch key := request.PublicKey.(type) {
	case ed25519.PublicKey:
	case *ecdsa.PublicKey:
		if key.Curve != elliptic.P256() && key.Curve != elliptic.P384() && key.Curve != elliptic.P521() {
			f.invalid(w, "curve "+key.Curve.Params().Name, "elliptic public keys must use curve P256, P384, or P521")
			return
		}
	case *rsa.PublicKey:
		if bits := key.Size() * 8; bits != 3072 && bits != 4096 {
			f.invalid(w, fmt.Sprintf("%d-bit modulus", bits), "RSA keys must have modulus size 3072 or 4096")
			return
		}
	default:
		f.invalid(w, field.OmitValueType{}, "unknown public key type; supported types are Ed25519, ECDSA, and RSA")
		return
	}
	if request.CheckSignature() != nil {
		f.invalid(w, field.OmitValueType{}, "invalid signature")
	}
}

func validatePodCertificateRequestUpdate(r, old *certificatesv1.PodCertificateRequest) field.ErrorList {
	return append(ValidateMetaUpdate(&r.ObjectMeta, &old.ObjectMeta), validation.ValidateImmutableField(r.Spec, old.Spec, specPath)...)
}

// validatePodCertificateRequestStatus: a request is issued, denied or has failed, once; what is issued is a chain for the requested key.
func validatePodCertificateRequestStatus(r, old *certificatesv1.PodCertificateRequest) field.ErrorList {
	f := faults{list: ValidateMetaUpdate(&r.ObjectMeta, &old.ObjectMeta)}
	if len(f.list) > 0 {
		return f.list
	}
	status := &where{name: "status"}
	known := 0
	for i, c := range r.Status.Conditions {
		// upstream writes the index as a field of its own
		at := field.NewPath("status", "conditions", fmt.Sprintf("[%d]", i))
		if !isOutcome(c.Type) {
			f.keep(field.NotSupported(at.Child("type"), c.Type, outcomes))
			continue
		}
		if known++; known > 1 {
			f.keep(field.Invalid(at.Child("type"), c.Type, `There may be at most one condition with type "Issued", "Denied", or "Failed"`))
		}
		if c.Status != metav1.ConditionTrue {
			f.keep(field.NotSupported(at.Child("status"), c.Status, []metav1.ConditionStatus{metav1.ConditionTrue}))
		}
	}
	f.add(metav1validation.ValidateConditions(r.Status.Conditions, status.field("conditions").path()))
	if len(f.list) > 0 {
		return f.list
	}
	same := func(a, b certificatesv1.PodCertificateRequestStatus, sentence string) {
		if !apiequality.Semantic.DeepEqual(a, b) {
			f.invalid(status, field.OmitValueType{}, sentence)
		}
	}
	outcome := outcomeOf(&r.Status)
	switch {
	case outcomeOf(&old.Status) != "":
		same(r.Status, old.Status, "immutable after PodCertificateRequest is issued, denied, or failed")
	case outcome == certificatesv1.PodCertificateRequestConditionTypeIssued:
		f.issuedChain(status, r, time.Now())
	case outcome != "":
		same(r.Status, certificatesv1.PodCertificateRequestStatus{Conditions: r.Status.Conditions}, "non-condition status fields must be empty when denying or failing the PodCertificateRequest")
	default:
		same(r.Status, old.Status, `status is immutable unless transitioning to "Issued", "Denied", or "Failed"`)
	}
	return f.list
}

// issuedChain checks what a signer answered, up to the first thing that is wrong.
func (f *faults) issuedChain(status *where, r *certificatesv1.PodCertificateRequest, now time.Time) {
	chain, s := status.field("certificateChain"), &r.Status
	if len(s.CertificateChain) > maxPodCertificateChain {
		f.tooLong(chain, s.CertificateChain, maxPodCertificateChain)
		return
	}
	block, rest := pem.Decode([]byte(s.CertificateChain))
	if block == nil {
		f.invalid(chain, s.CertificateChain, "issued certificate chain must contain at least one certificate")
		return
	}
	if block.Type != "CERTIFICATE" {
		f.invalid(chain, s.CertificateChain, "issued certificate chain must consist entirely of CERTIFICATE PEM blocks")
		return
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		f.invalid(chain, s.CertificateChain, "leaf certificate does not parse as valid X.509")
		return
	}
	f.leafNames(chain, leaf)
	request, err := x509.ParseCertificateRequest(r.Spec.StubPKCS10Request)
	if err != nil {
		f.invalid(&where{up: &where{name: "spec"}, name: "stubPKCS10Request"}, field.OmitValueType{}, "must be a valid PKCS#10 CSR")
		return
	}
	if key, ok := request.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); ok && !key.Equal(leaf.PublicKey) {
		f.invalid(chain, s.CertificateChain, "leaf certificate was not issued to the requested public key")
		return
	}
	if !f.issuedTimes(status, r, leaf, now) {
		return
	}
	for {
		if block, rest = pem.Decode(rest); block == nil {
			return
		}
		if block.Type != "CERTIFICATE" {
			f.invalid(chain, s.CertificateChain, "issued certificate chain must consist entirely of CERTFICATE PEM blocks") // upstream's spelling
			return
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			f.invalid(chain, s.CertificateChain, "intermediate certificate does not parse as valid X.509")
			return
		}
	}
}

// leafNames refuses names that Go's own parser lets pass and others stumble over.
func (f *faults) leafNames(chain *where, leaf *x509.Certificate) {
	for _, name := range leaf.DNSNames {
		if name == "" {
			f.invalid(chain, name, "leaf certificate should not contain empty DNSName")
		}
		if strings.Contains(name, "..") {
			f.invalid(chain, name, "leaf certificate's DNSName should not contain '..'")
		}
		if strings.HasPrefix(name, ".") || strings.HasSuffix(name, ".") {
			f.invalid(chain, name, "leaf certificate's DNSName should not start or end with '.'")
		}
	}
	for _, address := range leaf.EmailAddresses {
		if _, err := mail.ParseAddress(address); err != nil {
			f.invalid(chain, address, "leaf certificate should not contain invalid EmailAddress")
		}
	}
}

// issuedTimes holds the times of the status against those of the certificate and the request.
func (f *faults) issuedTimes(status *where, r *certificatesv1.PodCertificateRequest, leaf *x509.Certificate, now time.Time) bool {
	s := &r.Status
	notBefore, notAfter, begin := status.field("notBefore"), status.field("notAfter"), status.field("beginRefreshAt")
	if s.NotBefore == nil {
		f.required(notBefore, "must be present and consistent with the issued certificate")
	}
	if s.NotAfter == nil {
		f.required(notAfter, "must be present and consistent with the issued certificate")
	}
	if s.BeginRefreshAt == nil {
		f.required(begin, "must be present and in the range [notbefore+10min, notafter-10min]")
	}
	if len(f.list) > 0 {
		return false
	}
	lifetime := leaf.NotAfter.Sub(leaf.NotBefore)
	switch {
	case !s.NotBefore.Time.Equal(leaf.NotBefore):
		f.invalid(notBefore, s.NotBefore.Time, "must be set to the NotBefore time encoded in the leaf certificate")
	case now.Sub(s.NotBefore.Time).Abs() >= signerClockSkew:
		f.invalid(notBefore, s.NotBefore.Time, "must be set to within 5 minutes of kube-apiserver's current time")
	case !s.NotAfter.Time.Equal(leaf.NotAfter):
		f.invalid(notAfter, s.NotAfter.Time, "must be set to the NotAfter time encoded in the leaf certificate")
	case lifetime < minPodCertificate*time.Second:
		f.invalid(status.field("certificateChain"), lifetime, "leaf certificate lifetime must be >= 1 hour")
	case lifetime > time.Duration(*r.Spec.MaxExpirationSeconds)*time.Second:
		f.invalid(status.field("certificateChain"), lifetime, fmt.Sprintf("leaf certificate lifetime must be <= spec.maxExpirationSeconds (%v)", *r.Spec.MaxExpirationSeconds))
	case s.BeginRefreshAt.Time.Before(s.NotBefore.Add(refreshMargin)):
		f.invalid(begin, s.BeginRefreshAt.Time, "must be at least 10 minutes after status.notBefore")
	case s.BeginRefreshAt.Time.After(s.NotAfter.Add(-refreshMargin)):
		f.invalid(begin, s.BeginRefreshAt.Time, "must be at least 10 minutes before status.notAfter")
	default:
		return true
	}
	return false
}
