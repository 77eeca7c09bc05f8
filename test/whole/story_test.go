package whole

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"wherry.dev/wherry/test/outside"
)

// story is one pod's life, with a Service in front of it, in namespace "shop".
type story struct {
	*outside.Cluster
	node      int // that the pod runs on
	pod       *corev1.Pod
	container string // ID
	pid       int    // of the container's first process
	service   *corev1.Service
	seen      deleted
}

type stage struct {
	name  string
	check func(*testing.T)
}

// clusterDNS is kubeadm's.
const clusterDNS = "10.96.0.10"

const nodePort = 30080

// manifest is what a user would write: a pod with a volume of each simple kind, limits and a probe, and its Service.
func manifest(namespace, node string) string {
	return strings.NewReplacer("NAMESPACE", namespace, "NODE", node).Replace(`
apiVersion: v1
kind: Namespace
metadata: {name: NAMESPACE}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: words, namespace: NAMESPACE}
data: {greeting: "good morning"}
---
apiVersion: v1
kind: Secret
metadata: {name: key, namespace: NAMESPACE}
stringData: {password: "swordfish"}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: NAMESPACE, labels: {app: web}}
spec:
  nodeSelector: {kubernetes.io/hostname: NODE}
  containers:
  - name: c
    image: wherry.dev/sample:1
    env:
    - {name: MESSAGE, valueFrom: {configMapKeyRef: {name: words, key: greeting}}}
    ports: [{name: http, containerPort: 8080}]
    readinessProbe: {httpGet: {path: /healthz, port: http}, periodSeconds: 1}
    resources: {requests: {cpu: 50m, memory: 32Mi}, limits: {cpu: 200m, memory: 64Mi}}
    volumeMounts:
    - {name: words, mountPath: /etc/words}
    - {name: key, mountPath: /etc/key, readOnly: true}
    - {name: room, mountPath: /room}
    - {name: who, mountPath: /etc/who}
  volumes:
  - {name: words, configMap: {name: words}}
  - {name: key, secret: {secretName: key}}
  - {name: room, emptyDir: {medium: Memory, sizeLimit: 1Mi}}
  - {name: who, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}}
`) + service(namespace)
}

func service(namespace string) string {
	port := ""
	if namespace == "shop" { // a node port can be had once
		port = fmt.Sprintf(", nodePort: %d", nodePort)
	}
	return fmt.Sprintf(`---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: %s}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http%s}]
`, namespace, port)
}

// begin sends the manifest and waits for the pod to be Ready.
func (s *story) begin(t *testing.T) {
	out := s.KubectlInput(manifest("shop", s.NodeName(s.node)), "create", "-f", "-")
	for _, want := range []string{"namespace/shop created", "configmap/words created", "secret/key created", "pod/web created", "service/web created"} {
		if !strings.Contains(out, want) {
			t.Errorf("kubectl create did not say %q: %s", want, out)
		}
	}
	s.Kubectl("wait", "--for=condition=Ready", "pod/web", "-n", "shop", "--timeout=30s")
	s.read(t)
}

// read fetches pod and Service as they are.
func (s *story) read(t *testing.T) {
	var err error
	if s.pod, err = s.Kube.CoreV1().Pods("shop").Get(t.Context(), "web", metav1.GetOptions{}); err != nil {
		t.Fatal(err)
	}
	if s.service, err = s.Kube.CoreV1().Services("shop").Get(t.Context(), "web", metav1.GetOptions{}); err != nil {
		t.Fatal(err)
	}
	s.container = strings.TrimPrefix(s.pod.Status.ContainerStatuses[0].ContainerID, "containerd://")
}

// creation lists C2 to C14; C1 was begin, with a client nobody here wrote.
func (s *story) creation() []stage {
	return []stage{
		{"authenticate", s.authenticate},
		{"authorize", s.authorize},
		{"store", s.store},
		{"schedule", s.schedule},
		{"sandbox", s.sandbox},
		{"start", s.start},
		{"volumes", s.volumes},
		{"cgroups", s.cgroups},
		{"ready", s.ready},
		{"endpoints", s.endpoints},
		{"program", s.program},
		{"packets", s.packets},
		{"dns", s.dns},
		{"kubelet", s.kubelet},
		{"events", s.events},
		{"trace", s.traceOfCreation},
	}
}

