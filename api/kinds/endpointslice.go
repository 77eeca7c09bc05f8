package kinds

import (
	"fmt"
	"maps"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	contentvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// EndpointSlices is discovery.k8s.io/v1 endpointslices (KEP-752).
func EndpointSlices() *Kind {
	return &Kind{
		GroupVersionKind: discoveryv1.SchemeGroupVersion.WithKind("EndpointSlice"),
		Plural:           "endpointslices",
		Singular:         "endpointslice",
		Namespaced:       true,
		Verbs:            all,
		New:              func() runtime.Object { return new(discoveryv1.EndpointSlice) },
		NewList:          func() runtime.Object { return new(discoveryv1.EndpointSliceList) },
		StoragePrefix:    "endpointslices",
		Default:          defaulting(defaultEndpointSlice),
		PrepareForCreate: onCreate(func(s *discoveryv1.EndpointSlice) {
			s.Generation = 1
			dropDeprecatedTopology(s, nil)
		}),
		PrepareForUpdate: onUpdate(func(s, old *discoveryv1.EndpointSlice) {
			// Labels count as content: they bind the slice to its service.
			if s.AddressType != old.AddressType || !maps.Equal(s.Labels, old.Labels) ||
				!apiequality.Semantic.DeepEqual(s.Endpoints, old.Endpoints) || !apiequality.Semantic.DeepEqual(s.Ports, old.Ports) {
				s.Generation = old.Generation + 1
			}
			dropDeprecatedTopology(s, old)
		}),
		Validate: checking(func(s *discoveryv1.EndpointSlice) field.ErrorList {
			errs := ValidateMeta(&s.ObjectMeta, true, NameIsDNSSubdomain)
			errs = append(errs, validateAddressType(s.AddressType)...)
			return append(errs, validateSlice(s)...)
		}),
		ValidateUpdate: checkingUpdate(func(s, old *discoveryv1.EndpointSlice) field.ErrorList {
			errs := ValidateMetaUpdate(&s.ObjectMeta, &old.ObjectMeta)
			errs = append(errs, ValidateMeta(&s.ObjectMeta, true, NameIsDNSSubdomain)...)
			errs = append(errs, validateAddressType(s.AddressType)...)
			errs = append(errs, validation.ValidateImmutableField(s.AddressType, old.AddressType, field.NewPath("addressType"))...)
			return append(errs, validateSlice(s)...)
		}),
		Warnings:         warningsOf(warnSlice),
		ValidateName:     NameIsDNSSubdomain,
		FieldLabels:      metaFieldLabels,
		SelectableFields: namespacedMetaFields,
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("AddressType", "string", discoveryv1.EndpointSlice{}.SwaggerDoc()["addressType"]),
			column("Ports", "string", discoveryv1.EndpointSlice{}.SwaggerDoc()["ports"]),
			column("Endpoints", "string", discoveryv1.EndpointSlice{}.SwaggerDoc()["endpoints"]),
			ageColumn(),
		},
		Row: row(func(s *discoveryv1.EndpointSlice, now time.Time) []any {
			return []any{s.Name, string(s.AddressType), formatSlicePorts(s.Ports), formatSliceEndpoints(s.Endpoints), age(s.CreationTimestamp, now)}
		}),
		AllowUnconditionalUpdate: true,
	}
}

func defaultEndpointSlice(s *discoveryv1.EndpointSlice) {
	for i := range s.Ports {
		p := &s.Ports[i]
		if p.Name == nil {
			p.Name = new(string)
		}
		if p.Protocol == nil {
			tcp := corev1.ProtocolTCP
			p.Protocol = &tcp
		}
	}
}

// dropDeprecatedTopology removes what v1beta1 had and v1 may only carry along while the endpoints stay as they are; its node
// name moves to where v1 has it.
func dropDeprecatedTopology(s, old *discoveryv1.EndpointSlice) {
	if old != nil && apiequality.Semantic.DeepEqual(s.Endpoints, old.Endpoints) {
		return
	}
	for i := range s.Endpoints {
		e := &s.Endpoints[i]
		if node := e.DeprecatedTopology[corev1.LabelHostname]; node != "" && e.NodeName == nil {
			e.NodeName = &node
		}
		e.DeprecatedTopology = nil
	}
}

