package apiserver

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestKubectl drives the server with a stock kubectl, as its users do.
func TestKubectl(t *testing.T) {
	path, err := exec.LookPath("kubectl")
	if err != nil {
		t.Skip("needs kubectl in PATH")
	}
	w, _ := running(t, nil)
	config, cache := w.kubeconfig(t), t.TempDir()
	manifest := filepath.Join(t.TempDir(), "web.yaml")
	err = os.WriteFile(manifest, []byte(`
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  containers:
  - {name: c, image: "registry.example/web:1", ports: [{containerPort: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: cm}
data: {a: b}
`), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	validate := "--validate=false" // without OpenAPI documents kubectl cannot ask for more
	if w.Server.config.OpenAPI != nil {
		validate = "--validate=strict"
	}
	for _, c := range []struct {
		args string
		fail bool
		want []string
	}{
		{args: "version", want: []string{"Server Version: v1.37.2"}},
		{args: "api-resources", want: []string{"configmaps ", " ConfigMap\n"}},
		{args: "api-versions", want: []string{"coordination.k8s.io/v1"}},
		{args: "get namespaces", want: []string{"default", "kube-system", "Active"}},
		{args: "create -f " + manifest + " " + validate, want: []string{"pod/web created", "service/web created", "configmap/cm created"}},
		{args: "get pods,svc,cm -o wide", want: []string{"pod/web", "10.96.", "configmap/cm   1"}},
		{args: "get pod web -o jsonpath={.metadata.uid}{.status.phase}", want: []string{"Pending"}},
		{args: "apply -f " + manifest + " " + validate, want: []string{"pod/web configured"}},
		{args: "apply --server-side -f " + manifest + " " + validate, want: []string{"pod/web serverside-applied"}},
		{args: "apply --server-side --field-manager=other --force-conflicts -f " + manifest + " " + validate, want: []string{"configmap/cm serverside-applied"}},
		{args: "diff -f " + manifest},
		{args: "label pod web x=y", want: []string{"pod/web labeled"}},
		{args: "annotate cm cm x=y", want: []string{"configmap/cm annotated"}},
		{args: "patch cm cm --type=json -p [{\"op\":\"replace\",\"path\":\"/data/a\",\"value\":\"c\"}]", want: []string{"configmap/cm patched"}},
		{args: "get cm cm -o jsonpath={.data.a}", want: []string{"c"}},
		{args: "get pods -l x=y -o name", want: []string{"pod/web"}},
		{args: "get pods --field-selector spec.nodeName=nope", want: []string{"No resources found"}},
		{args: "describe pod web", want: []string{"Name:", "registry.example/web:1"}},
		{args: "get pods -A --chunk-size=1", want: []string{"web"}},
		{args: "get --raw /readyz?verbose", want: []string{"[+]informer-sync ok", "readyz check passed"}},
		{args: "get pod nope", fail: true, want: []string{`Error from server (NotFound): pods "nope" not found`}},
		{args: "create cm cm", fail: true, want: []string{`configmaps "cm" already exists`}},
		{args: "run y --image=registry.example/y:1 --dry-run=server -o name", want: []string{"pod/y"}},
		{args: "delete pod web --grace-period=0 --force", want: []string{`pod "web" force deleted`}},
		{args: "delete -f " + manifest + " --ignore-not-found", want: []string{`service "web" deleted`}},
		{args: "wait --for=delete pod/web --timeout=5s"},
		{args: "get pods", want: []string{"No resources found in default namespace."}},
	} {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		cmd := exec.CommandContext(ctx, path, append([]string{"--kubeconfig", config, "--cache-dir", cache}, strings.Fields(c.args)...)...)
		out, err := cmd.CombinedOutput()
		cancel()
		if (err != nil) != c.fail {
			t.Errorf("kubectl %s: %v\n%s", c.args, err, out)
		}
		for _, want := range c.want {
			if !strings.Contains(string(out), want) {
				t.Errorf("kubectl %s: no %q in\n%s", c.args, want, out)
			}
		}
	}
}
