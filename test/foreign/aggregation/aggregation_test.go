// Package aggregation runs upstream's sample API server behind Wherry's, as a real process with an etcd of its own, and uses what it serves.
// The same tests run against upstream's kube-apiserver, so that they expect nothing which only we do.
package aggregation

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/cert"

	"wherry.dev/wherry/test/foreign/build"
	"wherry.dev/wherry/test/foreign/plane"
)

func TestMain(m *testing.M) { plane.Main(m) }

//go:embed objects.yaml
var objects []byte

const (
	wait  = 90 * time.Second
	group = "wardle.example.com"
)

var (
	flunders    = schema.GroupVersionResource{Group: group, Version: "v1alpha1", Resource: "flunders"}
	apiServices = schema.GroupVersionResource{Group: "apiregistration.k8s.io", Version: "v1", Resource: "apiservices"}
)

func TestBehindWherry(t *testing.T) { run(t, plane.StartWherry(t, plane.Port)) }

func TestBehindUpstream(t *testing.T) {
	run(t, plane.StartUpstream(t, plane.Port, "--enable-aggregator-routing"))
}

// cluster is a plane with the sample API server beside it.
type cluster struct {
	*plane.Plane
	t       *testing.T
	dynamic dynamic.Interface
	ca      []byte
	server  *plane.Process
	start   func() *plane.Process
}

func run(t *testing.T, p *plane.Plane) {
	c := &cluster{Plane: p, t: t}
	var err error
	if c.dynamic, err = dynamic.NewForConfig(p.Config); err != nil {
		t.Fatal(err)
	}
	if out, err := c.kubectl(objects, "apply", "-f", "-"); err != nil {
		t.Fatal(out)
	}
	c.startServer()
	c.register("v1alpha1", 15)
	c.register("v1beta1", 9)
	c.available("True", "Passed")

	t.Run("kubectl", c.testKubectl)
	t.Run("watch", c.testWatch)
	t.Run("apply", c.testApply)
	t.Run("paging", c.testPaging)
	t.Run("permissions", c.testPermissions)
	t.Run("directly", c.testDirectly)
	t.Run("discovery", c.testDiscovery)
	t.Run("outage", c.testOutage)
	t.Run("restart", c.testRestart)
	t.Run("namespace", c.testNamespace)
	t.Run("end", c.testEnd)
}

