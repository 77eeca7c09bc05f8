package allocate

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"math/rand/v2"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/uuid"

	"wherry.dev/wherry/store"
)

// portsName is the object that records the ports: /registry/ranges/servicenodeports.
const portsName = "servicenodeports"

// ports hands out node ports. They are one bitmap in one object, changed by optimistic transactions.
type ports struct {
	lo, hi int32
	band   int // as for addresses (KEP-3668)
	store  store.Resource

	mu    sync.Mutex
	leaks map[int32]int // in how many repairs in a row a port was claimed by no Service; guarded by mu
}

func newPorts(r [2]int32, s store.Resource) *ports {
	p := &ports{lo: r[0], hi: r[1], store: s}
	p.band = int(bandOf(uint64(p.size()), 32))
	if p.band >= p.size() {
		p.band = 0
	}
	return p
}

func (p *ports) size() int { return int(p.hi-p.lo) + 1 }

func (p *ports) span() string { return fmt.Sprintf("%d-%d", p.lo, p.hi) }

var (
	errPortTaken = errors.New("provided port is already allocated")
	errUnchanged = errors.New("nothing to change")
)

// change applies f to the bitmap and stores the outcome. A dry run stores nothing.
func (p *ports) change(ctx context.Context, dryRun bool, f func(bits *big.Int) error) error {
	var refused error // f's, which the store would dress up
	decide := func(current *store.Object) (runtime.Object, error) {
		next := &corev1.RangeAllocation{ObjectMeta: metav1.ObjectMeta{Name: portsName, UID: uuid.NewUUID(), CreationTimestamp: metav1.Time{Time: time.Now().Truncate(time.Second)}}}
		if current != nil {
			next = current.Object.(*corev1.RangeAllocation).DeepCopy()
		}
		bits := new(big.Int).SetBytes(next.Data)
		if next.Range != "" && next.Range != p.span() { // the range was configured otherwise before: start from what fits
			bits = p.moved(bits, next.Range)
		}
		if refused = f(bits); refused != nil {
			return nil, refused
		}
		next.Range, next.Data = p.span(), bits.Bytes()
		return next, nil
	}
	if dryRun {
		current, err := p.store.Get(ctx, "", portsName, "")
		if err != nil && !apierrors.IsNotFound(err) {
			return err
		}
		if err != nil {
			current = nil
		}
		_, err = decide(current)
		return err
	}
	_, err := p.store.Update(ctx, "", portsName, nil, true, decide)
	if err != nil && refused != nil {
		return refused
	}
	return err
}

// moved is the bitmap of another range seen through ours.
func (p *ports) moved(bits *big.Int, span string) *big.Int {
	var lo, hi int32
	out := new(big.Int)
	if n, err := fmt.Sscanf(span, "%d-%d", &lo, &hi); n != 2 || err != nil {
		return out
	}
	for port := max(lo, p.lo); port <= min(hi, p.hi); port++ {
		out.SetBit(out, int(port-p.lo), bits.Bit(int(port-lo)))
	}
	return out
}

// take claims a named port.
func (p *ports) take(ctx context.Context, port int32, dryRun bool) error {
	if port < p.lo || port > p.hi {
		return fmt.Errorf("provided port is not in the valid range. The range of valid ports is %s", p.span())
	}
	return p.change(ctx, dryRun, func(bits *big.Int) error {
		i := int(port - p.lo)
		if bits.Bit(i) == 1 {
			return errPortTaken
		}
		bits.SetBit(bits, i, 1)
		return nil
	})
}

// next claims a port by chance, from the upper part of the range, else from the static band. Those in not are passed
// by: a dry run has claimed them without leaving a trace.
func (p *ports) next(ctx context.Context, dryRun bool, not map[int32]bool) (port int32, err error) {
	err = p.change(ctx, dryRun, func(bits *big.Int) error {
		for _, part := range [][2]int{{p.band, p.size()}, {0, p.band}} {
			lo, n := part[0], part[1]-part[0]
			if n == 0 {
				continue
			}
			for i, start := 0, rand.IntN(n); i < n; i++ {
				at := lo + (start+i)%n
				if bits.Bit(at) == 1 || not[p.lo+int32(at)] {
					continue
				}
				bits.SetBit(bits, at, 1)
				port = p.lo + int32(at)
				return nil
			}
		}
		return errFull
	})
	return port, err
}

// release gives a port back; what is not taken is given back already.
func (p *ports) release(ctx context.Context, port int32) error {
	if port < p.lo || port > p.hi {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, releaseTimeout)
	defer cancel()
	err := p.change(ctx, false, func(bits *big.Int) error {
		i := int(port - p.lo)
		if bits.Bit(i) == 0 {
			return errUnchanged
		}
		bits.SetBit(bits, i, 0)
		return nil
	})
	if errors.Is(err, errUnchanged) {
		return nil
	}
	return err
}
