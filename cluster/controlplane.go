package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"

	"wherry.dev/wherry/api/kinds"
	"wherry.dev/wherry/api/openapi"
	"wherry.dev/wherry/apiserver"
	"wherry.dev/wherry/apiserver/admission"
	"wherry.dev/wherry/apiserver/audit"
	"wherry.dev/wherry/apiserver/authn"
	"wherry.dev/wherry/apiserver/authz"
	"wherry.dev/wherry/apiserver/authz/policy"
	"wherry.dev/wherry/apiserver/reviews"
	"wherry.dev/wherry/client"
	"wherry.dev/wherry/pki"
	"wherry.dev/wherry/trace"
)

// controlPlane is etcd and the API server of this process.
type controlPlane struct {
	settings    Server
	credentials *Credentials
	measures    *measures
	log         *slog.Logger
	store       *datastore
	api         *apiserver.Server
	authorizer  *authz.Authorizer
	issuer      *authn.Issuer
	audit       *audit.Auditor // nil when nothing is audited
	jwts        *authn.JWTs    // nil without token providers
	trusted     *trusted
	collector   *trace.Collector
	exports     chan trace.Span // nil when nothing is exported
	listener    net.Listener
	local       net.Listener
	seeded      chan struct{} // closed when every object is there that a cluster has from its start
	// masters acts as the server itself; its informers are the ones that every part of the process shares.
	masters *client.Set
}

