package admission

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/admission"

	"wherry.dev/wherry/apiserver/authz"
	"wherry.dev/wherry/lifecycle"
)

// nodeRestriction holds each kubelet to its own Node, its own pods, and what these need; it checks what the node
// authorizer cannot see, the content of requests.
type nodeRestriction struct{ cluster *cluster }

func (*nodeRestriction) Handles(op admission.Operation) bool {
	return handles(op, admission.Create, admission.Update, admission.Delete)
}

// Admit implements admission.MutationInterface, as upstream's does: a refusal comes before validation tells details.
func (p *nodeRestriction) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	node, ok := authz.NodeName(a.GetUserInfo())
	if !ok {
		return nil
	}
	if node == "" {
		return admission.NewForbidden(a, fmt.Errorf("could not determine node from user %q", a.GetUserInfo().GetName()))
	}
	resource := a.GetResource().GroupResource()
	switch resource.String() {
	case "pods":
		switch a.GetSubresource() {
		case "":
			return p.pod(ctx, node, a)
		case "status":
			return p.podStatus(node, a)
		case "eviction":
			return p.eviction(ctx, node, a)
		}
		return admission.NewForbidden(a, fmt.Errorf("unexpected pod subresource %q, only 'status' and 'eviction' are allowed", a.GetSubresource()))
	case "nodes":
		return p.node(node, a)
	case "persistentvolumeclaims":
		if a.GetSubresource() != "status" {
			return admission.NewForbidden(a, errors.New("may only update PVC status"))
		}
		return p.claimStatus(node, a)
	case "serviceaccounts":
		return p.token(ctx, node, a)
	case "leases.coordination.k8s.io":
		return p.lease(node, a)
	case "csinodes.storage.k8s.io":
		return p.csiNode(node, a)
	case "certificatesigningrequests.certificates.k8s.io":
		return p.signingRequest(node, a)
	case "podcertificaterequests.certificates.k8s.io":
		return p.podCertificate(ctx, node, a)
	}
	return nil
}

func unexpected(a admission.Attributes) error {
	return admission.NewForbidden(a, fmt.Errorf("unexpected type %T", a.GetObject()))
}

func (p *nodeRestriction) pod(ctx context.Context, node string, a admission.Attributes) error {
	switch a.GetOperation() {
	case admission.Create:
		return p.mirrorPod(ctx, node, a)
	case admission.Delete:
		pod, err := p.cluster.podOnNode(ctx, a.GetNamespace(), a.GetName(), node)
		if apierrors.IsNotFound(err) {
			return err
		}
		if err != nil {
			return admission.NewForbidden(a, err)
		}
		if pod.Spec.NodeName != node {
			return admission.NewForbidden(a, fmt.Errorf("node %q can only delete pods with spec.nodeName set to itself", node))
		}
		return nil
	}
	return admission.NewForbidden(a, fmt.Errorf("unexpected operation %q, node %q can only create and delete mirror pods", a.GetOperation(), node))
}

// mirrorPod: a node may only create the image of a static pod of its own, which refers to nothing in the API.
func (p *nodeRestriction) mirrorPod(ctx context.Context, node string, a admission.Attributes) error {
	pod, ok := a.GetObject().(*corev1.Pod)
	if !ok {
		return unexpected(a)
	}
	refuse := func(format string, args ...any) error { return admission.NewForbidden(a, fmt.Errorf(format, args...)) }
	if _, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]; !mirror {
		return refuse("pod does not have %q annotation, node %q can only create mirror pods", corev1.MirrorPodAnnotationKey, node)
	}
	if pod.Spec.NodeName != node {
		return refuse("node %q can only create pods with spec.nodeName set to itself", node)
	}
	if len(pod.OwnerReferences) != 1 {
		return refuse("node %q can only create pods with a single owner reference set to itself", node)
	}
	owner := pod.OwnerReferences[0]
	switch {
	case owner.APIVersion != "v1" || owner.Kind != "Node" || owner.Name != node:
		return refuse("node %q can only create pods with an owner reference set to itself", node)
	case owner.Controller == nil || !*owner.Controller:
		return refuse("node %q can only create pods with a controller owner reference set to itself", node)
	case owner.BlockOwnerDeletion != nil && *owner.BlockOwnerDeletion:
		return refuse("node %q must not set blockOwnerDeletion on an owner reference", node)
	}
	object, err := p.cluster.node(ctx, node)
	if apierrors.IsNotFound(err) {
		return err
	}
	if err != nil {
		return refuse("error looking up node %s to verify uid: %w", node, err)
	}
	if owner.UID != object.UID {
		return refuse("node %s UID mismatch: expected %s got %s", node, owner.UID, object.UID)
	}
	if what := apiReferences(pod); what != "" {
		return refuse("node %q can not create pods that reference %s", node, what)
	}
	return nil
}

