package aggregate

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/transport"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"wherry.dev/wherry/apiserver/discovery"
)

// remote is what is kept of an APIService that names another server. The fields of the first block change under the aggregator's mu and
// are read under it; those of the second belong to the loop's worker that has the APIService's name.
type remote struct {
	name       string
	aggregator *Aggregator
	uid        types.UID
	spec       apiregistrationv1.APIServiceSpec
	service    apiregistrationv1.ServiceReference
	available  bool // as the APIService says, or as we are about to say
	peer       *peer
	openAPI    *Description
	resources  *apidiscoveryv2.APIVersionDiscovery // nil: not known

	probed     string    // of which state of things the last answer was
	answer     error     // of the last probe
	failures   int       // probes that failed in a row
	probeAt    time.Time // when to probe again
	etag       string    // of the server's document that resources are from
	discoverAt time.Time // when to ask again what is served
	delay      time.Duration

	suspect atomic.Bool // a request was not answered since the last probe
}

// peer is how one server is reached. Immutable once connected.
type peer struct {
	service   apiregistrationv1.ServiceReference
	network   *network
	transport *http.Transport
	broken    error  // why there is no transport
	failed    func() // told when the server did not answer a request
}

// update takes over what s says, and returns whether the server in front must know. Callers hold the aggregator's mu.
func (r *remote) update(s *apiregistrationv1.APIService, n *network) (changed bool) {
	is := available(s)
	if r.uid == s.UID && r.available == is && r.peer.network == n && apiequality.Semantic.DeepEqual(r.spec, s.Spec) {
		return false
	}
	r.available = is
	old := r.peer
	if old == nil || r.uid != s.UID || old.network != n || !apiequality.Semantic.DeepEqual(connection(&r.spec), connection(&s.Spec)) {
		r.service = *s.Spec.Service.DeepCopy()
		if r.service.Port == nil {
			apiregistrationv1.SetDefaults_ServiceReference(&r.service)
		}
		r.peer = r.aggregator.connect(r.service, n, &s.Spec)
		r.peer.failed = func() {
			if !r.suspect.Swap(true) {
				r.aggregator.loop.Add(r.name)
			}
		}
		r.openAPI = newDescription(r.peer, schema.GroupVersion{Group: s.Spec.Group, Version: s.Spec.Version})
		r.resources = nil
		if old != nil {
			old.close()
		}
	}
	r.uid, r.spec = s.UID, *s.Spec.DeepCopy()
	return true
}

// connection is what of an APIService says how its server is reached.
func connection(s *apiregistrationv1.APIServiceSpec) apiregistrationv1.APIServiceSpec {
	return apiregistrationv1.APIServiceSpec{Service: s.Service, CABundle: s.CABundle, InsecureSkipTLSVerify: s.InsecureSkipTLSVerify}
}

// foreign is what the server in front is told. Callers hold the aggregator's mu.
func (r *remote) foreign() Foreign {
	return Foreign{
		Foreign: discovery.Foreign{GroupVersion: schema.GroupVersion{Group: r.spec.Group, Version: r.spec.Version},
			Priority: discovery.Priority{Group: r.spec.GroupPriorityMinimum, Version: r.spec.VersionPriority}, Resources: r.resources},
		Handler: &handler{peer: r.peer, available: r.available}, OpenAPI: r.openAPI}
}

// due is when to look at the remote again.
func (r *remote) due(now time.Time) time.Duration {
	next := r.probeAt
	if !r.discoverAt.IsZero() && r.discoverAt.Before(next) {
		next = r.discoverAt
	}
	return max(next.Sub(now), time.Millisecond)
}

func (r *remote) close() { r.peer.close() }

// close ends connections that nobody uses. Requests that have begun go on.
func (p *peer) close() {
	if p.transport != nil {
		p.transport.CloseIdleConnections()
	}
}

// connect prepares connections to a server. Nothing is dialed yet.
func (a *Aggregator) connect(s apiregistrationv1.ServiceReference, n *network, spec *apiregistrationv1.APIServiceSpec) *peer {
	p := &peer{service: s, network: n}
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: s.Name + "." + s.Namespace + ".svc", InsecureSkipVerify: spec.InsecureSkipTLSVerify}
	if len(spec.CABundle) > 0 {
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(spec.CABundle) {
			p.broken = fmt.Errorf("unable to load root certificates: no certificate in the caBundle of APIService %s.%s can be read", spec.Version, spec.Group)
			return p
		}
	}
	if a.Certificate != nil {
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return a.Certificate() }
	}
	p.transport = utilnet.SetTransportDefaults(&http.Transport{TLSClientConfig: c, DialContext: a.Dial, Proxy: direct, MaxIdleConnsPerHost: 25, IdleConnTimeout: 90 * time.Second})
	return p
}

// direct keeps what is meant for a server in the cluster from going through a proxy of the environment.
func direct(*http.Request) (*url.URL, error) { return nil, nil }

// largest is what an answer to us may weigh; a description of everything upstream serves has 5 MB.
const largest = 64 << 20

// reply is what a server answered to us.
type reply struct {
	code   int
	header http.Header
	body   []byte
}

// locate returns where to ask the server for a path now.
func (p *peer) locate(path string) (*url.URL, error) {
	if p.broken != nil {
		return nil, p.broken
	}
	u, err := p.network.resolve(p.service)
	if err != nil {
		return nil, err
	}
	u.Path = path
	return u, nil
}

// get asks the server for something on our own behalf, as user with groups.
func (p *peer) get(ctx context.Context, u *url.URL, accept, etag, user string, groups ...string) (*reply, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", u, err)
	}
	req.Header.Set("Accept", accept)
	if etag != "" {
		req.Header.Set("If-None-Match", etag)
	}
	transport.SetAuthProxyHeaders(req, user, "", groups, nil)
	// A redirect is an answer like any other: who follows it shows its certificate to somebody else.
	resp, err := (&http.Client{Transport: p.transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}).Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body := &bytes.Buffer{}
	if n, err := io.Copy(body, io.LimitReader(resp.Body, largest+1)); err != nil {
		return nil, fmt.Errorf("read answer of %s: %w", u, err)
	} else if n > largest {
		return nil, fmt.Errorf("answer of %s is larger than %d MiB", u, largest>>20)
	}
	return &reply{resp.StatusCode, resp.Header, body.Bytes()}, nil
}
