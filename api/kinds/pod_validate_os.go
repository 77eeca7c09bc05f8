package kinds

import (
	"fmt"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

var (
	windowsNetBIOSDomain = regexp.MustCompile(`^[^\\/:\*\?"<>|\.][^\\/:\*\?"<>|]{0,14}$`)
	windowsDNSDomain     = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9\-]*[a-zA-Z0-9])?(\.[a-zA-Z0-9]([a-zA-Z0-9\-]*[a-zA-Z0-9])?)*$`)
)

func (c *podCheck) windowsOptions(w *where, o *corev1.WindowsSecurityContextOptions) {
	if o == nil {
		return
	}
	if name := o.GMSACredentialSpecName; name != nil && !isDNSSubdomain(*name) {
		c.each(w.field("gmsaCredentialSpecName"), *name, validation.IsDNS1123Subdomain(*name))
	}
	if spec := o.GMSACredentialSpec; spec != nil {
		const longest = 64 // KiB
		if *spec == "" {
			c.invalid(w.field("gmsaCredentialSpec"), *spec, "gmsaCredentialSpec cannot be an empty string")
		} else if len(*spec) > longest*1024 {
			c.invalid(w.field("gmsaCredentialSpec"), *spec, fmt.Sprintf("gmsaCredentialSpec size must be under %d KiB", longest))
		}
	}
	if o.RunAsUserName != nil {
		c.windowsUser(w.field("runAsUserName"), *o.RunAsUserName)
	}
}

// windowsUser checks [DOMAIN\]USER.
func (c *podCheck) windowsUser(w *where, name string) {
	domain, user, hasDomain := strings.Cut(name, `\`)
	if !hasDomain {
		domain, user = "", name
	}
	isControl := func(r rune) bool { return r <= 0x1f || r == 0x7f }
	switch {
	case name == "":
		c.invalid(w, name, "runAsUserName cannot be an empty string")
		return
	case strings.IndexFunc(name, isControl) >= 0:
		c.invalid(w, name, "runAsUserName cannot contain control characters")
		return
	case strings.Contains(user, `\`):
		c.invalid(w, name, "runAsUserName cannot contain more than one backslash")
		return
	}
	const longestDomain, longestUser = 256, 104
	if len(domain) >= longestDomain {
		c.invalid(w, name, fmt.Sprintf("runAsUserName's Domain length must be under %d characters", longestDomain))
	}
	if hasDomain && !windowsNetBIOSDomain.MatchString(domain) && !windowsDNSDomain.MatchString(domain) {
		c.invalid(w, name, "runAsUserName's Domain doesn't match the NetBios nor the DNS format")
	}
	if user == "" {
		c.invalid(w, name, "runAsUserName's User cannot be empty")
	} else if len(user) > longestUser {
		c.invalid(w, name, fmt.Sprintf("runAsUserName's User length must not be longer than %d characters", longestUser))
	}
	if user != "" && strings.Trim(user, ". ") == "" {
		c.invalid(w, name, "runAsUserName's User cannot contain only periods or spaces")
	}
	if strings.ContainsAny(user, `"/\:;|=,+*?<>@[]`) {
		c.invalid(w, name, `runAsUserName's User cannot contain the following characters: "/\:;|=,+*?<>@[]`)
	}
}

// hostProcesses checks Windows' host process containers: all or none, in the host's network.
func (c *podCheck) hostProcesses(w *where) {
	var ofPod *bool
	if s := c.spec.SecurityContext; s != nil && s.WindowsOptions != nil {
		ofPod = s.WindowsOptions.HostProcess
	}
	containers, host := 0, 0
	check := func(w *where, s *corev1.SecurityContext) {
		containers++
		var own *bool
		if s != nil && s.WindowsOptions != nil {
			own = s.WindowsOptions.HostProcess
		}
		if own != nil && ofPod != nil && *own != *ofPod {
			c.invalid(w.field("securityContext").field("windowsOptions").field("hostProcess"), *own,
				fmt.Sprintf("pod hostProcess value must be identical if both are specified, was %v", *ofPod))
		}
		if isTrue(own) || own == nil && isTrue(ofPod) {
			host++
		}
	}
	for list, name := range containerLists(c.spec) {
		for i := range list {
			check(w.field(name).at(i), list[i].SecurityContext)
		}
	}
	for i := range c.spec.EphemeralContainers {
		check(w.field("ephemeralContainers").at(i), c.spec.EphemeralContainers[i].SecurityContext)
	}
	if host == 0 {
		return
	}
	if host != containers {
		c.invalid(w, "", "If pod contains any hostProcess containers then all containers must be HostProcess containers")
	}
	if !c.spec.HostNetwork {
		c.invalid(w.field("hostNetwork"), false, "hostNetwork must be true if pod contains any hostProcess containers")
	}
}

