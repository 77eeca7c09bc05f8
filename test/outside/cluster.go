package outside

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Cluster is a cluster that a test brought up. It is brought down with the test.
type Cluster struct {
	Name       string
	Nodes      int
	Kubeconfig string
	Config     *rest.Config         // the administrator's
	Kube       kubernetes.Interface // likewise, in protobuf

	t *testing.T // that its methods fail
}

// commandTimeout bounds every command that a test runs.
const commandTimeout = 2 * time.Minute

// Up brings a new cluster up. args are further flags of `wherry up`. Its name ends in suffix, so that one test may have several.
func Up(t *testing.T, suffix string, nodes int, args ...string) *Cluster {
	t.Helper()
	c := New(t, suffix, nodes)
	c.Continue(append([]string{"--nodes", strconv.Itoa(nodes)}, args...)...)
	return c
}

// New names a cluster that is to be brought up by Continue, and takes it away with the test.
func New(t *testing.T, suffix string, nodes int) *Cluster {
	t.Helper()
	Need(t)
	state := os.Getenv(insideVariable)
	c := &Cluster{Name: fmt.Sprintf("whole-%d%s", os.Getpid(), suffix), Nodes: nodes, Kubeconfig: filepath.Join(state, "kubeconfig-"+suffix), t: t}
	record := filepath.Join(state, "cluster-"+c.Name)
	if err := os.WriteFile(record, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			c.logTails()
		}
		c.Down()
		os.Remove(record)
	})
	return c
}

// Continue calls `wherry up`, for the first time or once more.
func (c *Cluster) Continue(args ...string) {
	c.t.Helper()
	c.Wherry(c.upArgs(args)...)
	if c.Kube == nil {
		c.connect()
	}
}

func (c *Cluster) upArgs(args []string) []string {
	return append([]string{"up", "--name", c.Name, "--kubeconfig", c.Kubeconfig}, args...)
}

// StartUp starts `wherry up` in the background. The caller waits for it.
func (c *Cluster) StartUp(args ...string) *exec.Cmd {
	c.t.Helper()
	cmd := exec.Command(Binary(), c.upArgs(args)...)
	if err := cmd.Start(); err != nil {
		c.t.Fatalf("wherry up: %v", err)
	}
	return cmd
}

// Run runs a subtest, which the cluster's methods fail meanwhile. Subtests of one cluster run one after the other.
func (c *Cluster) Run(name string, f func(*testing.T)) bool {
	outer := c.t
	defer func() { c.t = outer }()
	return outer.Run(name, func(t *testing.T) {
		c.t = t
		f(t)
	})
}

// Down takes the cluster away; when it is gone already nothing happens.
func (c *Cluster) Down() {
	c.t.Helper()
	if out, err := c.try(nil, Binary(), "down", "--name", c.Name, "--kubeconfig", c.Kubeconfig); err != nil {
		c.t.Errorf("down: %v: %s", err, out)
	}
}

func (c *Cluster) connect() {
	c.t.Helper()
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(&clientcmd.ClientConfigLoadingRules{ExplicitPath: c.Kubeconfig},
		&clientcmd.ConfigOverrides{CurrentContext: "wherry-" + c.Name}).ClientConfig()
	if err != nil {
		c.t.Fatalf("kubeconfig: %v", err)
	}
	config.QPS = -1
	c.Config = rest.CopyConfig(config)
	config.ContentType = "application/vnd.kubernetes.protobuf"
	if c.Kube, err = kubernetes.NewForConfig(config); err != nil {
		c.t.Fatalf("client: %v", err)
	}
}

// logTails shows what there is to see of a test that failed: nodes and pods as the API has them, and the ends of the nodes' logs.
func (c *Cluster) logTails() {
	if c.Kube != nil {
		seen, _ := c.try(nil, c.kubectlCommand([]string{"get", "nodes,pods,events", "-A", "-o", "wide", "--request-timeout=5s"})...)
		taints, _ := c.try(nil, c.kubectlCommand([]string{"get", "nodes", "-o", "custom-columns=NODE:.metadata.name,TAINTS:.spec.taints", "--request-timeout=5s"})...)
		c.t.Logf("the API has:\n%s\n%s", seen, taints)
	}
	for i := 1; i <= c.Nodes; i++ {
		b, err := os.ReadFile(filepath.Join(c.DataDir(), "logs", fmt.Sprintf("node-%d.log", i)))
		if err != nil {
			continue
		}
		lines := strings.Split(strings.TrimSpace(string(b)), "\n")
		c.t.Logf("log of node %d ends:\n%s", i, strings.Join(lines[max(0, len(lines)-60):], "\n"))
	}
}

