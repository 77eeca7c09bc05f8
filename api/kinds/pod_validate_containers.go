package kinds

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// containers checks the ordinary containers: names and host ports are unique among them.
func (c *podCheck) containers(w *where) {
	list := c.spec.Containers
	if len(list) == 0 {
		c.required(w, "")
		return
	}
	var names nameSet
	for i := range list {
		at, container := w.at(i), &list[i]
		c.container(at, container)
		if !names.add(container.Name) {
			c.duplicate(at.field("name"), container.Name)
		}
		c.lifecycle(at.field("lifecycle"), container.Lifecycle)
		c.probes(at, container)
		c.restartRules(at, container.RestartPolicy, container.RestartPolicyRules)
	}
	var ports nameSet
	for i := range list {
		c.hostPorts(w.at(i), &list[i], &ports)
	}
}

// initContainers checks the init containers. Sidecars (restartPolicy Always, KEP-753) may have what ordinary containers have.
func (c *podCheck) initContainers(w *where) {
	list := c.spec.InitContainers
	if len(list) == 0 {
		return
	}
	var names nameSet
	for i := range c.spec.Containers {
		names.add(c.spec.Containers[i].Name)
	}
	for i := range list {
		at, container := w.at(i), &list[i]
		c.container(at, container)
		if container.RestartPolicy != nil {
			c.restartRules(at, container.RestartPolicy, container.RestartPolicyRules)
		} else if len(container.RestartPolicyRules) > 0 {
			c.required(at.field("restartPolicy"), "must specify restartPolicy when restart rules are used")
		}
		if names.has(container.Name) {
			c.duplicate(at.field("name"), container.Name)
		} else if container.Name != "" {
			names.add(container.Name)
		}
		// One runs after the other: ports may only collide within one. Upstream counts them from 0 each time.
		var ports nameSet
		c.hostPorts(w.at(0), container, &ports)

		if isSidecar(container) {
			c.lifecycle(at.field("lifecycle"), container.Lifecycle)
			c.probes(at, container)
			continue
		}
		const detail = "may not be set for init containers without restartPolicy=Always"
		if container.Lifecycle != nil {
			c.forbidden(at.field("lifecycle"), detail)
		}
		if container.LivenessProbe != nil {
			c.forbidden(at.field("livenessProbe"), detail)
		}
		if container.ReadinessProbe != nil {
			c.forbidden(at.field("readinessProbe"), detail)
		}
		if container.StartupProbe != nil {
			c.forbidden(at.field("startupProbe"), detail)
		}
		if !c.allow.initRestartOnResize {
			for j, p := range container.ResizePolicy {
				if p.RestartPolicy == corev1.RestartContainer {
					c.invalid(at.field("resizePolicy").at(j).field("restartPolicy"), p.RestartPolicy, "must not be set to 'RestartContainer' for non-sidecar initContainers")
				}
			}
		}
	}
}

// ephemeralContainers checks the containers that were added for debugging (KEP-277): of the fields of a container they
// may have those that need no preparation by the pod.
func (c *podCheck) ephemeralContainers(w *where) {
	if len(c.spec.EphemeralContainers) == 0 {
		return
	}
	var others, names nameSet
	for i := range c.spec.Containers {
		others.add(c.spec.Containers[i].Name)
		names.add(c.spec.Containers[i].Name)
	}
	for i := range c.spec.InitContainers {
		others.add(c.spec.InitContainers[i].Name)
		names.add(c.spec.InitContainers[i].Name)
	}
	for i := range c.spec.EphemeralContainers {
		at, ephemeral := w.at(i), &c.spec.EphemeralContainers[i]
		container := (*corev1.Container)(&ephemeral.EphemeralContainerCommon)
		c.container(at, container)
		c.imageSpace(at, container)
		if !names.add(ephemeral.Name) {
			c.duplicate(at.field("name"), ephemeral.Name)
		}
		if t := ephemeral.TargetContainerName; t != "" && !others.has(t) {
			c.notFound(at.field("targetContainerName"), t)
		}
		c.ephemeralOnly(at, container)
	}
}

func (c *podCheck) ephemeralOnly(at *where, container *corev1.Container) {
	const detail = "cannot be set for an Ephemeral Container"
	r := &container.Resources
	for _, f := range [...]struct {
		name string
		set  bool
	}{
		{"ports", container.Ports != nil},
		{"resources", r.Limits != nil || r.Requests != nil || r.Claims != nil},
		{"resizePolicy", container.ResizePolicy != nil},
		{"restartPolicy", container.RestartPolicy != nil},
		{"restartPolicyRules", container.RestartPolicyRules != nil},
		{"livenessProbe", container.LivenessProbe != nil},
		{"readinessProbe", container.ReadinessProbe != nil},
		{"startupProbe", container.StartupProbe != nil},
		{"lifecycle", container.Lifecycle != nil},
	} {
		if f.set {
			c.forbidden(at.field(f.name), detail)
		}
	}
	// subPath mounts are only cleaned up with the pod.
	for i := range container.VolumeMounts {
		if container.VolumeMounts[i].SubPath != "" {
			c.forbidden(at.field("volumeMounts").at(i).field("subPath"), detail)
		}
		if container.VolumeMounts[i].SubPathExpr != "" {
			c.forbidden(at.field("volumeMounts").at(i).field("subPathExpr"), detail)
		}
	}
}

