package kinds

import (
	"fmt"
	"slices"
	"strings"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
)

// ingressClassAnnotation was the class before there was a field.
const ingressClassAnnotation = "kubernetes.io/ingress.class"

// Ingresses is networking.k8s.io/v1 ingresses.
func Ingresses() *Kind {
	return &Kind{
		GroupVersionKind: networkingv1.SchemeGroupVersion.WithKind("Ingress"),
		Plural:           "ingresses",
		Singular:         "ingress",
		ShortNames:       []string{"ing"},
		Namespaced:       true,
		Verbs:            all,
		New:              func() runtime.Object { return new(networkingv1.Ingress) },
		NewList:          func() runtime.Object { return new(networkingv1.IngressList) },
		StoragePrefix:    "ingress",
		PrepareForCreate: onCreate(func(i *networkingv1.Ingress) {
			i.Status = networkingv1.IngressStatus{}
			i.Generation = 1
		}),
		PrepareForUpdate: onUpdate(func(i, old *networkingv1.Ingress) {
			i.Status = old.Status
			if !apiequality.Semantic.DeepEqual(i.Spec, old.Spec) {
				i.Generation = old.Generation + 1
			}
		}),
		Validate: checking(func(i *networkingv1.Ingress) field.ErrorList {
			errs := validateIngress(i, nil)
			old, set := i.Annotations[ingressClassAnnotation]
			if class := i.Spec.IngressClassName; set && class != nil && old != *class {
				errs = append(errs, field.Invalid(field.NewPath("annotations").Child(ingressClassAnnotation), old, "must match `ingressClassName` when both are specified"))
			}
			return errs
		}),
		ValidateUpdate: checkingUpdate(func(i, old *networkingv1.Ingress) field.ErrorList {
			return append(ValidateMetaUpdate(&i.ObjectMeta, &old.ObjectMeta), validateIngress(i, old)...)
		}),
		Warnings: warningsOf(func(i, old *networkingv1.Ingress) []string {
			if _, set := i.Annotations[ingressClassAnnotation]; set && old == nil && i.Spec.IngressClassName == nil {
				return []string{fmt.Sprintf("annotation %q is deprecated, please use 'spec.ingressClassName' instead", ingressClassAnnotation)}
			}
			return nil
		}),
		ValidateName: NameIsDNSSubdomain,
		Subresources: map[string]*Subresource{
			"status": {
				Verbs:            viewVerbs,
				PrepareForUpdate: onUpdate(func(i, old *networkingv1.Ingress) { i.Spec = old.Spec }),
				ValidateUpdate:   checkingUpdate(validateIngressStatus),
			},
		},
		FieldLabels:      metaFieldLabels,
		SelectableFields: namespacedMetaFields,
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("Class", "string", "The name of the IngressClass resource that should be used for additional configuration"),
			column("Hosts", "string", "Hosts that incoming requests are matched against before the ingress rule"),
			column("Address", "string", "Address is a list containing ingress points for the load-balancer"),
			column("Ports", "string", "Ports of TLS configurations that open"),
			ageColumn(),
		},
		Row: row(func(i *networkingv1.Ingress, now time.Time) []any {
			class, ports := "<none>", "80"
			if i.Spec.IngressClassName != nil {
				class = *i.Spec.IngressClassName
			}
			if len(i.Spec.TLS) > 0 {
				ports = "80, 443"
			}
			return []any{i.Name, class, formatIngressHosts(i.Spec.Rules), formatIngressAddresses(i.Status.LoadBalancer.Ingress), ports, age(i.CreationTimestamp, now)}
		}),
		AllowUnconditionalUpdate: true,
	}
}

// formatIngressHosts names three hosts, and counts the rules beyond the third.
func formatIngressHosts(rules []networkingv1.IngressRule) string {
	const most = 3
	var hosts []string
	more := false
	for _, r := range rules {
		more = more || len(hosts) == most
		if !more && r.Host != "" {
			hosts = append(hosts, r.Host)
		}
	}
	switch list := strings.Join(hosts, ","); {
	case list == "":
		return "*"
	case more:
		return fmt.Sprintf("%s + %d more...", list, len(rules)-most)
	default:
		return list
	}
}

// formatIngressAddresses lists each address or name once, sorted. (kubectl asks for wide rows and hides columns itself.)
func formatIngressAddresses(points []networkingv1.IngressLoadBalancerIngress) string {
	var words []string
	for _, p := range points {
		if w := firstOf(p.IP, p.Hostname); w != "" {
			words = append(words, w)
		}
	}
	slices.Sort(words)
	return strings.Join(slices.Compact(words), ",")
}

