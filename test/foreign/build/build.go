// Package build builds programs that nobody here wrote, once, from released modules: upstream's components, etcd, KWOK, Helm. They are
// linked without cgo, so that they run in any namespace a suite makes.
package build

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Kubernetes is the release of upstream that is built; go.mod says the same.
const Kubernetes = "v1.37.1"

// A Program is a main package, or a package of tests, of some module.
type Program struct {
	Name    string
	Package string
	// Module is the folder, below this package's, of the go.mod that pins the program; "" for that of the suites.
	Module string
	// Test makes it a program of the package's tests.
	Test    bool
	Tags    []string
	LDFlags string
}

const upstreamVersion = "-X k8s.io/component-base/version.gitVersion=" + Kubernetes + " -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=37" +
	" -X k8s.io/component-base/version.gitTreeState=clean -X k8s.io/client-go/pkg/version.gitVersion=" + Kubernetes

// Programs are all that can be built.
var Programs = []Program{
	{Name: "etcd", Package: "go.etcd.io/etcd/server/v3"},
	{Name: "kube-apiserver", Package: "k8s.io/kubernetes/cmd/kube-apiserver", LDFlags: upstreamVersion},
	{Name: "kube-controller-manager", Package: "k8s.io/kubernetes/cmd/kube-controller-manager", LDFlags: upstreamVersion},
	{Name: "kube-scheduler", Package: "k8s.io/kubernetes/cmd/kube-scheduler", LDFlags: upstreamVersion},
	{Name: "kubelet", Package: "k8s.io/kubernetes/cmd/kubelet", LDFlags: upstreamVersion},
	{Name: "kube-proxy", Package: "k8s.io/kubernetes/cmd/kube-proxy", LDFlags: upstreamVersion},
	{Name: "sample-apiserver", Package: "k8s.io/sample-apiserver", LDFlags: upstreamVersion},
	{Name: "agnhost", Package: "k8s.io/kubernetes/test/images/agnhost", Module: "e2e"},
	{Name: "nonewprivs", Package: "k8s.io/kubernetes/test/images/nonewprivs", Module: "e2e"},
	{Name: "ginkgo", Package: "github.com/onsi/ginkgo/v2/ginkgo", Module: "e2e"},
	{Name: "e2e.test", Package: "k8s.io/kubernetes/test/e2e", LDFlags: upstreamVersion, Test: true},
	{Name: "coredns", Package: ".", Module: "coredns"},
	{Name: "kwok", Package: "sigs.k8s.io/kwok/cmd/kwok", Module: "kwok"},
	{Name: "helm", Package: "helm.sh/helm/v4/cmd/helm", Module: "helm"},
	{Name: "helm3", Package: "helm.sh/helm/v3/cmd/helm", Module: "helm3"},
}

// Need returns the path of a program, which is built first if it is not there, or not from what go.mod says. The first build of upstream's parts
// takes minutes.
func Need(t testing.TB, name string) string {
	t.Helper()
	path, err := Ensure(name)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// Ensure is Need for programs.
func Ensure(name string) (string, error) {
	i := slices.IndexFunc(Programs, func(p Program) bool { return p.Name == name })
	if i < 0 {
		return "", fmt.Errorf("no foreign program is named %s", name)
	}
	root, err := Root()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(root, ".build", "foreign")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make the programs' folder: %w", err)
	}
	path := filepath.Join(dir, name)
	return path, Programs[i].ensure(filepath.Join(root, "test", "foreign"), path)
}

// ensure builds the program unless the one that is there was made from the same pins with the same flags.
func (p Program) ensure(foreign, to string) error {
	module := foreign
	if p.Module != "" {
		module = filepath.Join(foreign, "build", p.Module)
	}
	args := p.args(to)
	digest, err := p.digest(module, args)
	if err != nil {
		return err
	}
	if isBuilt(to, digest) { // without the lock: others may be building other programs for half an hour
		return nil
	}
	unlock, err := lock(filepath.Join(filepath.Dir(to), "lock"))
	if err != nil {
		return err
	}
	defer unlock()
	if isBuilt(to, digest) { // while we waited
		return nil
	}
	if err := os.Remove(stampOf(to)); err != nil && !errors.Is(err, fs.ErrNotExist) { // it is of a program that is about to be overwritten
		return fmt.Errorf("take away the stamp of the %s before: %w", p.Name, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), buildTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = module
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w: %s", p.Name, err, out)
	}
	return os.WriteFile(stampOf(to), []byte(digest), 0o644)
}

// stampOf is the file that says from what a program was built. It is there only while the program is whole.
func stampOf(program string) string { return program + ".from" }

func isBuilt(program, digest string) bool {
	was, err := os.ReadFile(stampOf(program))
	if err != nil || string(was) != digest {
		return false
	}
	_, err = os.Stat(program)
	return err == nil
}

// buildTimeout is for a machine that has compiled nothing yet and is busy.
const buildTimeout = 45 * time.Minute

func (p Program) args(to string) []string {
	args := []string{"build"}
	if p.Test {
		args = []string{"test", "-c", "-vet=off"} // its vet would read all that it is made of
	}
	args = append(args, "-trimpath", "-ldflags", strings.TrimSpace("-s -w "+p.LDFlags), "-o", to)
	if len(p.Tags) > 0 {
		args = append(args, "-tags", strings.Join(p.Tags, ","))
	}
	return append(args, p.Package)
}

// digest is of all that decides what is built but the toolchain.
func (p Program) digest(module string, args []string) (string, error) {
	pins, err := os.ReadFile(filepath.Join(module, "go.mod"))
	if err != nil {
		return "", fmt.Errorf("read the pins of %s: %w", p.Name, err)
	}
	at := slices.Index(args, "-o") + 1
	args = slices.Clone(args)
	args[at] = "" // the same program in another checkout
	var lines []string
	for line := range strings.Lines(string(pins)) {
		line, _, _ = strings.Cut(line, "//") // who needs a version directly is of no matter
		if line = strings.TrimSpace(strings.TrimPrefix(line, "require ")); strings.Contains(line, " v") {
			lines = append(lines, line)
		}
	}
	slices.Sort(lines)
	sum := sha256.Sum256([]byte(strings.Join(append(slices.Compact(lines), args...), "\x00")))
	return hex.EncodeToString(sum[:]), nil
}

// Root is the folder of the product's own go.mod.
func Root() (string, error) {
	dir, err := os.Getwd()
	for ; err == nil && dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		b, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && bytes.Contains(b, []byte("module wherry.dev/wherry\n")) {
			return dir, nil
		}
	}
	return "", fmt.Errorf("no go.mod of wherry.dev/wherry at or above the working directory")
}

// Wherry returns the path of the program under test: WHERRY_BINARY, or bin/wherry.
func Wherry(t testing.TB) string {
	t.Helper()
	path := os.Getenv("WHERRY_BINARY")
	if path == "" {
		root, err := Root()
		if err != nil {
			t.Fatal(err)
		}
		path = filepath.Join(root, "bin", "wherry")
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("the program under test is not there (%v): make build", err)
	}
	return path
}

// lock keeps two packages' tests from building the same thing twice. It goes with the process, however it ends.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock the programs' folder: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { f.Close() }, nil
}