// container checks what holds for containers of every sort.
func (c *podCheck) container(w *where, container *corev1.Container) {
	if container.Name == "" {
		c.required(w.field("name"), "")
	} else {
		c.dnsLabel(w.field("name"), container.Name)
	}
	if container.Image == "" {
		c.required(w.field("image"), "")
	}
	oneOf(&c.faults, w.field("terminationMessagePolicy"), container.TerminationMessagePolicy,
		[]corev1.TerminationMessagePolicy{corev1.TerminationMessageReadFile, corev1.TerminationMessageFallbackToLogsOnError})
	c.ports(w.field("ports"), container.Ports)
	c.env(w.field("env"), container.Env)
	c.envFrom(w.field("envFrom"), container.EnvFrom)
	c.mounts(w.field("volumeMounts"), container)
	c.devices(w.field("volumeDevices"), container)
	oneOf(&c.faults, w.field("imagePullPolicy"), container.ImagePullPolicy,
		[]corev1.PullPolicy{corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever})
	c.resources(w.field("resources"), &container.Resources, resourcesOfContainer)
	c.resizePolicy(w.field("resizePolicy"), container.ResizePolicy)
	c.containerSecurity(w.field("securityContext"), container.SecurityContext)
}

// imageSpace: in pods an image may not begin or end with space. (Templates with " " for "to be filled in" are about.)
func (c *podCheck) imageSpace(w *where, container *corev1.Container) {
	if strings.TrimSpace(container.Image) != container.Image {
		c.invalid(w.field("image"), container.Image, "must not have leading or trailing whitespace")
	}
}

func (c *podCheck) ports(w *where, ports []corev1.ContainerPort) {
	var names nameSet
	for i := range ports {
		at, p := w.at(i), &ports[i]
		if p.Name != "" {
			if msgs := validation.IsValidPortName(p.Name); len(msgs) != 0 {
				c.each(at.field("name"), p.Name, msgs)
			} else if !names.add(p.Name) {
				c.duplicate(at.field("name"), p.Name)
			}
		}
		if p.ContainerPort == 0 {
			c.required(at.field("containerPort"), "")
		} else {
			c.port(at.field("containerPort"), p.ContainerPort)
		}
		if p.HostPort != 0 {
			c.port(at.field("hostPort"), p.HostPort)
		}
		oneOf(&c.faults, at.field("protocol"), p.Protocol, []corev1.Protocol{corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP})
	}
}

// hostPorts checks that no host port is asked for twice; taken holds those of the containers before.
func (c *podCheck) hostPorts(w *where, container *corev1.Container, taken *nameSet) {
	for i := range container.Ports {
		p := &container.Ports[i]
		if p.HostPort == 0 {
			continue
		}
		if key := fmt.Sprintf("%s/%s/%d", p.Protocol, p.HostIP, p.HostPort); !taken.add(key) {
			c.duplicate(w.field("ports").at(i).field("hostPort"), key)
		}
	}
}

// restartRules checks restart policy and rules of one container (KEP-5307).
func (c *podCheck) restartRules(w *where, policy *corev1.ContainerRestartPolicy, rules []corev1.ContainerRestartRule) {
	if policy == nil && len(rules) == 0 {
		return
	}
	if policy == nil {
		c.required(w.field("restartPolicy"), "must specify restartPolicy when restart rules are used")
	} else {
		knownValue(&c.faults, w.field("restartPolicy"), *policy, []corev1.ContainerRestartPolicy{
			corev1.ContainerRestartPolicyAlways, corev1.ContainerRestartPolicyNever, corev1.ContainerRestartPolicyOnFailure})
	}
	if len(rules) > 20 {
		c.keep(field.TooMany(w.field("restartPolicyRules").path(), len(rules), 20))
	}
	for i := range rules {
		at, rule := w.field("restartPolicyRules").at(i), &rules[i]
		knownValue(&c.faults, at.field("action"), rule.Action, []corev1.ContainerRestartRuleAction{
			corev1.ContainerRestartRuleActionRestart, corev1.ContainerRestartRuleActionRestartAllContainers})
		if rule.ExitCodes == nil {
			c.required(at.field("exitCodes"), "must be specified")
			continue
		}
		at = at.field("exitCodes")
		knownValue(&c.faults, at.field("operator"), rule.ExitCodes.Operator, []corev1.ContainerRestartRuleOnExitCodesOperator{
			corev1.ContainerRestartRuleOnExitCodesOpIn, corev1.ContainerRestartRuleOnExitCodesOpNotIn})
		if n := len(rule.ExitCodes.Values); n > 255 {
			c.keep(field.TooMany(at.field("values").path(), n, 255))
		}
	}
}

// resizePolicy checks what is to happen to a container when its resources change (KEP-1287).
func (c *podCheck) resizePolicy(w *where, policies []corev1.ContainerResizePolicy) {
	for i, p := range policies {
		for _, before := range policies[:i] {
			if before.ResourceName == p.ResourceName {
				c.duplicate(w.at(i), p.ResourceName)
				break
			}
		}
		oneOf(&c.faults, w, p.ResourceName, []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory})
		oneOf(&c.faults, w, p.RestartPolicy, []corev1.ResourceResizeRestartPolicy{corev1.NotRequired, corev1.RestartContainer})
		if c.spec.RestartPolicy == corev1.RestartPolicyNever && p.RestartPolicy != corev1.NotRequired {
			c.invalid(w, p.RestartPolicy, "must be 'NotRequired' when pod `restartPolicy` is 'Never'")
		}
		if i > 64 {
			return // two names are right: the rest would only repeat what has been said
		}
	}
}
