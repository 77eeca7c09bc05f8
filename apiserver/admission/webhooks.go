package admission

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/mutating"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/validating"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// newMutatingWebhooks asks servers of the cluster to change objects (MutatingAdmissionWebhook).
func newMutatingWebhooks(a authorizer.UnconditionalAuthorizer) admission.Interface {
	return &mutatingHooks{hooks{authorizer: a,
		watched: func(f informers.SharedInformerFactory) cache.SharedIndexInformer {
			return f.Admissionregistration().V1().MutatingWebhookConfigurations().Informer()
		},
		fresh: func() (admission.Interface, error) { return mutating.NewMutatingWebhook(nil) }}}
}

// newValidatingWebhooks asks servers of the cluster whether they agree to objects (ValidatingAdmissionWebhook).
func newValidatingWebhooks(a authorizer.UnconditionalAuthorizer) admission.Interface {
	return &validatingHooks{hooks{authorizer: a,
		watched: func(f informers.SharedInformerFactory) cache.SharedIndexInformer {
			return f.Admissionregistration().V1().ValidatingWebhookConfigurations().Informer()
		},
		fresh: func() (admission.Interface, error) { return validating.NewValidatingAdmissionWebhook(nil) }}}
}

// ServiceResolver finds webhooks that are Services until ctx ends.
func ServiceResolver(ctx context.Context, api kubernetes.Interface) webhook.ServiceResolver {
	return &serviceResolver{ctx, api}
}

// serviceResolver finds out where to connect for a webhook that is a Service: one of its ready endpoints, which the
// server's process reaches also where no proxy programs the Service's address. It is asked once for each connection.
type serviceResolver struct {
	ctx context.Context // ends with the server
	api kubernetes.Interface
}

// ResolveEndpoint implements webhook.ServiceResolver.
func (r *serviceResolver) ResolveEndpoint(namespace, name string, port int32) (*url.URL, error) {
	return ResolveService(r.ctx, r.api, namespace, name, port)
}

// ResolveService returns https:// and the address of a ready endpoint of a port of a Service, one at random, as the part of
// the API server that calls Services (webhooks, aggregated API servers) has to dial it. Errors are API Statuses.
func ResolveService(ctx context.Context, api kubernetes.Interface, namespace, name string, port int32) (*url.URL, error) {
	service, err := api.CoreV1().Services(namespace).Get(ctx, name, metav1.GetOptions{ResourceVersion: "0"})
	if err != nil {
		return nil, err
	}
	at := func(host string, port int32) *url.URL {
		return &url.URL{Scheme: "https", Host: net.JoinHostPort(host, strconv.Itoa(int(port)))}
	}
	if service.Spec.Type == corev1.ServiceTypeExternalName {
		return at(service.Spec.ExternalName, port), nil
	}
	portName, ok := "", false
	for _, p := range service.Spec.Ports {
		if p.Port == port {
			portName, ok = p.Name, true
		}
	}
	if !ok {
		return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("no service port %d found for service %q", port, name))
	}
	slices, err := api.DiscoveryV1().EndpointSlices(namespace).List(ctx, metav1.ListOptions{ResourceVersion: "0", LabelSelector: discoveryv1.LabelServiceName + "=" + name})
	if err != nil {
		return nil, err
	}
	var ready []*url.URL
	for _, s := range slices.Items {
		for _, p := range s.Ports {
			if p.Port == nil || portName != "" && (p.Name == nil || *p.Name != portName) {
				continue
			}
			for _, e := range s.Endpoints {
				if len(e.Addresses) > 0 && (e.Conditions.Ready == nil || *e.Conditions.Ready) {
					ready = append(ready, at(e.Addresses[0], *p.Port))
				}
			}
		}
	}
	if len(ready) == 0 {
		return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("no endpoints available for service %q", name))
	}
	return ready[rand.IntN(len(ready))], nil
}

// Callers lets webhooks that are this API server itself (aggregated behind it) be called in process, as the server; all
// others are called as nobody, known by their certificates.
func Callers(own *rest.Config) webhook.AuthenticationInfoResolverWrapper {
	return func(others webhook.AuthenticationInfoResolver) webhook.AuthenticationInfoResolver {
		self := func() *rest.Config {
			return &rest.Config{Host: "https://kubernetes.default.svc", QPS: -1, WrapTransport: func(http.RoundTripper) http.RoundTripper { return own.Transport }}
		}
		return &webhook.AuthenticationInfoResolverDelegator{
			ClientConfigForFunc: func(hostPort string) (*rest.Config, error) {
				if hostPort == "kubernetes.default.svc:443" && own.Transport != nil {
					return self(), nil
				}
				return others.ClientConfigFor(hostPort)
			},
			ClientConfigForServiceFunc: func(name, namespace string, port int) (*rest.Config, error) {
				if name == "kubernetes" && namespace == metav1.NamespaceDefault && port == 443 && own.Transport != nil {
					return self(), nil
				}
				return others.ClientConfigForService(name, namespace, port)
			},
		}
	}
}
