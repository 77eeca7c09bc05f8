package kinds

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// validateServiceName accepts RFC 1123 labels (KEP-5311; RFC 1035 before, which forbade a leading digit).
func validateServiceName(name string, prefix bool) []string { return NameIsDNSLabel(name, prefix) }

const maxAffinitySeconds = 86400

var specPath = field.NewPath("spec")

func validateService(s *corev1.Service) field.ErrorList {
	errs := ValidateMeta(&s.ObjectMeta, true, validateServiceName)
	return append(errs, validateServiceSpec(s, nil)...)
}

// validateServiceSpec checks the whole of a service but its metadata; old is nil on create.
func validateServiceSpec(s, old *corev1.Service) field.ErrorList {
	errs := validateTopologyAnnotations(s)
	errs = append(errs, validateServiceType(s)...)
	errs = append(errs, validateServicePorts(s)...)
	errs = append(errs, validateServiceReach(s, old)...)
	errs = append(errs, validateSessionAffinity(s)...)
	errs = append(errs, validateClusterIPFields(s, old)...)
	errs = append(errs, validateServiceTraffic(s)...)
	errs = append(errs, validateServiceBalancer(s, old)...)
	return errs
}

func validateTopologyAnnotations(s *corev1.Service) (errs field.ErrorList) {
	hints, hasHints := s.Annotations[corev1.DeprecatedAnnotationTopologyAwareHints]
	mode, hasMode := s.Annotations[corev1.AnnotationTopologyMode]
	if hasHints && hasMode && hints != mode {
		message := fmt.Sprintf("must match annotations[%s] when both are specified", corev1.DeprecatedAnnotationTopologyAwareHints)
		errs = append(errs, field.Invalid(metadataPath.Child("annotations").Key(corev1.AnnotationTopologyMode), mode, message))
	}
	return errs
}

// validateServiceType checks what one type forbids and another asks for.
func validateServiceType(s *corev1.Service) (errs field.ErrorList) {
	spec := &s.Spec
	if len(spec.Ports) == 0 && !isHeadless(s) && spec.Type != corev1.ServiceTypeExternalName {
		errs = append(errs, field.Required(specPath.Child("ports"), ""))
	}
	switch spec.Type {
	case "":
		errs = append(errs, field.Required(specPath.Child("type"), ""))
	case corev1.ServiceTypeClusterIP:
		for i := range spec.Ports {
			if spec.Ports[i].NodePort != 0 {
				errs = append(errs, field.Forbidden(specPath.Child("ports").Index(i).Child("nodePort"), "may not be used when `type` is 'ClusterIP'"))
			}
		}
	case corev1.ServiceTypeLoadBalancer:
		if isHeadless(s) {
			errs = append(errs, field.Invalid(specPath.Child("clusterIPs").Index(0), corev1.ClusterIPNone, "may not be set to 'None' for LoadBalancer services"))
		}
	case corev1.ServiceTypeNodePort:
		if isHeadless(s) {
			errs = append(errs, field.Invalid(specPath.Child("clusterIPs").Index(0), corev1.ClusterIPNone, "may not be set to 'None' for NodePort services"))
		}
	case corev1.ServiceTypeExternalName:
		errs = append(errs, validateExternalName(spec)...)
	default:
		errs = append(errs, field.NotSupported(specPath.Child("type"), spec.Type, []corev1.ServiceType{
			corev1.ServiceTypeClusterIP, corev1.ServiceTypeExternalName, corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeNodePort,
		}))
	}
	return errs
}

func validateExternalName(spec *corev1.ServiceSpec) (errs field.ErrorList) {
	forbid := func(set bool, name string) {
		if set {
			errs = append(errs, field.Forbidden(specPath.Child(name), "may not be set for ExternalName services"))
		}
	}
	forbid(len(spec.ClusterIPs) > 0, "clusterIPs")
	forbid(len(spec.IPFamilies) > 0, "ipFamilies")
	forbid(spec.IPFamilyPolicy != nil, "ipFamilyPolicy")
	path := specPath.Child("externalName")
	name := strings.TrimSuffix(spec.ExternalName, ".")
	if name == "" {
		return append(errs, field.Required(path, ""))
	}
	for _, sentence := range validation.IsDNS1123Subdomain(name) {
		errs = append(errs, field.Invalid(path, name, sentence))
	}
	return errs
}

