package pki

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	"pgregory.net/rapid"
)

func TestKubeconfigMergeAndRemove(t *testing.T) {
	p, err := Ensure(t.TempDir(), Config{})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "sub", "config")
	mine := "apiVersion: v1\nkind: Config\ncurrent-context: mine\nclusters:\n- name: mine\n  cluster: {server: https://mine}\nusers:\n- name: me\n  user: {token: t}\ncontexts:\n- name: mine\n  context: {cluster: mine, user: me, namespace: team}\n"
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(mine), 0o640); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for _, name := range []string{"a", "b", "c", "d"} { // several clusters come up side by side
		wg.Go(func() {
			if err := MergeKubeconfig(link, p.Kubeconfig(ContextName(name), "https://"+name, p.Pairs().Admin)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	c, err := clientcmd.LoadFromFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Clusters) != 5 || len(c.AuthInfos) != 5 || len(c.Contexts) != 5 || c.Contexts["mine"].Namespace != "team" {
		t.Errorf("merged: %d clusters, %d users, %d contexts", len(c.Clusters), len(c.AuthInfos), len(c.Contexts))
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("mode became %v", info.Mode())
	}
	if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Error("the link was replaced by a file")
	}
	for _, name := range []string{"a", "b", "c", "d", "never-was"} {
		if err := RemoveFromKubeconfig(link, ContextName(name)); err != nil {
			t.Fatal(err)
		}
	}
	c, err = clientcmd.LoadFromFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Clusters) != 1 || len(c.AuthInfos) != 1 || len(c.Contexts) != 1 || c.CurrentContext != "" && c.CurrentContext != "mine" {
		t.Errorf("after removal: %v", c)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), "*lock*")); len(left) > 0 {
		t.Errorf("locks left: %v", left)
	}
}

func TestKubeconfigOfOwnIsRemovedWhenEmpty(t *testing.T) {
	p, err := Ensure(t.TempDir(), Config{})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "config")
	if err := MergeKubeconfig(path, p.Kubeconfig("wherry-x", "https://x", p.Pairs().Admin)); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v %v", info, err)
	}
	if err := RemoveFromKubeconfig(path, "wherry-x"); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(filepath.Dir(path)); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestBootstrapTokens(t *testing.T) {
	seen := map[string]bool{}
	for range 100 {
		token := NewBootstrapToken()
		if _, _, ok := ParseBootstrapToken(token); !ok || seen[token] {
			t.Fatalf("token %q", token)
		}
		seen[token] = true
	}
	for _, bad := range []string{"", "abcdef", "abcdef.0123456789abcde", "abcdef.0123456789abcdef0", "ABCDEF.0123456789abcdef", "abcdef.0123456789abcdef\n", "abcde.0123456789abcdef"} {
		if _, _, ok := ParseBootstrapToken(bad); ok {
			t.Errorf("%q was accepted", bad)
		}
		if _, err := BootstrapTokenSecret(bad, "", time.Now(), 0); err == nil {
			t.Errorf("a secret was made of %q", bad)
		}
	}
	now := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	s, err := BootstrapTokenSecret("abcdef.0123456789abcdef", "for the shed", now, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if s.Name != "bootstrap-token-abcdef" || s.Namespace != "kube-system" || string(s.Data["expiration"]) != "2030-01-02T04:04:05Z" || string(s.Data["token-secret"]) != "0123456789abcdef" {
		t.Errorf("secret %+v", s)
	}
}

func TestDiscover(t *testing.T) {
	p, err := Ensure(t.TempDir(), Config{})
	if err != nil {
		t.Fatal(err)
	}
	other, err := Ensure(t.TempDir(), Config{})
	if err != nil {
		t.Fatal(err)
	}
	const token = "abcdef.0123456789abcdef"
	info, err := p.ClusterInfo("https://127.0.0.1:6443")
	if err != nil {
		t.Fatal(err)
	}
	signature, err := SignClusterInfo(info.Data["kubeconfig"], "abcdef", "0123456789abcdef")
	if err != nil {
		t.Fatal(err)
	}
	info.Data["jws-kubeconfig-abcdef"] = signature
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/api/v1/namespaces/kube-public/configmaps/cluster-info" || r.Header.Get("Authorization") != "" {
			http.Error(w, "no", http.StatusForbidden)
			return
		}
		_ = json.NewEncoder(w).Encode(info)
	}))
	server.TLS = p.ServerTLS()
	server.StartTLS()
	defer server.Close()
	ctx := t.Context()
	ca, err := Discover(ctx, server.URL, token, []string{"sha256:00", CAPin(p.Pairs().CA.Certificate)})
	if err != nil || string(ca) != string(p.Pairs().CA.CertPEM) {
		t.Fatalf("%s %v", ca, err)
	}
	if _, err := Discover(ctx, server.URL, token, nil); err != nil {
		t.Errorf("without a pin: %v", err)
	}
	if _, err := Discover(ctx, server.URL, token, []string{CAPin(other.Pairs().CA.Certificate)}); err == nil || !strings.Contains(err.Error(), "pinned") {
		t.Errorf("a wrong pin: %v", err)
	}
	if _, err := Discover(ctx, server.URL, "abcdef.0123456789abcdee", nil); err == nil || !strings.Contains(err.Error(), "not signed") {
		t.Errorf("a wrong token: %v", err)
	}
	if _, err := Discover(ctx, server.URL, "aaaaaa.0123456789abcdef", nil); err == nil {
		t.Error("an unknown token was accepted")
	}
}

// Only the very content, token and ID verify.
func TestClusterInfoSignature(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		content, id, secret := rapid.String().Draw(t, "content"), rapid.StringMatching(`[a-z0-9]{6}`).Draw(t, "id"), rapid.StringMatching(`[a-z0-9]{16}`).Draw(t, "secret")
		signature, err := SignClusterInfo(content, id, secret)
		if err != nil || !verifiedClusterInfo(content, signature, id, secret) {
			t.Fatalf("%v", err)
		}
		if verifiedClusterInfo(content+"x", signature, id, secret) || verifiedClusterInfo(content, signature, id, secret+"x") || verifiedClusterInfo(content, signature, id+"x", secret) || verifiedClusterInfo(content, signature[:len(signature)-1], id, secret) {
			t.Fatal("something else verified too")
		}
	})
}
