package kinds

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	certificatesv1beta1 "k8s.io/api/certificates/v1beta1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// maxTrustBundle bounds the anchors of a bundle, in bytes.
const maxTrustBundle = 1 << 20

// ClusterTrustBundles is certificates.k8s.io/v1 clustertrustbundles (KEP-3257), stored as v1beta1: trust anchors for pods to mount, a signer's or nobody's.
func ClusterTrustBundles() *Kind {
	return &Kind{
		GroupVersionKind: certificatesv1.SchemeGroupVersion.WithKind("ClusterTrustBundle"),
		Plural:           "clustertrustbundles",
		Singular:         "clustertrustbundle",
		Verbs:            all,
		New:              func() runtime.Object { return new(certificatesv1.ClusterTrustBundle) },
		NewList:          func() runtime.Object { return new(certificatesv1.ClusterTrustBundleList) },
		StoragePrefix:    "clustertrustbundles",
		Hub: storedAs(certificatesv1.SchemeGroupVersion.WithKind("ClusterTrustBundle"), certificatesv1beta1.SchemeGroupVersion.WithKind("ClusterTrustBundle"),
			func() message { return new(certificatesv1.ClusterTrustBundle) }, func() message { return new(certificatesv1beta1.ClusterTrustBundle) }),
		HubOpens: true,
		Validate: checking(func(b *certificatesv1.ClusterTrustBundle) field.ErrorList {
			return append(validateTrustBundle(b), checkAnchors(b.Spec.TrustBundle)...)
		}),
		ValidateUpdate: checkingUpdate(func(b, old *certificatesv1.ClusterTrustBundle) field.ErrorList {
			errs := validateTrustBundle(b)
			if b.Spec.TrustBundle != old.Spec.TrustBundle { // what an older parser took stays
				errs = append(errs, checkAnchors(b.Spec.TrustBundle)...)
			}
			errs = append(errs, ValidateMetaUpdate(&b.ObjectMeta, &old.ObjectMeta)...)
			return append(errs, validation.ValidateImmutableField(b.Spec.SignerName, old.Spec.SignerName, specPath.Child("signerName"))...)
		}),
		// Whether the name fits the signer is checked with the object.
		ValidateName: func(string, bool) []string { return nil },
		FieldLabels:  []string{"metadata.name", "spec.signerName"},
		SelectableFields: selecting(func(b *certificatesv1.ClusterTrustBundle) fields.Set {
			set := metaFields(&b.ObjectMeta, false, 1)
			set["spec.signerName"] = b.Spec.SignerName
			return set
		}),
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("SignerName", "string", certificatesv1.ClusterTrustBundleSpec{}.SwaggerDoc()["signerName"]),
		},
		Row: row(func(b *certificatesv1.ClusterTrustBundle, _ time.Time) []any {
			return []any{b.Name, orNone(b.Spec.SignerName)}
		}),
	}
}

func validateTrustBundle(b *certificatesv1.ClusterTrustBundle) field.ErrorList {
	errs := ValidateMeta(&b.ObjectMeta, false, trustBundleNameOf(b.Spec.SignerName))
	if b.Spec.SignerName != "" {
		errs = append(errs, validateSignerName(b.Spec.SignerName, specPath.Child("signerName"))...)
	}
	return errs
}

// trustBundleNameOf checks the name of a signer's bundle, which begins with the signer's, or of one without a signer, which has no colon.
func trustBundleNameOf(signer string) NameFunc {
	return func(name string, prefix bool) []string {
		if signer == "" {
			if strings.Contains(name, ":") {
				return []string{"ClusterTrustBundle without signer name must not have \":\" in its name"}
			}
			return NameIsDNSSubdomain(name, prefix)
		}
		start := strings.ReplaceAll(signer, "/", ":") + ":"
		rest, ok := strings.CutPrefix(name, start)
		if !ok {
			return []string{fmt.Sprintf("ClusterTrustBundle for signerName %s must be named with prefix %s", signer, start)}
		}
		return NameIsDNSSubdomain(rest, prefix)
	}
}

// checkAnchors wants certificates of authorities in PEM, each once, and no headers.
func checkAnchors(bundle string) (errs field.ErrorList) {
	path := specPath.Child("trustBundle")
	if len(bundle) > maxTrustBundle {
		return field.ErrorList{field.TooLong(path, "", maxTrustBundle)}
	}
	fault := func(format string, args ...any) {
		errs = append(errs, field.Invalid(path, "<value omitted>", fmt.Sprintf(format, args...)))
	}
	seen := map[string][]int{}
	var order []string
	block, rest := pem.Decode([]byte(bundle))
	for i := 0; block != nil; i++ {
		certificate, err := x509.ParseCertificate(block.Bytes)
		switch {
		case block.Type != "CERTIFICATE":
			fault("entry %d has bad block type: %v", i, block.Type)
		case len(block.Headers) > 0:
			fault("entry %d has PEM block headers", i)
		case err != nil:
			fault("entry %d does not parse as X.509", i)
		case !certificate.IsCA:
			fault("entry %d does not have the CA bit set", i)
		case !certificate.BasicConstraintsValid:
			fault("entry %d has invalid basic constraints", i)
		default:
			anchor := string(block.Bytes)
			if !slices.Contains(order, anchor) {
				order = append(order, anchor)
			}
			seen[anchor] = append(seen[anchor], i)
		}
		block, rest = pem.Decode(rest)
	}
	if len(errs) > 0 {
		return errs
	}
	if len(order) == 0 {
		fault("at least one trust anchor must be provided")
	}
	for _, anchor := range order {
		if at := seen[anchor]; len(at) > 1 {
			fault("duplicate trust anchor (indices %v)", at)
		}
	}
	return errs
}
