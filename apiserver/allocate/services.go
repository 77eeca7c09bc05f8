// Package allocate hands out what Services take from shared ranges: cluster addresses and node ports. What is taken is
// recorded in etcd as upstream records it (an IPAddress for each address, KEP-1880; one bitmap for the ports), so that
// several API servers over one etcd never hand out the same thing twice, and an upstream server can take over.
package allocate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"wherry.dev/wherry/store"
)

// Config says what there is to hand out and where it is recorded.
type Config struct {
	// CIDRs are the ranges of cluster addresses, the primary family first, at most one of each family.
	CIDRs []netip.Prefix
	// Ports is the range of node ports, bounds included.
	Ports [2]int32
	// Addresses stores IPAddress objects, Ranges the bitmap of ports.
	Addresses, Ranges store.Resource
	// Shared says that other API servers hand out the same ranges.
	Shared bool
	Log    *slog.Logger
}

// Services implements verbs.Claims for Services. Safe for concurrent use.
type Services struct {
	addresses []*addresses // in the order of the CIDRs
	ports     *ports
	shared    bool
	log       *slog.Logger
}

// NewServices returns the allocator.
func NewServices(c Config) (*Services, error) {
	s := &Services{ports: newPorts(c.Ports, c.Ranges), shared: c.Shared, log: c.Log}
	for _, cidr := range c.CIDRs {
		a, err := newAddresses(cidr, c.Addresses)
		if err != nil {
			return nil, err
		}
		for _, have := range s.addresses {
			if have.family == a.family {
				return nil, fmt.Errorf("service ranges %s and %s are of one family", have.cidr, cidr)
			}
		}
		s.addresses = append(s.addresses, a)
	}
	return s, nil
}

func (s *Services) of(f corev1.IPFamily) *addresses {
	for _, a := range s.addresses {
		if a.family == f {
			return a
		}
	}
	return nil
}

// undos is what has been taken and can be given back. Giving back may fail; then it is found at the next start.
type undos []func() error

func (u undos) all(log *slog.Logger) func() {
	return func() {
		for _, f := range slices.Backward(u) {
			if err := f(); err != nil {
				log.Warn("could not give back what a service had claimed; it is given back at the next start", "error", err)
			}
		}
	}
}

// Claim implements verbs.Claims.
func (s *Services) Claim(ctx context.Context, obj, oldObj runtime.Object, dryRun bool) (func(), error) {
	svc, ok := obj.(*corev1.Service)
	if !ok {
		return nil, apierrors.NewInternalError(fmt.Errorf("claim for %T: it is no Service", obj))
	}
	old, _ := oldObj.(*corev1.Service)
	var taken undos
	err := s.claim(ctx, svc, old, dryRun, &taken)
	if err != nil {
		taken.all(s.log)()
		return nil, err
	}
	return taken.all(s.log), nil
}

func (s *Services) claim(ctx context.Context, svc, old *corev1.Service, dryRun bool, taken *undos) error {
	if usesAddresses(svc) && len(s.addresses) > 0 {
		if errs := s.families(svc, old); len(errs) > 0 {
			return invalid(svc, errs)
		}
		if err := s.claimAddresses(ctx, svc, old, dryRun, taken); err != nil {
			return err
		}
	}
	return s.claimPorts(ctx, svc, old, dryRun, taken)
}

func invalid(svc *corev1.Service, errs field.ErrorList) error {
	return apierrors.NewInvalid(schema.GroupKind{Kind: "Service"}, svc.Name, errs)
}

// Settle implements verbs.Claims: what old had and obj has no longer goes back.
func (s *Services) Settle(obj, oldObj runtime.Object) {
	old, ok := oldObj.(*corev1.Service)
	if !ok {
		return
	}
	svc, _ := obj.(*corev1.Service)
	var back undos
	for _, ip := range old.Spec.ClusterIPs {
		if svc != nil && slices.Contains(svc.Spec.ClusterIPs, ip) {
			continue
		}
		if a := s.of(familyOf(ip)); a != nil {
			back = append(back, func() error { return a.release(context.Background(), ip, old) })
		}
	}
	var keep map[int32]bool
	if svc != nil {
		keep = nodePorts(svc)
	}
	for p := range nodePorts(old) {
		if !keep[p] {
			back = append(back, func() error { return s.ports.release(context.Background(), p) })
		}
	}
	back.all(s.log)()
}

// usesAddresses tells whether a Service of this type has cluster addresses, "None" included.
func usesAddresses(svc *corev1.Service) bool {
	switch svc.Spec.Type {
	case corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer:
		return true
	}
	return false
}

func headless(svc *corev1.Service) bool {
	return svc.Spec.ClusterIP == corev1.ClusterIPNone || len(svc.Spec.ClusterIPs) > 0 && svc.Spec.ClusterIPs[0] == corev1.ClusterIPNone
}

