package kinds

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
)

// validateOrdinaryIP refuses addresses that mean "here" or "this link": traffic for them would never leave a node.
func validateOrdinaryIP(value string, path *field.Path) (errs field.ErrorList) {
	ip := netutils.ParseIPSloppy(value)
	if ip == nil {
		return field.ErrorList{field.Invalid(path, value, "must be a valid IP address")}
	}
	refuse := func(refused bool, detail string) {
		if refused {
			errs = append(errs, field.Invalid(path, value, detail))
		}
	}
	refuse(ip.IsUnspecified(), fmt.Sprintf("may not be unspecified (%v)", value))
	refuse(ip.IsLoopback(), "may not be in the loopback range (127.0.0.0/8, ::1/128)")
	refuse(ip.IsLinkLocalUnicast(), "may not be in the link-local range (169.254.0.0/16, fe80::/10)")
	refuse(ip.IsLinkLocalMulticast(), "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)")
	return errs
}

// validateClusterIPFields checks clusterIP, clusterIPs, ipFamilies and ipFamilyPolicy against each other (KEP-563).
func validateClusterIPFields(s, old *corev1.Service) (errs field.ErrorList) {
	if s.Spec.Type == corev1.ServiceTypeExternalName {
		return nil
	}
	spec := &s.Spec
	ipsPath, familiesPath := specPath.Child("clusterIPs"), specPath.Child("ipFamilies")
	switch {
	case spec.ClusterIP == "" && len(spec.ClusterIPs) > 0:
		errs = append(errs, field.Invalid(ipsPath, spec.ClusterIPs, "must be empty when `clusterIP` is not specified"))
	case spec.ClusterIP != "" && len(spec.ClusterIPs) == 0:
		errs = append(errs, field.Required(ipsPath, ""))
	case len(spec.ClusterIPs) > 0 && spec.ClusterIPs[0] != spec.ClusterIP:
		errs = append(errs, field.Invalid(ipsPath, spec.ClusterIPs, "first value must match `clusterIP`"))
	}

	seen := make(map[corev1.IPFamily]bool, 2)
	for i, family := range spec.IPFamilies {
		if !knownFamily(family) {
			errs = append(errs, field.NotSupported(familiesPath.Index(i), family, []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}))
		}
		if seen[family] {
			errs = append(errs, field.Duplicate(familiesPath.Index(i), family))
		}
		seen[family] = true
	}
	if p := spec.IPFamilyPolicy; p != nil {
		switch *p {
		case corev1.IPFamilyPolicySingleStack, corev1.IPFamilyPolicyPreferDualStack, corev1.IPFamilyPolicyRequireDualStack:
		default:
			errs = append(errs, field.NotSupported(specPath.Child("ipFamilyPolicy"), *p, []corev1.IPFamilyPolicy{
				corev1.IPFamilyPolicyPreferDualStack, corev1.IPFamilyPolicyRequireDualStack, corev1.IPFamilyPolicySingleStack,
			}))
		}
	}

	var before []string
	if old != nil {
		before = old.Spec.ClusterIPs
	}
	if len(spec.ClusterIPs) == 1 && spec.ClusterIPs[0] == corev1.ClusterIPNone {
		return errs
	}
	right := true
	for i, ip := range spec.ClusterIPs {
		if ip == corev1.ClusterIPNone && i == 0 {
			errs = append(errs, field.Invalid(ipsPath, spec.ClusterIPs, "'None' must be the first and only value"))
			right = false
			continue
		}
		if wrong := validation.IsValidIPForLegacyField(ipsPath.Index(i), ip, true, before); len(wrong) > 0 {
			errs = append(errs, wrong...)
			right = false
		}
	}
	if len(spec.ClusterIPs) > 2 {
		errs = append(errs, field.Invalid(ipsPath, spec.ClusterIPs, "may only hold up to 2 values"))
	}
	if !right {
		return errs
	}
	if len(spec.ClusterIPs) == 2 && addressFamily(spec.ClusterIPs[0]) == addressFamily(spec.ClusterIPs[1]) {
		errs = append(errs, field.Invalid(ipsPath, spec.ClusterIPs, "may specify no more than one IP for each IP family"))
	}
	for i, ip := range spec.ClusterIPs {
		if i < len(spec.IPFamilies) && knownFamily(spec.IPFamilies[i]) && addressFamily(ip) != spec.IPFamilies[i] {
			errs = append(errs, field.Invalid(ipsPath.Index(i), ip, fmt.Sprintf("expected an %v value as indicated by `ipFamilies[%v]`", spec.IPFamilies[i], i)))
		}
	}
	return errs
}

