package pki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// directory completes one key directory; it is used by one goroutine under the directory's lock.
type directory struct {
	path   string
	config Config
}

// leaf says what one certificate must hold.
type leaf struct {
	file      string
	user      string
	groups    []string
	names     []string
	addresses []net.IP
	usage     x509.ExtKeyUsage
}

func (d *directory) ensure() (*Pairs, error) {
	var pairs Pairs
	var err error
	if pairs.CA, err = d.authority("ca", d.config.Name+"-ca"); err != nil {
		return nil, err
	}
	if pairs.FrontProxyCA, err = d.authority("front-proxy-ca", d.config.Name+"-front-proxy-ca"); err != nil {
		return nil, err
	}
	if pairs.ServiceAccountKey, err = d.serviceAccountKey(); err != nil {
		return nil, err
	}
	names, addresses := d.config.serverNames()
	client := func(file, user string, groups ...string) leaf {
		return leaf{file: file, user: user, groups: groups, usage: x509.ExtKeyUsageClientAuth}
	}
	for _, l := range []struct {
		to     **Pair
		signer *Pair
		leaf   leaf
	}{
		{&pairs.APIServer, pairs.CA, leaf{file: "apiserver", user: userAPIServer, names: names, addresses: addresses, usage: x509.ExtKeyUsageServerAuth}},
		{&pairs.APIServerKubeletClient, pairs.CA, client("apiserver-kubelet-client", UserKubeletClient)},
		{&pairs.FrontProxyClient, pairs.FrontProxyCA, client("front-proxy-client", userFrontProxy)},
		{&pairs.Admin, pairs.CA, client("admin", UserAdmin, GroupMasters)},
		{&pairs.Scheduler, pairs.CA, client("scheduler", UserScheduler)},
		{&pairs.ControllerManager, pairs.CA, client("controller-manager", UserControllerManager)},
		{&pairs.Proxy, pairs.CA, client("kube-proxy", UserProxy)},
	} {
		if *l.to, err = d.leaf(l.signer, l.leaf); err != nil {
			return nil, err
		}
	}
	pairs.caPool, pairs.frontProxyPool = poolOf(pairs.CA), poolOf(pairs.FrontProxyCA)
	return &pairs, nil
}

func (d *directory) file(name string) string { return filepath.Join(d.path, name) }

// authority reads a certificate authority or makes it. The key is written first: a key without a certificate has
// signed nothing yet and gets its certificate now; the reverse is damage.
func (d *directory) authority(name, commonName string) (*Pair, error) {
	keyFile, certFile := d.file(name+".key"), d.file(name+".crt")
	haveKey, err := exists(keyFile)
	if err != nil {
		return nil, err
	}
	haveCert, err := exists(certFile)
	if err != nil {
		return nil, err
	}
	switch {
	case haveKey && haveCert:
		pair, err := readPair(certFile, keyFile)
		if err != nil {
			return nil, fmt.Errorf("certificate authority %s: %w; %w", name, err, errAuthority)
		}
		if !pair.Certificate.IsCA {
			return nil, fmt.Errorf("certificate authority %s: its certificate is not an authority's; %w", name, errAuthority)
		}
		if now := d.config.Now(); now.After(pair.Certificate.NotAfter) {
			return nil, fmt.Errorf("certificate authority %s: expired at %s; %w", name, pair.Certificate.NotAfter.UTC().Format(time.RFC3339), errAuthority)
		}
		return pair, nil
	case haveCert:
		return nil, fmt.Errorf("certificate authority %s: %s.crt is there but %s.key is missing; %w", name, name, name, errAuthority)
	}
	var key *ecdsa.PrivateKey
	if haveKey {
		if key, _, err = readKey(keyFile); err != nil {
			return nil, fmt.Errorf("certificate authority %s: %w; %w", name, err, errAuthority)
		}
	} else if key, err = d.newKey(name + ".key"); err != nil {
		return nil, err
	}
	now := d.config.Now()
	template := &x509.Certificate{
		SerialNumber:          newSerial(),
		Subject:               pkix.Name{CommonName: commonName},
		DNSNames:              []string{commonName},
		NotBefore:             now.Add(-clockSkew),
		NotAfter:              now.Add(d.config.CALifetime),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment | x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("certificate authority %s: sign: %w", name, err)
	}
	if err := d.write(name+".crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644); err != nil {
		return nil, err
	}
	return readPair(certFile, keyFile)
}