// status asks the API for a path and returns the answer's code.
func status(t *testing.T, config *rest.Config, path string) int {
	t.Helper()
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	client.Timeout = 10 * time.Second
	r, err := client.Get(config.Host + path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	_, _ = io.Copy(io.Discard, r.Body)
	return r.StatusCode
}

func (s *story) authenticate(t *testing.T) {
	const path = "/api/v1/namespaces/shop/pods/web"
	if got := status(t, s.Config, path); got != http.StatusOK {
		t.Errorf("the administrator gets %d", got)
	}
	stranger := rest.AnonymousClientConfig(s.Config)
	if got := status(t, stranger, path); got != http.StatusForbidden && got != http.StatusUnauthorized {
		t.Errorf("nobody gets %d, want 401 or 403", got)
	}
	liar := rest.AnonymousClientConfig(s.Config)
	liar.BearerToken = "not.a.token"
	if got := status(t, liar, path); got != http.StatusUnauthorized {
		t.Errorf("a wrong token gets %d, want 401", got)
	}
}

// authorize uses the pod's own token, found in its filesystem: it is somebody, and may do nothing.
func (s *story) authorize(t *testing.T) {
	if pid, err := outside.ContainerPID(string(s.pod.UID), s.container); err != nil {
		t.Fatal(err)
	} else {
		s.pid = pid
	}
	token, err := os.ReadFile(s.inContainer("/var/run/secrets/kubernetes.io/serviceaccount/token"))
	if err != nil {
		t.Fatal(err)
	}
	pod := rest.AnonymousClientConfig(s.Config)
	pod.BearerToken = string(token)
	if got := status(t, pod, "/api/v1/namespaces/shop/pods/web"); got != http.StatusForbidden {
		t.Errorf("the pod's token gets %d, want 403", got)
	}
	s.Kubectl("create", "role", "reader", "--verb=get", "--resource=pods", "-n", "shop")
	s.Kubectl("create", "rolebinding", "reader", "--role=reader", "--serviceaccount=shop:default", "-n", "shop")
	outside.Eventually(t, 5*time.Second, func() error { // the authorizer learns of the binding by a watch
		if got := status(t, pod, "/api/v1/namespaces/shop/pods/web"); got != http.StatusOK {
			return fmt.Errorf("the pod's token gets %d though a role allows it", got)
		}
		return nil
	})
	if got := strings.TrimSpace(s.Kubectl("auth", "can-i", "get", "pods", "-n", "shop", "--as=system:serviceaccount:shop:default")); got != "yes" {
		t.Errorf("can-i get pods: %s", got)
	}
	if got := s.KubectlFails("", "auth", "can-i", "delete", "pods", "-n", "shop", "--as=system:serviceaccount:shop:default"); !strings.HasPrefix(got, "no") {
		t.Errorf("can-i delete pods: %s", got)
	}
}

func (s *story) store(t *testing.T) {
	stored, err := s.Etcd("/registry/pods/shop/")
	if err != nil {
		t.Fatal(err)
	}
	if len(stored) != 1 || stored[0].Key != "/registry/pods/shop/web" {
		t.Fatalf("etcd has %d keys below /registry/pods/shop/: %+v", len(stored), stored)
	}
	pod, err := stored[0].Pod()
	if err != nil {
		t.Fatal(err)
	}
	if pod.UID != s.pod.UID || pod.Name != "web" || pod.Spec.NodeName != s.NodeName(s.node) {
		t.Errorf("etcd's pod is %s %s on %q", pod.Name, pod.UID, pod.Spec.NodeName)
	}
	if pod.ResourceVersion != "" {
		t.Errorf("the stored pod carries resourceVersion %q: it is the revision, and stored nowhere", pod.ResourceVersion)
	}
	if got := strconv.FormatInt(stored[0].Revision, 10); got != s.pod.ResourceVersion {
		t.Errorf("etcd's revision is %s, resourceVersion %s", got, s.pod.ResourceVersion)
	}
	for _, prefix := range []string{"/registry/services/specs/shop/web", "/registry/services/endpoints/shop/web", "/registry/configmaps/shop/words", "/registry/namespaces/shop", "/registry/serviceaccounts/shop/default"} {
		if stored, err := s.Etcd(prefix); err != nil || len(stored) != 1 || !bytes.HasPrefix(stored[0].Value, []byte("k8s\x00")) {
			t.Errorf("%s: %d keys, %v", prefix, len(stored), err)
		}
	}
}

func (s *story) schedule(t *testing.T) {
	if got := s.pod.Spec.NodeName; got != s.NodeName(s.node) {
		t.Errorf("the pod is on %s", got)
	}
	if s.Nodes == 1 {
		return
	}
	// With nothing that speaks for a node, replicas spread.
	for i := range s.Nodes {
		s.Kubectl("run", fmt.Sprintf("spread-%d", i), "--image=wherry.dev/sample:1", "-n", "shop", "--labels=app=spread")
	}
	s.Kubectl("wait", "--for=condition=Ready", "pod", "-l", "app=spread", "-n", "shop", "--timeout=30s")
	nodes := strings.Fields(s.Kubectl("get", "pods", "-l", "app=spread", "-n", "shop", "-o", "jsonpath={.items[*].spec.nodeName}"))
	distinct := map[string]bool{}
	for _, n := range nodes {
		distinct[n] = true
	}
	if len(nodes) != s.Nodes || len(distinct) < 2 {
		t.Errorf("%d equal pods are on %v", s.Nodes, nodes)
	}
	s.Kubectl("delete", "pod", "-l", "app=spread", "-n", "shop")
}

func (s *story) netns() string { return filepath.Join("/proc", strconv.Itoa(s.pid), "ns", "net") }

func (s *story) inContainer(path string) string {
	return filepath.Join("/proc", strconv.Itoa(s.pid), "root", path)
}

func (s *story) sandbox(t *testing.T) {
	id, err := outside.Identity(s.netns())
	if err != nil {
		t.Fatal(err)
	}
	for i := 1; i <= s.Nodes; i++ {
		if node, err := outside.Identity(s.Netns(i)); err != nil || node == id {
			t.Errorf("the pod is in the network namespace of node %d (%v)", i, err)
		}
	}
	addresses, err := outside.Addresses(s.netns())
	if err != nil {
		t.Fatal(err)
	}
	if !containsText(addresses, "eth0 "+s.pod.Status.PodIP+"/") {
		t.Errorf("the pod's namespace has %v, its status %s", addresses, s.pod.Status.PodIP)
	}
	host, err := os.ReadFile(s.inContainer("/etc/hosts"))
	if err != nil || !strings.Contains(string(host), s.pod.Status.PodIP+"\tweb") {
		t.Errorf("/etc/hosts: %v: %s", err, host)
	}
}

func (s *story) start(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(s.pid), "status"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(b), "\nUid:\t65532\t65532\t65532\t65532\n") { // the image's user
		t.Errorf("the container's process has other ids: %s", b)
	}
	env, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(s.pid), "environ"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"MESSAGE=good morning\x00", "HOSTNAME=web\x00", "KUBERNETES_SERVICE_HOST=10.96.0.1\x00"} {
		if !strings.Contains(string(env), want) {
			t.Errorf("the environment lacks %q: %q", want, env)
		}
	}
}

