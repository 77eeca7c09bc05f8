package clients

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"wherry.dev/wherry/test/foreign/build"
	"wherry.dev/wherry/test/foreign/hollow"
	"wherry.dev/wherry/test/foreign/plane"
)

// helm runs a stock Helm against a plane.
type helm struct {
	t       *testing.T
	program string
	home    string
	config  string
}

// try runs a command and returns what it says.
func (h *helm) try(args ...string) (string, error) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, h.program, args...)
	cmd.Env = []string{"HOME=" + h.home, "KUBECONFIG=" + h.config, "HELM_CACHE_HOME=" + filepath.Join(h.home, "cache"), "HELM_CONFIG_HOME=" + filepath.Join(h.home, "config"), "HELM_DATA_HOME=" + filepath.Join(h.home, "data")}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// run is try for what must succeed and say something.
func (h *helm) run(wants string, args ...string) string {
	h.t.Helper()
	out, err := h.try(args...)
	if err != nil || !strings.Contains(out, wants) {
		h.t.Fatalf("helm %s: %v\n%s\nwant %q", strings.Join(args, " "), err, out, wants)
	}
	return out
}

// fails is try for what must not succeed, and say why.
func (h *helm) fails(wants string, args ...string) {
	h.t.Helper()
	if out, err := h.try(args...); err == nil || !strings.Contains(out, wants) {
		h.t.Fatalf("helm %s: %v\n%s\nwant a failure that says %q", strings.Join(args, " "), err, out, wants)
	}
}

// TestHelm is the life of a release, with each Helm that people use.
func TestHelm(t *testing.T) {
	plane.Need(t)
	for _, program := range []string{"helm3", "helm"} {
		t.Run(program, func(t *testing.T) {
			path := build.Need(t, program)
			p := plane.StartWherry(t, plane.Port, "--disable", "controllers")
			p.StartManager()
			nodes := hollow.New(p.Kube)
			for _, name := range []string{"n1", "n2"} {
				if err := nodes.Add(t.Context(), name); err != nil {
					t.Fatal(err)
				}
			}
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan struct{})
			go func() { defer close(done); nodes.Run(ctx, func(err error) { t.Log(err) }) }()
			defer func() { cancel(); <-done }()
			release(t, p, &helm{t: t, program: path, home: plane.Dir(t), config: p.Kubeconfig})
		})
	}
}

func release(t *testing.T, p *plane.Plane, h *helm) {
	ctx := t.Context()
	free, err := dynamic.NewForConfig(p.Config)
	if err != nil {
		t.Fatal(err)
	}
	signs := free.Resource(schema.GroupVersionResource{Group: "shop.example", Version: "v1", Resource: "signs"}).Namespace("mall")
	const chart = "testdata/shop"
	wait := []string{"--wait", "--timeout", "2m", "--namespace", "mall"}
	with := func(args ...string) []string { return append(args, wait...) }

	h.run("pre-install", "template", "shop", chart, "--namespace", "mall")
	h.run("shop has 2 replicas.", with("install", "shop", chart, "--create-namespace")...)
	if d, err := p.Kube.AppsV1().Deployments("mall").Get(ctx, "shop", metav1.GetOptions{}); err != nil || d.Status.AvailableReplicas != 2 {
		t.Errorf("installed: %v, %v", d, err)
	}
	if m, err := p.Kube.CoreV1().ConfigMaps("mall").Get(ctx, "shop", metav1.GetOptions{}); err != nil || m.Data["known"] != "kube-system" || m.Data["policy"] != "true" || !strings.HasPrefix(m.Data["server"], "v1.") {
		t.Errorf("what Helm knows of the cluster: %v, %v", m, err)
	}
	if s, err := signs.Get(ctx, "shop", metav1.GetOptions{}); err != nil || s.Object["spec"].(map[string]any)["size"] != int64(3) {
		t.Errorf("its custom resource: %v, %v", s, err)
	}
	h.fails("a name that is still in use", with("install", "shop", chart)...)
	h.run("TEST SUITE:     shop-test", "test", "shop", "--namespace", "mall", "--timeout", "1m")

	h.run("STATUS: pending-upgrade", "upgrade", "shop", chart, "--namespace", "mall", "--dry-run=server")
	h.run("REVISION: 2", with("upgrade", "shop", chart, "--set", "replicas=3,color=green")...)
	if s, err := signs.Get(ctx, "shop", metav1.GetOptions{}); err != nil || s.Object["spec"].(map[string]any)["color"] != "green" {
		t.Errorf("its upgraded custom resource: %v, %v", s, err)
	}
	h.fails(`spec.color: Unsupported value: "blue"`, "upgrade", "shop", chart, "--set", "color=blue", "--namespace", "mall")
	h.fails("failed", with("upgrade", "shop", chart, "--set", "hookFails=true")...)
	h.run("Rollback was a success", with("rollback", "shop", "1")...)
	if d, err := p.Kube.AppsV1().Deployments("mall").Get(ctx, "shop", metav1.GetOptions{}); err != nil || d.Status.AvailableReplicas != 2 || *d.Spec.Replicas != 2 {
		t.Errorf("rolled back: %v, %v", d, err)
	}
	var revisions []struct {
		Revision int
		Status   string
	}
	if err := json.Unmarshal([]byte(h.run("", "history", "shop", "--namespace", "mall", "-o", "json")), &revisions); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(revisions); got != "[{1 superseded} {2 superseded} {3 failed} {4 failed} {5 deployed}]" {
		t.Errorf("history: %s", got)
	}
	h.run(`"status":"deployed"`, "list", "--namespace", "mall", "-o", "json")
	h.run("color: red", "get", "manifest", "shop", "--namespace", "mall")
	h.run("shop-before", "get", "hooks", "shop", "--namespace", "mall")
	h.run("replicas: 3", "get", "values", "shop", "--namespace", "mall", "--revision", "2")
	h.run("STATUS: deployed", "status", "shop", "--namespace", "mall")

	h.run("shop-kept", with("uninstall", "shop")...)
	for _, what := range []func() error{
		func() error {
			_, err := p.Kube.AppsV1().Deployments("mall").Get(ctx, "shop", metav1.GetOptions{})
			return err
		},
		func() error {
			_, err := p.Kube.CoreV1().Services("mall").Get(ctx, "shop", metav1.GetOptions{})
			return err
		},
		func() error { _, err := signs.Get(ctx, "shop", metav1.GetOptions{}); return err },
	} {
		if err := what(); !apierrors.IsNotFound(err) {
			t.Errorf("after the uninstallation: %v", err)
		}
	}
	if _, err := p.Kube.CoreV1().ConfigMaps("mall").Get(ctx, "shop-kept", metav1.GetOptions{}); err != nil {
		t.Errorf("what is kept: %v", err)
	}
	if _, err := signs.List(ctx, metav1.ListOptions{}); err != nil {
		t.Errorf("the definition stays: %v", err)
	}
	if out := h.run("", "list", "--namespace", "mall", "-o", "json"); strings.TrimSpace(out) != "[]" {
		t.Errorf("listed after the uninstallation: %s", out)
	}
	h.run("shop has 2 replicas.", with("install", "shop", chart, "--take-ownership")...)
}
