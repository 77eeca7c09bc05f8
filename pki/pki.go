// Package pki makes and keeps a cluster's keys: certificate authorities, the API server's and the control plane's
// certificates, the service-account signing key, kubeconfig files and join tokens. Files lie where kubeadm puts them, so
// that other tools find them. Any part above it may import it; it imports nothing of Wherry's.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// Well-known users and groups of the certificates that Ensure issues.
const (
	GroupMasters          = "system:masters" // bypasses authorization
	UserAdmin             = "kubernetes-admin"
	UserScheduler         = "system:kube-scheduler"
	UserControllerManager = "system:kube-controller-manager"
	UserProxy             = "system:kube-proxy"
	UserKubeletClient     = "kube-apiserver-kubelet-client"
	userFrontProxy        = "front-proxy-client"
	userAPIServer         = "kube-apiserver"
)

// Config says what certificates must hold. The zero value of a duration means its default.
type Config struct {
	// Name is the cluster's name; it goes into the authority's common name, for people. Default "wherry".
	Name string
	// SANs are further names and addresses of the API server, as users dial it.
	SANs []string
	// ServiceIPs are the API server's addresses inside the cluster (first of each service range).
	ServiceIPs []net.IP
	// ClusterDomain is the DNS domain of Services. Default "cluster.local".
	ClusterDomain string
	// CALifetime of authorities (default 10 years) and LeafLifetime of what they sign (default 1 year).
	CALifetime, LeafLifetime time.Duration
	// Now is the clock; default time.Now.
	Now func() time.Time

	// step is called before each change of the directory; tests make it fail.
	step func(what string) error
}

func (c *Config) complete() {
	if c.Name == "" {
		c.Name = "wherry"
	}
	if c.ClusterDomain == "" {
		c.ClusterDomain = "cluster.local"
	}
	if c.CALifetime == 0 {
		c.CALifetime = 10 * 365 * 24 * time.Hour
	}
	if c.LeafLifetime == 0 {
		c.LeafLifetime = 365 * 24 * time.Hour
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.step == nil {
		c.step = func(string) error { return nil }
	}
}

// serverNames returns the SANs of the API server's certificate, sorted, without duplicates.
func (c *Config) serverNames() (names []string, addresses []net.IP) {
	names = []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + c.ClusterDomain, "localhost"}
	addresses = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	addresses = append(addresses, c.ServiceIPs...)
	for _, san := range c.SANs {
		if ip := net.ParseIP(san); ip != nil {
			addresses = append(addresses, ip)
		} else if san != "" {
			names = append(names, strings.ToLower(strings.TrimSuffix(san, ".")))
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	slices.SortFunc(addresses, func(a, b net.IP) int { return strings.Compare(a.String(), b.String()) })
	addresses = slices.CompactFunc(addresses, net.IP.Equal)
	return names, addresses
}

// PKI is a complete directory of keys, read into memory. Safe for concurrent use; the pairs themselves are immutable and
// replaced as a whole by Renew.
type PKI struct {
	dir    string
	config Config

	current atomic.Pointer[Pairs]
}

// Pairs are all keys and certificates of one moment. Immutable.
type Pairs struct {
	CA           *Pair // signs servers, components, nodes and users
	FrontProxyCA *Pair // signs aggregating proxies only: who has such a certificate may name any user

	APIServer              *Pair // serving certificate
	APIServerKubeletClient *Pair // the API server towards kubelets
	FrontProxyClient       *Pair // the API server towards aggregated API servers
	Admin                  *Pair // the user who made the cluster, in system:masters
	Scheduler              *Pair
	ControllerManager      *Pair
	Proxy                  *Pair

	// ServiceAccountKey signs service-account tokens.
	ServiceAccountKey *ecdsa.PrivateKey

	caPool, frontProxyPool *x509.CertPool
}

// Pair is a certificate and its key. Immutable.
type Pair struct {
	Certificate *x509.Certificate
	Key         *ecdsa.PrivateKey
	CertPEM     []byte
	KeyPEM      []byte
}

// TLS returns the pair as crypto/tls wants it.
func (p *Pair) TLS() tls.Certificate {
	return tls.Certificate{Certificate: [][]byte{p.Certificate.Raw}, PrivateKey: p.Key, Leaf: p.Certificate}
}

// Ensure reads the directory and makes what is missing, half-written, near its end, or no longer matches the Config
// (other SANs). It never replaces a certificate authority or the service-account key: when those are damaged it says
// so and changes nothing. Processes that call it at the same time take turns. A crash at any instant leaves a
// directory which the next Ensure completes.
func Ensure(dir string, c Config) (*PKI, error) {
	c.complete()
	p := &PKI{dir: dir, config: c}
	if err := p.Renew(); err != nil {
		return nil, err
	}
	return p, nil
}

// Renew does Ensure's work once more on an open PKI: what is near its end is issued anew, and everything that asks
// through GetCertificate, GetClientCertificate or Pairs sees it from now on.
func (p *PKI) Renew() error {
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return fmt.Errorf("make key directory: %w", err)
	}
	unlock, err := lockFile(filepath.Join(p.dir, ".lock"))
	if err != nil {
		return err
	}
	defer unlock()
	d := directory{path: p.dir, config: p.config}
	pairs, err := d.ensure()
	if err != nil {
		return fmt.Errorf("keys in %s: %w", p.dir, err)
	}
	p.current.Store(pairs)
	return nil
}

// NextRenewal returns when Renew should be called next: when the first certificate enters the last third of its life.
func (p *PKI) NextRenewal() time.Time {
	var next time.Time
	pairs := p.Pairs()
	for _, pair := range []*Pair{pairs.APIServer, pairs.APIServerKubeletClient, pairs.FrontProxyClient, pairs.Admin,
		pairs.Scheduler, pairs.ControllerManager, pairs.Proxy} {
		if at := renewalTime(pair.Certificate); next.IsZero() || at.Before(next) {
			next = at
		}
	}
	return next
}

// Pairs returns the keys of this moment. Never nil.
func (p *PKI) Pairs() *Pairs { return p.current.Load() }

// Dir returns the directory that Ensure was given.
func (p *PKI) Dir() string { return p.dir }

// GetCertificate serves the API server's certificate of the moment (tls.Config.GetCertificate).
func (p *PKI) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	cert := p.Pairs().APIServer.TLS()
	return &cert, nil
}

