package pki

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func verify(t *testing.T, roots, leaf *x509.Certificate, usage x509.ExtKeyUsage, name string) {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(roots)
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{usage}, DNSName: name}); err != nil {
		t.Errorf("%s: %v", leaf.Subject, err)
	}
}

func TestEnsureMakesAllKeys(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	p, err := Ensure(dir, Config{SANs: []string{"10.1.2.3", "Node.example."}, ServiceIPs: []net.IP{net.ParseIP("10.96.0.1")}})
	if err != nil {
		t.Fatal(err)
	}
	all := p.Pairs()
	for _, name := range []string{"kubernetes.default.svc.cluster.local", "localhost", "node.example", "10.1.2.3", "10.96.0.1", "127.0.0.1"} {
		verify(t, all.CA.Certificate, all.APIServer.Certificate, x509.ExtKeyUsageServerAuth, name)
	}
	for pair, user := range map[*Pair]string{all.APIServerKubeletClient: UserKubeletClient, all.Admin: UserAdmin, all.Scheduler: UserScheduler,
		all.ControllerManager: UserControllerManager, all.Proxy: UserProxy} {
		verify(t, all.CA.Certificate, pair.Certificate, x509.ExtKeyUsageClientAuth, "")
		if pair.Certificate.Subject.CommonName != user {
			t.Errorf("user %q, want %q", pair.Certificate.Subject.CommonName, user)
		}
	}
	verify(t, all.FrontProxyCA.Certificate, all.FrontProxyClient.Certificate, x509.ExtKeyUsageClientAuth, "")
	if got := all.Admin.Certificate.Subject.Organization; len(got) != 1 || got[0] != GroupMasters {
		t.Errorf("admin's groups: %v", got)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	keys := 0
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(entry.Name(), ".key") {
			keys++
			if info.Mode().Perm() != 0o600 {
				t.Errorf("%s has mode %v", entry.Name(), info.Mode())
			}
		}
	}
	if keys != 10 {
		t.Errorf("%d keys, want 10", keys)
	}
	// A second call finds all as it is.
	again, err := Ensure(dir, Config{SANs: []string{"10.1.2.3", "Node.example."}, ServiceIPs: []net.IP{net.ParseIP("10.96.0.1")},
		step: func(what string) error { return errors.New("wrote " + what) }})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(again.Pairs().APIServer.CertPEM, all.APIServer.CertPEM) || !again.Pairs().ServiceAccountKey.Equal(all.ServiceAccountKey) {
		t.Error("keys changed without a reason")
	}
}

// A start that dies before any of its writes leaves what the next start completes, with the same authority if one was there.
func TestEnsureCompletesWhatACrashLeft(t *testing.T) {
	crash := errors.New("crash")
	for step := 0; ; step++ {
		dir, n := t.TempDir(), 0
		_, err := Ensure(dir, Config{step: func(string) error {
			if n++; n > step {
				return crash
			}
			return nil
		}})
		var ca []byte
		if data, err := os.ReadFile(filepath.Join(dir, "ca.crt")); err == nil {
			ca = data
		}
		done := err == nil
		if !done && !errors.Is(err, crash) {
			t.Fatal(err)
		}
		p, err := Ensure(dir, Config{})
		if err != nil {
			t.Fatalf("after a crash before write %d: %v", step, err)
		}
		if ca != nil && !bytes.Equal(ca, p.Pairs().CA.CertPEM) {
			t.Fatalf("after a crash before write %d the authority changed", step)
		}
		for _, pair := range []*Pair{p.Pairs().APIServer, p.Pairs().Admin, p.Pairs().Proxy} {
			if !pair.Key.PublicKey.Equal(pair.Certificate.PublicKey) {
				t.Fatalf("after a crash before write %d: key and certificate of %s differ", step, pair.Certificate.Subject)
			}
		}
		if done {
			if step < 20 {
				t.Fatalf("only %d writes were failed", step)
			}
			return
		}
	}
}

// The same for a renewal that dies between the new key and its certificate.
func TestRenewalSurvivesACrash(t *testing.T) {
	dir := t.TempDir()
	if _, err := Ensure(dir, Config{}); err != nil {
		t.Fatal(err)
	}
	n := 0
	_, err := Ensure(dir, Config{SANs: []string{"new.example"}, step: func(string) error {
		if n++; n > 1 {
			return errors.New("crash")
		}
		return nil
	}})
	if err == nil {
		t.Fatal("no crash happened")
	}
	p, err := Ensure(dir, Config{SANs: []string{"new.example"}})
	if err != nil {
		t.Fatal(err)
	}
	verify(t, p.Pairs().CA.Certificate, p.Pairs().APIServer.Certificate, x509.ExtKeyUsageServerAuth, "new.example")
}

