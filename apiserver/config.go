// Package apiserver serves the Kubernetes API: the path that every request takes is chain.go, from top to bottom.
// What a resource is comes from api/kinds, where it is kept from store, who may do what from the authenticator,
// authorizer and admission plugins it is given. Only cluster imports it.
package apiserver

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"wherry.dev/wherry/api/kinds"
	"wherry.dev/wherry/apiserver/aggregate"
	"wherry.dev/wherry/apiserver/audit"
	"wherry.dev/wherry/apiserver/subresources"
	"wherry.dev/wherry/store"
	"wherry.dev/wherry/trace"
)

// Config is all that a server needs. Kinds and Storage are required; the rest has the defaults that are written here.
type Config struct {
	// Kinds are the served resources, in discovery order.
	Kinds []*kinds.Kind
	// Storage opens the stored side of a kind whose Hub is nil; called once for each StoragePrefix.
	Storage func(k *kinds.Kind) (store.Resource, error)

	// Authenticator tells who sends a request that comes over a connection. Nil: everyone is system:anonymous.
	Authenticator authenticator.Request
	// Authorizer tells whether they may. Nil: only system:masters may do anything.
	Authorizer authorizer.UnconditionalAuthorizer
	// Admission are the plugins, in order; AdmissionNames what each is called in metrics.
	Admission      []admission.Interface
	AdmissionNames []string
	// Answers computes the kinds that are never stored: reviews.
	Answers map[schema.GroupVersionResource]func(context.Context, user.Info, runtime.Object) (runtime.Object, error)
	// Components are shown as ComponentStatuses, in order of their names.
	Components []Component
	// Issuer makes service-account tokens. Nil: the token subresource is not served.
	Issuer subresources.TokenIssuer

	// ServiceCIDRs are the ranges of ClusterIPs, the primary family first. Empty: Services get no addresses.
	ServiceCIDRs []netip.Prefix
	// NodePorts is the range of node ports, bounds included. Zero: 30000-32767.
	NodePorts [2]int32
	// Advertise is the address and port under which other nodes reach this server; it becomes the endpoint of the
	// Service default/kubernetes. Zero: that Service is not kept.
	Advertise netip.AddrPort

	// ID is the server's identity, the name of its Lease in kube-system; Host is the machine's name. Empty: no Lease is kept.
	ID, Host string
	// Shared says that other API servers serve the same objects: what they have in common is then agreed on with them.
	Shared bool

	// TLS serves connections; client certificates are asked for and left to the Authenticator to judge.
	TLS *tls.Config
	// KubeletTLS is what the server shows to kubelets, and how it knows them, for log, exec, attach, port-forward and proxy.
	KubeletTLS *tls.Config

	// ProxyCertificate is what the server shows to other API servers, to which APIServices send it. Nil: none; they cannot know it.
	ProxyCertificate func() (*tls.Certificate, error)
	// ProxyDial connects to them. Nil: by net.Dialer.
	ProxyDial func(ctx context.Context, network, address string) (net.Conn, error)
	// Trust is published for them. Nil: nothing is.
	Trust *aggregate.Published

	// Version is served under /version; GitVersion is like v1.37.2.
	Version version.Info
	// Flags are those with which the server was started, their values by name; /flagz shows them. Nil: it is not served.
	Flags map[string]string
	// OpenAPI are the documents under /openapi. Nil: they are not served.
	OpenAPI OpenAPI

	// Checks are asked by /livez and /readyz besides the server's own.
	Checks []Check
	// Audit records requests. The caller starts it before the server serves, and closes it afterwards. Nil: nothing is recorded.
	Audit *audit.Auditor

	Trace    trace.Recorder        // nil: spans are dropped
	Registry prometheus.Registerer // nil: metrics are kept but not registered
	Gatherer prometheus.Gatherer   // what /metrics shows; nil: /metrics is not served
	Log      *slog.Logger          // nil: discarded

	// RequestTimeout bounds requests other than watches and streams. Zero: 60 s.
	RequestTimeout time.Duration
	// WatchTimeout is the shortest life of a watch that names none. Zero: 30 min.
	WatchTimeout time.Duration
	// MaxInflight are the seats that FlowSchemas and priority levels share out: requests being served at once, long lists counted more than
	// once, watches that run and streams not at all, and what is exempt neither. Zero: 600.
	MaxInflight int
}

// OpenAPI gives the documents that describe the API; an ETag changes exactly when its document does.
type OpenAPI interface {
	V2JSON() (etag string, doc []byte, err error)
	V2Proto() (etag string, doc []byte, err error)
	// V3Paths maps "api/v1", "apis/apps/v1" to the hash of each document.
	V3Paths() (map[string]string, error)
	// V3JSON and V3Proto return one document; ok is false when there is none at this path.
	V3JSON(path string) (etag string, doc []byte, ok bool, err error)
	V3Proto(path string) (etag string, doc []byte, ok bool, err error)
}

// Check is one question of /livez and /readyz.
type Check struct {
	Name  string
	Check func(ctx context.Context) error
	// ReadyOnly leaves the check out of /livez and /healthz.
	ReadyOnly bool
}

func (c *Config) defaults() {
	if c.Trace == nil {
		c.Trace = trace.Nop{}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.RequestTimeout == 0 {
		c.RequestTimeout = 60 * time.Second
	}
	if c.WatchTimeout == 0 {
		c.WatchTimeout = 30 * time.Minute
	}
	if c.MaxInflight == 0 {
		c.MaxInflight = 600
	}
	if c.NodePorts == [2]int32{} {
		c.NodePorts = [2]int32{30000, 32767}
	}
	if c.Authorizer == nil {
		c.Authorizer = authorizer.AuthorizerFunc(func(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
			if a.GetUser() != nil {
				for _, g := range a.GetUser().GetGroups() {
					if g == user.SystemPrivilegedGroup {
						return authorizer.DecisionAllow, "", nil
					}
				}
			}
			return authorizer.DecisionNoOpinion, "", nil
		})
	}
}
