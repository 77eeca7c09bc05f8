package faults

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"wherry.dev/wherry/test/outside"
)

// TestSnapshot: a snapshot that was taken over the API comes back in a new cluster, and in an etcd of upstream's by its own tool. Commands that are killed in the
// midst of saving or restoring leave nothing that anybody takes for a whole.
func TestSnapshot(t *testing.T) {
	r := outside.StartReplicas(t, 1, 1)
	kube, dir := r.Servers[0].Kube, t.TempDir()
	kubeconfig := filepath.Join(r.Servers[0].Dir, "admin.kubeconfig")
	const objects = 200
	for i := range objects {
		m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("m-%d", i)}, Data: map[string]string{"k": strings.Repeat("v", 10<<10)}}
		if _, err := kube.CoreV1().ConfigMaps("default").Create(t.Context(), m, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	wherry := func(args ...string) (string, error) {
		out, err := exec.Command(outside.Binary(), args...).CombinedOutput()
		return string(out), err
	}
	killed := func(args ...string) {
		t.Helper()
		cmd := exec.Command(outside.Binary(), args...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(60+rand.IntN(200)) * time.Millisecond) // a moment by chance, in its start or in its work
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}

	file := filepath.Join(dir, "s.db")
	for range 8 {
		killed("snapshot", "save", file, "--kubeconfig", kubeconfig)
		if _, err := os.Stat(file); err == nil {
			if out, err := wherry("snapshot", "list", "--dir", dir); err != nil {
				t.Fatalf("a killed command has left half a snapshot: %s", out)
			}
		}
	}
	if out, err := wherry("snapshot", "save", file, "--kubeconfig", kubeconfig); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if left, _ := filepath.Glob(file + ".*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	// Only who may read everything.
	config := rest.AnonymousClientConfig(r.Servers[0].REST)
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := client.Get(config.Host + "/wherry/snapshot")
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusForbidden && answer.StatusCode != http.StatusUnauthorized {
		t.Errorf("anybody is answered %s", answer.Status)
	}

	s := r.Alone(func(data string) {
		for range 8 {
			killed("snapshot", "restore", file, "--data-dir", data)
		}
		if out, err := wherry("snapshot", "restore", file, "--data-dir", data); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	})
	list, err := s.Kube.CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, m := range list.Items {
		if strings.HasPrefix(m.Name, "m-") && len(m.Data["k"]) == 10<<10 {
			n++
		}
	}
	if n != objects {
		t.Errorf("%d of %d objects came back", n, objects)
	}

	// And upstream's tool restores it for upstream's etcd.
	to := filepath.Join(dir, "upstream")
	if err := snapshot.NewV3(zap.NewNop()).Restore(snapshot.RestoreConfig{SnapshotPath: file, Name: "default", OutputDataDir: to,
		PeerURLs: []string{"http://localhost:2380"}, InitialCluster: "default=http://localhost:2380", InitialClusterToken: "t"}); err != nil {
		t.Fatal(err)
	}
	etcd := r.EtcdIn(to)
	outside.Eventually(t, 30*time.Second, func() error {
		got, err := etcd.Get(t.Context(), "/registry/configmaps/default/m-", clientv3.WithPrefix(), clientv3.WithCountOnly())
		if err == nil && got.Count != objects {
			err = fmt.Errorf("%d objects", got.Count)
		}
		return err
	})
}