// CAPool returns a pool that holds the cluster's authority: the same pool until the keys are renewed. It is shared and immutable.
func (p *PKI) CAPool() *x509.CertPool { return p.Pairs().caPool }

// FrontProxyCAPool is CAPool for the authority of authenticating front proxies.
func (p *PKI) FrontProxyCAPool() *x509.CertPool { return p.Pairs().frontProxyPool }

func poolOf(pair *Pair) *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(pair.Certificate)
	return pool
}

// ServerTLS returns the API server's TLS configuration: its certificate of the moment, and a request for a client
// certificate, which authentication verifies (a client without one may still have a token).
func (p *PKI) ServerTLS() *tls.Config {
	pairs := p.Pairs()
	pool := x509.NewCertPool() // only a hint to clients which certificate to send
	pool.AddCert(pairs.CA.Certificate)
	pool.AddCert(pairs.FrontProxyCA.Certificate)
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: p.GetCertificate,
		ClientAuth:     tls.RequestClientCert,
		ClientCAs:      pool,
		NextProtos:     []string{"h2", "http/1.1"},
	}
}

// KubeletClientTLS returns the configuration with which the API server calls kubelets.
func (p *PKI) KubeletClientTLS() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		RootCAs:    p.CAPool(),
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			cert := p.Pairs().APIServerKubeletClient.TLS()
			return &cert, nil
		},
	}
}

// FrontProxyCertificate returns the certificate of the moment with which the API server calls aggregated API servers.
func (p *PKI) FrontProxyCertificate() (*tls.Certificate, error) {
	cert := p.Pairs().FrontProxyClient.TLS()
	return &cert, nil
}

// ServiceAccountSigner returns the key that signs service-account tokens.
func (p *PKI) ServiceAccountSigner() crypto.Signer { return p.Pairs().ServiceAccountKey }

// errAuthority explains why Ensure stops in front of a damaged authority.
var errAuthority = errors.New("refusing to replace it: every certificate of the cluster would become invalid; restore it from a backup, or remove the whole key directory to start a new cluster")

func exists(path string) (bool, error) {
	_, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
