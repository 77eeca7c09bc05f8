package cluster

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	kversion "k8s.io/apimachinery/pkg/version"
	"k8s.io/apiserver/pkg/authentication/user"

	"wherry.dev/wherry/api/kinds"
	"wherry.dev/wherry/api/openapi"
	"wherry.dev/wherry/api/version"
	"wherry.dev/wherry/apiserver"
	"wherry.dev/wherry/apiserver/admission"
	"wherry.dev/wherry/apiserver/authn"
	"wherry.dev/wherry/apiserver/authz"
	"wherry.dev/wherry/apiserver/authz/policy"
	"wherry.dev/wherry/apiserver/reviews"
	"wherry.dev/wherry/client"
	"wherry.dev/wherry/embedded/etcd"
	"wherry.dev/wherry/pki"
	"wherry.dev/wherry/store"
	"wherry.dev/wherry/trace"
)

// controlPlane is etcd and the API server of this process.
type controlPlane struct {
	settings    Server
	credentials *Credentials
	log         *slog.Logger
	etcd        *etcd.Etcd // nil with an external etcd
	client      *clientv3.Client
	store       *store.Store
	api         *apiserver.Server
	authorizer  *authz.Authorizer
	issuer      *authn.Issuer
	collector   *trace.Collector
	exports     chan trace.Span // nil when nothing is exported
	listener    net.Listener
	local       net.Listener
	// masters acts as the server itself; its informers are the ones that every part of the process shares.
	masters *client.Set
}

// startControlPlane opens etcd and builds the API server. It is the C1 to C5 part of the story; nothing is served yet.
func startControlPlane(ctx context.Context, s Server, credentials *Credentials, log *slog.Logger) (_ *controlPlane, err error) {
	c := &controlPlane{settings: s, credentials: credentials, log: log}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	// The port first: if somebody else has it, nothing else has been touched.
	if err := c.listen(); err != nil {
		return nil, err
	}
	if err := c.openEtcd(ctx); err != nil {
		return nil, err
	}
	c.store = store.Open(store.Config{Client: c.client, SoleWriter: c.etcd != nil, Log: log.With("part", "store")})
	if trace.ExportWanted() {
		c.exports = make(chan trace.Span, trace.ExportQueue)
	}
	c.collector = trace.NewCollector(c.exports)
	return c, c.buildAPIServer(ctx)
}

func (c *controlPlane) listen() error {
	listen := func(address netip.Addr) (net.Listener, error) {
		at := netip.AddrPortFrom(address, uint16(c.settings.Port)).String()
		l, err := net.Listen("tcp", at)
		if err != nil {
			return nil, fmt.Errorf("the API's port %s cannot be used: %w: stop whoever has it, or choose another with --port", at, err)
		}
		return l, nil
	}
	var err error
	if c.listener, err = listen(c.settings.Node.IP); err != nil {
		return err
	}
	c.local, err = listen(netip.AddrFrom4([4]byte{127, 0, 0, 1}))
	return err
}

func (c *controlPlane) openEtcd(ctx context.Context) error {
	if len(c.settings.EtcdEndpoints) > 0 {
		client, err := clientv3.New(clientv3.Config{Endpoints: c.settings.EtcdEndpoints, DialTimeout: 5 * time.Second, Context: context.WithoutCancel(ctx)})
		if err != nil {
			return fmt.Errorf("connect to etcd at %s: %w", strings.Join(c.settings.EtcdEndpoints, ","), err)
		}
		c.client = client
		return nil
	}
	config := etcd.Config{Dir: c.settings.Node.EtcdDir(), Log: c.log.With("part", "etcd")}
	if c.settings.ListenEtcd {
		config.Listen = filepath.Join(c.settings.Node.RunDir, "etcd.sock")
	}
	var err error
	if c.etcd, err = etcd.Start(ctx, config); err != nil {
		return err
	}
	c.client = c.etcd.Client()
	return nil
}

