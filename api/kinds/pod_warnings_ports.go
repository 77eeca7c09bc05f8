package kinds

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
)

// ports warns of container ports that are there twice, by number or name, in the whole pod: they share its addresses.
func (a *advice) ports(w *where, s *corev1.PodSpec) {
	n := 0
	eachContainer(s, func(c *corev1.Container) { n += len(c.Ports) })
	if n == 0 {
		return
	}
	type placed struct {
		port *corev1.ContainerPort
		path string
	}
	type socket struct {
		number   int32
		protocol corev1.Protocol
	}
	all := make([]placed, 0, n)
	bySocket, byName := make(map[socket][]placed, n), map[string]string{}
	gather := func(w *where, ports []corev1.ContainerPort) {
		for i := range ports {
			all = append(all, placed{&ports[i], w.field("ports").at(i).path().String()})
		}
	}
	for list, name := range containerLists(s) {
		for i := range list {
			gather(w.field(name).at(i), list[i].Ports)
		}
	}
	for i := range s.EphemeralContainers {
		gather(w.field("ephemeralContainers").at(i), s.EphemeralContainers[i].Ports)
	}
	for _, p := range all {
		if p.port.HostIP != "" && p.port.HostPort == 0 {
			a.add(fmt.Sprintf("%s: hostIP set without hostPort: %+v", p.path, *p.port))
		}
		key := socket{p.port.ContainerPort, p.port.Protocol}
		for _, other := range bySocket[key] {
			if a.full() {
				return
			}
			if clash := portClash(p.port, other.port); clash != "" {
				a.add(fmt.Sprintf("%s: %s port definition with %s", p.path, clash, other.path))
			}
		}
		if len(bySocket[key]) < compared {
			bySocket[key] = append(bySocket[key], p)
		}
	}
	for _, p := range all {
		if p.port.Name == "" {
			continue
		}
		if other, ok := byName[p.port.Name]; ok {
			a.add(fmt.Sprintf("%s: duplicate port name %q with %s, services and probes that select ports by name will use %s", p.path, p.port.Name, other, other))
		} else {
			byName[p.port.Name] = p.path
		}
	}
}

// compared bounds with how many others a thing is compared, so that a hostile manifest cannot keep the server busy.
const compared = 256

// portClash names what two definitions of one container port do to each other.
func portClash(p, other *corev1.ContainerPort) string {
	switch {
	case p.HostIP == other.HostIP && p.HostPort == other.HostPort:
		return "duplicate"
	case p.HostPort == 0 || other.HostPort == 0:
		return "overlapping"
	case p.HostPort == other.HostPort && (p.HostIP == "") != (other.HostIP == ""):
		return "dangerously ambiguous"
	}
	return ""
}