func (s *story) volumes(t *testing.T) {
	for path, want := range map[string]string{
		"/etc/words/greeting": "good morning", "/etc/key/password": "swordfish", "/etc/who/labels": `app="web"`,
		"/var/run/secrets/kubernetes.io/serviceaccount/namespace": "shop",
	} {
		if b, err := os.ReadFile(s.inContainer(path)); err != nil || string(b) != want {
			t.Errorf("%s in the container: %q, %v, want %q", path, b, err, want)
		}
	}
	token, err := os.ReadFile(s.inContainer("/var/run/secrets/kubernetes.io/serviceaccount/token"))
	if err != nil {
		t.Fatal(err)
	}
	if claims, err := claimsOf(string(token)); err != nil {
		t.Error(err)
	} else if claims.Kubernetes.Pod.UID != string(s.pod.UID) || claims.Subject != "system:serviceaccount:shop:default" {
		t.Errorf("the token is for %+v", claims)
	}
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(s.pid), "mounts"))
	if err != nil {
		t.Fatal(err)
	}
	for path, kind := range map[string]string{"/room": "tmpfs", "/etc/key": "tmpfs", "/var/run/secrets/kubernetes.io/serviceaccount": "tmpfs"} {
		if !containsText(strings.Split(string(b), "\n"), " "+path+" "+kind+" ") {
			t.Errorf("%s is not a %s in the container: secrets must not reach a disk", path, kind)
		}
	}
	// A change of the ConfigMap reaches the container.
	s.Kubectl("patch", "configmap", "words", "-n", "shop", "-p", `{"data":{"greeting":"good evening"}}`)
	outside.Eventually(t, 90*time.Second, func() error {
		b, err := os.ReadFile(s.inContainer("/etc/words/greeting"))
		if err != nil || string(b) != "good evening" {
			return fmt.Errorf("the container still reads %q: %w", b, err)
		}
		return nil
	})
}

