package kinds

import (
	"strings"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	contentvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
)

// ServiceCIDRs is networking.k8s.io/v1 servicecidrs (KEP-1880): the ranges of cluster addresses.
func ServiceCIDRs() *Kind {
	return &Kind{
		GroupVersionKind: networkingv1.SchemeGroupVersion.WithKind("ServiceCIDR"),
		Plural:           "servicecidrs",
		Singular:         "servicecidr",
		Verbs:            all,
		New:              func() runtime.Object { return new(networkingv1.ServiceCIDR) },
		NewList:          func() runtime.Object { return new(networkingv1.ServiceCIDRList) },
		StoragePrefix:    "servicecidrs",
		PrepareForCreate: onCreate(func(c *networkingv1.ServiceCIDR) { c.Status = networkingv1.ServiceCIDRStatus{} }),
		PrepareForUpdate: onUpdate(func(c, old *networkingv1.ServiceCIDR) { c.Status = old.Status }),
		Validate: checking(func(c *networkingv1.ServiceCIDR) field.ErrorList {
			return append(ValidateMeta(&c.ObjectMeta, false, NameIsDNSSubdomain), validateCIDRs(c.Spec.CIDRs)...)
		}),
		ValidateUpdate: checkingUpdate(func(c, old *networkingv1.ServiceCIDR) field.ErrorList {
			return append(ValidateMetaUpdate(&c.ObjectMeta, &old.ObjectMeta), validateCIDRsUpdate(c.Spec.CIDRs, old.Spec.CIDRs)...)
		}),
		ValidateName: NameIsDNSSubdomain,
		Subresources: map[string]*Subresource{
			"status": {
				Verbs:  viewVerbs,
				Resets: []string{"metadata"},
				PrepareForUpdate: onUpdate(func(c, old *networkingv1.ServiceCIDR) {
					c.Spec = old.Spec
					metav1.ResetObjectMetaForStatus(&c.ObjectMeta, &old.ObjectMeta)
				}),
				ValidateUpdate: checkingUpdate(func(c, old *networkingv1.ServiceCIDR) field.ErrorList {
					return ValidateMetaUpdate(&c.ObjectMeta, &old.ObjectMeta)
				}),
			},
		},
		FieldLabels:      metaFieldLabels,
		SelectableFields: clusterMetaFields,
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("CIDRs", "string", networkingv1.ServiceCIDRSpec{}.SwaggerDoc()["cidrs"]),
			ageColumn(),
		},
		Row: row(func(c *networkingv1.ServiceCIDR, now time.Time) []any {
			return []any{c.Name, strings.Join(c.Spec.CIDRs, ","), age(c.CreationTimestamp, now)}
		}),
		AllowUnconditionalUpdate: true,
	}
}

var cidrsPath = specPath.Child("cidrs")

func validateCIDRs(cidrs []string) (errs field.ErrorList) {
	switch n := len(cidrs); {
	case n == 0:
		return field.ErrorList{field.Required(cidrsPath, "at least one CIDR required")}
	case n > 2:
		return field.ErrorList{field.Invalid(cidrsPath, cidrs, "may only hold up to 2 values")}
	}
	for i, c := range cidrs {
		errs = append(errs, contentvalidation.IsValidCIDR(cidrsPath.Index(i), c)...)
	}
	if len(cidrs) == 2 {
		if f := netutils.IPFamilyOfCIDRString(cidrs[0]); f != netutils.IPFamilyUnknown && f == netutils.IPFamilyOfCIDRString(cidrs[1]) {
			errs = append(errs, field.Invalid(cidrsPath, cidrs, "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64"))
		}
	}
	return errs
}

// validateCIDRsUpdate lets a second family be added, and nothing else change.
func validateCIDRsUpdate(cidrs, old []string) (errs field.ErrorList) {
	switch {
	case len(cidrs) == len(old):
		for i := range old {
			if cidrs[i] != old[i] {
				errs = append(errs, field.Invalid(cidrsPath.Index(i), cidrs[i], validation.FieldImmutableErrorMsg))
			}
		}
		return errs
	case len(old) == 1 && len(cidrs) == 2:
		if cidrs[0] != old[0] {
			errs = append(errs, field.Invalid(cidrsPath.Index(0), cidrs[0], validation.FieldImmutableErrorMsg))
		}
		return append(errs, validateCIDRs(cidrs)...)
	}
	return field.ErrorList{field.Invalid(cidrsPath, cidrs, validation.FieldImmutableErrorMsg)}
}
