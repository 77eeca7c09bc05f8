package kinds

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

var (
	metadataRoot = where{name: "metadata"}
	specRoot     = where{name: "spec"}
	statusRoot   = where{name: "status"}
)

// validatePod checks a pod that is to be created.
func validatePod(_ context.Context, obj runtime.Object) field.ErrorList {
	pod := obj.(*corev1.Pod)
	c := podCheck{spec: &pod.Spec}
	c.pod(pod)
	if len(pod.Spec.EphemeralContainers) > 0 {
		c.forbidden(specRoot.field("ephemeralContainers"), "cannot be set on create")
	}
	if pod.Spec.NodeName != "" && len(pod.Spec.SchedulingGates) > 0 {
		c.forbidden(specRoot.field("nodeName"), "cannot be set until all schedulingGates have been cleared")
	}
	c.annotatedProfiles(&specRoot, pod.Annotations)
	return c.list
}

// pod checks what must hold for every pod, new or changed.
func (c *podCheck) pod(pod *corev1.Pod) {
	c.add(ValidateMeta(&pod.ObjectMeta, true, NameIsDNSSubdomain))
	c.podAnnotations(metadataRoot.field("annotations"), pod.Annotations)
	c.podSpec(&specRoot, &pod.ObjectMeta)

	// The rest is not asked of templates, for the sake of those that were there before the rules.
	if pod.Spec.ServiceAccountName == "" {
		for i := range pod.Spec.Volumes {
			if p := pod.Spec.Volumes[i].Projected; p != nil {
				for j := range p.Sources {
					if p.Sources[j].ServiceAccountToken != nil {
						c.forbidden(specRoot.field("volumes").at(i).field("projected").field("sources").at(j).field("serviceAccountToken"),
							"must not be specified when serviceAccountName is not set")
					}
				}
			}
		}
	}
	if g := pod.Spec.TerminationGracePeriodSeconds; g != nil {
		c.notNegative(specRoot.field("terminationGracePeriodSeconds"), *g)
	}
	for i := range pod.Spec.Containers {
		c.imageSpace(specRoot.field("containers").at(i), &pod.Spec.Containers[i])
	}
	for i := range pod.Spec.InitContainers {
		c.imageSpace(specRoot.field("initContainers").at(i), &pod.Spec.InitContainers[i])
	}
}

// podSpec checks a specification; meta is nil when it is a template's.
func (c *podCheck) podSpec(w *where, meta *metav1.ObjectMeta) {
	s := c.spec
	if s.TerminationGracePeriodSeconds == nil {
		c.required(w.field("terminationGracePeriodSeconds"), "")
	}
	c.checkVolumes(w.field("volumes"), meta)
	if len(s.ResourceClaims) > 0 {
		var annotations map[string]string
		if meta != nil {
			annotations = meta.Annotations
		}
		c.podClaims(w.field("resourceClaims"), annotations)
		for i := range s.ResourceClaims {
			if name := s.ResourceClaims[i].Name; name != "" {
				c.claimed.add(name)
			}
		}
	}
	c.containers(w.field("containers"))
	c.initContainers(w.field("initContainers"))
	c.ephemeralContainers(w.field("ephemeralContainers"))
	c.podResources(w.field("resources"))
	if s.HostNetwork {
		c.hostNetworkPorts(w.field("containers"), meta != nil)
	}
	oneOf(&c.faults, w.field("restartPolicy"), s.RestartPolicy,
		[]corev1.RestartPolicy{corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever})
	oneOf(&c.faults, w.field("dnsPolicy"), s.DNSPolicy,
		[]corev1.DNSPolicy{corev1.DNSClusterFirstWithHostNet, corev1.DNSClusterFirst, corev1.DNSDefault, corev1.DNSNone})
	if len(s.NodeSelector) > 0 {
		c.add(metavalidation.ValidateLabels(s.NodeSelector, w.field("nodeSelector").path()))
	}
	c.podSecurity(w.field("securityContext"), s.SecurityContext)
	c.hostNamespaces(w)
	c.affinity(w.field("affinity"), s.Affinity)
	c.dnsConfig(w.field("dnsConfig"))
	for i := range s.ReadinessGates {
		c.qualifiedName(w.field("readinessGates").at(i).field("conditionType"), string(s.ReadinessGates[i].ConditionType))
	}
	c.schedulingGates(w.field("schedulingGates"))
	if len(s.TopologySpreadConstraints) > 0 {
		c.spread(w.field("topologySpreadConstraints"), s.TopologySpreadConstraints)
	}
	c.hostProcesses(w)
	c.names(w)
	if d := s.ActiveDeadlineSeconds; d != nil && (*d < 1 || *d > math.MaxInt32) {
		c.invalid(w.field("activeDeadlineSeconds"), *d, validation.InclusiveRangeError(1, math.MaxInt32))
	}
	c.tolerations(w.field("tolerations"), s.Tolerations, c.allow.comparingTolerations)
	for i := range s.HostAliases {
		c.hostAlias(w.field("hostAliases").at(i), &s.HostAliases[i])
	}
	if p := s.PreemptionPolicy; p != nil {
		oneOf(&c.faults, w.field("preemptionPolicy"), *p, []corev1.PreemptionPolicy{corev1.PreemptLowerPriority, corev1.PreemptNever})
	}
	if s.Overhead != nil {
		c.resources(w.field("overhead"), &corev1.ResourceRequirements{Limits: s.Overhead}, resourcesOfContainer)
	}
	c.os(w)
	if g := s.SchedulingGroup; g != nil {
		at := w.field("schedulingGroup")
		if g.PodGroupName == nil {
			c.invalid(at.field("podGroupName"), g.PodGroupName, "must specify one of: `podGroupName`")
		} else {
			c.dnsSubdomain(at.field("podGroupName"), *g.PodGroupName)
		}
		if len(s.EvictionResponders) > 0 {
			c.forbidden(at, "may not be set when evictionResponders is set")
		}
	}
	c.fileKeyVolumes(w)
}

