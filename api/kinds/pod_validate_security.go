package kinds

import (
	"fmt"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/component-helpers/node/util/sysctl"
)

func (c *podCheck) podSecurity(w *where, s *corev1.PodSecurityContext) {
	if s == nil {
		return
	}
	c.groupID(w.field("fsGroup"), s.FSGroup)
	c.userID(w.field("runAsUser"), s.RunAsUser)
	c.groupID(w.field("runAsGroup"), s.RunAsGroup)
	for i := range s.SupplementalGroups {
		c.groupID(w.field("supplementalGroups").at(i), &s.SupplementalGroups[i])
	}
	c.sysctls(w.field("sysctls"), s.Sysctls)
	if p := s.FSGroupChangePolicy; p != nil {
		knownValue(&c.faults, w.field("fsGroupChangePolicy"), *p,
			[]corev1.PodFSGroupChangePolicy{corev1.FSGroupChangeAlways, corev1.FSGroupChangeOnRootMismatch})
	}
	c.seccomp(w.field("seccompProfile"), s.SeccompProfile)
	c.windowsOptions(w.field("windowsOptions"), s.WindowsOptions)
	c.appArmor(w.field("appArmorProfile"), s.AppArmorProfile)
	if p := s.SupplementalGroupsPolicy; p != nil {
		knownValue(&c.faults, w.field("supplementalGroupsPolicy"), *p,
			[]corev1.SupplementalGroupsPolicy{corev1.SupplementalGroupsPolicyMerge, corev1.SupplementalGroupsPolicyStrict})
	}
	if p := s.SELinuxChangePolicy; p != nil {
		knownValue(&c.faults, w.field("seLinuxChangePolicy"), *p,
			[]corev1.PodSELinuxChangePolicy{corev1.SELinuxChangePolicyMountOption, corev1.SELinuxChangePolicyRecursive})
	}
}

func (c *podCheck) containerSecurity(w *where, s *corev1.SecurityContext) {
	if s == nil {
		return
	}
	c.userID(w.field("runAsUser"), s.RunAsUser)
	c.groupID(w.field("runAsGroup"), s.RunAsGroup)
	if p := s.ProcMount; p != nil {
		knownValue(&c.faults, w.field("procMount"), *p, []corev1.ProcMountType{corev1.DefaultProcMount, corev1.UnmaskedProcMount})
		if c.hostUsers() && *p == corev1.UnmaskedProcMount {
			c.invalid(w.field("procMount"), *p, "`hostUsers` must be false to use `Unmasked`")
		}
	}
	c.seccomp(w.field("seccompProfile"), s.SeccompProfile)
	if s.AllowPrivilegeEscalation != nil && !*s.AllowPrivilegeEscalation {
		if isTrue(s.Privileged) {
			c.invalid(w, s, "cannot set `allowPrivilegeEscalation` to false and `privileged` to true")
		}
		if s.Capabilities != nil && !c.allow.sysAdminNoEscalation {
			for _, capability := range s.Capabilities.Add {
				if capability == "CAP_SYS_ADMIN" {
					c.invalid(w, s, "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN")
				}
			}
		}
	}
	c.windowsOptions(w.field("windowsOptions"), s.WindowsOptions)
	c.appArmor(w.field("appArmorProfile"), s.AppArmorProfile)
}

func (f *faults) userID(w *where, id *int64) {
	if id != nil {
		f.eachNumber(w, *id, validation.IsValidUserID(*id))
	}
}

func (f *faults) groupID(w *where, id *int64) {
	if id != nil {
		f.eachNumber(w, *id, validation.IsValidGroupID(*id))
	}
}

func (c *podCheck) seccomp(w *where, p *corev1.SeccompProfile) {
	if p == nil {
		return
	}
	oneOfSeccomp := []corev1.SeccompProfileType{corev1.SeccompProfileTypeLocalhost, corev1.SeccompProfileTypeRuntimeDefault, corev1.SeccompProfileTypeUnconfined}
	if p.Type == "" {
		c.required(w.field("type"), "type is required when seccompProfile is set")
	} else {
		knownValue(&c.faults, w.field("type"), p.Type, oneOfSeccomp)
	}
	switch local := p.Type == corev1.SeccompProfileTypeLocalhost; {
	case local && p.LocalhostProfile == nil:
		c.required(w.field("localhostProfile"), "must be set when seccomp type is Localhost")
	case local:
		c.descendingPath(w.field("localhostProfile"), *p.LocalhostProfile)
	case p.LocalhostProfile != nil:
		c.invalid(w.field("localhostProfile"), p, "can only be set when seccomp type is Localhost")
	}
}

