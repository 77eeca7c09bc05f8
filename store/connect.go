package store

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// Endpoints says how an external etcd is reached; the names of the files are those of upstream's flags.
type Endpoints struct {
	URLs []string // http, https or unix; a bare host:port is http, or https when files are given
	// CAFile holds the certificates that the servers' own are checked against. Empty: the machine's.
	CAFile string
	// CertFile and KeyFile are this client's; both or none. They are read for each connection, so that they may be renewed.
	CertFile, KeyFile string
}

const (
	dialTimeout      = 20 * time.Second // upstream's
	keepAliveTime    = 30 * time.Second
	keepAliveTimeout = 10 * time.Second
	checkTimeout     = 2 * time.Second
)

// Connect returns a client of an external etcd, for Config.Client. The caller closes it. It fails only on files: an etcd that is down is waited for by
// whoever uses the client.
func Connect(ctx context.Context, e Endpoints) (*clientv3.Client, error) {
	c := clientv3.Config{Endpoints: e.URLs, DialTimeout: dialTimeout, DialKeepAliveTime: keepAliveTime, DialKeepAliveTimeout: keepAliveTimeout,
		Context: context.WithoutCancel(ctx), Logger: zap.NewNop()} // what fails is told by the caller's own errors
	var err error
	if c.TLS, err = e.tls(); err != nil {
		return nil, err
	}
	client, err := clientv3.New(c)
	if err != nil {
		return nil, fmt.Errorf("connect to etcd at %s: %w", strings.Join(e.URLs, ","), err)
	}
	return client, nil
}

// tls is nil when nothing asks for it.
func (e Endpoints) tls() (*tls.Config, error) {
	secure := e.CAFile != "" || e.CertFile != ""
	for _, u := range e.URLs {
		secure = secure || strings.HasPrefix(u, "https://")
	}
	if (e.CertFile == "") != (e.KeyFile == "") {
		return nil, errors.New("etcd: a client certificate needs both, --etcd-certfile and --etcd-keyfile")
	}
	if !secure {
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if e.CAFile != "" {
		pem, err := os.ReadFile(e.CAFile)
		if err != nil {
			return nil, fmt.Errorf("etcd's CA: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("etcd's CA: no certificate in %s", e.CAFile)
		}
	}
	if e.CertFile != "" {
		load := func() (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(e.CertFile, e.KeyFile)
			if err != nil {
				return nil, fmt.Errorf("etcd's client certificate: %w", err)
			}
			return &pair, nil
		}
		if _, err := load(); err != nil {
			return nil, err
		}
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	}
	return c, nil
}

// Snapshot is the whole etcd as a snapshot file has it, the sum at its end included. The caller closes it.
func (s *Store) Snapshot(ctx context.Context) (io.ReadCloser, error) {
	r, err := s.c.Client.SnapshotWithVersion(ctx)
	if err != nil {
		return nil, fmt.Errorf("take snapshot of etcd: %w", err)
	}
	return r.Snapshot, nil
}

// Check says whether etcd answers.
func (s *Store) Check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	if _, err := s.kv.Get(ctx, s.c.Prefix+"/health", clientv3.WithKeysOnly()); err != nil {
		return errors.New("etcd does not answer")
	}
	return nil
}

// Size returns how many bytes etcd's database takes on its disk.
func (s *Store) Size(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	endpoints := s.c.Client.Endpoints()
	if len(endpoints) == 0 {
		endpoints = []string{""} // in this process
	}
	var errs []error
	for _, e := range endpoints {
		status, err := s.c.Client.Status(ctx, e)
		if err == nil {
			return status.DbSize, nil
		}
		errs = append(errs, err)
	}
	return 0, fmt.Errorf("size of etcd's database: %w", errors.Join(errs...))
}
