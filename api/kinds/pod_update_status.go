package kinds

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
)

// validatePodStatusUpdate checks a new status: what it says must be possible for the pod, and after what it said before.
func validatePodStatusUpdate(_ context.Context, obj, old runtime.Object) field.ErrorList {
	pod, oldPod := obj.(*corev1.Pod), old.(*corev1.Pod)
	c := podCheck{spec: &pod.Spec, allow: allowancesFor(&oldPod.Spec)}
	c.add(ValidateMetaUpdate(&pod.ObjectMeta, &oldPod.ObjectMeta))
	c.annotationChange(metadataRoot.field("annotations"), pod.Annotations, oldPod.Annotations)
	c.podAnnotations(metadataRoot.field("annotations"), pod.Annotations)
	c.conditions(statusRoot.field("conditions"), pod.Status.Conditions)
	if pod.Spec.NodeName != oldPod.Spec.NodeName {
		c.forbidden(statusRoot.field("nodeName"), "may not be changed directly")
	}
	if nominated := pod.Status.NominatedNodeName; nominated != "" && nominated != oldPod.Status.NominatedNodeName {
		at := statusRoot.field("nominatedNodeName")
		c.dnsSubdomain(at, nominated)
		if oldPod.Spec.NodeName != "" {
			c.forbidden(at, "may not be set on pods that are already bound to a node")
		}
	}
	if pod.Status.ObservedGeneration < 0 {
		c.invalid(statusRoot.field("observedGeneration"), pod.Status.ObservedGeneration, "must be a non-negative integer")
	}
	if pod.Status.QOSClass != oldPod.Status.QOSClass {
		c.invalid(statusRoot.field("qosClass"), pod.Status.QOSClass, "field is immutable")
	}
	c.transitions(&oldPod.Spec, &pod.Status, &oldPod.Status)
	c.claimStatuses(statusRoot.field("resourceClaimStatuses"), pod.Status.ResourceClaimStatuses)
	if s := pod.Status.ExtendedResourceClaimStatus; s != nil {
		c.extendedClaimStatus(statusRoot.field("extendedResourceClaimStatus"), s)
	}
	c.podIPs(&pod.Status, &oldPod.Status)
	c.hostIPs(&pod.Status, &oldPod.Status)
	for _, l := range [...]struct {
		name       string
		statuses   []corev1.ContainerStatus
		containers []corev1.Container
	}{
		{"containerStatuses", pod.Status.ContainerStatuses, pod.Spec.Containers},
		{"initContainerStatuses", pod.Status.InitContainerStatuses, pod.Spec.InitContainers},
		{"ephemeralContainerStatuses", pod.Status.EphemeralContainerStatuses, nil},
	} {
		for i := range l.statuses {
			at, s := statusRoot.field(l.name).at(i), &l.statuses[i]
			c.statusUser(at.field("user").field("linux"), s.User)
			switch {
			case len(s.AllocatedResourcesStatus) == 0:
			case l.name == "ephemeralContainerStatuses":
				c.forbidden(at.field("allocatedResourcesStatus"), "must not be specified in container status")
			default:
				c.allocatedHealth(at.field("allocatedResourcesStatus"), s, l.containers, pod.Status.ExtendedResourceClaimStatus)
			}
		}
	}
	return onceEach(c.list)
}

func (c *podCheck) conditions(w *where, conditions []corev1.PodCondition) {
	for i := range conditions {
		at, condition := w.at(i), &conditions[i]
		if condition.ObservedGeneration < 0 {
			c.invalid(at.field("observedGeneration"), condition.ObservedGeneration, "must be a non-negative integer")
		}
		c.qualifiedName(at.field("Type"), string(condition.Type))
	}
}

// transitions checks that no container is said to live again that may not be restarted.
func (c *podCheck) transitions(spec *corev1.PodSpec, now, before *corev1.PodStatus) {
	if !anyRestartsAll(spec) {
		c.staysEnded(statusRoot.field("containerStatuses"), now.ContainerStatuses, before.ContainerStatuses, spec, spec.Containers, spec.RestartPolicy)
		c.staysEnded(statusRoot.field("initContainerStatuses"), now.InitContainerStatuses, before.InitContainerStatuses, spec, spec.InitContainers, spec.RestartPolicy)
	}
	c.staysEnded(statusRoot.field("ephemeralContainerStatuses"), now.EphemeralContainerStatuses, before.EphemeralContainerStatuses, spec, nil, spec.RestartPolicy)
}

// staysEnded checks the statuses of containers; one that is none of containers never starts again.
func (c *podCheck) staysEnded(w *where, now, before []corev1.ContainerStatus, spec *corev1.PodSpec, containers []corev1.Container, policy corev1.RestartPolicy) {
	for i := range before {
		ended := before[i].State.Terminated
		if ended == nil {
			continue
		}
		if !slices.ContainsFunc(now, func(s corev1.ContainerStatus) bool { return s.Name == before[i].Name && s.State.Terminated == nil }) {
			continue
		}
		k := slices.IndexFunc(containers, func(c corev1.Container) bool { return c.Name == before[i].Name })
		if k < 0 || !mayRestart(&containers[k], policy, ended.ExitCode) {
			c.forbidden(w.at(i).field("state"), "may not be transitioned to non-terminated state")
		}
	}
}

