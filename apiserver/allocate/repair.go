package allocate

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"wherry.dev/wherry/store"
)

// leakAge is how old a claim without a Service must be to be one that a crash left behind, and not one whose Service
// another API server is about to store.
const leakAge = 2 * time.Minute

// Repair makes the records agree with the Services there are: claims that a crash left behind go back, and what a
// Service has (after a restore, say) is recorded. It is for the start of a server, and from time to time where there are others, which may die
// between the claim and the Service.
func (s *Services) Repair(ctx context.Context, services store.Resource) error {
	page, err := services.List(ctx, store.ListOptions{})
	if err != nil {
		return fmt.Errorf("read services to repair their claims: %w", err)
	}
	owners := map[string]*corev1.Service{}
	used := map[int32]bool{}
	for _, o := range page.Items {
		svc := o.Object.(*corev1.Service)
		for p := range nodePorts(svc) {
			used[p] = true
		}
		if headless(svc) || !usesAddresses(svc) {
			continue
		}
		for _, ip := range svc.Spec.ClusterIPs {
			addr, err := netip.ParseAddr(ip)
			a := s.of(familyOf(ip))
			if err != nil || a == nil || !a.cidr.Contains(addr) {
				continue
			}
			owners[addr.String()] = svc
			if err := a.create(ctx, addr, svc, false); err != nil && !errors.Is(err, errTaken) {
				return fmt.Errorf("record address %s of service %s/%s: %w", ip, svc.Namespace, svc.Name, err)
			}
		}
	}
	for _, a := range s.addresses {
		if err := a.repair(ctx, owners); err != nil {
			return err
		}
	}
	return s.ports.repair(ctx, used, s.shared)
}

func (a *addresses) repair(ctx context.Context, owners map[string]*corev1.Service) error {
	page, err := a.store.List(ctx, store.ListOptions{})
	if err != nil {
		return fmt.Errorf("read addresses of services: %w", err)
	}
	for _, o := range page.Items {
		ip := o.Object.(*networkingv1.IPAddress)
		if ip.Labels[labelManagedBy] != manager || ip.Labels[labelFamily] != string(a.family) || owners[ip.Name] != nil || time.Since(ip.CreationTimestamp.Time) < leakAge {
			continue
		}
		uid := ip.UID
		if _, err := a.store.Delete(ctx, "", ip.Name, &store.Preconditions{UID: &uid}, nil); err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return fmt.Errorf("give back address %s, which no service has: %w", ip.Name, err)
		}
	}
	return nil
}

// leakRounds is how many repairs in a row must find a port without a Service before it goes back. Ports have no age, and another
// API server may just be about to store the Service that it has claimed one for.
const leakRounds = 3

// repair records the ports that are used, and gives back those that nobody uses: at once where nobody else hands out any.
func (p *ports) repair(ctx context.Context, used map[int32]bool, shared bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var leaks map[int32]int
	err := p.change(ctx, false, func(bits *big.Int) error {
		leaks = map[int32]int{}
		want := new(big.Int)
		for port := range used {
			if port >= p.lo && port <= p.hi {
				want.SetBit(want, int(port-p.lo), 1)
			}
		}
		for i := 0; shared && i < p.size(); i++ {
			if port := p.lo + int32(i); bits.Bit(i) == 1 && want.Bit(i) == 0 {
				if leaks[port] = p.leaks[port] + 1; leaks[port] < leakRounds {
					want.SetBit(want, i, 1)
				}
			}
		}
		if want.Cmp(bits) == 0 {
			return errUnchanged
		}
		bits.Set(want)
		return nil
	})
	if err != nil && !errors.Is(err, errUnchanged) {
		return fmt.Errorf("repair the record of node ports: %w", err)
	}
	p.leaks = leaks
	return nil
}