func (c *podCheck) appArmor(w *where, p *corev1.AppArmorProfile) {
	if p == nil {
		return
	}
	switch p.Type {
	case corev1.AppArmorProfileTypeLocalhost:
		at := w.field("localhostProfile")
		if p.LocalhostProfile == nil {
			c.required(at, "must be set when AppArmor type is Localhost")
			return
		}
		switch name := *p.LocalhostProfile; {
		case strings.TrimSpace(name) != name:
			c.invalid(at, name, "must not be padded with whitespace")
		case name == "":
			c.required(at, "must be set when AppArmor type is Localhost")
		}
		const longest = 4095 // PATH_MAX - 1
		if len(*p.LocalhostProfile) > longest {
			c.tooLong(at, "", longest)
		}
	case corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeUnconfined:
		if p.LocalhostProfile != nil {
			c.invalid(w.field("localhostProfile"), *p.LocalhostProfile, "can only be set when AppArmor type is Localhost")
		}
	case "":
		c.required(w.field("type"), "type is required when appArmorProfile is set")
	default:
		notSupported(&c.faults, w.field("type"), p.Type, []corev1.AppArmorProfileType{
			corev1.AppArmorProfileTypeLocalhost, corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeUnconfined})
	}
}

// sysctlPattern is quoted in the answer to a malformed name.
const sysctlPattern = `^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$`

var sysctlName = regexp.MustCompile(sysctlPattern)

func (c *podCheck) sysctls(w *where, sysctls []corev1.Sysctl) {
	var names nameSet
	for i := range sysctls {
		at, name := w.at(i).field("name"), sysctls[i].Name
		switch {
		case name == "":
			c.required(at, "")
		case len(name) > 253 || !sysctlName.MatchString(name):
			c.invalid(at, name, fmt.Sprintf("must have at most %d characters and match regex %s", 253, sysctlPattern))
		case names.has(name):
			c.duplicate(at, name)
		}
		names.add(name)
		if c.allow.hostSysctls {
			continue
		}
		if detail := hostSysctl(name, c.spec); detail != "" {
			c.invalid(at, name, detail)
		}
	}
}

// hostSysctl says why a sysctl may not be set in this pod: it belongs to a namespace that the pod shares with the host.
func hostSysctl(name string, spec *corev1.PodSpec) string {
	switch namespace, _, _ := sysctl.GetNamespace(name); {
	case spec.HostNetwork && namespace == sysctl.NetNamespace:
		return "may not be specified when 'hostNetwork' is true"
	case spec.HostIPC && namespace == sysctl.IPCNamespace:
		return "may not be specified when 'hostIPC' is true"
	}
	return ""
}

// hostNamespaces checks what a user namespace of the pod's own (KEP-127) cannot be joined with.
func (c *podCheck) hostNamespaces(w *where) {
	spec := c.spec
	if isTrue(spec.ShareProcessNamespace) && spec.HostPID {
		c.invalid(w.field("shareProcessNamespace"), true, "ShareProcessNamespace and HostPID cannot both be enabled")
	}
	if c.hostUsers() {
		return
	}
	const detail = "when `hostUsers` is false"
	if spec.HostNetwork && !c.allow.usernsHostNetwork {
		c.forbidden(w.field("hostNetwork"), detail)
	}
	if spec.HostPID {
		c.forbidden(w.field("HostPID"), detail)
	}
	if spec.HostIPC {
		c.forbidden(w.field("HostIPC"), detail)
	}
	if c.allow.usernsDevices {
		return
	}
	for list, name := range containerLists(spec) {
		for i := range list {
			if len(list[i].VolumeDevices) > 0 {
				c.forbidden(w.field(name).at(i).field("volumeDevices"), detail)
			}
		}
	}
	for i := range spec.EphemeralContainers {
		if len(spec.EphemeralContainers[i].VolumeDevices) > 0 {
			c.forbidden(w.field("ephemeralContainers").at(i).field("volumeDevices"), detail)
		}
	}
}

// containerLists goes through the init and the ordinary containers, with the name of the field they are in.
func containerLists(spec *corev1.PodSpec) func(yield func([]corev1.Container, string) bool) {
	return func(yield func([]corev1.Container, string) bool) {
		_ = yield(spec.InitContainers, "initContainers") && yield(spec.Containers, "containers")
	}
}

