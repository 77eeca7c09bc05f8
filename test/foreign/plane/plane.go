package plane

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"wherry.dev/wherry/test/foreign/build"
)

// Plane is a running API server with its store.
type Plane struct {
	Name       string // wherry or upstream
	URL        string
	Dir        string // everything of its own
	PKI        string // as kubeadm lays it out: ca.crt, ca.key, sa.key and so on
	Kubeconfig string // the administrator's
	Config     *rest.Config
	Kube       kubernetes.Interface // the administrator's, in protobuf, without a limit of its own
	Processes  []*Process           // what serves it; Wherry's is one

	t    testing.TB
	keys *keys
	port int
	args []string
}

// Port that suites use unless they run several planes at once.
const Port = 6443

// startTimeout is for a machine that is busy.
const startTimeout = 4 * time.Minute

// StartWherry starts `wherry server --no-node` with further flags, on Address and the loopback. It is stopped with the test.
func StartWherry(t testing.TB, port int, args ...string) *Plane {
	t.Helper()
	Need(t)
	p := &Plane{Name: "wherry", Dir: Dir(t), t: t, port: port, args: args}
	p.PKI = filepath.Join(p.Dir, "data", "pki")
	p.startWherry()
	var err error
	if p.keys, err = readKeys(p.PKI, "ca"); err != nil {
		t.Fatal(err)
	}
	p.connect()
	return p
}

func (p *Plane) startWherry() {
	p.t.Helper()
	p.URL = fmt.Sprintf("https://%s:%d", Address, p.port)
	process := Start(p.t, "wherry", build.Wherry(p.t), append([]string{"server", "--no-node", "--node-name", "wherry", "--node-ip", Address, "--port", fmt.Sprint(p.port),
		"--data-dir", filepath.Join(p.Dir, "data"), "--run-dir", filepath.Join(p.Dir, "run")}, p.args...)...)
	p.Processes = []*Process{process}
	p.Kubeconfig = filepath.Join(p.Dir, "data", "admin.kubeconfig")
	p.waitReady()
}

// StartUpstream starts upstream's kube-apiserver, with further flags, over an etcd of its own. It uses the two ports after port as well.
func StartUpstream(t testing.TB, port int, args ...string) *Plane {
	t.Helper()
	Need(t)
	etcd, client := StartEtcd(t, port+1)
	p := StartUpstreamOver(t, port, client, args...)
	p.Processes = append([]*Process{etcd}, p.Processes...)
	return p
}

// StartEtcd starts an etcd with one member, and returns the URL for its clients. It uses port and the one after it.
func StartEtcd(t testing.TB, port int) (*Process, string) {
	t.Helper()
	Need(t)
	client, peer := fmt.Sprintf("http://127.0.0.1:%d", port), fmt.Sprintf("http://127.0.0.1:%d", port+1)
	return Start(t, "etcd", build.Need(t, "etcd"), "--data-dir", filepath.Join(Dir(t), "etcd"), "--listen-client-urls", client, "--advertise-client-urls", client,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "default="+peer, "--quota-backend-bytes", fmt.Sprint(8<<30), "--log-level", "warn"), client
}

