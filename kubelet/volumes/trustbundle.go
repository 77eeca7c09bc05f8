package volumes

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// trustBundle adds trust anchors of ClusterTrustBundles (KEP-3257) to the payload: those of one bundle by name, or
// of all bundles of a signer that a selector chooses, each certificate once, in an order that does not depend on the
// order of the bundles. Read once when the volume is made.
func (t contentTree) trustBundle(ctx context.Context, p payload, src *corev1.ClusterTrustBundleProjection, defaultMode *int32) error {
	bundles := t.api.CertificatesV1().ClusterTrustBundles()
	var list []certificatesv1.ClusterTrustBundle
	what := ""
	switch {
	case src.Name != nil:
		what = fmt.Sprintf("ClusterTrustBundle %q", *src.Name)
		b, err := bundles.Get(ctx, *src.Name, metav1.GetOptions{})
		switch {
		case err == nil:
			list = append(list, *b)
		case !apierrors.IsNotFound(err):
			return fmt.Errorf("read %s: %w", what, err)
		}
	case src.SignerName != nil:
		what = fmt.Sprintf("ClusterTrustBundles of signer %q", *src.SignerName)
		var options metav1.ListOptions
		if src.LabelSelector == nil {
			list = nil // no selector selects nothing (an empty one everything)
			break
		}
		selector, err := metav1.LabelSelectorAsSelector(src.LabelSelector)
		if err != nil {
			return fmt.Errorf("label selector of %s: %w", what, err)
		}
		options.LabelSelector = selector.String()
		all, err := bundles.List(ctx, options)
		if err != nil {
			return fmt.Errorf("list %s: %w", what, err)
		}
		for _, b := range all.Items {
			if b.Spec.SignerName == *src.SignerName {
				list = append(list, b)
			}
		}
	default:
		return errors.New("clusterTrustBundle projection names neither a bundle nor a signer")
	}
	if len(list) == 0 && !optional(src.Optional) {
		return fmt.Errorf("%s not found", what)
	}
	var certs [][]byte
	for _, b := range list {
		rest := []byte(b.Spec.TrustBundle)
		for {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				break
			}
			if block.Type == "CERTIFICATE" {
				certs = append(certs, pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes}))
			}
		}
	}
	slices.SortFunc(certs, bytes.Compare)
	certs = slices.CompactFunc(certs, bytes.Equal)
	p[src.Path] = file{data: bytes.Join(certs, nil), mode: modeOf(nil, defaultMode)}
	return nil
}
