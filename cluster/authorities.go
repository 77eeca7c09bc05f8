package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"

	certutil "k8s.io/client-go/util/cert"

	"wherry.dev/wherry/apiserver/aggregate"
	"wherry.dev/wherry/apiserver/reload"
	"wherry.dev/wherry/pki"
)

// authorities are the certificates in a file that sign clients' certificates; the file is read again when it changes. Safe for concurrent use; nil where
// no file is given.
type authorities struct {
	flag, file string
	first      []byte              // what the file held at the start
	own        []*x509.Certificate // trusted besides
	now        atomic.Pointer[bundle]
}

// bundle is what a file of certificates holds. Immutable.
type bundle struct {
	pem          []byte
	certificates []*x509.Certificate
	pool         *x509.CertPool // these and the own ones
}

// readAuthorities reads a file of certificates that sign clients' certificates, to be trusted besides own.
func readAuthorities(flag, file string, own ...*x509.Certificate) (*authorities, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("--%s: %w", flag, err)
	}
	a := &authorities{flag: flag, file: file, first: content, own: own}
	return a, a.change(content)
}

func (a *authorities) change(content []byte) error {
	certificates, err := certutil.ParseCertsPEM(content)
	if err != nil {
		return fmt.Errorf("--%s %s: %w", a.flag, a.file, err)
	}
	pool := x509.NewCertPool()
	for _, c := range a.own {
		pool.AddCert(c)
	}
	for _, c := range certificates {
		pool.AddCert(c)
	}
	a.now.Store(&bundle{content, certificates, pool})
	return nil
}

// pool are the authorities of the moment.
func (a *authorities) pool() *x509.CertPool { return a.now.Load().pool }

func (a *authorities) pem() []byte {
	if a == nil {
		return nil
	}
	return a.now.Load().pem
}

// trusted are whose certificates this server takes from clients besides its own: what is told of them follows the files.
type trusted struct {
	clients, proxies *authorities // each nil without a file
	keys             *pki.PKI
	header           RequestHeader
	published        *aggregate.Published
	tls              atomic.Pointer[tls.Config] // nil as long as nothing but the cluster's own is trusted
	base             *tls.Config
}

// readTrusted reads the files that settings name.
func readTrusted(settings Authentication, keys *pki.PKI) (*trusted, error) {
	t := &trusted{keys: keys, header: settings.RequestHeader, base: keys.ServerTLS()}
	var err error
	if settings.ClientCAFile != "" {
		if t.clients, err = readAuthorities("client-ca-file", settings.ClientCAFile, keys.Pairs().CA.Certificate); err != nil {
			return nil, err
		}
	}
	if settings.RequestHeader.CAFile != "" {
		if t.proxies, err = readAuthorities("requestheader-client-ca-file", settings.RequestHeader.CAFile); err != nil {
			return nil, err
		}
	}
	t.published = aggregate.Publish(t.trust())
	t.hint()
	return t, nil
}

func (t *trusted) trust() *aggregate.Trust {
	return trust(t.keys.Pairs(), t.header, t.clients.pem(), t.proxies.pem())
}

// serverTLS is how the server is served: with a hint to clients of the authorities whose certificates they may show, those of the moment.
func (t *trusted) serverTLS() *tls.Config {
	config := t.base.Clone()
	if t.clients != nil || t.proxies != nil {
		config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return t.tls.Load(), nil }
	}
	return config
}

// hint makes the TLS configuration of the moment.
func (t *trusted) hint() {
	config := t.base.Clone()
	config.ClientCAs = config.ClientCAs.Clone()
	for _, a := range []*authorities{t.clients, t.proxies} {
		if a == nil {
			continue
		}
		for _, c := range a.now.Load().certificates {
			config.ClientCAs.AddCert(c)
		}
	}
	t.tls.Store(config)
}

// follow reads the files again whenever they change, until ctx ends.
func (t *trusted) follow(ctx context.Context, log *slog.Logger) error {
	ctx, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()
	ended := make(chan error, 2)
	var mu sync.Mutex // one change after the other: each tells of both files
	for _, a := range []*authorities{t.clients, t.proxies} {
		if a == nil {
			continue
		}
		group.Go(func() {
			ended <- reload.Watch(ctx, a.file, a.first, func(_ context.Context, content []byte) error {
				mu.Lock()
				defer mu.Unlock()
				if err := a.change(content); err != nil {
					return err
				}
				t.hint()
				t.published.Set(t.trust())
				return nil
			}, log)
		})
	}
	select {
	case <-ctx.Done():
		return nil
	case err := <-ended:
		return err
	}
}
