package kinds

import (
	"context"
	"fmt"
	"math"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// podChangeable is quoted in the answer to whoever changes something else.
const podChangeable = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`," +
	"`spec.tolerations` (only additions to existing tolerations)," +
	"`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"

// validatePodUpdate checks a changed pod: most of its specification is for ever.
func validatePodUpdate(_ context.Context, obj, old runtime.Object) field.ErrorList {
	pod, oldPod := obj.(*corev1.Pod), old.(*corev1.Pod)
	c := changedPod(pod, oldPod)
	if c.specChange(&pod.Spec, &oldPod.Spec) {
		c.onlyChangeable(&pod.Spec, &oldPod.Spec)
	}
	return onceEach(c.list)
}

// changedPod starts the check of a pod that replaces another, with all that does not depend on what may be changed.
func changedPod(pod, old *corev1.Pod) *podCheck {
	c := &podCheck{spec: &pod.Spec, allow: allowancesFor(&old.Spec)}
	c.add(ValidateMetaUpdate(&pod.ObjectMeta, &old.ObjectMeta))
	c.pod(pod)
	c.annotationChange(metadataRoot.field("annotations"), pod.Annotations, old.Annotations)
	return c
}

// annotationChange checks annotations that are for ever: AppArmor profiles, and the mark of a static pod's mirror.
func (c *podCheck) annotationChange(w *where, annotations, old map[string]string) {
	const appArmor = corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix
	for key, value := range old {
		if now, ok := annotations[key]; ok && now == value {
			continue
		}
		if strings.HasPrefix(key, appArmor) {
			c.forbidden(w.key(key), "may not remove or update AppArmor annotations")
		}
		if key == corev1.MirrorPodAnnotationKey {
			c.forbidden(w.key(key), "may not remove or update mirror pod annotation")
		}
	}
	for key := range annotations {
		if _, ok := old[key]; ok {
			continue
		}
		if strings.HasPrefix(key, appArmor) {
			c.forbidden(w.key(key), "may not add AppArmor annotations")
		}
		if key == corev1.MirrorPodAnnotationKey {
			c.forbidden(w.key(key), "may not add mirror pod annotation")
		}
	}
}

// specChange checks those fields that have rules of their own for changes. It reports whether the others are worth looking at.
func (c *podCheck) specChange(spec, old *corev1.PodSpec) bool {
	if !c.sameContainers(specRoot.field("containers"), spec.Containers, old.Containers) ||
		!c.sameContainers(specRoot.field("initContainers"), spec.InitContainers, old.InitContainers) {
		return false
	}
	at := specRoot.field("activeDeadlineSeconds")
	switch now, before := spec.ActiveDeadlineSeconds, old.ActiveDeadlineSeconds; {
	case now == nil && before != nil:
		c.invalid(at, now, "must not update from a positive integer to nil value")
	case now != nil && (*now < 0 || *now > math.MaxInt32):
		c.invalid(at, *now, validation.InclusiveRangeError(0, math.MaxInt32))
		return false
	case now != nil && before != nil && *now > *before:
		c.invalid(at, *now, "must be less than or equal to previous value")
		return false
	}
	c.onlyMoreTolerations(specRoot.field("tolerations"), spec.Tolerations, old.Tolerations)
	c.onlyFewerGates(specRoot.field("schedulingGates"), spec.SchedulingGates, old.SchedulingGates)
	return true
}

func (c *podCheck) sameContainers(w *where, containers, old []corev1.Container) bool {
	if len(containers) != len(old) {
		c.forbidden(w, "pod updates may not add or remove containers")
		return false
	}
	return true
}

// onlyMoreTolerations: an old toleration may change its seconds, nothing else.
func (c *podCheck) onlyMoreTolerations(w *where, tolerations, old []corev1.Toleration) {
	for i := range old {
		kept := false
		for j := range tolerations {
			now, before := tolerations[j], old[i]
			kept = kept || now.Key == before.Key && now.Operator == before.Operator && now.Value == before.Value && now.Effect == before.Effect
		}
		if !kept {
			c.forbidden(w, "existing toleration can not be modified except its tolerationSeconds")
			return
		}
	}
}

func (c *podCheck) onlyFewerGates(w *where, gates, old []corev1.PodSchedulingGate) {
	var before nameSet
	for i := range old {
		before.add(old[i].Name)
	}
	last := map[string]int{} // a gate that is named twice is reported once, where it comes last
	for i := range gates {
		if !before.has(gates[i].Name) {
			last[gates[i].Name] = i
		}
	}
	for i := range gates {
		if at, ok := last[gates[i].Name]; ok && at == i {
			c.forbidden(w.at(i).field("name"), fmt.Sprintf("only deletion is allowed, but found new scheduling gate '%s'", gates[i].Name))
		}
	}
}

// onlyChangeable checks that nothing is changed but what may be.
func (c *podCheck) onlyChangeable(spec, old *corev1.PodSpec) {
	if equality.Semantic.DeepEqual(spec, old) {
		return
	}
	// rest is the new specification with the changeable fields put back. It shares what it does not change.
	rest := *spec
	rest.Containers = withImagesOf(old.Containers, spec.Containers)
	rest.InitContainers = withImagesOf(old.InitContainers, spec.InitContainers)
	rest.ActiveDeadlineSeconds = old.ActiveDeadlineSeconds
	rest.SchedulingGates = old.SchedulingGates
	rest.Tolerations = old.Tolerations
	if now, before := spec.TerminationGracePeriodSeconds, old.TerminationGracePeriodSeconds; now != nil && before != nil && *before < 0 && *now == 1 {
		rest.TerminationGracePeriodSeconds = before
	}
	if len(old.SchedulingGates) > 0 {
		c.gatedChange(&rest, old)
	}
	if !equality.Semantic.DeepEqual(&rest, old) {
		c.forbidden(&specRoot, fmt.Sprintf("pod updates may not change fields other than %s\n%v", podChangeable, diff.Diff(*old, rest)))
	}
}

func withImagesOf(old, containers []corev1.Container) []corev1.Container {
	if len(containers) == 0 {
		return nil
	}
	result := make([]corev1.Container, len(containers))
	for i := range containers {
		result[i] = containers[i]
		result[i].Image = old[i].Image
	}
	return result
}

// gatedChange checks what may still be changed while a gate holds a pod back: where it may run, made narrower (KEP-3838). What
// it has checked it puts back in rest.
func (c *podCheck) gatedChange(rest, old *corev1.PodSpec) {
	if !equality.Semantic.DeepEqual(rest.NodeSelector, old.NodeSelector) {
		for key, value := range old.NodeSelector {
			if now, ok := rest.NodeSelector[key]; !ok || now != value {
				c.invalid(specRoot.field("nodeSelector"), rest.NodeSelector, "only additions to spec.nodeSelector are allowed (no mutations or deletions)")
				break
			}
		}
		rest.NodeSelector = old.NodeSelector
	}
	now, before := nodeAffinity(rest), nodeAffinity(old)
	if equality.Semantic.DeepEqual(now, before) {
		return
	}
	c.nodeAffinityChange(specRoot.field("affinity").field("nodeAffinity").field("requiredDuringSchedulingIgnoredDuringExecution").field("nodeSelectorTerms"),
		requiredTerms(now), requiredTerms(before))
	affinity := corev1.Affinity{NodeAffinity: before}
	if rest.Affinity != nil {
		affinity.PodAffinity, affinity.PodAntiAffinity = rest.Affinity.PodAffinity, rest.Affinity.PodAntiAffinity
	}
	if rest.Affinity = &affinity; old.Affinity == nil && affinity == (corev1.Affinity{}) {
		rest.Affinity = nil
	}
}

func nodeAffinity(s *corev1.PodSpec) *corev1.NodeAffinity {
	if s.Affinity == nil {
		return nil
	}
	return s.Affinity.NodeAffinity
}

func requiredTerms(a *corev1.NodeAffinity) []corev1.NodeSelectorTerm {
	if a == nil || a.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return nil
	}
	return a.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
}

