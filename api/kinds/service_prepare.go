package kinds

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func defaultService(s *corev1.Service) {
	spec := &s.Spec
	if spec.SessionAffinity == "" {
		spec.SessionAffinity = corev1.ServiceAffinityNone
	}
	switch spec.SessionAffinity {
	case corev1.ServiceAffinityNone:
		spec.SessionAffinityConfig = nil
	case corev1.ServiceAffinityClientIP:
		if c := spec.SessionAffinityConfig; c == nil || c.ClientIP == nil || c.ClientIP.TimeoutSeconds == nil {
			timeout := corev1.DefaultClientIPServiceAffinitySeconds
			spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &timeout}}
		}
	}
	if spec.Type == "" {
		spec.Type = corev1.ServiceTypeClusterIP
	}
	for i := range spec.Ports {
		p := &spec.Ports[i]
		if p.Protocol == "" {
			p.Protocol = corev1.ProtocolTCP
		}
		if p.TargetPort == intstr.FromInt32(0) || p.TargetPort == intstr.FromString("") {
			p.TargetPort = intstr.FromInt32(p.Port)
		}
	}
	if spec.ExternalTrafficPolicy == "" && reachableFromOutside(s) {
		spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyCluster
	}
	if spec.InternalTrafficPolicy == nil && usesClusterIP(s) {
		cluster := corev1.ServiceInternalTrafficPolicyCluster
		spec.InternalTrafficPolicy = &cluster
	}
	if spec.Type == corev1.ServiceTypeLoadBalancer {
		if spec.AllocateLoadBalancerNodePorts == nil {
			yes := true
			spec.AllocateLoadBalancerNodePorts = &yes
		}
		for i := range s.Status.LoadBalancer.Ingress {
			in := &s.Status.LoadBalancer.Ingress[i]
			if in.IP != "" && in.IPMode == nil {
				vip := corev1.LoadBalancerIPModeVIP
				in.IPMode = &vip
			}
		}
	}
}

// usesClusterIP reports whether services of this type have cluster addresses ("None" included).
func usesClusterIP(s *corev1.Service) bool {
	switch s.Spec.Type {
	case corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer:
		return true
	}
	return false
}

// usesNodePorts reports whether this service gets node ports.
func usesNodePorts(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeNodePort ||
		s.Spec.Type == corev1.ServiceTypeLoadBalancer && (s.Spec.AllocateLoadBalancerNodePorts == nil || *s.Spec.AllocateLoadBalancerNodePorts)
}

// mayHaveNodePorts reports whether node ports may be named in this service, handed out or not.
func mayHaveNodePorts(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeNodePort || s.Spec.Type == corev1.ServiceTypeLoadBalancer
}