// startServer starts the sample API server over an etcd of its own.
func (c *cluster) startServer() {
	t := c.t
	client, peer := "http://127.0.0.1:12379", "http://127.0.0.1:12380"
	etcd := plane.Start(t, "sample-etcd", build.Need(t, "etcd"), "--data-dir", filepath.Join(c.Dir, "sample-etcd"), "--listen-client-urls", client, "--advertise-client-urls", client,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "default="+peer, "--log-level", "warn")
	_ = etcd
	var err error
	var tlsCert, tlsKey []byte
	// The chain's last certificate is the authority.
	if tlsCert, tlsKey, err = cert.GenerateSelfSignedCertKey("api.wardle.svc", nil, nil); err != nil {
		t.Fatal(err)
	}
	chain, err := cert.ParseCertsPEM(tlsCert)
	if err != nil {
		t.Fatal(err)
	}
	if c.ca, err = cert.EncodeCertificates(chain[len(chain)-1]); err != nil {
		t.Fatal(err)
	}
	certFile, keyFile := filepath.Join(c.Dir, "sample.crt"), filepath.Join(c.Dir, "sample.key")
	for path, data := range map[string][]byte{certFile: tlsCert, keyFile: tlsKey} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	token, err := c.Kube.CoreV1().ServiceAccounts("wardle").CreateToken(t.Context(), "apiserver", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	config := c.TokenKubeconfig("sample-apiserver", token.Status.Token)
	c.start = func() *plane.Process {
		return plane.Start(t, "sample-apiserver", build.Need(t, "sample-apiserver"), "--etcd-servers", client, "--secure-port", "8443", "--bind-address", plane.Address,
			"--kubeconfig", config, "--authentication-kubeconfig", config, "--authorization-kubeconfig", config, "--tls-cert-file", certFile, "--tls-private-key-file", keyFile)
	}
	c.server = c.start()
}

func (c *cluster) register(version string, priority int64) {
	c.t.Helper()
	_, err := c.dynamic.Resource(apiServices).Create(c.t.Context(), &unstructured.Unstructured{Object: map[string]any{"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
		"metadata": map[string]any{"name": version + "." + group},
		"spec": map[string]any{"group": group, "version": version, "groupPriorityMinimum": int64(1000), "versionPriority": priority,
			"service": map[string]any{"namespace": "wardle", "name": "api"}, "caBundle": base64.StdEncoding.EncodeToString(c.ca)}}}, metav1.CreateOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
}

// available waits for the conditions of both APIServices.
func (c *cluster) available(status, reason string) {
	c.t.Helper()
	for _, version := range []string{"v1alpha1", "v1beta1"} {
		plane.Eventually(c.t, "APIService "+version+"."+group+" to be "+reason, wait, func() error {
			s, err := c.dynamic.Resource(apiServices).Get(c.t.Context(), version+"."+group, metav1.GetOptions{})
			if err != nil {
				return err
			}
			conditions, _, _ := unstructured.NestedSlice(s.Object, "status", "conditions")
			for _, x := range conditions {
				if m := x.(map[string]any); m["type"] == "Available" && m["status"] == status && m["reason"] == reason {
					return nil
				}
			}
			return fmt.Errorf("conditions %v", conditions)
		}, c.Processes...)
	}
}

// kubectl runs the stock kubectl with what it reads from its standard input.
func (c *cluster) kubectl(stdin []byte, args ...string) (string, error) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), wait)
	defer cancel()
	cmd := exec.CommandContext(ctx, build.Wherry(c.t), append([]string{"kubectl", "--kubeconfig", c.Kubeconfig, "--cache-dir", filepath.Join(c.Dir, "kubectl-cache")}, args...)...)
	cmd.Env = append(os.Environ(), "XDG_CACHE_HOME="+c.Dir)
	cmd.Stdin = bytes.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// says fails the test when kubectl fails or says nothing that matches.
func (c *cluster) says(t *testing.T, pattern string, stdin string, args ...string) {
	t.Helper()
	out, err := c.kubectl([]byte(stdin), args...)
	if err != nil || !regexp.MustCompile("(?s)"+pattern).MatchString(out) {
		t.Errorf("kubectl %s: %v, and it does not say %q but\n%s", strings.Join(args, " "), err, pattern, out)
	}
}

const flunder = `{"apiVersion":"wardle.example.com/v1alpha1","kind":"Flunder","metadata":{"name":"%s","labels":{"kind":"test"}},"spec":{"reference":"other"}}`

func (c *cluster) testKubectl(t *testing.T) {
	plane.Eventually(t, "kubectl to discover flunders", wait, func() error {
		out, err := c.kubectl(nil, "api-resources", "--api-group", group, "--cached=false")
		if err != nil || !regexp.MustCompile(`fischers +wardle.example.com/v1alpha1 +false +Fischer`).MatchString(out) || !regexp.MustCompile(`flunders +wardle.example.com/v1alpha1 +true +Flunder`).MatchString(out) {
			return fmt.Errorf("%v: %s", err, out)
		}
		return nil
	})
	c.says(t, `wardle.example.com/v1alpha1\nwardle.example.com/v1beta1\n`, "", "api-versions")
	c.says(t, `v1alpha1.wardle.example.com +wardle/api +True +\d`, "", "get", "apiservices")
	c.says(t, "flunder.wardle.example.com/one created", fmt.Sprintf(flunder, "one"), "create", "-f", "-")
	c.says(t, `NAME +CREATED AT\none +20\d\d-`, "", "get", "flunders")
	c.says(t, `flunder.wardle.example.com/one`, "", "get", "flunders.v1beta1.wardle.example.com", "-o", "name")
	plane.Eventually(t, "flunders to be explained", 3*wait, func() error { // upstream asks how they are described once a minute
		out, err := c.kubectl(nil, "explain", "flunder.spec")
		if err != nil || !strings.Contains(out, "KIND:       Flunder\nVERSION:    v1alpha1") || !strings.Contains(out, "reference\t<string>") {
			return fmt.Errorf("%v: %s", err, out)
		}
		return nil
	})
	c.says(t, "labeled", "", "label", "flunder", "one", "more=labels")
	c.says(t, "serverside-applied", fmt.Sprintf(flunder, "two"), "apply", "--server-side", "-f", "-")
	c.says(t, "flunder.wardle.example.com/three created", fmt.Sprintf(flunder, "three"), "apply", "-f", "-")
	c.says(t, "unchanged", fmt.Sprintf(flunder, "three"), "apply", "-f", "-")
	c.says(t, "Name: +one.*More|Name: +one", "", "describe", "flunder", "one")
	if out, err := c.kubectl([]byte(strings.Replace(fmt.Sprintf(flunder, "bad"), `"reference"`, `"unknown"`, 1)), "apply", "-f", "-"); err == nil || !strings.Contains(out, "unknown") {
		t.Errorf("a field that nobody knows: %v %s", err, out)
	}
	c.says(t, `"one" deleted`, "", "delete", "flunder", "one")
}

