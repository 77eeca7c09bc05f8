package store_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	mathbig "math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"wherry.dev/wherry/store"
)

// issue writes a certificate and its key as PEM files; signer nil: it signs itself and others.
func issue(t *testing.T, dir, name string, signer *tls.Certificate) (certFile, keyFile string, pair tls.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: mathbig.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	parent, signKey := template, any(key)
	if signer == nil {
		template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign
	} else {
		if parent, err = x509.ParseCertificate(signer.Certificate[0]); err != nil {
			t.Fatal(err)
		}
		signKey = signer.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signKey)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: encoded}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if pair, err = tls.LoadX509KeyPair(certFile, keyFile); err != nil {
		t.Fatal(err)
	}
	return certFile, keyFile, pair
}

// The client checks etcd's certificate against the CA it was given, and shows its own, as it is on the disk at that moment.
func TestConnectTLS(t *testing.T) {
	dir := t.TempDir()
	caFile, _, ca := issue(t, dir, "ca", nil)
	_, _, serving := issue(t, dir, "etcd", &ca)
	certFile, keyFile, _ := issue(t, dir, "apiserver", &ca)
	pool := x509.NewCertPool()
	authority, err := x509.ParseCertificate(ca.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	pool.AddCert(authority)
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{serving}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	seen := make(chan string, 100)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if err := c.(*tls.Conn).Handshake(); err == nil {
				seen <- c.(*tls.Conn).ConnectionState().PeerCertificates[0].Subject.CommonName
			}
			c.Close() // it is no etcd: the client tries again
		}
	}()
	c, err := store.Connect(t.Context(), store.Endpoints{URLs: []string{"https://" + l.Addr().String()}, CAFile: caFile, CertFile: certFile, KeyFile: keyFile})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	go func() { _, _ = c.Get(ctx, "k") }()
	until := func(want string) {
		t.Helper()
		for {
			select {
			case got := <-seen:
				if got == want {
					return
				}
			case <-ctx.Done():
				t.Fatalf("nobody came as %s", want)
			}
		}
	}
	until("apiserver")
	// A renewed certificate is shown at the next connection.
	renewedCert, renewedKey, _ := issue(t, dir, "renewed", &ca)
	for from, to := range map[string]string{renewedKey: keyFile, renewedCert: certFile} {
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	until("renewed")
}

func TestConnectRefuses(t *testing.T) {
	dir := t.TempDir()
	certFile, _, _ := issue(t, dir, "a", nil)
	if err := os.WriteFile(filepath.Join(dir, "no.pem"), []byte("no"), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, e := range map[string]store.Endpoints{
		"--etcd-keyfile":       {CertFile: certFile},
		"no certificate in":    {CAFile: filepath.Join(dir, "no.pem")},
		"client certificate: ": {CertFile: certFile, KeyFile: filepath.Join(dir, "no.pem")},
		"etcd's CA: ":          {CAFile: filepath.Join(dir, "none")},
	} {
		e.URLs = []string{"https://127.0.0.1:1"}
		if _, err := store.Connect(t.Context(), e); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}
