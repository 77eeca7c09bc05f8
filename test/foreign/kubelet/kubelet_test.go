// Package kubelet runs upstream's kubelet against Wherry's API server, on the containerd that Wherry carries inside: the node joins by a bootstrap token, and a pod on it
// lives its whole life. The same is done against upstream's API server, and the kubelet may complain of nothing more here than there.
package kubelet

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"wherry.dev/wherry/test/foreign/build"
	"wherry.dev/wherry/test/foreign/logs"
	"wherry.dev/wherry/test/foreign/plane"
)

func TestMain(m *testing.M) { plane.Main(m) }

// recorded is what the kubelet has been seen to log against upstream's API server.
const recorded = "testdata/upstream.txt"

// stranger is what a kubelet hears before it has a certificate, which is not compared: upstream knows an anonymous user, who may nothing; here who is nobody
// is told so.
var stranger = regexp.MustCompile(`User \\?"system:anonymous\\?" cannot |\bUnauthorized\b`)

// cgroups is a complaint of cAdvisor's, inside the kubelet, which watches all cgroups of this machine, other programs' too: one went before it was looked at. No
// API server has to do with it.
var cgroups = regexp.MustCompile(`^Error while processing event \("/sys/fs/cgroup/.*: inotify_add_watch .*: no such file or directory`)

const nodeName = "kubelet-node"

// TestKubelet tells the story once against each API server.
func TestKubelet(t *testing.T) {
	plane.Need(t)
	for _, name := range []string{"kubelet", "kube-controller-manager", "kube-scheduler", "kube-apiserver", "etcd"} {
		build.Need(t, name)
	}
	shield(t)
	runtime := startRuntime(t)
	ours, theirs := logs.Complaints{}, logs.Complaints{}
	t.Run("wherry", func(t *testing.T) {
		p := plane.StartWherry(t, plane.Port, "--disable", "scheduler,controllers")
		ours = tell(t, p, runtime)
	})
	t.Run("upstream", func(t *testing.T) {
		theirs = tell(t, plane.StartUpstream(t, plane.Port, "--kubelet-preferred-address-types", "InternalIP"), runtime)
	})
	known, err := logs.Recorded(recorded)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range ours.Beyond(theirs, known) {
		t.Errorf("the kubelet logs against Wherry only, %d times: %s\nsuch as: %s", ours[c].Count, c, ours[c].First)
	}
	if err := logs.Extend(recorded, "What the kubelet "+build.Kubernetes+" logs against upstream's own API server, with names and numbers taken out.", theirs); err != nil {
		t.Fatal(err)
	}
}

// shield keeps a kubelet from the machine's own folders and settings, whose paths it insists on.
func shield(t *testing.T) {
	t.Helper()
	plane.Cover(t, "/var/lib", "/var/log", "/usr/libexec")
	for name, value := range map[string]int{ // what a kubelet would set
		"vm.overcommit_memory": 1, "vm.panic_on_oom": 0, "kernel.panic": 10, "kernel.panic_on_oops": 1, "kernel.keys.root_maxkeys": 1000000, "kernel.keys.root_maxbytes": 25000000,
	} {
		plane.Sysctl(t, name, value)
	}
}

// startRuntime lets a whole Wherry make a node ready and go: the containerd that it started, with images and pod network, outlives it. It returns the socket.
func startRuntime(t *testing.T) string {
	t.Helper()
	dir := plane.Dir(t)
	data, run := filepath.Join(dir, "data"), filepath.Join(dir, "run")
	server := plane.Start(t, "wherry-node", build.Wherry(t), "server", "--node-name", "maker", "--node-ip", plane.Address, "--port", "16443", "--data-dir", data, "--run-dir", run,
		"--cgroup-root", plane.CgroupRoot(t, "maker"), "--disable", "proxy,dns")
	socket := filepath.Join(run, "c", "c.sock")
	plane.Eventually(t, "the node whose runtime is used", 2*time.Minute, func() error {
		b, err := os.ReadFile(server.Log)
		if err != nil || !strings.Contains(string(b), "node is Ready") {
			return fmt.Errorf("not ready yet: %v", err)
		}
		_, err = os.Stat(socket)
		return err
	}, server)
	// The sample app's image comes a moment later.
	plane.Eventually(t, "the sample app's image", time.Minute, func() error { return hasImage(t.Context(), socket, sampleImage) }, server)
	server.Stop()
	return "unix://" + socket
}

// bootstrap readies a plane for a kubelet that has nothing but a token, and returns the kubelet's configuration for that.
func bootstrap(t *testing.T, p *plane.Plane) string {
	t.Helper()
	ctx := t.Context()
	if _, err := p.Kube.CoreV1().Secrets(metav1.NamespaceSystem).Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "bootstrap-token-kubele"}, Type: corev1.SecretTypeBootstrapToken,
		StringData: map[string]string{"token-id": "kubele", "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true", "auth-extra-groups": "system:bootstrappers:foreign"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for name, role := range map[string]string{"foreign-bootstrap": "system:node-bootstrapper", "foreign-approve": "system:certificates.k8s.io:certificatesigningrequests:nodeclient"} {
		if _, err := p.Kube.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: name}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
			Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: "system:bootstrappers:foreign"}}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	return p.TokenKubeconfig("bootstrap", "kubele.0123456789abcdef")
}