// Binary is the program under test.
func Binary() string { return os.Getenv(binaryVariable) }

// DataDir is where the cluster's data is.
func (c *Cluster) DataDir() string { return filepath.Join("/var/lib/wherry", c.Name) }

// RunDir is node i's directory of sockets.
func (c *Cluster) RunDir(i int) string { return filepath.Join("/run/wherry", c.Name, strconv.Itoa(i)) }

// NodeName is the name of node i, from 1.
func (c *Cluster) NodeName(i int) string { return fmt.Sprintf("%s-%d", c.Name, i) }

// NodeIP is the address of node i.
func (c *Cluster) NodeIP(i int) netip.Addr {
	c.t.Helper()
	out := c.Kubectl("get", "node", c.NodeName(i), "-o", `jsonpath={.status.addresses[?(@.type=="InternalIP")].address}`)
	a, err := netip.ParseAddr(strings.TrimSpace(out))
	if err != nil {
		c.t.Fatalf("address of node %d: %v", i, err)
	}
	return a
}

// MainPID is the process id of node i's `wherry server` or `wherry agent`.
func (c *Cluster) MainPID(i int) int {
	c.t.Helper()
	b, err := os.ReadFile(filepath.Join(c.RunDir(i), "wherry.pid"))
	if err != nil {
		c.t.Fatalf("process of node %d: %v", i, err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		c.t.Fatalf("process of node %d: %v", i, err)
	}
	return pid
}

// kubectl is the stock one of the machine, or else the one that comes with the binary. One of its own copy of the
// discovery cache a cluster: addresses are used again by the next one.
var kubectl = sync.OnceValue(func() []string {
	if _, err := os.Stat("/usr/bin/kubectl"); err == nil {
		return []string{"/usr/bin/kubectl"}
	}
	return []string{Binary(), "kubectl"}
})

func (c *Cluster) kubectlCommand(args []string) []string {
	return append(append([]string{}, kubectl()...), append([]string{"--kubeconfig", c.Kubeconfig, "--context", "wherry-" + c.Name,
		"--cache-dir", filepath.Join(os.Getenv(insideVariable), "cache-"+c.Name)}, args...)...)
}

// Kubectl runs kubectl and returns what it printed; when it fails so does the test.
func (c *Cluster) Kubectl(args ...string) string {
	c.t.Helper()
	return c.KubectlInput("", args...)
}

// KubectlInput is Kubectl with standard input.
func (c *Cluster) KubectlInput(input string, args ...string) string {
	c.t.Helper()
	out, err := c.try([]byte(input), c.kubectlCommand(args)...)
	if err != nil {
		c.t.Fatalf("kubectl %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return out
}

// KubectlFails runs kubectl, which must fail, and returns what it printed.
func (c *Cluster) KubectlFails(input string, args ...string) string {
	c.t.Helper()
	out, err := c.try([]byte(input), c.kubectlCommand(args)...)
	if err == nil {
		c.t.Fatalf("kubectl %s: it should have failed, and said %s", strings.Join(args, " "), out)
	}
	return out
}

// KubectlStart starts kubectl in the background; it is killed when ctx ends. The caller waits for it.
func (c *Cluster) KubectlStart(ctx context.Context, stdout, stderr *SafeBuffer, args ...string) *exec.Cmd {
	c.t.Helper()
	line := c.kubectlCommand(args)
	cmd := exec.CommandContext(ctx, line[0], line[1:]...)
	cmd.Stdout, cmd.Stderr = stdout, stderr
	if err := cmd.Start(); err != nil {
		c.t.Fatalf("kubectl %s: %v", strings.Join(args, " "), err)
	}
	return cmd
}

// Wherry runs the program under test and returns what it printed; when it fails so does the test.
func (c *Cluster) Wherry(args ...string) string {
	c.t.Helper()
	out, err := c.try(nil, append([]string{Binary()}, args...)...)
	if err != nil {
		c.t.Fatalf("wherry %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return out
}

// try runs a command; out is its standard output, with what it wrote to standard error when it failed.
func (c *Cluster) try(input []byte, line ...string) (out string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, line[0], line[1:]...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(input), &stdout, &stderr
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		return stdout.String() + stderr.String(), err
	}
	return stdout.String(), nil
}

// SafeBuffer takes a command's output while somebody reads it.
type SafeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer // guarded by mu
}

// Write implements io.Writer.
func (s *SafeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

// String returns what has been written.
func (s *SafeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
