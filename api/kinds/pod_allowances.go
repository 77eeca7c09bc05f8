package kinds

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// allowancesFor finds which of the later rules a stored specification breaks already.
func allowancesFor(old *corev1.PodSpec) podAllowances {
	a := podAllowances{
		usernsHostNetwork:    old.HostNetwork && old.HostUsers != nil && !*old.HostUsers,
		indivisibleHugePages: brokenPages(old.Overhead),
		comparingTolerations: slices.ContainsFunc(old.Tolerations, func(t corev1.Toleration) bool {
			return t.Operator == corev1.TolerationOpLt || t.Operator == corev1.TolerationOpGt
		}),
	}
	eachContainer(old, func(c *corev1.Container) {
		a.indivisibleHugePages = a.indivisibleHugePages || brokenPages(c.Resources.Limits) || brokenPages(c.Resources.Requests)
		a.sysAdminNoEscalation = a.sysAdminNoEscalation || addsSysAdmin(c.SecurityContext)
		a.usernsDevices = a.usernsDevices || len(c.VolumeDevices) > 0 && old.HostUsers != nil && !*old.HostUsers
	})
	for i := range old.InitContainers {
		if c := &old.InitContainers[i]; !isSidecar(c) {
			a.initRestartOnResize = a.initRestartOnResize || slices.ContainsFunc(c.ResizePolicy, func(p corev1.ContainerResizePolicy) bool {
				return p.RestartPolicy == corev1.RestartContainer
			})
		}
	}
	for i := range old.Volumes {
		if v := old.Volumes[i].Image; v != nil && v.Reference == "" {
			a.emptyImageReference = true
		}
		if p := old.Volumes[i].Projected; p != nil {
			for j := range p.Sources {
				if t := p.Sources[j].ServiceAccountToken; t != nil {
					a.tokenPath = a.tokenPath || breaks(func(f *faults) { f.localPath(nil, t.Path) })
				}
			}
		}
	}
	if s := old.SecurityContext; s != nil {
		a.hostSysctls = slices.ContainsFunc(s.Sysctls, func(s corev1.Sysctl) bool { return hostSysctl(s.Name, old) != "" })
	}
	for i := range old.TopologySpreadConstraints {
		t := &old.TopologySpreadConstraints[i]
		a.spreadSelector = a.spreadSelector || breaks(func(f *faults) { f.labelSelector(nil, t.LabelSelector, false) })
		a.spreadMatchLabelKeys = a.spreadMatchLabelKeys || breaks(func(f *faults) { f.matchLabelKeys(&where{}, t.MatchLabelKeys, nil, t.LabelSelector) })
	}
	if old.Affinity != nil {
		a.affinityLabelValues = brokenAffinitySelector(old.Affinity)
		if n := old.Affinity.NodeAffinity; n != nil && n.RequiredDuringSchedulingIgnoredDuringExecution != nil {
			for _, t := range n.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
				for _, r := range t.MatchExpressions {
					a.nodeAffinityLabelValues = a.nodeAffinityLabelValues || slices.ContainsFunc(r.Values, func(v string) bool { return !isPlainLabelValue(v) })
				}
			}
		}
	}
	return a
}

// breaks reports whether a check finds fault.
func breaks(check func(*faults)) bool {
	var f faults
	check(&f)
	return len(f.list) > 0
}

func brokenPages(list corev1.ResourceList) bool {
	for name, amount := range list {
		if isHugePages(name) && !isWholePages(name, amount) {
			return true
		}
	}
	return false
}

func addsSysAdmin(s *corev1.SecurityContext) bool {
	return s != nil && !isTrue(s.AllowPrivilegeEscalation) && s.Capabilities != nil && slices.Contains(s.Capabilities.Add, "CAP_SYS_ADMIN")
}

func brokenAffinitySelector(a *corev1.Affinity) bool {
	var terms []*corev1.PodAffinityTerm
	gather := func(required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm) {
		for i := range required {
			terms = append(terms, &required[i])
		}
		for i := range preferred {
			terms = append(terms, &preferred[i].PodAffinityTerm)
		}
	}
	if p := a.PodAffinity; p != nil {
		gather(p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if p := a.PodAntiAffinity; p != nil {
		gather(p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	return slices.ContainsFunc(terms, func(t *corev1.PodAffinityTerm) bool {
		return breaks(func(f *faults) {
			f.labelSelector(nil, t.LabelSelector, false)
			f.labelSelector(nil, t.NamespaceSelector, false)
		})
	})
}
