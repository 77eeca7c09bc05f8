package kinds

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// The policies of jobs: when failed pods count (KEP-3329), and when a job has succeeded (KEP-3998).

const (
	mostPolicyRules      = 20
	mostExitCodes        = 255
	mostPodConditions    = 20
	mostSucceededIndexes = 64 << 10 // bytes of the list
)

func (f *faults) tooMany(w *where, n, limit int) {
	if n > limit {
		f.keep(field.TooMany(w.path(), n, limit))
	}
}

func (f *faults) podFailurePolicy(w *where, s *batchv1.JobSpec) {
	at := w.field("rules")
	f.tooMany(at, len(s.PodFailurePolicy.Rules), mostPolicyRules)
	for i := range s.PodFailurePolicy.Rules {
		f.podFailureRule(at.at(i), &s.PodFailurePolicy.Rules[i], s)
	}
}

func (f *faults) podFailureRule(w *where, r *batchv1.PodFailurePolicyRule, s *batchv1.JobSpec) {
	actions := []batchv1.PodFailurePolicyAction{batchv1.PodFailurePolicyActionCount, batchv1.PodFailurePolicyActionFailIndex, batchv1.PodFailurePolicyActionFailJob, batchv1.PodFailurePolicyActionIgnore}
	chosen(f, w.field("action"), r.Action, actions)
	if r.Action == batchv1.PodFailurePolicyActionFailIndex && s.BackoffLimitPerIndex == nil {
		f.invalid(w.field("action"), r.Action, "requires the backoffLimitPerIndex to be set")
	}
	if r.OnExitCodes != nil {
		f.exitCodes(w.field("onExitCodes"), r.OnExitCodes, &s.Template.Spec)
	}
	if len(r.OnPodConditions) > 0 {
		at := w.field("onPodConditions")
		f.tooMany(at, len(r.OnPodConditions), mostPodConditions)
		for i, p := range r.OnPodConditions {
			f.qualifiedName(at.at(i).field("type"), string(p.Type))
			chosen(f, at.at(i).field("status"), p.Status, []corev1.ConditionStatus{corev1.ConditionFalse, corev1.ConditionTrue, corev1.ConditionUnknown})
		}
	}
	switch codes, conditions := r.OnExitCodes != nil, len(r.OnPodConditions) > 0; {
	case codes && conditions:
		f.invalid(w, field.OmitValueType{}, "specifying both OnExitCodes and OnPodConditions is not supported")
	case !codes && !conditions:
		f.invalid(w, field.OmitValueType{}, "specifying one of OnExitCodes and OnPodConditions is required")
	}
}

// chosen checks a required choice, and says what there is to choose from.
func chosen[T ~string](f *faults, w *where, value T, supported []T) {
	if value == "" {
		f.required(w, fmt.Sprintf("valid values: %q", supported))
		return
	}
	knownValue(f, w, value, supported)
}

func (f *faults) exitCodes(w *where, r *batchv1.PodFailurePolicyOnExitCodesRequirement, s *corev1.PodSpec) {
	chosen(f, w.field("operator"), r.Operator, []batchv1.PodFailurePolicyOnExitCodesOperator{batchv1.PodFailurePolicyOnExitCodesOpIn, batchv1.PodFailurePolicyOnExitCodesOpNotIn})
	if name := r.ContainerName; name != nil {
		named := func(c corev1.Container) bool { return c.Name == *name }
		if !slices.ContainsFunc(s.Containers, named) && !slices.ContainsFunc(s.InitContainers, named) {
			f.invalid(w.field("containerName"), *name, "must be one of the container or initContainer names in the pod template")
		}
	}
	at := w.field("values")
	if len(r.Values) == 0 {
		f.invalid(at, r.Values, "at least one value is required")
	}
	f.tooMany(at, len(r.Values), mostExitCodes)
	seen, ordered := map[int32]bool{}, true
	for i, code := range r.Values {
		if r.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn && code == 0 {
			f.invalid(at.at(i), code, "must not be 0 for the In operator")
		}
		if seen[code] {
			f.duplicate(at.at(i), code)
		}
		seen[code] = true
		ordered = ordered && (i == 0 || r.Values[i-1] <= code)
	}
	if !ordered {
		f.invalid(at, r.Values, "must be ordered")
	}
}