func knownFamily(f corev1.IPFamily) bool { return f == corev1.IPv4Protocol || f == corev1.IPv6Protocol }

// addressFamily returns the family of a right address, and "" of another.
func addressFamily(value string) corev1.IPFamily {
	ip, err := netip.ParseAddr(value)
	switch {
	case err != nil:
		return ""
	case ip.Unmap().Is4():
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}

// validateServiceBalancer checks the fields that are the load balancer's.
func validateServiceBalancer(s, old *corev1.Service) (errs field.ErrorList) {
	const only = "may only be used when `type` is 'LoadBalancer'"
	spec := &s.Spec
	balanced := spec.Type == corev1.ServiceTypeLoadBalancer

	if ranges := specPath.Child("LoadBalancerSourceRanges"); len(spec.LoadBalancerSourceRanges) > 0 {
		if !balanced {
			errs = append(errs, field.Forbidden(ranges, only))
		}
		var before []string
		if old != nil {
			before = old.Spec.LoadBalancerSourceRanges
		}
		for i, value := range spec.LoadBalancerSourceRanges {
			// Spaces around a range have always been accepted.
			errs = append(errs, validation.IsValidCIDRForLegacyField(ranges.Index(i), strings.TrimSpace(value), true, before)...)
		}
	} else if value, ok := s.Annotations[corev1.AnnotationLoadBalancerSourceRangesKey]; ok {
		at := metadataPath.Child("annotations").Key(corev1.AnnotationLoadBalancerSourceRangesKey)
		if !balanced {
			errs = append(errs, field.Forbidden(at, only))
		}
		if value = strings.TrimSpace(value); value != "" {
			for _, cidr := range strings.Split(value, ",") {
				errs = append(errs, validation.IsValidCIDRForLegacyField(at, strings.TrimSpace(cidr), false, nil)...)
			}
		}
	}

	allocate := specPath.Child("allocateLoadBalancerNodePorts")
	if balanced && spec.AllocateLoadBalancerNodePorts == nil {
		errs = append(errs, field.Required(allocate, ""))
	}
	if !balanced && spec.AllocateLoadBalancerNodePorts != nil {
		errs = append(errs, field.Forbidden(allocate, only))
	}
	return append(errs, validateBalancerClass(s, old)...)
}

// validateBalancerClass checks spec.loadBalancerClass (KEP-1959), which says who makes the load balancer and so cannot change under it.
func validateBalancerClass(s, old *corev1.Service) (errs field.ErrorList) {
	path := specPath.Child("loadBalancerClass")
	balanced := s.Spec.Type == corev1.ServiceTypeLoadBalancer
	if old != nil && old.Spec.Type == corev1.ServiceTypeLoadBalancer && balanced && !equalPointers(s.Spec.LoadBalancerClass, old.Spec.LoadBalancerClass) {
		errs = append(errs, field.Invalid(path, s.Spec.LoadBalancerClass, "may not change once set"))
	}
	if s.Spec.LoadBalancerClass == nil {
		return errs
	}
	if !balanced {
		return append(errs, field.Forbidden(path, "may only be used when `type` is 'LoadBalancer'"))
	}
	for _, sentence := range validation.IsQualifiedName(*s.Spec.LoadBalancerClass) {
		errs = append(errs, field.Invalid(path, *s.Spec.LoadBalancerClass, sentence))
	}
	return errs
}

func validateServiceUpdate(s, old *corev1.Service) field.ErrorList {
	errs := ValidateMetaUpdate(&s.ObjectMeta, &old.ObjectMeta)
	errs = append(errs, validateClusterIPChange(s, old)...)
	if usesHealthCheckNodePort(s) && usesHealthCheckNodePort(old) && s.Spec.HealthCheckNodePort != old.Spec.HealthCheckNodePort {
		errs = append(errs, field.Invalid(specPath.Child("healthCheckNodePort"), s.Spec.HealthCheckNodePort, "field is immutable"))
	}
	return append(errs, validateServiceSpec(s, old)...)
}

// validateClusterIPChange holds the primary address and family for as long as a service has them: clients and
// proxies have remembered them. The secondary ones follow ipFamilyPolicy.
func validateClusterIPChange(s, old *corev1.Service) (errs field.ErrorList) {
	if !usesClusterIP(s) || !usesClusterIP(old) {
		return nil
	}
	spec, was := &s.Spec, &old.Spec
	ips, families := specPath.Child("clusterIPs"), specPath.Child("ipFamilies")
	if len(was.ClusterIPs) > 0 {
		switch {
		case len(spec.ClusterIPs) == 0:
			errs = append(errs, field.Invalid(ips.Index(0), spec.ClusterIPs, "primary clusterIP can not be unset"))
		case spec.ClusterIPs[0] != was.ClusterIPs[0]:
			errs = append(errs, field.Invalid(ips.Index(0), spec.ClusterIPs, "may not change once set"))
		}
	}
	if isHeadless(old) {
		return errs // its families may change: there is no address that has one
	}
	if shared := min(len(was.IPFamilies), len(spec.IPFamilies)); !slices.Equal(spec.IPFamilies[:shared], was.IPFamilies[:shared]) {
		errs = append(errs, field.Invalid(families.Index(0), spec.IPFamilies, "may not change once set"))
	}
	policy := specPath.Child("ipFamilyPolicy")
	single := spec.IPFamilyPolicy != nil && *spec.IPFamilyPolicy == corev1.IPFamilyPolicySingleStack
	if len(was.ClusterIPs) == 2 && len(spec.ClusterIPs) == 1 && !single {
		errs = append(errs, field.Invalid(policy, spec.IPFamilyPolicy, "must be set to 'SingleStack' when releasing the secondary clusterIP"))
	}
	if len(was.ClusterIPs) == 2 && len(spec.ClusterIPs) == 2 && spec.ClusterIPs[1] != was.ClusterIPs[1] {
		errs = append(errs, field.Invalid(ips.Index(1), spec.ClusterIPs, "may not change once set"))
	}
	if len(was.IPFamilies) == 2 && len(spec.IPFamilies) == 1 && !single {
		errs = append(errs, field.Invalid(policy, spec.IPFamilyPolicy, "must be set to 'SingleStack' when releasing the secondary ipFamily"))
	}
	return errs
}

func validateServiceStatus(s, old *corev1.Service) field.ErrorList {
	errs := ValidateMetaUpdate(&s.ObjectMeta, &old.ObjectMeta)
	return append(errs, validateBalancerStatus(s, old)...)
}

func validateBalancerStatus(s, old *corev1.Service) (errs field.ErrorList) {
	path := field.NewPath("status", "loadBalancer")
	ingress := path.Child("ingress")
	lb := &s.Status.LoadBalancer
	if s.Spec.Type != corev1.ServiceTypeLoadBalancer && len(lb.Ingress) > 0 {
		return field.ErrorList{field.Forbidden(ingress, "may only be used when `spec.type` is 'LoadBalancer'")}
	}
	var before []string
	for _, in := range old.Status.LoadBalancer.Ingress {
		before = append(before, in.IP)
	}
	for i := range lb.Ingress {
		in, at := &lb.Ingress[i], ingress.Index(i)
		if in.IP != "" {
			errs = append(errs, validation.IsValidIPForLegacyField(at.Child("ip"), in.IP, true, before)...)
		}
		mode := at.Child("ipMode")
		switch {
		case in.IP != "" && in.IPMode == nil:
			errs = append(errs, field.Required(mode, "must be specified when `ip` is set"))
		case in.IP == "" && in.IPMode != nil:
			errs = append(errs, field.Forbidden(mode, "may not be specified when `ip` is not set"))
		case in.IPMode != nil && !slices.Contains([]corev1.LoadBalancerIPMode{corev1.LoadBalancerIPModeProxy, corev1.LoadBalancerIPModeVIP}, *in.IPMode):
			errs = append(errs, field.NotSupported(mode, *in.IPMode, []corev1.LoadBalancerIPMode{corev1.LoadBalancerIPModeProxy, corev1.LoadBalancerIPModeVIP}))
		}
		if in.Hostname != "" {
			for _, sentence := range validation.IsDNS1123Subdomain(in.Hostname) {
				errs = append(errs, field.Invalid(at.Child("hostname"), in.Hostname, sentence))
			}
			if addressFamily(in.Hostname) != "" {
				errs = append(errs, field.Invalid(at.Child("hostname"), in.Hostname, "must be a DNS name, not an IP address"))
			}
		}
	}
	return errs
}

// warnService tells of what is accepted and does less than it says.
func warnService(s, _ *corev1.Service) (warnings []string) {
	if s.Spec.Type != corev1.ServiceTypeExternalName {
		ips := specPath.Child("clusterIPs")
		for i, ip := range s.Spec.ClusterIPs {
			if ip != corev1.ClusterIPNone {
				warnings = append(warnings, validation.GetWarningsForIP(ips.Index(i), ip)...)
			}
		}
	}
	if isHeadless(s) {
		if s.Spec.LoadBalancerIP != "" {
			warnings = append(warnings, "spec.loadBalancerIP is ignored for headless services")
		}
		if len(s.Spec.ExternalIPs) > 0 {
			warnings = append(warnings, "spec.externalIPs is ignored for headless services")
		}
		if s.Spec.SessionAffinity != corev1.ServiceAffinityNone {
			warnings = append(warnings, "spec.SessionAffinity is ignored for headless services")
		}
	}
	if len(s.Spec.ExternalIPs) > 0 && !isHeadless(s) && s.Spec.Type != corev1.ServiceTypeExternalName {
		warnings = append(warnings, "spec.externalIPs is deprecated and may no longer be implemented in some clusters")
	}
	for i, ip := range s.Spec.ExternalIPs {
		warnings = append(warnings, validation.GetWarningsForIP(specPath.Child("externalIPs").Index(i), ip)...)
	}
	if s.Spec.LoadBalancerIP != "" {
		warnings = append(warnings, validation.GetWarningsForIP(specPath.Child("loadBalancerIP"), s.Spec.LoadBalancerIP)...)
	}
	for i, cidr := range s.Spec.LoadBalancerSourceRanges {
		warnings = append(warnings, validation.GetWarningsForCIDR(specPath.Child("loadBalancerSourceRanges").Index(i), cidr)...)
	}
	if s.Spec.Type == corev1.ServiceTypeExternalName && len(s.Spec.ExternalIPs) > 0 {
		warnings = append(warnings, "spec.externalIPs is ignored when spec.type is \"ExternalName\"")
	}
	if s.Spec.Type != corev1.ServiceTypeExternalName && s.Spec.ExternalName != "" {
		warnings = append(warnings, "spec.externalName is ignored when spec.type is not \"ExternalName\"")
	}
	if d := s.Spec.TrafficDistribution; d != nil && *d == corev1.ServiceTrafficDistributionPreferClose {
		warnings = append(warnings, "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"")
	}
	return warnings
}