// usesHealthCheckNodePort reports whether this service has a port that answers on which nodes its pods are.
func usesHealthCheckNodePort(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeLoadBalancer && s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

// reachableFromOutside reports whether traffic from outside the cluster may come to this service by an address of its own.
func reachableFromOutside(s *corev1.Service) bool {
	return mayHaveNodePorts(s) || s.Spec.Type == corev1.ServiceTypeClusterIP && len(s.Spec.ExternalIPs) > 0
}

// isHeadless reports whether a service asks for no cluster address.
func isHeadless(s *corev1.Service) bool {
	return len(s.Spec.ClusterIPs) == 1 && s.Spec.ClusterIPs[0] == corev1.ClusterIPNone || s.Spec.ClusterIP == corev1.ClusterIPNone
}

func prepareServiceUpdate(s, old *corev1.Service) {
	s.Status = old.Status
	if old.Spec.Type == corev1.ServiceTypeLoadBalancer && s.Spec.Type != corev1.ServiceTypeLoadBalancer {
		s.Status.LoadBalancer = corev1.LoadBalancerStatus{}
	}
	keepAllocated(s, old)
	normalizeClusterIPs(s, old)
	dropWhatTypeLost(s, old)
}

// keepAllocated gives an update that leaves out what was handed out the values it has: clients that replace a
// service from a manifest mean "as before".
func keepAllocated(s, old *corev1.Service) {
	if usesClusterIP(old) && usesClusterIP(s) {
		if s.Spec.ClusterIP == "" {
			s.Spec.ClusterIP = old.Spec.ClusterIP
		}
		if len(s.Spec.ClusterIPs) == 0 && s.Spec.ClusterIP == old.Spec.ClusterIP {
			s.Spec.ClusterIPs = slices.Clone(old.Spec.ClusterIPs)
		}
	}
	if usesNodePorts(old) && usesNodePorts(s) {
		type mark struct {
			protocol corev1.Protocol
			port     int32
		}
		had := make(map[mark]int32, len(old.Spec.Ports))
		used := make(map[mark]bool, len(s.Spec.Ports))
		for _, p := range old.Spec.Ports {
			had[mark{p.Protocol, p.Port}] = p.NodePort
		}
		for _, p := range s.Spec.Ports {
			if p.NodePort != 0 {
				used[mark{p.Protocol, p.NodePort}] = true
			}
		}
		for i := range s.Spec.Ports {
			p := &s.Spec.Ports[i]
			if p.NodePort != 0 {
				continue
			}
			if nodePort := had[mark{p.Protocol, p.Port}]; nodePort != 0 && !used[mark{p.Protocol, nodePort}] {
				p.NodePort = nodePort
				used[mark{p.Protocol, nodePort}] = true
			}
		}
	}
	if usesHealthCheckNodePort(old) && usesHealthCheckNodePort(s) && s.Spec.HealthCheckNodePort == 0 {
		s.Spec.HealthCheckNodePort = old.Spec.HealthCheckNodePort
	}
}

// normalizeClusterIPs brings clusterIP and clusterIPs, two spellings of one thing (KEP-563), together where a client
// that knows only one of them wrote it. What contradicts itself is left for validation. old is nil on create.
func normalizeClusterIPs(s, old *corev1.Service) {
	spec := &s.Spec
	if old == nil {
		if spec.ClusterIP != "" && len(spec.ClusterIPs) == 0 {
			spec.ClusterIPs = []string{spec.ClusterIP}
		}
		return
	}
	if spec.ClusterIP != old.Spec.ClusterIP && slices.Equal(spec.ClusterIPs, old.Spec.ClusterIPs) {
		switch {
		case spec.ClusterIP == "" && old.Spec.ClusterIP != "":
			spec.ClusterIPs = nil
		case spec.ClusterIP != "" && old.Spec.ClusterIP == "":
			spec.ClusterIPs = []string{spec.ClusterIP}
		default:
			spec.ClusterIPs = append([]string{spec.ClusterIP}, spec.ClusterIPs[min(1, len(spec.ClusterIPs)):]...)
		}
	} else if spec.ClusterIP == old.Spec.ClusterIP && !slices.Equal(spec.ClusterIPs, old.Spec.ClusterIPs) && len(spec.ClusterIPs) == 0 {
		spec.ClusterIP = ""
	}
}

// dropWhatTypeLost clears fields that the old type had, the new one may not have, and the client did not touch: a
// change of type alone is then a right update.
func dropWhatTypeLost(s, old *corev1.Service) {
	spec, was := &s.Spec, &old.Spec
	if usesClusterIP(old) && !usesClusterIP(s) {
		if spec.ClusterIP == was.ClusterIP && slices.Equal(spec.ClusterIPs, was.ClusterIPs) {
			spec.ClusterIP, spec.ClusterIPs = "", nil
		}
		if slices.Equal(spec.IPFamilies, was.IPFamilies) {
			spec.IPFamilies = nil
		}
		if equalPointers(spec.IPFamilyPolicy, was.IPFamilyPolicy) {
			spec.IPFamilyPolicy = nil
		}
	}
	if mayHaveNodePorts(old) && !mayHaveNodePorts(s) && sameNodePorts(spec.Ports, was.Ports) {
		for i := range spec.Ports {
			spec.Ports[i].NodePort = 0
		}
	}
	if usesHealthCheckNodePort(old) && !usesHealthCheckNodePort(s) && spec.HealthCheckNodePort == was.HealthCheckNodePort {
		spec.HealthCheckNodePort = 0
	}
	wasBalanced := was.Type == corev1.ServiceTypeLoadBalancer && spec.Type != corev1.ServiceTypeLoadBalancer
	if wasBalanced && equalPointers(spec.AllocateLoadBalancerNodePorts, was.AllocateLoadBalancerNodePorts) {
		spec.AllocateLoadBalancerNodePorts = nil
	}
	if wasBalanced && equalPointers(spec.LoadBalancerClass, was.LoadBalancerClass) {
		spec.LoadBalancerClass = nil
	}
	if reachableFromOutside(old) && !reachableFromOutside(s) && spec.ExternalTrafficPolicy == was.ExternalTrafficPolicy {
		spec.ExternalTrafficPolicy = ""
	}
}

// sameNodePorts reports whether the update names no node port that the old service did not have.
func sameNodePorts(ports, old []corev1.ServicePort) bool {
	for _, p := range ports {
		if p.NodePort != 0 && !slices.ContainsFunc(old, func(o corev1.ServicePort) bool {
			return o.NodePort == p.NodePort && o.Protocol == p.Protocol
		}) {
			return false
		}
	}
	return true
}

func equalPointers[T comparable](a, b *T) bool {
	return a == b || a != nil && b != nil && *a == *b
}
