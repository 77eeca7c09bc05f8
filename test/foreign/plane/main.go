// Package plane gives suites a Kubernetes control plane to run foreign programs against: Wherry's, or upstream's own kube-apiserver with etcd for
// comparison. All of it runs in network, mount and process namespaces that end with the tests, whatever happens to them.
package plane

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// inside is set for the process that runs the tests: the folder of their files, whose name is also that of their cgroups.
const inside = "WHERRY_FOREIGN_INSIDE"

// Address is this machine's in the tests' network namespace. API servers may not be advertised on a loopback address, so there is a bridge
// that leads nowhere; the default route goes there too.
const Address = "192.168.49.1"

// Main is a suite's TestMain. The tests run in a child with namespaces of its own; when it ends the kernel ends every process that they
// started, and mounts and interfaces go with them. Without root the tests skip themselves.
func Main(m *testing.M) {
	if os.Getuid() != 0 {
		os.Exit(m.Run())
	}
	if os.Getenv(inside) != "" {
		if err := settle(); err != nil {
			fmt.Fprintln(os.Stderr, "ready the tests' namespaces:", err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	code, err := within()
	if err != nil {
		fmt.Fprintln(os.Stderr, "run the tests in namespaces of their own:", err)
		os.Exit(1)
	}
	os.Exit(code)
}

// within runs the tests in a child, and takes away the files and cgroups that they left.
func within() (code int, err error) {
	dir, err := os.MkdirTemp("", "wf")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir), removeCgroups(filepath.Base(dir))) }()
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), inside+"="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
	signal.Ignore(syscall.SIGINT, syscall.SIGQUIT) // the child gets them too, and reports
	runtime.LockOSThread()                         // Pdeathsig follows the thread
	defer runtime.UnlockOSThread()
	terminated := make(chan os.Signal, 1)
	signal.Notify(terminated, syscall.SIGTERM)
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	go func() {
		<-terminated
		_ = cmd.Process.Kill() // and with the first process of its namespace all others
	}()
	runErr := cmd.Wait()
	var exit *exec.ExitError
	if errors.As(runErr, &exit) {
		return max(exit.ExitCode(), 1), nil
	}
	return 0, runErr
}

// Need skips a test that cannot run here.
func Need(t testing.TB) {
	t.Helper()
	switch {
	case os.Getuid() != 0:
		t.Skip("needs root: makes network, mount and process namespaces")
	case testing.Short():
		t.Skip("runs whole control planes: not with -short")
	case os.Getenv(inside) == "":
		t.Fatal("the package's TestMain must call plane.Main")
	}
}

// settle readies the new namespaces: mounts that reach nobody else, /proc of the new processes, and a network of one machine.
func settle() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil { // among ourselves: containers want it
		return fmt.Errorf("make mounts shared within the tests: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find loopback: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("bring up loopback: %w", err)
	}
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "nowhere"}}
	if err := netlink.LinkAdd(bridge); err != nil {
		return fmt.Errorf("make a bridge: %w", err)
	}
	address, err := netlink.ParseAddr(Address + "/24")
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(bridge, address); err != nil {
		return fmt.Errorf("give the bridge %s: %w", Address, err)
	}
	if err := netlink.LinkSetUp(bridge); err != nil {
		return fmt.Errorf("bring up the bridge: %w", err)
	}
	everywhere := &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}
	if err := netlink.RouteAdd(&netlink.Route{LinkIndex: bridge.Attrs().Index, Dst: everywhere, Scope: netlink.SCOPE_LINK, Src: address.IP}); err != nil {
		return fmt.Errorf("route everything to the bridge: %w", err)
	}
	return nil
}