// storage opens the stored side of one kind.
func (c *controlPlane) storage(k *kinds.Kind) (store.Resource, error) {
	config := store.ResourceConfig{Prefix: k.StoragePrefix, Namespaced: k.Namespaced, GroupResource: k.GroupVersionResource().GroupResource(), Kind: k.GroupVersionKind, TTL: k.TTL}
	if k.StoragePrefix == "pods" {
		// Every kubelet watches its own pods.
		config.IndexField = "spec.nodeName"
		config.Index = func(o kruntime.Object) string {
			if pod, ok := o.(*corev1.Pod); ok {
				return pod.Spec.NodeName
			}
			return ""
		}
	}
	return c.store.Resource(config), nil
}

func (c *controlPlane) buildAPIServer(ctx context.Context) error {
	keys, network := c.credentials.PKI, c.settings.Network
	issuerURL := "https://kubernetes.default.svc." + network.ClusterDomain
	lookup := &authn.Lookup{}
	accounts, err := authn.NewServiceAccounts(authn.ServiceAccountConfig{
		Issuers: []string{issuerURL}, Audiences: []string{issuerURL}, Keys: []crypto.PublicKey{keys.ServiceAccountSigner().Public()}, Lookup: lookup,
	})
	if err != nil {
		return err
	}
	c.issuer, err = authn.NewIssuer(authn.IssuerConfig{URL: issuerURL, Audiences: []string{issuerURL}, Key: keys.ServiceAccountSigner(), Lookup: lookup})
	if err != nil {
		return err
	}
	authenticator, err := authn.New(authn.Config{
		ClientCAs: keys.CAPool, ServiceAccounts: accounts, BootstrapTokens: lookup, Anonymous: authn.AnonymousPaths(),
	})
	if err != nil {
		return err
	}
	c.authorizer = authz.New(authz.Config{})
	plugins, err := admission.New(admission.Config{Authorizer: c.authorizer, Rules: c.authorizer})
	if err != nil {
		return err
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	info := versionInfo()
	all := kinds.All()
	c.api, err = apiserver.New(apiserver.Config{
		Kinds: all, Storage: c.storage, Authenticator: authenticator, Authorizer: c.authorizer, Admission: plugins.Plugins(),
		Answers: reviews.New(reviews.Config{Tokens: authenticator.Token(), Authorizer: c.authorizer, Rules: c.authorizer, Audiences: []string{issuerURL}}), Issuer: c.issuer,
		ServiceCIDRs: []netip.Prefix{network.ServiceCIDR}, Advertise: netip.AddrPortFrom(c.settings.Node.IP, uint16(c.settings.Port)),
		TLS: keys.ServerTLS(), KubeletTLS: keys.KubeletClientTLS(), Version: info, OpenAPI: openapi.New(all, info.GitVersion),
		Checks: []apiserver.Check{{Name: "etcd", Check: c.checkEtcd}},
		Trace:  c.collector, Registry: registry, Gatherer: registry, Log: c.log.With("part", "apiserver"),
	})
	if err != nil {
		return fmt.Errorf("build API server: %w", err)
	}
	c.api.Handle(strings.TrimSuffix(trace.Prefix, "/"), c.collector)
	c.api.Handle("/debug/pprof", profiling())
	discovery, err := accounts.OpenIDHandlers(c.settings.URL())
	if err != nil {
		return err
	}
	for path, handler := range discovery {
		c.api.Handle(path, handler)
	}

	c.masters = c.api.InProcess(&user.DefaultInfo{Name: user.APIServerUser, Groups: []string{user.SystemPrivilegedGroup, user.AllAuthenticated}})
	lookup.Initialize(c.masters)
	if err := c.authorizer.Initialize(ctx, c.masters); err != nil {
		return err
	}
	return plugins.Initialize(c.masters)
}

func (c *controlPlane) checkEtcd(ctx context.Context) error {
	if _, err := c.client.Get(ctx, "health"); err != nil {
		return errors.New("etcd does not answer")
	}
	return nil
}

// as returns the API as another identity sees it, over the informers that all parts share.
func (c *controlPlane) as(name string, groups ...string) *client.Set {
	set := c.api.InProcess(&user.DefaultInfo{Name: name, Groups: append(groups, user.AllAuthenticated)})
	set.Informers = c.masters.Informers
	return set
}

// controller is as, for one of the built-in controllers.
func (c *controlPlane) controller(name string) *client.Set {
	who := policy.ControllerUser(name)
	return c.as(who.GetName(), who.GetGroups()...)
}

// serve runs the API server and what a fresh store needs, in p.
func (c *controlPlane) serve(p *parts) error {
	p.run("API server", func(ctx context.Context) error { return c.api.Serve(ctx, c.listener) })
	p.run("API server on loopback", func(ctx context.Context) error { return c.api.Serve(ctx, c.local) })
	ready := make(chan struct{})
	p.run("API server's own objects", func(ctx context.Context) error { return c.api.Run(ctx, func() { close(ready) }) })
	if c.exports != nil {
		p.run("trace export", func(ctx context.Context) error { return trace.Export(ctx, c.exports, c.log) })
	}
	c.masters.Informers.Start(p.ctx.Done())
	ctx, cancel := context.WithTimeout(p.ctx, startTimeout)
	defer cancel()
	select {
	case <-ready:
	case <-ctx.Done():
		return fmt.Errorf("the API server is not ready after %v: %w", startTimeout, context.Cause(ctx))
	}
	return c.seed(ctx)
}

// startTimeout bounds a start over a large store on a slow disk.
const startTimeout = 2 * time.Minute

// seed writes what every cluster has beside the API server's own objects: default roles, the first join token, and what nodes have to
// know. What is there is left alone.
func (c *controlPlane) seed(ctx context.Context) error {
	steps := []func(context.Context) error{
		func(ctx context.Context) error { return policy.Reconcile(ctx, c.masters.Kubernetes, policy.Default()) },
		func(ctx context.Context) error {
			return admission.EnsureSystemPriorityClasses(ctx, c.masters.Kubernetes)
		},
		c.seedToken, c.seedNetwork, c.seedClusterInfo,
	}
	errs := make([]error, len(steps))
	var group sync.WaitGroup
	for i, step := range steps {
		group.Go(func() { errs[i] = step(ctx) })
	}
	group.Wait()
	return errors.Join(errs...)
}

// joinTokenLife is long: the token is a file that only root reads, and `wherry up` needs it for nodes that are added later.
const joinTokenLife = 10 * 365 * 24 * time.Hour

func (c *controlPlane) seedToken(ctx context.Context) error {
	secret, err := pki.BootstrapTokenSecret(c.credentials.JoinToken, "the join token that this server made at its first start", time.Now(), joinTokenLife)
	if err != nil {
		return err
	}
	_, err = c.masters.Kubernetes.CoreV1().Secrets(secret.Namespace).Create(ctx, secret, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("store join token: %w", err)
	}
	return nil
}

// seedClusterInfo publishes what a machine must know before it joins; the bootstrap token controller signs it.
func (c *controlPlane) seedClusterInfo(ctx context.Context) error {
	info, err := c.credentials.PKI.ClusterInfo(c.settings.URL())
	if err != nil {
		return err
	}
	_, err = c.masters.Kubernetes.CoreV1().ConfigMaps(info.Namespace).Create(ctx, info, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("publish cluster-info: %w", err)
	}
	return nil
}

// close ends what startControlPlane began, in reverse.
func (c *controlPlane) close() {
	for _, l := range []net.Listener{c.listener, c.local} {
		if l != nil {
			_ = l.Close()
		}
	}
	if c.store != nil {
		c.store.Close()
	}
	switch {
	case c.etcd != nil:
		if err := c.etcd.Close(); err != nil {
			c.log.Warn("close etcd", "error", err)
		}
	case c.client != nil:
		_ = c.client.Close()
	}
}

// versionInfo is what /version says.
func versionInfo() kversion.Info {
	parts := strings.SplitN(strings.TrimPrefix(version.Kubernetes, "v"), ".", 3)
	for len(parts) < 2 {
		parts = append(parts, "0")
	}
	if _, err := strconv.Atoi(parts[1]); err != nil {
		parts[1] = "0"
	}
	return kversion.Info{Major: parts[0], Minor: parts[1], GitVersion: version.Kubernetes, GitTreeState: "clean", GoVersion: runtime.Version(), Compiler: runtime.Compiler, Platform: runtime.GOOS + "/" + runtime.GOARCH}
}
