package kinds

import (
	"fmt"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
)

func (c *podCheck) affinity(w *where, a *corev1.Affinity) {
	if a == nil {
		return
	}
	if n := a.NodeAffinity; n != nil {
		at := w.field("nodeAffinity")
		if n.RequiredDuringSchedulingIgnoredDuringExecution != nil {
			validateNodeSelector(&c.faults, at.field("requiredDuringSchedulingIgnoredDuringExecution"),
				n.RequiredDuringSchedulingIgnoredDuringExecution, c.allow.nodeAffinityLabelValues)
		}
		for i := range n.PreferredDuringSchedulingIgnoredDuringExecution {
			at, term := at.field("preferredDuringSchedulingIgnoredDuringExecution").at(i), &n.PreferredDuringSchedulingIgnoredDuringExecution[i]
			c.weight(at.field("weight"), term.Weight)
			// Malformed values match nothing, which does no harm to a preference.
			nodeSelectorTerm(&c.faults, at.field("preference"), &term.Preference, true)
		}
	}
	if p := a.PodAffinity; p != nil {
		c.podAffinity(w.field("podAffinity"), p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if p := a.PodAntiAffinity; p != nil {
		c.podAffinity(w.field("podAntiAffinity"), p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
	}
}

func (c *podCheck) weight(w *where, weight int32) {
	if weight < 1 || weight > 100 {
		c.invalid(w, weight, "must be in the range 1-100")
	}
}

// validateNodeSelector checks a selector of nodes. With anyValue malformed label values pass. (Persistent volumes have
// such selectors too.)
func validateNodeSelector(f *faults, w *where, s *corev1.NodeSelector, anyValue bool) {
	if len(s.NodeSelectorTerms) == 0 {
		f.required(w.field("nodeSelectorTerms"), "must have at least one node selector term")
	}
	for i := range s.NodeSelectorTerms {
		nodeSelectorTerm(f, w.field("nodeSelectorTerms").at(i), &s.NodeSelectorTerms[i], anyValue)
	}
}

func nodeSelectorTerm(f *faults, w *where, t *corev1.NodeSelectorTerm, anyValue bool) {
	for i := range t.MatchExpressions {
		nodeSelectorExpression(f, w.field("matchExpressions").at(i), &t.MatchExpressions[i], anyValue)
	}
	for i := range t.MatchFields {
		nodeSelectorField(f, w.field("matchFields").at(i), &t.MatchFields[i])
	}
}

func nodeSelectorExpression(f *faults, w *where, r *corev1.NodeSelectorRequirement, anyValue bool) {
	switch n := len(r.Values); r.Operator {
	case corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn:
		if n == 0 {
			f.required(w.field("values"), "must be specified when `operator` is 'In' or 'NotIn'")
		}
	case corev1.NodeSelectorOpExists, corev1.NodeSelectorOpDoesNotExist:
		if n > 0 {
			f.forbidden(w.field("values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'")
		}
	case corev1.NodeSelectorOpGt, corev1.NodeSelectorOpLt:
		if n != 1 {
			f.required(w.field("values"), "must be specified single value when `operator` is 'Lt' or 'Gt'")
		}
	default:
		f.invalid(w.field("operator"), r.Operator, "not a valid selector operator")
	}
	f.qualifiedName(w.field("key"), r.Key)
	if anyValue {
		return
	}
	for i, v := range r.Values {
		f.labelValue(w.field("values").at(i), v)
	}
}

func (f *faults) labelValue(w *where, value string) {
	if !isPlainLabelValue(value) {
		f.each(w, value, validation.IsValidLabelValue(value))
	}
}

// nodeSelectorField checks a requirement on a field of nodes, of which there is one: metadata.name.
func nodeSelectorField(f *faults, w *where, r *corev1.NodeSelectorRequirement) {
	switch r.Operator {
	case corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn:
		if len(r.Values) != 1 {
			f.required(w.field("values"), "must be only one value when `operator` is 'In' or 'NotIn' for node field selector")
		}
	default:
		f.invalid(w.field("operator"), r.Operator, "not a valid selector operator")
	}
	if r.Key != metav1.ObjectNameField {
		f.invalid(w.field("key"), r.Key, "not a valid field selector key")
		return
	}
	for i, v := range r.Values {
		f.dnsSubdomain(w.field("values").at(i), v)
	}
}

func (c *podCheck) podAffinity(w *where, required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm) {
	for i := range required {
		c.podAffinityTerm(w.field("requiredDuringSchedulingIgnoredDuringExecution").at(i), &required[i])
	}
	for i := range preferred {
		at := w.field("preferredDuringSchedulingIgnoredDuringExecution").at(i)
		c.weight(at.field("weight"), preferred[i].Weight)
		c.podAffinityTerm(at.field("podAffinityTerm"), &preferred[i].PodAffinityTerm)
	}
}

func (c *podCheck) podAffinityTerm(w *where, t *corev1.PodAffinityTerm) {
	c.labelSelector(w.field("labelSelector"), t.LabelSelector, c.allow.affinityLabelValues)
	c.labelSelector(w.field("namespaceSelector"), t.NamespaceSelector, c.allow.affinityLabelValues)
	for _, name := range t.Namespaces {
		c.dnsLabel(w.field("namespace"), name)
	}
	c.matchLabelKeys(w, t.MatchLabelKeys, t.MismatchLabelKeys, t.LabelSelector)
	if t.TopologyKey == "" {
		c.required(w.field("topologyKey"), "can not be empty")
	}
	c.qualifiedName(w.field("topologyKey"), t.TopologyKey)
}

// labelSelector checks a label selector; with anyValue malformed values pass.
func (f *faults) labelSelector(w *where, s *metav1.LabelSelector, anyValue bool) {
	if s != nil {
		f.add(metavalidation.ValidateLabelSelector(s, metavalidation.LabelSelectorValidationOptions{AllowInvalidLabelValueInSelector: anyValue}, w.path()))
	}
}

// matchLabelKeys checks the keys which were merged into the selector when the pod was created: a key that
// is there twice was in it before.
func (f *faults) matchLabelKeys(w *where, match, mismatch []string, s *metav1.LabelSelector) {
	if len(match) == 0 && len(mismatch) == 0 {
		return
	}
	for _, k := range [...]struct {
		name string
		keys []string
	}{{"matchLabelKeys", match}, {"mismatchLabelKeys", mismatch}} {
		if len(k.keys) == 0 {
			continue
		}
		if s == nil {
			f.forbidden(w.field(k.name), "must not be specified when labelSelector is not set")
			continue
		}
		for i, key := range k.keys {
			f.qualifiedName(w.field(k.name).at(i), key)
		}
	}
	last := make(map[string]int, len(match))
	for i, key := range match {
		last[key] = i
	}
	if s != nil {
		seen := make(map[string]bool, len(s.MatchLabels)+len(s.MatchExpressions))
		for key := range s.MatchLabels {
			seen[key] = true
		}
		for i := range s.MatchExpressions {
			key := s.MatchExpressions[i].Key
			if at, ok := last[key]; ok && seen[key] {
				f.invalid(w.at(at), key, "exists in both matchLabelKeys and labelSelector")
			}
			seen[key] = true
		}
	}
	var other nameSet
	for _, key := range mismatch {
		other.add(key)
	}
	for i, key := range match {
		if other.has(key) {
			f.invalid(w.field("matchLabelKeys").at(i), key, "exists in both matchLabelKeys and mismatchLabelKeys")
		}
	}
}

// spread checks topology spread constraints (KEP-895).
func (c *podCheck) spread(w *where, constraints []corev1.TopologySpreadConstraint) {
	pairs := make(map[[2]string]int, len(constraints)) // how many of a kind are still to come
	for i := range constraints {
		pairs[spreadPair(&constraints[i])]++
	}
	for i := range constraints {
		at, t := w.at(i), &constraints[i]
		c.positive(at.field("maxSkew"), int64(t.MaxSkew))
		if t.TopologyKey == "" {
			c.required(at.field("topologyKey"), "can not be empty")
		}
		knownValue(&c.faults, at.field("whenUnsatisfiable"), t.WhenUnsatisfiable,
			[]corev1.UnsatisfiableConstraintAction{corev1.DoNotSchedule, corev1.ScheduleAnyway})
		pair := spreadPair(t)
		if pairs[pair]--; pairs[pair] > 0 {
			c.duplicate(at.field("{topologyKey, whenUnsatisfiable}"), fmt.Sprintf("{%v, %v}", t.TopologyKey, t.WhenUnsatisfiable))
		}
		if t.MinDomains != nil {
			c.positive(at.field("minDomains"), int64(*t.MinDomains))
			if t.WhenUnsatisfiable != corev1.DoNotSchedule {
				c.invalid(at.field("minDomains"), *t.MinDomains,
					fmt.Sprintf("can only use minDomains if whenUnsatisfiable=%s, not %s", corev1.DoNotSchedule, t.WhenUnsatisfiable))
			}
		}
		c.nodeInclusion(at.field("nodeAffinityPolicy"), t.NodeAffinityPolicy)
		c.nodeInclusion(at.field("nodeTaintsPolicy"), t.NodeTaintsPolicy)
		if c.allow.spreadMatchLabelKeys {
			c.unmergedMatchLabelKeys(at.field("matchLabelKeys"), t)
		} else {
			c.matchLabelKeys(at, t.MatchLabelKeys, nil, t.LabelSelector)
		}
		if !c.allow.spreadSelector {
			c.labelSelector(at.field("labelSelector"), t.LabelSelector, false)
		}
	}
}

func spreadPair(t *corev1.TopologySpreadConstraint) [2]string {
	return [2]string{t.TopologyKey, string(t.WhenUnsatisfiable)}
}

// unmergedMatchLabelKeys checks keys in pods from before they were merged into the selector.
func (c *podCheck) unmergedMatchLabelKeys(w *where, t *corev1.TopologySpreadConstraint) {
	if len(t.MatchLabelKeys) == 0 {
		return
	}
	if t.LabelSelector == nil {
		c.forbidden(w, "must not be specified when labelSelector is not set")
	}
	for i, key := range t.MatchLabelKeys {
		c.qualifiedName(w.at(i), key)
		if s := t.LabelSelector; s != nil {
			_, both := s.MatchLabels[key]
			for j := range s.MatchExpressions {
				both = both || s.MatchExpressions[j].Key == key
			}
			if both {
				c.invalid(w.at(i), key, "exists in both matchLabelKeys and labelSelector")
			}
		}
	}
}

func (f *faults) positive(w *where, value int64) {
	if value <= 0 {
		f.invalid(w, value, "must be greater than zero")
	}
}

func (c *podCheck) nodeInclusion(w *where, p *corev1.NodeInclusionPolicy) {
	if p != nil {
		knownValue(&c.faults, w, *p, []corev1.NodeInclusionPolicy{corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore})
	}
}

// tolerations checks tolerations; runtime classes and quotas have them too. With comparing the operators Lt and Gt, which this
// minor does not offer yet, pass.
func (f *faults) tolerations(w *where, tolerations []corev1.Toleration, comparing bool) {
	for i := range tolerations {
		at, t := w.at(i), &tolerations[i]
		if t.Key != "" {
			f.qualifiedName(at.field("key"), t.Key)
		} else if t.Operator != corev1.TolerationOpExists {
			f.invalid(at.field("operator"), t.Operator, "operator must be Exists when `key` is empty, which means \"match all values and all keys\"")
		}
		if t.TolerationSeconds != nil && t.Effect != corev1.TaintEffectNoExecute {
			f.invalid(at.field("effect"), t.Effect, "effect must be 'NoExecute' when `tolerationSeconds` is set")
		}
		switch t.Operator {
		case corev1.TolerationOpEqual, "":
			if !isPlainLabelValue(t.Value) {
				f.invalid(at.field("operator"), t.Value, strings.Join(validation.IsValidLabelValue(t.Value), ";"))
			}
		case corev1.TolerationOpExists:
			if t.Value != "" {
				f.invalid(at.field("operator"), t.Value, "value must be empty when `operator` is 'Exists'")
			}
		case corev1.TolerationOpLt, corev1.TolerationOpGt:
			if comparing {
				f.comparedValue(at.field("value"), t.Value)
			} else {
				notSupported(f, at.field("operator"), t.Operator, []corev1.TolerationOperator{
					corev1.TolerationOpEqual, corev1.TolerationOpExists, corev1.TolerationOpLt, corev1.TolerationOpGt})
			}
		default:
			notSupported(f, at.field("operator"), t.Operator, []corev1.TolerationOperator{corev1.TolerationOpEqual, corev1.TolerationOpExists})
		}
		oneOfOrEmpty(f, at.field("effect"), t.Effect, []corev1.TaintEffect{
			corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute})
	}
}

// comparedValue checks a value that tolerations compare: a decimal number of 64 bits.
func (f *faults) comparedValue(w *where, value string) {
	f.each(w, value, content.IsDecimalInteger(value))
	if _, err := strconv.ParseInt(value, 10, 64); err != nil {
		f.invalid(w, value, err.Error())
	}
}

// schedulingGates checks the gates that hold a pod back from the scheduler (KEP-3521).
func (c *podCheck) schedulingGates(w *where) {
	var seen nameSet
	for i := range c.spec.SchedulingGates {
		name := c.spec.SchedulingGates[i].Name
		c.qualifiedName(w.at(i), name)
		if !seen.add(name) {
			c.duplicate(w.at(i), name)
		}
	}
}
