package endpoints

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	library "k8s.io/endpointslice"
	endpointsliceutil "k8s.io/endpointslice/util"
	utilnet "k8s.io/utils/net"
)

// subsets groups the pods' addresses by the ports they serve. Addresses are in order, so that equal contents compare equal.
// Terminating pods are left out, unless the Service publishes addresses that are not ready.
func subsets(service *corev1.Service, pods []*corev1.Pod) (out []corev1.EndpointSubset, truncated bool) {
	groups := map[string]*corev1.EndpointSubset{}
	slices.SortFunc(pods, func(a, b *corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
	count := 0
	for _, pod := range pods {
		if !endpointsliceutil.ShouldPodBeInEndpoints(pod, service.Spec.PublishNotReadyAddresses) {
			continue
		}
		address, ok := address(service, pod)
		if !ok {
			continue
		}
		if count++; count > maxAddresses {
			truncated = true
			break
		}
		ports := ports(service, pod)
		if len(ports) == 0 && len(service.Spec.Ports) > 0 {
			continue // none of its ports is served by this pod
		}
		key := fmt.Sprint(ports)
		g, ok := groups[key]
		if !ok {
			g = &corev1.EndpointSubset{Ports: ports}
			groups[key] = g
		}
		if service.Spec.PublishNotReadyAddresses || endpointsliceutil.IsPodReady(pod) {
			g.Addresses = append(g.Addresses, address)
		} else {
			g.NotReadyAddresses = append(g.NotReadyAddresses, address)
		}
	}
	byIP := func(a, b corev1.EndpointAddress) int { return strings.Compare(a.IP, b.IP) }
	for _, g := range groups {
		slices.SortFunc(g.Addresses, byIP)
		slices.SortFunc(g.NotReadyAddresses, byIP)
		out = append(out, *g)
	}
	slices.SortFunc(out, func(a, b corev1.EndpointSubset) int { return strings.Compare(fmt.Sprint(a.Ports), fmt.Sprint(b.Ports)) })
	return out, truncated
}

func address(service *corev1.Service, pod *corev1.Pod) (corev1.EndpointAddress, bool) {
	wantV6 := len(service.Spec.IPFamilies) > 0 && service.Spec.IPFamilies[0] == corev1.IPv6Protocol
	for _, ip := range pod.Status.PodIPs {
		if utilnet.IsIPv6String(ip.IP) != wantV6 {
			continue
		}
		a := corev1.EndpointAddress{IP: ip.IP, TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID}}
		if pod.Spec.NodeName != "" {
			node := pod.Spec.NodeName
			a.NodeName = &node
		}
		if endpointsliceutil.ShouldSetHostname(pod, service) {
			a.Hostname = pod.Spec.Hostname
		}
		return a, true
	}
	return corev1.EndpointAddress{}, false
}

func ports(service *corev1.Service, pod *corev1.Pod) []corev1.EndpointPort {
	var out []corev1.EndpointPort
	for i := range service.Spec.Ports {
		p := &service.Spec.Ports[i]
		number, err := library.FindPort(pod, p)
		if err != nil {
			continue // a named port that this pod does not have
		}
		out = append(out, corev1.EndpointPort{Name: p.Name, Port: int32(number), Protocol: p.Protocol, AppProtocol: p.AppProtocol})
	}
	slices.SortFunc(out, func(a, b corev1.EndpointPort) int {
		return cmp.Or(cmp.Compare(a.Port, b.Port), strings.Compare(a.Name, b.Name), strings.Compare(string(a.Protocol), string(b.Protocol)))
	})
	return out
}
