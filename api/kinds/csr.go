package kinds

import (
	"context"
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apiserver/pkg/endpoints/request"
)

// CertificateSigningRequests is certificates.k8s.io/v1 certificatesigningrequests. Who asks is written down by the
// server, not by the client; approvers write conditions through one subresource, signers the certificate through another.
func CertificateSigningRequests() *Kind {
	return &Kind{
		GroupVersionKind: certificatesv1.SchemeGroupVersion.WithKind("CertificateSigningRequest"),
		Plural:           "certificatesigningrequests",
		Singular:         "certificatesigningrequest",
		ShortNames:       []string{"csr"},
		Verbs:            all,
		New:              func() runtime.Object { return new(certificatesv1.CertificateSigningRequest) },
		NewList:          func() runtime.Object { return new(certificatesv1.CertificateSigningRequestList) },
		StoragePrefix:    "certificatesigningrequests",
		Resets:           []string{"spec"},
		PrepareForCreate: func(ctx context.Context, obj runtime.Object) {
			nameRequestor(ctx, obj.(*certificatesv1.CertificateSigningRequest))
		},
		PrepareForUpdate: onUpdate(func(c, old *certificatesv1.CertificateSigningRequest) {
			c.Spec = old.Spec
			c.Status = old.Status
		}),
		Validate:       checking(validateCSR),
		ValidateUpdate: checkingUpdate(validateCSRUpdate),
		ValidateName:   NameIsPathSegment,
		Subresources: map[string]*Subresource{
			"status": {
				Verbs: viewVerbs,
				PrepareForUpdate: onUpdate(func(c, old *certificatesv1.CertificateSigningRequest) {
					c.Spec = old.Spec
					keepDecisions(c, old)
					stampConditions(c, old, metav1.Now())
				}),
				ValidateUpdate: checkingUpdate(validateCSRStatus),
			},
			"approval": {
				Verbs: viewVerbs,
				PrepareForUpdate: onUpdate(func(c, old *certificatesv1.CertificateSigningRequest) {
					conditions := c.Status.Conditions
					c.Spec = old.Spec
					c.Status = old.Status
					c.Status.Conditions = conditions
					stampConditions(c, old, metav1.Now())
				}),
				ValidateUpdate: checkingUpdate(validateCSRApproval),
			},
		},
		FieldLabels: []string{"metadata.name", "spec.signerName"},
		SelectableFields: selecting(func(c *certificatesv1.CertificateSigningRequest) fields.Set {
			set := metaFields(&c.ObjectMeta, false, 1)
			set["spec.signerName"] = c.Spec.SignerName
			return set
		}),
		Columns: []metav1.TableColumnDefinition{
			nameColumn(), ageColumn(),
			column("SignerName", "string", certificatesv1.CertificateSigningRequestSpec{}.SwaggerDoc()["signerName"]),
			column("Requestor", "string", certificatesv1.CertificateSigningRequestSpec{}.SwaggerDoc()["request"]),
			column("RequestedDuration", "string", certificatesv1.CertificateSigningRequestSpec{}.SwaggerDoc()["expirationSeconds"]),
			column("Condition", "string", certificatesv1.CertificateSigningRequestStatus{}.SwaggerDoc()["conditions"]),
		},
		Row: row(func(c *certificatesv1.CertificateSigningRequest, now time.Time) []any {
			wanted := "<none>"
			if s := c.Spec.ExpirationSeconds; s != nil {
				wanted = duration.HumanDuration(time.Duration(*s) * time.Second)
			}
			return []any{c.Name, age(c.CreationTimestamp, now), orNone(c.Spec.SignerName), c.Spec.Username, wanted, csrCondition(c)}
		}),
		AllowUnconditionalUpdate: true,
	}
}

// nameRequestor writes down who sent the request. A context without a user (the server itself) leaves it empty.
func nameRequestor(ctx context.Context, c *certificatesv1.CertificateSigningRequest) {
	c.Spec.Username, c.Spec.UID, c.Spec.Groups, c.Spec.Extra = "", "", nil, nil
	if u, ok := request.UserFrom(ctx); ok {
		c.Spec.Username = u.GetName()
		c.Spec.UID = u.GetUID()
		c.Spec.Groups = u.GetGroups()
		if extra := u.GetExtra(); len(extra) > 0 {
			c.Spec.Extra = make(map[string]certificatesv1.ExtraValue, len(extra))
			for k, v := range extra {
				c.Spec.Extra[k] = v
			}
		}
	}
	c.Status = certificatesv1.CertificateSigningRequestStatus{}
}

// keepDecisions takes the approval and denial of a status update from what is stored: they are the approval subresource's.
// Those left out or added are validation's to refuse.
func keepDecisions(c, old *certificatesv1.CertificateSigningRequest) {
	for i := range c.Status.Conditions {
		x := &c.Status.Conditions[i]
		if x.Type != certificatesv1.CertificateApproved && x.Type != certificatesv1.CertificateDenied {
			continue
		}
		for _, o := range old.Status.Conditions {
			if o.Type == x.Type {
				*x = o
			}
		}
	}
}

// stampConditions dates conditions that their writer did not: the transition is now unless the condition said the same before.
func stampConditions(c, old *certificatesv1.CertificateSigningRequest, now metav1.Time) {
	for i := range c.Status.Conditions {
		x := &c.Status.Conditions[i]
		if x.LastUpdateTime.IsZero() {
			x.LastUpdateTime = now
		}
		if x.LastTransitionTime.IsZero() {
			x.LastTransitionTime = now
			for _, o := range old.Status.Conditions {
				if o.Type == x.Type && o.Status == x.Status && !o.LastTransitionTime.IsZero() {
					x.LastTransitionTime = o.LastTransitionTime
				}
			}
		}
	}
}

// csrCondition is the decision (denial wins, whatever the conditions' status) and what became of it.
func csrCondition(c *certificatesv1.CertificateSigningRequest) string {
	has := func(t certificatesv1.RequestConditionType) bool {
		return slices.ContainsFunc(c.Status.Conditions, func(x certificatesv1.CertificateSigningRequestCondition) bool { return x.Type == t })
	}
	word := "Pending"
	switch {
	case has(certificatesv1.CertificateDenied):
		word = "Denied"
	case has(certificatesv1.CertificateApproved):
		word = "Approved"
	}
	if has(certificatesv1.CertificateFailed) {
		word += ",Failed"
	}
	if len(c.Status.Certificate) > 0 {
		word += ",Issued"
	}
	return word
}
