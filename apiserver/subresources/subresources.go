// Package subresources serves the subresources that have a meaning of their own, one a file: those that are more than
// a view of the stored object, such as binding, eviction, exec and token.
package subresources

import (
	"context"
	"crypto/tls"
	"net/http"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"wherry.dev/wherry/apiserver/verbs"
)

// Func serves one request.
type Func = func(context.Context, *verbs.Served, *verbs.Request) (verbs.Answer, error)

// Handler is one subresource.
type Handler struct {
	Methods map[string]Func // by HTTP method; "" stands for all others
	Paths   bool            // what follows its name in the path is its own (proxy)
	Stream  bool            // it answers in an encoding of its own
}

// Method returns what serves an HTTP method.
func (h Handler) Method(m string) (Func, bool) {
	f, ok := h.Methods[m]
	if !ok && m == http.MethodHead {
		f, ok = h.Methods[http.MethodGet]
	}
	if !ok {
		f, ok = h.Methods[""]
	}
	return f, ok
}

// TokenIssuer makes bound service-account tokens for TokenRequest (KEP-1205).
type TokenIssuer interface {
	// Issue returns a copy of r with its status filled in. Errors are API Statuses.
	Issue(ctx context.Context, namespace, name string, r *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error)
}

// Config is what subresources need besides the resources themselves.
type Config struct {
	// Resource finds another served resource, nil when it is not served.
	Resource func(schema.GroupVersionResource) *verbs.Served
	Issuer   TokenIssuer // nil: no tokens
	// KubeletTLS authenticates the server to kubelets and them to it. Nil: nothing that needs a kubelet is served.
	KubeletTLS *tls.Config
	// DialTimeout bounds the wait for a connection to a kubelet, pod or service.
	DialTimeout time.Duration
}

type key struct{ group, resource, subresource string }

// Set is all served subresources. Immutable after New.
type Set struct {
	config   Config
	handlers map[key]Handler

	kubelets         *http.Transport // authenticated both ways
	insecureKubelets *http.Transport // authenticates us only, for logs of a node that has lost its certificate
	backends         *http.Transport // for what runs in pods: nobody vouches for its certificates
}

// New returns the set.
func New(c Config) *Set {
	s := &Set{config: c, handlers: map[key]Handler{}}
	s.kubelets = newTransport(c.KubeletTLS, c.DialTimeout)
	insecure := &tls.Config{}
	if c.KubeletTLS != nil {
		insecure = c.KubeletTLS.Clone()
	}
	insecure.InsecureSkipVerify = true
	s.insecureKubelets = newTransport(insecure, c.DialTimeout)
	s.backends = newTransport(&tls.Config{InsecureSkipVerify: true}, c.DialTimeout)

	post := func(f Func) map[string]Func { return map[string]Func{http.MethodPost: f} }
	both := func(f Func) map[string]Func { return map[string]Func{http.MethodPost: f, http.MethodGet: f} }
	s.handlers[key{"", "pods", "binding"}] = Handler{Methods: post(s.bindPod)}
	s.handlers[key{"", "pods", "eviction"}] = Handler{Methods: post(s.evict)}
	s.handlers[key{"", "pods", "exec"}] = Handler{Methods: both(s.exec), Stream: true}
	s.handlers[key{"", "pods", "attach"}] = Handler{Methods: both(s.attach), Stream: true}
	s.handlers[key{"", "pods", "portforward"}] = Handler{Methods: both(s.portForward), Stream: true}
	s.handlers[key{"", "pods", "log"}] = Handler{Methods: map[string]Func{http.MethodGet: s.log}, Stream: true}
	for resource, f := range map[string]Func{"pods": s.proxyPod, "services": s.proxyService, "nodes": s.proxyNode} {
		s.handlers[key{"", resource, "proxy"}] = Handler{Methods: map[string]Func{"": f}, Paths: true, Stream: true}
	}
	if c.Issuer != nil {
		s.handlers[key{"", "serviceaccounts", "token"}] = Handler{Methods: post(s.token)}
	}
	return s
}

// Close drops idle connections.
func (s *Set) Close() {
	for _, t := range []*http.Transport{s.kubelets, s.insecureKubelets, s.backends} {
		t.CloseIdleConnections()
	}
}

// Find returns the handler of a subresource.
func (s *Set) Find(gr schema.GroupResource, subresource string) (Handler, bool) {
	h, ok := s.handlers[key{gr.Group, gr.Resource, subresource}]
	return h, ok
}

// Create returns what serves the creation of a resource that is not stored but done: a Binding.
func (s *Set) Create(gr schema.GroupResource) (Func, bool) {
	if gr.Group == "" && gr.Resource == "bindings" {
		return s.bind, true
	}
	return nil, false
}

// pods returns the served pods.
func (s *Set) pods() *verbs.Served {
	return s.config.Resource(corev1.SchemeGroupVersion.WithResource("pods"))
}
