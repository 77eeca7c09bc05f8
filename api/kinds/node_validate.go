package kinds

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
)

func validateNode(n *corev1.Node) field.ErrorList {
	errs := ValidateMeta(&n.ObjectMeta, false, NameIsDNSSubdomain)
	// Taints were in metadata once; the path of the message still is.
	errs = append(errs, validateTaints(n.Spec.Taints, metadataPath.Child("taints"))...)
	errs = append(errs, validateNodeResources(n)...)
	if len(n.Spec.PodCIDRs) > 0 {
		errs = append(errs, validatePodCIDRs(n.Spec.PodCIDRs, specPath.Child("podCIDRs"))...)
	}
	return errs
}

// validateTaints checks taints of a node: a key may come once for each effect.
func validateTaints(taints []corev1.Taint, path *field.Path) (errs field.ErrorList) {
	type mark struct {
		key    string
		effect corev1.TaintEffect
	}
	seen := make(map[mark]bool, len(taints))
	for i := range taints {
		t, at := &taints[i], path.Index(i)
		errs = append(errs, metav1validation.ValidateLabelName(t.Key, at.Child("key"))...)
		for _, sentence := range validation.IsValidLabelValue(t.Value) {
			errs = append(errs, field.Invalid(at.Child("value"), t.Value, sentence))
		}
		errs = append(errs, validateTaintEffect(t.Effect, at.Child("effect"))...)
		m := mark{t.Key, t.Effect}
		if seen[m] {
			errs = append(errs, &field.Error{
				Type: field.ErrorTypeDuplicate, Field: at.String(), BadValue: *t,
				Detail: "taints must be unique by key and effect pair",
			})
			continue
		}
		seen[m] = true
	}
	return errs
}

func validateTaintEffect(effect corev1.TaintEffect, path *field.Path) field.ErrorList {
	known := []corev1.TaintEffect{corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute}
	switch {
	case slices.Contains(known, effect):
		return nil
	case effect == "":
		return field.ErrorList{field.Required(path, "")}
	}
	return field.ErrorList{field.NotSupported(path, effect, known)}
}

func validateNodeResources(n *corev1.Node) field.ErrorList {
	var f faults
	status := &where{name: "status"}
	for name, quantity := range n.Status.Capacity {
		f.amount(status.field("capacity").field(string(name)), name, quantity)
	}
	for name, quantity := range n.Status.Allocatable {
		f.amount(status.field("allocatable").field(string(name)), name, quantity)
	}
	return f.list
}

// validatePodCIDRs wants one range, or one of each family.
func validatePodCIDRs(cidrs []string, path *field.Path) (errs field.ErrorList) {
	for i, c := range cidrs {
		errs = append(errs, validation.IsValidCIDRForLegacyField(path.Index(i), c, true, nil)...)
	}
	if len(cidrs) > 1 {
		dual, err := netutils.IsDualStackCIDRStrings(cidrs)
		if err != nil {
			errs = append(errs, field.InternalError(path, fmt.Errorf("invalid PodCIDRs. failed to check with dual stack with error:%w", err)))
		}
		if !dual || len(cidrs) > 2 {
			errs = append(errs, field.Invalid(path, cidrs, "may specify no more than one CIDR for each IP family"))
		}
	}
	return errs
}

// validateNodeUpdate checks an update of the node itself.
func validateNodeUpdate(n, old *corev1.Node) field.ErrorList {
	return append(validateNode(n), validateNodeChange(n, old)...)
}

// validateNodeChange checks what an update, of the node or of its status, may change.
func validateNodeChange(n, old *corev1.Node) field.ErrorList {
	errs := ValidateMetaUpdate(&n.ObjectMeta, &old.ObjectMeta)
	errs = append(errs, validateNodeResources(n)...)

	addresses := make(map[corev1.NodeAddress]bool, len(n.Status.Addresses))
	for i, a := range n.Status.Addresses {
		if addresses[a] {
			errs = append(errs, field.Duplicate(field.NewPath("status", "addresses").Index(i), a))
		}
		addresses[a] = true
	}

	if len(old.Spec.PodCIDRs) > 0 && !slices.Equal(old.Spec.PodCIDRs, n.Spec.PodCIDRs) {
		errs = append(errs, field.Forbidden(specPath.Child("podCIDRs"), "node updates may not change podCIDR except from \"\" to valid"))
	}
	switch {
	case old.Spec.ProviderID == "" || old.Spec.ProviderID == n.Spec.ProviderID:
	case n.Spec.ProviderID == "":
		errs = append(errs, field.Invalid(specPath.Child("providerID"), nil, "field cannot be cleared once set"))
	default:
		errs = append(errs, field.Invalid(specPath.Child("providerID"), nil, "field cannot be modified once set"))
	}
	if n.Spec.DoNotUseExternalID != old.Spec.DoNotUseExternalID {
		errs = append(errs, field.Forbidden(specPath.Child("externalID"), "may not be updated"))
	}
	if frozen, was := frozenNodeSpec(&n.Spec), frozenNodeSpec(&old.Spec); !apiequality.Semantic.DeepEqual(frozen, was) {
		errs = append(errs, field.Forbidden(field.NewPath(""), "node updates may only change labels, taints, or capacity (or configSource, if the DynamicKubeletConfig feature gate is enabled)"))
	}
	return errs
}

// frozenNodeSpec leaves out what an update may change or what has its own message.
func frozenNodeSpec(s *corev1.NodeSpec) corev1.NodeSpec {
	f := *s
	f.PodCIDR, f.PodCIDRs, f.ProviderID, f.Taints, f.Unschedulable, f.ConfigSource, f.DoNotUseExternalID = "", nil, "", nil, false, nil, ""
	return f
}

func warnNode(n *corev1.Node) (warnings []string) {
	if n.Spec.ConfigSource != nil {
		warnings = append(warnings, "spec.configSource: the feature is no longer supported")
	}
	if n.Spec.DoNotUseExternalID != "" {
		warnings = append(warnings, "spec.externalID: this field is deprecated, and is unused by Kubernetes")
	}
	for i, c := range n.Spec.PodCIDRs {
		warnings = append(warnings, validation.GetWarningsForCIDR(specPath.Child("podCIDRs").Index(i), c)...)
	}
	return warnings
}
