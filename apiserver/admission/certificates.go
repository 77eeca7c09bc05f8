package admission

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

func signingRequestOf(a admission.Attributes, subresource string) (fresh, old *certificatesv1.CertificateSigningRequest, ok bool) {
	if a.GetResource().GroupResource() != certificatesv1.Resource("certificatesigningrequests") || a.GetSubresource() != subresource {
		return nil, nil, false
	}
	fresh, ok = a.GetObject().(*certificatesv1.CertificateSigningRequest)
	old, _ = a.GetOldObject().(*certificatesv1.CertificateSigningRequest)
	return fresh, old, ok
}

// maySignFor asks whether the user has verb on the signer, by its name or by its domain's wildcard.
func maySignFor(ctx context.Context, who user.Info, verb, signer string, auth authorizer.UnconditionalAuthorizer) bool {
	domain, _, _ := strings.Cut(signer, "/")
	for _, name := range []string{signer, domain + "/*"} {
		decision, _, _ := auth.Authorize(ctx, authorizer.AttributesRecord{
			User: who, Verb: verb, APIGroup: certificatesv1.GroupName, APIVersion: "*", Resource: "signers", Name: name, ResourceRequest: true})
		if decision == authorizer.DecisionAllow {
			return true
		}
	}
	return false
}

// certificateApproval lets only those approve or deny who may do so for the request's signer.
type certificateApproval struct {
	authorizer authorizer.UnconditionalAuthorizer
}

func (*certificateApproval) Handles(op admission.Operation) bool { return op == admission.Update }

// Validate implements admission.ValidationInterface.
func (p *certificateApproval) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	csr, _, ok := signingRequestOf(a, "approval")
	if !ok || maySignFor(ctx, a.GetUserInfo(), "approve", csr.Spec.SignerName, p.authorizer) {
		return nil
	}
	return admission.NewForbidden(a, fmt.Errorf("user not permitted to approve requests with signerName %q", csr.Spec.SignerName))
}

// certificateSigning lets only those put a certificate (or a failure) into a request who may sign for its signer.
type certificateSigning struct {
	authorizer authorizer.UnconditionalAuthorizer
}

func (*certificateSigning) Handles(op admission.Operation) bool { return op == admission.Update }

// Validate implements admission.ValidationInterface.
func (p *certificateSigning) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	csr, old, ok := signingRequestOf(a, "status")
	if !ok || old == nil {
		return nil
	}
	if bytes.Equal(csr.Status.Certificate, old.Status.Certificate) && slices.EqualFunc(csr.Status.Conditions, old.Status.Conditions,
		func(x, y certificatesv1.CertificateSigningRequestCondition) bool {
			return x.Type == y.Type && x.Status == y.Status && x.Reason == y.Reason && x.Message == y.Message
		}) {
		return nil
	}
	if maySignFor(ctx, a.GetUserInfo(), "sign", old.Spec.SignerName, p.authorizer) {
		return nil
	}
	return admission.NewForbidden(a, fmt.Errorf("user not permitted to sign requests with signerName %q", old.Spec.SignerName))
}

// certificateSubject keeps system:masters, which bypasses authorization, out of client certificates made by the API.
type certificateSubject struct{}

func (certificateSubject) Handles(op admission.Operation) bool { return op == admission.Create }

// Validate implements admission.ValidationInterface.
func (certificateSubject) Validate(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	csr, _, ok := signingRequestOf(a, "")
	if !ok || csr.Spec.SignerName != certificatesv1.KubeAPIServerClientSignerName {
		return nil
	}
	request, err := parseRequest(csr.Spec.Request)
	if err != nil {
		return admission.NewForbidden(a, fmt.Errorf("failed to parse CSR: %w", err))
	}
	if slices.Contains(request.Subject.Organization, user.SystemPrivilegedGroup) {
		return admission.NewForbidden(a, fmt.Errorf("use of %s signer with %s group is not allowed", certificatesv1.KubeAPIServerClientSignerName, user.SystemPrivilegedGroup))
	}
	return nil
}
