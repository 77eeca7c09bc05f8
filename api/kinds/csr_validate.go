package kinds

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// minCertificateSeconds is the shortest lifetime a client may ask for.
const minCertificateSeconds = 600

// legacySigner is what requests of the beta version without a signer name were given.
const legacySigner = "kubernetes.io/legacy-unknown"

var keyUsages = []certificatesv1.KeyUsage{
	certificatesv1.UsageSigning, certificatesv1.UsageDigitalSignature, certificatesv1.UsageContentCommitment,
	certificatesv1.UsageKeyEncipherment, certificatesv1.UsageKeyAgreement, certificatesv1.UsageDataEncipherment,
	certificatesv1.UsageCertSign, certificatesv1.UsageCRLSign, certificatesv1.UsageEncipherOnly, certificatesv1.UsageDecipherOnly,
	certificatesv1.UsageAny, certificatesv1.UsageServerAuth, certificatesv1.UsageClientAuth, certificatesv1.UsageCodeSigning,
	certificatesv1.UsageEmailProtection, certificatesv1.UsageSMIME, certificatesv1.UsageIPsecEndSystem,
	certificatesv1.UsageIPsecTunnel, certificatesv1.UsageIPsecUser, certificatesv1.UsageTimestamping,
	certificatesv1.UsageOCSPSigning, certificatesv1.UsageMicrosoftSGC, certificatesv1.UsageNetscapeSGC,
}

func validateCSR(c *certificatesv1.CertificateSigningRequest) field.ErrorList {
	errs := validateAnyCSR(c)
	if len(errs) == 0 { // the last of upstream's checks, which has only the name left
		errs = ValidateMeta(&c.ObjectMeta, false, NameIsPathSegment)
	}
	return errs
}

// validateAnyCSR checks a request by whatever name.
func validateAnyCSR(c *certificatesv1.CertificateSigningRequest) field.ErrorList {
	errs := ValidateMeta(&c.ObjectMeta, false, func(string, bool) []string { return nil })
	return append(errs, validateCSRSpec(c)...)
}

func validateCSRSpec(c *certificatesv1.CertificateSigningRequest) (errs field.ErrorList) {
	if err := checkRequestPEM(c.Spec.Request); err != nil {
		errs = append(errs, field.Invalid(specPath.Child("request"), c.Spec.Request, err.Error()))
	}
	usages := specPath.Child("usages")
	if len(c.Spec.Usages) == 0 {
		errs = append(errs, field.Required(usages, ""))
	}
	seen := make(map[certificatesv1.KeyUsage]bool, len(c.Spec.Usages))
	for i, u := range c.Spec.Usages {
		if !slices.Contains(keyUsages, u) {
			errs = append(errs, field.NotSupported(usages.Index(i), u, slices.Sorted(slices.Values(keyUsages))))
		}
		if seen[u] {
			errs = append(errs, field.Duplicate(usages.Index(i), u))
		}
		seen[u] = true
	}
	errs = append(errs, validateSignerName(c.Spec.SignerName, specPath.Child("signerName"))...)
	if c.Spec.SignerName == legacySigner {
		errs = append(errs, field.Invalid(specPath.Child("signerName"), c.Spec.SignerName, "the legacy signerName is not allowed via this API version"))
	}
	if s := c.Spec.ExpirationSeconds; s != nil && *s < minCertificateSeconds {
		errs = append(errs, field.Invalid(specPath.Child("expirationSeconds"), *s, "may not specify a duration less than 600 seconds (10 minutes)"))
	}
	return append(errs, validateCSRConditions(c)...)
}

// checkRequestPEM wants one PKCS#10 request with a right signature.
func checkRequestPEM(data []byte) error {
	block, rest := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return errors.New("PEM block type must be CERTIFICATE REQUEST")
	}
	_ = rest
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return err
	}
	return csr.CheckSignature()
}

// validateSignerName wants domain/path, the domain of at least two labels.
func validateSignerName(name string, path *field.Path) (errs field.ErrorList) {
	if name == "" {
		return append(errs, field.Required(path, ""))
	}
	domain, rest, ok := strings.Cut(name, "/")
	if !ok || strings.Contains(rest, "/") {
		return append(errs, field.Invalid(path, name, "must be a fully qualified domain and path of the form 'example.com/signer-name'"))
	}
	labels := strings.Split(domain, ".")
	for _, label := range labels {
		for _, sentence := range validation.IsDNS1123Label(label) {
			errs = append(errs, field.Invalid(path, domain, fmt.Sprintf("validating label %q: %s", label, sentence)))
		}
	}
	if len(labels) < 2 {
		errs = append(errs, field.Invalid(path, domain, "should be a domain with at least two segments separated by dots"))
	}
	for _, part := range strings.Split(rest, ".") {
		for _, sentence := range validation.IsDNS1123Subdomain(part) {
			errs = append(errs, field.Invalid(path, rest, fmt.Sprintf("validating label %q: %s", part, sentence)))
		}
	}
	if most := validation.DNS1123SubdomainMaxLength + 1 + validation.DNS1123SubdomainMaxLength + 1 + validation.DNS1123LabelMaxLength; len(name) > most {
		errs = append(errs, field.TooLong(path, name, most))
	}
	return errs
}

