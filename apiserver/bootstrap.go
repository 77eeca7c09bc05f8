package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"

	"wherry.dev/wherry/api/kinds"
	"wherry.dev/wherry/apiserver/allocate"
	"wherry.dev/wherry/apiserver/verbs"
	"wherry.dev/wherry/lifecycle"
)

// systemNamespaces are there from the start.
var systemNamespaces = []string{metav1.NamespaceDefault, metav1.NamespaceSystem, metav1.NamespacePublic, corev1.NamespaceNodeLease, lifecycle.DrainNamespace}

// kubernetesService is the Service by which pods find this server.
const (
	kubernetesService = "kubernetes"
	kubernetesPort    = 443
	bootstrapRetry    = 500 * time.Millisecond
)

// Run keeps what the server itself owns: the system's namespaces, the record of what Services have claimed, and the
// Service default/kubernetes with its endpoints. It returns when that is done and ctx ends; ready, if not nil, is
// called in between. What fails is tried again until ctx ends.
func (s *Server) Run(ctx context.Context, ready func()) error {
	if err := s.Ready(ctx); err != nil {
		return err
	}
	cs := s.InProcess(&user.DefaultInfo{Name: user.APIServerUser, Groups: []string{user.SystemPrivilegedGroup, user.AllAuthenticated}}).Kubernetes
	for {
		err := s.bootstrap(ctx, cs)
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return nil
		}
		s.log.Warn("could not set up what the API server owns; trying again", "error", err)
		select {
		case <-time.After(bootstrapRetry):
		case <-ctx.Done():
			return nil
		}
	}
	waitFlow := s.followFlowControl(ctx)
	defer waitFlow()
	wait := s.serveCustom(ctx)
	defer wait()
	waitAggregated := s.serveAggregated(ctx) // behind custom kinds: their APIServices are kept, too
	defer waitAggregated()
	if ready != nil {
		ready()
	}
	s.runPresence(ctx, cs)
	s.retract(cs)
	s.subresources.Close()
	return nil
}

func (s *Server) bootstrap(ctx context.Context, cs kubernetes.Interface) error {
	for _, name := range systemNamespaces {
		if _, err := cs.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{ResourceVersion: "0"}); err == nil {
			continue
		}
		_, err := cs.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("create namespace %s: %w", name, err)
		}
	}
	if err := s.keepFlowControl(ctx, cs); err != nil {
		return err
	}
	services := s.resource(corev1.SchemeGroupVersion.WithResource("services"))
	if services == nil || s.claims == nil {
		return nil
	}
	if err := s.claims.Repair(ctx, services.Store); err != nil {
		return err
	}
	if err := s.keepServiceCIDR(ctx, cs); err != nil {
		return fmt.Errorf("keep service CIDR %s: %w", kubernetesService, err)
	}
	if !s.config.Advertise.IsValid() {
		return nil
	}
	if err := s.keepService(ctx, cs); err != nil {
		return fmt.Errorf("keep service %s: %w", kubernetesService, err)
	}
	if err := s.keepPresence(ctx, cs); err != nil {
		return fmt.Errorf("keep endpoints of service %s: %w", kubernetesService, err)
	}
	return nil
}

// keepService makes default/kubernetes what it should be: the first address of the range, port 443.
func (s *Server) keepService(ctx context.Context, cs kubernetes.Interface) error {
	services := cs.CoreV1().Services(metav1.NamespaceDefault)
	ports := []corev1.ServicePort{{Name: "https", Protocol: corev1.ProtocolTCP, Port: kubernetesPort, TargetPort: intstr.FromInt32(int32(s.config.Advertise.Port()))}}
	have, err := services.Get(ctx, kubernetesService, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: kubernetesService, Labels: map[string]string{"provider": "kubernetes", "component": "apiserver"}},
			Spec: corev1.ServiceSpec{Ports: ports, SessionAffinity: corev1.ServiceAffinityNone, Type: corev1.ServiceTypeClusterIP}}
		if len(s.config.ServiceCIDRs) > 0 {
			svc.Spec.ClusterIP = s.config.ServiceCIDRs[0].Masked().Addr().Next().String()
		}
		_, err = services.Create(ctx, svc, metav1.CreateOptions{})
		return err
	}
	if err != nil {
		return err
	}
	if apiequality.Semantic.DeepEqual(have.Spec.Ports, ports) {
		return nil
	}
	have = have.DeepCopy()
	have.Spec.Ports = ports
	_, err = services.Update(ctx, have, metav1.UpdateOptions{})
	return err
}

