package outside

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Replicas are several control planes over one etcd of several members, each server in a network namespace of its own, all on one bridge
// in the test's. What is killed can be started again with the same data.
type Replicas struct {
	Etcds   []*Process
	Servers []*Server
	Etcd    *clientv3.Client

	t         *testing.T
	dir       string
	endpoints []string
}

// Server is one of Replicas' API servers.
type Server struct {
	*Process
	IP   string
	Dir  string
	Kube kubernetes.Interface // the administrator's, in JSON, with no limit of its own
	REST *rest.Config

	of *Replicas
}

// Process is a program that a test starts, kills and starts again.
type Process struct {
	Name string

	t    *testing.T
	args []string
	mu   sync.Mutex
	cmd  *exec.Cmd // nil while it does not run; guarded by mu
	out  SafeBuffer
}

const (
	bridgeIP  = "10.99.0.1"
	serverIP  = "10.99.0.%d" // of the n-th server, from 11
	apiPort   = "6443"
	readyWait = time.Minute // on a busy machine
)

// etcdBinary is upstream's etcd, built once.
var etcdBinary = sync.OnceValues(func() (string, error) {
	root, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	path := filepath.Join(os.Getenv(insideVariable), "etcd")
	cmd := exec.Command("go", "build", "-trimpath", "-tags=nri_no_wasm,grpcnotrace", "-o", path, "./test/outside/etcd")
	cmd.Dir = strings.TrimSpace(string(root))
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build etcd: %w: %s", err, out)
	}
	return path, nil
})

// StartReplicas starts members of etcd and servers over them, with further flags; all end with the test.
func StartReplicas(t *testing.T, members, servers int, args ...string) *Replicas {
	t.Helper()
	Need(t)
	etcd, err := etcdBinary()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("/tmp", "wr")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	r := &Replicas{t: t, dir: dir}
	t.Cleanup(func() {
		if t.Failed() {
			for _, s := range r.Servers {
				t.Logf("log of %s ends:\n%s", s.Name, tail(s.out.String(), 40))
			}
			for _, e := range r.Etcds {
				t.Logf("log of %s ends:\n%s", e.Name, tail(e.out.String(), 20))
			}
		}
	})
	r.bridge()

	var cluster []string
	for i := range members {
		cluster = append(cluster, fmt.Sprintf("m%d=http://%s:%d", i+1, bridgeIP, 2380+10*i))
		r.endpoints = append(r.endpoints, fmt.Sprintf("http://%s:%d", bridgeIP, 2379+10*i))
	}
	for i := range members {
		peer := strings.SplitN(cluster[i], "=", 2)[1]
		p := &Process{Name: fmt.Sprintf("etcd-%d", i+1), t: t, args: []string{etcd, "--name", fmt.Sprintf("m%d", i+1), "--data-dir", filepath.Join(dir, fmt.Sprintf("m%d", i+1)),
			"--listen-client-urls", r.endpoints[i], "--advertise-client-urls", r.endpoints[i], "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
			"--initial-cluster", strings.Join(cluster, ","), "--log-level", "warn", "--logger", "zap"}}
		r.Etcds = append(r.Etcds, p)
		p.Start()
		t.Cleanup(p.Kill)
	}
	if r.Etcd, err = clientv3.New(clientv3.Config{Endpoints: r.endpoints, DialTimeout: 10 * time.Second, Logger: zap.NewNop()}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Etcd.Close() })
	Eventually(t, readyWait, func() error { _, err := r.Revision(); return err })

	for i := range servers {
		r.addServer(i, nil, append([]string{"--etcd-endpoints", strings.Join(r.endpoints, ",")}, args...))
	}
	for _, s := range r.Servers {
		s.WaitReady()
	}
	return r
}

// Revision is etcd's.
func (r *Replicas) Revision() (int64, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	answer, err := r.Etcd.Get(ctx, "revision")
	if err != nil {
		return 0, err
	}
	return answer.Header.Revision, nil
}

func (r *Replicas) bridge() {
	r.t.Helper()
	link := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "replicas"}}
	if err := netlink.LinkAdd(link); err != nil {
		r.t.Fatalf("make bridge: %v", err)
	}
	r.t.Cleanup(func() { netlink.LinkDel(link) })
	address, _ := netlink.ParseAddr(bridgeIP + "/24")
	if err := netlink.AddrAdd(link, address); err != nil {
		r.t.Fatalf("address of the bridge: %v", err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		r.t.Fatalf("bridge up: %v", err)
	}
}

// Alone starts one more server with the keys of the others, over an etcd of its own, when prepare has readied its data directory.
func (r *Replicas) Alone(prepare func(dir string), args ...string) *Server {
	r.t.Helper()
	r.addServer(len(r.Servers), prepare, args)
	s := r.Servers[len(r.Servers)-1]
	s.WaitReady()
	return s
}

