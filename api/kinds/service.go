package kinds

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
)

// Services is core/v1 services. The numbers of a service (clusterIPs, nodePorts, the families that go with them) are
// handed out by the API server's allocator after PrepareForCreate or PrepareForUpdate and before Validate, which wants
// them there only where the type needs them.
func Services() *Kind {
	return &Kind{
		GroupVersionKind: corev1.SchemeGroupVersion.WithKind("Service"),
		Plural:           "services",
		Singular:         "service",
		ShortNames:       []string{"svc"},
		Categories:       []string{"all"},
		Namespaced:       true,
		Verbs:            all,
		New:              func() runtime.Object { return new(corev1.Service) },
		NewList:          func() runtime.Object { return new(corev1.ServiceList) },
		StoragePrefix:    "services/specs",
		Default:          defaulting(defaultService),
		PrepareForCreate: onCreate(func(s *corev1.Service) {
			s.Status = corev1.ServiceStatus{}
			normalizeClusterIPs(s, nil)
		}),
		PrepareForUpdate: onUpdate(prepareServiceUpdate),
		Validate:         checking(validateService),
		ValidateUpdate:   checkingUpdate(validateServiceUpdate),
		Warnings:         warningsOf(warnService),
		ValidateName:     validateServiceName,
		Subresources: map[string]*Subresource{
			"status": {
				Verbs: viewVerbs,
				PrepareForUpdate: onUpdate(func(s, old *corev1.Service) {
					s.Spec = old.Spec
				}),
				ValidateUpdate: checkingUpdate(validateServiceStatus),
			},
		},
		ConnectSubresources: []SubresourceInfo{
			{Name: "proxy", Kind: corev1.SchemeGroupVersion.WithKind("ServiceProxyOptions"), Verbs: proxyVerbs},
		},
		FieldLabels: []string{"metadata.name", "metadata.namespace", "spec.clusterIP", "spec.type"},
		SelectableFields: selecting(func(s *corev1.Service) fields.Set {
			set := metaFields(&s.ObjectMeta, true, 2)
			set["spec.clusterIP"] = s.Spec.ClusterIP
			set["spec.type"] = string(s.Spec.Type)
			return set
		}),
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("Type", "string", corev1.ServiceSpec{}.SwaggerDoc()["type"]),
			column("Cluster-IP", "string", corev1.ServiceSpec{}.SwaggerDoc()["clusterIP"]),
			column("External-IP", "string", corev1.ServiceSpec{}.SwaggerDoc()["externalIPs"]),
			column("Port(s)", "string", corev1.ServiceSpec{}.SwaggerDoc()["ports"]),
			ageColumn(),
			wideColumn("Selector", "string", corev1.ServiceSpec{}.SwaggerDoc()["selector"]),
		},
		Row: row(func(s *corev1.Service, now time.Time) []any {
			ip := "<none>"
			if len(s.Spec.ClusterIPs) > 0 {
				ip = s.Spec.ClusterIPs[0]
			}
			ports := servicePorts(s.Spec.Ports)
			return []any{s.Name, string(s.Spec.Type), ip, serviceExternalIPs(s), orNone(ports), age(s.CreationTimestamp, now), orNone(labels.Set(s.Spec.Selector).String())}
		}),
		AllowCreateOnUpdate:      true,
		AllowUnconditionalUpdate: true,
	}
}

func servicePorts(ports []corev1.ServicePort) string {
	words := make([]string, len(ports))
	for i, p := range ports {
		words[i] = fmt.Sprintf("%d/%s", p.Port, p.Protocol)
		if p.NodePort > 0 {
			words[i] = fmt.Sprintf("%d:%d/%s", p.Port, p.NodePort, p.Protocol)
		}
	}
	return strings.Join(words, ",")
}

// serviceExternalIPs says how a service is reached from outside: what the load balancer answered, or is asked to.
func serviceExternalIPs(s *corev1.Service) string {
	external := strings.Join(s.Spec.ExternalIPs, ",")
	switch s.Spec.Type {
	case corev1.ServiceTypeExternalName:
		return s.Spec.ExternalName
	case corev1.ServiceTypeLoadBalancer:
		given := loadBalancerAddresses(&s.Status.LoadBalancer)
		switch {
		case external != "" && given != "":
			return given + "," + external
		case external != "":
			return external
		case given != "":
			return given
		}
		return "<pending>"
	case corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort:
		return orNone(external)
	}
	return "<unknown>"
}

// loadBalancerAddresses lists each address or name once, sorted.
func loadBalancerAddresses(lb *corev1.LoadBalancerStatus) string {
	var words []string
	for _, in := range lb.Ingress {
		if w := firstOf(in.IP, in.Hostname); w != "" {
			words = append(words, w)
		}
	}
	slices.Sort(words)
	return strings.Join(slices.Compact(words), ",")
}
