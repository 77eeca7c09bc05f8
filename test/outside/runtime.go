package outside

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
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

// Shims are the process ids of node i's shims: one for each sandbox.
func (c *Cluster) Shims(i int) (pids []int, err error) {
	err = eachProcess(func(pid int, dir string) {
		line, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		args := strings.Split(string(bytes.TrimRight(line, "\x00")), "\x00")
		// `shim start` and `shim delete` are commands that containerd runs; what stays has no such word.
		if filepath.Base(args[0]) == "containerd-shim-runc-v2" && strings.Contains(string(line), c.RunDir(i)+"/") &&
			args[len(args)-1] != "start" && args[len(args)-1] != "delete" {
			pids = append(pids, pid)
		}
	})
	return pids, err
}

// RuncUnderWay returns the ids of the containers, sandboxes left out, on which runc runs the command just now on node i.
func (c *Cluster) RuncUnderWay(i int, command string) (ids []string, err error) {
	err = eachProcess(func(pid int, dir string) {
		line, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		args := strings.Split(string(bytes.TrimRight(line, "\x00")), "\x00")
		if filepath.Base(args[0]) != "runc" || !slices.Contains(args, command) || !strings.Contains(string(line), c.RunDir(i)+"/") {
			return
		}
		id := args[len(args)-1]
		config, _ := os.ReadFile(filepath.Join(c.RunDir(i), "c", "io.containerd.runtime.v2.task", "k8s.io", id, "config.json"))
		if bytes.Contains(config, []byte(`"io.kubernetes.cri.container-type":"container"`)) {
			ids = append(ids, id)
		}
	})
	return ids, err
}

// ContainerdPID is the process id of node i's containerd.
func (c *Cluster) ContainerdPID(i int) (found int, err error) {
	err = eachProcess(func(pid int, dir string) {
		line, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		args := strings.Split(string(bytes.TrimRight(line, "\x00")), "\x00")
		if filepath.Base(args[0]) == "containerd" && strings.Contains(string(line), fmt.Sprintf("/%s/", c.Name)) &&
			(strings.Contains(string(line), fmt.Sprintf("/node-%d/", i)) || strings.Contains(string(line), c.RunDir(i)+"/")) {
			found = pid
		}
	})
	if err == nil && found == 0 {
		err = fmt.Errorf("node %d has no containerd", i)
	}
	return found, err
}
