package plugins

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// Pod is a pod with everything a decision needs worked out once. Immutable.
type Pod struct {
	*corev1.Pod
	Requests Resources // what NodeResourcesFit counts
	Ranked   Resources // what scores count: requests, with upstream's stand-ins for containers that have none
	Ports    []HostPort
	Required nodeaffinity.RequiredNodeAffinity
	// Preferred is nil when there are no preferred node affinity terms.
	Preferred *nodeaffinity.PreferredSchedulingTerms
	// Constrained says that Required has anything to check.
	Constrained bool
	// Class is equal for pods on which every rule decides alike.
	Class string
}

// HostPort is one port of a node that a pod occupies.
type HostPort struct {
	IP       string // "0.0.0.0" for all
	Protocol corev1.Protocol
	Port     int32
}

// NewPod works out what decisions need. A pod whose node affinity does not parse matches no node, as upstream.
func NewPod(pod *corev1.Pod) *Pod {
	p := &Pod{Pod: pod, Ports: hostPorts(pod)}
	p.Requests, p.Ranked = podRequests(pod)
	p.Required = nodeaffinity.GetRequiredNodeAffinity(pod)
	affinity := pod.Spec.Affinity
	p.Constrained = len(pod.Spec.NodeSelector) > 0 || affinity != nil && affinity.NodeAffinity != nil && affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution != nil
	if affinity != nil && affinity.NodeAffinity != nil && len(affinity.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution) > 0 {
		if terms, err := nodeaffinity.NewPreferredSchedulingTerms(affinity.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution); err == nil {
			p.Preferred = terms
		}
	}
	p.Class = p.class()
	return p
}

func hostPorts(pod *corev1.Pod) []HostPort {
	var ports []HostPort
	add := func(c *corev1.Container) {
		for _, port := range c.Ports {
			if port.HostPort <= 0 {
				continue
			}
			h := HostPort{IP: port.HostIP, Protocol: port.Protocol, Port: port.HostPort}
			if h.IP == "" {
				h.IP = "0.0.0.0"
			}
			if h.Protocol == "" {
				h.Protocol = corev1.ProtocolTCP
			}
			ports = append(ports, h)
		}
	}
	for i := range pod.Spec.Containers {
		add(&pod.Spec.Containers[i])
	}
	for i := range pod.Spec.InitContainers { // sidecars keep their ports
		if policy := pod.Spec.InitContainers[i].RestartPolicy; policy != nil && *policy == corev1.ContainerRestartPolicyAlways {
			add(&pod.Spec.InitContainers[i])
		}
	}
	return ports
}

// class writes down every field that a rule reads. Two pods of the same class get the same answer from the same snapshot.
func (p *Pod) class() string {
	var b strings.Builder
	spec := &p.Spec
	resources := func(r *Resources) {
		fmt.Fprintf(&b, "%d/%d/%d;", r.MilliCPU, r.Memory, r.EphemeralStorage)
		names := make([]string, 0, len(r.Scalar))
		for name := range r.Scalar {
			names = append(names, string(name))
		}
		slices.Sort(names)
		for _, name := range names {
			fmt.Fprintf(&b, "%s=%d;", name, r.Scalar[corev1.ResourceName(name)])
		}
	}
	resources(&p.Requests)
	resources(&p.Ranked)
	if spec.NodeName != "" {
		fmt.Fprintf(&b, "node %s;", spec.NodeName)
	}
	for _, port := range p.Ports {
		fmt.Fprintf(&b, "port %s/%s/%d;", port.IP, port.Protocol, port.Port)
	}
	for i := range spec.Tolerations {
		t := &spec.Tolerations[i]
		// tolerationSeconds matters to evictions only
		fmt.Fprintf(&b, "toleration %q %s %q %s;", t.Key, t.Operator, t.Value, t.Effect)
	}
	if len(spec.NodeSelector) > 0 {
		keys := make([]string, 0, len(spec.NodeSelector))
		for k := range spec.NodeSelector {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		for _, k := range keys {
			fmt.Fprintf(&b, "selector %q=%q;", k, spec.NodeSelector[k])
		}
	}
	if spec.Affinity != nil && spec.Affinity.NodeAffinity != nil {
		b.WriteString(spec.Affinity.NodeAffinity.String())
	}
	for i := range spec.Containers {
		fmt.Fprintf(&b, "image %q;", spec.Containers[i].Image)
	}
	for i := range spec.InitContainers {
		fmt.Fprintf(&b, "image %q;", spec.InitContainers[i].Image)
	}
	return b.String()
}
