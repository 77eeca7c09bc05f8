package conformance

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"wherry.dev/wherry/test/foreign/build"
	"wherry.dev/wherry/test/foreign/images"
)

// inside is set in the process that runs the tests: a directory for what they keep.
const inside = "WHERRY_CONFORMANCE_STATE"

// imagesVariable is the archive of the suite's images, there.
const imagesVariable = "WHERRY_CONFORMANCE_IMAGES"

// clusterName is short, as the names of network interfaces are made of it.
var clusterName = fmt.Sprintf("conf-%d", os.Getppid())

// TestMain makes what the tests need, and runs them in a child that has a network namespace of its own, without a route out. Whatever becomes of
// the child, the cluster is taken away after it.
func TestMain(m *testing.M) {
	flag.Parse()
	if os.Getuid() != 0 || testing.Short() || os.Getenv(inside) != "" {
		os.Exit(m.Run())
	}
	code, err := reexec()
	if err != nil {
		fmt.Fprintln(os.Stderr, "run the tests in a network namespace:", err)
		os.Exit(1)
	}
	os.Exit(code)
}

func reexec() (int, error) {
	archive, err := makeImages()
	if err != nil {
		return 0, err
	}
	for _, program := range []string{"e2e.test", "ginkgo", "kube-controller-manager"} {
		if _, err := build.Ensure(program); err != nil {
			return 0, err
		}
	}
	state, err := os.MkdirTemp("", "wherry-conformance-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(state)
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), inside+"="+state, imagesVariable+"="+archive)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	signal.Ignore(syscall.SIGINT, syscall.SIGQUIT) // the child gets them too
	runtime.LockOSThread()                         // Pdeathsig follows the thread
	runErr := cmd.Run()
	name := fmt.Sprintf("conf-%d", os.Getpid())
	if _, err := os.Stat(filepath.Join("/var/lib/wherry", name)); err == nil {
		binary, err := wherryPath()
		if err != nil {
			return 0, err
		}
		if out, err := exec.Command(binary, "down", "--name", name, "--kubeconfig", filepath.Join(state, "kubeconfig")).CombinedOutput(); err != nil {
			return 0, fmt.Errorf("take the cluster away: %w: %s", err, out)
		}
	}
	var exit *exec.ExitError
	if errors.As(runErr, &exit) {
		if !exit.Exited() {
			fmt.Fprintln(os.Stderr, "the tests' process ended by a signal:", exit)
		}
		return max(exit.ExitCode(), 1), nil
	}
	return 0, runErr
}

func makeImages() (string, error) {
	all, err := suiteImages()
	if err != nil {
		return "", err
	}
	root, err := build.Root()
	if err != nil {
		return "", err
	}
	return images.Archive(filepath.Join(root, ".build", "foreign"), all)
}

func wherryPath() (string, error) {
	if path := os.Getenv("WHERRY_BINARY"); path != "" {
		return path, nil
	}
	root, err := build.Root()
	if err != nil {
		return "", err
	}
	return filepath.Join(root, "bin", "wherry"), nil
}

// need skips a test that cannot run here, and readies the network namespace for one that can.
func need(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: brings up a cluster of network namespaces")
	}
	if testing.Short() {
		t.Skip("runs upstream's conformance suite: not with -short")
	}
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		t.Fatalf("bring up loopback: %v", err)
	}
}
