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
	// Issue returns r with its status filled in. The objects that the token is bound to have been checked by the
	// caller: pod, secret and node are nil unless bound to.
	Issue(ctx context.Context, sa *corev1.ServiceAccount, r *authenticationv1.TokenRequest, pod *corev1.Pod, secret *corev1.Secret, node *corev1.Node) (*authenticationv1.TokenRequest, error)
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
}

// New returns the set.
func New(c Config) *Set {
	s := &Set{config: c, handlers: map[key]Handler{}}
	s.handlers[key{"", "pods", "binding"}] = Handler{Methods: map[string]Func{http.MethodPost: s.bindPod}}
	return s
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
