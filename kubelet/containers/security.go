package containers

import (
	"fmt"
	"path/filepath"

	v1 "k8s.io/api/core/v1"

	"wherry.dev/wherry/kubelet/runtime"
)

// SecurityDefaults are the kubelet's own settings for what pods leave open.
type SecurityDefaults struct {
	SeccompDefault bool   // RuntimeDefault instead of Unconfined where a pod says nothing
	SeccompRoot    string // directory of Localhost profiles
}

// maskedPaths and readonlyPaths are what ProcMount Default hides and protects (core/v1 ProcMountType).
var (
	maskedPaths = []string{"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
		"/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap"}
	readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

// effective merges a container's security context over the pod's. Never nil; the caller owns it.
func effective(pod *v1.Pod, c *v1.Container) *v1.SecurityContext {
	out := &v1.SecurityContext{}
	if c.SecurityContext != nil {
		*out = *c.SecurityContext
	}
	p := pod.Spec.SecurityContext
	if p == nil {
		return out
	}
	if out.RunAsUser == nil {
		out.RunAsUser = p.RunAsUser
	}
	if out.RunAsGroup == nil {
		out.RunAsGroup = p.RunAsGroup
	}
	if out.RunAsNonRoot == nil {
		out.RunAsNonRoot = p.RunAsNonRoot
	}
	if out.SELinuxOptions == nil {
		out.SELinuxOptions = p.SELinuxOptions
	}
	if out.SeccompProfile == nil {
		out.SeccompProfile = p.SeccompProfile
	}
	if out.AppArmorProfile == nil {
		out.AppArmorProfile = p.AppArmorProfile
	}
	return out
}

func containerSecurity(pod *v1.Pod, c *v1.Container, in Input) (*runtime.ContainerSecurity, error) {
	sc := effective(pod, c)
	if err := verifyNonRoot(pod, c, sc, in.Image); err != nil {
		return nil, err
	}
	s := &runtime.ContainerSecurity{
		NamespaceOptions: namespaces(pod),
		Privileged:       truth(sc.Privileged),
		ReadonlyRootfs:   truth(sc.ReadOnlyRootFilesystem),
		NoNewPrivs:       sc.AllowPrivilegeEscalation != nil && !*sc.AllowPrivilegeEscalation,
		RunAsGroup:       int64Value(sc.RunAsGroup),
		SelinuxOptions:   selinux(sc.SELinuxOptions),
		Apparmor:         appArmor(pod, c, sc.AppArmorProfile),
	}
	if in.TargetID != "" {
		s.NamespaceOptions.Pid, s.NamespaceOptions.TargetId = runtime.NamespaceTarget, in.TargetID
	}
	switch {
	case sc.RunAsUser != nil:
		s.RunAsUser = int64Value(sc.RunAsUser)
	case in.Image != nil && in.Image.UID != nil:
		s.RunAsUser = &runtime.Int64Value{Value: *in.Image.UID}
	case in.Image != nil:
		s.RunAsUsername = in.Image.Username
	}
	var err error
	if s.Seccomp, err = seccomp(sc.SeccompProfile, in.Security); err != nil {
		return nil, err
	}
	if sc.Capabilities != nil {
		s.Capabilities = &runtime.Capability{}
		for _, x := range sc.Capabilities.Add {
			s.Capabilities.AddCapabilities = append(s.Capabilities.AddCapabilities, string(x))
		}
		for _, x := range sc.Capabilities.Drop {
			s.Capabilities.DropCapabilities = append(s.Capabilities.DropCapabilities, string(x))
		}
	}
	if p := pod.Spec.SecurityContext; p != nil {
		s.SupplementalGroups, s.SupplementalGroupsPolicy = groups(p)
	}
	if sc.ProcMount == nil || *sc.ProcMount == v1.DefaultProcMount {
		s.MaskedPaths, s.ReadonlyPaths = maskedPaths, readonlyPaths
	}
	return s, nil
}

func groups(p *v1.PodSecurityContext) ([]int64, runtime.SupplementalGroupsPolicy) {
	var all []int64
	if p.FSGroup != nil {
		all = append(all, *p.FSGroup)
	}
	all = append(all, p.SupplementalGroups...)
	policy := runtime.SupplementalGroupsMerge
	if p.SupplementalGroupsPolicy != nil && *p.SupplementalGroupsPolicy == v1.SupplementalGroupsPolicyStrict {
		policy = runtime.SupplementalGroupsStrict
	}
	return all, policy
}

// verifyNonRoot holds runAsNonRoot; its texts are upstream's.
func verifyNonRoot(pod *v1.Pod, c *v1.Container, sc *v1.SecurityContext, img *runtime.Image) error {
	if !truth(sc.RunAsNonRoot) {
		return nil
	}
	switch {
	case sc.RunAsUser != nil && *sc.RunAsUser == 0:
		return fmt.Errorf("container's runAsUser breaks non-root policy (pod: %q, container: %s)", Title(pod), c.Name)
	case sc.RunAsUser != nil:
		return nil
	case img != nil && img.UID != nil && *img.UID == 0:
		return fmt.Errorf("container has runAsNonRoot and image will run as root (pod: %q, container: %s)", Title(pod), c.Name)
	case img != nil && img.UID == nil && img.Username != "":
		return fmt.Errorf("container has runAsNonRoot and image has non-numeric user (%s), cannot verify user is non-root (pod: %q, container: %s)", img.Username, Title(pod), c.Name)
	case img != nil && img.UID == nil:
		return fmt.Errorf("container has runAsNonRoot and image will run as root (pod: %q, container: %s)", Title(pod), c.Name)
	}
	return nil
}

func seccomp(p *v1.SeccompProfile, d SecurityDefaults) (*runtime.SecurityProfile, error) {
	switch {
	case p == nil && d.SeccompDefault, p != nil && p.Type == v1.SeccompProfileTypeRuntimeDefault:
		return &runtime.SecurityProfile{ProfileType: runtime.ProfileRuntimeDefault}, nil
	case p == nil, p.Type == v1.SeccompProfileTypeUnconfined:
		return &runtime.SecurityProfile{ProfileType: runtime.ProfileUnconfined}, nil
	}
	if p.LocalhostProfile == nil || *p.LocalhostProfile == "" {
		return nil, fmt.Errorf("localhostProfile must be set if seccompProfile type is Localhost")
	}
	if !filepath.IsLocal(*p.LocalhostProfile) {
		return nil, fmt.Errorf("localhostProfile %q leaves the directory of seccomp profiles", *p.LocalhostProfile)
	}
	return &runtime.SecurityProfile{ProfileType: runtime.ProfileLocalhost, LocalhostRef: filepath.Join(d.SeccompRoot, *p.LocalhostProfile)}, nil
}

// appArmor maps a profile, from the field or from the annotation it replaced.
func appArmor(pod *v1.Pod, c *v1.Container, p *v1.AppArmorProfile) *runtime.SecurityProfile {
	if p == nil {
		switch value := pod.Annotations[v1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix+c.Name]; {
		case value == v1.DeprecatedAppArmorBetaProfileRuntimeDefault:
			return &runtime.SecurityProfile{ProfileType: runtime.ProfileRuntimeDefault}
		case value == v1.DeprecatedAppArmorBetaProfileNameUnconfined:
			return &runtime.SecurityProfile{ProfileType: runtime.ProfileUnconfined}
		case len(value) > len(v1.DeprecatedAppArmorBetaProfileNamePrefix):
			return &runtime.SecurityProfile{ProfileType: runtime.ProfileLocalhost, LocalhostRef: value[len(v1.DeprecatedAppArmorBetaProfileNamePrefix):]}
		}
		return nil
	}
	switch p.Type {
	case v1.AppArmorProfileTypeRuntimeDefault:
		return &runtime.SecurityProfile{ProfileType: runtime.ProfileRuntimeDefault}
	case v1.AppArmorProfileTypeLocalhost:
		if p.LocalhostProfile != nil {
			return &runtime.SecurityProfile{ProfileType: runtime.ProfileLocalhost, LocalhostRef: *p.LocalhostProfile}
		}
	case v1.AppArmorProfileTypeUnconfined:
		return &runtime.SecurityProfile{ProfileType: runtime.ProfileUnconfined}
	}
	return nil
}

func selinux(o *v1.SELinuxOptions) *runtime.SELinuxOption {
	if o == nil {
		return nil
	}
	return &runtime.SELinuxOption{User: o.User, Role: o.Role, Type: o.Type, Level: o.Level}
}

// namespaces says which of the pod's namespaces are the node's, shared or private.
func namespaces(pod *v1.Pod) *runtime.NamespaceOption {
	n := &runtime.NamespaceOption{Network: runtime.NamespacePod, Ipc: runtime.NamespacePod, Pid: runtime.NamespaceContainer}
	if pod.Spec.HostNetwork {
		n.Network = runtime.NamespaceNode
	}
	if pod.Spec.HostIPC {
		n.Ipc = runtime.NamespaceNode
	}
	switch {
	case pod.Spec.HostPID:
		n.Pid = runtime.NamespaceNode
	case truth(pod.Spec.ShareProcessNamespace):
		n.Pid = runtime.NamespacePod
	}
	return n
}

func truth(b *bool) bool { return b != nil && *b }

func int64Value(n *int64) *runtime.Int64Value {
	if n == nil {
		return nil
	}
	return &runtime.Int64Value{Value: *n}
}