func validateCSRConditions(c *certificatesv1.CertificateSigningRequest) (errs field.ErrorList) {
	path := field.NewPath("status", "conditions")
	seen := map[certificatesv1.RequestConditionType]bool{}
	for i, x := range c.Status.Conditions {
		at := path.Index(i)
		if x.Type == "" {
			errs = append(errs, field.Required(at.Child("type"), ""))
		}
		if seen[x.Type] {
			errs = append(errs, field.Duplicate(at.Child("type"), x.Type))
		}
		seen[x.Type] = true
		status := at.Child("status")
		switch x.Type {
		case certificatesv1.CertificateApproved, certificatesv1.CertificateDenied, certificatesv1.CertificateFailed:
			switch x.Status {
			case corev1.ConditionTrue:
			case "":
				errs = append(errs, field.Required(status, ""))
			default:
				errs = append(errs, field.NotSupported(status, x.Status, []corev1.ConditionStatus{corev1.ConditionTrue}))
			}
		default:
			switch x.Status {
			case corev1.ConditionTrue, corev1.ConditionFalse, corev1.ConditionUnknown:
			case "":
				errs = append(errs, field.Required(status, ""))
			default:
				errs = append(errs, field.NotSupported(status, x.Status, []corev1.ConditionStatus{corev1.ConditionFalse, corev1.ConditionTrue, corev1.ConditionUnknown}))
			}
		}
	}
	if seen[certificatesv1.CertificateApproved] && seen[certificatesv1.CertificateDenied] {
		// In upstream's words, which come from the declaration of a union.
		errs = append(errs, field.Invalid(path, "{conditions[{\"type\": \"Approved\"}], conditions[{\"type\": \"Denied\"}]}",
			"must specify at most one of: `conditions[{\"type\": \"Approved\"}]`, `conditions[{\"type\": \"Denied\"}]`"))
	}
	return errs
}

func validateCSRUpdate(c, old *certificatesv1.CertificateSigningRequest) field.ErrorList {
	return append(ValidateMetaUpdate(&c.ObjectMeta, &old.ObjectMeta), validateAnyCSR(c)...)
}

func validateCSRApproval(c, old *certificatesv1.CertificateSigningRequest) field.ErrorList {
	return append(validateCSRUpdate(c, old), validateCSRDecisions(c, old, true)...)
}

func validateCSRStatus(c, old *certificatesv1.CertificateSigningRequest) field.ErrorList {
	errs := append(validateCSRUpdate(c, old), validateCSRDecisions(c, old, false)...)
	path := field.NewPath("status", "certificate")
	if bytes.Equal(c.Status.Certificate, old.Status.Certificate) {
		return errs
	}
	if len(old.Status.Certificate) > 0 {
		errs = append(errs, field.Forbidden(path, "updates may not modify existing certificate content"))
	}
	if err := checkCertificatePEM(c.Status.Certificate); err != nil {
		errs = append(errs, field.Invalid(path, "<certificate data>", err.Error()))
	}
	return errs
}

// validateCSRDecisions: decisions and failures, once made, are not withdrawn; only the approval subresource makes decisions.
func validateCSRDecisions(c, old *certificatesv1.CertificateSigningRequest, approving bool) (errs field.ErrorList) {
	path := field.NewPath("status", "conditions")
	of := func(r *certificatesv1.CertificateSigningRequest, t certificatesv1.RequestConditionType) (found []certificatesv1.CertificateSigningRequestCondition) {
		for _, x := range r.Status.Conditions {
			if x.Type == t {
				found = append(found, x)
			}
		}
		return found
	}
	for _, t := range []certificatesv1.RequestConditionType{certificatesv1.CertificateApproved, certificatesv1.CertificateDenied, certificatesv1.CertificateFailed} {
		now, was := of(c, t), of(old, t)
		switch {
		case len(now) < len(was):
			errs = append(errs, field.Forbidden(path, fmt.Sprintf("updates may not remove a condition of type %q", t)))
		case len(now) > len(was) && t != certificatesv1.CertificateFailed && !approving:
			errs = append(errs, field.Forbidden(path, fmt.Sprintf("updates may not add a condition of type %q", t)))
		}
	}
	return errs
}

// checkCertificatePEM wants one or more certificates in PEM, without headers, and nothing else.
func checkCertificatePEM(data []byte) error {
	if len(data) == 0 {
		return nil
	}
	blocks := 0
	for rest := data; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return fmt.Errorf("only CERTIFICATE PEM blocks are allowed, found %q", block.Type)
		}
		if len(block.Headers) > 0 {
			return errors.New("no PEM block headers are permitted")
		}
		certificates, err := x509.ParseCertificates(block.Bytes)
		if err != nil {
			return err
		}
		if len(certificates) == 0 {
			return errors.New("found CERTIFICATE PEM block containing 0 certificates")
		}
		blocks++
	}
	if blocks == 0 {
		return errors.New("must contain at least one CERTIFICATE PEM block")
	}
	return nil
}