func TestChangedSANsAndAgeRenewTheServingCertificate(t *testing.T) {
	dir := t.TempDir()
	p, err := Ensure(dir, Config{})
	if err != nil {
		t.Fatal(err)
	}
	server := p.ServerTLS()
	old, _ := server.GetCertificate(nil)
	admin := p.Pairs().Admin.CertPEM
	p.config.SANs = []string{"192.0.2.7"}
	if err := p.Renew(); err != nil {
		t.Fatal(err)
	}
	fresh, _ := server.GetCertificate(nil)
	if bytes.Equal(old.Certificate[0], fresh.Certificate[0]) {
		t.Error("the listener still serves the old certificate")
	}
	if !bytes.Equal(admin, p.Pairs().Admin.CertPEM) {
		t.Error("the admin's certificate changed without a reason")
	}
	next := p.NextRenewal()
	p.config.Now = func() time.Time { return next.Add(time.Minute) }
	if err := p.Renew(); err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(admin, p.Pairs().Admin.CertPEM) || !p.NextRenewal().After(next) {
		t.Error("a certificate in the last third of its life was not renewed")
	}
}

func TestDamagedAuthorityIsNotReplaced(t *testing.T) {
	for name, damage := range map[string]func(dir string) error{
		"key missing":  func(dir string) error { return os.Remove(filepath.Join(dir, "ca.key")) },
		"key garbage":  func(dir string) error { return os.WriteFile(filepath.Join(dir, "ca.key"), []byte("x"), 0o600) },
		"cert garbage": func(dir string) error { return os.WriteFile(filepath.Join(dir, "ca.crt"), []byte("x"), 0o600) },
		"cert of other": func(dir string) error {
			return copyFile(filepath.Join(dir, "front-proxy-ca.crt"), filepath.Join(dir, "ca.crt"))
		},
		"cert of leaf": func(dir string) error { return copyFile(filepath.Join(dir, "admin.crt"), filepath.Join(dir, "ca.crt")) },
		"sa garbage":   func(dir string) error { return os.WriteFile(filepath.Join(dir, "sa.key"), nil, 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if _, err := Ensure(dir, Config{}); err != nil {
				t.Fatal(err)
			}
			if err := damage(dir); err != nil {
				t.Fatal(err)
			}
			before := read(t, dir)
			if _, err := Ensure(dir, Config{}); err == nil || !strings.Contains(err.Error(), "restore") {
				t.Errorf("error %v does not say the mend", err)
			}
			if after := read(t, dir); after != before {
				t.Error("files were changed all the same")
			}
		})
	}
}

func copyFile(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o600)
}

func read(t *testing.T, dir string) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		all.WriteString(path)
		all.Write(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

func TestDamagedLeafIsIssuedAnew(t *testing.T) {
	dir := t.TempDir()
	if _, err := Ensure(dir, Config{}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "apiserver.crt"), []byte("half a certif"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "scheduler.key")); err != nil {
		t.Fatal(err)
	}
	p, err := Ensure(dir, Config{})
	if err != nil {
		t.Fatal(err)
	}
	verify(t, p.Pairs().CA.Certificate, p.Pairs().APIServer.Certificate, x509.ExtKeyUsageServerAuth, "localhost")
	verify(t, p.Pairs().CA.Certificate, p.Pairs().Scheduler.Certificate, x509.ExtKeyUsageClientAuth, "")
}

func TestConcurrentEnsureAgrees(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	got := make([]*PKI, 8)
	for i := range got {
		wg.Go(func() {
			p, err := Ensure(dir, Config{})
			if err != nil {
				t.Error(err)
			}
			got[i] = p
		})
	}
	wg.Wait()
	for _, p := range got[1:] {
		if p == nil || !bytes.Equal(p.Pairs().CA.CertPEM, got[0].Pairs().CA.CertPEM) || !bytes.Equal(p.Pairs().Admin.CertPEM, got[0].Pairs().Admin.CertPEM) {
			t.Fatal("two starts made different keys")
		}
	}
}

func TestServerTLSTakesOurClients(t *testing.T) {
	p, err := Ensure(t.TempDir(), Config{})
	if err != nil {
		t.Fatal(err)
	}
	a, b := net.Pipe()
	client := &tls.Config{RootCAs: p.CAPool(), ServerName: "localhost", Certificates: []tls.Certificate{p.Pairs().Admin.TLS()}}
	go func() { _ = tls.Client(b, client).Handshake() }()
	server := tls.Server(a, p.ServerTLS())
	if err := server.Handshake(); err != nil {
		t.Fatal(err)
	}
	if peer := server.ConnectionState().PeerCertificates; len(peer) != 1 || peer[0].Subject.CommonName != UserAdmin {
		t.Errorf("peer %v", peer)
	}
}
