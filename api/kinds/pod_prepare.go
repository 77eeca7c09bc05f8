package kinds

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/warning"
)

// preparePodForCreate gives a new pod the status of a new pod, and writes into its spec what later stages would otherwise
// each have to work out again.
func preparePodForCreate(ctx context.Context, obj runtime.Object) {
	pod := obj.(*corev1.Pod)
	pod.Generation = 1
	pod.Status = corev1.PodStatus{Phase: corev1.PodPending}
	dropAlphaFields(pod, nil)
	if len(pod.Spec.SchedulingGates) > 0 {
		pod.Status.Conditions = []corev1.PodCondition{{
			Type: corev1.PodScheduled, Status: corev1.ConditionFalse, LastTransitionTime: metav1.Now(),
			Reason: corev1.PodReasonSchedulingGated, Message: "Scheduling is blocked due to non-empty scheduling gates",
		}}
	}
	mergeMatchLabelKeys(pod)
	appArmorFieldsFromAnnotations(ctx, pod)
	defaultPodLevelResources(pod)
	pod.Status.QOSClass = QOSClass(pod)
}

// preparePodForUpdate keeps status out of reach of a write to the pod. Like its siblings below it shares what it
// takes from old, instead of copying: old is immutable, and so is the new object once it is stored.
func preparePodForUpdate(_ context.Context, obj, old runtime.Object) {
	pod, oldPod := obj.(*corev1.Pod), old.(*corev1.Pod)
	pod.Status = oldPod.Status
	keepPodLevelResources(pod, oldPod)
	dropAlphaFields(pod, oldPod)
	bumpPodGeneration(pod, oldPod)
}

// preparePodStatusForUpdate keeps all but status out of reach of a write to status. Owner references too: kubelets
// of old corrupted them.
func preparePodStatusForUpdate(_ context.Context, obj, old runtime.Object) {
	pod, oldPod := obj.(*corev1.Pod), old.(*corev1.Pod)
	pod.Spec = oldPod.Spec
	pod.DeletionTimestamp = nil
	pod.OwnerReferences = oldPod.OwnerReferences

	s, o := &pod.Status, &oldPod.Status
	setIfZero(&s.QOSClass, o.QOSClass)
	// What writers that do not know a field leave out stays.
	if s.ResourceClaimStatuses == nil {
		s.ResourceClaimStatuses = o.ResourceClaimStatuses
	}
	if s.ExtendedResourceClaimStatus == nil {
		s.ExtendedResourceClaimStatus = o.ExtendedResourceClaimStatus
	}
	if s.NodeAllocatableResourceClaimStatuses == nil {
		s.NodeAllocatableResourceClaimStatuses = o.NodeAllocatableResourceClaimStatuses
	}
	setIfZero(&s.ObservedGeneration, o.ObservedGeneration)
	keepConditionGenerations(s.Conditions, o.Conditions)
	dropAlphaFields(pod, oldPod)
}

// keepConditionGenerations fills in the observedGeneration of conditions from the old ones of the same type, the n-th of a
// type from the n-th (types may come twice).
func keepConditionGenerations(conditions, old []corev1.PodCondition) {
	for i := range conditions {
		c := &conditions[i]
		if c.ObservedGeneration != 0 {
			continue
		}
		nth := 0
		for j := range conditions[:i] {
			if conditions[j].Type == c.Type {
				nth++
			}
		}
		for j := range old {
			if old[j].Type != c.Type {
				continue
			}
			if nth == 0 {
				c.ObservedGeneration = old[j].ObservedGeneration
				break
			}
			nth--
		}
	}
}

// preparePodEphemeralContainersForUpdate lets through the ephemeral containers.
func preparePodEphemeralContainersForUpdate(_ context.Context, obj, old runtime.Object) {
	pod, oldPod := obj.(*corev1.Pod), old.(*corev1.Pod)
	containers := pod.Spec.EphemeralContainers
	pod.Spec = oldPod.Spec
	pod.Spec.EphemeralContainers = containers
	pod.Status = oldPod.Status
	metav1.ResetObjectMetaForStatus(&pod.ObjectMeta, &oldPod.ObjectMeta)
	dropAlphaFields(pod, oldPod)
	bumpPodGeneration(pod, oldPod)
}

// preparePodResizeForUpdate lets through resources and resize policies, of containers and of the pod. When containers
// were added, removed or renamed nothing is put back, and validation will say so.
func preparePodResizeForUpdate(_ context.Context, obj, old runtime.Object) {
	pod, oldPod := obj.(*corev1.Pod), old.(*corev1.Pod)
	if len(pod.Spec.Containers) == len(oldPod.Spec.Containers) && len(pod.Spec.InitContainers) == len(oldPod.Spec.InitContainers) {
		asked := pod.Spec
		pod.Spec = oldPod.Spec
		pod.Spec.Resources = asked.Resources
		pod.Spec.Containers = resized(asked.Containers, pod.Spec.Containers)
		pod.Spec.InitContainers = resized(asked.InitContainers, pod.Spec.InitContainers)
		pod.Status = oldPod.Status
		metav1.ResetObjectMetaForStatus(&pod.ObjectMeta, &oldPod.ObjectMeta)
	}
	keepPodLevelResources(pod, oldPod)
	defaultPodLevelResources(pod)
	dropAlphaFields(pod, oldPod)
	bumpPodGeneration(pod, oldPod)
}