// hostNetworkPorts: in the host's network a port can only be itself. Templates may leave host ports out.
func (c *podCheck) hostNetworkPorts(w *where, pod bool) {
	for i := range c.spec.Containers {
		for j := range c.spec.Containers[i].Ports {
			p := &c.spec.Containers[i].Ports[j]
			if (pod || p.HostPort != 0) && p.HostPort != p.ContainerPort {
				c.invalid(w.at(i).field("ports").at(j).field("hostPort"), p.HostPort, "must match `containerPort` when `hostNetwork` is true")
			}
		}
	}
}

// names checks the names of things elsewhere, and of the host that the pod shall be.
func (c *podCheck) names(w *where) {
	s := c.spec
	if name := s.HostnameOverride; name != nil {
		at := w.field("hostnameOverride")
		if isTrue(s.SetHostnameAsFQDN) {
			c.forbidden(at, "may not be specified when setHostnameAsFQDN is true")
		}
		if s.HostNetwork {
			c.forbidden(at, "may not be specified when hostNetwork is true")
		}
		if len(*name) > 64 {
			c.tooLong(at, "", 64)
		}
		c.dnsSubdomain(at, *name)
	}
	if s.ServiceAccountName != "" {
		c.dnsSubdomain(w.field("serviceAccountName"), s.ServiceAccountName)
	}
	if s.DeprecatedServiceAccount != s.ServiceAccountName {
		c.invalid(w.field("deprecatedServiceAccount"), s.DeprecatedServiceAccount, fmt.Sprintf("must be the same as serviceAccountName: %q", s.ServiceAccountName))
	}
	if s.NodeName != "" {
		c.dnsSubdomain(w.field("nodeName"), s.NodeName)
	}
	if s.Hostname != "" {
		c.dnsLabel(w.field("hostname"), s.Hostname)
	}
	if s.Subdomain != "" {
		c.dnsLabel(w.field("subdomain"), s.Subdomain)
	}
	if s.PriorityClassName != "" {
		c.dnsSubdomain(w.field("priorityClassName"), s.PriorityClassName)
	}
	if s.RuntimeClassName != nil {
		c.dnsSubdomain(w.field("runtimeClassName"), *s.RuntimeClassName)
	}
}

func (c *podCheck) hostAlias(w *where, a *corev1.HostAlias) {
	c.ip(w.field("ip"), a.IP)
	for i, name := range a.Hostnames {
		c.dnsSubdomain(w.field("hostnames").at(i), name)
	}
}

// ip checks an address in its one canonical writing.
func (f *faults) ip(w *where, ip string) {
	f.add(validation.IsValidIPForLegacyField(w.path(), ip, true, nil))
}