func (c *cluster) testWatch(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	all := c.dynamic.Resource(flunders).Namespace("default")
	w, err := all.Watch(ctx, metav1.ListOptions{LabelSelector: "kind=watched"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	var took []time.Duration
	for i := range 10 {
		o := &unstructured.Unstructured{}
		if err := json.Unmarshal(fmt.Appendf(nil, flunder, fmt.Sprintf("watched-%d", i)), o); err != nil {
			t.Fatal(err)
		}
		o.SetLabels(map[string]string{"kind": "watched"})
		if _, err := all.Create(ctx, o, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		e, ok := <-w.ResultChan()
		took = append(took, time.Since(began))
		if !ok || e.Type != "ADDED" || e.Object.(*unstructured.Unstructured).GetName() != o.GetName() {
			t.Fatalf("event %d: %v", i, e)
		}
	}
	slices.Sort(took)
	t.Logf("an event arrives %v after its create has been answered (median of 10)", took[5])
}

func (c *cluster) testApply(t *testing.T) {
	all := c.dynamic.Resource(flunders).Namespace("default")
	apply := func(manager, reference string, force bool) (*unstructured.Unstructured, error) {
		return all.Apply(t.Context(), "applied", &unstructured.Unstructured{Object: map[string]any{"apiVersion": group + "/v1alpha1", "kind": "Flunder", "metadata": map[string]any{"name": "applied"},
			"spec": map[string]any{"reference": reference}}}, metav1.ApplyOptions{FieldManager: manager, Force: force})
	}
	if _, err := apply("a", "x", false); err != nil {
		t.Fatal(err)
	}
	if _, err := apply("b", "y", false); !apierrors.IsConflict(err) || !strings.Contains(err.Error(), `conflict with "a"`) {
		t.Errorf("another's field: %v", err)
	}
	o, err := apply("b", "y", true)
	if err != nil {
		t.Fatal(err)
	}
	if len(o.GetManagedFields()) != 1 && len(o.GetManagedFields()) != 2 || o.Object["spec"].(map[string]any)["reference"] != "y" {
		t.Errorf("%v", o)
	}
}

func (c *cluster) testPaging(t *testing.T) {
	all := c.dynamic.Resource(flunders).Namespace("default")
	got, next := 0, ""
	for pages := 0; pages == 0 || next != ""; pages++ {
		l, err := all.List(t.Context(), metav1.ListOptions{Limit: 4, Continue: next})
		if err != nil || len(l.Items) > 4 || pages > 10 {
			t.Fatal(pages, len(l.Items), err)
		}
		got, next = got+len(l.Items), l.GetContinue()
	}
	if got != 13 { // two, three, applied and those watched
		t.Errorf("%d flunders", got)
	}
}

// testPermissions: who may what is decided twice, by the server in front and, for the user it names, by the sample server.
func (c *cluster) testPermissions(t *testing.T) {
	as := func(user string) dynamic.ResourceInterface {
		config := rest.CopyConfig(c.Config)
		config.Impersonate = rest.ImpersonationConfig{UserName: user}
		d, err := dynamic.NewForConfig(config)
		if err != nil {
			t.Fatal(err)
		}
		return d.Resource(flunders).Namespace("default")
	}
	if _, err := as("jane").Get(t.Context(), "two", metav1.GetOptions{}); err != nil {
		t.Errorf("jane reads: %v", err)
	}
	if err := as("jane").Delete(t.Context(), "two", metav1.DeleteOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("jane deletes: %v", err)
	}
	if _, err := as("joe").Get(t.Context(), "two", metav1.GetOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("joe reads: %v", err)
	}
}

// testDirectly asks the sample server itself: it knows users by the authority that the server in front publishes, and their tokens and
// permissions by asking that server.
func (c *cluster) testDirectly(t *testing.T) {
	ask := func(kubeconfig string) (int, string) {
		config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
		if err != nil {
			t.Fatal(err)
		}
		config.Host = "https://" + plane.Address + ":8443"
		config.TLSClientConfig.CAData, config.TLSClientConfig.CAFile, config.TLSClientConfig.ServerName = c.ca, "", "api.wardle.svc"
		client, err := rest.HTTPClientFor(config)
		if err != nil {
			t.Fatal(err)
		}
		defer client.CloseIdleConnections()
		r, err := client.Get(config.Host + "/apis/" + group + "/v1alpha1/namespaces/default/flunders/two")
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		b, _ := io.ReadAll(r.Body)
		return r.StatusCode, string(b)
	}
	if code, body := ask(c.KubeconfigFor("jane")); code != 200 {
		t.Errorf("jane's certificate: %d %s", code, body)
	}
	if code, body := ask(c.KubeconfigFor("joe")); code != 403 || !strings.Contains(body, `User \"joe\" cannot get resource`) {
		t.Errorf("joe's certificate: %d %s", code, body)
	}
	token, err := c.Kube.CoreV1().ServiceAccounts("wardle").CreateToken(t.Context(), "apiserver", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if code, body := ask(c.TokenKubeconfig("direct", token.Status.Token)); code != 403 || !strings.Contains(body, `User \"system:serviceaccount:wardle:apiserver\" cannot get resource`) {
		t.Errorf("an account's token: %d %s", code, body)
	}
}

func (c *cluster) raw(t *testing.T, path, accept string) (int, string) {
	t.Helper()
	client, err := rest.HTTPClientFor(c.Config)
	if err != nil {
		t.Fatal(err)
	}
	req, _ := http.NewRequestWithContext(t.Context(), "GET", c.URL+path, nil)
	req.Header.Set("Accept", accept)
	r, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(b)
}

const (
	plainJSON = "application/json"
	allAtOnce = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
)

func (c *cluster) testDiscovery(t *testing.T) {
	groups := metav1.APIGroupList{}
	if _, body := c.raw(t, "/apis", plainJSON); json.Unmarshal([]byte(body), &groups) != nil {
		t.Fatal(body)
	}
	i := slices.IndexFunc(groups.Groups, func(g metav1.APIGroup) bool { return g.Name == group })
	if i < 0 || len(groups.Groups[i].Versions) != 2 || groups.Groups[i].PreferredVersion.Version != "v1alpha1" {
		t.Errorf("groups: %+v", groups)
	}
	if code, body := c.raw(t, "/apis/"+group+"/v1beta1", plainJSON); code != 200 || !strings.Contains(body, `"name":"flunders"`) {
		t.Errorf("v1beta1: %d %s", code, body)
	}
	plane.Eventually(t, "flunders to be described", 3*wait, func() error { // upstream asks once a minute
		_, three := c.raw(t, "/openapi/v3", plainJSON)
		_, two := c.raw(t, "/openapi/v2", plainJSON)
		if !strings.Contains(three, `"apis/wardle.example.com/v1alpha1"`) || !strings.Contains(two, `"/apis/wardle.example.com/v1alpha1/flunders"`) {
			return fmt.Errorf("v3 has %d bytes, v2 %d", len(three), len(two))
		}
		return nil
	})
	if code, body := c.raw(t, "/openapi/v3/apis/wardle.example.com/v1alpha1", plainJSON); code != 200 || !strings.Contains(body, "readWardleExampleComV1alpha1NamespacedFlunder") {
		t.Errorf("OpenAPI v3: %d %.300s", code, body)
	}
}

// testOutage kills the sample server: its group is refused and stale, everything else goes on, and when it is back so is the group.
func (c *cluster) testOutage(t *testing.T) {
	c.server.Kill()
	c.raw(t, "/apis/"+group+"/v1alpha1/namespaces/default/flunders", plainJSON) // by this we notice
	c.available("False", "FailedDiscoveryCheck")
	if code, body := c.raw(t, "/apis/"+group+"/v1alpha1/namespaces/default/flunders", plainJSON); code != 503 || strings.TrimSpace(body) != "service unavailable" {
		t.Errorf("a request: %d %s", code, body)
	}
	if out, err := c.kubectl(nil, "get", "namespaces"); err != nil {
		t.Errorf("other groups: %s", out)
	}
	plane.Eventually(t, "the group to be stale", 2*wait, func() error {
		if _, body := c.raw(t, "/apis", allAtOnce); !regexp.MustCompile(`\{"version":"v1alpha1","freshness":"Stale"\}`).MatchString(body) {
			return fmt.Errorf("it is not")
		}
		return nil
	})
	c.server = c.start()
	c.available("True", "Passed")
	plane.Eventually(t, "flunders to be discovered again", 2*wait, func() error {
		if _, body := c.raw(t, "/apis", allAtOnce); !strings.Contains(body, `"resource":"flunders"`) {
			return fmt.Errorf("they are not")
		}
		return nil
	})
	if _, err := c.dynamic.Resource(flunders).Namespace("default").Get(t.Context(), "two", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
}

// testRestart: once the server is ready again, so is the group: nobody is told that there is no such thing.
func (c *cluster) testRestart(t *testing.T) {
	if c.Name == "upstream" {
		t.Skip("it restarts over the same etcd in its own time")
	}
	c.Restart()
	if _, err := c.dynamic.Resource(flunders).Namespace("default").Get(t.Context(), "two", metav1.GetOptions{}); err != nil {
		t.Errorf("the first request: %v", err)
	}
	if _, body := c.raw(t, "/apis", plainJSON); !strings.Contains(body, group) {
		t.Error("the group is not listed")
	}
	c.available("True", "Passed")
}

// testNamespace: a namespace that goes takes the objects in it along, also those of other servers. Upstream's part in it is a controller
// that does not run here.
func (c *cluster) testNamespace(t *testing.T) {
	if c.Name == "upstream" {
		t.Skip("needs a namespace controller")
	}
	ctx := t.Context()
	if _, err := c.Kube.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	o := &unstructured.Unstructured{}
	if err := json.Unmarshal(fmt.Appendf(nil, flunder, "mine"), o); err != nil {
		t.Fatal(err)
	}
	if _, err := c.dynamic.Resource(flunders).Namespace("shop").Create(ctx, o, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := c.Kube.CoreV1().Namespaces().Delete(ctx, "shop", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	plane.Eventually(t, "the namespace to go", wait, func() error {
		n, err := c.Kube.CoreV1().Namespaces().Get(ctx, "shop", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("%v %v", n.Status, err)
	})
	if _, err := c.dynamic.Resource(flunders).Namespace("shop").Get(ctx, "mine", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the flunder in it: %v", err)
	}
}

func (c *cluster) testEnd(t *testing.T) {
	for _, version := range []string{"v1alpha1", "v1beta1"} {
		if err := c.dynamic.Resource(apiServices).Delete(t.Context(), version+"."+group, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	plane.Eventually(t, "the group to be gone", wait, func() error {
		code, _ := c.raw(t, "/apis/"+group+"/v1alpha1/flunders", plainJSON)
		_, body := c.raw(t, "/apis", plainJSON)
		if code != 404 || strings.Contains(body, group) {
			return fmt.Errorf("%d", code)
		}
		return nil
	})
}
