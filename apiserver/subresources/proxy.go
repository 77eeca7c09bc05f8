package subresources

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/proxy"

	"wherry.dev/wherry/apiserver/verbs"
	"wherry.dev/wherry/store"
)

// proxyPath is what follows "proxy" in the request's path.
func proxyPath(r *verbs.Request) string {
	if len(r.Info.Parts) <= 3 {
		return ""
	}
	p := "/" + strings.Join(r.Info.Parts[3:], "/")
	if strings.HasSuffix(r.HTTP.URL.Path, "/") && !strings.HasSuffix(p, "/") {
		p += "/"
	}
	return p
}

// proxyName splits "[scheme:]name[:port]".
func proxyName(id string) (scheme, name, port string, err error) {
	scheme, name, port, ok := utilnet.SplitSchemeNamePort(id)
	if !ok {
		return "", "", "", apierrors.NewBadRequest(fmt.Sprintf("invalid name %q", id))
	}
	return scheme, name, port, nil
}

// proxyPod carries requests to a port of a pod.
func (s *Set) proxyPod(ctx context.Context, pods *verbs.Served, r *verbs.Request) (verbs.Answer, error) {
	path := proxyPath(r)
	if err := pods.Admit.Connecting(ctx, pods, r, &corev1.PodProxyOptions{Path: path}); err != nil {
		return verbs.Answer{}, err
	}
	scheme, name, port, err := proxyName(r.Info.Name)
	if err != nil {
		return verbs.Answer{}, err
	}
	o, err := pods.Store.Get(ctx, r.Info.Namespace, name, "")
	if err != nil {
		return verbs.Answer{}, err
	}
	pod, ok := o.Object.(*corev1.Pod)
	if !ok {
		return verbs.Answer{}, apierrors.NewInternalError(fmt.Errorf("unexpected object type: %T", o.Object))
	}
	if port == "" {
		for _, c := range pod.Spec.Containers {
			if len(c.Ports) > 0 {
				port = strconv.Itoa(int(c.Ports[0].ContainerPort))
				break
			}
		}
	}
	ip := pod.Status.PodIP
	if ip == "" && len(pod.Status.PodIPs) > 0 {
		ip = pod.Status.PodIPs[0].IP
	}
	if ip == "" {
		return verbs.Answer{}, apierrors.NewBadRequest("address not allowed")
	}
	if err := mayProxyTo(ip); err != nil {
		return verbs.Answer{}, err
	}
	host := ip
	if port != "" {
		host = net.JoinHostPort(ip, port)
	} else if strings.Contains(ip, ":") {
		host = "[" + ip + "]"
	}
	return s.forward(r, &url.URL{Scheme: orHTTP(scheme), Host: host, Path: path}, s.backends)
}

