package conformance

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"wherry.dev/wherry/test/foreign/build"
	"wherry.dev/wherry/test/foreign/images"
)

// missing are the controllers of upstream's controller manager that do what no controller of Wherry does yet. Both run side by side.
var missing = []string{
	"cronjob-controller", "daemonset-controller", "deployment-controller", "job-controller", "replicaset-controller", "replicationcontroller-controller", "statefulset-controller",
	"ephemeral-volume-controller", "persistentvolume-attach-detach-controller", "persistentvolume-binder-controller", "persistentvolume-expander-controller",
	"persistentvolume-protection-controller", "persistentvolumeclaim-protection-controller",
	"endpointslice-mirroring-controller", "garbage-collector-controller", "podcertificaterequest-cleaner-controller", "resourceclaim-controller", "service-cidr-controller",
	"storage-version-migrator-controller", "ttl-after-finished-controller", "validatingadmissionpolicy-status-controller",
	"volumeattributesclass-protection-controller",
}

// cluster is two nodes with the images of the suite, and upstream's controllers where Wherry has none.
type cluster struct {
	kubeconfig string
	state      string
}

func up(t *testing.T, archive string) *cluster {
	t.Helper()
	need(t)
	c := &cluster{state: os.Getenv(inside)}
	c.kubeconfig = filepath.Join(c.state, "kubeconfig")
	c.wherry(t, "up", "--name", clusterName, "--kubeconfig", c.kubeconfig, "--nodes", "2")
	t.Cleanup(func() {
		if t.Failed() {
			c.logs(t)
		}
		c.wherry(t, "down", "--name", clusterName, "--kubeconfig", c.kubeconfig)
	})
	c.wherry(t, "images", "import", "--name", clusterName, archive)
	for node := 1; node <= 2; node++ {
		registry(t, node, archive)
	}
	c.controllers(t)
	return c
}

func (c *cluster) wherry(t *testing.T, args ...string) {
	t.Helper()
	binary, err := wherryPath()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.WaitDelay = time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("wherry %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// registryAddress is where each node finds the images again, for specs that want them pulled.
const registryAddress = "127.0.0.1:5999"

// registry serves the images on a node's own loopback, in place of the registry that their names tell.
func registry(t *testing.T, node int, archive string) {
	t.Helper()
	r, err := images.OpenRegistry(archive)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := listenIn(filepath.Join("/run/wherry", clusterName, "ns", fmt.Sprintf("net-%d", node)), registryAddress)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: r, ReadHeaderTimeout: 10 * time.Second}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		server.Serve(listener)
	}()
	t.Cleanup(func() {
		server.Close()
		<-ended
		r.Close()
	})
	dir := filepath.Join("/var/lib/wherry", clusterName, fmt.Sprintf("node-%d", node), "registries", "registry.k8s.io")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	hosts := "server = \"https://registry.k8s.io\"\n[host.\"http://" + registryAddress + "\"]\ncapabilities = [\"pull\", \"resolve\"]\n"
	if err := os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(hosts), 0o644); err != nil {
		t.Fatal(err)
	}
}

// listenIn listens inside a network namespace, on a thread that is thrown away.
func listenIn(netns, address string) (net.Listener, error) {
	type answer struct {
		l   net.Listener
		err error
	}
	done := make(chan answer, 1)
	go func() {
		runtime.LockOSThread() // never unlocked
		if unix.Gettid() == unix.Getpid() {
			// The first thread stays, and would make the whole process one of the node's, which go with the cluster: let another do it.
			l, err := listenIn(netns, address)
			done <- answer{l, err}
			runtime.UnlockOSThread()
			return
		}
		fd, err := unix.Open(netns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			done <- answer{nil, fmt.Errorf("open %s: %w", netns, err)}
			return
		}
		defer unix.Close(fd)
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			done <- answer{nil, fmt.Errorf("enter %s: %w", netns, err)}
			return
		}
		l, err := net.Listen("tcp", address)
		done <- answer{l, err}
	}()
	a := <-done
	return a.l, a.err
}

// controllers starts upstream's controller manager, which ends with the test.
func (c *cluster) controllers(t *testing.T) {
	t.Helper()
	log, err := os.Create(filepath.Join(c.state, "kube-controller-manager.log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(build.Need(t, "kube-controller-manager"), "--kubeconfig", c.kubeconfig, "--leader-elect=false", "--controllers", strings.Join(missing, ","), "--secure-port=0",
		"--kube-api-qps=200", "--kube-api-burst=400")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start upstream's controllers: %v", err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := cmd.Wait(); t.Context().Err() == nil {
			t.Errorf("upstream's controllers ended: %v", err)
		}
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-ended
		log.Close()
	})
}

// logs shows the ends of what wrote logs, and keeps all of it where WHERRY_FOREIGN_LOGS says.
func (c *cluster) logs(t *testing.T) {
	files, _ := filepath.Glob(filepath.Join("/var/lib/wherry", clusterName, "logs", "*.log"))
	files = append(files, filepath.Join(c.state, "kube-controller-manager.log"))
	keep := os.Getenv("WHERRY_FOREIGN_LOGS")
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		if keep != "" {
			if err := os.WriteFile(filepath.Join(keep, filepath.Base(file)), b, 0o644); err != nil {
				t.Log(err)
			}
		}
		lines := strings.Split(strings.TrimSpace(string(b)), "\n")
		t.Logf("%s ends:\n%s", filepath.Base(file), strings.Join(lines[max(0, len(lines)-20):], "\n"))
	}
}