// validateIngress lets pass what was wrong in old already, where upstream does. old is nil on create.
func validateIngress(i, old *networkingv1.Ingress) field.ErrorList {
	f := faults{list: ValidateMeta(&i.ObjectMeta, true, NameIsDNSSubdomain)}
	anySecret, anyWildcard := false, false
	if old != nil {
		for _, t := range old.Spec.TLS {
			anySecret = anySecret || t.SecretName != "" && !isDNSSubdomain(t.SecretName)
		}
		for j := range old.Spec.Rules {
			if r := &old.Spec.Rules[j]; strings.Contains(r.Host, "*") && r.HTTP != nil {
				var before faults
				before.ingressPaths(&where{name: "http"}, r.HTTP)
				anyWildcard = anyWildcard || len(before.list) > 0
			}
		}
	}
	spec := &where{name: "spec"}
	if len(i.Spec.Rules) == 0 && i.Spec.DefaultBackend == nil {
		f.invalid(spec, i.Spec.Rules, "either `defaultBackend` or `rules` must be specified")
	}
	if i.Spec.DefaultBackend != nil {
		f.ingressBackend(spec.field("defaultBackend"), i.Spec.DefaultBackend)
	}
	for j := range i.Spec.Rules {
		r, at := &i.Spec.Rules[j], spec.field("rules").at(j)
		if r.Host != "" && netutils.ParseIPSloppy(r.Host) != nil {
			f.invalid(at.field("host"), r.Host, "must be a DNS name, not an IP address")
		}
		if r.Host != "" {
			f.hostPattern(at.field("host"), r.Host)
		}
		if r.HTTP != nil && !(anyWildcard && strings.Contains(r.Host, "*")) {
			f.ingressPaths(at.field("http"), r.HTTP)
		}
	}
	for j := range i.Spec.TLS {
		t, at := &i.Spec.TLS[j], spec.field("tls").at(j)
		for k, host := range t.Hosts {
			f.hostPattern(at.field("hosts").at(k), host)
		}
		if t.SecretName != "" && !anySecret {
			f.dnsSubdomain(at.field("secretName"), t.SecretName)
		}
	}
	if class := i.Spec.IngressClassName; class != nil {
		f.dnsSubdomain(spec.field("ingressClassName"), *class)
	}
	return f.list
}

// hostPattern checks a DNS name that may begin with "*.".
func (f *faults) hostPattern(w *where, host string) {
	if strings.Contains(host, "*") {
		f.each(w, host, validation.IsWildcardDNS1123Subdomain(host))
		return
	}
	f.dnsSubdomain(w, host)
}

// Paths are compared element by element: what would mean another path to some server is refused.
var (
	ambiguousInPath = []string{"//", "/./", "/../", "%2f", "%2F"}
	ambiguousAtEnd  = []string{"/..", "/."}
)

func (f *faults) ingressPaths(w *where, h *networkingv1.HTTPIngressRuleValue) {
	if len(h.Paths) == 0 {
		f.required(w.field("paths"), "")
	}
	for i := range h.Paths {
		p, at := &h.Paths[i], w.field("paths").at(i)
		if p.PathType == nil {
			f.required(at.field("pathType"), "pathType must be specified")
			continue
		}
		switch *p.PathType {
		case networkingv1.PathTypeExact, networkingv1.PathTypePrefix:
			if !strings.HasPrefix(p.Path, "/") {
				f.invalid(at.field("path"), p.Path, "must be an absolute path")
			}
			for _, s := range ambiguousInPath {
				if strings.Contains(p.Path, s) {
					f.invalid(at.field("path"), p.Path, fmt.Sprintf("must not contain '%s'", s))
				}
			}
			for _, s := range ambiguousAtEnd {
				if strings.HasSuffix(p.Path, s) {
					f.invalid(at.field("path"), p.Path, fmt.Sprintf("cannot end with '%s'", s))
				}
			}
		case networkingv1.PathTypeImplementationSpecific:
			if p.Path != "" && !strings.HasPrefix(p.Path, "/") {
				f.invalid(at.field("path"), p.Path, "must be an absolute path")
			}
		default:
			notSupported(f, at.field("pathType"), *p.PathType, []networkingv1.PathType{
				networkingv1.PathTypeExact, networkingv1.PathTypeImplementationSpecific, networkingv1.PathTypePrefix})
		}
		f.ingressBackend(at.field("backend"), &p.Backend)
	}
}

func (f *faults) ingressBackend(w *where, b *networkingv1.IngressBackend) {
	switch {
	case b.Resource != nil && b.Service != nil:
		f.invalid(w, "", "cannot set both resource and service backends")
	case b.Resource != nil:
		f.objectReference(w.field("resource"), b.Resource.APIGroup, b.Resource.Kind, b.Resource.Name)
	case b.Service != nil:
		at := w.field("service")
		if b.Service.Name == "" {
			f.required(at.field("name"), "")
		} else {
			f.dnsLabel(at.field("name"), b.Service.Name)
		}
		switch p := &b.Service.Port; {
		case p.Name != "" && p.Number != 0:
			f.invalid(w, "", "cannot set both port name & port number")
		case p.Name != "":
			f.each(at.field("port").field("name"), p.Name, validation.IsValidPortName(p.Name))
		case p.Number != 0:
			f.port(at.field("port").field("number"), p.Number)
		default:
			f.required(w, "port name or number is required")
		}
	default:
		f.invalid(w, "", "resource or service backend is required")
	}
}

func validateIngressStatus(i, old *networkingv1.Ingress) field.ErrorList {
	f := faults{list: ValidateMetaUpdate(&i.ObjectMeta, &old.ObjectMeta)}
	var known []string // what was there may stay
	for _, p := range old.Status.LoadBalancer.Ingress {
		if p.IP != "" {
			known = append(known, p.IP)
		}
	}
	list := (&where{name: "status"}).field("loadBalancer").field("ingress")
	for j, p := range i.Status.LoadBalancer.Ingress {
		if p.IP != "" {
			f.add(validation.IsValidIPForLegacyField(list.at(j).field("ip").path(), p.IP, true, known))
		}
		if p.Hostname != "" {
			at := list.at(j).field("hostname")
			f.dnsSubdomain(at, p.Hostname)
			if netutils.ParseIPSloppy(p.Hostname) != nil {
				f.invalid(at, p.Hostname, "must be a DNS name, not an IP address")
			}
		}
	}
	return f.list
}