// Bounds of one slice, from KEP-752.
const (
	maxSliceEndpoints    = 1000
	maxEndpointAddresses = 100
	maxSlicePorts        = 20000
	maxTopologyHints     = 8
)

var addressTypes = []discoveryv1.AddressType{discoveryv1.AddressTypeFQDN, discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6}

func validateAddressType(t discoveryv1.AddressType) field.ErrorList {
	path := field.NewPath("addressType")
	switch t {
	case discoveryv1.AddressTypeFQDN, discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6:
		return nil
	case "":
		return field.ErrorList{field.Required(path, "")}
	}
	return field.ErrorList{field.NotSupported(path, t, addressTypes)}
}

func validateSlice(s *discoveryv1.EndpointSlice) field.ErrorList {
	return append(validateSliceEndpoints(s), validateSlicePorts(s.Ports)...)
}

func validateSliceEndpoints(s *discoveryv1.EndpointSlice) (errs field.ErrorList) {
	path := field.NewPath("endpoints")
	if len(s.Endpoints) > maxSliceEndpoints {
		return append(errs, field.TooMany(path, len(s.Endpoints), maxSliceEndpoints))
	}
	for i := range s.Endpoints {
		e, at := &s.Endpoints[i], path.Index(i)
		addresses := at.Child("addresses")
		switch n := len(e.Addresses); {
		case n == 0:
			errs = append(errs, field.Required(addresses, ""))
		case n > maxEndpointAddresses:
			errs = append(errs, field.TooMany(addresses, n, maxEndpointAddresses))
		}
		for j, a := range e.Addresses {
			errs = append(errs, validateSliceAddress(a, j, s.AddressType, addresses)...)
		}
		if e.NodeName != nil {
			for _, sentence := range NameIsDNSSubdomain(*e.NodeName, false) {
				errs = append(errs, field.Invalid(at.Child("nodeName"), *e.NodeName, sentence))
			}
		}
		if len(e.DeprecatedTopology) > 0 {
			for key, value := range e.DeprecatedTopology {
				for _, sentence := range contentvalidation.IsQualifiedName(key) {
					errs = append(errs, field.Invalid(at.Child("deprecatedTopology"), key, sentence))
				}
				for _, sentence := range contentvalidation.IsValidLabelValue(value) {
					errs = append(errs, field.Invalid(at.Child("deprecatedTopology").Key(key), value, sentence))
				}
			}
		}
		if e.Hostname != nil {
			for _, sentence := range contentvalidation.IsDNS1123Label(*e.Hostname) {
				errs = append(errs, field.Invalid(at.Child("hostname"), *e.Hostname, sentence))
			}
		}
		if e.Hints != nil {
			errs = append(errs, validateHints(e.Hints, at.Child("hints"))...)
		}
	}
	return errs
}

func validateSliceAddress(a string, i int, t discoveryv1.AddressType, at *field.Path) (errs field.ErrorList) {
	switch t {
	case discoveryv1.AddressTypeIPv4:
		errs = append(errs, contentvalidation.IsValidIP(at.Index(i), a)...)
		if len(errs) == 0 && addressFamily(a) != corev1.IPv4Protocol {
			errs = append(errs, field.Invalid(at, a, "must be an IPv4 address"))
		}
	case discoveryv1.AddressTypeIPv6:
		errs = append(errs, contentvalidation.IsValidIP(at.Index(i), a)...)
		if len(errs) == 0 && addressFamily(a) != corev1.IPv6Protocol {
			errs = append(errs, field.Invalid(at, a, "must be an IPv6 address"))
		}
	case discoveryv1.AddressTypeFQDN:
		return contentvalidation.IsFullyQualifiedDomainName(at.Index(i), a)
	default:
		return nil
	}
	if len(errs) == 0 {
		errs = append(errs, validateOrdinaryIP(a, at.Index(i))...)
	}
	return errs
}