// EtcdIn starts an etcd of upstream's over a data directory of one member, and returns a client of it.
func (r *Replicas) EtcdIn(dir string) *clientv3.Client {
	t := r.t
	t.Helper()
	etcd, err := etcdBinary()
	if err != nil {
		t.Fatal(err)
	}
	const client, peer = "http://" + bridgeIP + ":3379", "http://" + bridgeIP + ":3380"
	p := &Process{Name: "etcd-in", t: t, args: []string{etcd, "--data-dir", dir, "--listen-client-urls", client, "--advertise-client-urls", client, "--listen-peer-urls", peer, "--log-level", "error"}}
	p.Start()
	t.Cleanup(p.Kill)
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{client}, DialTimeout: 10 * time.Second, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// addServer makes the namespace and starts the server in it. All have the keys of the first.
func (r *Replicas) addServer(i int, prepare func(dir string), args []string) {
	t := r.t
	t.Helper()
	name := fmt.Sprintf("s%d", i+1)
	ip, dir := fmt.Sprintf(serverIP, 11+i), filepath.Join(r.dir, name)
	ns := r.namespace(i, ip)
	if i > 0 {
		copyKeys(t, filepath.Join(r.Servers[0].Dir, "pki"), filepath.Join(dir, "pki"))
	}
	s := &Server{IP: ip, Dir: dir, of: r, Process: &Process{Name: name, t: t, args: append([]string{"nsenter", "--net=" + ns, Binary(), "server", "--no-node", "--name", "replicas",
		"--node-name", name, "--node-ip", ip, "--data-dir", dir, "--run-dir", filepath.Join(r.dir, "r"+name)}, args...)}}
	r.Servers = append(r.Servers, s)
	if prepare != nil {
		prepare(dir)
	}
	s.Start()
	t.Cleanup(s.Kill)
	if i == 0 {
		s.WaitReady() // its keys are complete
	} else {
		Eventually(t, readyWait, func() error { _, err := os.Stat(filepath.Join(dir, "admin.kubeconfig")); return err })
	}
	config, err := clientcmd.BuildConfigFromFlags("", filepath.Join(dir, "admin.kubeconfig"))
	if err != nil {
		t.Fatal(err)
	}
	config.QPS = -1
	s.REST = config
	if s.Kube, err = kubernetes.NewForConfig(config); err != nil {
		t.Fatal(err)
	}
}

// copyKeys copies what servers of one cluster have in common: authorities and the key that signs tokens.
func copyKeys(t *testing.T, from, to string) {
	t.Helper()
	for _, name := range []string{"ca.crt", "ca.key", "front-proxy-ca.crt", "front-proxy-ca.key", "sa.key", "sa.pub"} {
		b, err := os.ReadFile(filepath.Join(from, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(to, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(to, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// namespace makes a network namespace with one interface on the bridge, and returns its path.
func (r *Replicas) namespace(i int, ip string) string {
	t := r.t
	t.Helper()
	type made struct {
		h   netns.NsHandle
		err error
	}
	done := make(chan made, 1)
	go func() {
		runtime.LockOSThread() // never unlocked
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err != nil {
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
	t.Cleanup(func() { m.h.Close() })
	outer := fmt.Sprintf("rep%d", i)
	bridge, err := netlink.LinkByName("replicas")
	if err != nil {
		t.Fatal(err)
	}
	pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: outer, MasterIndex: bridge.Attrs().Index}, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(m.h))}
	if err := netlink.LinkAdd(pair); err != nil {
		t.Fatalf("connect server to the bridge: %v", err)
	}
	t.Cleanup(func() { netlink.LinkDel(pair) })
	if err := netlink.LinkSetUp(pair); err != nil {
		t.Fatal(err)
	}
	path := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), int(m.h))
	if err := In(path, func() error {
		for _, name := range []string{"lo", "eth0"} {
			link, err := netlink.LinkByName(name)
			if err != nil {
				return err
			}
			if name == "eth0" {
				address, _ := netlink.ParseAddr(ip + "/24")
				if err := netlink.AddrAdd(link, address); err != nil {
					return err
				}
			}
			if err := netlink.LinkSetUp(link); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatalf("set up the namespace of %s: %v", ip, err)
	}
	return path
}

// WaitReady waits until the server says that it is.
func (s *Server) WaitReady() {
	s.t.Helper()
	Eventually(s.t, readyWait, s.Ready)
}

// Ready asks the server whether it is.
func (s *Server) Ready() error {
	config, err := clientcmd.BuildConfigFromFlags("", filepath.Join(s.Dir, "admin.kubeconfig"))
	if err != nil {
		return err
	}
	config.Timeout = 2 * time.Second
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	r, err := client.Get("https://" + s.IP + ":" + apiPort + "/readyz")
	if err != nil {
		return err
	}
	r.Body.Close()
	if r.StatusCode != http.StatusOK {
		return fmt.Errorf("%s is not ready: %s", s.Name, r.Status)
	}
	return nil
}

// spawn starts a command that is to die with this process. The kernel kills it with the thread that started it, and Go ends threads on which a goroutine
// entered a namespace: so one thread, which does nothing else, starts them all.
func spawn(cmd *exec.Cmd) error {
	done := make(chan error)
	spawner() <- func() { done <- cmd.Start() }
	return <-done
}

var spawner = sync.OnceValue(func() chan<- func() {
	work := make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range work {
			f()
		}
	}()
	return work
})

// Start starts the program.
func (p *Process) Start() {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	cmd := exec.Command(p.args[0], p.args[1:]...)
	cmd.Stdout, cmd.Stderr = &p.out, &p.out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := spawn(cmd); err != nil {
		p.t.Fatalf("start %s: %v", p.Name, err)
	}
	p.cmd = cmd
}

// Kill kills the program by SIGKILL and waits for its end; a program that does not run is left alone.
func (p *Process) Kill() { p.end(syscall.SIGKILL) }

// Stop asks the program to end, and waits.
func (p *Process) Stop() { p.end(syscall.SIGTERM) }

func (p *Process) end(signal syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Signal(signal)
	_ = p.cmd.Wait()
	p.cmd = nil
}

// Log is what the program has written so far.
func (p *Process) Log() string { return p.out.String() }

func tail(text string, n int) string {
	lines := bytes.Split(bytes.TrimSpace([]byte(text)), []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-n):], []byte("\n")))
}
