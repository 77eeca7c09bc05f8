package kinds

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
)

// projected checks a volume that shows files from several sources; no two of them may have the same path.
func (c *podCheck) projected(w *where, p *corev1.ProjectedVolumeSource) {
	c.fileMode(w.field("defaultMode"), p.DefaultMode)
	c.userID(w.field("defaultUser"), p.DefaultUser)
	var paths nameSet
	// take notes a path; who is whom upstream's answer names when it is taken already.
	take := func(path, who string) {
		if path != "" && !paths.add(path) {
			c.invalid(w, who, "conflicting duplicate paths")
		}
	}
	for i := range p.Sources {
		at, s, types := w.field("sources").at(i), &p.Sources[i], 0
		if s.Secret != nil {
			types++
			at := at.field("secret")
			c.needs(at.field("name"), s.Secret.Name)
			for j := range s.Secret.Items {
				c.keyPath(at.field("items").at(j), &s.Secret.Items[j])
				take(s.Secret.Items[j].Path, s.Secret.Name)
			}
		}
		if s.ConfigMap != nil {
			types++
			at := at.field("configMap")
			c.needs(at.field("name"), s.ConfigMap.Name)
			for j := range s.ConfigMap.Items {
				c.keyPath(at.field("items").at(j), &s.ConfigMap.Items[j])
				take(s.ConfigMap.Items[j].Path, s.ConfigMap.Name)
			}
		}
		if s.DownwardAPI != nil {
			types++
			for j := range s.DownwardAPI.Items {
				c.downwardFile(at.field("downwardAPI"), &s.DownwardAPI.Items[j])
				take(s.DownwardAPI.Items[j].Path, s.DownwardAPI.Items[j].Path)
			}
		}
		if s.ServiceAccountToken != nil {
			types++
			c.tokenProjection(w, at.field("serviceAccountToken"), s.ServiceAccountToken)
		}
		if s.ClusterTrustBundle != nil {
			types++
			c.trustBundle(at.field("clusterTrustBundle"), s.ClusterTrustBundle)
			if path := s.ClusterTrustBundle.Path; !paths.add(path) {
				c.invalid(w, path, "conflicting duplicate paths")
			}
		}
		if s.PodCertificate != nil {
			types++
			at, s := at.field("podCertificate"), s.PodCertificate
			c.podCertificate(at, s)
			c.certificatePath(at.field("credentialBundlePath"), s.CredentialBundlePath)
			take(s.CredentialBundlePath, s.CredentialBundlePath)
			c.certificatePath(at.field("keyPath"), s.KeyPath)
			take(s.KeyPath, s.KeyPath)
			c.certificatePath(at.field("certificateChainPath"), s.CertificateChainPath)
			take(s.CertificateChainPath, s.CertificateChainPath)
			if s.CredentialBundlePath == "" && s.KeyPath == "" && s.CertificateChainPath == "" {
				c.required(at, "specify at least one of credentialBundlePath, keyPath, and certificateChainPath")
			}
		}
		if types > 1 {
			c.forbidden(at, "may not specify more than 1 volume type per source")
		}
	}
}

// tokenProjection checks a service-account token; upstream reports its path at the volume.
func (c *podCheck) tokenProjection(volume, w *where, t *corev1.ServiceAccountTokenProjection) {
	switch seconds := t.ExpirationSeconds; {
	case seconds == nil:
		c.required(w.field("expirationSeconds"), "")
	case *seconds < 600:
		c.invalid(w.field("expirationSeconds"), *seconds, "may not specify a duration less than 10 minutes")
	case *seconds > 1<<32:
		c.invalid(w.field("expirationSeconds"), *seconds, "may not specify a duration larger than 2^32 seconds")
	}
	if t.Path == "" {
		c.required(volume.field("path"), "")
	} else if !c.allow.tokenPath {
		c.localPath(volume.field("path"), t.Path)
	}
	c.userID(w.field("user"), t.User)
}

