package cluster

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"wherry.dev/wherry/client"
	"wherry.dev/wherry/internal/memory"
	"wherry.dev/wherry/kubelet/node"
	"wherry.dev/wherry/pki"
	"wherry.dev/wherry/trace"
)

// RunAgent joins a cluster as a node, with the token at the first start and with the node's own certificate from then on, and runs
// the node's parts until ctx ends. ready is called once, when the node has joined.
func RunAgent(ctx context.Context, a Agent, log *slog.Logger, ready func()) (err error) {
	memory.PaceCollector()
	if err := a.Node.Check(); err != nil {
		return err
	}
	unlock, err := a.Node.claim()
	if err != nil {
		return err
	}
	defer unlock()
	p := newParts(ctx, log)
	defer func() {
		if stopped := p.stop(); err == nil {
			err = stopped
		}
	}()
	runtime := make(chan nodeRuntime, 1)
	go func() { runtime <- startRuntime(p.ctx, a.Node, log.With("part", "containerd")) }()

	ca, err := a.serverCA(p.ctx, log)
	if err != nil {
		return err
	}
	clientCAs := x509.NewCertPool()
	if !clientCAs.AppendCertsFromPEM(ca) {
		return fmt.Errorf("the cluster's authority in %s is damaged: remove the file and join again with a token", a.Node.DataDir)
	}
	identity, err := a.join(p.ctx, ca, log)
	if err != nil {
		return err
	}
	p.run("client certificate", identity.Run)
	p.run("memory", func(ctx context.Context) error { return memory.GiveBack(ctx, nil) })
	config := rest.CopyConfig(identity.Config)
	config.UserAgent = "wherry/" + a.Node.Name
	set, err := client.Remote(config)
	if err != nil {
		return err
	}
	network, err := readNetwork(p.ctx, set, log)
	if err != nil {
		return err
	}
	recorder := trace.NewRemote()
	http, err := rest.HTTPClientFor(set.Config)
	if err != nil {
		return fmt.Errorf("client for spans: %w", err)
	}
	p.run("spans", func(ctx context.Context) error {
		return recorder.Run(ctx, withTimeout(http), a.Server, log.With("part", "trace"))
	})
	if ready != nil {
		ready()
	}
	n := &nodeParts{node: a.Node, network: network, runtime: <-runtime, kubelet: set, shared: set, clientCAs: clientCAs, trace: recorder, log: log}
	if err := n.run(p); err != nil {
		return err
	}
	<-p.ctx.Done()
	return nil
}

func withTimeout(c *http.Client) *http.Client {
	copied := *c
	copied.Timeout = 10 * time.Second
	return &copied
}

// serverWait is how long an agent waits for a server that is only starting.
const serverWait = 2 * time.Minute

// serverCA returns the authority of the cluster, which is known by the pin at first and kept from then on.
func (a Agent) serverCA(ctx context.Context, log *slog.Logger) ([]byte, error) {
	file := filepath.Join(a.Node.DataDir, "server-ca.crt")
	ca, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		if ca, err = a.discover(ctx, log); err == nil {
			err = os.WriteFile(file+".new", ca, 0o644)
		}
		if err == nil {
			err = os.Rename(file+".new", file)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("join %s: %w", a.Server, err)
	}
	return ca, nil
}

// join gets the node its identity.
func (a Agent) join(ctx context.Context, ca []byte, log *slog.Logger) (*node.Identity, error) {
	server := &rest.Config{Host: a.Server, TLSClientConfig: rest.TLSClientConfig{CAData: ca}}
	var bootstrap *rest.Config // without a token the kept certificate must do
	if a.Token != "" {
		bootstrap = rest.CopyConfig(server)
		bootstrap.BearerToken = a.Token
	}
	return node.Join(ctx, node.JoinConfig{Node: a.Node.Name, Bootstrap: bootstrap, Server: server, Dir: filepath.Join(a.Node.DataDir, "pki"), Log: log.With("part", "join")})
}

func (a Agent) discover(ctx context.Context, log *slog.Logger) ([]byte, error) {
	if a.Token == "" {
		return nil, errors.New("no token: give the one that `wherry token create` prints on the server")
	}
	ctx, cancel := context.WithTimeout(ctx, serverWait)
	defer cancel()
	var pins []string
	if a.CAHash != "" {
		pins = []string{a.CAHash}
	}
	for wait := 20 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		ca, err := pki.Discover(ctx, a.Server, a.Token, pins)
		if err == nil {
			return ca, nil
		}
		log.Debug("the server cannot be joined yet", "error", err)
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(wait):
		}
	}
}

// The cluster's addresses, which every node must know, are in this ConfigMap; every joined node may read it.
const (
	networkNamespace = "wherry-system"
	networkName      = "network"
)

// readNetwork reads the cluster's addresses.
func readNetwork(ctx context.Context, set *client.Set, log *slog.Logger) (Network, error) {
	ctx, cancel := context.WithTimeout(ctx, serverWait)
	defer cancel()
	var object *corev1.ConfigMap
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		var err error
		if object, err = set.Kubernetes.CoreV1().ConfigMaps(networkNamespace).Get(ctx, networkName, metav1.GetOptions{}); err == nil {
			break
		}
		log.Warn("the cluster's addresses cannot be read yet", "error", err)
		select {
		case <-ctx.Done():
			return Network{}, fmt.Errorf("read the cluster's addresses: %w", err)
		case <-time.After(wait):
		}
	}
	return parseNetwork(object.Data)
}
