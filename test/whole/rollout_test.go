package whole

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"wherry.dev/wherry/test/outside"
)

// rollout replaces the pods behind a Service one by one under 10,000 requests from another node: none is lost.
func (s *story) rollout(t *testing.T) {
	file := filepath.Join(t.TempDir(), "rollout.json")
	s.Wherry("bench", "rollout", "--name", s.Name, "--kubeconfig", s.Kubeconfig, "--requests", "10000", "--for", "15s", "--from-node", s.NodeName(2), "-o", file)
	var results []struct {
		Count, Errors int
		Note, Error   string
	}
	readJSON(t, file, &results)
	if len(results) != 1 || results[0].Errors != 0 || results[0].Count != 10000 {
		t.Errorf("rollout: %+v", results)
	} else {
		t.Log(results[0].Note)
	}
}

// TestDrainWaitsForLateProxy shows what the order of D3 and D4 is worth, and that a count of lost requests can be other than zero: one
// node's proxy is held up (its process is stopped) while a pod is deleted. With the wait nothing is lost from there; with
// the wait switched off the same sequence loses requests.
func TestDrainWaitsForLateProxy(t *testing.T) {
	s := &story{Cluster: outside.Up(t, "d", 3)}
	lost, asked := s.deleteBehindLateProxy(t, true)
	t.Logf("with the wait %d of %d requests were lost", lost, asked)
	if lost != 0 {
		t.Errorf("%d of %d requests were lost though the pod waits for the late node", lost, asked)
	}
	// Once more without the wait. Every process is killed on the way, and up continues.
	s.restart(t, "--node-arg=--drain-timeout=0")
	lost, asked = s.deleteBehindLateProxy(t, false)
	t.Logf("without the wait %d of %d requests were lost", lost, asked)
	if lost == 0 {
		t.Errorf("none of %d requests was lost without the wait: the test cannot tell", asked)
	}
}

// restart kills every node's main process and continues the cluster with other flags.
func (s *story) restart(t *testing.T, args ...string) {
	for i := 1; i <= s.Nodes; i++ {
		if err := unix.Kill(s.MainPID(i), unix.SIGKILL); err != nil {
			t.Fatalf("kill node %d: %v", i, err)
		}
	}
	s.Continue(args...)
}

// deleteBehindLateProxy stops the process of the last node, deletes one of two pods, lets the process go on when either the drain has
// held the pod for half a second (held) or the pod is gone, and counts the requests from that node that were lost meanwhile.
func (s *story) deleteBehindLateProxy(t *testing.T, held bool) (lost, asked int64) {
	late := s.Nodes
	s.KubectlInput(fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: one, namespace: default, labels: {app: late}}
spec: {nodeName: %s, containers: [{name: c, image: "wherry.dev/sample:1"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: two, namespace: default, labels: {app: late}}
spec: {nodeName: %s, containers: [{name: c, image: "wherry.dev/sample:1"}]}
---
apiVersion: v1
kind: Service
metadata: {name: late, namespace: default}
spec: {selector: {app: late}, ports: [{port: 80, targetPort: 8080}]}
`, s.NodeName(1), s.NodeName(2)), "create", "-f", "-")
	defer s.Kubectl("delete", "pod/two", "service/late", "-n", "default")
	s.Kubectl("wait", "--for=condition=Ready", "pod/one", "pod/two", "-n", "default", "--timeout=20s")
	service, err := s.Kube.CoreV1().Services("default").Get(t.Context(), "late", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + service.Spec.ClusterIP + "/"
	answered := map[string]bool{}
	outside.Eventually(t, 10*time.Second, func() error { // both take requests from there
		got, err := outside.Get(outside.HTTPFrom(s.Netns(late), time.Second), url)
		if err != nil {
			return err
		}
		if answered[got] = true; len(answered) < 2 {
			return fmt.Errorf("answers come from %v only", answered)
		}
		return nil
	})

	pid := s.MainPID(late)
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	resume := sync.OnceFunc(func() { _ = unix.Kill(pid, unix.SIGCONT) })
	defer resume()

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var count, failed atomic.Int64
	var load sync.WaitGroup
	for range 2 {
		load.Go(func() {
			client := outside.HTTPFrom(s.Netns(late), time.Second)
			for ctx.Err() == nil && count.Add(1) <= 20000 { // each as soon as the last has its answer, and bounded
				if _, err := outside.Get(client, url); err != nil && failed.Add(1) <= 3 {
					t.Logf("lost: %v", err)
				}
			}
		})
	}
	asking := func(more int64) { // until so many more requests were sent
		from := count.Load()
		outside.Eventually(t, 10*time.Second, func() error {
			if got := count.Load() - from; got < more {
				return fmt.Errorf("only %d requests", got)
			}
			return nil
		})
	}
	asking(50)
	if err := s.Kube.CoreV1().Pods("default").Delete(t.Context(), "one", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if held {
		// The pod is Terminating and still answers: the late node has not said that it knows.
		asking(100)
		pod, err := s.Kube.CoreV1().Pods("default").Get(t.Context(), "one", metav1.GetOptions{})
		if err != nil || pod.DeletionTimestamp == nil {
			t.Errorf("the pod did not wait for the late node: %v", err)
		}
		resume()
	}
	outside.Eventually(t, 15*time.Second, func() error {
		_, err := s.Kube.CoreV1().Pods("default").Get(t.Context(), "one", metav1.GetOptions{})
		if !apierrors.IsNotFound(err) {
			return fmt.Errorf("the pod is not gone: %w", err)
		}
		return nil
	})
	asking(6)
	resume()
	cancel()
	load.Wait()
	return failed.Load(), count.Load()
}

func readJSON(t *testing.T, file string, into any) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(b, into)
	}
	if err != nil {
		t.Fatalf("%s: %v: %s", file, err, strings.TrimSpace(string(b)))
	}
}
