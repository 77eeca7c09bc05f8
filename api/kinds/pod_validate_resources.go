package kinds

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	resourcehelper "k8s.io/component-helpers/resource"
)

type quantity = resource.Quantity

// resourcesOf says whose resources are checked, which decides what names they may have.
type resourcesOf int

const (
	resourcesOfContainer resourcesOf = iota
	resourcesOfPod
)

// resources checks requests and limits: names, amounts, that no more is requested than is allowed, and exactly as much where
// there is no overcommitting; and claims.
func (c *podCheck) resources(w *where, r *corev1.ResourceRequirements, of resourcesOf) {
	compute, hugePages := false, false
	for name, limit := range r.Limits {
		c.resourceAmount(w.field("limits").key(string(name)), name, limit, of)
		compute = compute || name == corev1.ResourceCPU || name == corev1.ResourceMemory
		hugePages = hugePages || isHugePages(name)
	}
	for name, request := range r.Requests {
		c.resourceAmount(w.field("requests").key(string(name)), name, request, of)
		compute = compute || name == corev1.ResourceCPU || name == corev1.ResourceMemory
		hugePages = hugePages || isHugePages(name)
		limit, limited := r.Limits[name]
		switch overcommit := isOvercommitted(name); {
		case !limited && !overcommit:
			c.required(w.field("limits"), "Limit must be set for non overcommitable resources")
		case limited && !overcommit && request.Cmp(limit) != 0:
			c.invalid(w.field("requests"), request.String(), fmt.Sprintf("must be equal to %s limit of %s", name, limit.String()))
		case limited && request.Cmp(limit) > 0:
			c.invalid(w.field("requests"), request.String(), fmt.Sprintf("must be less than or equal to %s limit of %s", name, limit.String()))
		}
	}
	if hugePages && !compute {
		c.forbidden(w, "HugePages require cpu or memory")
	}
	if len(r.Claims) > 0 {
		c.claims(w.field("claims"), r.Claims)
	}
}

func (c *podCheck) resourceAmount(w *where, name corev1.ResourceName, amount quantity, of resourcesOf) {
	if name != corev1.ResourceCPU && name != corev1.ResourceMemory { // these are right anywhere
		if of == resourcesOfPod {
			c.podResourceName(w, name)
		} else {
			c.containerResourceName(w, name)
		}
	}
	c.amount(w, name, amount)
	if isHugePages(name) && !c.allow.indivisibleHugePages && !isWholePages(name, amount) {
		c.invalid(w, amount.String(), fmt.Sprintf("%s is not positive integer multiple of %s", amount.String(), name))
	}
}

// amount checks that an amount is not negative, and whole where the resource is counted.
func (f *faults) amount(w *where, name corev1.ResourceName, amount quantity) {
	if amount.Sign() < 0 {
		f.invalid(w, amount.String(), "must be greater than or equal to 0")
	}
	if name != corev1.ResourceCPU && name != corev1.ResourceMemory && isCounted(name) && amount.MilliValue()%1000 != 0 {
		f.invalid(w, amount, "must be an integer")
	}
}

// plainResources are the names without a domain that mean something: those of containers, and those of quotas.
var plainResources = []corev1.ResourceName{
	corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage, corev1.ResourceStorage,
	corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory, corev1.ResourceRequestsEphemeralStorage, corev1.ResourceRequestsStorage,
	corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory, corev1.ResourceLimitsEphemeralStorage,
	corev1.ResourcePods, corev1.ResourceQuotas, corev1.ResourceServices, corev1.ResourceReplicationControllers, corev1.ResourceSecrets,
	corev1.ResourceConfigMaps, corev1.ResourcePersistentVolumeClaims, corev1.ResourceServicesNodePorts, corev1.ResourceServicesLoadBalancers,
}

// resourceName checks a name that may be plain or have a domain, and reports whether it is right.
func (f *faults) resourceName(w *where, name corev1.ResourceName) bool {
	before := len(f.list)
	if !isPlainQualifiedName(string(name)) {
		for _, msg := range validation.IsQualifiedName(string(name)) {
			f.invalid(w, name, msg)
		}
	}
	if len(f.list) == before && !strings.Contains(string(name), "/") && !slices.Contains(plainResources, name) &&
		!isHugePages(name) && !strings.HasPrefix(string(name), corev1.ResourceRequestsHugePagesPrefix) {
		f.invalid(w, name, "must be a standard resource type or fully qualified")
	}
	return len(f.list) == before
}

func (f *faults) containerResourceName(w *where, name corev1.ResourceName) {
	f.resourceName(w, name)
	switch {
	case !strings.Contains(string(name), "/"):
		if name != corev1.ResourceCPU && name != corev1.ResourceMemory && name != corev1.ResourceEphemeralStorage && !isHugePages(name) {
			f.invalid(w, name, "must be a standard resource for containers")
		}
	case !isNative(name) && !isExtended(name):
		f.invalid(w, name, "doesn't follow extended resource name standard")
	}
}

func (c *podCheck) podResourceName(w *where, name corev1.ResourceName) {
	if c.resourceName(w, name) && !resourcehelper.IsSupportedPodLevelResource(name) {
		notSupported(&c.faults, w, name, []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceHugePagesPrefix, corev1.ResourceMemory})
	}
}

// isNative reports whether a resource is Kubernetes' own: without a domain, or with kubernetes.io in it.
func isNative(name corev1.ResourceName) bool {
	return !strings.Contains(string(name), "/") || strings.Contains(string(name), corev1.ResourceDefaultNamespacePrefix)
}

// isExtended reports whether a resource is someone else's, such as a device plugin's.
func isExtended(name corev1.ResourceName) bool {
	return !isNative(name) && !strings.HasPrefix(string(name), corev1.DefaultResourceRequestsPrefix) &&
		len(validation.IsQualifiedName(corev1.DefaultResourceRequestsPrefix+string(name))) == 0
}

