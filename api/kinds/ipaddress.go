package kinds

import (
	"strings"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	contentvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// IPAddresses is networking.k8s.io/v1 ipaddresses (KEP-1880): the record of which service has which address. The API
// server's allocator writes them; a client that makes one takes the address out of circulation.
func IPAddresses() *Kind {
	validate := func(a *networkingv1.IPAddress) field.ErrorList {
		f := faults{list: ValidateMeta(&a.ObjectMeta, false, nameIsIP)}
		w := (&where{name: "spec"}).field("parentRef")
		ref := a.Spec.ParentRef
		if ref == nil {
			f.required(w, "")
			return f.list
		}
		if ref.Group != "" { // services have none
			f.dnsSubdomain(w.field("group"), ref.Group)
		}
		f.neededSegment(w.field("resource"), ref.Resource)
		f.neededSegment(w.field("name"), ref.Name)
		if ref.Namespace != "" {
			f.each(w.field("namespace"), ref.Namespace, content.IsPathSegmentName(ref.Namespace))
		}
		return f.list
	}
	return &Kind{
		GroupVersionKind: networkingv1.SchemeGroupVersion.WithKind("IPAddress"),
		Plural:           "ipaddresses",
		Singular:         "ipaddress",
		ShortNames:       []string{"ip"},
		Verbs:            all,
		New:              func() runtime.Object { return new(networkingv1.IPAddress) },
		NewList:          func() runtime.Object { return new(networkingv1.IPAddressList) },
		StoragePrefix:    "ipaddresses",
		Validate:         checking(validate),
		ValidateUpdate: checkingUpdate(func(a, old *networkingv1.IPAddress) field.ErrorList {
			errs := append(validate(a), ValidateMetaUpdate(&a.ObjectMeta, &old.ObjectMeta)...)
			return append(errs, validation.ValidateImmutableField(a.Spec.ParentRef, old.Spec.ParentRef, specPath.Child("parentRef"))...)
		}),
		ValidateName:     nameIsIP,
		FieldLabels:      metaFieldLabels,
		SelectableFields: clusterMetaFields,
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("ParentRef", "string", networkingv1.IPAddressSpec{}.SwaggerDoc()["parentRef"]),
		},
		Row: row(func(a *networkingv1.IPAddress, _ time.Time) []any {
			parent := "<none>"
			if ref := a.Spec.ParentRef; ref != nil {
				parent = strings.ToLower(schema.GroupResource{Group: ref.Group, Resource: ref.Resource}.String())
				if ref.Namespace != "" {
					parent += "/" + ref.Namespace
				}
				parent += "/" + ref.Name
			}
			return []any{a.Name, parent}
		}),
		AllowUnconditionalUpdate: true,
	}
}

// nameIsIP accepts addresses spelled as they should be. Names are not generated.
func nameIsIP(name string, _ bool) (sentences []string) {
	for _, err := range contentvalidation.IsValidIP(nil, name) {
		sentences = append(sentences, err.Detail)
	}
	return sentences
}
