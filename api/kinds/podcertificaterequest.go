package kinds

import (
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	certificatesv1beta1 "k8s.io/api/certificates/v1beta1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
)

// PodCertificateRequests is certificates.k8s.io/v1 podcertificaterequests (KEP-4317), stored as v1beta1: a node asks a signer for a certificate that a pod mounts.
// A request has one answer, which stays. That only the signer gives it is admission's to see.
func PodCertificateRequests() *Kind {
	doc := certificatesv1.PodCertificateRequestSpec{}.SwaggerDoc()
	return &Kind{
		GroupVersionKind: certificatesv1.SchemeGroupVersion.WithKind("PodCertificateRequest"),
		Plural:           "podcertificaterequests",
		Singular:         "podcertificaterequest",
		Namespaced:       true,
		Verbs:            all,
		New:              func() runtime.Object { return new(certificatesv1.PodCertificateRequest) },
		NewList:          func() runtime.Object { return new(certificatesv1.PodCertificateRequestList) },
		StoragePrefix:    "podcertificaterequests",
		Hub: storedAs(certificatesv1.SchemeGroupVersion.WithKind("PodCertificateRequest"), certificatesv1beta1.SchemeGroupVersion.WithKind("PodCertificateRequest"),
			func() message { return new(certificatesv1.PodCertificateRequest) }, func() message { return new(certificatesv1beta1.PodCertificateRequest) }).
			keeping(func(next, stored runtime.Object) { // the key as it was asked for before there was a stub request, in a cluster that was upgraded
				to, from := &next.(*certificatesv1beta1.PodCertificateRequest).Spec, &stored.(*certificatesv1beta1.PodCertificateRequest).Spec
				to.PKIXPublicKey, to.ProofOfPossession = from.PKIXPublicKey, from.ProofOfPossession
			}),
		HubOpens: true,
		Default: defaulting(func(r *certificatesv1.PodCertificateRequest) {
			if r.Spec.MaxExpirationSeconds == nil {
				r.Spec.MaxExpirationSeconds = ptrTo[int32](24 * 60 * 60)
			}
		}),
		PrepareForCreate: onCreate(func(r *certificatesv1.PodCertificateRequest) { r.Status = certificatesv1.PodCertificateRequestStatus{} }),
		PrepareForUpdate: onUpdate(func(r, old *certificatesv1.PodCertificateRequest) { r.Status = old.Status }),
		Validate:         checking(validatePodCertificateRequest),
		ValidateUpdate:   checkingUpdate(validatePodCertificateRequestUpdate),
		ValidateName:     NameIsDNSSubdomain,
		Subresources: map[string]*Subresource{
			"status": {
				Verbs:  viewVerbs,
				Resets: []string{"metadata"},
				PrepareForUpdate: onUpdate(func(r, old *certificatesv1.PodCertificateRequest) {
					r.Spec = old.Spec
					metav1.ResetObjectMetaForStatus(&r.ObjectMeta, &old.ObjectMeta)
				}),
				ValidateUpdate: checkingUpdate(validatePodCertificateRequestStatus),
			},
		},
		FieldLabels: []string{"metadata.name", "spec.signerName", "spec.podName", "spec.nodeName"},
		SelectableFields: selecting(func(r *certificatesv1.PodCertificateRequest) fields.Set {
			set := metaFields(&r.ObjectMeta, true, 3)
			set["spec.signerName"], set["spec.podName"], set["spec.nodeName"] = r.Spec.SignerName, r.Spec.PodName, string(r.Spec.NodeName)
			return set
		}),
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("PodName", "string", doc["podName"]),
			column("ServiceAccountName", "string", doc["serviceAccountName"]),
			column("NodeName", "string", doc["nodeName"]),
			column("SignerName", "string", doc["signerName"]),
			column("State", "string", "Is the request Pending, Issued, Denied, or Failed?"),
			column("UnverifiedUserAnnotations", "string", doc["unverifiedUserAnnotations"]),
		},
		Row: row(func(r *certificatesv1.PodCertificateRequest, _ time.Time) []any {
			state := "Pending"
			for _, c := range r.Status.Conditions {
				if isOutcome(c.Type) {
					state = c.Type
				}
			}
			return []any{r.Name, r.Spec.PodName, r.Spec.ServiceAccountName, string(r.Spec.NodeName), r.Spec.SignerName, state, labels.FormatLabels(r.Spec.UnverifiedUserAnnotations)}
		}),
	}
}