// resized returns current with the resources and resize policies of asked, or asked itself when the names differ.
func resized(asked, current []corev1.Container) []corev1.Container {
	for i := range asked {
		if asked[i].Name != current[i].Name {
			return asked
		}
	}
	result := slices.Clone(current)
	for i := range asked {
		result[i].Resources = asked[i].Resources
		result[i].ResizePolicy = asked[i].ResizePolicy
	}
	return result
}

// keepPodLevelResources restores the pod's own resources when a writer that does not know them left them out.
func keepPodLevelResources(pod, old *corev1.Pod) {
	if pod.Spec.Resources == nil {
		pod.Spec.Resources = old.Spec.Resources.DeepCopy()
	}
}

func bumpPodGeneration(pod, old *corev1.Pod) {
	if !equality.Semantic.DeepEqual(pod.Spec, old.Spec) {
		pod.Generation++
	}
}

// mergeMatchLabelKeys turns matchLabelKeys and mismatchLabelKeys of pod affinity and of topology spread into requirements of the
// label selector beside them, by the pod's own labels (KEP-3633, KEP-3243).
func mergeMatchLabelKeys(pod *corev1.Pod) {
	if a := pod.Spec.Affinity; a != nil {
		if a.PodAffinity != nil {
			mergeAffinityKeys(a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution, a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution, pod.Labels)
		}
		if a.PodAntiAffinity != nil {
			mergeAffinityKeys(a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution, a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution, pod.Labels)
		}
	}
	for i := range pod.Spec.TopologySpreadConstraints {
		c := &pod.Spec.TopologySpreadConstraints[i]
		requireKeys(c.LabelSelector, c.MatchLabelKeys, metav1.LabelSelectorOpIn, pod.Labels)
	}
}

func mergeAffinityKeys(required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm, labels map[string]string) {
	merge := func(t *corev1.PodAffinityTerm) {
		requireKeys(t.LabelSelector, t.MatchLabelKeys, metav1.LabelSelectorOpIn, labels)
		requireKeys(t.LabelSelector, t.MismatchLabelKeys, metav1.LabelSelectorOpNotIn, labels)
	}
	for i := range preferred {
		merge(&preferred[i].PodAffinityTerm)
	}
	for i := range required {
		merge(&required[i])
	}
}

// requireKeys adds a requirement for each key that the pod has a label for. No selector matches nothing, and stays so.
func requireKeys(selector *metav1.LabelSelector, keys []string, op metav1.LabelSelectorOperator, labels map[string]string) {
	if selector == nil {
		return
	}
	for _, key := range keys {
		if value, ok := labels[key]; ok {
			selector.MatchExpressions = append(selector.MatchExpressions,
				metav1.LabelSelectorRequirement{Key: key, Operator: op, Values: []string{value}})
		}
	}
}

// appArmorFieldsFromAnnotations turns the annotations that named AppArmor profiles before there were fields into the
// fields, with a warning (KEP-24).
func appArmorFieldsFromAnnotations(ctx context.Context, pod *corev1.Pod) {
	if len(pod.Annotations) == 0 || isWindows(&pod.Spec) {
		return
	}
	var ofPod *corev1.AppArmorProfile
	if pod.Spec.SecurityContext != nil {
		ofPod = pod.Spec.SecurityContext.AppArmorProfile
	}
	eachContainer(&pod.Spec, func(c *corev1.Container) {
		key := corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix + c.Name
		annotation, ok := pod.Annotations[key]
		if !ok || c.SecurityContext != nil && c.SecurityContext.AppArmorProfile != nil {
			return
		}
		profile := appArmorFromAnnotation(annotation)
		if profile != nil && equality.Semantic.DeepEqual(profile, ofPod) {
			return // the pod says so already
		}
		if profile != nil {
			if c.SecurityContext == nil {
				c.SecurityContext = &corev1.SecurityContext{}
			}
			c.SecurityContext.AppArmorProfile = profile
		}
		warning.AddWarning(ctx, "", fmt.Sprintf(`metadata.annotations[%s]: deprecated since v1.30; use the "appArmorProfile" field instead`, key))
	})
}

func isWindows(s *corev1.PodSpec) bool { return s.OS != nil && s.OS.Name == corev1.Windows }

// eachContainer calls f with each container of any sort: init, ordinary, ephemeral.
func eachContainer(s *corev1.PodSpec, f func(*corev1.Container)) {
	for i := range s.InitContainers {
		f(&s.InitContainers[i])
	}
	for i := range s.Containers {
		f(&s.Containers[i])
	}
	for i := range s.EphemeralContainers {
		f((*corev1.Container)(&s.EphemeralContainers[i].EphemeralContainerCommon))
	}
}