// startControlPlane opens the store and builds the API server. It is the C1 to C5 part of the story; nothing is served yet.
func startControlPlane(ctx context.Context, s Server, credentials *Credentials, m *measures, log *slog.Logger) (_ *controlPlane, err error) {
	c := &controlPlane{settings: s, credentials: credentials, measures: m, log: log, seeded: make(chan struct{})}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	// The port first: if somebody else has it, nothing else has been touched.
	if err := c.listen(); err != nil {
		return nil, err
	}
	if c.store, err = openDatastore(ctx, s, serverID(s.Node.Name), m.etcd, log); err != nil {
		return nil, err
	}
	m.registry.MustRegister(storageSize{c.store.Size})
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

func (c *controlPlane) buildAPIServer(ctx context.Context) error {
	keys, network := c.credentials.PKI, c.settings.Network
	who, err := c.buildIdentity(ctx)
	if err != nil {
		return err
	}
	c.jwts, c.trusted = who.jwts, who.trusted
	all := kinds.All()
	c.authorizer = authz.New(authz.Config{Served: kinds.Served(all)})
	may := c.settings.Identity.Authorization
	may.Log = c.log.With("part", "authorization")
	if err := c.authorizer.Configure(may); err != nil {
		return err
	}
	plugins, err := admission.New(admission.Config{Authorizer: c.authorizer, Rules: c.authorizer, Served: kinds.Served(all)})
	if err != nil {
		return err
	}
	if c.audit, err = audit.New(c.settings.Identity.Audit); err != nil {
		return err
	}
	if err := c.audit.Start(); err != nil {
		return err
	}
	info := versionInfo()
	c.api, err = apiserver.New(apiserver.Config{
		Kinds: all, Storage: apiserver.Storage(c.store.Store), Authenticator: who.authenticator, Authorizer: c.authorizer, Admission: plugins.Plugins(), AdmissionNames: plugins.Names(),
		Answers: reviews.New(reviews.Config{Tokens: who.authenticator.Token(), Authorizer: c.authorizer, Rules: c.authorizer, Audiences: who.audiences}), Issuer: c.issuer,
		ServiceCIDRs: []netip.Prefix{network.ServiceCIDR}, Advertise: c.settings.advertise(),
		TLS: who.trusted.serverTLS(), KubeletTLS: keys.KubeletClientTLS(), Version: info, Flags: c.settings.Flags, OpenAPI: openapi.New(all, info.GitVersion),
		ProxyCertificate: keys.FrontProxyCertificate, Trust: who.trusted.published,
		ID: serverID(c.settings.Node.Name), Host: c.settings.Node.Name, Shared: c.settings.Datastore.external(),
		Checks: c.checks(), Components: c.components(),
		Audit: c.audit, MaxInflight: c.settings.Limits.MaxRequests + c.settings.Limits.MaxMutatingRequests,
		RequestTimeout: c.settings.Limits.RequestTimeout, WatchTimeout: c.settings.Limits.MinRequestTimeout,
		Trace: c.collector, Registry: c.measures.registry, Gatherer: c.measures.registry, Log: c.log.With("part", "apiserver"),
	})
	if err != nil {
		return fmt.Errorf("build API server: %w", err)
	}
	c.api.Handle(strings.TrimSuffix(trace.Prefix, "/"), c.collector)
	c.api.Handle("/debug/pprof", profiling())
	c.api.Handle(SnapshotPath, http.HandlerFunc(c.store.serveSnapshot))
	discovery, err := who.accounts.OpenIDHandlers(c.settings.URL())
	if err != nil {
		return err
	}
	for path, handler := range discovery {
		c.api.Handle(path, handler)
	}

	c.masters = c.api.InProcess(masterUser())
	who.lookup.Initialize(c.masters)
	if err := c.authorizer.Initialize(ctx, c.masters); err != nil {
		return err
	}
	return plugins.Initialize(ctx, c.masters)
}

// masterUser is the server itself, as its own client.
func masterUser() user.Info {
	return &user.DefaultInfo{Name: user.APIServerUser, Groups: []string{user.SystemPrivilegedGroup, user.AllAuthenticated}}
}

// checks are what /livez and /readyz ask besides the API server itself.
func (c *controlPlane) checks() []apiserver.Check {
	checks := []apiserver.Check{{Name: "etcd", Check: c.store.check}, {Name: "first-objects", Check: c.checkSeeded, ReadyOnly: true}}
	if c.store.encryption != nil {
		checks = append(checks, apiserver.Check{Name: "kms-providers", Check: c.store.checkEncryption})
	}
	return checks
}

// checkSeeded keeps clients away until the first objects are there: who is told that the API is ready counts on its namespaces and roles.
func (c *controlPlane) checkSeeded(context.Context) error {
	select {
	case <-c.seeded:
		return nil
	default:
		return errors.New("the cluster's first objects are being written")
	}
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
	p.run("authorization configuration", c.authorizer.Follow)
	if c.jwts != nil {
		p.run("token providers", c.jwts.Follow)
	}
	p.run("client authorities", func(ctx context.Context) error { return c.trusted.follow(ctx, c.log.With("part", "authentication")) })
	c.store.run(p, c.settings)
	c.masters.Informers.Start(p.ctx.Done())
	ctx, cancel := context.WithTimeout(p.ctx, startTimeout)
	defer cancel()
	select {
	case <-ready:
	case <-ctx.Done():
		return fmt.Errorf("the API server is not ready after %v: %w", startTimeout, context.Cause(ctx))
	}
	if err := c.seed(ctx); err != nil {
		return err
	}
	close(c.seeded)
	return nil
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
		c.seedToken, c.seedNetwork, c.seedClusterInfo, c.seedTokenTracking,
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

// seedTokenTracking says since when the use of tokens in Secrets is written down: upstream's controller takes none for unused before a year of that.
func (c *controlPlane) seedTokenTracking(ctx context.Context) error {
	since := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: "kube-apiserver-legacy-service-account-token-tracking"},
		Data: map[string]string{"since": time.Now().UTC().Format(time.DateOnly)}}
	_, err := c.masters.Kubernetes.CoreV1().ConfigMaps(since.Namespace).Create(ctx, since, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("record the start of token tracking: %w", err)
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
	c.audit.Close() // after the last request
	if c.store != nil {
		c.store.close()
	}
}