// apiReferences names the first kind of object that a pod refers to, or nothing.
func apiReferences(pod *corev1.Pod) string {
	switch {
	case pod.Spec.ServiceAccountName != "":
		return "serviceaccounts"
	case len(secretNames(pod)) > 0:
		return "secrets"
	case usesConfigMaps(pod):
		return "configmaps"
	case len(pod.Spec.ResourceClaims) > 0:
		return "resourceclaims"
	}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		switch {
		case v.PersistentVolumeClaim != nil, v.Ephemeral != nil:
			return "persistentvolumeclaims"
		case v.Projected != nil:
			for j := range v.Projected.Sources {
				switch s := &v.Projected.Sources[j]; {
				case s.ServiceAccountToken != nil:
					return "serviceaccounts"
				case s.ClusterTrustBundle != nil:
					return "clustertrustbundles"
				case s.PodCertificate != nil:
					return "podcertificates"
				}
			}
		}
	}
	return ""
}

func (p *nodeRestriction) podStatus(node string, a admission.Attributes) error {
	if a.GetOperation() != admission.Update {
		return admission.NewForbidden(a, fmt.Errorf("unexpected operation %q", a.GetOperation()))
	}
	pod, ok := a.GetObject().(*corev1.Pod)
	old, okOld := a.GetOldObject().(*corev1.Pod)
	if !ok || !okOld {
		return unexpected(a)
	}
	switch {
	case old.Spec.NodeName != node:
		return admission.NewForbidden(a, fmt.Errorf("node %q can only update pod status for pods with spec.nodeName set to itself", node))
	case !equality.Semantic.DeepEqual(old.Labels, pod.Labels):
		return admission.NewForbidden(a, fmt.Errorf("node %q cannot update labels through pod status", node))
	case !equality.Semantic.DeepEqual(old.Status.ResourceClaimStatuses, pod.Status.ResourceClaimStatuses):
		return admission.NewForbidden(a, fmt.Errorf("node %q cannot update resource claim statues", node))
	}
	return nil
}

func (p *nodeRestriction) eviction(ctx context.Context, node string, a admission.Attributes) error {
	if a.GetOperation() != admission.Create {
		return admission.NewForbidden(a, fmt.Errorf("unexpected operation %s", a.GetOperation()))
	}
	name := a.GetName()
	if name == "" {
		eviction, ok := a.GetObject().(*policyv1.Eviction)
		if !ok {
			return unexpected(a)
		}
		if name = eviction.Name; name == "" {
			return admission.NewForbidden(a, errors.New("could not determine pod from request data"))
		}
	}
	pod, err := p.cluster.podOnNode(ctx, a.GetNamespace(), name, node)
	if apierrors.IsNotFound(err) {
		return err
	}
	if err != nil {
		return admission.NewForbidden(a, err)
	}
	if pod.Spec.NodeName != node {
		return admission.NewForbidden(a, fmt.Errorf("node %s can only evict pods with spec.nodeName set to itself", node))
	}
	return nil
}