// trustBundle checks a projected ClusterTrustBundle (KEP-3257): one by name, or those of a signer.
func (c *podCheck) trustBundle(w *where, b *corev1.ClusterTrustBundleProjection) {
	switch {
	case b.Name != nil && b.SignerName != nil:
		c.invalid(w, b, "only one of name and signerName may be used")
	case b.Name != nil:
		if *b.Name == "" {
			c.required(w.field("name"), "must be a valid object name")
		}
		for _, msg := range trustBundleName(*b.Name) {
			c.invalid(w.field("name"), *b.Name, "not a valid clustertrustbundlename: "+msg)
		}
		if b.LabelSelector != nil {
			c.invalid(w.field("labelSelector"), b.LabelSelector, "labelSelector must be unset if name is specified")
		}
	case b.SignerName != nil:
		if *b.SignerName == "" {
			c.required(w.field("signerName"), "must be a valid signer name")
		}
		c.signerName(w.field("signerName"), *b.SignerName)
		c.labelSelector(w.field("labelSelector"), b.LabelSelector, false)
	default:
		c.required(w, "either name or signerName must be specified")
	}
	c.needs(w.field("path"), b.Path)
	c.userID(w.field("user"), b.User)
	c.localPath(w.field("path"), b.Path)
}

// trustBundleName says what is wrong with the name of a ClusterTrustBundle. What comes before the last colon is its signer.
func trustBundleName(name string) []string {
	return NameIsDNSSubdomain(name[strings.LastIndexByte(name, ':')+1:], false)
}

// podCertificate checks a projected certificate (KEP-4317) but for its paths.
func (c *podCheck) podCertificate(w *where, p *corev1.PodCertificateProjection) {
	c.signerName(w.field("signerName"), p.SignerName)
	c.userAnnotations(w.field("userAnnotations"), p.UserAnnotations)
	c.userID(w.field("user"), p.User)
	knownValue(&c.faults, w.field("keyType"), p.KeyType, []string{"RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"})
	if p.MaxExpirationSeconds == nil {
		return
	}
	const day = 24 * 60 * 60
	longest := int32(91 * day)
	if domain, _, _ := strings.Cut(p.SignerName, "/"); domain == "kubernetes.io" || strings.HasSuffix(domain, ".kubernetes.io") {
		longest = day
	}
	switch seconds := *p.MaxExpirationSeconds; {
	case seconds < 3600:
		c.invalid(w.field("maxExpirationSeconds"), seconds, "if provided, maxExpirationSeconds must be >= 3600")
	case seconds > longest:
		c.invalid(w.field("maxExpirationSeconds"), seconds, fmt.Sprintf("if provided, maxExpirationSeconds must be <= %d", longest))
	}
}

func (c *podCheck) certificatePath(w *where, path string) {
	if path != "" {
		c.localPath(w, path)
	}
}

// userAnnotations checks keys and size of what a pod tells a signer: keys must have a domain.
func (f *faults) userAnnotations(w *where, annotations map[string]string) {
	if len(annotations) == 0 {
		return
	}
	for key := range annotations {
		f.add(utilvalidation.IsDomainPrefixedKey(w.path(), strings.ToLower(key)))
	}
	if validation.ValidateAnnotationsSize(annotations) != nil {
		f.tooLong(w, "", validation.TotalAnnotationSizeLimitB)
	}
}

// signerName checks the name of a signer of certificates: example.com/name, the domain of two labels at least, up to
// 571 bytes in all.
func (f *faults) signerName(w *where, name string) {
	if name == "" {
		f.required(w, "")
		return
	}
	domain, path, ok := strings.Cut(name, "/")
	if !ok || strings.Contains(path, "/") {
		f.invalid(w, name, "must be a fully qualified domain and path of the form 'example.com/signer-name'")
		return
	}
	if len(domain) > utilvalidation.DNS1123SubdomainMaxLength {
		f.tooLong(w, "", utilvalidation.DNS1123SubdomainMaxLength)
	}
	for label := range strings.SplitSeq(domain, ".") {
		if f.signerLabel(w, domain, label, utilvalidation.IsDNS1123Label(label)) {
			break
		}
	}
	if !strings.Contains(domain, ".") {
		f.invalid(w, domain, "should be a domain with at least two segments separated by dots")
	}
	for label := range strings.SplitSeq(path, ".") {
		if f.signerLabel(w, path, label, utilvalidation.IsDNS1123Subdomain(label)) {
			break
		}
	}
	const longest = 2*utilvalidation.DNS1123SubdomainMaxLength + utilvalidation.DNS1123LabelMaxLength + 2
	if len(name) > longest {
		f.tooLong(w, "", longest)
	}
}

// signerLabel reports what is wrong with a label of a part of a signer's name, and whether anything is.
func (f *faults) signerLabel(w *where, part, label string, wrong []string) bool {
	for _, msg := range wrong {
		f.invalid(w, part, fmt.Sprintf("validating label %q: %s", label, msg))
	}
	return len(wrong) > 0
}
