package kinds

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
)

// NetworkPolicies is networking.k8s.io/v1 networkpolicies.
func NetworkPolicies() *Kind {
	return &Kind{
		GroupVersionKind: networkingv1.SchemeGroupVersion.WithKind("NetworkPolicy"),
		Plural:           "networkpolicies",
		Singular:         "networkpolicy",
		ShortNames:       []string{"netpol"},
		Namespaced:       true,
		Verbs:            all,
		New:              func() runtime.Object { return new(networkingv1.NetworkPolicy) },
		NewList:          func() runtime.Object { return new(networkingv1.NetworkPolicyList) },
		StoragePrefix:    "networkpolicies",
		Default:          defaulting(defaultNetworkPolicy),
		PrepareForCreate: onCreate(func(p *networkingv1.NetworkPolicy) { p.Generation = 1 }),
		PrepareForUpdate: onUpdate(func(p, old *networkingv1.NetworkPolicy) {
			if !apiequality.Semantic.DeepEqual(p.Spec, old.Spec) {
				p.Generation = old.Generation + 1
			}
		}),
		Validate: checking(func(p *networkingv1.NetworkPolicy) field.ErrorList {
			f := faults{list: ValidateMeta(&p.ObjectMeta, true, NameIsDNSSubdomain)}
			f.networkPolicy(&p.Spec, false, nil)
			return f.list
		}),
		ValidateUpdate: checkingUpdate(func(p, old *networkingv1.NetworkPolicy) field.ErrorList {
			f := faults{list: ValidateMetaUpdate(&p.ObjectMeta, &old.ObjectMeta)}
			wrongBefore := len(metav1validation.ValidateLabelSelector(&old.Spec.PodSelector, metav1validation.LabelSelectorValidationOptions{}, nil)) > 0
			var cidrs []string // what was there may stay, wherever it goes
			for _, p := range peersOf(&old.Spec) {
				if p.IPBlock != nil {
					cidrs = append(append(cidrs, p.IPBlock.CIDR), p.IPBlock.Except...)
				}
			}
			f.networkPolicy(&p.Spec, wrongBefore, cidrs)
			return f.list
		}),
		Warnings: warningsOf(func(p, _ *networkingv1.NetworkPolicy) []string {
			var a advice
			for _, p := range peersOf(&p.Spec) {
				if b := p.IPBlock; b != nil {
					at := specPath.Child(p.direction).Index(p.rule).Child(p.side).Index(p.index).Child("ipBlock")
					a.add(validation.GetWarningsForCIDR(at.Child("cidr"), b.CIDR)...)
					for i, except := range b.Except {
						a.add(validation.GetWarningsForCIDR(at.Child("except").Index(i), except)...)
					}
				}
			}
			return a.list
		}),
		ValidateName:     NameIsDNSSubdomain,
		FieldLabels:      metaFieldLabels,
		SelectableFields: namespacedMetaFields,
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("Pod-Selector", "string", networkingv1.NetworkPolicySpec{}.SwaggerDoc()["podSelector"]),
			ageColumn(),
		},
		Row: row(func(p *networkingv1.NetworkPolicy, now time.Time) []any {
			return []any{p.Name, metav1.FormatLabelSelector(&p.Spec.PodSelector), age(p.CreationTimestamp, now)}
		}),
		AllowUnconditionalUpdate: true,
	}
}

func defaultNetworkPolicy(p *networkingv1.NetworkPolicy) {
	if len(p.Spec.PolicyTypes) == 0 {
		p.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
		if len(p.Spec.Egress) > 0 {
			p.Spec.PolicyTypes = append(p.Spec.PolicyTypes, networkingv1.PolicyTypeEgress)
		}
	}
	ports := func(list []networkingv1.NetworkPolicyPort) {
		for i := range list {
			if list[i].Protocol == nil {
				list[i].Protocol = ptrTo(corev1.ProtocolTCP)
			}
		}
	}
	for i := range p.Spec.Ingress {
		ports(p.Spec.Ingress[i].Ports)
	}
	for i := range p.Spec.Egress {
		ports(p.Spec.Egress[i].Ports)
	}
}

// policyPeer is one whom a rule lets connect, or be connected to, with its place: spec.ingress[rule].from[index].
type policyPeer struct {
	*networkingv1.NetworkPolicyPeer
	direction, side string
	rule, index     int
}

