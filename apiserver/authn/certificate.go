package authn

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/apis/asn1"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
)

// certificates authenticates by client certificate: common name is the user, organizations are the groups. A chain
// is verified once; then the certificate's digest answers until it (or an authority above it) expires.
type certificates struct {
	roots func() *x509.CertPool
	now   func() time.Time
	pool  atomic.Pointer[x509.CertPool] // the pool that the cache's entries were verified against
	cache *cache[verified]
}

type verified struct {
	pool      *x509.CertPool
	notBefore time.Time // of the whole chain
	notAfter  time.Time
	response  *authenticator.Response
}

func newCertificates(roots func() *x509.CertPool, now func() time.Time) *certificates {
	return &certificates{roots: roots, now: now, cache: newCache[verified](16 << 10)}
}

func (c *certificates) authenticate(peer []*x509.Certificate) (*authenticator.Response, bool, error) {
	roots := c.roots()
	if roots == nil {
		return nil, false, nil
	}
	if old := c.pool.Load(); old != roots {
		if old != nil && old.Equal(roots) {
			roots = old // the same authorities in another pool: what was verified stays verified
		} else if c.pool.CompareAndSwap(old, roots) {
			c.cache.clear()
		}
	}
	now := c.now()
	key := chainDigest(peer)
	if v, ok := c.cache.get(key); ok && v.pool == roots && !now.Before(v.notBefore) && !now.After(v.notAfter) {
		return v.response, true, nil
	}
	var intermediates *x509.CertPool
	if len(peer) > 1 {
		intermediates = x509.NewCertPool()
		for _, cert := range peer[1:] {
			intermediates.AddCert(cert)
		}
	}
	cert := peer[0]
	chains, err := cert.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: intermediates, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return nil, false, fmt.Errorf("verifying client certificate of %q (serial %v) failed: %w", cert.Subject.CommonName, cert.SerialNumber, err)
	}
	if cert.Subject.CommonName == "" {
		return nil, false, nil
	}
	sum := sha256.Sum256(cert.Raw)
	uid, err := certificateUID(cert)
	if err != nil {
		return nil, false, err
	}
	groups := slices.Clone(cert.Subject.Organization)
	if !slices.Contains(groups, user.AllAuthenticated) {
		groups = append(groups, user.AllAuthenticated)
	}
	v := verified{
		pool: roots,
		response: &authenticator.Response{User: &user.DefaultInfo{
			Name:   cert.Subject.CommonName,
			UID:    uid,
			Groups: groups,
			Extra:  map[string][]string{user.CredentialIDKey: {"X509SHA256=" + hex.EncodeToString(sum[:])}},
		}},
	}
	for _, link := range chains[0] {
		if v.notBefore.IsZero() || link.NotBefore.After(v.notBefore) {
			v.notBefore = link.NotBefore
		}
		if v.notAfter.IsZero() || link.NotAfter.Before(v.notAfter) {
			v.notAfter = link.NotAfter
		}
	}
	c.cache.put(key, v)
	return v.response, true, nil
}

// chainDigest covers the intermediates too: they are part of what was verified.
func chainDigest(peer []*x509.Certificate) digest {
	if len(peer) == 1 {
		return sha256.Sum256(peer[0].Raw)
	}
	h := sha256.New()
	for _, cert := range peer {
		h.Write(cert.Raw)
	}
	return digest(h.Sum(nil))
}

// uidOID is the subject attribute that carries a user's UID (upstream's AllowParsingUserUIDFromCertAuth).
var uidOID = asn1.X509UID()

func certificateUID(cert *x509.Certificate) (string, error) {
	uid := ""
	for _, name := range cert.Subject.Names {
		if !name.Type.Equal(uidOID) {
			continue
		}
		value, ok := name.Value.(string)
		switch {
		case !ok:
			return "", fmt.Errorf("unable to parse UID into a string")
		case value == "":
			return "", fmt.Errorf("UID cannot be an empty string")
		case uid != "":
			return "", fmt.Errorf("expected 1 UID, but found multiple")
		}
		uid = value
	}
	return uid, nil
}
