// Package outside is what the whole-story and faults tests share: it brings clusters up with the real binary in a network
// namespace without a route out, and looks at them as the machine sees them (processes, mounts, namespaces, cgroups, nftables,
// etcd's bytes), never through Wherry's own packages. Only tests import it.
package outside

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

const (
	binaryVariable = "WHERRY_BINARY"       // the program under test; built when unset
	insideVariable = "WHERRY_TEST_STATE"   // set in the process that runs the tests: a directory for their records
	pollInterval   = 10 * time.Millisecond // between two looks at something that tells nobody when it changes
)

// Main is a package's TestMain. The tests run in a child in a network namespace of its own that has only a loopback; when
// it ends, in whatever way, the clusters that it did not bring down are brought down. Without root the tests skip themselves.
func Main(m *testing.M) {
	if os.Getuid() != 0 || os.Getenv(insideVariable) != "" {
		os.Exit(m.Run())
	}
	code, err := reexec()
	if err != nil {
		fmt.Fprintln(os.Stderr, "run the tests in a network namespace:", err)
		os.Exit(1)
	}
	os.Exit(code)
}

func reexec() (code int, err error) {
	state, err := os.MkdirTemp("", "wherry-test-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(state)
	binary := os.Getenv(binaryVariable)
	if binary == "" {
		binary = filepath.Join(state, "wherry")
		if err := build(binary); err != nil {
			return 0, err
		}
	}
	if binary, err = filepath.Abs(binary); err != nil {
		return 0, err
	}
	runtime.LockOSThread() // the child is killed when the thread that started it ends
	defer runtime.UnlockOSThread()
	cmd := exec.Command(os.Args[0], os.Args[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), insideVariable+"="+state, binaryVariable+"="+binary)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	runErr := cmd.Run()
	// A test that panicked or ran out of time has not cleaned up.
	names, _ := filepath.Glob(filepath.Join(state, "cluster-*"))
	for _, file := range names {
		name := strings.TrimPrefix(filepath.Base(file), "cluster-")
		fmt.Fprintln(os.Stderr, "bringing down what a test left:", name)
		if out, err := exec.Command(binary, "down", "--name", name, "--kubeconfig", filepath.Join(state, "kubeconfig")).CombinedOutput(); err != nil {
			return 0, fmt.Errorf("bring down %s: %w: %s", name, err, out)
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

// build makes the program under test with the flags that this test was built with, as far as the environment has them.
func build(to string) error {
	root, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return fmt.Errorf("find the module: %w", err)
	}
	cmd := exec.Command("go", "build", "-o", to, "./cmd/wherry")
	cmd.Dir = strings.TrimSpace(string(root))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build wherry: %w: %s", err, out)
	}
	return nil
}

// Need skips a test that cannot run here, and readies this network namespace for one that can.
func Need(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: makes network namespaces, mounts and cgroups")
	}
	if testing.Short() {
		t.Skip("brings up whole clusters: not with -short")
	}
	if os.Getenv(insideVariable) == "" {
		t.Fatal("the package's TestMain must call outside.Main")
	}
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		t.Fatalf("bring up loopback: %v", err)
	}
}

// Eventually looks until look returns no error, and fails the test when it still does after bound.
func Eventually(t *testing.T, bound time.Duration, look func() error) {
	t.Helper()
	deadline := time.Now().Add(bound)
	for {
		err := look()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %v", bound, err)
		}
		time.Sleep(pollInterval)
	}
}
