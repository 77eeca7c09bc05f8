package plane

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// keys signs certificates with an authority that lies in a directory as kubeadm lays it out, Wherry's or one of our own.
type keys struct {
	dir  string
	ca   *x509.Certificate
	key  *ecdsa.PrivateKey
	cert []byte // the authority, PEM
}

const life = 7 * 24 * time.Hour

// makeKeys makes an authority and what an API server needs beside it.
func makeKeys(dir string) (*keys, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	for _, name := range []string{"ca", "front-proxy-ca"} {
		template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(life),
			IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature}
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			return nil, fmt.Errorf("sign %s: %w", name, err)
		}
		if err := writePair(filepath.Join(dir, name), der, key); err != nil {
			return nil, err
		}
	}
	k, err := readKeys(dir, "ca")
	if err != nil {
		return nil, err
	}
	front, err := readKeys(dir, "front-proxy-ca")
	if err != nil {
		return nil, err
	}
	if err := front.issue("front-proxy-client", pkix.Name{CommonName: "front-proxy-client"}); err != nil {
		return nil, err
	}
	if err := k.issue("apiserver-kubelet-client", pkix.Name{CommonName: "kube-apiserver-kubelet-client", Organization: []string{"system:masters"}}); err != nil {
		return nil, err
	}
	if err := k.issue("apiserver", pkix.Name{CommonName: "kube-apiserver"}, "127.0.0.1", Address, "10.96.0.1", "kubernetes.default.svc"); err != nil {
		return nil, err
	}
	account, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	if err := writeKey(filepath.Join(dir, "sa.key"), account); err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(account.Public())
	if err != nil {
		return nil, err
	}
	return k, os.WriteFile(filepath.Join(dir, "sa.pub"), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600)
}

// readKeys reads an authority's certificate and key.
func readKeys(dir, name string) (*keys, error) {
	k := &keys{dir: dir}
	var err error
	if k.cert, err = os.ReadFile(filepath.Join(dir, name+".crt")); err != nil {
		return nil, fmt.Errorf("read the authority: %w", err)
	}
	b, err := os.ReadFile(filepath.Join(dir, name+".key"))
	if err != nil {
		return nil, fmt.Errorf("read the authority: %w", err)
	}
	certBlock, _ := pem.Decode(k.cert)
	keyBlock, _ := pem.Decode(b)
	if certBlock == nil || keyBlock == nil {
		return nil, fmt.Errorf("authority in %s: no PEM", dir)
	}
	if k.ca, err = x509.ParseCertificate(certBlock.Bytes); err != nil {
		return nil, fmt.Errorf("authority in %s: %w", dir, err)
	}
	if k.key, err = x509.ParseECPrivateKey(keyBlock.Bytes); err == nil {
		return k, nil
	}
	parsed, err := x509.ParsePKCS8PrivateKey(keyBlock.Bytes)
	if err != nil {
		return nil, fmt.Errorf("key of the authority in %s: %w", dir, err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("key of the authority in %s: a %T", dir, parsed)
	}
	k.key = key
	return k, nil
}

// issue writes NAME.crt and NAME.key: a client's, or with names a server's too.
func (k *keys) issue(name string, subject pkix.Name, names ...string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := k.sign(subject, key, names...)
	if err != nil {
		return err
	}
	return writePair(filepath.Join(k.dir, name), der, key)
}

func (k *keys) sign(subject pkix.Name, key *ecdsa.PrivateKey, names ...string) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{SerialNumber: serial, Subject: subject, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(life - time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	if len(names) > 0 {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, n)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, k.ca, key.Public(), k.key)
	if err != nil {
		return nil, fmt.Errorf("sign the certificate of %s: %w", subject.CommonName, err)
	}
	return der, nil
}

// kubeconfig writes a client configuration of a user with a certificate of its own.
func (k *keys) kubeconfig(path, url, user string, groups ...string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := k.sign(pkix.Name{CommonName: user, Organization: groups}, key)
	if err != nil {
		return err
	}
	encoded, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	return writeKubeconfig(path, url, k.cert, &clientcmdapi.AuthInfo{
		ClientCertificateData: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		ClientKeyData:         pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: encoded}),
	})
}

func writeKubeconfig(path, url string, ca []byte, who *clientcmdapi.AuthInfo) error {
	c := clientcmdapi.NewConfig()
	c.Clusters["plane"] = &clientcmdapi.Cluster{Server: url, CertificateAuthorityData: ca}
	c.AuthInfos["user"] = who
	c.Contexts["plane"] = &clientcmdapi.Context{Cluster: "plane", AuthInfo: "user"}
	c.CurrentContext = "plane"
	if err := clientcmd.WriteToFile(*c, path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func writePair(path string, der []byte, key *ecdsa.PrivateKey) error {
	if err := os.WriteFile(path+".crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		return err
	}
	return writeKey(path+".key", key)
}

func writeKey(path string, key *ecdsa.PrivateKey) error {
	encoded, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: encoded}), 0o600)
}