type claims struct {
	Subject    string `json:"sub"`
	Kubernetes struct {
		Pod struct {
			UID string `json:"uid"`
		} `json:"pod"`
	} `json:"kubernetes.io"`
}

func claimsOf(token string) (c claims, err error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return c, errors.New("the token is no JWT")
	}
	b, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return c, err
	}
	return c, json.Unmarshal(b, &c)
}

func (s *story) cgroups(t *testing.T) {
	for _, v := range []struct{ controller, v1, v2, want1, want2 string }{
		{"memory", "memory.limit_in_bytes", "memory.max", "67108864", "67108864"},
		{"cpu", "cpu.cfs_quota_us", "cpu.max", "20000", "20000 100000"},
	} {
		got, err := outside.CgroupValue(string(s.pod.UID), s.container, v.controller, v.v1, v.v2)
		if err != nil || (got != v.want1 && got != v.want2) {
			t.Errorf("%s: %q, %v, want %q", v.v1, got, err, v.want1)
		}
	}
	shares, err := outside.CgroupValue(string(s.pod.UID), s.container, "cpu", "cpu.shares", "cpu.weight")
	if err != nil || shares == "1024" || shares == "100" || shares == "" {
		t.Errorf("cpu shares of 50m: %q, %v", shares, err)
	}
}

func (s *story) ready(t *testing.T) {
	for _, c := range s.pod.Status.Conditions {
		if c.Status != corev1.ConditionTrue {
			t.Errorf("condition %s is %s: %s", c.Type, c.Status, c.Message)
		}
	}
	if s.pod.Status.QOSClass != corev1.PodQOSBurstable || s.pod.Status.Phase != corev1.PodRunning || s.pod.Status.HostIP != s.NodeIP(s.node).String() {
		t.Errorf("status: %s %s on %s", s.pod.Status.QOSClass, s.pod.Status.Phase, s.pod.Status.HostIP)
	}
}