func validateServicePorts(s *corev1.Service) (errs field.ErrorList) {
	type number struct {
		protocol corev1.Protocol
		port     int32
	}
	names := make(map[string]bool, len(s.Spec.Ports))
	ports := make(map[number]bool, len(s.Spec.Ports))
	nodePorts := make(map[number]bool, len(s.Spec.Ports))
	path := specPath.Child("ports")
	for i := range s.Spec.Ports {
		p, at := &s.Spec.Ports[i], path.Index(i)
		errs = append(errs, validateServicePort(p, len(s.Spec.Ports) > 1, at)...)
		if p.Name != "" {
			if names[p.Name] {
				errs = append(errs, field.Duplicate(at.Child("name"), p.Name))
			}
			names[p.Name] = true
		}
		if p.NodePort != 0 {
			n := number{p.Protocol, p.NodePort}
			if nodePorts[n] {
				errs = append(errs, field.Duplicate(at.Child("nodePort"), p.NodePort))
			}
			nodePorts[n] = true
		}
		n := number{p.Protocol, p.Port}
		if ports[n] {
			errs = append(errs, field.Duplicate(at, corev1.ServicePort{Protocol: p.Protocol, Port: p.Port}))
		}
		ports[n] = true
	}
	return errs
}

func validateServicePort(p *corev1.ServicePort, needsName bool, at *field.Path) (errs field.ErrorList) {
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
	errs = append(errs, validateTargetPort(p.TargetPort, at.Child("targetPort"))...)
	if p.AppProtocol != nil {
		for _, sentence := range validation.IsQualifiedName(*p.AppProtocol) {
			errs = append(errs, field.Invalid(at.Child("appProtocol"), *p.AppProtocol, sentence))
		}
	}
	return errs
}

func validateProtocol(p corev1.Protocol, path *field.Path) field.ErrorList {
	switch p {
	case corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP:
		return nil
	case "":
		return field.ErrorList{field.Required(path, "")}
	}
	return field.ErrorList{field.NotSupported(path, p, []corev1.Protocol{corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP})}
}

// validateTargetPort checks a port by number or by name.
func validateTargetPort(p intstr.IntOrString, path *field.Path) (errs field.ErrorList) {
	var sentences []string
	var value any
	switch p.Type {
	case intstr.Int:
		sentences, value = validation.IsValidPortNum(p.IntValue()), p.IntValue()
	default:
		sentences, value = validation.IsValidPortName(p.StrVal), p.StrVal
	}
	for _, sentence := range sentences {
		errs = append(errs, field.Invalid(path, value, sentence))
	}
	return errs
}

// validateServiceReach checks whom the service selects and under which outside addresses it answers.
func validateServiceReach(s, old *corev1.Service) (errs field.ErrorList) {
	if s.Spec.Selector != nil {
		errs = append(errs, metav1validation.ValidateLabels(s.Spec.Selector, specPath.Child("selector"))...)
	}
	var before []string
	if old != nil {
		before = old.Spec.ExternalIPs
	}
	for i, ip := range s.Spec.ExternalIPs {
		at := specPath.Child("externalIPs").Index(i)
		if wrong := validation.IsValidIPForLegacyField(at, ip, true, before); len(wrong) > 0 {
			errs = append(errs, wrong...)
		} else {
			errs = append(errs, validateOrdinaryIP(ip, at)...)
		}
	}
	return errs
}