// StartUpstreamOver starts upstream's kube-apiserver, with further flags, over an etcd that runs already.
func StartUpstreamOver(t testing.TB, port int, etcd string, args ...string) *Plane {
	t.Helper()
	Need(t)
	p := &Plane{Name: "upstream", Dir: Dir(t), t: t, port: port, args: args, URL: fmt.Sprintf("https://%s:%d", Address, port)}
	p.PKI = filepath.Join(p.Dir, "pki")
	var err error
	if p.keys, err = makeKeys(p.PKI); err != nil {
		t.Fatal(err)
	}
	p.Kubeconfig = p.KubeconfigFor("kubernetes-admin", "system:masters")
	key := func(name string) string { return filepath.Join(p.PKI, name) }
	issuer := "https://kubernetes.default.svc.cluster.local"
	api := Start(t, "kube-apiserver", build.Need(t, "kube-apiserver"), append([]string{
		"--etcd-servers", etcd, "--bind-address", "0.0.0.0", "--advertise-address", Address, "--secure-port", fmt.Sprint(port),
		"--tls-cert-file", key("apiserver.crt"), "--tls-private-key-file", key("apiserver.key"), "--client-ca-file", key("ca.crt"),
		"--service-account-issuer", issuer, "--service-account-key-file", key("sa.pub"), "--service-account-signing-key-file", key("sa.key"),
		"--authorization-mode", "Node,RBAC", "--enable-admission-plugins", "NodeRestriction", "--enable-bootstrap-token-auth", "--service-cluster-ip-range", "10.96.0.0/16",
		"--kubelet-client-certificate", key("apiserver-kubelet-client.crt"), "--kubelet-client-key", key("apiserver-kubelet-client.key"),
		"--requestheader-client-ca-file", key("front-proxy-ca.crt"), "--requestheader-allowed-names", "front-proxy-client", "--requestheader-username-headers", "X-Remote-User",
		"--requestheader-group-headers", "X-Remote-Group", "--requestheader-extra-headers-prefix", "X-Remote-Extra-",
		"--proxy-client-cert-file", key("front-proxy-client.crt"), "--proxy-client-key-file", key("front-proxy-client.key"),
	}, args...)...)
	p.Processes = []*Process{api}
	p.waitReady()
	p.connect()
	return p
}

// Restart stops Wherry and starts it again over the same data.
func (p *Plane) Restart() {
	p.t.Helper()
	p.Stop()
	p.startWherry()
}

// Stop stops the plane before the test's end, what was started last first.
func (p *Plane) Stop() {
	for i := len(p.Processes) - 1; i >= 0; i-- {
		p.Processes[i].Stop()
	}
}

// KubeconfigFor writes a client configuration of a user in groups, with a certificate of the plane's authority, and returns its path.
func (p *Plane) KubeconfigFor(user string, groups ...string) string {
	p.t.Helper()
	path := filepath.Join(p.Dir, strings.NewReplacer(":", "-", "/", "-").Replace(user)+".kubeconfig")
	if err := p.keys.kubeconfig(path, p.URL, user, groups...); err != nil {
		p.t.Fatal(err)
	}
	return path
}

// TokenKubeconfig writes a client configuration with a bearer token, and returns its path.
func (p *Plane) TokenKubeconfig(name, token string) string {
	p.t.Helper()
	path := filepath.Join(p.Dir, name+".kubeconfig")
	if err := writeKubeconfig(path, p.URL, p.keys.cert, &clientcmdapi.AuthInfo{Token: token}); err != nil {
		p.t.Fatal(err)
	}
	return path
}

// folder makes a folder of the plane's own.
func (p *Plane) folder(name string) string {
	p.t.Helper()
	dir := filepath.Join(p.Dir, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		p.t.Fatal(err)
	}
	return dir
}

func (p *Plane) connect() {
	p.t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", p.Kubeconfig)
	if err != nil {
		p.t.Fatalf("administrator's kubeconfig: %v", err)
	}
	config.QPS = -1
	p.Config = rest.CopyConfig(config)
	config.ContentType = "application/vnd.kubernetes.protobuf"
	if p.Kube, err = kubernetes.NewForConfig(config); err != nil {
		p.t.Fatalf("client: %v", err)
	}
}

// waitReady waits until /readyz says ok, to the administrator.
func (p *Plane) waitReady() {
	p.t.Helper()
	Eventually(p.t, "the API of "+p.Name+" to be ready", startTimeout, func() error {
		config, err := clientcmd.BuildConfigFromFlags("", p.Kubeconfig)
		if err != nil {
			return err
		}
		client, err := rest.HTTPClientFor(config)
		if err != nil {
			return err
		}
		defer client.CloseIdleConnections()
		r, err := client.Get(p.URL + "/readyz")
		if err != nil {
			return err
		}
		defer r.Body.Close()
		if r.StatusCode != http.StatusOK {
			b, _ := io.ReadAll(io.LimitReader(r.Body, 4096))
			return fmt.Errorf("%s: %s", r.Status, b)
		}
		return nil
	}, p.Processes...)
}

// dirs numbers the folders of this process's tests.
var dirs atomic.Int64

// Dir makes a folder with a short path, for sockets below it, that goes with the tests.
func Dir(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(os.Getenv(inside), strconv.FormatInt(dirs.Add(1), 36))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}