func (f *faults) successPolicy(w *where, s *batchv1.JobSpec) {
	at := w.field("rules")
	if len(s.SuccessPolicy.Rules) == 0 {
		f.required(at, "at least one rules must be specified when the successPolicy is specified")
	}
	f.tooMany(at, len(s.SuccessPolicy.Rules), mostPolicyRules)
	for i := range s.SuccessPolicy.Rules {
		f.successRule(at.at(i), &s.SuccessPolicy.Rules[i], valueOf(s.Completions))
	}
}

func (f *faults) successRule(w *where, r *batchv1.SuccessPolicyRule, completions int32) {
	if r.SucceededCount == nil && r.SucceededIndexes == nil {
		f.required(w, "at least one of succeededCount or succeededIndexes must be specified")
	}
	var total int32
	if r.SucceededIndexes != nil {
		at := w.field("succeededIndexes")
		if len(*r.SucceededIndexes) > mostSucceededIndexes {
			f.tooLong(at, "", mostSucceededIndexes)
		}
		var err error
		if total, err = countIndexes(*r.SucceededIndexes, completions); err != nil {
			f.invalid(at, *r.SucceededIndexes, "error parsing succeededIndexes: "+err.Error())
		}
	}
	if n := r.SucceededCount; n != nil {
		at := w.field("succeededCount")
		f.notNegative(at, int64(*n))
		if *n > completions {
			f.invalid(at, *n, fmt.Sprintf("must be less than or equal to %d (the number of specified completions)", completions))
		}
		if r.SucceededIndexes != nil && *n > total {
			f.invalid(at, *n, fmt.Sprintf("must be less than or equal to %d (the number of indexes in the specified succeededIndexes field)", total))
		}
	}
}

// indexes is an interval of pod indexes, both ends included.
type indexes struct{ first, last int32 }

// parseIndexes reads "3" or "3-5", of indexes below completions.
func parseIndexes(text string, completions int32) (indexes, error) {
	ends := strings.Split(text, "-")
	if len(ends) > 2 {
		return indexes{}, fmt.Errorf("the fragment %q violates the requirement that an index interval can have at most two parts separated by '-'", text)
	}
	var n [2]int
	for i, end := range ends {
		var err error
		if n[i], err = strconv.Atoi(end); err != nil {
			return indexes{}, fmt.Errorf("cannot convert string to integer for index: %q", end)
		}
		if n[i] >= int(completions) {
			return indexes{}, fmt.Errorf("too large index: %q", end)
		}
	}
	if len(ends) == 1 {
		return indexes{int32(n[0]), int32(n[0])}, nil
	}
	if n[0] >= n[1] {
		return indexes{}, fmt.Errorf("non-increasing order, previous: %d, current: %d", n[0], n[1])
	}
	return indexes{int32(n[0]), int32(n[1])}, nil
}

// countIndexes reads a list such as "1,3-5,7", and says how many indexes it names.
func countIndexes(text string, completions int32) (total int32, err error) {
	if text == "" {
		return 0, nil
	}
	last := int32(-1)
	for i, part := range strings.Split(text, ",") {
		interval, err := parseIndexes(part, completions)
		if err != nil {
			return 0, err
		}
		if i > 0 && last >= interval.first {
			return 0, fmt.Errorf("non-increasing order, previous: %d, current: %d", last, interval.first)
		}
		total += interval.last - interval.first + 1
		last = interval.last
	}
	return total, nil
}

// firstCommon returns the first index that two lists have in common. Parts that cannot be read are passed over.
func firstCommon(a, b string, completions int32) (int32, bool) {
	parse := func(text string) (list []indexes) {
		for part := range strings.SplitSeq(text, ",") {
			if interval, err := parseIndexes(part, completions); err == nil {
				list = append(list, interval)
			}
		}
		return list
	}
	x, y := parse(a), parse(b)
	for len(x) > 0 && len(y) > 0 {
		if x[0].first <= y[0].last && y[0].first <= x[0].last {
			return max(x[0].first, y[0].first), true
		}
		if x[0].first <= y[0].first {
			x = x[1:]
		} else {
			y = y[1:]
		}
	}
	return 0, false
}
