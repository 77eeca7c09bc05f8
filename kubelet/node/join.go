package node

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/connrotation"
)

// JoinConfig says how a machine becomes a node of a cluster elsewhere.
type JoinConfig struct {
	Node string
	// Bootstrap reaches the API server with a join token (a bootstrap token of group system:bootstrappers). It may be
	// nil when the machine has joined before: then only the kept certificate is used, and Server must be set.
	Bootstrap *rest.Config
	// Server is where the API server is; nil is as in Bootstrap. Only host and server CA are read from it.
	Server *rest.Config
	Dir    string // where certificate and key are kept
	Log    *slog.Logger
}

// Identity is a node's client identity: system:node:NAME by a certificate that is renewed while Run runs.
type Identity struct {
	// Config reaches the API server as the node, always by the current certificate. Make clients from it (the caller may
	// set content type, QPS and the like on a copy).
	Config *rest.Config
	cert   *Certificate
}

// Join obtains the node's client certificate (signer kubernetes.io/kube-apiserver-client-kubelet) through the join
// token, or takes up the kept one. It waits, trying again, until the certificate is issued or ctx ends.
func Join(ctx context.Context, c JoinConfig) (*Identity, error) {
	if c.Log == nil {
		c.Log = slog.Default()
	}
	server := c.Server
	if server == nil {
		server = c.Bootstrap
	}
	if server == nil {
		return nil, errors.New("join: neither a bootstrap configuration nor a server is given")
	}
	id := &Identity{}
	bootstrapping := true
	id.cert = &Certificate{
		name: "kubelet-client", signer: certificatesv1.KubeAPIServerClientKubeletSignerName, log: c.Log,
		usages:   []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth},
		template: &x509.CertificateRequest{Subject: subject(c.Node)},
		api: func() (kubernetes.Interface, error) {
			use := id.Config
			if bootstrapping {
				use = c.Bootstrap
			}
			return kubernetes.NewForConfig(rest.CopyConfig(use))
		},
	}
	if err := id.cert.load(c.Dir); err != nil {
		return nil, err
	}
	if id.cert.Current() == nil && c.Bootstrap == nil {
		return nil, fmt.Errorf("join: no usable client certificate in %s and no join token: join again with a token", c.Dir)
	}
	for delay := 100 * time.Millisecond; id.cert.Current() == nil; delay = min(2*delay, 10*time.Second) {
		err := id.cert.Obtain(ctx)
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("join as node %s: %w", c.Node, err)
		}
		c.Log.Warn("node could not join yet; will try again", "err", err)
		if sleep(ctx, delay) != nil {
			return nil, fmt.Errorf("join as node %s: %w", c.Node, err)
		}
	}
	bootstrapping = false
	var err error
	id.Config, err = rotating(server, id.cert)
	return id, err
}

// Certificate is the node's current client certificate, for those who speak TLS themselves.
func (i *Identity) Certificate() *tls.Certificate { return i.cert.Current() }

// Run renews the certificate until ctx ends.
func (i *Identity) Run(ctx context.Context) error { return i.cert.Run(ctx) }

// rotating is a configuration for server whose connections always carry the certificate's current version: a renewal
// closes those made with the old one.
func rotating(server *rest.Config, cert *Certificate) (*rest.Config, error) {
	c := rest.AnonymousClientConfig(server)
	tlsConfig, err := rest.TLSConfigFor(c)
	if err != nil {
		return nil, fmt.Errorf("read server authority: %w", err)
	}
	if tlsConfig == nil {
		return nil, errors.New("join: the API server must be reached by TLS")
	}
	tlsConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		if now := cert.Current(); now != nil {
			return now, nil
		}
		return &tls.Certificate{}, nil
	}
	dialer := connrotation.NewDialer((&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext)
	cert.changed = dialer.CloseAll
	transport := utilnet.SetTransportDefaults(&http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSHandshakeTimeout: 10 * time.Second, TLSClientConfig: tlsConfig,
		MaxIdleConnsPerHost: 25, DialContext: dialer.DialContext,
	})
	// client-go takes either a transport or TLS settings.
	c.Transport = transport
	c.TLSClientConfig = rest.TLSClientConfig{}
	return c, nil
}