// nodeAffinityChange: terms are alternatives, so another one would widen the choice; requirements in a term narrow it.
func (c *podCheck) nodeAffinityChange(w *where, terms, old []corev1.NodeSelectorTerm) {
	if len(old) == 0 {
		return
	}
	if len(old) != len(terms) {
		c.invalid(w, terms, "no additions/deletions to non-empty NodeSelectorTerms list are allowed")
		return
	}
	for i := range old {
		// An empty term matches nothing; with a requirement it would match something.
		wasEmpty := len(old[i].MatchExpressions) == 0 && len(old[i].MatchFields) == 0
		isEmpty := len(terms[i].MatchExpressions) == 0 && len(terms[i].MatchFields) == 0
		if wasEmpty && !isEmpty || !beginsWith(terms[i].MatchExpressions, old[i].MatchExpressions) || !beginsWith(terms[i].MatchFields, old[i].MatchFields) {
			c.invalid(w.at(i), terms[i], "only additions are allowed (no mutations or deletions)")
		}
	}
}

func beginsWith(list, prefix []corev1.NodeSelectorRequirement) bool {
	return len(list) >= len(prefix) && (len(prefix) == 0 || equality.Semantic.DeepEqual(list[:len(prefix)], prefix))
}

// validatePodEphemeralContainersUpdate checks added ephemeral containers; those that are there stay as they are.
func validatePodEphemeralContainersUpdate(_ context.Context, obj, old runtime.Object) field.ErrorList {
	pod, oldPod := obj.(*corev1.Pod), old.(*corev1.Pod)
	if _, static := oldPod.Annotations[corev1.MirrorPodAnnotationKey]; static {
		return field.ErrorList{field.Forbidden(field.NewPath(""), "static pods do not support ephemeral containers")}
	}
	c := changedPod(pod, oldPod)
	at := specRoot.field("ephemeralContainers")
	now := make(map[string]*corev1.EphemeralContainer, len(pod.Spec.EphemeralContainers))
	for i := range pod.Spec.EphemeralContainers {
		now[pod.Spec.EphemeralContainers[i].Name] = &pod.Spec.EphemeralContainers[i]
	}
	for i := range oldPod.Spec.EphemeralContainers {
		before := &oldPod.Spec.EphemeralContainers[i]
		if e := now[before.Name]; e == nil {
			c.forbidden(at, fmt.Sprintf("existing ephemeral containers %q may not be removed\n", before.Name))
		} else if !equality.Semantic.DeepEqual(before, e) {
			c.forbidden(at, fmt.Sprintf("existing ephemeral containers %q may not be changed\n%v", before.Name, diff.Diff(*before, *e)))
		}
	}
	return onceEach(c.list)
}

// onceEach leaves out what has been said before: rules for new objects and for changed ones overlap.
func onceEach(errs field.ErrorList) field.ErrorList {
	if len(errs) < 2 {
		return errs
	}
	said := make(map[string]bool, len(errs))
	kept := errs[:0]
	for _, e := range errs {
		if text := e.Error(); !said[text] {
			said[text] = true
			kept = append(kept, e)
		}
	}
	return kept
}
