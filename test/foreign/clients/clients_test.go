// Package clients runs programs of others that read much of the API and write little of it: upstream's kube-proxy, and CoreDNS; and
// Helm, which writes everything. They must do their work, and have nothing to complain of.
package clients

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"wherry.dev/wherry/test/foreign/build"
	"wherry.dev/wherry/test/foreign/logs"
	"wherry.dev/wherry/test/foreign/plane"
)

func TestMain(m *testing.M) { plane.Main(m) }

// served makes a Service whose only endpoint is this process, and returns its address.
func served(t *testing.T, p *plane.Plane, name string) string {
	t.Helper()
	l, err := net.Listen("tcp", plane.Address+":0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, name) }), ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { server.Close() })
	service, err := p.Kube.CoreV1().Services("default").Create(t.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "http", Port: 80}}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	port, yes, protocol, portName := int32(l.Addr().(*net.TCPAddr).Port), true, corev1.ProtocolTCP, "http"
	if _, err := p.Kube.DiscoveryV1().EndpointSlices("default").Create(t.Context(), &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Name: name + "-1", Labels: map[string]string{discoveryv1.LabelServiceName: name}}, AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints: []discoveryv1.Endpoint{{Addresses: []string{plane.Address}, Conditions: discoveryv1.EndpointConditions{Ready: &yes}}},
		Ports:     []discoveryv1.EndpointPort{{Name: &portName, Port: &port, Protocol: &protocol}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return service.Spec.ClusterIP
}

// TestKubeProxy: kube-proxy carries connections to a Service, and stops when the Service goes.
func TestKubeProxy(t *testing.T) {
	plane.Need(t)
	program := build.Need(t, "kube-proxy")
	p := plane.StartWherry(t, plane.Port)
	if _, err := p.Kube.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "proxied"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Kube.CoreV1().Nodes().Patch(t.Context(), "proxied", "application/merge-patch+json", []byte(`{"status":{"addresses":[{"type":"InternalIP","address":"`+plane.Address+`"}]}}`), metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
	who := p.KubeconfigFor("system:kube-proxy")
	proxy := plane.Start(t, "kube-proxy", program, "--kubeconfig", who, "--proxy-mode", "nftables", "--hostname-override", "proxied", "--cluster-cidr", "10.244.0.0/16",
		"--healthz-bind-address", "127.0.0.1:10256", "--metrics-bind-address", "127.0.0.1:10249", "--conntrack-max-per-core", "0", "--conntrack-tcp-timeout-established", "0", "--conntrack-tcp-timeout-close-wait", "0", "--v", "2")
	address := served(t, p, "web")
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	plane.Eventually(t, "an answer through the Service", 30*time.Second, func() error {
		r, err := client.Get("http://" + address + "/")
		if err != nil {
			return err
		}
		defer r.Body.Close()
		if b, err := io.ReadAll(r.Body); err != nil || string(b) != "web" {
			return fmt.Errorf("got %q, %v", b, err)
		}
		return nil
	}, proxy)
	if err := p.Kube.CoreV1().Services("default").Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	plane.Eventually(t, "no answer through a Service that is gone", 30*time.Second, func() error {
		r, err := client.Get("http://" + address + "/")
		if err == nil {
			r.Body.Close()
			return fmt.Errorf("there is still an answer")
		}
		return nil
	}, proxy)
	complaints, err := logs.ReadFile(proxy.Log)
	if err != nil {
		t.Fatal(err)
	}
	for c, seen := range complaints {
		if !ofThisMachine.MatchString(c.Text) {
			t.Errorf("kube-proxy logs, %d times: %s", seen.Count, seen.First)
		}
	}
}

// ofThisMachine are complaints that have nothing to do with the API.
var ofThisMachine = regexp.MustCompile(`(?i)nodePortAddresses|list existing sets|sysctl|conntrack|kernel|nfacct|cgroup`)

const corefile = `.:5301 {
	errors
	log
	ready 127.0.0.1:8181
	kubernetes cluster.local in-addr.arpa {
		kubeconfig %s
		pods verified
		ttl 5
	}
}
`

// TestCoreDNS: CoreDNS answers for Services as they come and go.
func TestCoreDNS(t *testing.T) {
	plane.Need(t)
	program := build.Need(t, "coredns")
	p := plane.StartWherry(t, plane.Port)
	file := filepath.Join(p.Dir, "Corefile")
	if err := os.WriteFile(file, []byte(fmt.Sprintf(corefile, p.Kubeconfig)), 0o600); err != nil {
		t.Fatal(err)
	}
	server := plane.Start(t, "coredns", program, "-conf", file)
	address := served(t, p, "web")
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, "127.0.0.1:5301")
	}}
	lookup := func(name string) error {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		got, err := resolver.LookupHost(ctx, name)
		if err == nil && (len(got) != 1 || got[0] != address) {
			err = fmt.Errorf("%s is %v, not %s", name, got, address)
		}
		return err
	}
	plane.Eventually(t, "the Service's name", 30*time.Second, func() error { return lookup("web.default.svc.cluster.local.") }, server)
	names, err := resolver.LookupAddr(t.Context(), address)
	if err != nil || len(names) != 1 || names[0] != "web.default.svc.cluster.local." {
		t.Errorf("%s is %v, %v", address, names, err)
	}
	if err := p.Kube.CoreV1().Services("default").Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	plane.Eventually(t, "the name to go with its Service", 30*time.Second, func() error {
		if err := lookup("web.default.svc.cluster.local."); err == nil {
			return fmt.Errorf("it is still there")
		}
		return nil
	}, server)
	b, err := os.ReadFile(server.Log)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, "[ERROR]") || strings.Contains(line, "[WARNING]") && !strings.Contains(line, "waiting for Kubernetes API before starting server") {
			t.Errorf("CoreDNS logs: %s", strings.TrimSpace(line))
		}
	}
}