// leaf reads a signed certificate, or issues it with a new key when there is any reason to.
func (d *directory) leaf(signer *Pair, l leaf) (*Pair, error) {
	certFile, keyFile := d.file(l.file+".crt"), d.file(l.file+".key")
	pair, err := readPair(certFile, keyFile)
	switch {
	case err == nil && d.good(pair.Certificate, signer, l):
		return pair, nil
	case err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errDamaged):
		return nil, err
	}
	key, err := d.newKey(l.file + ".key")
	if err != nil {
		return nil, err
	}
	now := d.config.Now()
	end := now.Add(d.config.LeafLifetime)
	if end.After(signer.Certificate.NotAfter) {
		end = signer.Certificate.NotAfter
	}
	template := &x509.Certificate{
		SerialNumber: newSerial(),
		Subject:      pkix.Name{CommonName: l.user, Organization: l.groups},
		DNSNames:     l.names,
		IPAddresses:  l.addresses,
		NotBefore:    now.Add(-clockSkew),
		NotAfter:     end,
		KeyUsage:     x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage:  []x509.ExtKeyUsage{l.usage},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, signer.Certificate, key.Public(), signer.Key)
	if err != nil {
		return nil, fmt.Errorf("certificate %s: sign: %w", l.file, err)
	}
	if err := d.write(l.file+".crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644); err != nil {
		return nil, err
	}
	return readPair(certFile, keyFile)
}

// good says whether an existing certificate may stay.
func (d *directory) good(cert *x509.Certificate, signer *Pair, l leaf) bool {
	now := d.config.Now()
	if now.Before(cert.NotBefore) || !now.Before(renewalTime(cert)) || cert.CheckSignatureFrom(signer.Certificate) != nil {
		return false
	}
	names := slices.Clone(cert.DNSNames)
	slices.Sort(names)
	addresses := make([]string, 0, len(cert.IPAddresses))
	for _, ip := range cert.IPAddresses {
		addresses = append(addresses, ip.String())
	}
	wanted := make([]string, 0, len(l.addresses))
	for _, ip := range l.addresses {
		wanted = append(wanted, ip.String())
	}
	slices.Sort(addresses)
	slices.Sort(wanted)
	return cert.Subject.CommonName == l.user && slices.Equal(cert.Subject.Organization, l.groups) &&
		slices.Equal(names, l.names) && slices.Equal(addresses, wanted) && slices.Equal(cert.ExtKeyUsage, []x509.ExtKeyUsage{l.usage})
}

// serviceAccountKey reads or makes sa.key, and sa.pub beside it for those who verify elsewhere.
func (d *directory) serviceAccountKey() (*ecdsa.PrivateKey, error) {
	have, err := exists(d.file("sa.key"))
	if err != nil {
		return nil, err
	}
	var key *ecdsa.PrivateKey
	if have {
		if key, _, err = readKey(d.file("sa.key")); err != nil {
			return nil, fmt.Errorf("service-account key: %w; restore sa.key from a backup, or remove it to start with a new one (every token issued so far becomes invalid)", err)
		}
	} else if key, err = d.newKey("sa.key"); err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("service-account key: %w", err)
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	if old, err := os.ReadFile(d.file("sa.pub")); err != nil || !bytes.Equal(old, public) {
		if err := d.write("sa.pub", public, 0o644); err != nil {
			return nil, err
		}
	}
	return key, nil
}

func (d *directory) newKey(file string) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key %s: %w", file, err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key %s: %w", file, err)
	}
	return key, d.write(file, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600)
}

func (d *directory) write(name string, data []byte, mode fs.FileMode) error {
	if err := d.config.step(name); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return writeFile(d.file(name), data, mode)
}

// clockSkew is how far a certificate reaches into the past, for peers whose clock is behind.
const clockSkew = 5 * time.Minute

// renewalTime is when a certificate enters the last third of its life.
func renewalTime(cert *x509.Certificate) time.Time {
	return cert.NotAfter.Add(-cert.NotAfter.Sub(cert.NotBefore) / 3)
}

func newSerial() *big.Int {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[0] &= 0x7f
	b[15] |= 1 // positive and not zero (RFC 5280, 4.1.2.2)
	return new(big.Int).SetBytes(b[:])
}

// errDamaged marks files that were read but make no sense.
var errDamaged = errors.New("damaged")

func readPair(certFile, keyFile string) (*Pair, error) {
	certPEM, err := os.ReadFile(certFile)
	if err != nil {
		return nil, err
	}
	cert, err := parseCertificate(certPEM)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Base(certFile), err)
	}
	key, keyPEM, err := readKey(keyFile)
	if err != nil {
		return nil, err
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return nil, fmt.Errorf("%s does not belong to %s: %w", filepath.Base(keyFile), filepath.Base(certFile), errDamaged)
	}
	return &Pair{Certificate: cert, Key: key, CertPEM: certPEM, KeyPEM: keyPEM}, nil
}

func parseCertificate(data []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("no PEM certificate: %w", errDamaged)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errDamaged, err)
	}
	return cert, nil
}

func readKey(file string) (*ecdsa.PrivateKey, []byte, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, nil, fmt.Errorf("%s: no PEM key: %w", filepath.Base(file), errDamaged)
	}
	if key, err := x509.ParseECPrivateKey(block.Bytes); err == nil {
		return key, data, nil
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w: %w", filepath.Base(file), errDamaged, err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, nil, fmt.Errorf("%s: a %T, want an ECDSA key: %w", filepath.Base(file), parsed, errDamaged)
	}
	return key, data, nil
}
