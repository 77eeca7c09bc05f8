package kinds

import (
	"fmt"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// What a job of numbered pods may have, so that the lists of indexes in its status stay small.
const (
	mostIndexedParallelism = 100_000
	mostFailedIndexes      = 100_000
	manyCompletions        = 100_000 // more than these only within the next limits, where indexes fail for themselves
	mostParallelismOfMany  = 10_000
	mostFailedOfMany       = 10_000
	mostManagedBy          = 63
)

func validateJob(j *batchv1.Job) field.ErrorList {
	var f faults
	f.newMeta(&j.ObjectMeta, NameIsDNSSubdomain)
	f.ownSelector(j, true)
	f.selectingJob(&specRoot, &j.Spec, nil)
	f.jobHostnames(j)
	return f.list
}

func validateJobUpdate(j, old *batchv1.Job) field.ErrorList {
	var f faults
	f.changedMeta(&j.ObjectMeta, &old.ObjectMeta)
	f.jobChange(&specRoot, j, old)
	f.jobHostnames(j)
	return f.list
}

// ownSelector checks that a generated selector selects the job's pods alone. Jobs from before the labels had a domain do without those.
func (f *faults) ownSelector(j *batchv1.Job, domain bool) {
	if isTrue(j.Spec.ManualSelector) || j.Spec.Selector == nil {
		return
	}
	if j.UID == "" {
		f.required(metadataRoot.field("uid"), "")
	}
	w := specRoot.field("template").field("metadata").field("labels")
	want := labels.Set{}
	label := func(key, value string) {
		want[key] = value
		switch got, has := j.Spec.Template.Labels[key]; {
		case !has:
			f.required(w.key(key), fmt.Sprintf("must be '%s'", value))
		case got != value:
			f.invalid(w.key(key), j.Spec.Template.Labels, fmt.Sprintf("must be '%s'", value))
		}
	}
	label(legacyControllerUID, string(j.UID))
	label(legacyJobName, j.Name)
	if domain {
		label(batchv1.ControllerUidLabel, string(j.UID))
		label(batchv1.JobNameLabel, j.Name)
	}
	if selector, err := metav1.LabelSelectorAsSelector(j.Spec.Selector); err == nil && !selector.Matches(want) {
		f.invalid(specRoot.field("selector"), j.Spec.Selector, "`selector` not auto-generated")
	}
}

// jobHostnames checks that the pods of an indexed job, named after it and their index, can have hostnames.
func (f *faults) jobHostnames(j *batchv1.Job) {
	n := j.Spec.Completions
	if !isIndexed(&j.Spec) || n == nil || *n <= 0 {
		return
	}
	if last := fmt.Sprintf("%s-%d", j.Name, *n-1); len(validation.IsDNS1123Label(last)) > 0 {
		f.invalid(metadataRoot.field("name"), j.Name, "will not able to create pod with invalid DNS label: "+last)
	}
}

func isIndexed(s *batchv1.JobSpec) bool {
	return s.CompletionMode != nil && *s.CompletionMode == batchv1.IndexedCompletion
}

// selectingJob checks the specification of a job with its selector; old is nil on create.
func (f *faults) selectingJob(w *where, s, old *batchv1.JobSpec) {
	f.job(w, s, old)
	if s.Selector == nil {
		f.required(w.field("selector"), "")
	} else {
		f.labelSelector(w.field("selector"), s.Selector, old != nil && metav1validation.LabelSelectorHasInvalidLabelValue(old.Selector))
	}
	if selector, err := metav1.LabelSelectorAsSelector(s.Selector); err == nil {
		f.selects(w.field("template"), selector, &s.Template)
	}
}

// job checks the specification of a job, its selector left out: the jobs of cron jobs get theirs later. old is nil on create.
func (f *faults) job(w *where, s, old *batchv1.JobSpec) {
	notNegativeOrNil(f, w.field("parallelism"), s.Parallelism)
	notNegativeOrNil(f, w.field("completions"), s.Completions)
	notNegativeOrNil(f, w.field("activeDeadlineSeconds"), s.ActiveDeadlineSeconds)
	notNegativeOrNil(f, w.field("backoffLimit"), s.BackoffLimit)
	notNegativeOrNil(f, w.field("ttlSecondsAfterFinished"), s.TTLSecondsAfterFinished)
	notNegativeOrNil(f, w.field("backoffLimitPerIndex"), s.BackoffLimitPerIndex)
	if s.MaxFailedIndexes != nil {
		notNegativeOrNil(f, w.field("maxFailedIndexes"), s.MaxFailedIndexes)
		if s.BackoffLimitPerIndex == nil {
			f.required(w.field("backoffLimitPerIndex"), "when maxFailedIndexes is specified")
		}
	}
	if m := s.ManagedBy; m != nil {
		f.add(validation.IsDomainPrefixedPath(w.field("managedBy").path(), *m))
		if len(*m) > mostManagedBy {
			f.tooLong(w.field("managedBy"), "", mostManagedBy)
		}
	}
	if m := s.CompletionMode; m != nil && *m != batchv1.NonIndexedCompletion && *m != batchv1.IndexedCompletion {
		notSupported(f, w.field("completionMode"), *m, []batchv1.CompletionMode{batchv1.NonIndexedCompletion, batchv1.IndexedCompletion})
	}
	switch {
	case isIndexed(s):
		f.indexedJob(w, s)
	case s.CompletionMode == nil || *s.CompletionMode == batchv1.NonIndexedCompletion:
		if s.BackoffLimitPerIndex != nil {
			f.invalid(w.field("backoffLimitPerIndex"), *s.BackoffLimitPerIndex, "requires indexed completion mode")
		}
		if s.MaxFailedIndexes != nil {
			f.invalid(w.field("maxFailedIndexes"), *s.MaxFailedIndexes, "requires indexed completion mode")
		}
	}
	if s.PodFailurePolicy != nil {
		f.podFailurePolicy(w.field("podFailurePolicy"), s)
	}
	if s.SuccessPolicy != nil {
		if isIndexed(s) {
			f.successPolicy(w.field("successPolicy"), s)
		} else {
			f.invalid(w.field("successPolicy"), *s.SuccessPolicy, "requires indexed completion mode")
		}
	}
	if p := s.PodReplacementPolicy; p != nil {
		policies := []batchv1.PodReplacementPolicy{batchv1.Failed, batchv1.TerminatingOrFailed}
		if s.PodFailurePolicy != nil {
			policies = policies[:1]
		}
		knownValue(f, w.field("podReplacementPolicy"), *p, policies)
	}
	f.gang(w.field("scheduling"), s)
	at := w.field("template")
	if old == nil {
		f.template(at, &s.Template, nil)
	} else {
		f.template(at, &s.Template, &old.Template)
	}
	at = at.field("spec").field("restartPolicy")
	switch p := s.Template.Spec.RestartPolicy; {
	case p == corev1.RestartPolicyAlways || p == "":
		f.required(at, `valid values: "OnFailure", "Never"`)
	case p != corev1.RestartPolicyOnFailure && p != corev1.RestartPolicyNever:
		notSupported(f, at, p, []corev1.RestartPolicy{corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever})
	case s.PodFailurePolicy != nil && p != corev1.RestartPolicyNever:
		f.invalid(at, p, `only "Never" is supported when podFailurePolicy is specified`)
	}
}

// indexedJob checks the numbers of a job whose pods are numbered.
func (f *faults) indexedJob(w *where, s *batchv1.JobSpec) {
	parallelism, failed := w.field("parallelism"), w.field("maxFailedIndexes")
	if s.Completions == nil {
		f.required(w.field("completions"), "when completion mode is Indexed")
	}
	if p := s.Parallelism; p != nil && *p > mostIndexedParallelism {
		f.invalid(parallelism, *p, fmt.Sprintf("must be less than or equal to %d when completion mode is Indexed", mostIndexedParallelism))
	}
	if m := s.MaxFailedIndexes; m != nil {
		if s.Completions != nil && *m > *s.Completions {
			f.invalid(failed, *m, "must be less than or equal to completions")
		}
		if *m > mostFailedIndexes {
			f.invalid(failed, *m, fmt.Sprintf("must be less than or equal to %d", mostFailedIndexes))
		}
	}
	if valueOf(s.Completions) <= manyCompletions || s.BackoffLimitPerIndex == nil {
		return
	}
	const ofMany = "must be less than or equal to %d when completions are above %d and used with backoff limit per index"
	if s.MaxFailedIndexes == nil {
		f.required(failed, fmt.Sprintf("must be specified when completions is above %d", manyCompletions))
	}
	if p := s.Parallelism; p != nil && *p > mostParallelismOfMany {
		f.invalid(parallelism, *p, fmt.Sprintf(ofMany, mostParallelismOfMany, manyCompletions))
	}
	if m := s.MaxFailedIndexes; m != nil && *m > mostFailedOfMany {
		f.invalid(failed, *m, fmt.Sprintf(ofMany, mostFailedOfMany, manyCompletions))
	}
}

// gang checks that the pods that must run together are no more than may run at once.
func (f *faults) gang(w *where, s *batchv1.JobSpec) {
	if s.Scheduling == nil || s.Scheduling.SchedulingPolicy == nil || s.Scheduling.SchedulingPolicy.Gang == nil || s.Scheduling.SchedulingPolicy.Gang.MinCount == nil {
		return
	}
	parallelism := int32(1)
	if s.Parallelism != nil {
		parallelism = *s.Parallelism
	}
	if n := *s.Scheduling.SchedulingPolicy.Gang.MinCount; n > parallelism {
		f.invalid(w.field("schedulingPolicy").field("gang").field("minCount"), n, fmt.Sprintf("must not be greater than parallelism (%d)", parallelism))
	}
}

// jobChange checks the specification of a job that replaces another, little of which may change.
func (f *faults) jobChange(w *where, j, oldJob *batchv1.Job) {
	s, old := &j.Spec, &oldJob.Spec
	f.selectingJob(w, s, old)
	at := w.field("completions")
	switch {
	case !isIndexed(s):
		f.immutable(at, s.Completions, old.Completions)
	case s.Completions != nil && !equality.Semantic.DeepEqual(s.Completions, old.Completions) && *s.Completions != valueOf(s.Parallelism):
		f.invalid(at, *s.Completions, "can only be modified in tandem with spec.parallelism")
	}
	f.immutable(w.field("selector"), s.Selector, old.Selector)
	f.jobTemplateChange(w, s, oldJob)
	f.immutable(w.field("completionMode"), s.CompletionMode, old.CompletionMode)
	f.immutable(w.field("podFailurePolicy"), s.PodFailurePolicy, old.PodFailurePolicy)
	f.immutable(w.field("backoffLimitPerIndex"), s.BackoffLimitPerIndex, old.BackoffLimitPerIndex)
	f.immutable(w.field("managedBy"), s.ManagedBy, old.ManagedBy)
	f.immutable(w.field("successPolicy"), s.SuccessPolicy, old.SuccessPolicy)
	if s.Scheduling != nil && old.Scheduling != nil {
		policy, was := s.Scheduling.SchedulingPolicy, old.Scheduling.SchedulingPolicy
		if policy != nil && was != nil && (policy.Basic != nil) != (was.Basic != nil) {
			f.invalid(w.field("scheduling").field("schedulingPolicy"), nil, "the basic/gang policy variant is immutable after creation; only schedulingPolicy.gang.minCount may be updated")
		}
	}
}

// jobTemplateChange lets through what may change of the template of a suspended job that has no pods (KEP-2926, KEP-5440): where its pods
// may run, and what they ask for. Nothing else, and nothing of other jobs.
func (f *faults) jobTemplateChange(w *where, s *batchv1.JobSpec, oldJob *batchv1.Job) {
	t, was := &s.Template, oldJob.Spec.Template.DeepCopy()
	suspended := isTrue(oldJob.Spec.Suspend)
	idle := suspended && oldJob.Status.Active == 0 && (oldJob.Status.StartTime == nil || jobHas(oldJob.Status.Conditions, batchv1.JobSuspended))
	if idle {
		switch {
		case t.Spec.Affinity == nil && was.Spec.Affinity != nil:
			was.Spec.Affinity.NodeAffinity = nil
			if *was.Spec.Affinity == (corev1.Affinity{}) {
				was.Spec.Affinity = nil
			}
		case t.Spec.Affinity != nil && was.Spec.Affinity == nil:
			was.Spec.Affinity = &corev1.Affinity{NodeAffinity: t.Spec.Affinity.NodeAffinity}
		case t.Spec.Affinity != nil:
			was.Spec.Affinity.NodeAffinity = t.Spec.Affinity.NodeAffinity
		}
		was.Spec.NodeSelector, was.Spec.Tolerations, was.Spec.SchedulingGates = t.Spec.NodeSelector, t.Spec.Tolerations, t.Spec.SchedulingGates
		was.Annotations, was.Labels = t.Annotations, t.Labels
	}
	if !idle {
		f.immutable(w.field("template"), t, was)
		return
	}
	resources := func(containers, was []corev1.Container) {
		if len(containers) != len(was) {
			return
		}
		for i := range containers {
			if containers[i].Name == was[i].Name {
				was[i].Resources = containers[i].Resources
			}
		}
	}
	resources(t.Spec.Containers, was.Spec.Containers)
	resources(t.Spec.InitContainers, was.Spec.InitContainers)
	f.immutable(w.field("template.spec"), t.Spec, was.Spec)
}