// annotatedProfiles checks that profiles which are given as annotations too, as before there were fields, agree.
func (c *podCheck) annotatedProfiles(w *where, annotations map[string]string) {
	if len(annotations) == 0 {
		return
	}
	var podSeccomp *corev1.SeccompProfile
	var podAppArmor *corev1.AppArmorProfile
	if s := c.spec.SecurityContext; s != nil {
		podSeccomp, podAppArmor = s.SeccompProfile, s.AppArmorProfile
	}
	if value, ok := annotations[corev1.SeccompPodAnnotationKey]; ok {
		c.seccompAgrees(w.field("securityContext").field("seccompProfile"), podSeccomp, value)
	}
	check := func(w *where, name string, s *corev1.SecurityContext) {
		w = w.field("securityContext")
		if value, ok := annotations[corev1.SeccompContainerAnnotationKeyPrefix+name]; ok && s != nil {
			c.seccompAgrees(w.field("seccompProfile"), s.SeccompProfile, value)
		}
		profile := podAppArmor
		if s != nil && s.AppArmorProfile != nil {
			profile = s.AppArmorProfile
		}
		if value, ok := annotations[corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix+name]; ok && !isWindows(c.spec) {
			c.appArmorAgrees(w.field("appArmorProfile"), profile, value)
		}
	}
	for list, name := range containerLists(c.spec) {
		for i := range list {
			check(w.field(name).at(i), list[i].Name, list[i].SecurityContext)
		}
	}
	for i := range c.spec.EphemeralContainers {
		e := &c.spec.EphemeralContainers[i]
		check(w.field("ephemeralContainers").at(i), e.Name, e.SecurityContext)
	}
}

func (c *podCheck) seccompAgrees(w *where, p *corev1.SeccompProfile, annotation string) {
	if p == nil {
		return
	}
	agrees := true
	switch p.Type {
	case corev1.SeccompProfileTypeUnconfined:
		agrees = annotation == corev1.SeccompProfileNameUnconfined
	case corev1.SeccompProfileTypeRuntimeDefault:
		agrees = annotation == corev1.SeccompProfileRuntimeDefault || annotation == corev1.DeprecatedSeccompProfileDockerDefault
	case corev1.SeccompProfileTypeLocalhost:
		name, ok := strings.CutPrefix(annotation, corev1.SeccompLocalhostProfileNamePrefix)
		if ok && (p.LocalhostProfile == nil || *p.LocalhostProfile != name) {
			c.forbidden(w.field("localhostProfile"), "seccomp profile in annotation and field must match")
			return
		}
		agrees = ok
	}
	if !agrees {
		c.forbidden(w.field("type"), "seccomp type in annotation and field must match")
	}
}

func (c *podCheck) appArmorAgrees(w *where, p *corev1.AppArmorProfile, annotation string) {
	if p == nil {
		return
	}
	agrees := true
	switch p.Type {
	case corev1.AppArmorProfileTypeUnconfined:
		agrees = annotation == corev1.DeprecatedAppArmorBetaProfileNameUnconfined
	case corev1.AppArmorProfileTypeRuntimeDefault:
		agrees = annotation == corev1.DeprecatedAppArmorBetaProfileRuntimeDefault
	case corev1.AppArmorProfileTypeLocalhost:
		name, ok := strings.CutPrefix(annotation, corev1.DeprecatedAppArmorBetaProfileNamePrefix)
		if ok && (p.LocalhostProfile == nil || *p.LocalhostProfile != name) {
			c.forbidden(w.field("localhostProfile"), "apparmor profile in annotation and field must match")
			return
		}
		agrees = ok
	}
	if !agrees {
		c.forbidden(w.field("type"), "apparmor type in annotation and field must match")
	}
}

// appArmorFromAnnotation returns the profile that an annotation of the old style names, or nil when it names none that
// the field may have.
func appArmorFromAnnotation(annotation string) *corev1.AppArmorProfile {
	switch annotation {
	case corev1.DeprecatedAppArmorBetaProfileNameUnconfined:
		return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeUnconfined}
	case corev1.DeprecatedAppArmorBetaProfileRuntimeDefault:
		return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeRuntimeDefault}
	}
	name, ok := strings.CutPrefix(annotation, corev1.DeprecatedAppArmorBetaProfileNamePrefix)
	if !ok {
		return nil
	}
	profile := &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeLocalhost, LocalhostProfile: &name}
	var c podCheck
	if c.appArmor(nil, profile); len(c.list) > 0 {
		return nil
	}
	return profile
}
