package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"wherry.dev/wherry/cluster"
	"wherry.dev/wherry/pki"
)

// UpOptions are those of `wherry up`.
type UpOptions struct {
	Name       string
	Nodes      int      // 0: as it was, or 1
	DataDir    string   // "" for the default
	Kubeconfig string   // file to merge the cluster into; "" for the user's default
	NodeArgs   []string // further flags of every node's process, for tests and the curious
	ServerArgs []string // further flags of the first node's process, `wherry server`, alone
}

// readyTimeout bounds the wait for every node to be Ready.
const readyTimeout = 2 * time.Minute

// Up makes the cluster, or continues it: whatever of it already runs is left alone. It returns when every node is Ready.
// When a new cluster cannot be brought up, nothing of it is left.
func Up(ctx context.Context, o UpOptions) (c *Cluster, err error) {
	if err := checkName(o.Name); err != nil {
		return nil, err
	}
	if o.Nodes < 0 || o.Nodes > MaxNodes {
		return nil, fmt.Errorf("%d nodes: a cluster on this machine has 1 to %d", o.Nodes, MaxNodes)
	}
	if err := failedChecks(Check()); err != nil {
		return nil, err
	}
	if o.DataDir != "" {
		if o.DataDir, err = filepath.Abs(o.DataDir); err != nil {
			return nil, err
		}
	}
	unlock, err := lockCluster(ctx, o.Name)
	if err != nil {
		return nil, err
	}
	defer unlock()
	c, fresh, err := claim(ctx, o)
	if err != nil {
		return nil, err
	}
	if fresh {
		defer func() {
			if err != nil {
				undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
				defer cancel()
				if e := c.remove(undo); e != nil {
					err = fmt.Errorf("%w (and cleaning up failed: %w)", err, e)
				}
			}
		}()
	}
	return c, c.start(ctx, o)
}

// claim loads the cluster's record, or makes one: from then on the name and the subnet are the cluster's.
func claim(ctx context.Context, o UpOptions) (c *Cluster, fresh bool, err error) {
	unlock, err := lockMachine(ctx)
	if err != nil {
		return nil, false, err
	}
	defer unlock()
	c, err = load(o.Name, o.DataDir)
	switch {
	case errors.Is(err, ErrNoCluster):
		c, err = newCluster(o)
		return c, err == nil, err
	case err != nil:
		return nil, false, err
	case o.Nodes != 0 && o.Nodes < c.Nodes:
		return nil, false, fmt.Errorf("cluster %s has %d nodes: `wherry down --name %s` first to make it smaller", c.Name, c.Nodes, c.Name)
	case o.Nodes > c.Nodes:
		c.Nodes = o.Nodes
		err = c.save()
	}
	return c, false, err
}

// newCluster chooses a subnet and records the cluster. Callers hold the machine's lock.
func newCluster(o UpOptions) (*Cluster, error) {
	taken := map[string]bool{}
	others, err := names()
	if err != nil {
		return nil, err
	}
	for _, name := range others {
		if other, err := load(name, ""); err == nil {
			taken[other.Subnet] = true
		}
	}
	subnet, err := chooseSubnet(taken)
	if err != nil {
		return nil, err
	}
	return create(o.Name, o.DataDir, subnet, max(o.Nodes, 1))
}

// start brings up what does not run, the agents beside the server: they wait for it.
func (c *Cluster) start(ctx context.Context, o UpOptions) error {
	if err := c.ensureNamespaceDir(); err != nil {
		return err
	}
	if err := c.ensureBridge(); err != nil {
		return err
	}
	server := c.server()
	credentials, err := cluster.Prepare(server)
	if err != nil {
		return err
	}
	began := time.Now()
	fresh := map[string]bool{} // nodes whose process was started just now
	watched := make([]*process, c.Nodes)
	defer func() {
		for _, p := range watched {
			if p != nil {
				unix.Close(p.pidfd)
			}
		}
	}()
	for i := 1; i <= c.Nodes; i++ {
		if _, err := c.ensureNamespaces(i); err != nil {
			return err
		}
		if err := c.ensureLeg(i); err != nil {
			return err
		}
		if p, ok := c.running(i); ok {
			watched[i-1] = p
			continue
		}
		args := append(c.nodeArgs(i), o.NodeArgs...)
		if i == 1 {
			args = append([]string{"server", "--name", c.Name}, append(args, o.ServerArgs...)...)
		} else {
			args = append([]string{"agent", "--server", c.serverURL(), "--token-file", server.Node.TokenFile(), "--ca-hash", credentials.CAHash}, args...)
		}
		if watched[i-1], err = c.spawn(i, args...); err != nil {
			return err
		}
		fresh[c.NodeName(i)] = true
	}
	config, err := clientcmd.RESTConfigFromKubeConfig(credentials.AdminKubeconfig)
	if err != nil {
		return fmt.Errorf("administrator's kubeconfig: %w", err)
	}
	if err := c.waitReady(ctx, config, watched, fresh, began); err != nil {
		return err
	}
	return c.writeKubeconfig(o, credentials.AdminKubeconfig)
}

// evictionHard leaves the disk to the user: it is shared with everything else on the machine, and a tenth of it is more than these
// nodes will ever take.
const evictionHard = "memory.available<100Mi,nodefs.available<1Gi,nodefs.inodesFree<1%"

func (c *Cluster) node(i int) cluster.Node {
	return cluster.Node{
		Name: c.NodeName(i), IP: c.NodeIP(i), DataDir: c.nodeDataDir(i), RunDir: c.nodeRunDir(i), CgroupRoot: c.nodeCgroup(i),
		DrainTimeout: cluster.DefaultDrainTimeout, MaxPods: cluster.DefaultMaxPods, EvictionHard: evictionHard,
	}
}

