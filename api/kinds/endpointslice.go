package kinds

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	contentvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
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
			dropDeprecatedTopology(s)
		}),
		PrepareForUpdate: onUpdate(func(s, old *discoveryv1.EndpointSlice) {
			// Labels count as content: they bind the slice to its service.
			same := slices.EqualFunc(s.Endpoints, old.Endpoints, sameEndpoint)
			if s.AddressType != old.AddressType || !maps.Equal(s.Labels, old.Labels) || !same || !slices.EqualFunc(s.Ports, old.Ports, samePort) {
				s.Generation = old.Generation + 1
			}
			if !same {
				dropDeprecatedTopology(s)
			}
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

// sameEndpoint compares field by field: by reflection this was half the cost of an update.
func sameEndpoint(a, b discoveryv1.Endpoint) bool {
	return slices.Equal(a.Addresses, b.Addresses) &&
		equalPointers(a.Conditions.Ready, b.Conditions.Ready) && equalPointers(a.Conditions.Serving, b.Conditions.Serving) &&
		equalPointers(a.Conditions.Terminating, b.Conditions.Terminating) &&
		equalPointers(a.Hostname, b.Hostname) && equalPointers(a.TargetRef, b.TargetRef) &&
		equalPointers(a.NodeName, b.NodeName) && equalPointers(a.Zone, b.Zone) &&
		maps.Equal(a.DeprecatedTopology, b.DeprecatedTopology) &&
		(a.Hints == b.Hints || a.Hints != nil && b.Hints != nil &&
			slices.Equal(a.Hints.ForZones, b.Hints.ForZones) && slices.Equal(a.Hints.ForNodes, b.Hints.ForNodes))
}

func samePort(a, b discoveryv1.EndpointPort) bool {
	return equalPointers(a.Name, b.Name) && equalPointers(a.Protocol, b.Protocol) && equalPointers(a.Port, b.Port) && equalPointers(a.AppProtocol, b.AppProtocol)
}

// dropDeprecatedTopology removes what v1beta1 had, and v1 may only carry along while the endpoints stay as they are; its node
// name moves to where v1 has it.
func dropDeprecatedTopology(s *discoveryv1.EndpointSlice) {
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

// validateSliceEndpoints is on the path of every pod that becomes ready, for every pod beside it: an endpoint with
// nothing wrong costs no allocation.
func validateSliceEndpoints(s *discoveryv1.EndpointSlice) field.ErrorList {
	var f faults
	path := &where{name: "endpoints"}
	if len(s.Endpoints) > maxSliceEndpoints {
		return field.ErrorList{field.TooMany(path.path(), len(s.Endpoints), maxSliceEndpoints)}
	}
	for i := range s.Endpoints {
		e, at := &s.Endpoints[i], path.at(i)
		addresses := at.field("addresses")
		switch n := len(e.Addresses); {
		case n == 0:
			f.required(addresses, "")
		case n > maxEndpointAddresses:
			f.add(field.ErrorList{field.TooMany(addresses.path(), n, maxEndpointAddresses)})
		}
		for j, a := range e.Addresses {
			if !isPlainAddress(a, s.AddressType) {
				f.add(validateSliceAddress(a, j, s.AddressType, addresses.path()))
			}
		}
		if e.NodeName != nil {
			f.dnsSubdomain(at.field("nodeName"), *e.NodeName)
		}
		for key, value := range e.DeprecatedTopology {
			f.qualifiedName(at.field("deprecatedTopology"), key)
			f.labelValue(at.field("deprecatedTopology").key(key), value)
		}
		if e.Hostname != nil {
			f.dnsLabel(at.field("hostname"), *e.Hostname)
		}
		if e.Hints != nil {
			f.hints(at.field("hints"), e.Hints)
		}
	}
	return f.list
}

// isPlainAddress reports whether a is an ordinary address of the family, spelled as it should be. That it is not says
// only that validateSliceAddress must look closer.
func isPlainAddress(a string, t discoveryv1.AddressType) bool {
	ip, err := netip.ParseAddr(a)
	if err != nil || ip.Zone() != "" || ip.Is4In6() || ip.IsUnspecified() || ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.IsLinkLocalMulticast() {
		return false
	}
	var spelled [64]byte
	return string(ip.AppendTo(spelled[:0])) == a &&
		(t == discoveryv1.AddressTypeIPv4 && ip.Is4() || t == discoveryv1.AddressTypeIPv6 && ip.Is6())
}

// validateSliceAddress says what is wrong with the i-th address at path. A wrong family is the whole field's fault.
func validateSliceAddress(a string, i int, t discoveryv1.AddressType, path *field.Path) (errs field.ErrorList) {
	switch t {
	case discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6:
	case discoveryv1.AddressTypeFQDN:
		return contentvalidation.IsFullyQualifiedDomainName(path.Index(i), a)
	default:
		return nil
	}
	errs = contentvalidation.IsValidIP(path.Index(i), a)
	switch family := addressFamily(a); {
	case len(errs) > 0:
		return errs
	case t == discoveryv1.AddressTypeIPv4 && family != corev1.IPv4Protocol:
		return field.ErrorList{field.Invalid(path, a, "must be an IPv4 address")}
	case t == discoveryv1.AddressTypeIPv6 && family != corev1.IPv6Protocol:
		return field.ErrorList{field.Invalid(path, a, "must be an IPv6 address")}
	}
	return validateOrdinaryIP(a, path.Index(i))
}

// hints checks for whom an endpoint is meant (KEP-2433, KEP-3015).
func (f *faults) hints(w *where, h *discoveryv1.EndpointHints) {
	zones, nodes := w.field("forZones"), w.field("forNodes")
	if len(h.ForZones) > maxTopologyHints {
		f.add(field.ErrorList{field.TooMany(zones.path(), len(h.ForZones), maxTopologyHints)})
	} else {
		for i, z := range h.ForZones {
			if slices.Contains(h.ForZones[:i], z) {
				f.duplicate(zones.at(i).field("name"), z.Name)
			}
			f.labelValue(zones.at(i).field("name"), z.Name)
		}
	}
	if len(h.ForNodes) > maxTopologyHints {
		f.add(field.ErrorList{field.TooMany(nodes.path(), len(h.ForNodes), maxTopologyHints)})
		return
	}
	for i, n := range h.ForNodes {
		if slices.Contains(h.ForNodes[:i], n) {
			f.duplicate(nodes.at(i).field("name"), n.Name)
		}
		f.dnsSubdomain(nodes.at(i).field("name"), n.Name)
	}
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
			var f faults
			knownValue(&f, whereOf(at.Child("protocol")), *p.Protocol, []corev1.Protocol{corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP})
			errs = append(errs, f.list...)
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
			if s.AddressType == discoveryv1.AddressTypeFQDN && netutils.ParseIPSloppy(a) == nil {
				continue // a name, which the library would log as an error
			}
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
