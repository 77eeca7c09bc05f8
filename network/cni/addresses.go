package cni

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// reservations are the addresses given out by one network on this node; see the package comment for their form.
// Reserving and releasing need no lock; callers hold it where several steps belong together.
type reservations struct{ dir string }

// owner is who holds an address.
type owner struct {
	Container string
	Interface string
	Ports     bool // host ports were asked for, so that DEL must look for them
}

func (o owner) String() string {
	s := o.Container + " " + o.Interface
	if o.Ports {
		s += " ports"
	}
	return s
}

func parseOwner(s string) (owner, bool) {
	f := strings.Fields(s)
	if len(f) < 2 {
		return owner{}, false
	}
	return owner{Container: f[0], Interface: f[1], Ports: len(f) > 2 && f[2] == "ports"}, true
}

func openReservations(dir string) (reservations, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return reservations{}, fmt.Errorf("open address reservations: %w", err)
	}
	return reservations{dir}, nil
}

// lock serialises the plugin's runs on this network; the kernel frees it when the process ends, however it ends.
func (r reservations) lock() (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(r.dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock address reservations: %w", err)
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock address reservations: %w", err)
	}
	return func() { f.Close() }, nil
}

var errFull = errors.New("no free address")

// maxTries bounds the search in ranges that are too large to be full, such as a /64.
const maxTries = 1 << 17

// reserve takes the next free address of cidr for o. The gateway, the network's and (IPv4) the broadcast address are never given out.
func (r reservations) reserve(cidr netip.Prefix, o owner) (netip.Addr, error) {
	first, last := usable(cidr)
	next := first
	pointer := filepath.Join(r.dir, "last."+familyName(cidr))
	if b, err := os.ReadFile(pointer); err == nil {
		// A torn or foreign pointer only changes where the search begins.
		if a, err := netip.ParseAddr(string(b)); err == nil && !a.Less(first) && a.Less(last) {
			next = a.Next()
		}
	}
	start := next
	for range maxTries {
		err := os.Symlink(o.String(), r.path(next))
		if err == nil {
			if err := os.WriteFile(pointer, []byte(next.String()), 0o600); err != nil {
				return netip.Addr{}, errors.Join(fmt.Errorf("reserve address: %w", err), os.Remove(r.path(next)))
			}
			return next, nil
		}
		if !errors.Is(err, fs.ErrExist) {
			return netip.Addr{}, fmt.Errorf("reserve address: %w", err)
		}
		if next = next.Next(); last.Less(next) {
			next = first
		}
		if next == start {
			break
		}
	}
	return netip.Addr{}, fmt.Errorf("%w in %s", errFull, cidr)
}

// release gives an address back; one that is not reserved is no error.
func (r reservations) release(a netip.Addr) error {
	if err := os.Remove(r.path(a)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("release address: %w", err)
	}
	return nil
}

// all lists every reservation.
func (r reservations) all() (map[netip.Addr]owner, error) {
	d, err := os.Open(r.dir)
	if err != nil {
		return nil, fmt.Errorf("list address reservations: %w", err)
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("list address reservations: %w", err)
	}
	out := make(map[netip.Addr]owner, len(names))
	for _, name := range names {
		a, err := netip.ParseAddr(name)
		if err != nil {
			continue // lock, pointers
		}
		target, err := os.Readlink(filepath.Join(r.dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // released meanwhile
		} else if err != nil {
			return nil, fmt.Errorf("list address reservations: %w", err)
		}
		o, _ := parseOwner(target) // one without an owner stays listed, so that GC removes it
		out[a] = o
	}
	return out, nil
}

// of lists the addresses of one attachment.
func (r reservations) of(container, ifName string) ([]netip.Addr, bool, error) {
	all, err := r.all()
	if err != nil {
		return nil, false, err
	}
	var addrs []netip.Addr
	ports := false
	for a, o := range all {
		if o.Container == container && o.Interface == ifName {
			addrs = append(addrs, a)
			ports = ports || o.Ports
		}
	}
	return addrs, ports, nil
}

func (r reservations) path(a netip.Addr) string { return filepath.Join(r.dir, a.String()) }

// gateway is the address the node itself holds in cidr: the first after the network's own.
func gateway(cidr netip.Prefix) netip.Addr { return cidr.Masked().Addr().Next() }

// usable is the first and last address that a pod may get.
func usable(cidr netip.Prefix) (first, last netip.Addr) {
	b := cidr.Masked().Addr().AsSlice()
	for i := range b {
		if left := cidr.Bits() - i*8; left <= 0 {
			b[i] = 0xff
		} else if left < 8 {
			b[i] |= 0xff >> left
		}
	}
	last, _ = netip.AddrFromSlice(b)
	if cidr.Addr().Is4() {
		last = last.Prev()
	}
	return gateway(cidr).Next(), last
}

func familyName(cidr netip.Prefix) string {
	if cidr.Addr().Is4() {
		return "ipv4"
	}
	return "ipv6"
}