// familyOf returns the family of an address, "" for what is none.
func familyOf(ip string) corev1.IPFamily {
	a, err := netip.ParseAddr(ip)
	switch {
	case err != nil:
		return ""
	case a.Unmap().Is4():
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}

// families completes ipFamilies and ipFamilyPolicy from what the Service says and the cluster has (KEP-563).
func (s *Services) families(svc, old *corev1.Service) field.ErrorList {
	spec := &svc.Spec
	path := field.NewPath("spec")
	dual := len(s.addresses) > 1
	var errs field.ErrorList

	if old != nil && usesAddresses(old) { // what is not said stays
		if spec.IPFamilyPolicy == nil {
			spec.IPFamilyPolicy = old.Spec.IPFamilyPolicy
		}
		if len(spec.IPFamilies) == 0 {
			spec.IPFamilies = slices.Clone(old.Spec.IPFamilies)
		}
		// A change to one family alone takes the second address and family away.
		if spec.IPFamilyPolicy != nil && *spec.IPFamilyPolicy == corev1.IPFamilyPolicySingleStack && len(old.Spec.IPFamilies) == 2 &&
			slices.Equal(spec.IPFamilies, old.Spec.IPFamilies) && slices.Equal(spec.ClusterIPs, old.Spec.ClusterIPs) {
			spec.IPFamilies = spec.IPFamilies[:1]
			if len(spec.ClusterIPs) > 1 {
				spec.ClusterIPs = spec.ClusterIPs[:1]
			}
		}
	}
	if headless(svc) && len(spec.Selector) == 0 {
		// Whoever writes the endpoints decides; both families are possible.
		if spec.IPFamilyPolicy == nil {
			require := corev1.IPFamilyPolicyRequireDualStack
			if len(spec.IPFamilies) == 1 {
				require = corev1.IPFamilyPolicySingleStack
			}
			spec.IPFamilyPolicy = &require
		}
		if len(spec.IPFamilies) == 0 {
			spec.IPFamilies = []corev1.IPFamily{s.addresses[0].family}
		}
		if *spec.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack && len(spec.IPFamilies) == 1 {
			spec.IPFamilies = append(spec.IPFamilies, other(spec.IPFamilies[0]))
		}
		return nil
	}
	for i, ip := range spec.ClusterIPs {
		f := familyOf(ip)
		if ip == corev1.ClusterIPNone || f == "" {
			break // validation has the word
		}
		if i >= len(spec.IPFamilies) {
			spec.IPFamilies = append(spec.IPFamilies, f)
		}
	}
	if spec.IPFamilyPolicy == nil {
		if n := max(len(spec.ClusterIPs), len(spec.IPFamilies)); n > 1 {
			what := "IP families"
			if len(spec.ClusterIPs) > 1 {
				what = "cluster IPs"
			}
			errs = append(errs, field.Required(path.Child("ipFamilyPolicy"), fmt.Sprintf("must be '%s' or '%s' when multiple %s are specified",
				corev1.IPFamilyPolicyRequireDualStack, corev1.IPFamilyPolicyPreferDualStack, what)))
			return errs
		}
		single := corev1.IPFamilyPolicySingleStack
		spec.IPFamilyPolicy = &single
	}
	if *spec.IPFamilyPolicy == corev1.IPFamilyPolicySingleStack && (len(spec.ClusterIPs) > 1 || len(spec.IPFamilies) > 1) {
		what := "IP families"
		if len(spec.ClusterIPs) > 1 {
			what = "cluster IPs"
		}
		errs = append(errs, field.Invalid(path.Child("ipFamilyPolicy"), *spec.IPFamilyPolicy, fmt.Sprintf("must be '%s' or '%s' when multiple %s are specified",
			corev1.IPFamilyPolicyRequireDualStack, corev1.IPFamilyPolicyPreferDualStack, what)))
	}
	if *spec.IPFamilyPolicy == corev1.IPFamilyPolicyRequireDualStack && !dual {
		errs = append(errs, field.Invalid(path.Child("ipFamilyPolicy"), *spec.IPFamilyPolicy, "this cluster is not configured for dual-stack services"))
	}
	for i, f := range spec.IPFamilies {
		if (f == corev1.IPv4Protocol || f == corev1.IPv6Protocol) && s.of(f) == nil {
			errs = append(errs, field.Invalid(path.Child("ipFamilies").Index(i), f, "not configured on this cluster"))
		}
	}
	if len(errs) > 0 {
		return errs
	}
	if len(spec.IPFamilies) == 0 {
		spec.IPFamilies = []corev1.IPFamily{s.addresses[0].family}
	}
	if *spec.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack && len(spec.IPFamilies) == 1 && dual {
		spec.IPFamilies = append(spec.IPFamilies, other(spec.IPFamilies[0]))
	}
	return nil
}

func other(f corev1.IPFamily) corev1.IPFamily {
	if f == corev1.IPv4Protocol {
		return corev1.IPv6Protocol
	}
	return corev1.IPv4Protocol
}

// claimAddresses gives the Service an address of each of its families.
func (s *Services) claimAddresses(ctx context.Context, svc, old *corev1.Service, dryRun bool, taken *undos) error {
	if headless(svc) {
		return nil
	}
	spec := &svc.Spec
	path := field.NewPath("spec", "clusterIPs")
	for i, f := range spec.IPFamilies {
		a := s.of(f)
		if a == nil {
			continue // validation has the word
		}
		if i < len(spec.ClusterIPs) {
			ip := spec.ClusterIPs[i]
			if old != nil && slices.Contains(old.Spec.ClusterIPs, ip) || familyOf(ip) != f {
				continue
			}
			if err := a.take(ctx, ip, svc, dryRun); err != nil {
				if isInternal(err) {
					return err
				}
				return invalid(svc, field.ErrorList{field.Invalid(path, spec.ClusterIPs, fmt.Sprintf("failed to allocate IP %v: %v", ip, err))})
			}
			if !dryRun {
				*taken = append(*taken, func() error { return a.release(context.WithoutCancel(ctx), ip, svc) })
			}
			continue
		}
		ip, err := a.next(ctx, svc, dryRun)
		if err != nil {
			return apierrors.NewInternalError(fmt.Errorf("failed to allocate a serviceIP: %w", err))
		}
		spec.ClusterIPs = append(spec.ClusterIPs, ip)
		if !dryRun {
			*taken = append(*taken, func() error { return a.release(context.WithoutCancel(ctx), ip, svc) })
		}
	}
	if len(spec.ClusterIPs) > 0 {
		spec.ClusterIP = spec.ClusterIPs[0]
	}
	return nil
}

// errTaken and errRange are upstream's sentences.
var errTaken = errors.New("provided IP is already allocated")

func isInternal(err error) bool {
	var s apierrors.APIStatus
	return errors.As(err, &s)
}

// nodePorts are all that the Service has from the range of ports.
func nodePorts(svc *corev1.Service) map[int32]bool {
	out := map[int32]bool{}
	for _, p := range svc.Spec.Ports {
		if p.NodePort != 0 {
			out[p.NodePort] = true
		}
	}
	if p := svc.Spec.HealthCheckNodePort; p != 0 {
		out[p] = true
	}
	return out
}

// claimPorts gives the Service the node ports that its type asks for.
func (s *Services) claimPorts(ctx context.Context, svc, old *corev1.Service, dryRun bool, taken *undos) error {
	spec := &svc.Spec
	automatic := spec.Type == corev1.ServiceTypeNodePort ||
		spec.Type == corev1.ServiceTypeLoadBalancer && (spec.AllocateLoadBalancerNodePorts == nil || *spec.AllocateLoadBalancerNodePorts)
	may := spec.Type == corev1.ServiceTypeNodePort || spec.Type == corev1.ServiceTypeLoadBalancer
	health := spec.Type == corev1.ServiceTypeLoadBalancer && spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
	if !may {
		return nil
	}
	mine := map[int32]bool{}
	if old != nil {
		mine = nodePorts(old)
	}
	took := func(p int32) {
		mine[p] = true
		if !dryRun {
			*taken = append(*taken, func() error { return s.ports.release(context.WithoutCancel(ctx), p) })
		}
	}
	fixed := func(p int32, path *field.Path) error {
		if mine[p] { // its own already, or the same number for another protocol
			return nil
		}
		if err := s.ports.take(ctx, p, dryRun); err != nil {
			if isInternal(err) {
				return err
			}
			return invalid(svc, field.ErrorList{field.Invalid(path, p, err.Error())})
		}
		took(p)
		return nil
	}
	// The numbers that are asked for go first, so that none of them is handed out by chance.
	for i := range spec.Ports {
		if p := spec.Ports[i].NodePort; p != 0 {
			if err := fixed(p, field.NewPath("spec", "ports").Index(i).Child("nodePort")); err != nil {
				return err
			}
		}
	}
	if health && spec.HealthCheckNodePort != 0 {
		if err := fixed(spec.HealthCheckNodePort, field.NewPath("spec", "healthCheckNodePort")); err != nil {
			return err
		}
	}
	pick := func() (int32, error) {
		p, err := s.ports.next(ctx, dryRun, mine)
		if err != nil {
			return 0, apierrors.NewInternalError(fmt.Errorf("failed to allocate a nodePort: %w", err))
		}
		took(p)
		return p, nil
	}
	if automatic {
		for i := range spec.Ports {
			p := &spec.Ports[i]
			if p.NodePort != 0 {
				continue
			}
			if n := shared(spec.Ports, i); n != 0 { // the same port over another protocol has the same number
				p.NodePort = n
				continue
			}
			n, err := pick()
			if err != nil {
				return err
			}
			p.NodePort = n
		}
	}
	if health && spec.HealthCheckNodePort == 0 {
		n, err := pick()
		if err != nil {
			return err
		}
		spec.HealthCheckNodePort = n
	}
	return nil
}

// shared returns the node port of another protocol's entry for the same port, if it has one that is free for ours.
func shared(ports []corev1.ServicePort, i int) int32 {
	for j := range ports {
		if j == i || ports[j].Port != ports[i].Port || ports[j].Protocol == ports[i].Protocol || ports[j].NodePort == 0 {
			continue
		}
		n := ports[j].NodePort
		if !slices.ContainsFunc(ports, func(p corev1.ServicePort) bool { return p.NodePort == n && p.Protocol == ports[i].Protocol }) {
			return n
		}
	}
	return 0
}