func (s *story) endpoints(t *testing.T) {
	outside.Eventually(t, 5*time.Second, func() error {
		slices, err := s.Kube.DiscoveryV1().EndpointSlices("shop").List(t.Context(), metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=web"})
		if err != nil {
			return err
		}
		if len(slices.Items) != 1 || len(slices.Items[0].Endpoints) != 1 {
			return fmt.Errorf("slices: %+v", slices.Items)
		}
		e := slices.Items[0].Endpoints[0]
		if e.Addresses[0] != s.pod.Status.PodIP || !*e.Conditions.Ready || *e.NodeName != s.NodeName(s.node) || e.TargetRef.UID != s.pod.UID || *slices.Items[0].Ports[0].Port != 8080 {
			return fmt.Errorf("endpoint: %+v", e)
		}
		return nil
	})
}

// backend is how nftables writes the pod's address and port.
func (s *story) backend() string { return s.pod.Status.PodIP + " . 8080" }

func (s *story) program(t *testing.T) {
	for i := 1; i <= s.Nodes; i++ {
		outside.Eventually(t, 5*time.Second, func() error {
			rules, err := outside.Ruleset(s.Netns(i))
			if err != nil {
				return err
			}
			for _, want := range []string{s.backend(), s.service.Spec.ClusterIP + " . tcp . 80", fmt.Sprintf("tcp . %d", nodePort)} {
				if !strings.Contains(rules, want) {
					return fmt.Errorf("nftables of node %d lack %q", i, want)
				}
			}
			return nil
		})
	}
}

func (s *story) packets(t *testing.T) {
	const want = "good morning from web\n"
	for i := 1; i <= s.Nodes; i++ {
		client := outside.HTTPFrom(s.Netns(i), 3*time.Second)
		urls := []string{"http://" + s.service.Spec.ClusterIP + "/", "http://" + s.pod.Status.PodIP + ":8080/"}
		for j := 1; j <= s.Nodes; j++ {
			urls = append(urls, fmt.Sprintf("http://%s:%d/", s.NodeIP(j), nodePort))
		}
		for _, url := range urls {
			if got, err := outside.Get(client, url); err != nil || got != want {
				t.Errorf("node %d, %s: %q, %v", i, url, got, err)
			}
		}
	}
	if got, err := outside.Get(outside.HTTPFrom(outside.OwnNetns(), 3*time.Second), fmt.Sprintf("http://%s:%d/", s.NodeIP(1), nodePort)); err != nil || got != want {
		t.Errorf("from outside the cluster to node 1's port: %q, %v", got, err)
	}
	// The pod reaches itself through its Service (hairpin), by name.
	if got := s.Kubectl("exec", "web", "-n", "shop", "--", "/sample", "get", "http://web.shop.svc.cluster.local/"); !strings.Contains(got, want) {
		t.Errorf("the pod gets %q by its Service's name", got)
	}
	if got := s.Kubectl("exec", "web", "-n", "shop", "--", "/sample", "get", "http://web.shop/"); !strings.Contains(got, want) {
		t.Errorf("the pod gets %q by its Service's short name", got)
	}
}

func (s *story) dns(t *testing.T) {
	for i := 1; i <= s.Nodes; i++ {
		for _, network := range []string{"udp", "tcp"} {
			for _, q := range []struct {
				name, code, want string
				kind             uint16
			}{
				{"web.shop.svc.cluster.local", "NOERROR", s.service.Spec.ClusterIP, dns.TypeA},
				{"kubernetes.default.svc.cluster.local", "NOERROR", "10.96.0.1", dns.TypeA},
				{"_http._tcp.web.shop.svc.cluster.local", "NOERROR", "80 web.shop.svc.cluster.local.", dns.TypeSRV},
				{"nothing.shop.svc.cluster.local", "NXDOMAIN", "", dns.TypeA},
			} {
				code, records, err := outside.Resolve(s.Netns(i), network, clusterDNS, q.name, q.kind)
				if err != nil || code != q.code || strings.Join(records, ",") != q.want {
					t.Errorf("node %d, %s, %s: %s %v %v, want %s %s", i, network, q.name, code, records, err, q.code, q.want)
				}
			}
		}
	}
}

// kubelet speaks to the node itself, as the API server and metrics-server do.
func (s *story) kubelet(t *testing.T) {
	config := rest.CopyConfig(s.Config)
	config.Host = fmt.Sprintf("https://%s:10250", s.NodeIP(s.node))
	if got := status(t, config, "/healthz"); got != http.StatusOK {
		t.Errorf("/healthz gives the administrator %d", got)
	}
	if got := status(t, rest.AnonymousClientConfig(config), "/pods"); got != http.StatusUnauthorized {
		t.Errorf("/pods gives nobody %d", got)
	}
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	body, err := outside.Get(client, config.Host+"/pods")
	if err != nil || !strings.Contains(body, string(s.pod.UID)) {
		t.Errorf("/pods: %v: %s", err, body[:min(len(body), 300)])
	}
}

// containsText reports whether one of lines contains text.
func containsText(lines []string, text string) bool {
	for _, line := range lines {
		if strings.Contains(line, text) {
			return true
		}
	}
	return false
}