// anyRestartsAll reports whether some container's exit may restart all of them, whatever their own policies.
func anyRestartsAll(spec *corev1.PodSpec) bool {
	for list := range containerLists(spec) {
		for i := range list {
			for _, rule := range list[i].RestartPolicyRules {
				if rule.Action == corev1.ContainerRestartRuleActionRestartAllContainers {
					return true
				}
			}
		}
	}
	return false
}

// mayRestart decides by the container's rules, its policy, or the pod's policy, the first that applies.
func mayRestart(container *corev1.Container, policy corev1.RestartPolicy, exitCode int32) bool {
	if own := container.RestartPolicy; own != nil {
		for _, rule := range container.RestartPolicyRules {
			if rule.ExitCodes == nil {
				continue
			}
			in := slices.Contains(rule.ExitCodes.Values, exitCode)
			matches := in && rule.ExitCodes.Operator == corev1.ContainerRestartRuleOnExitCodesOpIn ||
				!in && rule.ExitCodes.Operator == corev1.ContainerRestartRuleOnExitCodesOpNotIn
			if !matches {
				continue
			}
			if rule.Action == corev1.ContainerRestartRuleActionRestart || rule.Action == corev1.ContainerRestartRuleActionRestartAllContainers {
				return true
			}
			break
		}
		policy = corev1.RestartPolicy(*own)
	}
	switch policy {
	case corev1.RestartPolicyOnFailure:
		return exitCode != 0
	case corev1.RestartPolicyNever:
		return false
	}
	return true
}

func (c *podCheck) claimStatuses(w *where, statuses []corev1.PodResourceClaimStatus) {
	var names nameSet
	for i := range statuses {
		at, s := w.at(i), &statuses[i]
		if !slices.ContainsFunc(c.spec.ResourceClaims, func(claim corev1.PodResourceClaim) bool { return claim.Name == s.Name }) {
			c.invalid(at.field("name"), s.Name, "must match the name of an entry in `spec.resourceClaims`")
		}
		if !names.add(s.Name) {
			c.duplicate(at.field("name"), s.Name)
		}
		if s.ResourceClaimName != nil {
			c.dnsSubdomain(at.field("resourceClaimName"), *s.ResourceClaimName)
		}
	}
}

// extendedClaimStatus checks the claim that was made for extended resources served by DRA drivers (KEP-5004).
func (c *podCheck) extendedClaimStatus(w *where, s *corev1.PodExtendedResourceClaimStatus) {
	at := w.field("requestMappings")
	if len(s.RequestMappings) == 0 {
		c.required(at, "at least one request mapping is required")
	}
	seen := map[corev1.ContainerExtendedResourceRequest]bool{}
	for i := range s.RequestMappings {
		at, m := at.at(i), s.RequestMappings[i]
		var container *corev1.Container
		for list := range containerLists(c.spec) {
			for j := range list {
				if list[j].Name == m.ContainerName {
					container = &list[j]
				}
			}
		}
		if container == nil {
			c.invalid(at.field("containerName"), m.ContainerName, "must match the name of an entry in spec.initContainers.name or spec.containers.name")
		} else if _, ok := container.Resources.Requests[corev1.ResourceName(m.ResourceName)]; !ok {
			c.invalid(at.field("resourceName"), m.ResourceName,
				"must match the extended resource name of an entry in spec.initContainers.resources.requests or spec.containers.resources.requests")
		}
		c.dnsLabel(w.field("requestName"), m.RequestName)
		if seen[m] {
			c.duplicate(at.field("containerName"), m.ContainerName)
			c.duplicate(at.field("resourceName"), m.ResourceName)
			c.duplicate(at.field("requestName"), m.RequestName)
		}
		seen[m] = true
	}
	if s.ResourceClaimName == "" {
		c.required(w.field("resourceClaimName"), "")
	} else {
		c.dnsSubdomain(w.field("resourceClaimName"), s.ResourceClaimName)
	}
}

func (c *podCheck) podIPs(s, old *corev1.PodStatus) {
	w := statusRoot.field("podIPs")
	ips, before := make([]string, len(s.PodIPs)), make([]string, len(old.PodIPs))
	for i := range s.PodIPs {
		ips[i] = s.PodIPs[i].IP
	}
	for i := range old.PodIPs {
		before[i] = old.PodIPs[i].IP
	}
	c.addresses(w, ips, before, s.PodIPs)
	switch {
	case (s.PodIP != "") != (len(s.PodIPs) > 0):
		c.invalid(w, s.PodIPs, "podIP and podIPs must either both be set or both be unset")
	case len(s.PodIPs) > 0 && s.PodIP != s.PodIPs[0].IP:
		c.invalid(w.at(0).field("ip"), s.PodIPs[0].IP, "must be equal to `podIP`")
	}
}