// os checks the operating system the pod says it is for, and that it asks for nothing the other one has (KEP-2802).
func (c *podCheck) os(w *where) {
	os := c.spec.OS
	if os == nil {
		return
	}
	switch os.Name {
	case corev1.Linux:
		c.linuxOnly(w)
	case corev1.Windows:
		c.windowsOnly(w)
	case "":
		c.required(w.field("os").field("name"), "")
	default:
		notSupported(&c.faults, w.field("os"), os.Name, []corev1.OSName{corev1.Linux, corev1.Windows})
	}
}

func (c *podCheck) linuxOnly(w *where) {
	const detail = "windows options cannot be set for a linux pod"
	if s := c.spec.SecurityContext; s != nil && s.WindowsOptions != nil {
		c.forbidden(w.field("securityContext").field("windowsOptions"), detail)
	}
	c.eachSecurityContext(w, func(w *where, s *corev1.SecurityContext) {
		if s.WindowsOptions != nil {
			c.forbidden(w.field("windowsOptions"), detail)
		}
	})
}

func (c *podCheck) windowsOnly(w *where) {
	if s := c.spec.SecurityContext; s != nil {
		c.notOnWindows(w.field("securityContext"),
			given{"appArmorProfile", s.AppArmorProfile != nil}, given{"seLinuxOptions", s.SELinuxOptions != nil},
			given{"seccompProfile", s.SeccompProfile != nil}, given{"fsGroup", s.FSGroup != nil},
			given{"fsGroupChangePolicy", s.FSGroupChangePolicy != nil}, given{"sysctls", len(s.Sysctls) > 0},
			given{"runAsUser", s.RunAsUser != nil}, given{"runAsGroup", s.RunAsGroup != nil},
			given{"supplementalGroups", s.SupplementalGroups != nil},
			given{"supplementalGroupsPolicy", s.SupplementalGroupsPolicy != nil},
			given{"seLinuxChangePolicy", s.SELinuxChangePolicy != nil})
	}
	c.notOnWindows(w, given{"hostUsers", c.spec.HostUsers != nil}, given{"hostPID", c.spec.HostPID},
		given{"hostIPC", c.spec.HostIPC}, given{"shareProcessNamespace", c.spec.ShareProcessNamespace != nil})
	c.eachSecurityContext(w, func(w *where, s *corev1.SecurityContext) {
		c.notOnWindows(w,
			given{"appArmorProfile", s.AppArmorProfile != nil}, given{"seLinuxOptions", s.SELinuxOptions != nil},
			given{"seccompProfile", s.SeccompProfile != nil}, given{"capabilities", s.Capabilities != nil},
			given{"readOnlyRootFilesystem", s.ReadOnlyRootFilesystem != nil}, given{"privileged", s.Privileged != nil},
			given{"allowPrivilegeEscalation", s.AllowPrivilegeEscalation != nil}, given{"procMount", s.ProcMount != nil},
			given{"runAsUser", s.RunAsUser != nil}, given{"runAsGroup", s.RunAsGroup != nil})
	})
}

// given is a field by name, and whether it is set.
type given struct {
	name string
	set  bool
}

func (c *podCheck) notOnWindows(w *where, fields ...given) {
	for _, f := range fields {
		if f.set {
			c.forbidden(w.field(f.name), "cannot be set for a windows pod")
		}
	}
}

// eachSecurityContext calls f with the security context of each container that has one, and its place.
func (c *podCheck) eachSecurityContext(w *where, f func(*where, *corev1.SecurityContext)) {
	for list, name := range containerLists(c.spec) {
		for i := range list {
			if s := list[i].SecurityContext; s != nil {
				f(w.field(name).at(i).field("securityContext"), s)
			}
		}
	}
	for i := range c.spec.EphemeralContainers {
		if s := c.spec.EphemeralContainers[i].SecurityContext; s != nil {
			f(w.field("ephemeralContainers").at(i).field("securityContext"), s)
		}
	}
}
