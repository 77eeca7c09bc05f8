package kinds

import (
	"fmt"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// What the kinds that make pods (deployments, replica sets, jobs and the like) have in common.

var templatePath = specPath.Child("template")

// newMeta checks the metadata of a workload that is to be created.
func (f *faults) newMeta(m *metav1.ObjectMeta, name NameFunc) { f.add(ValidateMeta(m, true, name)) }

// changedMeta checks the metadata of a workload that replaces old.
func (f *faults) changedMeta(m, old *metav1.ObjectMeta) { f.add(ValidateMetaUpdate(m, old)) }

// podSelector checks the selector of a workload and that it selects something; what names the kind.
func (f *faults) podSelector(w *where, s *metav1.LabelSelector, what string) {
	if s == nil {
		f.required(w, "")
		return
	}
	f.labelSelector(w, s, false)
	if len(s.MatchLabels)+len(s.MatchExpressions) == 0 {
		f.invalid(w, s, "empty selector is invalid for "+what)
	}
}

// selects checks that the pods of a template will be the selector's.
func (f *faults) selects(w *where, selector labels.Selector, t *corev1.PodTemplateSpec) {
	if !selector.Matches(labels.Set(t.Labels)) {
		f.invalid(w.field("metadata").field("labels"), t.Labels, "`selector` does not match template `labels`")
	}
}

// runsForEver checks that the pods of a template are restarted whenever they end; what names the kind.
func (f *faults) runsForEver(w *where, s *corev1.PodSpec, what string) {
	if s.RestartPolicy != corev1.RestartPolicyAlways {
		notSupported(f, w.field("restartPolicy"), s.RestartPolicy, []corev1.RestartPolicy{corev1.RestartPolicyAlways})
	}
	if s.ActiveDeadlineSeconds != nil {
		f.forbidden(w.field("activeDeadlineSeconds"), "activeDeadlineSeconds in "+what+" is not Supported")
	}
}

// template checks a pod template; old is the one that it replaces, nil on create.
func (f *faults) template(w *where, t, old *corev1.PodTemplateSpec) {
	f.add(ValidatePodTemplate(t, old, w.path()))
}

// replicatedTemplate checks the selector and the template of a kind that keeps a number of alike pods.
func (f *faults) replicatedTemplate(w *where, selector *metav1.LabelSelector, t, old *corev1.PodTemplateSpec) {
	f.podSelector(w.field("selector"), selector, "deployment")
	s, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		f.invalid(w.field("selector"), selector, "invalid label selector")
		return
	}
	at := w.field("template")
	f.selects(at, s, t)
	f.template(at, t, old)
	f.runsForEver(at.field("spec"), &t.Spec, "ReplicaSet")
}

// notNegativeOrNil checks a number that may be left out.
func notNegativeOrNil[T int32 | int64](f *faults, w *where, value *T) {
	if value != nil {
		f.notNegative(w, int64(*value))
	}
}

// notAbove checks that a part is not more than the whole.
func (f *faults) notAbove(w *where, part, whole int32, detail string) {
	if part > whole {
		f.invalid(w, part, detail)
	}
}

const (
	moreThanReplicas = "cannot be greater than status.replicas"
	moreThanReady    = "cannot be greater than readyReplicas"
)

// notDecremented checks a counter that only grows; nil is zero.
func (f *faults) notDecremented(w *where, value, old *int32) {
	if was := valueOf(old); valueOf(value) < was {
		f.invalid(w, valueOf(value), "cannot be decremented")
	}
}

// immutable checks that a field is as it was.
func (f *faults) immutable(w *where, value, old any) {
	if !equality.Semantic.DeepEqual(value, old) {
		f.invalid(w, value, "field is immutable")
	}
}

// valueOf is *p, or the zero value of nil.
func valueOf[T any](p *T) (value T) {
	if p != nil {
		value = *p
	}
	return value
}

// countOrShare checks for a non-negative number or a percentage.
func (f *faults) countOrShare(w *where, v intstr.IntOrString) {
	if v.Type == intstr.String {
		f.eachNumber(w, v, validation.IsValidPercent(v.StrVal))
		return
	}
	f.notNegative(w, int64(v.IntVal))
}

// atMostAll checks that a percentage is at most 100.
func (f *faults) atMostAll(w *where, v intstr.IntOrString) {
	if share, ok := percentage(v); ok && share > 100 {
		f.invalid(w, v, "must not be greater than 100%")
	}
}

// percentage returns the number before the % of v, if v is a percentage.
func percentage(v intstr.IntOrString) (int, bool) {
	if v.Type != intstr.String || len(validation.IsValidPercent(v.StrVal)) > 0 {
		return 0, false
	}
	share, _ := strconv.Atoi(v.StrVal[:len(v.StrVal)-1]) // too large for an int is the largest int
	return share, true
}

// isNone reports whether a number or percentage of pods is zero.
func isNone(v *intstr.IntOrString) bool {
	if v == nil {
		return true
	}
	if share, ok := percentage(*v); ok {
		return share == 0
	}
	return v.IntValue() == 0
}

// nextGeneration counts a change of what is asked for.
func nextGeneration(m, old *metav1.ObjectMeta, spec, oldSpec any) {
	if !equality.Semantic.DeepEqual(spec, oldSpec) {
		m.Generation = old.Generation + 1
	}
}

// workloadWarnings warns of a workload that is created, or, where the generation tells of a change, replaced. Its name becomes part of the names
// of pods, so label asks for one that is a DNS label.
func workloadWarnings(m, old *metav1.ObjectMeta, t *corev1.PodTemplateSpec, path *field.Path, label bool) (warnings []string) {
	if old != nil && old.Generation == m.Generation || t == nil {
		return nil
	}
	if label && old == nil && !isDNSLabel(m.Name) {
		warnings = append(warnings, fmt.Sprintf("metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: %v", validation.IsDNS1123Label(m.Name)))
	}
	return append(warnings, PodTemplateWarnings(t, path)...)
}

// metaOf returns the metadata of an old object, nil when there is none.
func metaOf[T interface {
	comparable
	metav1.ObjectMetaAccessor
}](old T) *metav1.ObjectMeta {
	var none T
	if old == none {
		return nil
	}
	return old.GetObjectMeta().(*metav1.ObjectMeta)
}
