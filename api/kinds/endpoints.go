package kinds

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// endpointsMadeBy is the label by which the endpoints controller marks the Endpoints it writes.
const endpointsMadeBy = "endpoints.kubernetes.io/managed-by"

// Endpoints is core/v1 endpoints, which EndpointSlices have replaced (deprecated since 1.33) but clients still read.
func Endpoints() *Kind {
	return &Kind{
		GroupVersionKind: corev1.SchemeGroupVersion.WithKind("Endpoints"),
		Plural:           "endpoints",
		Singular:         "endpoints",
		ShortNames:       []string{"ep"},
		Namespaced:       true,
		Verbs:            all,
		New:              func() runtime.Object { return new(corev1.Endpoints) },
		NewList:          func() runtime.Object { return new(corev1.EndpointsList) },
		StoragePrefix:    "services/endpoints",
		Default: defaulting(func(e *corev1.Endpoints) {
			for i := range e.Subsets {
				for j := range e.Subsets[i].Ports {
					if p := &e.Subsets[i].Ports[j]; p.Protocol == "" {
						p.Protocol = corev1.ProtocolTCP
					}
				}
			}
		}),
		Validate: checking(func(e *corev1.Endpoints) field.ErrorList {
			errs := ValidateMeta(&e.ObjectMeta, true, NameIsDNSSubdomain)
			return append(errs, validateSubsets(e, nil)...)
		}),
		ValidateUpdate: checkingUpdate(func(e, old *corev1.Endpoints) field.ErrorList {
			errs := append(ValidateMetaUpdate(&e.ObjectMeta, &old.ObjectMeta), ValidateMeta(&e.ObjectMeta, true, NameIsDNSSubdomain)...)
			return append(errs, validateSubsets(e, old)...)
		}),
		Warnings:         warningsOf(func(e, _ *corev1.Endpoints) []string { return warnEndpoints(e) }),
		ValidateName:     NameIsDNSSubdomain,
		Notices:          []string{"v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"},
		FieldLabels:      metaFieldLabels,
		SelectableFields: namespacedMetaFields,
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("Endpoints", "string", corev1.Endpoints{}.SwaggerDoc()["subsets"]),
			ageColumn(),
		},
		Row: row(func(e *corev1.Endpoints, now time.Time) []any {
			return []any{e.Name, formatSubsets(e.Subsets), age(e.CreationTimestamp, now)}
		}),
		AllowCreateOnUpdate:      true,
		AllowUnconditionalUpdate: true,
	}
}

// formatSubsets lists the first three ready address:port pairs and counts the rest.
func formatSubsets(subsets []corev1.EndpointSubset) string {
	const shown = 3
	var words []string
	count := 0
	note := func(word string) {
		if count++; len(words) < shown {
			words = append(words, word)
		}
	}
	for i := range subsets {
		s := &subsets[i]
		if len(s.Ports) == 0 {
			for _, a := range s.Addresses {
				note(a.IP)
			}
			continue
		}
		for _, p := range s.Ports {
			for _, a := range s.Addresses {
				note(net.JoinHostPort(a.IP, strconv.Itoa(int(p.Port))))
			}
		}
	}
	text := strings.Join(words, ",")
	if count > shown {
		return fmt.Sprintf("%s + %d more...", text, count-shown)
	}
	return orNone(text)
}

func validateSubsets(e, old *corev1.Endpoints) (errs field.ErrorList) {
	var before []string
	if old != nil {
		for i := range old.Subsets {
			for _, a := range old.Subsets[i].Addresses {
				before = append(before, a.IP)
			}
			for _, a := range old.Subsets[i].NotReadyAddresses {
				before = append(before, a.IP)
			}
		}
	}
	path := field.NewPath("subsets")
	for i := range e.Subsets {
		s, at := &e.Subsets[i], path.Index(i)
		if len(s.Addresses) == 0 && len(s.NotReadyAddresses) == 0 {
			errs = append(errs, field.Required(at, "must specify `addresses` or `notReadyAddresses`"))
		}
		for j := range s.Addresses {
			errs = append(errs, validateEndpointAddress(&s.Addresses[j], before, at.Child("addresses").Index(j))...)
		}
		for j := range s.NotReadyAddresses {
			errs = append(errs, validateEndpointAddress(&s.NotReadyAddresses[j], before, at.Child("notReadyAddresses").Index(j))...)
		}
		for j := range s.Ports {
			errs = append(errs, validateEndpointPort(&s.Ports[j], len(s.Ports) > 1, at.Child("ports").Index(j))...)
		}
	}
	return errs
}

func validateEndpointAddress(a *corev1.EndpointAddress, before []string, at *field.Path) (errs field.ErrorList) {
	errs = append(errs, validation.IsValidIPForLegacyField(at.Child("ip"), a.IP, true, before)...)
	if a.Hostname != "" {
		for _, sentence := range validation.IsDNS1123Label(a.Hostname) {
			errs = append(errs, field.Invalid(at.Child("hostname"), a.Hostname, sentence))
		}
	}
	if a.NodeName != nil {
		for _, sentence := range NameIsDNSSubdomain(*a.NodeName, false) {
			errs = append(errs, field.Invalid(at.Child("nodeName"), *a.NodeName, sentence))
		}
	}
	return append(errs, validateOrdinaryIP(a.IP, at.Child("ip"))...)
}

func validateEndpointPort(p *corev1.EndpointPort, needsName bool, at *field.Path) (errs field.ErrorList) {
	if p.Name == "" {
		if needsName {
			errs = append(errs, field.Required(at.Child("name"), ""))
		}
	} else {
		for _, sentence := range validation.IsDNS1123Label(p.Name) {
			errs = append(errs, field.Invalid(at.Child("name"), p.Name, sentence))
		}
	}
	for _, sentence := range validation.IsValidPortNum(int(p.Port)) {
		errs = append(errs, field.Invalid(at.Child("port"), p.Port, sentence))
	}
	errs = append(errs, validateProtocol(p.Protocol, at.Child("protocol"))...)
	if p.AppProtocol != nil {
		for _, sentence := range validation.IsQualifiedName(*p.AppProtocol) {
			errs = append(errs, field.Invalid(at.Child("appProtocol"), *p.AppProtocol, sentence))
		}
	}
	return errs
}

func warnEndpoints(e *corev1.Endpoints) (warnings []string) {
	// The controller that writes most Endpoints need not be told.
	if e.Labels[endpointsMadeBy] != "" {
		return nil
	}
	for i := range e.Subsets {
		at := field.NewPath("subsets").Index(i)
		for j, a := range e.Subsets[i].Addresses {
			warnings = append(warnings, validation.GetWarningsForIP(at.Child("addresses").Index(j).Child("ip"), a.IP)...)
		}
		for j, a := range e.Subsets[i].NotReadyAddresses {
			warnings = append(warnings, validation.GetWarningsForIP(at.Child("notReadyAddresses").Index(j).Child("ip"), a.IP)...)
		}
	}
	return warnings
}