// dnsConfig checks the resolver's configuration, within the limits that resolvers have.
func (c *podCheck) dnsConfig(w *where) {
	const nameservers, searches, searchBytes = 3, 32, 2048
	d := c.spec.DNSConfig
	if c.spec.DNSPolicy == corev1.DNSNone {
		if d == nil {
			c.required(w, "must provide `dnsConfig` when `dnsPolicy` is None")
			return
		}
		if len(d.Nameservers) == 0 {
			c.required(w.field("nameservers"), "must provide at least one DNS nameserver when `dnsPolicy` is None")
			return
		}
	}
	if d == nil {
		return
	}
	if len(d.Nameservers) > nameservers {
		c.invalid(w.field("nameservers"), d.Nameservers, fmt.Sprintf("must not have more than %v nameservers", nameservers))
	}
	for i, ip := range d.Nameservers {
		c.ip(w.field("nameservers").at(i), ip)
	}
	if len(d.Searches) > searches {
		c.invalid(w.field("searches"), d.Searches, fmt.Sprintf("must not have more than %v search paths", searches))
	}
	length := max(len(d.Searches)-1, 0) // the spaces between
	for _, s := range d.Searches {
		length += len(s)
	}
	if length > searchBytes {
		c.invalid(w.field("searches"), d.Searches, fmt.Sprintf("must not have more than %v characters (including spaces) in the search list", searchBytes))
	}
	for i, s := range d.Searches {
		if s != "." {
			s = strings.TrimSuffix(s, ".")
			c.each(w.field("searches").at(i), s, validation.IsDNS1123SubdomainWithUnderscore(s))
		}
	}
	for i := range d.Options {
		if d.Options[i].Name == "" {
			c.required(w.field("options").at(i), "must not be empty")
		}
	}
}

// podAnnotations checks the annotations of pods that mean something to Kubernetes.
func (c *podCheck) podAnnotations(w *where, annotations map[string]string) {
	if len(annotations) == 0 {
		return
	}
	if value, ok := annotations[corev1.MirrorPodAnnotationKey]; ok && c.spec.NodeName == "" {
		c.invalid(w.key(corev1.MirrorPodAnnotationKey), value, "must set spec.nodeName if mirror pod annotation is set")
	}
	if value := annotations[corev1.TolerationsAnnotationKey]; value != "" {
		var tolerations []corev1.Toleration
		if err := json.Unmarshal([]byte(value), &tolerations); err != nil {
			c.invalid(w, corev1.TolerationsAnnotationKey, err.Error())
		} else {
			c.tolerations(w.field(corev1.TolerationsAnnotationKey), tolerations, c.allow.comparingTolerations)
		}
	}
	if value, ok := annotations[corev1.PodDeletionCost]; ok && !isDeletionCost(value) {
		c.invalid(w.key(corev1.PodDeletionCost), value, "must be a 32bit integer")
	}
	if value, ok := annotations[corev1.SeccompPodAnnotationKey]; ok {
		c.seccompAnnotation(w.field(corev1.SeccompPodAnnotationKey), value)
	}
	for key, value := range annotations {
		if strings.HasPrefix(key, corev1.SeccompContainerAnnotationKeyPrefix) {
			c.seccompAnnotation(w.field(key), value)
		}
		if name, ok := strings.CutPrefix(key, corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix); ok {
			if !c.hasContainer(name) {
				c.invalid(w.key(key), name, "container not found")
			}
			if value != "" && value != corev1.DeprecatedAppArmorBetaProfileRuntimeDefault && value != corev1.DeprecatedAppArmorBetaProfileNameUnconfined &&
				!strings.HasPrefix(value, corev1.DeprecatedAppArmorBetaProfileNamePrefix) {
				c.invalid(w.key(key), value, fmt.Sprintf("invalid AppArmor profile name: %q", value))
			}
		}
	}
}

// isDeletionCost reports whether s is a 32-bit number in its one decimal writing (KEP-2255).
func isDeletionCost(s string) bool {
	n, err := strconv.ParseInt(s, 10, 32)
	return err == nil && strconv.FormatInt(n, 10) == s
}

func (c *podCheck) seccompAnnotation(w *where, value string) {
	switch value {
	case corev1.SeccompProfileRuntimeDefault, corev1.DeprecatedSeccompProfileDockerDefault, corev1.SeccompProfileNameUnconfined:
		return
	}
	if path, ok := strings.CutPrefix(value, corev1.SeccompLocalhostProfileNamePrefix); ok {
		c.descendingPath(w, path)
		return
	}
	c.invalid(w, value, "must be a valid seccomp profile")
}

// hasContainer reports whether there is a container of that name, of any sort.
func (c *podCheck) hasContainer(name string) bool {
	has := false
	eachContainer(c.spec, func(container *corev1.Container) { has = has || container.Name == name })
	return has
}
