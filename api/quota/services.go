package quota

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apiserver/pkg/admission"
	quota "k8s.io/apiserver/pkg/quota/v1"
)

const serviceCount corev1.ResourceName = "count/services"

// written reports whether an object itself is made or changed.
func written(a admission.Attributes) bool {
	return a.GetSubresource() == "" && (a.GetOperation() == admission.Create || a.GetOperation() == admission.Update)
}

func services(list Lister) quota.Evaluator {
	resource := corev1.SchemeGroupVersion.WithResource("services")
	return &evaluator[*corev1.Service]{
		resource: resource.GroupResource(), list: list.in(resource), handles: written, usage: serviceUsage,
		counts: func(name corev1.ResourceName) bool {
			switch name {
			case serviceCount, corev1.ResourceServices, corev1.ResourceServicesNodePorts, corev1.ResourceServicesLoadBalancers:
				return true
			}
			return false
		},
	}
}

// serviceUsage counts the node ports that a service asks for: those it will get are not known yet.
func serviceUsage(s *corev1.Service) corev1.ResourceList {
	number := func(n int) resource.Quantity { return *resource.NewQuantity(int64(n), resource.DecimalSI) }
	ports, balancers := 0, 0
	switch s.Spec.Type {
	case corev1.ServiceTypeNodePort:
		ports = len(s.Spec.Ports)
	case corev1.ServiceTypeLoadBalancer:
		balancers = 1
		for _, p := range s.Spec.Ports {
			if a := s.Spec.AllocateLoadBalancerNodePorts; a == nil || *a || p.NodePort != 0 {
				ports++
			}
		}
	}
	return corev1.ResourceList{serviceCount: number(1), corev1.ResourceServices: number(1), corev1.ResourceServicesNodePorts: number(ports), corev1.ResourceServicesLoadBalancers: number(balancers)}
}