func (p *nodeRestriction) claimStatus(node string, a admission.Attributes) error {
	if a.GetOperation() != admission.Update {
		return admission.NewForbidden(a, fmt.Errorf("unexpected operation %q", a.GetOperation()))
	}
	claim, ok := a.GetObject().(*corev1.PersistentVolumeClaim)
	old, okOld := a.GetOldObject().(*corev1.PersistentVolumeClaim)
	if !ok || !okOld {
		return unexpected(a)
	}
	left, right := old.DeepCopy(), claim.DeepCopy()
	for _, c := range []*corev1.PersistentVolumeClaim{left, right} { // what a resize on the node may change
		c.Status.Capacity, c.Status.Conditions = nil, nil
		c.Status.AllocatedResources, c.Status.AllocatedResourceStatuses = nil, nil
		c.Status.CurrentVolumeAttributesClassName, c.Status.ModifyVolumeStatus = nil, nil
		c.ObjectMeta.ManagedFields = nil
	}
	if !equality.Semantic.DeepEqual(left, right) {
		return admission.NewForbidden(a, fmt.Errorf("node %q is not allowed to update fields other than status.quantity and status.conditions", node))
	}
	return nil
}

func (p *nodeRestriction) node(node string, a admission.Attributes) error {
	refuse := func(format string, args ...any) error { return admission.NewForbidden(a, fmt.Errorf(format, args...)) }
	name := a.GetName()
	if object, ok := a.GetObject().(*corev1.Node); ok && name == "" {
		name = object.Name
	}
	if name != node {
		return refuse("node %q is not allowed to modify node %q", node, name)
	}
	switch a.GetOperation() {
	case admission.Create:
		object, ok := a.GetObject().(*corev1.Node)
		if !ok {
			return unexpected(a)
		}
		if object.Spec.ConfigSource != nil {
			return refuse("node %q is not allowed to create pods with a non-nil configSource", node)
		}
		if labels := forbiddenLabels(object.Labels, nil); len(labels) > 0 {
			return refuse("node %q is not allowed to set the following labels: %s", node, strings.Join(labels, ", "))
		}
	case admission.Update:
		object, ok := a.GetObject().(*corev1.Node)
		old, okOld := a.GetOldObject().(*corev1.Node)
		if !ok || !okOld {
			return unexpected(a)
		}
		switch {
		case object.Spec.ConfigSource != nil && !equality.Semantic.DeepEqual(object.Spec.ConfigSource, old.Spec.ConfigSource):
			return refuse("node %q is not allowed to update configSource to a new non-nil configSource", node)
		case !equality.Semantic.DeepEqual(object.Spec.Taints, old.Spec.Taints):
			return refuse("node %q is not allowed to modify taints", node)
		case !equality.Semantic.DeepEqual(object.OwnerReferences, old.OwnerReferences):
			return refuse("node %q is not allowed to modify ownerReferences", node)
		}
		if labels := forbiddenLabels(object.Labels, old.Labels); len(labels) > 0 {
			return refuse("is not allowed to modify labels: %s", strings.Join(labels, ", "))
		}
	}
	return nil
}

// forbiddenLabels returns, sorted, the changed labels that a kubelet may not set: by them it could draw privileged pods to itself.
func forbiddenLabels(labels, old map[string]string) []string {
	var forbidden []string
	check := func(key string) {
		if labels[key] == old[key] {
			if _, in := labels[key]; in {
				if _, in := old[key]; in {
					return
				}
			}
		}
		if !kubeletMaySet(key) && !slices.Contains(forbidden, key) {
			forbidden = append(forbidden, key)
		}
	}
	for key := range labels {
		check(key)
	}
	for key := range old {
		check(key)
	}
	slices.Sort(forbidden)
	return forbidden
}

// kubeletMaySet knows the labels of the kubernetes.io and k8s.io domains that are a kubelet's own (KEP-279).
func kubeletMaySet(key string) bool {
	domain, _, ok := strings.Cut(key, "/")
	if !ok {
		return true
	}
	under := func(parent string) bool { return domain == parent || strings.HasSuffix(domain, "."+parent) }
	if under("node-restriction.kubernetes.io") {
		return false
	}
	if !under("kubernetes.io") && !under("k8s.io") {
		return true
	}
	switch key {
	case corev1.LabelHostname, corev1.LabelTopologyZone, corev1.LabelTopologyRegion, corev1.LabelFailureDomainBetaZone,
		corev1.LabelFailureDomainBetaRegion, corev1.LabelInstanceType, corev1.LabelInstanceTypeStable, corev1.LabelOSStable,
		corev1.LabelArchStable, "beta.kubernetes.io/os", "beta.kubernetes.io/arch", corev1.LabelWindowsBuild:
		return true
	}
	return under("kubelet.kubernetes.io") || under("node.kubernetes.io")
}

