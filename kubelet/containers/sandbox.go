package containers

import (
	"fmt"
	"maps"

	v1 "k8s.io/api/core/v1"
	helpers "k8s.io/component-helpers/resource"

	"wherry.dev/wherry/kubelet/runtime"
)

// SandboxInput is what a sandbox's configuration needs besides the pod.
type SandboxInput struct {
	Attempt      int
	CgroupParent string
	LogDir       string // the pod's log directory on the host
	DNS          DNS
	Node         NodeFacts
	Security     SecurityDefaults
}

// Sandbox builds the configuration of a pod's sandbox. warning is an event's text, or empty.
func Sandbox(pod *v1.Pod, in SandboxInput) (config *runtime.SandboxConfig, warning string, err error) {
	if pod.Spec.HostUsers != nil && !*pod.Spec.HostUsers {
		return nil, "", fmt.Errorf("pod asks for a user namespace (hostUsers: false), which this node does not support")
	}
	labels := make(map[string]string, len(pod.Labels)+3)
	maps.Copy(labels, pod.Labels)
	labels[runtime.LabelPodName], labels[runtime.LabelPodNamespace], labels[runtime.LabelPodUID] = pod.Name, pod.Namespace, string(pod.UID)
	config = &runtime.SandboxConfig{
		Metadata:     &runtime.SandboxMetadata{Name: pod.Name, Uid: string(pod.UID), Namespace: pod.Namespace, Attempt: uint32(in.Attempt)},
		Labels:       labels,
		Annotations:  maps.Clone(pod.Annotations),
		LogDirectory: in.LogDir,
	}
	if config.DnsConfig, warning, err = in.DNS.Config(pod); err != nil {
		return nil, "", err
	}
	if !pod.Spec.HostNetwork {
		// Runtimes refuse a host name together with the node's network.
		if config.Hostname, err = kernelHostname(pod, in.DNS.ClusterDomain); err != nil {
			return nil, "", err
		}
		config.PortMappings = portMappings(pod)
	}
	config.Linux = &runtime.LinuxSandboxConfig{
		CgroupParent:    in.CgroupParent,
		SecurityContext: sandboxSecurity(pod, in.Security),
		Resources:       podResources(pod, in.Node),
		Overhead:        listResources(pod.Spec.Overhead, pod.Spec.Overhead),
	}
	if p := pod.Spec.SecurityContext; p != nil && len(p.Sysctls) > 0 {
		config.Linux.Sysctls = make(map[string]string, len(p.Sysctls))
		for _, s := range p.Sysctls {
			config.Linux.Sysctls[s.Name] = s.Value
		}
	}
	return config, warning, nil
}

// portMappings lists the host ports of all containers that run for the life of the pod, and of init containers.
func portMappings(pod *v1.Pod) []*runtime.PortMapping {
	var all []*runtime.PortMapping
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			for _, p := range list[i].Ports {
				if p.HostPort <= 0 {
					continue
				}
				m := &runtime.PortMapping{ContainerPort: p.ContainerPort, HostPort: p.HostPort, HostIp: p.HostIP}
				switch p.Protocol {
				case v1.ProtocolUDP:
					m.Protocol = runtime.ProtocolUDP
				case v1.ProtocolSCTP:
					m.Protocol = runtime.ProtocolSCTP
				}
				all = append(all, m)
			}
		}
	}
	return all
}

func sandboxSecurity(pod *v1.Pod, d SecurityDefaults) *runtime.SandboxSecurity {
	s := &runtime.SandboxSecurity{
		NamespaceOptions: namespaces(pod),
		Seccomp:          &runtime.SecurityProfile{ProfileType: runtime.ProfileUnconfined},
	}
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if sc := list[i].SecurityContext; sc != nil && truth(sc.Privileged) {
				s.Privileged = true
			}
		}
	}
	p := pod.Spec.SecurityContext
	// The sandbox process only sleeps; a filter for it costs runc some 25 ms a pod. It is filtered when its pod is, so
	// that it is never the weaker process of the two.
	if profile := podSeccomp(p); d.SeccompDefault && profile == nil || profile != nil && profile.Type != v1.SeccompProfileTypeUnconfined {
		s.Seccomp.ProfileType = runtime.ProfileRuntimeDefault
	}
	if p == nil {
		return s
	}
	s.RunAsUser, s.RunAsGroup = int64Value(p.RunAsUser), int64Value(p.RunAsGroup)
	s.SelinuxOptions = selinux(p.SELinuxOptions)
	s.SupplementalGroups, s.SupplementalGroupsPolicy = groups(p)
	return s
}

func podSeccomp(p *v1.PodSecurityContext) *v1.SeccompProfile {
	if p == nil {
		return nil
	}
	return p.SeccompProfile
}

func podResources(pod *v1.Pod, n NodeFacts) *runtime.ContainerResources {
	opts := helpers.PodResourcesOptions{ExcludeOverhead: true}
	r := listResources(helpers.PodRequests(pod, opts), helpers.PodLimits(pod, opts))
	if n.NoCPUQuota {
		r.CpuQuota = 0
	}
	return r
}

func listResources(requests, limits v1.ResourceList) *runtime.ContainerResources {
	r := &runtime.ContainerResources{}
	if q, ok := requests[v1.ResourceCPU]; ok {
		r.CpuShares = Shares(q.MilliValue())
	}
	if q, ok := limits[v1.ResourceCPU]; ok {
		r.CpuPeriod, r.CpuQuota = quotaPeriod, Quota(q.MilliValue())
	}
	if q, ok := limits[v1.ResourceMemory]; ok {
		r.MemoryLimitInBytes = q.Value()
	}
	return r
}