func validateHints(h *discoveryv1.EndpointHints, at *field.Path) (errs field.ErrorList) {
	zones := at.Child("forZones")
	if len(h.ForZones) > maxTopologyHints {
		errs = append(errs, field.TooMany(zones, len(h.ForZones), maxTopologyHints))
	} else {
		seen := map[string]bool{}
		for i, z := range h.ForZones {
			if seen[z.Name] {
				errs = append(errs, field.Duplicate(zones.Index(i).Child("name"), z.Name))
			}
			seen[z.Name] = true
			for _, sentence := range contentvalidation.IsValidLabelValue(z.Name) {
				errs = append(errs, field.Invalid(zones.Index(i).Child("name"), z.Name, sentence))
			}
		}
	}
	nodes := at.Child("forNodes")
	if len(h.ForNodes) > maxTopologyHints {
		return append(errs, field.TooMany(nodes, len(h.ForNodes), maxTopologyHints))
	}
	seen := map[string]bool{}
	for i, n := range h.ForNodes {
		if seen[n.Name] {
			errs = append(errs, field.Duplicate(nodes.Index(i).Child("name"), n.Name))
		}
		seen[n.Name] = true
		for _, sentence := range NameIsDNSSubdomain(n.Name, false) {
			errs = append(errs, field.Invalid(nodes.Index(i).Child("name"), n.Name, sentence))
		}
	}
	return errs
}

func validateSlicePorts(ports []discoveryv1.EndpointPort) (errs field.ErrorList) {
	path := field.NewPath("ports")
	if len(ports) > maxSlicePorts {
		return append(errs, field.TooMany(path, len(ports), maxSlicePorts))
	}
	seen := make(map[string]bool, len(ports))
	for i := range ports {
		p, at := &ports[i], path.Index(i)
		if p.Name != nil && *p.Name != "" {
			for _, sentence := range contentvalidation.IsDNS1123Label(*p.Name) {
				errs = append(errs, field.Invalid(at.Child("name"), *p.Name, sentence))
			}
		}
		name := ""
		if p.Name != nil {
			name = *p.Name
		}
		if seen[name] {
			errs = append(errs, field.Duplicate(at.Child("name"), p.Name))
		}
		seen[name] = true
		if p.Protocol == nil {
			errs = append(errs, field.Required(at.Child("protocol"), ""))
		} else {
			errs = append(errs, validateProtocol(*p.Protocol, at.Child("protocol"))...)
		}
		if p.Port != nil {
			for _, sentence := range contentvalidation.IsValidPortNum(int(*p.Port)) {
				errs = append(errs, field.Invalid(at.Child("port"), *p.Port, sentence))
			}
		}
		if p.AppProtocol != nil {
			for _, sentence := range contentvalidation.IsQualifiedName(*p.AppProtocol) {
				errs = append(errs, field.Invalid(at.Child("appProtocol"), *p.AppProtocol, sentence))
			}
		}
	}
	return errs
}

func warnSlice(s, old *discoveryv1.EndpointSlice) (warnings []string) {
	if s.AddressType == discoveryv1.AddressTypeFQDN && old == nil {
		warnings = append(warnings, "spec.addressType: FQDN endpoints are deprecated")
	}
	if s.Labels[discoveryv1.LabelManagedBy] == "endpointslice-controller.k8s.io" {
		return warnings
	}
	for i := range s.Endpoints {
		for j, a := range s.Endpoints[i].Addresses {
			warnings = append(warnings, contentvalidation.GetWarningsForIP(field.NewPath("endpoints").Index(i).Child("addresses").Index(j), a)...)
		}
	}
	return warnings
}

func formatSlicePorts(ports []discoveryv1.EndpointPort) string {
	if len(ports) == 0 {
		return "<unset>"
	}
	words := make([]string, 0, len(ports))
	for i := range ports {
		switch p := &ports[i]; {
		case p.Port != nil:
			words = append(words, fmt.Sprint(*p.Port))
		case p.Name != nil:
			words = append(words, *p.Name)
		default:
			words = append(words, "*")
		}
	}
	return firstThree(words)
}

func formatSliceEndpoints(endpoints []discoveryv1.Endpoint) string {
	if len(endpoints) == 0 {
		return "<unset>"
	}
	var words []string
	for i := range endpoints {
		words = append(words, endpoints[i].Addresses...)
	}
	return firstThree(words)
}

// firstThree joins the first three words and counts the rest.
func firstThree(words []string) string {
	if len(words) > 3 {
		return fmt.Sprintf("%s + %d more...", strings.Join(words[:3], ","), len(words)-3)
	}
	return strings.Join(words, ",")
}