// token: a node may only ask for tokens that are bound to a pod of its own, and then for audiences that the pod names.
func (p *nodeRestriction) token(ctx context.Context, node string, a admission.Attributes) error {
	if a.GetOperation() != admission.Create || a.GetSubresource() != "token" {
		return nil
	}
	request, ok := a.GetObject().(*authenticationv1.TokenRequest)
	if !ok {
		return unexpected(a)
	}
	ref := request.Spec.BoundObjectRef
	if ref == nil || ref.APIVersion != "v1" || ref.Kind != "Pod" || ref.Name == "" {
		return admission.NewForbidden(a, errors.New("node requested token not bound to a pod"))
	}
	if ref.UID == "" {
		return admission.NewForbidden(a, errors.New("node requested token with a pod binding without a uid"))
	}
	pod, err := p.cluster.podOnNode(ctx, a.GetNamespace(), ref.Name, node)
	if apierrors.IsNotFound(err) {
		return err
	}
	if err != nil {
		return admission.NewForbidden(a, err)
	}
	if ref.UID != pod.UID {
		return admission.NewForbidden(a, fmt.Errorf("the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", ref.UID))
	}
	if pod.Spec.NodeName != node {
		return admission.NewForbidden(a, errors.New("node requested token bound to a pod scheduled on a different node"))
	}
	return nil
}

// lease: the heartbeat of the node and its acknowledgement Lease (lifecycle/drain.go), by their names.
func (p *nodeRestriction) lease(node string, a admission.Attributes) error {
	own := node
	switch a.GetNamespace() {
	case "kube-node-lease":
	case lifecycle.DrainNamespace:
		own = lifecycle.DrainLeasePrefix + node
	default:
		return admission.NewForbidden(a, fmt.Errorf("can only access leases in the %q system namespace", "kube-node-lease"))
	}
	name := a.GetName()
	if a.GetOperation() == admission.Create {
		lease, ok := a.GetObject().(*coordinationv1.Lease)
		if !ok {
			return unexpected(a)
		}
		name = lease.Name
	}
	if name != own {
		return admission.NewForbidden(a, errors.New("can only access node lease with the same name as the requesting node"))
	}
	return nil
}

func (p *nodeRestriction) csiNode(node string, a admission.Attributes) error {
	name := a.GetName()
	if a.GetOperation() == admission.Create {
		object, ok := a.GetObject().(*storagev1.CSINode)
		if !ok {
			return unexpected(a)
		}
		name = object.Name
	}
	if name != node {
		return admission.NewForbidden(a, errors.New("can only access CSINode with the same name as the requesting node"))
	}
	return nil
}

// signingRequest: a node's certificates carry that node's name.
func (p *nodeRestriction) signingRequest(node string, a admission.Attributes) error {
	if a.GetOperation() != admission.Create {
		return nil
	}
	csr, ok := a.GetObject().(*certificatesv1.CertificateSigningRequest)
	if !ok {
		return unexpected(a)
	}
	if csr.Spec.SignerName != certificatesv1.KubeletServingSignerName && csr.Spec.SignerName != certificatesv1.KubeAPIServerClientKubeletSignerName {
		return nil
	}
	request, err := parseRequest(csr.Spec.Request)
	if err != nil {
		return admission.NewForbidden(a, fmt.Errorf("unable to parse csr: %w", err))
	}
	if request.Subject.CommonName != "system:node:"+node {
		return admission.NewForbidden(a, fmt.Errorf("can only create a node CSR with CN=system:node:%s", node))
	}
	return nil
}

func parseRequest(data []byte) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, errors.New("PEM block type must be CERTIFICATE REQUEST")
	}
	return x509.ParseCertificateRequest(block.Bytes)
}