func (c *Cluster) server() cluster.Server {
	return cluster.Server{Name: c.Name, Node: c.node(1), Network: cluster.DefaultNetwork, Port: cluster.DefaultPort}
}

func (c *Cluster) serverURL() string {
	return fmt.Sprintf("https://%s:%d", c.NodeIP(1), cluster.DefaultPort)
}

func (c *Cluster) nodeArgs(i int) []string {
	n := c.node(i)
	return []string{"--node-name", n.Name, "--node-ip", n.IP.String(), "--data-dir", n.DataDir, "--run-dir", n.RunDir, "--cgroup-root", n.CgroupRoot, "--eviction-hard", n.EvictionHard}
}

// waitReady returns when every node is Ready, or as soon as one of their processes has ended, with the reason it gave.
func (c *Cluster) waitReady(ctx context.Context, config *rest.Config, watched []*process, fresh map[string]bool, began time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	var watching sync.WaitGroup
	defer watching.Wait() // the caller closes what they look at
	defer cancel()
	died := make(chan error, len(watched))
	for i, p := range watched {
		watching.Go(func() {
			if p.wait(ctx) == nil {
				died <- fmt.Errorf("node %s ended: %s", c.NodeName(i+1), lastError(c.logFile(i+1)))
			}
		})
	}
	ready := make(chan error, 1)
	watching.Go(func() { ready <- c.watchNodes(ctx, config, fresh, began) })
	select {
	case err := <-died:
		return err
	case err := <-ready:
		if errors.Is(err, context.DeadlineExceeded) {
			return fmt.Errorf("cluster %s: nodes are not Ready after %v; they said last: %s", c.Name, readyTimeout, c.lastErrors())
		}
		return err
	}
}

// watchNodes returns when every node is Ready. A node whose process was started just now must have renewed its Lease since: the Ready
// of before a kill -9 does not count.
func (c *Cluster) watchNodes(ctx context.Context, config *rest.Config, fresh map[string]bool, began time.Time) error {
	config = rest.CopyConfig(config)
	config.ContentType = "application/vnd.kubernetes.protobuf"
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("client: %w", err)
	}
	missing := map[string]bool{}
	for i := range c.Nodes {
		missing[c.NodeName(i+1)] = true
	}
	// The server is not up yet when we begin, and says so only by answering: ask until it does, then watch.
	for wait := 5 * time.Millisecond; len(missing) > 0; wait = min(2*wait, 50*time.Millisecond) {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := c.watchNodesOnce(ctx, client, missing); err != nil {
			time.Sleep(wait)
		}
	}
	for name := range fresh {
		if err := awaitHeartbeat(ctx, client, name, began); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) watchNodesOnce(ctx context.Context, client kubernetes.Interface, missing map[string]bool) error {
	list, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for i := range list.Items {
		noteReady(missing, &list.Items[i])
	}
	if len(missing) == 0 {
		return nil
	}
	w, err := client.CoreV1().Nodes().Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	if err != nil {
		return err
	}
	defer w.Stop()
	for event := range w.ResultChan() {
		if node, ok := event.Object.(*corev1.Node); ok {
			noteReady(missing, node)
		}
		if len(missing) == 0 {
			break
		}
	}
	return nil
}

// awaitHeartbeat waits until the node's kubelet has renewed its Lease after began.
func awaitHeartbeat(ctx context.Context, client kubernetes.Interface, name string, began time.Time) error {
	w, err := client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + name})
	if err != nil {
		return fmt.Errorf("watch the heartbeat of node %s: %w", name, err)
	}
	defer w.Stop()
	for event := range w.ResultChan() {
		lease, ok := event.Object.(*coordinationv1.Lease)
		if ok && lease.Spec.RenewTime != nil && lease.Spec.RenewTime.After(began) {
			return nil
		}
	}
	return fmt.Errorf("node %s sends no heartbeat: %w", name, ctx.Err())
}

// noteReady crosses a node off once it says Ready.
func noteReady(missing map[string]bool, node *corev1.Node) {
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady && condition.Status == corev1.ConditionTrue {
			delete(missing, node.Name)
		}
	}
}

// lastErrors is what each node's log ends with.
func (c *Cluster) lastErrors() string {
	said := make([]string, c.Nodes)
	for i := range said {
		said[i] = c.NodeName(i+1) + ": " + lastError(c.logFile(i+1))
	}
	return strings.Join(said, "; ")
}

// lastError finds what a process said last in its log, without the line's decoration.
func lastError(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return "no log"
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return lines[len(lines)-1] + " (log: " + path + ")"
}

// writeKubeconfig merges the cluster into the user's file and remembers which that was.
func (c *Cluster) writeKubeconfig(o UpOptions, admin []byte) error {
	path := o.Kubeconfig
	if path == "" {
		path = clientcmd.NewDefaultPathOptions().GetDefaultFilename()
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return fmt.Errorf("kubeconfig: %w", err)
	}
	config, err := clientcmd.Load(admin)
	if err != nil {
		return fmt.Errorf("administrator's kubeconfig: %w", err)
	}
	// Remembered first: an entry that nobody remembers would stay behind.
	if c.KubeconfigPath != path {
		c.KubeconfigPath = path
		if err := c.save(); err != nil {
			return err
		}
	}
	return pki.MergeKubeconfig(path, config)
}

func (c *Cluster) context() string { return pki.ContextName(c.Name) }
