package certificates

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	nodeUserPrefix = "system:node:"
	nodesGroup     = "system:nodes"
)

// recognized is a kind of request that is approved without a person, given the permission.
type recognized struct {
	permission string // subresource of certificatesigningrequests that the requester must be allowed to create
	message    string
}

// approve approves a request that is recognized and permitted; it returns the approved object, or nil when the request
// is left for somebody else.
func (x *controller) approve(ctx context.Context, csr *certificatesv1.CertificateSigningRequest) (*certificatesv1.CertificateSigningRequest, error) {
	request, err := parseRequest(csr.Spec.Request)
	if err != nil {
		return nil, nil // validation let it in; a person may still look at it
	}
	var message string
	switch csr.Spec.SignerName {
	case certificatesv1.KubeAPIServerClientKubeletSignerName:
		if validKubeletClient(request, csr.Spec.Usages) != nil {
			return nil, nil
		}
		kinds := []recognized{{"nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview."}}
		if csr.Spec.Username == request.Subject.CommonName { // a node that renews its own
			kinds = []recognized{{"selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview."}, kinds[0]}
		}
		for _, kind := range kinds {
			allowed, err := x.permitted(ctx, csr, kind.permission)
			if err != nil {
				return nil, err
			}
			if allowed {
				message = kind.message
				break
			}
		}
	case certificatesv1.KubeletServingSignerName:
		if validKubeletServing(request, csr.Spec.Usages) != nil || csr.Spec.Username != request.Subject.CommonName || !slices.Contains(csr.Spec.Groups, nodesGroup) {
			return nil, nil
		}
		node, err := x.nodes.Get(strings.TrimPrefix(csr.Spec.Username, nodeUserPrefix))
		if apierrors.IsNotFound(err) {
			return nil, nil // its event brings us back
		}
		if err != nil {
			return nil, err
		}
		if namesBelongTo(request, node) {
			message = "Auto approving kubelet serving certificate: its names and addresses are the node's."
		}
	}
	if message == "" {
		return nil, nil
	}
	approved := csr.DeepCopy()
	now := metav1.NewTime(x.Now())
	approved.Status.Conditions = append(approved.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "AutoApproved", Message: message, LastUpdateTime: now, LastTransitionTime: now})
	approved, err = x.Client.Kubernetes.CertificatesV1().CertificateSigningRequests().UpdateApproval(ctx, csr.Name, approved, metav1.UpdateOptions{})
	if err != nil {
		return nil, fmt.Errorf("approve %s: %w", csr.Name, err)
	}
	return approved, nil
}

// permitted asks whether the requester may have such a certificate.
func (x *controller) permitted(ctx context.Context, csr *certificatesv1.CertificateSigningRequest, permission string) (bool, error) {
	extra := make(map[string]authorizationv1.ExtraValue, len(csr.Spec.Extra))
	for key, value := range csr.Spec.Extra {
		extra[key] = authorizationv1.ExtraValue(value)
	}
	review, err := x.Client.Kubernetes.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{
			User: csr.Spec.Username, UID: csr.Spec.UID, Groups: csr.Spec.Groups, Extra: extra,
			ResourceAttributes: &authorizationv1.ResourceAttributes{
				Group: certificatesv1.GroupName, Resource: "certificatesigningrequests", Verb: "create", Subresource: permission, Version: "*"},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return false, fmt.Errorf("ask whether %s may have %s: %w", csr.Spec.Username, permission, err)
	}
	return review.Status.Allowed, nil
}

func parseRequest(data []byte) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, errors.New("PEM block type must be CERTIFICATE REQUEST")
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, err
	}
	return request, request.CheckSignature()
}

var (
	errOrganization = fmt.Errorf("subject organization is not %s", nodesGroup)
	errCommonName   = fmt.Errorf("subject common name does not begin with %s", nodeUserPrefix)
	errNoSAN        = errors.New("DNS or IP subjectAltName is required")
	errDNSSAN       = errors.New("DNS subjectAltNames are not allowed")
	errEmailSAN     = errors.New("Email subjectAltNames are not allowed")
	errIPSAN        = errors.New("IP subjectAltNames are not allowed")
	errURISAN       = errors.New("URI subjectAltNames are not allowed")
)

// validKubeletClient checks a request against the rules of signer kubernetes.io/kube-apiserver-client-kubelet.
func validKubeletClient(r *x509.CertificateRequest, usages []certificatesv1.KeyUsage) error {
	switch {
	case !slices.Equal(r.Subject.Organization, []string{nodesGroup}):
		return errOrganization
	case len(r.DNSNames) > 0:
		return errDNSSAN
	case len(r.EmailAddresses) > 0:
		return errEmailSAN
	case len(r.IPAddresses) > 0:
		return errIPSAN
	case len(r.URIs) > 0:
		return errURISAN
	case !isNodeName(r.Subject.CommonName):
		return errCommonName
	}
	return exactUsages(usages, certificatesv1.UsageClientAuth)
}

// validKubeletServing checks a request against the rules of signer kubernetes.io/kubelet-serving.
func validKubeletServing(r *x509.CertificateRequest, usages []certificatesv1.KeyUsage) error {
	switch {
	case !slices.Equal(r.Subject.Organization, []string{nodesGroup}):
		return errOrganization
	case len(r.DNSNames)+len(r.IPAddresses) == 0:
		return errNoSAN
	case len(r.EmailAddresses) > 0:
		return errEmailSAN
	case len(r.URIs) > 0:
		return errURISAN
	case !isNodeName(r.Subject.CommonName):
		return errCommonName
	}
	return exactUsages(usages, certificatesv1.UsageServerAuth)
}

func isNodeName(commonName string) bool {
	return strings.HasPrefix(commonName, nodeUserPrefix) && len(commonName) > len(nodeUserPrefix)
}

// exactUsages: the purpose and digital signature; key encipherment is for RSA keys and may be there or not.
func exactUsages(usages []certificatesv1.KeyUsage, purpose certificatesv1.KeyUsage) error {
	signature, hasPurpose := false, false
	for _, usage := range usages {
		switch usage {
		case certificatesv1.UsageDigitalSignature:
			signature = true
		case purpose:
			hasPurpose = true
		case certificatesv1.UsageKeyEncipherment:
		default:
			return fmt.Errorf("usages did not match %v: %s is not expected", purpose, usage)
		}
	}
	if !signature || !hasPurpose {
		return fmt.Errorf("usages did not match: %s and %s are required", certificatesv1.UsageDigitalSignature, purpose)
	}
	return nil
}

// namesBelongTo says whether every name and address in the request is one of the node's.
func namesBelongTo(r *x509.CertificateRequest, node *corev1.Node) bool {
	for _, name := range r.DNSNames {
		if !slices.ContainsFunc(node.Status.Addresses, func(a corev1.NodeAddress) bool {
			named := a.Type == corev1.NodeHostName || a.Type == corev1.NodeInternalDNS || a.Type == corev1.NodeExternalDNS
			return named && strings.EqualFold(a.Address, name)
		}) {
			return false
		}
	}
	for _, ip := range r.IPAddresses {
		if !slices.ContainsFunc(node.Status.Addresses, func(a corev1.NodeAddress) bool {
			return (a.Type == corev1.NodeInternalIP || a.Type == corev1.NodeExternalIP) && ip.Equal(net.ParseIP(a.Address))
		}) {
			return false
		}
	}
	return true
}
