package kinds

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	netutils "k8s.io/utils/net"
)

// podWarnings warns of what is right but hardly meant, when a pod is created. Updates come from components mostly, who
// do not read warnings. (That an AppArmor annotation is old-fashioned is said when it is turned into the field.)
func podWarnings(_ context.Context, obj, old runtime.Object) []string {
	if old != nil {
		return nil
	}
	pod := obj.(*corev1.Pod)
	var a advice
	if !isDNSLabel(pod.Name) {
		a.list = append(a.list, fmt.Sprintf("metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: %v",
			validation.IsDNS1123Label(pod.Name)))
	}
	a.pod(&specRoot, &pod.Spec, &metadataRoot, pod.Annotations)
	return a.list
}

// advice gathers warnings. Clients are sent no more than a few KiB of them, so the list ends at mostAdvice.
type advice struct {
	list []string
}

const mostAdvice = 256

// full reports whether there is no use in looking for more.
func (a *advice) full() bool { return len(a.list) >= mostAdvice }

func (a *advice) add(text ...string) {
	if !a.full() {
		a.list = append(a.list, text...)
	}
}

func (a *advice) say(w *where, format string, args ...any) {
	if !a.full() {
		a.list = append(a.list, w.path().String()+": "+fmt.Sprintf(format, args...))
	}
}

// ip warns of addresses in another than the usual writing. Those that are none are validation's affair.
func (a *advice) ip(w *where, ip string) {
	if netutils.ParseIPSloppy(ip) != nil {
		a.add(validation.GetWarningsForIP(w.path(), ip)...)
	}
}

// oldLabels are node labels that have become others.
var oldLabels = map[string]string{
	"beta.kubernetes.io/arch":                       `deprecated since v1.14; use "kubernetes.io/arch" instead`,
	"beta.kubernetes.io/os":                         `deprecated since v1.14; use "kubernetes.io/os" instead`,
	"failure-domain.beta.kubernetes.io/region":      `deprecated since v1.17; use "topology.kubernetes.io/region" instead`,
	"failure-domain.beta.kubernetes.io/zone":        `deprecated since v1.17; use "topology.kubernetes.io/zone" instead`,
	"beta.kubernetes.io/instance-type":              `deprecated since v1.17; use "node.kubernetes.io/instance-type" instead`,
	"app.kubernetes.io/created-by":                  `deprecated since v1.9`,
	"scheduler.alpha.kubernetes.io/preferAvoidPods": `deprecated since v1.22; use Taints and Tolerations instead`,
	"node-role.kubernetes.io/master":                `use "node-role.kubernetes.io/control-plane" instead`,
}

func (a *advice) pod(w *where, s *corev1.PodSpec, metadata *where, annotations map[string]string) {
	for key := range s.NodeSelector {
		if msg, ok := oldLabels[key]; ok {
			a.say(w.field("nodeSelector").key(key), "%s", msg)
		}
	}
	if s.Affinity != nil {
		a.affinity(w.field("affinity"), s.Affinity)
	}
	for i := range s.TopologySpreadConstraints {
		at, t := w.field("topologySpreadConstraints").at(i), &s.TopologySpreadConstraints[i]
		if msg, ok := oldLabels[t.TopologyKey]; ok {
			a.say(at.field("topologyKey"), "%s is %s", t.TopologyKey, msg)
		}
		if t.LabelSelector == nil {
			a.say(at.field("labelSelector"), "a null labelSelector results in matching no pod")
		}
	}
	if len(annotations) > 0 {
		a.annotations(metadata.field("annotations"), annotations, s)
	}
	for i := range s.Volumes {
		a.volume(w.field("volumes").at(i), &s.Volumes[i])
	}
	a.overlaps(s.Volumes)
	var ips, secrets nameSet
	for i := range s.HostAliases {
		at, ip := w.field("hostAliases").at(i).field("ip"), s.HostAliases[i].IP
		if !ips.add(ip) {
			a.say(at, "duplicate ip %q", ip)
		}
		a.ip(at, ip)
	}
	for i := range s.ImagePullSecrets {
		at, name := w.field("imagePullSecrets").at(i).field("name"), s.ImagePullSecrets[i].Name
		if !secrets.add(name) {
			a.say(at, "duplicate name %q", name)
		}
		if name == "" {
			a.say(at, "invalid empty name %q", name)
		}
	}
	a.wholeBytes(w.field("overhead"), s.Overhead)
	a.containers(w.field("initContainers"), s.InitContainers)
	a.containers(w.field("containers"), s.Containers)
	for i := range s.EphemeralContainers {
		a.container(w.field("ephemeralContainers").at(i), (*corev1.Container)(&s.EphemeralContainers[i].EphemeralContainerCommon))
	}
	a.ports(w, s)
	if g := s.TerminationGracePeriodSeconds; g != nil && *g < 0 {
		a.say(w.field("terminationGracePeriodSeconds"), "must be >= 0; negative values are invalid and will be treated as 1")
	}
	if s.DNSConfig != nil {
		for i, ip := range s.DNSConfig.Nameservers {
			a.ip(w.field("dnsConfig").field("nameservers").at(i), ip)
		}
	}
}

