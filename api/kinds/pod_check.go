package kinds

import (
	corev1 "k8s.io/api/core/v1"
)

// podCheck validates the specification of one pod or pod template. It holds what many of the checks need to know about the
// rest of the pod; the checks themselves are methods in the pod_validate files, by noun.
type podCheck struct {
	faults
	spec    *corev1.PodSpec
	volumes volumeSet // the right volumes only: to a mount a wrong one is not there
	claimed nameSet   // the names of the pod's resource claims
	allow   podAllowances
}

// podAllowances lists faults that are let pass because the pod being updated has them already: rules that came later
// than pods must not make them impossible to update. All false on create.
type podAllowances struct {
	indivisibleHugePages    bool // amounts that are no multiple of the page size
	affinityLabelValues     bool // malformed label values in pod affinity selectors
	nodeAffinityLabelValues bool // malformed label values in required node affinity
	spreadSelector          bool // malformed selectors in topology spread constraints
	spreadMatchLabelKeys    bool // bad matchLabelKeys in topology spread constraints
	tokenPath               bool // projected token paths with ..
	hostSysctls             bool // sysctls of the host's namespaces
	usernsDevices           bool // block devices in pods with user namespaces
	usernsHostNetwork       bool // host network with user namespaces
	emptyImageReference     bool // image volumes without reference
	sysAdminNoEscalation    bool // CAP_SYS_ADMIN without allowPrivilegeEscalation
	initRestartOnResize     bool // resizePolicy RestartContainer in init containers
	comparingTolerations    bool // toleration operators Lt and Gt
}

// hostUsers reports whether the pod shares the host's user namespace, which is the default.
func (c *podCheck) hostUsers() bool { return c.spec.HostUsers == nil || *c.spec.HostUsers }

// nameSet is a set of strings that allocates nothing while it is small, and is not slow when it is not.
type nameSet struct {
	few  [8]string
	n    int
	many map[string]struct{}
}

// add puts name into the set and reports whether it was not there yet.
func (s *nameSet) add(name string) bool {
	if s.has(name) {
		return false
	}
	switch {
	case s.many != nil:
		s.many[name] = struct{}{}
	case s.n < len(s.few):
		s.few[s.n] = name
		s.n++
	default:
		s.many = make(map[string]struct{}, 4*len(s.few))
		for _, f := range s.few {
			s.many[f] = struct{}{}
		}
		s.many[name] = struct{}{}
	}
	return true
}

func (s *nameSet) has(name string) bool {
	if s.many != nil {
		_, ok := s.many[name]
		return ok
	}
	for i := 0; i < s.n; i++ {
		if s.few[i] == name {
			return true
		}
	}
	return false
}

// volumeSet finds volumes by name; like nameSet it allocates nothing while it is small.
type volumeSet struct {
	few  [8]*corev1.Volume
	n    int
	many map[string]*corev1.Volume
}

func (s *volumeSet) add(v *corev1.Volume) {
	if s.n < len(s.few) {
		s.few[s.n] = v
		s.n++
		return
	}
	if s.many == nil {
		s.many = map[string]*corev1.Volume{}
	}
	s.many[v.Name] = v
}

// get returns nil when there is no such volume.
func (s *volumeSet) get(name string) *corev1.Volume {
	for i := 0; i < s.n; i++ {
		if s.few[i].Name == name {
			return s.few[i]
		}
	}
	return s.many[name]
}
