package admission

import (
	"context"
	"fmt"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// trustBundleAttest lets only those say whom a signer's certificates are to be trusted by who may attest for that signer.
type trustBundleAttest struct {
	authorizer authorizer.UnconditionalAuthorizer
}

func (*trustBundleAttest) Handles(op admission.Operation) bool {
	return handles(op, admission.Create, admission.Update)
}

// Validate implements admission.ValidationInterface.
func (p *trustBundleAttest) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetResource().GroupResource() != certificatesv1.Resource("clustertrustbundles") {
		return nil
	}
	bundle, ok := a.GetObject().(*certificatesv1.ClusterTrustBundle)
	if !ok {
		return unexpected(a)
	}
	if bundle.Spec.SignerName == "" || collectsGarbageOnly(a, bundle) || maySignFor(ctx, a.GetUserInfo(), "attest", bundle.Spec.SignerName, p.authorizer) {
		return nil
	}
	return admission.NewForbidden(a, fmt.Errorf("user not permitted to attest for signerName %q", bundle.Spec.SignerName))
}

// collectsGarbageOnly says whether an update of a bundle changes nothing but what the garbage collector and a migration of the store change.
func collectsGarbageOnly(a admission.Attributes, bundle *certificatesv1.ClusterTrustBundle) bool {
	old, ok := a.GetOldObject().(*certificatesv1.ClusterTrustBundle)
	if !ok || a.GetOperation() != admission.Update {
		return false
	}
	bundle, old = bundle.DeepCopy(), old.DeepCopy()
	for _, m := range []*metav1.ObjectMeta{&bundle.ObjectMeta, &old.ObjectMeta} {
		m.OwnerReferences, m.Finalizers, m.ManagedFields = nil, nil, nil
	}
	return equality.Semantic.DeepEqual(bundle, old)
}

// podCertificateSigning lets only those answer a pod's request for a certificate who may sign for its signer. Upstream asks where the status
// is validated: a refusal is an invalid object.
type podCertificateSigning struct {
	authorizer authorizer.UnconditionalAuthorizer
}

func (*podCertificateSigning) Handles(op admission.Operation) bool { return op == admission.Update }

// Validate implements admission.ValidationInterface.
func (p *podCertificateSigning) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetResource().GroupResource() != certificatesv1.Resource("podcertificaterequests") || a.GetSubresource() != "status" {
		return nil
	}
	request, ok := a.GetObject().(*certificatesv1.PodCertificateRequest)
	old, okOld := a.GetOldObject().(*certificatesv1.PodCertificateRequest)
	if !ok || !okOld {
		return unexpected(a)
	}
	signer := old.Spec.SignerName
	if equality.Semantic.DeepEqual(request.Status, old.Status) || maySignFor(ctx, a.GetUserInfo(), "sign", signer, p.authorizer) {
		return nil
	}
	return apierrors.NewInvalid(a.GetKind().GroupKind(), request.Name, field.ErrorList{
		field.Forbidden(field.NewPath("spec", "signerName"), fmt.Sprintf("User %q is not permitted to \"sign\" for signer %q", a.GetUserInfo().GetName(), signer))})
}

// podCertificate: a node asks for certificates of its own pods only, as the service account they run as, and of signers that they name.
func (p *nodeRestriction) podCertificate(ctx context.Context, node string, a admission.Attributes) error {
	refuse := func(format string, args ...any) error { return admission.NewForbidden(a, fmt.Errorf(format, args...)) }
	if a.GetOperation() != admission.Create {
		return refuse("unexpected operation %v", a.GetOperation())
	}
	if a.GetSubresource() != "" {
		return refuse("unexpected subresource %v", a.GetSubresource())
	}
	request, ok := a.GetObject().(*certificatesv1.PodCertificateRequest)
	if !ok {
		return unexpected(a)
	}
	spec, name := &request.Spec, a.GetNamespace()+"/"+request.Spec.PodName
	if string(spec.NodeName) != node {
		return refuse("PodCertificateRequest.Spec.NodeName=%q, which is not the requesting node %q", spec.NodeName, node)
	}
	// A UID that differs may be one that is not known here yet: no refusal, so that the node tries again.
	looked := func(what, name string, err error) error {
		err = fmt.Errorf("while retrieving %s %q named in the PodCertificateRequest: %w", what, name, err)
		if apierrors.IsNotFound(err) {
			return err
		}
		return admission.NewForbidden(a, err)
	}
	object, err := p.cluster.node(ctx, node)
	if err != nil {
		return looked("node", node, err)
	}
	if object.UID != spec.NodeUID {
		return fmt.Errorf("PodCertificateRequest for pod %q names node UID %q, inconsistent with the running node (%q)", name, spec.NodeUID, object.UID)
	}
	pod, err := p.cluster.podOnNode(ctx, a.GetNamespace(), spec.PodName, node)
	if err != nil {
		return looked("pod", name, err)
	}
	if pod.UID != spec.PodUID {
		return fmt.Errorf("PodCertificateRequest for pod %q contains pod UID (%q) which differs from running pod %q", name, spec.PodUID, pod.UID)
	}
	_, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]
	switch {
	case pod.Spec.NodeName != node:
		return refuse("pod %q is not running on node %q named in the PodCertificateRequest", name, node)
	case mirror:
		return refuse("pod %q is a mirror pod", name)
	case pod.Spec.ServiceAccountName != spec.ServiceAccountName:
		return refuse("PodCertificateRequest for pod %q contains serviceAccountName (%q) that differs from running pod (%q)", name, spec.ServiceAccountName, pod.Spec.ServiceAccountName)
	}
	account, err := p.cluster.serviceAccount(ctx, a.GetNamespace(), spec.ServiceAccountName)
	if err != nil {
		return looked("service account", a.GetNamespace()+"/"+spec.ServiceAccountName, err)
	}
	if account.UID != spec.ServiceAccountUID {
		return fmt.Errorf("PodCertificateRequest for pod %q names service account UID %q, which differs from the running service account (%q)", name, spec.ServiceAccountUID, account.UID)
	}
	if !asksSigner(pod, spec.SignerName) {
		return refuse("pod %q does not mount a podCertificate projected volume for signer %q", name, spec.SignerName)
	}
	return nil
}

// asksSigner says whether a pod has a volume with a certificate of a signer.
func asksSigner(pod *corev1.Pod, signer string) bool {
	for i := range pod.Spec.Volumes {
		if p := pod.Spec.Volumes[i].Projected; p != nil {
			for _, s := range p.Sources {
				if s.PodCertificate != nil && s.PodCertificate.SignerName == signer {
					return true
				}
			}
		}
	}
	return false
}