func validateSessionAffinity(s *corev1.Service) (errs field.ErrorList) {
	spec := &s.Spec
	path, config := specPath.Child("sessionAffinity"), specPath.Child("sessionAffinityConfig")
	switch spec.SessionAffinity {
	case "":
		return append(errs, field.Required(path, ""))
	case corev1.ServiceAffinityNone:
		if spec.SessionAffinityConfig != nil {
			errs = append(errs, field.Forbidden(config, fmt.Sprintf("must not be set when session affinity is %s", corev1.ServiceAffinityNone)))
		}
	case corev1.ServiceAffinityClientIP:
		c := spec.SessionAffinityConfig
		needed := fmt.Sprintf("when session affinity type is %s", corev1.ServiceAffinityClientIP)
		switch {
		case c == nil:
			errs = append(errs, field.Required(config, needed))
		case c.ClientIP == nil:
			errs = append(errs, field.Required(config.Child("clientIP"), needed))
		case c.ClientIP.TimeoutSeconds == nil:
			errs = append(errs, field.Required(config.Child("clientIP"), needed))
		case *c.ClientIP.TimeoutSeconds <= 0 || *c.ClientIP.TimeoutSeconds > maxAffinitySeconds:
			errs = append(errs, field.Invalid(config.Child("clientIP").Child("timeoutSeconds"), c.ClientIP.TimeoutSeconds,
				fmt.Sprintf("must be greater than 0 and less than %d", maxAffinitySeconds)))
		}
	default:
		errs = append(errs, field.NotSupported(path, spec.SessionAffinity, []corev1.ServiceAffinity{corev1.ServiceAffinityClientIP, corev1.ServiceAffinityNone}))
	}
	return errs
}

// validateServiceTraffic checks the routing policies.
func validateServiceTraffic(s *corev1.Service) (errs field.ErrorList) {
	spec := &s.Spec
	outside := specPath.Child("externalTrafficPolicy")
	if !reachableFromOutside(s) {
		if spec.ExternalTrafficPolicy != "" {
			errs = append(errs, field.Invalid(outside, spec.ExternalTrafficPolicy, "may only be set for externally-accessible services"))
		}
	} else {
		switch spec.ExternalTrafficPolicy {
		case corev1.ServiceExternalTrafficPolicyCluster, corev1.ServiceExternalTrafficPolicyLocal:
		case "":
			errs = append(errs, field.Required(outside, ""))
		default:
			errs = append(errs, field.NotSupported(outside, spec.ExternalTrafficPolicy,
				[]corev1.ServiceExternalTrafficPolicy{corev1.ServiceExternalTrafficPolicyCluster, corev1.ServiceExternalTrafficPolicyLocal}))
		}
	}
	health := specPath.Child("healthCheckNodePort")
	if !usesHealthCheckNodePort(s) {
		if spec.HealthCheckNodePort != 0 {
			errs = append(errs, field.Invalid(health, spec.HealthCheckNodePort, "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"))
		}
	} else if spec.HealthCheckNodePort == 0 {
		errs = append(errs, field.Required(health, ""))
	} else {
		for _, sentence := range validation.IsValidPortNum(int(spec.HealthCheckNodePort)) {
			errs = append(errs, field.Invalid(health, spec.HealthCheckNodePort, sentence))
		}
	}

	inside := specPath.Child("internalTrafficPolicy")
	if spec.InternalTrafficPolicy != nil {
		switch *spec.InternalTrafficPolicy {
		case corev1.ServiceInternalTrafficPolicyCluster, corev1.ServiceInternalTrafficPolicyLocal:
		default:
			errs = append(errs, field.NotSupported(inside, *spec.InternalTrafficPolicy,
				[]corev1.ServiceInternalTrafficPolicy{corev1.ServiceInternalTrafficPolicyCluster, corev1.ServiceInternalTrafficPolicyLocal}))
		}
	} else if usesClusterIP(s) {
		errs = append(errs, field.Required(inside, ""))
	}

	if d := spec.TrafficDistribution; d != nil {
		switch *d {
		case corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameNode, corev1.ServiceTrafficDistributionPreferSameZone:
		default:
			errs = append(errs, field.NotSupported(specPath.Child("trafficDistribution"), *d, []string{
				corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameZone, corev1.ServiceTrafficDistributionPreferSameNode,
			}))
		}
	}
	return errs
}