func (a *advice) affinity(w *where, affinity *corev1.Affinity) {
	if n := affinity.NodeAffinity; n != nil {
		at := w.field("nodeAffinity")
		if r := n.RequiredDuringSchedulingIgnoredDuringExecution; r != nil {
			for i := range r.NodeSelectorTerms {
				a.nodeSelectorTerm(at.field("requiredDuringSchedulingIgnoredDuringExecution").field("nodeSelectorTerms").at(i), &r.NodeSelectorTerms[i], false)
			}
		}
		for i := range n.PreferredDuringSchedulingIgnoredDuringExecution {
			a.nodeSelectorTerm(at.field("preferredDuringSchedulingIgnoredDuringExecution").at(i).field("preference"), &n.PreferredDuringSchedulingIgnoredDuringExecution[i].Preference, true)
		}
	}
	if p := affinity.PodAffinity; p != nil {
		a.podAffinity(w.field("podAffinity"), p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if p := affinity.PodAntiAffinity; p != nil {
		a.podAffinity(w.field("podAntiAffinity"), p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
	}
}

// nodeSelectorTerm warns of old labels, and of malformed values where validation lets them pass.
func (a *advice) nodeSelectorTerm(w *where, t *corev1.NodeSelectorTerm, values bool) {
	for i := range t.MatchExpressions {
		at, r := w.field("matchExpressions").at(i), &t.MatchExpressions[i]
		if msg, ok := oldLabels[r.Key]; ok {
			a.say(at.field("key"), "%s is %s", r.Key, msg)
		}
		for j := 0; values && j < len(r.Values); j++ {
			for _, msg := range validation.IsValidLabelValue(r.Values[j]) {
				a.say(at.field("values").at(j), "%s is invalid, %s", r.Values[j], msg)
			}
		}
	}
}

func (a *advice) podAffinity(w *where, required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm) {
	const msg = "a null labelSelector results in matching no pod"
	for i := range required {
		if required[i].LabelSelector == nil {
			a.say(w.field("requiredDuringSchedulingIgnoredDuringExecution").at(i).field("labelSelector"), msg)
		}
	}
	for i := range preferred {
		if preferred[i].PodAffinityTerm.LabelSelector == nil {
			a.say(w.field("preferredDuringSchedulingIgnoredDuringExecution").at(i).field("podAffinityTerm").field("labelSelector"), msg)
		}
	}
}

// annotations warns of annotations that have become fields.
func (a *advice) annotations(w *where, annotations map[string]string, s *corev1.PodSpec) {
	for _, old := range [...]struct{ key, msg string }{
		{"scheduler.alpha.kubernetes.io/critical-pod", `non-functional in v1.16+; use the "priorityClassName" field instead`},
		{"security.alpha.kubernetes.io/sysctls", `non-functional in v1.11+; use the "sysctls" field instead`},
		{"security.alpha.kubernetes.io/unsafe-sysctls", `non-functional in v1.11+; use the "sysctls" field instead`},
	} {
		if _, ok := annotations[old.key]; ok {
			a.say(w.key(old.key), "%s", old.msg)
		}
	}
	const seccomp = `non-functional in v1.27+; use the "seccompProfile" field instead`
	if _, ok := annotations[corev1.SeccompPodAnnotationKey]; ok && (s.SecurityContext == nil || s.SecurityContext.SeccompProfile == nil) {
		a.say(w.key(corev1.SeccompPodAnnotationKey), seccomp)
	}
	eachContainer(s, func(c *corev1.Container) {
		key := corev1.SeccompContainerAnnotationKeyPrefix + c.Name
		if _, ok := annotations[key]; ok && (c.SecurityContext == nil || c.SecurityContext.SeccompProfile == nil) {
			a.say(w.key(key), seccomp)
		}
	})
}

// volume warns of volume types on their way out, or out.
func (a *advice) volume(w *where, v *corev1.Volume) {
	const dead125, dead126, dead131 = "deprecated in v1.22, non-functional in v1.25+", "deprecated in v1.25, non-functional in v1.26+", "deprecated in v1.28, non-functional in v1.31+"
	for _, old := range [...]struct {
		name, msg string
		set       bool
	}{
		{"photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+", v.PhotonPersistentDisk != nil},
		{"gitRepo", "deprecated in v1.11, and disabled by default in v1.33+", v.GitRepo != nil},
		{"scaleIO", "deprecated in v1.16, non-functional in v1.22+", v.ScaleIO != nil},
		{"flocker", dead125, v.Flocker != nil},
		{"storageOS", dead125, v.StorageOS != nil},
		{"quobyte", dead125, v.Quobyte != nil},
		{"glusterfs", dead126, v.Glusterfs != nil},
		{"cephfs", dead131, v.CephFS != nil},
		{"rbd", dead131, v.RBD != nil},
	} {
		if old.set {
			a.say(w.field(old.name), "%s", old.msg)
		}
	}
	if v.Ephemeral != nil && v.Ephemeral.VolumeClaimTemplate != nil {
		a.claimSpec(w.field("ephemeral").field("volumeClaimTemplate").field("spec"), &v.Ephemeral.VolumeClaimTemplate.Spec)
	}
}

// claimSpec warns of sizes that are no whole number of bytes.
func (a *advice) claimSpec(w *where, s *corev1.PersistentVolumeClaimSpec) {
	at := w.field("resources")
	a.wholeBytesOf(at.field("requests"), s.Resources.Requests, corev1.ResourceStorage)
	a.wholeBytesOf(at.field("limits"), s.Resources.Limits, corev1.ResourceStorage)
}

func (a *advice) wholeBytes(w *where, list corev1.ResourceList) {
	a.wholeBytesOf(w, list, corev1.ResourceMemory)
	a.wholeBytesOf(w, list, corev1.ResourceEphemeralStorage)
}

func (a *advice) wholeBytesOf(w *where, list corev1.ResourceList, name corev1.ResourceName) {
	if q, ok := list[name]; ok && q.MilliValue()%1000 != 0 {
		a.say(w.key(string(name)), "fractional byte value %q is invalid, must be an integer", q.String())
	}
}

func (a *advice) containers(w *where, containers []corev1.Container) {
	for i := range containers {
		a.container(w.at(i), &containers[i])
	}
}

func (a *advice) container(w *where, c *corev1.Container) {
	a.wholeBytes(w.field("resources").field("limits"), c.Resources.Limits)
	a.wholeBytes(w.field("resources").field("requests"), c.Resources.Requests)
	var names nameSet
	for i := range c.Env {
		// A variable that only adds to its former value is meant.
		e, ref := &c.Env[i], "$("+c.Env[i].Name+")"
		if !names.add(e.Name) && (e.ValueFrom != nil || e.Value == ref || !strings.Contains(e.Value, ref)) {
			a.say(w.field("env").at(i), "hides previous definition of %q, which may be dropped when using apply", e.Name)
		}
	}
}
