package whole

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"

	"wherry.dev/wherry/lifecycle"
	"wherry.dev/wherry/test/outside"
	"wherry.dev/wherry/trace"
)

// deleted is what was there of the pod before its deletion.
type deleted struct {
	netns uint64
	links []string // of its node
	mount []string
}

// deletion deletes the pod and looks whether anything of it is anywhere; the namespace goes afterwards.
func (s *story) deletion(t *testing.T) {
	s.read(t)
	var err error
	if s.seen.netns, err = outside.Identity(s.netns()); err != nil {
		t.Fatal(err)
	}
	if s.seen.links, err = outside.Links(s.Netns(s.node)); err != nil {
		t.Fatal(err)
	}
	if s.seen.mount, err = s.podMounts(); err != nil || len(s.seen.mount) == 0 {
		t.Fatalf("the pod has no mounts before its deletion: %v", err)
	}
	if found, err := outside.Cgroups("pod" + string(s.pod.UID)); err != nil || len(found) == 0 {
		t.Fatalf("the pod has no cgroups before its deletion: %v", err)
	}
	s.Kubectl("delete", "pod", "web", "-n", "shop", "--timeout=30s")

	// kubectl returned when the entry was gone: by the order of D5 and D6 everything else is gone too.
	if stored, err := s.Etcd("/registry/pods/shop/web"); err != nil || len(stored) > 0 {
		t.Errorf("etcd still has the pod: %v", err)
	}
	if _, err := s.Kube.CoreV1().Pods("shop").Get(t.Context(), "web", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("get answers %v", err)
	}
	if left, err := outside.Cgroups("pod" + string(s.pod.UID)); err != nil || len(left) > 0 {
		t.Errorf("cgroups are left: %v %v", left, err)
	}
	if left, err := s.podMounts(); err != nil || len(left) > 0 {
		t.Errorf("mounts are left: %v %v", left, err)
	}
	for _, dir := range []string{"kubelet/pods/" + string(s.pod.UID), "pod-logs/shop_web_" + string(s.pod.UID)} {
		path := filepath.Join(s.DataDir(), fmt.Sprintf("node-%d", s.node), dir)
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left (%v)", path, err)
		}
	}
	if _, err := os.Stat(s.netns()); err == nil {
		t.Errorf("process %d lives on", s.pid)
	}
	// The kernel ends a namespace, and the veth with it, beside us.
	outside.Eventually(t, 5*time.Second, func() error {
		links, err := outside.Links(s.Netns(s.node))
		if err != nil {
			return err
		}
		if len(links) >= len(s.seen.links) {
			return fmt.Errorf("the node's interfaces were %v and are %v", s.seen.links, links)
		}
		return nil
	})
	for i := 1; i <= s.Nodes; i++ {
		outside.Eventually(t, 5*time.Second, func() error {
			rules, err := outside.Ruleset(s.Netns(i))
			if err != nil {
				return err
			}
			if strings.Contains(rules, s.backend()) {
				return fmt.Errorf("nftables of node %d still have %s", i, s.backend())
			}
			return nil
		})
		// A Service without endpoints refuses; it does not let people wait, nor does a packet leave the node.
		client := outside.HTTPFrom(s.Netns(i), 3*time.Second)
		if _, err := outside.Get(client, "http://"+s.service.Spec.ClusterIP+"/"); err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("node %d: a Service with no endpoint answers %v", i, err)
		}
	}
	s.checkEvents(t, append(slices.Clone(creationEvents), "kubelet Killing"))
	got := s.checkTrace(t, append(lifecycle.Creation(), lifecycle.Deletion()...), lifecycle.Drain)
	if !got.Gone {
		t.Error("the trace does not know that the pod is gone")
	}
	s.checkPromise(t, got)

	s.Kubectl("delete", "namespace", "shop", "--timeout=30s")
	for _, prefix := range []string{"/registry/configmaps/shop/", "/registry/secrets/shop/", "/registry/serviceaccounts/shop/", "/registry/endpointslices/shop/", "/registry/services/specs/shop/", "/registry/events/shop/", "/registry/namespaces/shop"} {
		if stored, err := s.Etcd(prefix); err != nil || len(stored) > 0 {
			t.Errorf("%d keys are left below %s (%v)", len(stored), prefix, err)
		}
	}
}

// checkPromise: D4 begins only after D3 has ended on every node.
func (s *story) checkPromise(t *testing.T, got trace.Trace) {
	var stop, drained time.Time
	for _, p := range got.Spans {
		switch {
		case p.Stage == lifecycle.Stop && (stop.IsZero() || p.Start.Before(stop)):
			stop = p.Start
		case p.Stage == lifecycle.Drain && p.End.After(drained):
			drained = p.End
		}
	}
	if stop.Before(drained) {
		t.Errorf("the pod was stopped %v before the last node had drained it", drained.Sub(stop))
	}
}

func (s *story) podMounts() (out []string, err error) {
	lines, err := outside.Mounts(s.Mountns(s.node))
	for _, line := range lines {
		if strings.Contains(line, string(s.pod.UID)) || strings.Contains(line, s.container) {
			out = append(out, line)
		}
	}
	return out, err
}

// checkKubeconfig: the entry is gone, and nothing else.
func (s *story) checkKubeconfig(t *testing.T) {
	config, err := clientcmd.LoadFromFile(s.Kubeconfig)
	if errors.Is(err, fs.ErrNotExist) {
		return
	} else if err != nil {
		t.Fatal(err)
	}
	for name := range config.Contexts {
		t.Errorf("the kubeconfig still has context %s", name)
	}
	if len(config.Clusters)+len(config.AuthInfos) > 0 || config.CurrentContext != "" {
		t.Errorf("the kubeconfig still has %d clusters, %d users, current context %q", len(config.Clusters), len(config.AuthInfos), config.CurrentContext)
	}
}
