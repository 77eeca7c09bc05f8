package node

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"net"
	"os"
	"slices"
	"sync/atomic"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/certificate"
	"k8s.io/client-go/util/certificate/csr"
)

// Certificate is one of the node's certificates: asked for by a CertificateSigningRequest, kept in a directory (its key
// never leaves this machine, mode 0600), renewed between 70% and 90% of its life. Safe for concurrent use.
type Certificate struct {
	name     string // of the files
	signer   string
	usages   []certificatesv1.KeyUsage
	template *x509.CertificateRequest
	api      func() (kubernetes.Interface, error) // whom to ask; called for each request
	log      *slog.Logger
	store    certificate.Store
	current  atomic.Pointer[tls.Certificate]
	changed  func() // after every renewal; may be nil
}

// Current is the certificate now in use; nil while there is none yet.
func (c *Certificate) Current() *tls.Certificate { return c.current.Load() }

// GetCertificate serves it (tls.Config.GetCertificate).
func (c *Certificate) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if now := c.Current(); now != nil {
		return now, nil
	}
	return nil, fmt.Errorf("no serving certificate available for the kubelet: its signing request is not approved yet")
}

// load takes over the certificate of an earlier run, if it is one of ours and still good.
func (c *Certificate) load(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make certificate directory: %w", err)
	}
	store, err := certificate.NewFileStore(c.name, dir, dir, "", "")
	if err != nil {
		return fmt.Errorf("open certificate directory: %w", err)
	}
	c.store = store
	have, err := store.Current()
	var none *certificate.NoCertKeyError
	if errors.As(err, &none) {
		return nil
	}
	if err != nil {
		c.log.Warn("kept certificate cannot be used; will ask for a new one", "certificate", c.name, "err", err)
		return nil
	}
	if why := c.unfit(have.Leaf); why != "" {
		c.log.Info("kept certificate does not fit; will ask for a new one", "certificate", c.name, "why", why)
		return nil
	}
	c.current.Store(have)
	return nil
}

// unfit says why a certificate is not what we would ask for; empty if it is.
func (c *Certificate) unfit(leaf *x509.Certificate) string {
	switch {
	case leaf == nil:
		return "it cannot be parsed"
	case time.Now().After(leaf.NotAfter):
		return "it has expired"
	case leaf.Subject.CommonName != c.template.Subject.CommonName:
		return fmt.Sprintf("it is for %q", leaf.Subject.CommonName)
	}
	for _, name := range c.template.DNSNames {
		if !slices.Contains(leaf.DNSNames, name) {
			return fmt.Sprintf("it lacks the name %s", name)
		}
	}
	for _, ip := range c.template.IPAddresses {
		if !slices.ContainsFunc(leaf.IPAddresses, ip.Equal) {
			return fmt.Sprintf("it lacks the address %s", ip)
		}
	}
	return ""
}

// Run asks for the certificate when there is none and renews it when it is due, until ctx ends.
func (c *Certificate) Run(ctx context.Context) error {
	delay := time.Second
	for {
		wait := time.Duration(0)
		if have := c.Current(); have != nil {
			wait = time.Until(renewal(have.Leaf))
		}
		if err := sleep(ctx, wait); err != nil {
			return nil
		}
		if err := c.Obtain(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			c.log.Warn("certificate could not be had; will try again", "certificate", c.name, "err", err)
			// A good one may still be in use: no hurry, but never later than it expires.
			if sleep(ctx, delay) != nil {
				return nil
			}
			delay = min(2*delay, time.Minute)
			continue
		}
		delay = time.Second
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// renewal is when to ask for the next certificate: at a random point between 70% and 90% of this one's life, the same
// for one certificate, so that nodes that joined together do not renew together.
func renewal(leaf *x509.Certificate) time.Time {
	life := leaf.NotAfter.Sub(leaf.NotBefore)
	seed := uint64(0)
	for _, b := range leaf.SerialNumber.Bytes() {
		seed = seed*257 + uint64(b)
	}
	part := 0.7 + 0.2*mathrand.New(mathrand.NewPCG(seed, 1)).Float64()
	return leaf.NotBefore.Add(time.Duration(float64(life) * part))
}

// Obtain asks for a certificate with a new key and waits until it is approved and signed, at most 15 minutes.
func (c *Certificate) Obtain(ctx context.Context) error {
	api, err := c.api()
	if err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make key: %w", err)
	}
	template := *c.template
	template.SignatureAlgorithm = x509.ECDSAWithSHA256
	der, err := x509.CreateCertificateRequest(rand.Reader, &template, crypto.Signer(key))
	if err != nil {
		return fmt.Errorf("make certificate request: %w", err)
	}
	request := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return fmt.Errorf("encode key: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, 15*time.Minute)
	defer cancel()
	name, uid, err := csr.RequestCertificateWithContext(ctx, api, request, "", c.signer, nil, c.usages, key)
	if err != nil {
		return fmt.Errorf("ask %s for a certificate: %w", c.signer, err)
	}
	signed, err := csr.WaitForCertificate(ctx, api, name, uid)
	if err != nil {
		return fmt.Errorf("wait for certificate request %s to be approved and signed: %w", name, err)
	}
	have, err := c.store.Update(signed, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}))
	if err != nil {
		return fmt.Errorf("keep certificate: %w", err)
	}
	if have.Leaf == nil {
		if have.Leaf, err = x509.ParseCertificate(have.Certificate[0]); err != nil {
			return fmt.Errorf("read issued certificate: %w", err)
		}
	}
	c.current.Store(have)
	c.log.Info("certificate obtained", "certificate", c.name, "until", have.Leaf.NotAfter)
	if c.changed != nil {
		c.changed()
	}
	return nil
}

// subject is who a node is (RFC 5280 subject; names fixed by the node authorizer).
func subject(node string) pkix.Name {
	return pkix.Name{CommonName: "system:node:" + node, Organization: []string{"system:nodes"}}
}

// ServingConfig describes the certificate with which the kubelet's server proves who it is.
type ServingConfig struct {
	Node     string
	DNSNames []string // Node's host name
	IPs      []net.IP
	Dir      string // where certificate and key are kept
	API      kubernetes.Interface
	Log      *slog.Logger
}

// Serving prepares the serving certificate (signer kubernetes.io/kubelet-serving). Run obtains and renews it; somebody
// must approve the requests. Until the first is, GetCertificate fails.
func Serving(c ServingConfig) (*Certificate, error) {
	if c.Log == nil {
		c.Log = slog.Default()
	}
	s := &Certificate{
		name: "kubelet-server", signer: certificatesv1.KubeletServingSignerName, log: c.Log,
		usages:   []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth},
		template: &x509.CertificateRequest{Subject: subject(c.Node), DNSNames: c.DNSNames, IPAddresses: c.IPs},
		api:      func() (kubernetes.Interface, error) { return c.API, nil },
	}
	return s, s.load(c.Dir)
}
