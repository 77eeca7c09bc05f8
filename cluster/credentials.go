package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strings"

	"k8s.io/client-go/tools/clientcmd"

	"wherry.dev/wherry/pki"
)

// Credentials are what a server's directory holds for those who are to use it.
type Credentials struct {
	PKI *pki.PKI
	// AdminKubeconfig is the administrator's client configuration, as in the file Node.AdminKubeconfig.
	AdminKubeconfig []byte
	// JoinToken is the first join token; CAHash is the pin by which a joining node knows the server.
	JoinToken, CAHash string
}

// Prepare completes a server's keys, certificates, join token and administrator's kubeconfig. It is idempotent and needs no
// server: `up` calls it to be able to start agents beside the server.
func Prepare(s Server) (*Credentials, error) {
	if err := os.MkdirAll(s.Node.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	sans := append([]string{s.Node.IP.String(), s.Node.Name}, s.SANs...)
	keys, err := pki.Ensure(s.Node.PKIDir(), pki.Config{
		Name: s.Name, SANs: sans, ServiceIPs: []net.IP{firstAddress(s.Network.ServiceCIDR).AsSlice()}, ClusterDomain: s.Network.ClusterDomain,
	})
	if err != nil {
		return nil, err
	}
	token, err := ensureJoinToken(s.Node.TokenFile())
	if err != nil {
		return nil, err
	}
	config := keys.Kubeconfig(pki.ContextName(s.Name), s.URL(), keys.Pairs().Admin)
	if err := pki.WriteKubeconfig(s.Node.AdminKubeconfig(), config); err != nil {
		return nil, err
	}
	encoded, err := clientcmd.Write(*config)
	if err != nil {
		return nil, fmt.Errorf("encode kubeconfig: %w", err)
	}
	return &Credentials{PKI: keys, AdminKubeconfig: encoded, JoinToken: token, CAHash: pki.CAPin(keys.Pairs().CA.Certificate)}, nil
}

// URL is the address under which users and agents reach the server.
func (s Server) URL() string {
	return "https://" + netip.AddrPortFrom(s.Node.IP, uint16(s.Port)).String()
}

// advertise is where pods find the server by the Service default/kubernetes. A server on loopback is nobody's but this machine's: pods have a
// loopback of their own, and no endpoint may name it.
func (s Server) advertise() netip.AddrPort {
	if s.Node.IP.IsLoopback() {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(s.Node.IP, uint16(s.Port))
}

func firstAddress(p netip.Prefix) netip.Addr { return p.Masked().Addr().Next() }

// ensureJoinToken reads the token, or makes it so that a crash leaves none or a whole one.
func ensureJoinToken(path string) (string, error) {
	b, err := os.ReadFile(path)
	if err == nil {
		token := strings.TrimSpace(string(b))
		if _, _, ok := pki.ParseBootstrapToken(token); !ok {
			return "", fmt.Errorf("join token in %s is damaged: remove the file, a new one is made", path)
		}
		return token, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("join token: %w", err)
	}
	token := pki.NewBootstrapToken()
	if err := os.WriteFile(path+".new", []byte(token+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("join token: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return "", fmt.Errorf("join token: %w", err)
	}
	return token, nil
}
