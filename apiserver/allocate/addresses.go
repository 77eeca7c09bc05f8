package allocate

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"math/rand/v2"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"

	"wherry.dev/wherry/store"
)

// What upstream writes into IPAddress objects.
const (
	labelFamily    = networkingv1.LabelIPAddressFamily
	labelManagedBy = networkingv1.LabelManagedBy
	manager        = "ipallocator.k8s.io"
)

// addresses hands out one range. Each address that is taken is an IPAddress object of its name: creating it decides.
type addresses struct {
	cidr   netip.Prefix
	family corev1.IPFamily
	size   uint64 // addresses that can be handed out, the first one being cidr's first + 1; bounded to 2^62
	band   uint64 // the lower part, which is handed out by chance only when the rest is full (KEP-3070)
	store  store.Resource
}

func newAddresses(cidr netip.Prefix, s store.Resource) (*addresses, error) {
	cidr = cidr.Masked()
	bits := cidr.Addr().BitLen() - cidr.Bits()
	if bits < 2 {
		return nil, fmt.Errorf("service range %s is too small", cidr)
	}
	a := &addresses{cidr: cidr, family: corev1.IPv6Protocol, store: s}
	a.size = 1<<min(bits, 62) - 1 // not the network's own address
	if cidr.Addr().Is4() {
		a.family = corev1.IPv4Protocol
		a.size-- // nor its broadcast address
	}
	a.band = bandOf(a.size, 16)
	if a.band >= a.size {
		a.band = 0
	}
	return a, nil
}

// bandOf is the size of the static band: a share of the range between 16 and 256.
func bandOf(size, share uint64) uint64 {
	if size < 16 {
		return 0
	}
	return min(max(16, size/share), 256)
}

// at returns the i-th address that can be handed out.
func (a *addresses) at(i uint64) netip.Addr {
	base := a.cidr.Addr().AsSlice()
	if len(base) == 4 {
		v := binary.BigEndian.Uint32(base) + uint32(i) + 1
		return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, v)))
	}
	sum := new(big.Int).Add(new(big.Int).SetBytes(base), new(big.Int).SetUint64(i+1))
	return netip.AddrFrom16([16]byte(sum.FillBytes(make([]byte, 16))))
}

// take claims a named address.
func (a *addresses) take(ctx context.Context, ip string, svc *corev1.Service, dryRun bool) error {
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		return err
	}
	last := a.at(a.size - 1)
	if first := a.at(0); addr.Less(first) || last.Less(addr) {
		return fmt.Errorf("the provided IP (%v) is not in the valid range. The range of valid IPs is %s", ip, a.cidr)
	}
	return a.create(ctx, addr, svc, dryRun)
}

func (a *addresses) create(ctx context.Context, addr netip.Addr, svc *corev1.Service, dryRun bool) error {
	name := addr.String()
	if dryRun {
		_, err := a.store.Get(ctx, "", name, "0")
		switch {
		case err == nil:
			return errTaken
		case apierrors.IsNotFound(err):
			return nil
		}
		return err
	}
	obj := &networkingv1.IPAddress{ObjectMeta: metav1.ObjectMeta{Name: name, UID: uuid.NewUUID(), CreationTimestamp: metav1.Time{Time: time.Now().Truncate(time.Second)},
		Labels: map[string]string{labelFamily: string(a.family), labelManagedBy: manager}},
		Spec: networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Resource: "services", Namespace: svc.Namespace, Name: svc.Name}}}
	_, err := a.store.Create(ctx, "", name, obj, 0)
	if apierrors.IsAlreadyExists(err) {
		return errTaken
	}
	return err
}

// errFull is upstream's sentence for a range with nothing left.
var errFull = errors.New("range is full")

// next claims an address by chance: from the upper part of the range, else from the static band.
func (a *addresses) next(ctx context.Context, svc *corev1.Service, dryRun bool) (string, error) {
	for _, part := range [][2]uint64{{a.band, a.size}, {0, a.band}} {
		lo, n := part[0], part[1]-part[0]
		if n == 0 {
			continue
		}
		// From a random place onward, so that a nearly full range is searched once and not for ever. What the cache
		// shows as taken is passed by without asking etcd; the count says when all of it is.
		for i, start := uint64(0), rand.Uint64N(n); i < n; i++ {
			addr := a.at(lo + (start+i)%n)
			if _, err := a.store.Get(ctx, "", addr.String(), "0"); err == nil {
				continue
			} else if !apierrors.IsNotFound(err) {
				return "", err
			}
			err := a.create(ctx, addr, svc, dryRun)
			if errors.Is(err, errTaken) {
				continue
			}
			if err != nil {
				return "", err
			}
			return addr.String(), nil
		}
	}
	return "", errFull
}

// release gives an address back if it is svc's. What is not there is given back already.
func (a *addresses) release(ctx context.Context, ip string, svc *corev1.Service) error {
	addr, err := netip.ParseAddr(ip)
	if err != nil || !a.cidr.Contains(addr) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, releaseTimeout)
	defer cancel()
	_, err = a.store.Delete(ctx, "", addr.String(), nil, func(o *store.Object) error {
		if p := o.Object.(*networkingv1.IPAddress).Spec.ParentRef; p != nil && (p.Namespace != svc.Namespace || p.Name != svc.Name) {
			return errOthers
		}
		return nil
	})
	if apierrors.IsNotFound(err) || errors.Is(err, errOthers) {
		return nil
	}
	return err
}

// errOthers is an API error because those come through the store as they are.
var errOthers error = apierrors.NewInternalError(errors.New("the address is another service's"))

// releaseTimeout bounds giving back, which nobody waits for.
const releaseTimeout = 10 * time.Second
