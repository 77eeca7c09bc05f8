package outside

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Sandboxes asks node i's container runtime itself which sandboxes it has: UIDs of their pods, one for each sandbox.
func (c *Cluster) Sandboxes(i int) (uids []string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, err := grpc.NewClient("unix://"+filepath.Join(c.RunDir(i), "c", "c.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, fmt.Errorf("connect to the runtime of node %d: %w", i, err)
	}
	defer conn.Close()
	answer, err := cri.NewRuntimeServiceClient(conn).ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
	if err != nil {
		return nil, fmt.Errorf("list sandboxes of node %d: %w", i, err)
	}
	for _, s := range answer.Items {
		uids = append(uids, s.Metadata.Uid)
	}
	return uids, nil
}

var podCgroup = regexp.MustCompile(`/pod([0-9a-f]{8}-[-0-9a-f]{27})$`)

// PodsWithCgroups are the UIDs of the pods that have a cgroup in any hierarchy on node i.
func (c *Cluster) PodsWithCgroups(i int) (uids map[string]bool, err error) {
	all, err := Cgroups(fmt.Sprintf("/wherry/%s/%d/", c.Name, i))
	if err != nil {
		return nil, err
	}
	uids = map[string]bool{}
	for _, dir := range all {
		if m := podCgroup.FindStringSubmatch(dir); m != nil {
			uids[m[1]] = true
		}
	}
	return uids, nil
}

// PodsWithDirectories are the UIDs of the pods that have a directory on node i.
func (c *Cluster) PodsWithDirectories(i int) (uids map[string]bool, err error) {
	entries, err := os.ReadDir(filepath.Join(c.DataDir(), fmt.Sprintf("node-%d", i), "kubelet", "pods"))
	uids = map[string]bool{}
	for _, e := range entries {
		uids[e.Name()] = true
	}
	return uids, err
}

// ContainerdPID is the process id of node i's containerd.
func (c *Cluster) ContainerdPID(i int) (found int, err error) {
	err = eachProcess(func(pid int, dir string) {
		line, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		args := strings.Split(string(bytes.TrimRight(line, "\x00")), "\x00")
		if len(args) > 1 && args[1] == "containerd" && strings.Contains(string(line), fmt.Sprintf("/%s/", c.Name)) &&
			(strings.Contains(string(line), fmt.Sprintf("/node-%d/", i)) || strings.Contains(string(line), c.RunDir(i)+"/")) {
			found = pid
		}
	})
	if err == nil && found == 0 {
		err = fmt.Errorf("node %d has no containerd", i)
	}
	return found, err
}