const configText = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: %[1]s
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: %[2]s}
authorization: {mode: Webhook}
cgroupDriver: cgroupfs
cgroupRoot: %[3]s
clusterDNS: [10.96.0.10]
clusterDomain: cluster.local
containerRuntimeEndpoint: %[4]s
failCgroupV1: false
failSwapOn: false
evictionHard: {memory.available: 10Mi, nodefs.available: 1%%, imagefs.available: 1%%}
imageGCHighThresholdPercent: 100
nodeStatusUpdateFrequency: 5s
podLogsDir: %[5]s/pod-logs
resolvConf: /etc/resolv.conf
rotateCertificates: true
serverTLSBootstrap: true
staticPodPath: %[5]s/static
syncFrequency: 10s
volumePluginDir: %[5]s/flex
`

// startKubelet starts upstream's kubelet with a directory of its own, in which the folder static takes static pods.
func startKubelet(t *testing.T, p *plane.Plane, runtime string) (kubelet *plane.Process, dir string) {
	t.Helper()
	dir = plane.Dir(t)
	for _, name := range []string{"static", "flex"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	config := filepath.Join(dir, "config.yaml")
	text := fmt.Sprintf(configText, plane.Address, filepath.Join(p.PKI, "ca.crt"), plane.CgroupRoot(t, p.Name), runtime, dir)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return plane.Start(t, "kubelet", build.Need(t, "kubelet"), "--config", config, "--root-dir", filepath.Join(dir, "root"), "--cert-dir", filepath.Join(dir, "pki"), "--bootstrap-kubeconfig", bootstrap(t, p),
		"--kubeconfig", filepath.Join(dir, "kubeconfig"), "--hostname-override", nodeName, "--node-ip", plane.Address, "--v", "2"), dir
}

// approveServing approves what a kubelet asks for to serve with, as an administrator would: no controller does.
func approveServing(ctx context.Context, p *plane.Plane) error {
	requests := p.Kube.CertificatesV1().CertificateSigningRequests()
	list, err := requests.List(ctx, metav1.ListOptions{FieldSelector: "spec.signerName=" + certificatesv1.KubeletServingSignerName})
	if err != nil {
		return err
	}
	approved := false
	for i := range list.Items {
		r := &list.Items[i]
		if len(r.Status.Conditions) == 0 {
			r.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "Test"}}
			if _, err := requests.UpdateApproval(ctx, r.Name, r, metav1.UpdateOptions{}); err != nil && !apierrors.IsConflict(err) {
				return err
			}
		}
		approved = approved || len(r.Status.Certificate) > 0
	}
	if !approved {
		return fmt.Errorf("no serving certificate among %d requests", len(list.Items))
	}
	return nil
}

// tell tells the story of a node and of a pod on it, and returns what the kubelet complained of.
func tell(t *testing.T, p *plane.Plane, runtime string) logs.Complaints {
	t.Helper()
	ctx := t.Context()
	p.StartManager()
	p.StartScheduler()
	kubelet, dir := startKubelet(t, p, runtime)
	plane.Eventually(t, "a serving certificate", 2*time.Minute, func() error { return approveServing(ctx, p) }, kubelet)
	plane.Eventually(t, "the node to be ready", 2*time.Minute, func() error {
		node, err := p.Kube.CoreV1().Nodes().Get(ctx, nodeName, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, c := range node.Status.Conditions {
			if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue && len(node.Spec.Taints) == 0 {
				return nil
			}
		}
		return fmt.Errorf("conditions %v, taints %v", node.Status.Conditions, node.Spec.Taints)
	}, kubelet)
	plane.Eventually(t, "the node's lease", 2*time.Minute, func() error {
		_, err := p.Kube.CoordinationV1().Leases(corev1.NamespaceNodeLease).Get(ctx, nodeName, metav1.GetOptions{})
		return err
	}, kubelet)
	s := &story{Plane: p, t: t, kubelet: kubelet, dir: dir}
	s.run()
	complaints, err := logs.ReadFile(kubelet.Log)
	if err != nil {
		t.Fatal(err)
	}
	known := logs.Complaints{}
	for c, seen := range complaints {
		if !stranger.MatchString(c.Text) && !cgroups.MatchString(c.Text) {
			known[c] = seen
		}
	}
	n := 0
	for _, seen := range known {
		n += seen.Count
	}
	t.Logf("the kubelet against %s: %d complaints of %d sorts", p.Name, n, len(known))
	return known
}