// peersOf lists those who may connect, then those who may be connected to.
func peersOf(s *networkingv1.NetworkPolicySpec) (peers []policyPeer) {
	for i := range s.Ingress {
		for j := range s.Ingress[i].From {
			peers = append(peers, policyPeer{&s.Ingress[i].From[j], "ingress", "from", i, j})
		}
	}
	for i := range s.Egress {
		for j := range s.Egress[i].To {
			peers = append(peers, policyPeer{&s.Egress[i].To[j], "egress", "to", i, j})
		}
	}
	return peers
}

// networkPolicy checks a policy. With anyValue malformed label values pass, and so do the ranges in known.
func (f *faults) networkPolicy(s *networkingv1.NetworkPolicySpec, anyValue bool, known []string) {
	w := &where{name: "spec"}
	f.labelSelector(w.field("podSelector"), &s.PodSelector, anyValue)
	for i := range s.Ingress {
		f.policyPorts(w.field("ingress").at(i).field("ports"), s.Ingress[i].Ports)
	}
	for i := range s.Egress {
		f.policyPorts(w.field("egress").at(i).field("ports"), s.Egress[i].Ports)
	}
	for _, p := range peersOf(s) {
		f.policyPeer(w.field(p.direction).at(p.rule).field(p.side).at(p.index), p.NetworkPolicyPeer, anyValue, known)
	}
	types := w.field("policyTypes")
	if len(s.PolicyTypes) > 2 {
		f.invalid(types, s.PolicyTypes, "may not specify more than two policyTypes")
		return
	}
	for i, t := range s.PolicyTypes {
		knownValue(f, types.at(i), t, []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress})
	}
}

func (f *faults) policyPorts(w *where, ports []networkingv1.NetworkPolicyPort) {
	for i := range ports {
		f.policyPort(w.at(i), &ports[i])
	}
}

func (f *faults) policyPort(w *where, p *networkingv1.NetworkPolicyPort) {
	if p.Protocol != nil {
		knownValue(f, w.field("protocol"), *p.Protocol, []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP})
	}
	end := w.field("endPort")
	switch {
	case p.Port == nil:
		if p.EndPort != nil {
			f.invalid(end, *p.EndPort, "may not be specified when `port` is not specified")
		}
	case p.Port.Type == intstr.Int:
		f.port(w.field("port"), p.Port.IntVal)
		if p.EndPort == nil {
			return
		}
		if *p.EndPort < p.Port.IntVal {
			f.invalid(end, *p.EndPort, "must be greater than or equal to `port`")
		}
		f.port(end, *p.EndPort)
	default:
		if p.EndPort != nil {
			f.invalid(end, *p.EndPort, "may not be specified when `port` is non-numeric")
		}
		f.each(w.field("port"), p.Port.StrVal, validation.IsValidPortName(p.Port.StrVal))
	}
}

func (f *faults) policyPeer(w *where, p *networkingv1.NetworkPolicyPeer, anyValue bool, known []string) {
	if p.PodSelector != nil {
		f.labelSelector(w.field("podSelector"), p.PodSelector, anyValue)
	}
	if p.NamespaceSelector != nil {
		f.labelSelector(w.field("namespaceSelector"), p.NamespaceSelector, anyValue)
	}
	if p.IPBlock != nil {
		f.ipBlock(w.field("ipBlock"), p.IPBlock, known)
	}
	switch {
	case p.PodSelector == nil && p.NamespaceSelector == nil && p.IPBlock == nil:
		f.required(w, "must specify a peer")
	case p.IPBlock != nil && (p.PodSelector != nil || p.NamespaceSelector != nil):
		f.forbidden(w, "may not specify both ipBlock and another peer")
	}
}

func (f *faults) ipBlock(w *where, b *networkingv1.IPBlock, known []string) {
	if b.CIDR == "" {
		f.required(w.field("cidr"), "")
		return
	}
	f.add(validation.IsValidCIDRForLegacyField(w.field("cidr").path(), b.CIDR, true, known))
	_, cidr, err := netutils.ParseCIDRSloppy(b.CIDR)
	if err != nil {
		return
	}
	bits, _ := cidr.Mask.Size()
	for i, value := range b.Except {
		at := w.field("except").at(i)
		f.add(validation.IsValidCIDRForLegacyField(at.path(), value, true, known))
		_, except, err := netutils.ParseCIDRSloppy(value)
		if err != nil {
			continue
		}
		if own, _ := except.Mask.Size(); !cidr.Contains(except.IP) || bits >= own {
			f.invalid(at, value, "must be a strict subset of `cidr`")
		}
	}
}
