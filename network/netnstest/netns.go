// Package netnstest gives tests network namespaces of their own, so that whatever makes packets or rules never touches the
// machine's. Namespaces are held by file descriptors only: nothing is mounted, and the kernel removes them with the process.
// Tests only.
package netnstest

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const inside = "WHERRY_TEST_NETNS"

// Main runs a package's tests inside a fresh network namespace: `func TestMain(m *testing.M) { netnstest.Main(m) }`. Without root
// it runs them where they are; those that call Need are skipped then.
func Main(m *testing.M) {
	if os.Getuid() != 0 || os.Getenv(inside) != "" {
		if os.Getenv(inside) != "" {
			if err := upLoopback(); err != nil {
				fmt.Fprintln(os.Stderr, "set lo up in the test's namespace:", err)
				os.Exit(1)
			}
		}
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	signal.Ignore(syscall.SIGINT, syscall.SIGQUIT) // the child gets them too, and reports
	runtime.LockOSThread()                         // Pdeathsig follows the thread
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		os.Exit(max(exit.ExitCode(), 1))
	case err != nil:
		fmt.Fprintln(os.Stderr, "run the tests in a network namespace:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// upLoopback readies the thread's namespace. Without duplicate address detection IPv6 works at once.
func upLoopback() error {
	for _, scope := range []string{"all", "default"} {
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+scope+"/accept_dad", []byte("0"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

// Need skips the test unless it runs in a namespace that Main made.
func Need(t testing.TB) {
	t.Helper()
	if os.Getenv(inside) == "" {
		t.Skip("needs root, to make network namespaces")
	}
}

// Namespace is one network namespace. Its loopback is up.
type Namespace struct {
	t      testing.TB
	handle netns.NsHandle
}

// New makes a namespace; it ends with the test.
func New(t testing.TB) *Namespace {
	t.Helper()
	Need(t)
	type made struct {
		h   netns.NsHandle
		err error
	}
	done := make(chan made)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- made{err: err}
			return
		}
		if err := upLoopback(); err != nil {
			done <- made{err: err}
			return
		}
		h, err := netns.Get()
		done <- made{h, err}
	}()
	m := <-done
	if m.err != nil {
		t.Fatalf("make network namespace: %v", m.err)
	}
	n := &Namespace{t, m.h}
	t.Cleanup(func() { n.Close() })
	return n
}

// Close lets go of the namespace before the test's end.
func (n *Namespace) Close() {
	if n.handle.IsOpen() {
		n.handle.Close()
	}
}

// FD is the namespace's descriptor, owned by n.
func (n *Namespace) FD() int { return int(n.handle) }

// Path names the namespace for other processes, as long as this one lives.
func (n *Namespace) Path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), int(n.handle)) }

// Do runs f on a thread of the namespace and waits for it. Sockets that f opens stay in the namespace; goroutines that it starts do not.
func (n *Namespace) Do(f func() error) {
	n.t.Helper()
	if err := n.Try(f); err != nil {
		n.t.Fatal(err)
	}
}

// Try is Do for functions that may fail.
func (n *Namespace) Try(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if err := netns.Set(n.handle); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}

// Handle is a route netlink socket in the namespace.
func (n *Namespace) Handle() *netlink.Handle {
	n.t.Helper()
	h, err := netlink.NewHandleAt(n.handle, unix.NETLINK_ROUTE)
	if err != nil {
		n.t.Fatalf("open netlink socket: %v", err)
	}
	n.t.Cleanup(h.Close)
	return h
}

// Link is one end of a veth pair.
type Link struct {
	Namespace *Namespace // nil: the test's own
	Name      string
	Addresses []string // with prefix length
}

// Connect joins two namespaces by a veth pair with addresses, up on both sides.
func Connect(t testing.TB, a, b Link) {
	t.Helper()
	own, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	handle := func(l Link) *netlink.Handle {
		if l.Namespace == nil {
			return own
		}
		return l.Namespace.Handle()
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = a.Name
	veth := netlink.NewVeth(attrs)
	veth.PeerName = b.Name
	if b.Namespace != nil {
		veth.PeerNamespace = netlink.NsFd(b.Namespace.FD())
	}
	if err := handle(a).LinkAdd(veth); err != nil {
		t.Fatalf("join namespaces: %v", err)
	}
	t.Cleanup(func() {
		// In a namespace that outlives the test the pair would be in the way of the next one.
		if link, err := netlink.LinkByName(a.Name); err == nil && a.Namespace == nil {
			_ = netlink.LinkDel(link)
		}
	})
	for _, l := range []Link{a, b} {
		h := handle(l)
		link, err := h.LinkByName(l.Name)
		if err != nil {
			t.Fatalf("join namespaces: %v", err)
		}
		for _, text := range l.Addresses {
			p := netip.MustParsePrefix(text)
			addr := &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}}
			if p.Addr().Is6() {
				addr.Flags = unix.IFA_F_NODAD
			}
			if err := h.AddrAdd(link, addr); err != nil {
				t.Fatalf("join namespaces: %v", err)
			}
		}
		if err := h.LinkSetUp(link); err != nil {
			t.Fatalf("join namespaces: %v", err)
		}
	}
}

// Route adds a route to dst through the gateway via.
func (n *Namespace) Route(dst, via string) {
	n.t.Helper()
	h := n.Handle()
	p := netip.MustParsePrefix(dst)
	r := &netlink.Route{Dst: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}, Gw: net.ParseIP(via)}
	if err := h.RouteReplace(r); err != nil {
		n.t.Fatalf("add route to %s through %s: %v", dst, via, err)
	}
}
