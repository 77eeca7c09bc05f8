package kinds

import (
	"fmt"
	"math"
	"strconv"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Jobs is batch/v1 jobs. Its files: job_validate checks specifications, job_policy their policies, job_status what is said of them.
func Jobs() *Kind {
	return &Kind{
		GroupVersionKind: batchv1.SchemeGroupVersion.WithKind("Job"),
		Plural:           "jobs",
		Singular:         "job",
		Categories:       []string{"all"},
		Namespaced:       true,
		Verbs:            all,
		New:              func() runtime.Object { return new(batchv1.Job) },
		NewList:          func() runtime.Object { return new(batchv1.JobList) },
		StoragePrefix:    "jobs",
		Default:          defaulting(defaultJob),
		PrepareForCreate: onCreate(func(j *batchv1.Job) {
			if !isTrue(j.Spec.ManualSelector) {
				selectOwnPods(j)
			}
			j.Status = batchv1.JobStatus{}
			j.Generation = 1
			dropJobAlphaFields(&j.Spec, nil)
			PreparePodTemplate(&j.Spec.Template, nil)
		}),
		PrepareForUpdate: onUpdate(func(j, old *batchv1.Job) {
			j.Status = old.Status
			dropJobAlphaFields(&j.Spec, &old.Spec)
			PreparePodTemplate(&j.Spec.Template, &old.Spec.Template)
			nextGeneration(&j.ObjectMeta, &old.ObjectMeta, j.Spec, old.Spec)
		}),
		Validate:       checking(validateJob),
		ValidateUpdate: checkingUpdate(validateJobUpdate),
		Warnings: warningsOf(func(j, old *batchv1.Job) []string {
			return jobWarnings(&j.ObjectMeta, metaOf(old), &j.Spec, specPath)
		}),
		ValidateName: NameIsDNSSubdomain,
		Subresources: map[string]*Subresource{
			"status": {
				Verbs:            viewVerbs,
				PrepareForUpdate: onUpdate(func(j, old *batchv1.Job) { j.Spec = old.Spec }),
				ValidateUpdate:   checkingUpdate(validateJobStatusUpdate),
			},
		},
		FieldLabels: []string{"metadata.name", "metadata.namespace", "status.successful"},
		SelectableFields: selecting(func(j *batchv1.Job) fields.Set {
			set := metaFields(&j.ObjectMeta, true, 1)
			set["status.successful"] = strconv.Itoa(int(j.Status.Succeeded))
			return set
		}),
		Columns: append([]metav1.TableColumnDefinition{
			nameColumn(),
			column("Status", "string", "Status of the job."),
			column("Completions", "string", batchv1.JobStatus{}.SwaggerDoc()["succeeded"]),
			column("Duration", "string", "Time required to complete the job."),
			ageColumn(),
		}, append(containerColumns(), wideColumn("Selector", "string", batchv1.JobSpec{}.SwaggerDoc()["selector"]))...),
		Row: row(func(j *batchv1.Job, now time.Time) []any {
			names, images := containerCells(j.Spec.Template.Spec.Containers)
			return []any{j.Name, jobPhase(j), jobCompletions(j), jobDuration(&j.Status, now), age(j.CreationTimestamp, now), names, images, metav1.FormatLabelSelector(j.Spec.Selector)}
		}),
		AllowUnconditionalUpdate: true,
		DefaultOrphan:            true,
	}
}

func defaultJob(j *batchv1.Job) {
	s := &j.Spec
	defaultJobParts(s)
	if s.Completions == nil && s.Parallelism == nil {
		s.Completions = ptrTo(int32(1))
	}
	if s.Parallelism == nil {
		s.Parallelism = ptrTo(int32(1))
	}
	if s.BackoffLimit == nil {
		limit := int32(6)
		if s.BackoffLimitPerIndex != nil {
			limit = math.MaxInt32
		}
		s.BackoffLimit = &limit
	}
	if len(j.Labels) == 0 && s.Template.Labels != nil {
		j.Labels = s.Template.Labels // one map: labels that selectOwnPods adds to the template become the job's as well, as in upstream
	}
	if s.CompletionMode == nil {
		s.CompletionMode = ptrTo(batchv1.NonIndexedCompletion)
	}
	if s.Suspend == nil {
		s.Suspend = ptrTo(false)
	}
	if s.PodReplacementPolicy == nil {
		policy := batchv1.TerminatingOrFailed
		if s.PodFailurePolicy != nil {
			policy = batchv1.Failed
		}
		s.PodReplacementPolicy = &policy
	}
	if s.ManualSelector == nil {
		s.ManualSelector = ptrTo(false)
	}
}

// defaultJobParts fills in what the parts of a job's specification leave out, in cron jobs too.
func defaultJobParts(s *batchv1.JobSpec) {
	DefaultPodTemplate(&s.Template)
	if s.PodFailurePolicy == nil {
		return
	}
	for i := range s.PodFailurePolicy.Rules {
		patterns := s.PodFailurePolicy.Rules[i].OnPodConditions
		for j := range patterns {
			setIfZero(&patterns[j].Status, corev1.ConditionTrue)
		}
	}
}

// dropJobAlphaFields clears spec.scheduling (WorkloadWithJob), which this minor does not offer yet, unless the old specification has it.
func dropJobAlphaFields(s, old *batchv1.JobSpec) {
	if old == nil || old.Scheduling == nil {
		s.Scheduling = nil
	}
}

// Labels of a job's pods. Those without a domain are older.
const (
	legacyJobName       = "job-name"
	legacyControllerUID = "controller-uid"
)

// selectOwnPods labels the pods of a job with its name and UID, and selects them by the latter. Labels and selectors that are there already
// stay, and validation refuses wrong ones.
func selectOwnPods(j *batchv1.Job) {
	t := &j.Spec.Template
	if t.Labels == nil {
		t.Labels = map[string]string{}
	}
	add := func(to map[string]string, key, value string) {
		if _, has := to[key]; !has {
			to[key] = value
		}
	}
	add(t.Labels, legacyJobName, j.Name)
	add(t.Labels, batchv1.JobNameLabel, j.Name)
	add(t.Labels, legacyControllerUID, string(j.UID))
	add(t.Labels, batchv1.ControllerUidLabel, string(j.UID))
	if j.Spec.Selector == nil {
		j.Spec.Selector = &metav1.LabelSelector{}
	}
	if j.Spec.Selector.MatchLabels == nil {
		j.Spec.Selector.MatchLabels = map[string]string{}
	}
	add(j.Spec.Selector.MatchLabels, batchv1.ControllerUidLabel, string(j.UID))
}

// jobWarnings warns of a job, or of the jobs of a cron job, whose specification is at path.
func jobWarnings(m, old *metav1.ObjectMeta, s *batchv1.JobSpec, path *field.Path) []string {
	warnings := workloadWarnings(m, old, &s.Template, path.Child("template"), true)
	if (old == nil || old.Generation != m.Generation) && s.CompletionMode != nil && *s.CompletionMode == batchv1.IndexedCompletion &&
		valueOf(s.Completions) > manyCompletions && valueOf(s.Parallelism) > 10_000 {
		warnings = append(warnings, path.String()+": In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, Kubernetes might not be able to track completedIndexes when a big number of indexes fail")
	}
	return warnings
}

// jobHas reports whether a condition is true.
func jobHas(conditions []batchv1.JobCondition, t batchv1.JobConditionType) bool {
	return jobConditionIs(conditions, t, corev1.ConditionTrue)
}

func jobConditionIs(conditions []batchv1.JobCondition, t batchv1.JobConditionType, status corev1.ConditionStatus) bool {
	for i := range conditions {
		if conditions[i].Type == t && conditions[i].Status == status {
			return true
		}
	}
	return false
}

// jobPhase says in one word how far a job is.
func jobPhase(j *batchv1.Job) string {
	has := func(t batchv1.JobConditionType) bool { // of conditions of one type the first counts
		for i := range j.Status.Conditions {
			if c := &j.Status.Conditions[i]; c.Type == t {
				return c.Status == corev1.ConditionTrue
			}
		}
		return false
	}
	switch {
	case has(batchv1.JobComplete):
		return "Complete"
	case has(batchv1.JobFailed):
		return "Failed"
	case j.DeletionTimestamp != nil:
		return "Terminating"
	case has(batchv1.JobSuspended):
		return "Suspended"
	case has(batchv1.JobFailureTarget):
		return "FailureTarget"
	case has(batchv1.JobSuccessCriteriaMet):
		return "SuccessCriteriaMet"
	}
	return "Running"
}

func jobCompletions(j *batchv1.Job) string {
	switch parallelism := valueOf(j.Spec.Parallelism); {
	case j.Spec.Completions != nil:
		return fmt.Sprintf("%d/%d", j.Status.Succeeded, *j.Spec.Completions)
	case parallelism > 1:
		return fmt.Sprintf("%d/1 of %d", j.Status.Succeeded, parallelism)
	}
	return fmt.Sprintf("%d/1", j.Status.Succeeded)
}

func jobDuration(s *batchv1.JobStatus, now time.Time) string {
	switch {
	case s.StartTime == nil:
		return ""
	case s.CompletionTime == nil:
		return duration.HumanDuration(now.Sub(s.StartTime.Time))
	}
	return duration.HumanDuration(s.CompletionTime.Sub(s.StartTime.Time))
}
