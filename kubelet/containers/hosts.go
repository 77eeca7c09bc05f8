package containers

import (
	"fmt"
	"os"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// maxHostname is what the kernel takes for a host name; one label of DNS is shorter by one (RFC 1123).
const (
	maxHostname = 64
	maxLabel    = 63
)

// Hostname is the pod's host name and, if it has a subdomain, the domain it is in: the DNS name that a headless
// Service of the subdomain's name gives it.
func Hostname(pod *v1.Pod, clusterDomain string) (name, domain string, err error) {
	if o := pod.Spec.HostnameOverride; o != nil && *o != "" {
		return *o, "", nil
	}
	name = pod.Spec.Hostname
	if name == "" {
		name = pod.Name
		if len(name) > maxLabel {
			name = strings.TrimRight(name[:maxLabel], "-.")
		}
	}
	if pod.Spec.Subdomain != "" {
		domain = pod.Spec.Subdomain + "." + pod.Namespace + ".svc." + clusterDomain
	}
	return name, domain, nil
}

// kernelHostname is what the pod's UTS namespace is named: the full name where the pod asks for it.
func kernelHostname(pod *v1.Pod, clusterDomain string) (string, error) {
	name, domain, err := Hostname(pod, clusterDomain)
	if err != nil {
		return "", err
	}
	if pod.Spec.SetHostnameAsFQDN != nil && *pod.Spec.SetHostnameAsFQDN && domain != "" {
		full := name + "." + domain
		if len(full) > maxHostname {
			return "", fmt.Errorf("failed to construct FQDN from Pod hostname and cluster domain, FQDN %s is too long (%d characters is the max, %d characters requested)", full, maxHostname, len(full))
		}
		return full, nil
	}
	return name, nil
}

// HostsFile is the content of the pod's /etc/hosts. A host-network pod gets the node's own (hostFile) and the aliases.
func HostsFile(pod *v1.Pod, podIPs []string, clusterDomain, hostFile string) ([]byte, error) {
	var b strings.Builder
	if pod.Spec.HostNetwork {
		content, err := os.ReadFile(hostFile)
		if err != nil {
			return nil, fmt.Errorf("read the node's hosts file: %w", err)
		}
		b.WriteString("# Kubernetes-managed hosts file (host network).\n")
		b.Write(content)
	} else {
		b.WriteString("# Kubernetes-managed hosts file.\n" +
			"127.0.0.1\tlocalhost\n" +
			"::1\tlocalhost ip6-localhost ip6-loopback\n" +
			"fe00::0\tip6-localnet\n" +
			"fe00::0\tip6-mcastprefix\n" +
			"fe00::1\tip6-allnodes\n" +
			"fe00::2\tip6-allrouters\n")
		name, domain, err := Hostname(pod, clusterDomain)
		if err != nil {
			return nil, err
		}
		for _, ip := range podIPs {
			if domain != "" {
				fmt.Fprintf(&b, "%s\t%s.%s\t%s\n", ip, name, domain, name)
			} else {
				fmt.Fprintf(&b, "%s\t%s\n", ip, name)
			}
		}
	}
	if len(pod.Spec.HostAliases) > 0 {
		b.WriteString("\n# Entries added by HostAliases.\n")
		for _, a := range pod.Spec.HostAliases {
			fmt.Fprintf(&b, "%s\t%s\n", a.IP, strings.Join(a.Hostnames, "\t"))
		}
	}
	return []byte(b.String()), nil
}