func (c *podCheck) hostIPs(s, old *corev1.PodStatus) {
	if len(s.HostIPs) == 0 {
		return
	}
	w := statusRoot.field("hostIPs")
	if s.HostIP != s.HostIPs[0].IP {
		c.invalid(w.at(0).field("ip"), s.HostIPs[0].IP, "must be equal to `hostIP`")
	}
	ips, before := make([]string, len(s.HostIPs)), make([]string, len(old.HostIPs))
	for i := range s.HostIPs {
		ips[i] = s.HostIPs[i].IP
	}
	for i := range old.HostIPs {
		before[i] = old.HostIPs[i].IP
	}
	c.addresses(w, ips, before, s.HostIPs)
}

// addresses checks a list of one address or one of each family; old ones may be written as they were.
func (c *podCheck) addresses(w *where, ips, before []string, value any) {
	for i, ip := range ips {
		c.add(validation.IsValidIPForLegacyField(w.at(i).path(), ip, true, before))
	}
	if len(ips) < 2 {
		return
	}
	dual, err := netutils.IsDualStackIPStrings(ips)
	if err != nil {
		c.internal(w, fmt.Errorf("failed to check for dual stack with error:%v", err))
	}
	if !dual || len(ips) > 2 {
		c.invalid(w, value, "may specify no more than one IP for each IP family")
	}
}

// statusUser checks who a container runs as, by the runtime's word.
func (c *podCheck) statusUser(w *where, u *corev1.ContainerUser) {
	if u == nil || u.Linux == nil {
		return
	}
	if c.spec.OS != nil && c.spec.OS.Name != corev1.Linux {
		if isWindows(c.spec) {
			c.forbidden(w, "cannot be set for a windows pod")
		}
		return
	}
	if id := u.Linux.UID; id < 0 || id > math.MaxUint32 {
		c.invalid(w.field("uid"), id, fmt.Sprintf("must be between 0 and %d, inclusive", int64(math.MaxUint32)))
	}
	c.groupID(w.field("gid"), &u.Linux.GID)
	for i := range u.Linux.SupplementalGroups {
		c.groupID(w.field("supplementalGroups").at(i), &u.Linux.SupplementalGroups[i])
	}
}

// allocatedHealth checks the health of devices (KEP-4680): they belong to resources that the container has.
func (c *podCheck) allocatedHealth(w *where, s *corev1.ContainerStatus, containers []corev1.Container, extended *corev1.PodExtendedResourceClaimStatus) {
	at := slices.IndexFunc(containers, func(c corev1.Container) bool { return c.Name == s.Name })
	for i := range s.AllocatedResourcesStatus {
		w, r := w.at(i), &s.AllocatedResourcesStatus[i]
		if at >= 0 { // statuses of containers that are not there are let be
			if detail := allocatedResource(r.Name, &containers[at], extended); detail != "" {
				c.invalid(w.field("name"), r.Name, detail)
			}
		}
		var ids nameSet
		for j := range r.Resources {
			w, h := w.field("resources").at(j), &r.Resources[j]
			knownValue(&c.faults, w.field("health"), h.Health, []corev1.ResourceHealthStatus{
				corev1.ResourceHealthStatusHealthy, corev1.ResourceHealthStatusUnhealthy, corev1.ResourceHealthStatusUnknown})
			if h.Message != nil && *h.Message == "" {
				c.required(w.field("message"), "must be non-empty if specified")
			} else if h.Message != nil && len(*h.Message) > corev1.ResourceHealthMessageMaxLength {
				c.tooLong(w.field("message"), *h.Message, corev1.ResourceHealthMessageMaxLength)
			}
			if !ids.add(string(h.ResourceID)) {
				c.duplicate(w.field("resourceID"), h.ResourceID)
			}
		}
	}
}

// allocatedResource says what is wrong with a resource's name in a container's status: it is one that the container requests,
// "claim:NAME" or "claim:NAME/REQUEST".
func allocatedResource(name corev1.ResourceName, container *corev1.Container, extended *corev1.PodExtendedResourceClaimStatus) string {
	claim, isClaim := strings.CutPrefix(string(name), "claim:")
	if !isClaim {
		if _, ok := container.Resources.Requests[name]; !ok {
			return "must match one of the container's resource requests"
		}
		return ""
	}
	for _, c := range container.Resources.Claims {
		if claim == c.Name && c.Request == "" || c.Request != "" && claim == c.Name+"/"+c.Request {
			return ""
		}
	}
	if extended != nil {
		for _, m := range extended.RequestMappings {
			if request, ok := container.Resources.Requests[corev1.ResourceName(m.ResourceName)]; ok && !request.IsZero() &&
				m.ContainerName == container.Name && m.RequestName != "" && claim == extended.ResourceClaimName+"/"+m.RequestName {
				return ""
			}
		}
	}
	return "must match one of the container's resource claims as 'claim:<claimName>/<requestName>' when container.resources.claims[*].request is set or 'claim:<claimName>' when it is empty"
}
