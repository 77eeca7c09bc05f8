package kinds

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// The kinds that make pods (workloads) hold them as templates, and call what is here.

// DefaultPodTemplate fills in what a pod template leaves out, in place. Workload kinds call it.
func DefaultPodTemplate(t *corev1.PodTemplateSpec) {
	defaultPodSpec(&t.Spec)
}

// PreparePodTemplate clears the fields that this minor does not offer, in place; old is the template that t replaces, nil on create.
func PreparePodTemplate(t, old *corev1.PodTemplateSpec) {
	pod := corev1.Pod{ObjectMeta: t.ObjectMeta, Spec: t.Spec}
	if old == nil {
		dropAlphaFields(&pod, nil)
	} else {
		dropAlphaFields(&pod, &corev1.Pod{ObjectMeta: old.ObjectMeta, Spec: old.Spec})
	}
	t.Spec = pod.Spec
}

// ValidatePodTemplate checks a pod template at path; old is the template that it replaces, nil on create. Workload kinds call it.
func ValidatePodTemplate(t, old *corev1.PodTemplateSpec, path *field.Path) field.ErrorList {
	w := whereOf(path)
	c := templateCheck(t, old)
	c.templateLabels(w, t)
	c.podSpec(w.field("spec"), nil)
	c.annotatedProfiles(w.field("spec"), t.Annotations)
	if len(t.Spec.EphemeralContainers) > 0 {
		c.forbidden(w.field("spec").field("ephemeralContainers"), "ephemeral containers not allowed in pod template")
	}
	return c.list
}

func templateCheck(t, old *corev1.PodTemplateSpec) podCheck {
	c := podCheck{spec: &t.Spec}
	if old != nil {
		c.allow = allowancesFor(&old.Spec)
	}
	return c
}

// templateLabels checks the labels and annotations that a template gives to its pods.
func (c *podCheck) templateLabels(w *where, t *corev1.PodTemplateSpec) {
	c.add(metavalidation.ValidateLabels(t.Labels, w.field("labels").path()))
	c.annotations(w.field("annotations"), t.Annotations)
	c.podAnnotations(w.field("annotations"), t.Annotations)
}

// PodTemplateWarnings warns of the like in a pod template at path. Workload kinds call it.
func PodTemplateWarnings(t *corev1.PodTemplateSpec, path *field.Path) []string {
	w := whereOf(path)
	var a advice
	a.pod(w.field("spec"), &t.Spec, w.field("metadata"), t.Annotations)
	if len(t.Annotations) == 0 {
		return a.list
	}
	var ofPod *corev1.AppArmorProfile
	if s := t.Spec.SecurityContext; s != nil {
		ofPod = s.AppArmorProfile
	}
	eachContainer(&t.Spec, func(c *corev1.Container) {
		key := corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix + c.Name
		annotation, ok := t.Annotations[key]
		if !ok || c.SecurityContext != nil && c.SecurityContext.AppArmorProfile != nil {
			return
		}
		if ofPod == nil || !equality.Semantic.DeepEqual(ofPod, appArmorFromAnnotation(annotation)) {
			a.say(w.field("metadata").field("annotations").key(key), `deprecated since v1.30; use the "appArmorProfile" field instead`)
		}
	})
	return a.list
}
