package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"wherry.dev/wherry/pki"
)

func testKeys(t *testing.T) *pki.PKI {
	t.Helper()
	keys, err := pki.Ensure(t.TempDir(), pki.Config{})
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func TestTrust(t *testing.T) {
	own, other := testKeys(t).Pairs(), testKeys(t).Pairs()
	plain := trust(own, RequestHeader{}, nil, nil)
	if string(plain.ClientCA) != string(own.CA.CertPEM) || string(plain.ProxyCA) != string(own.FrontProxyCA.CertPEM) || !slices.Equal(plain.AllowedNames, []string{"front-proxy-client"}) {
		t.Errorf("%+v", plain)
	}
	more := trust(own, RequestHeader{AllowedNames: []string{"gate"}, UserHeaders: []string{"X-User", "X-Remote-User"}}, other.CA.CertPEM, other.CA.CertPEM)
	if string(more.ClientCA) != string(own.CA.CertPEM)+string(other.CA.CertPEM) || string(more.ProxyCA) != string(own.FrontProxyCA.CertPEM)+string(other.CA.CertPEM) ||
		!slices.Equal(more.AllowedNames, []string{"front-proxy-client", "gate"}) || !slices.Equal(more.UsernameHeaders, []string{"X-Remote-User", "X-User"}) || !slices.Equal(more.GroupHeaders, []string{"X-Remote-Group"}) {
		t.Errorf("%+v", more)
	}
	if anybody := trust(own, RequestHeader{}, nil, other.CA.CertPEM); len(anybody.AllowedNames) != 0 {
		t.Errorf("%+v", anybody)
	}
}

// TestAuthoritiesAreFollowed: what is trusted, told to clients and published is what the files hold; a wrong one changes nothing.
func TestAuthoritiesAreFollowed(t *testing.T) {
	keys, one, two := testKeys(t), testKeys(t).Pairs(), testKeys(t).Pairs()
	dir := t.TempDir()
	write := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path+".next", content, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".next", path); err != nil {
			t.Fatal(err)
		}
		return path
	}
	settings := Authentication{ClientCAFile: filepath.Join(dir, "clients")}
	if _, err := readTrusted(settings, keys); err == nil || !strings.Contains(err.Error(), "--client-ca-file") {
		t.Errorf("a file that is not there is trusted: %v", err)
	}
	write("clients", one.CA.CertPEM)
	settings.RequestHeader.CAFile = write("proxies", one.FrontProxyCA.CertPEM)
	trusted, err := readTrusted(settings, keys)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- trusted.follow(ctx, slog.New(slog.DiscardHandler)) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	// shown are the authorities that a client is told of.
	shown := func() (subjects []string) {
		here, there := net.Pipe()
		server := tls.Server(there, trusted.serverTLS())
		served := make(chan error, 1)
		go func() { served <- server.Handshake() }()
		client := tls.Client(here, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12, GetClientCertificate: func(r *tls.CertificateRequestInfo) (*tls.Certificate, error) {
			for _, subject := range r.AcceptableCAs {
				subjects = append(subjects, string(subject))
			}
			return &tls.Certificate{}, nil
		}})
		if err := client.Handshake(); err != nil {
			t.Fatal(err)
		}
		if err := <-served; err != nil {
			t.Fatal(err)
		}
		here.Close()
		there.Close()
		return subjects
	}
	holds := func(clients, proxies *pki.Pairs) {
		t.Helper()
		own := keys.Pairs()
		want := func() bool {
			p, _ := trusted.published.Trust()
			return string(p.ClientCA) == string(own.CA.CertPEM)+string(clients.CA.CertPEM) && string(p.ProxyCA) == string(own.FrontProxyCA.CertPEM)+string(proxies.FrontProxyCA.CertPEM)
		}
		for end := time.Now().Add(time.Minute); !want(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("a changed file is not followed")
			}
		}
		pool := func(certificates ...*x509.Certificate) *x509.CertPool {
			p := x509.NewCertPool()
			for _, c := range certificates {
				p.AddCert(c)
			}
			return p
		}
		if !trusted.clients.pool().Equal(pool(own.CA.Certificate, clients.CA.Certificate)) {
			t.Error("clients' authorities are not the file's and the cluster's own")
		}
		if !trusted.proxies.pool().Equal(pool(proxies.FrontProxyCA.Certificate)) {
			t.Error("proxies' authorities are not the file's")
		}
		if !trusted.tls.Load().ClientCAs.Equal(pool(own.CA.Certificate, own.FrontProxyCA.Certificate, clients.CA.Certificate, proxies.FrontProxyCA.Certificate)) {
			t.Error("clients are told of others than those that are trusted")
		}
		told := shown()
		for _, c := range [][]byte{own.CA.Certificate.RawSubject, clients.CA.Certificate.RawSubject, proxies.FrontProxyCA.Certificate.RawSubject} {
			if !slices.Contains(told, string(c)) {
				t.Errorf("clients are not told of %q", c)
			}
		}
	}
	holds(one, one)
	write("clients", two.CA.CertPEM)
	holds(two, one)
	write("clients", []byte("no certificate"))
	write("proxies", two.FrontProxyCA.CertPEM)
	holds(two, two)
}