// isOvercommitted reports whether more of a resource may be limited than is requested.
func isOvercommitted(name corev1.ResourceName) bool { return isNative(name) && !isHugePages(name) }

// isCounted reports whether a resource comes in whole pieces.
func isCounted(name corev1.ResourceName) bool {
	switch name {
	case corev1.ResourcePods, corev1.ResourceQuotas, corev1.ResourceServices, corev1.ResourceReplicationControllers, corev1.ResourceSecrets,
		corev1.ResourceConfigMaps, corev1.ResourcePersistentVolumeClaims, corev1.ResourceServicesNodePorts, corev1.ResourceServicesLoadBalancers:
		return true
	}
	return isExtended(name)
}

// isWholePages reports whether an amount of huge pages is a multiple of the page size, which is in the name.
func isWholePages(name corev1.ResourceName, amount quantity) bool {
	size, err := resource.ParseQuantity(strings.TrimPrefix(string(name), corev1.ResourceHugePagesPrefix))
	return err == nil && size.Sign() > 0 && size.MilliValue()%1000 == 0 && amount.Value()%size.Value() == 0
}

// podClaims checks the resource claims of the pod (KEP-4381).
func (c *podCheck) podClaims(w *where, annotations map[string]string) {
	var names nameSet
	_, static := annotations[corev1.MirrorPodAnnotationKey]
	for i := range c.spec.ResourceClaims {
		at, claim := w.at(i), &c.spec.ResourceClaims[i]
		if static {
			c.forbidden(&where{}, "static pods do not support resource claims")
			continue
		}
		switch {
		case claim.Name == "":
			c.required(at.field("name"), "")
		case !names.add(claim.Name):
			c.duplicate(at.field("name"), claim.Name)
		default:
			c.dnsLabel(at.field("name"), claim.Name)
		}
		name, template := claim.ResourceClaimName, claim.ResourceClaimTemplateName
		switch {
		case name != nil && template != nil:
			c.invalid(at, *claim, "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified")
		case name == nil && template == nil:
			c.invalid(at, *claim, "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`")
		}
		if name != nil {
			c.dnsSubdomain(at.field("resourceClaimName"), *name)
		}
		if template != nil {
			c.dnsSubdomain(at.field("resourceClaimTemplateName"), *template)
		}
	}
}

// claims checks the pod's claims that a container uses, whole or one request of them.
func (c *podCheck) claims(w *where, claims []corev1.ResourceClaim) {
	seen := map[string]bool{} // "claim" or "claim/request"
	parts := map[string]int{} // requests used, by claim
	for i := range claims {
		at, claim := w.at(i), &claims[i]
		if claim.Name == "" {
			c.required(at, "")
			continue
		}
		if seen[claim.Name] {
			c.duplicate(at, claim.Name)
		} else {
			key := claim.Name
			if claim.Request != "" {
				c.dnsLabel(at.field("request"), claim.Request)
				key += "/" + claim.Request
			}
			switch {
			case seen[key]:
				c.duplicate(at, key)
			case claim.Request == "":
				for range parts[claim.Name] {
					c.duplicate(at, claim.Name)
				}
			default:
				parts[claim.Name]++
			}
			seen[key] = true
		}
		if !c.claimed.has(claim.Name) {
			err := field.NotFound(at.path(), claim.Name)
			err.Detail = "must be one of the names in pod.spec.resourceClaims" + c.claimNames()
			c.keep(err)
		}
	}
}

// claimNames lists the names of the pod's claims, up to a number that someone may want to read.
func (c *podCheck) claimNames() string {
	const most = 64
	var names []string
	for i := range c.spec.ResourceClaims {
		if name := c.spec.ResourceClaims[i].Name; name != "" && len(names) < most {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return " which is empty"
	}
	slices.Sort(names)
	return ": " + strings.Join(slices.Compact(names), ", ")
}

// podResources checks the resources of the pod as a whole (KEP-2837): enough for its containers together, and no less for
// the pod than for any one of them.
func (c *podCheck) podResources(w *where) {
	r := c.spec.Resources
	if r == nil {
		return
	}
	if isWindows(c.spec) {
		c.forbidden(w, "may not be set for a windows pod")
		return
	}
	if r.Claims != nil {
		c.forbidden(w.field("claims"), "claims may not be set for Resources at pod-level")
	}
	c.resources(w, r, resourcesOfPod)

	pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: c.spec.Containers, InitContainers: c.spec.InitContainers}}
	for name, sum := range resourcehelper.AggregateContainerRequests(pod, resourcehelper.PodResourcesOptions{}) {
		if request, ok := r.Requests[name]; ok && sum.Cmp(request) > 0 {
			c.invalid(w.field("requests").key(string(name)), request.String(), fmt.Sprintf("must be greater than or equal to aggregate container requests of %s", sum.String()))
		}
	}
	for name, sum := range resourcehelper.AggregateContainerLimits(pod, resourcehelper.PodResourcesOptions{}) {
		if limit, ok := r.Limits[name]; ok && isHugePages(name) && sum.Cmp(limit) > 0 {
			c.invalid(w.field("limits").key(string(name)), limit.String(), fmt.Sprintf("must be greater than or equal to aggregate container limits of %s", sum.String()))
		}
	}
	for i := range c.spec.Containers {
		for name, limit := range c.spec.Containers[i].Resources.Limits {
			if whole, ok := r.Limits[name]; ok && limit.Cmp(whole) > 0 {
				c.invalid(w.field("containers").at(i).key(string(name)).field("limits"), limit.String(), fmt.Sprintf("must be less than or equal to pod limits of %s", whole.String()))
			}
		}
	}
}