// proxyService carries requests to a ready endpoint of a Service.
func (s *Set) proxyService(ctx context.Context, services *verbs.Served, r *verbs.Request) (verbs.Answer, error) {
	path := proxyPath(r)
	if err := services.Admit.Connecting(ctx, services, r, &corev1.ServiceProxyOptions{Path: path}); err != nil {
		return verbs.Answer{}, err
	}
	scheme, name, port, err := proxyName(r.Info.Name)
	if err != nil {
		return verbs.Answer{}, err
	}
	o, err := services.Store.Get(ctx, r.Info.Namespace, name, "")
	if err != nil {
		return verbs.Answer{}, err
	}
	svc, ok := o.Object.(*corev1.Service)
	if !ok {
		return verbs.Answer{}, apierrors.NewInternalError(fmt.Errorf("unexpected object type: %T", o.Object))
	}
	portName, found := servicePort(svc, port)
	if !found {
		return verbs.Answer{}, apierrors.NewServiceUnavailable(fmt.Sprintf("no service port %q found for service %q", port, name))
	}
	slices := s.config.Resource(discoveryv1.SchemeGroupVersion.WithResource("endpointslices"))
	if slices == nil {
		return verbs.Answer{}, apierrors.NewServiceUnavailable(fmt.Sprintf("no endpoints available for service %q", r.Info.Name))
	}
	sel := labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: name})
	page, err := slices.Store.List(ctx, store.ListOptions{Namespace: r.Info.Namespace, ResourceVersion: "0", Selector: store.Selector{Labels: sel}})
	if err != nil {
		return verbs.Answer{}, err
	}
	var hosts []string
	for _, item := range page.Items {
		slice, ok := item.Object.(*discoveryv1.EndpointSlice)
		if !ok {
			continue
		}
		for _, p := range slice.Ports {
			if p.Port == nil || (p.Name == nil && portName != "") || (p.Name != nil && *p.Name != portName) {
				continue
			}
			for _, e := range slice.Endpoints {
				if e.Conditions.Ready != nil && !*e.Conditions.Ready {
					continue
				}
				for _, a := range e.Addresses {
					hosts = append(hosts, net.JoinHostPort(a, strconv.Itoa(int(*p.Port))))
				}
			}
		}
	}
	if len(hosts) == 0 {
		return verbs.Answer{}, apierrors.NewServiceUnavailable(fmt.Sprintf("no endpoints available for service %q", r.Info.Name))
	}
	host := hosts[rand.IntN(len(hosts))]
	if ip, _, err := net.SplitHostPort(host); err == nil {
		if err := mayProxyTo(ip); err != nil {
			return verbs.Answer{}, err
		}
	}
	return s.forward(r, &url.URL{Scheme: orHTTP(scheme), Host: host, Path: path}, s.backends)
}

// servicePort returns the name of the service's port that is asked for by name, number or not at all.
func servicePort(svc *corev1.Service, want string) (name string, ok bool) {
	if want == "" {
		if len(svc.Spec.Ports) == 1 {
			return svc.Spec.Ports[0].Name, true
		}
		return "", true // the nameless one
	}
	for _, p := range svc.Spec.Ports {
		if p.Name == want || strconv.Itoa(int(p.Port)) == want {
			return p.Name, true
		}
	}
	return "", false
}

// proxyNode carries requests to a node's kubelet, or to another port of the node.
func (s *Set) proxyNode(ctx context.Context, nodes *verbs.Served, r *verbs.Request) (verbs.Answer, error) {
	path := proxyPath(r)
	if err := nodes.Admit.Connecting(ctx, nodes, r, &corev1.NodeProxyOptions{Path: path}); err != nil {
		return verbs.Answer{}, err
	}
	scheme, name, port, err := proxyName(r.Info.Name)
	if err != nil {
		return verbs.Answer{}, err
	}
	host, err := s.kubelet(ctx, name)
	if err != nil {
		return verbs.Answer{}, err
	}
	ip, kubeletPort, err := net.SplitHostPort(host)
	if err != nil {
		return verbs.Answer{}, apierrors.NewInternalError(err)
	}
	if port == "" || port == kubeletPort {
		return s.forward(r, &url.URL{Scheme: "https", Host: host, Path: path}, s.kubelets)
	}
	if err := mayProxyTo(ip); err != nil {
		return verbs.Answer{}, err
	}
	return s.forward(r, &url.URL{Scheme: orHTTP(scheme), Host: net.JoinHostPort(ip, port), Path: path}, s.backends)
}

// mayProxyTo refuses addresses that mean the server's own machine.
func mayProxyTo(address string) error {
	ip := net.ParseIP(address)
	if ip == nil {
		return nil // a host name
	}
	if ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.IsLinkLocalMulticast() || ip.IsInterfaceLocalMulticast() {
		return apierrors.NewBadRequest("address not allowed")
	}
	return nil
}

func orHTTP(scheme string) string {
	if scheme == "" {
		return "http"
	}
	return scheme
}

// forward proxies the request as it is, upgrades included.
func (s *Set) forward(r *verbs.Request, u *url.URL, transport http.RoundTripper) (verbs.Answer, error) {
	h := proxy.NewUpgradeAwareHandler(u, transport, true, false, responder{})
	h.ServeHTTP(r.Writer, r.HTTP)
	return verbs.Answer{}, nil
}
