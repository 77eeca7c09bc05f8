package containers

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"

	"wherry.dev/wherry/kubelet/runtime"
)

// Limits of a resolver, as upstream's validation and kubelet have them.
const (
	maxNameservers = 3
	maxSearches    = 32
	maxSearchChars = 2048
)

// DNS says how pods find names.
type DNS struct {
	ClusterDNS    []string // addresses of the cluster's DNS; none: ClusterFirst falls back to the node's resolver
	ClusterDomain string   // such as cluster.local
	ResolvConf    string   // the node's resolver file; empty: pods get no node resolver
}

// Config builds the resolver configuration of a pod by its dnsPolicy and dnsConfig. warning is an event's text, or
// empty: something was left out.
func (d DNS) Config(pod *v1.Pod) (c *runtime.DNSConfig, warning string, err error) {
	host := &runtime.DNSConfig{}
	if d.ResolvConf != "" && pod.Spec.DNSPolicy != v1.DNSNone {
		content, err := os.ReadFile(d.ResolvConf)
		if err != nil {
			return nil, "", fmt.Errorf("read the node's resolver file: %w", err)
		}
		host = parseResolvConf(content)
	}
	policy := pod.Spec.DNSPolicy
	if policy == v1.DNSClusterFirst && pod.Spec.HostNetwork {
		policy = v1.DNSDefault
	}
	if policy == "" {
		policy = v1.DNSClusterFirst
	}
	switch policy {
	case v1.DNSNone:
		c = &runtime.DNSConfig{}
	case v1.DNSDefault:
		c = host
		if len(c.Servers) == 0 {
			// An empty list would make the runtime copy the node's file, which the node does not want to share.
			c.Servers = []string{"127.0.0.1"}
			c.Searches = []string{"."}
		}
	default:
		if len(d.ClusterDNS) == 0 {
			warning = fmt.Sprintf("kubelet does not have ClusterDNS IP configured and cannot create Pod using %q policy. Falling back to %q policy.", v1.DNSClusterFirst, v1.DNSDefault)
			c = host
			break
		}
		c = &runtime.DNSConfig{Servers: slices.Clone(d.ClusterDNS), Options: []string{"ndots:5"}}
		if d.ClusterDomain != "" {
			c.Searches = []string{pod.Namespace + ".svc." + d.ClusterDomain, "svc." + d.ClusterDomain, d.ClusterDomain}
		}
		for _, s := range host.Searches {
			if s != "." {
				c.Searches = append(c.Searches, s)
			}
		}
	}
	if own := pod.Spec.DNSConfig; own != nil {
		c.Servers = unique(append(c.Servers, own.Nameservers...))
		c.Searches = unique(append(c.Searches, own.Searches...))
		c.Options = mergeOptions(c.Options, own.Options)
	}
	if len(c.Servers) > maxNameservers {
		c.Servers = c.Servers[:maxNameservers]
		warning = "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: " + strings.Join(c.Servers, " ")
	}
	if cut := limitSearches(c.Searches); len(cut) < len(c.Searches) {
		c.Searches = cut
		warning = "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: " + strings.Join(cut, " ")
	}
	return c, warning, nil
}

func limitSearches(s []string) []string {
	s = s[:min(len(s), maxSearches)]
	chars := 0
	for i, x := range s {
		chars += len(x)
		if i > 0 {
			chars++
		}
		if chars > maxSearchChars {
			return s[:i]
		}
	}
	return s
}

func unique(in []string) []string {
	var out []string
	for _, s := range in {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// mergeOptions lets the pod's options override those of the same name.
func mergeOptions(base []string, own []v1.PodDNSConfigOption) []string {
	name := func(s string) string { n, _, _ := strings.Cut(s, ":"); return n }
	out := slices.Clone(base)
	for _, o := range own {
		text := o.Name
		if o.Value != nil && *o.Value != "" {
			text += ":" + *o.Value
		}
		if i := slices.IndexFunc(out, func(s string) bool { return name(s) == o.Name }); i >= 0 {
			out[i] = text
		} else {
			out = append(out, text)
		}
	}
	return out
}

// parseResolvConf reads a resolver file (resolv.conf(5)); the last search line wins.
func parseResolvConf(content []byte) *runtime.DNSConfig {
	c := &runtime.DNSConfig{}
	lines := bufio.NewScanner(bytes.NewReader(content))
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 2 || strings.HasPrefix(f[0], "#") || strings.HasPrefix(f[0], ";") {
			continue
		}
		switch f[0] {
		case "nameserver":
			c.Servers = append(c.Servers, f[1])
		case "search":
			c.Searches = nil
			for _, s := range f[1:] {
				if s != "." {
					s = strings.TrimSuffix(s, ".")
				}
				c.Searches = append(c.Searches, s)
			}
		case "options":
			c.Options = append(c.Options, f[1:]...)
		}
	}
	return c
}