// keepEndpoints makes ips, sorted, the endpoints of default/kubernetes. None leaves them as they are: the last address is the one that will
// most likely be back.
func (s *Server) keepEndpoints(ctx context.Context, cs kubernetes.Interface, ips []string) error {
	if len(ips) == 0 {
		return nil
	}
	endpointSlices := cs.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault)
	yes, port, name, tcp := true, int32(s.config.Advertise.Port()), "https", corev1.ProtocolTCP
	family := discoveryv1.AddressTypeIPv4
	if s.config.Advertise.Addr().Unmap().Is6() {
		family = discoveryv1.AddressTypeIPv6
	}
	if s.resource(discoveryv1.SchemeGroupVersion.WithResource("endpointslices")) != nil {
		have, err := endpointSlices.Get(ctx, kubernetesService, metav1.GetOptions{})
		missing := apierrors.IsNotFound(err)
		if err != nil && !missing {
			return err
		}
		next := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Name: kubernetesService}, AddressType: family}
		if !missing {
			next = have.DeepCopy()
		}
		if next.Labels == nil {
			next.Labels = map[string]string{}
		}
		next.Labels[discoveryv1.LabelServiceName] = kubernetesService
		next.Ports = []discoveryv1.EndpointPort{{Name: &name, Port: &port, Protocol: &tcp}}
		next.Endpoints = nil
		for _, ip := range ips {
			next.Endpoints = append(next.Endpoints, discoveryv1.Endpoint{Addresses: []string{ip}, Conditions: discoveryv1.EndpointConditions{Ready: &yes}})
		}
		switch {
		case missing:
			_, err = endpointSlices.Create(ctx, next, metav1.CreateOptions{})
		case have.AddressType != family:
			if err = endpointSlices.Delete(ctx, kubernetesService, metav1.DeleteOptions{}); err == nil {
				next.ObjectMeta = metav1.ObjectMeta{Name: kubernetesService, Labels: next.Labels}
				next.AddressType = family
				_, err = endpointSlices.Create(ctx, next, metav1.CreateOptions{})
			}
		case !apiequality.Semantic.DeepEqual(have, next):
			_, err = endpointSlices.Update(ctx, next, metav1.UpdateOptions{})
		}
		if err != nil {
			return err
		}
	}

	if s.resource(corev1.SchemeGroupVersion.WithResource("endpoints")) == nil {
		return nil
	}
	// Endpoints are deprecated; what still reads them finds the same addresses there.
	//lint:ignore SA1019 kept for old clients
	subset := corev1.EndpointSubset{Ports: []corev1.EndpointPort{{Name: name, Port: port, Protocol: tcp}}}
	for _, ip := range ips {
		subset.Addresses = append(subset.Addresses, corev1.EndpointAddress{IP: ip})
	}
	endpoints := cs.CoreV1().Endpoints(metav1.NamespaceDefault)
	have, err := endpoints.Get(ctx, kubernetesService, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		//lint:ignore SA1019 kept for old clients
		_, err = endpoints.Create(ctx, &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Name: kubernetesService,
			Labels: map[string]string{discoveryv1.LabelSkipMirror: "true"}}, Subsets: []corev1.EndpointSubset{subset}}, metav1.CreateOptions{})
		return err
	case err != nil:
		return err
	}
	next := have.DeepCopy()
	next.Subsets = []corev1.EndpointSubset{subset}
	if apiequality.Semantic.DeepEqual(have.Subsets, next.Subsets) {
		return nil
	}
	_, err = endpoints.Update(ctx, next, metav1.UpdateOptions{})
	return err
}

// newClaims opens the record of what Services have claimed, if there are Services.
func (s *Server) newClaims() (*allocate.Services, error) {
	c := s.config
	services := s.resource(corev1.SchemeGroupVersion.WithResource("services"))
	if services == nil {
		return nil, nil
	}
	storage := s.now.Load().storage // the first table, which nobody else has seen yet
	open := func(k *kinds.Kind) error {
		if storage[k.StoragePrefix] != nil {
			return nil
		}
		r, err := c.Storage(k)
		if err != nil {
			return fmt.Errorf("open storage of %s: %w", k.GroupVersionKind, err)
		}
		storage[k.StoragePrefix] = r
		return nil
	}
	// Open already where they are served as resources: they are what upstream records claims in.
	const addresses, ranges = "ipaddresses", "ranges"
	err := errors.Join(
		open(&kinds.Kind{GroupVersionKind: networkingv1.SchemeGroupVersion.WithKind("IPAddress"), Plural: addresses, StoragePrefix: addresses,
			New: func() runtime.Object { return &networkingv1.IPAddress{} }}),
		open(&kinds.Kind{GroupVersionKind: corev1.SchemeGroupVersion.WithKind("RangeAllocation"), Plural: "rangeallocations", StoragePrefix: ranges,
			New: func() runtime.Object { return &corev1.RangeAllocation{} }}))
	if err != nil {
		return nil, err
	}
	cidrs := make([]netip.Prefix, len(c.ServiceCIDRs))
	for i, p := range c.ServiceCIDRs {
		cidrs[i] = p.Masked()
	}
	return allocate.NewServices(allocate.Config{CIDRs: cidrs, Ports: c.NodePorts, Addresses: storage[addresses], Ranges: storage[ranges], Shared: c.Shared, Log: s.log})
}

var _ verbs.Claims = (*allocate.Services)(nil)
