package kinds

import (
	"fmt"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Jobs may be managed by controllers of others (KEP-4368), so what is said of a job is held to what its readers rely on. Most rules are asked
// only of what changes: a status that is wrong already can still be mended elsewhere, and one that became wrong
// because the specification changed is the controller's to put right.

// jobTruth is which of a job's conditions are true.
type jobTruth struct{ complete, failed, finished, failureTarget, successCriteriaMet, suspended bool }

func truthOf(conditions []batchv1.JobCondition) jobTruth {
	t := jobTruth{
		complete: jobHas(conditions, batchv1.JobComplete), failed: jobHas(conditions, batchv1.JobFailed), failureTarget: jobHas(conditions, batchv1.JobFailureTarget),
		successCriteriaMet: jobHas(conditions, batchv1.JobSuccessCriteriaMet), suspended: jobHas(conditions, batchv1.JobSuspended),
	}
	t.finished = t.complete || t.failed
	return t
}

// jobStatusCheck holds a new status of a job against the old one.
type jobStatusCheck struct {
	faults
	spec    *batchv1.JobSpec
	s, old  *batchv1.JobStatus
	is, was jobTruth
}

func validateJobStatusUpdate(j, old *batchv1.Job) field.ErrorList {
	c := jobStatusCheck{spec: &j.Spec, s: &j.Status, old: &old.Status, is: truthOf(j.Status.Conditions), was: truthOf(old.Status.Conditions)}
	c.changedMeta(&j.ObjectMeta, &old.ObjectMeta)
	c.counts()
	c.times()
	c.conditions()
	c.finished()
	c.indexes()
	c.changes()
	return c.list
}

// wrongConditions is a fault of the conditions together.
func (c *jobStatusCheck) wrongConditions(detail string) {
	c.invalid(statusRoot.field("conditions"), field.OmitValueType{}, detail)
}

func (c *jobStatusCheck) counts() {
	w := &statusRoot
	c.notNegative(w.field("active"), int64(c.s.Active))
	c.notNegative(w.field("succeeded"), int64(c.s.Succeeded))
	c.notNegative(w.field("failed"), int64(c.s.Failed))
	notNegativeOrNil(&c.faults, w.field("ready"), c.s.Ready)
	notNegativeOrNil(&c.faults, w.field("terminating"), c.s.Terminating)
	if u := c.s.UncountedTerminatedPods; u != nil {
		seen := map[types.UID]bool{}
		at := w.field("uncountedTerminatedPods")
		c.uncounted(at.field("succeeded"), u.Succeeded, seen)
		c.uncounted(at.field("failed"), u.Failed, seen)
	}
	if (!equalPointers(c.s.Ready, c.old.Ready) || c.s.Active != c.old.Active) && c.s.Ready != nil && *c.s.Ready > c.s.Active {
		c.invalid(w.field("ready"), *c.s.Ready, "cannot set more ready pods than active")
	}
}

func (c *jobStatusCheck) uncounted(w *where, uids []types.UID, seen map[types.UID]bool) {
	for i, uid := range uids {
		switch {
		case uid == "":
			c.invalid(w.at(i), uid, "must not be empty")
		case seen[uid]:
			c.duplicate(w.at(i), uid)
		}
		seen[uid] = true
	}
}

func (c *jobStatusCheck) times() {
	s, at := c.s, statusRoot.field("completionTime")
	started, completed := !sameTime(s.StartTime, c.old.StartTime), !sameTime(s.CompletionTime, c.old.CompletionTime)
	if c.is.complete != c.was.complete || completed {
		if s.CompletionTime != nil && !c.is.complete {
			c.invalid(at, s.CompletionTime, "cannot set completionTime when there is no Complete=True condition")
		}
		if s.CompletionTime == nil && c.is.complete {
			c.required(at, "completionTime is required for Complete jobs")
		}
	}
	if (started || completed) && s.StartTime != nil && s.CompletionTime != nil && s.CompletionTime.Before(s.StartTime) {
		c.invalid(at, s.CompletionTime, "must be equal to or after `startTime`")
	}
	if completed && s.CompletionTime != nil && c.old.CompletionTime != nil {
		c.invalid(at, s.CompletionTime, "field is immutable")
	}
	resuming := c.was.suspended && jobConditionIs(s.Conditions, batchv1.JobSuspended, corev1.ConditionFalse)
	if started && c.old.StartTime != nil && !resuming && !isTrue(c.spec.Suspend) {
		c.invalid(statusRoot.field("startTime"), s.StartTime, "field is immutable for unsuspended job once set")
	}
}

// sameTime compares as written, the zone included.
func sameTime(a, b *metav1.Time) bool { return a == b || a != nil && b != nil && *a == *b }

func (c *jobStatusCheck) conditions() {
	is, was := c.is, c.was
	if is.complete && is.failed && (is.complete != was.complete || is.failed != was.failed) {
		c.wrongConditions("cannot set Complete=True and Failed=true conditions")
	}
	if is.complete && is.failureTarget && (is.complete != was.complete || is.failureTarget != was.failureTarget) {
		c.wrongConditions("cannot set Complete=True and FailureTarget=true conditions")
	}
	if is.failed && !is.failureTarget && (is.failed != was.failed || !equalPointers(c.s.FailedIndexes, c.old.FailedIndexes)) {
		c.wrongConditions("cannot set Failed=True condition without the FailureTarget=true condition")
	}
	if is.complete && !is.successCriteriaMet && (is.complete != was.complete || is.successCriteriaMet != was.successCriteriaMet) {
		c.wrongConditions("cannot set Complete=True condition without the SuccessCriteriaMet=true condition")
	}
	if is.successCriteriaMet && is.failed {
		c.wrongConditions("cannot set SuccessCriteriaMet=True and Failed=true conditions")
	}
	if is.successCriteriaMet && is.failureTarget {
		c.wrongConditions("cannot set SuccessCriteriaMet=True and FailureTarget=true conditions")
	}
	if c.spec.SuccessPolicy != nil && !is.successCriteriaMet && is.complete {
		c.wrongConditions("cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True")
	}
}

// finished checks that nothing goes on in a job that has ended.
func (c *jobStatusCheck) finished() {
	if !c.is.finished {
		return
	}
	s, w, changed := c.s, &statusRoot, c.is.finished != c.was.finished
	if (changed || s.Active != c.old.Active) && s.Active > 0 {
		c.invalid(w.field("active"), s.Active, "active>0 is invalid for finished job")
	}
	neverStarted := isTrue(c.spec.Suspend) && c.spec.Completions != nil && *c.spec.Completions == 0
	if (changed || !sameTime(s.StartTime, c.old.StartTime)) && !neverStarted && s.StartTime == nil {
		c.required(w.field("startTime"), "startTime is required for finished job")
	}
	if u := s.UncountedTerminatedPods; u != nil && len(u.Failed)+len(u.Succeeded) > 0 && (changed || !equality.Semantic.DeepEqual(u, c.old.UncountedTerminatedPods)) {
		c.invalid(w.field("uncountedTerminatedPods"), u, "must be empty for finished job")
	}
	if (changed || !equalPointers(s.Terminating, c.old.Terminating)) && s.Terminating != nil && *s.Terminating > 0 {
		c.invalid(w.field("terminating"), *s.Terminating, "terminating>0 is invalid for finished job")
	}
}

// indexes checks the lists of completed and failed indexes.
func (c *jobStatusCheck) indexes() {
	s, completions := c.s, c.spec.Completions
	completed, failed := s.CompletedIndexes != c.old.CompletedIndexes, !equalPointers(s.FailedIndexes, c.old.FailedIndexes)
	at := statusRoot.field("completedIndexes")
	if completed {
		if completions != nil {
			if _, err := countIndexes(s.CompletedIndexes, *completions); err != nil {
				c.invalid(at, s.CompletedIndexes, "error parsing completedIndexes: "+err.Error())
			}
		}
		if s.CompletedIndexes != "" && !isIndexed(c.spec) {
			c.invalid(at, s.CompletedIndexes, "cannot set non-empty completedIndexes when non-indexed completion mode")
		}
	}
	if s.FailedIndexes == nil {
		return
	}
	at = statusRoot.field("failedIndexes")
	if failed {
		if completions != nil && c.spec.BackoffLimitPerIndex != nil {
			if _, err := countIndexes(*s.FailedIndexes, *completions); err != nil {
				c.invalid(at, *s.FailedIndexes, "error parsing failedIndexes: "+err.Error())
			}
		}
		if c.spec.BackoffLimitPerIndex == nil {
			c.invalid(at, *s.FailedIndexes, "cannot set non-null failedIndexes when backoffLimitPerIndex is null")
		}
	}
	if (failed || completed) && completions != nil {
		if i, both := firstCommon(s.CompletedIndexes, *s.FailedIndexes, *completions); both {
			c.invalid(at, *s.FailedIndexes, fmt.Sprintf("failedIndexes and completedIndexes overlap at index: %d", i))
		}
	}
}

// changes checks what may only go one way.
func (c *jobStatusCheck) changes() {
	for _, t := range []struct {
		name    batchv1.JobConditionType
		is, was bool
	}{{batchv1.JobFailed, c.is.failed, c.was.failed}, {batchv1.JobComplete, c.is.complete, c.was.complete}, {batchv1.JobFailureTarget, c.is.failureTarget, c.was.failureTarget}} {
		if t.was && !t.is {
			c.wrongConditions(fmt.Sprintf("cannot disable the terminal %s=True condition", t.name))
		}
	}
	if c.s.Failed < c.old.Failed {
		c.invalid(statusRoot.field("failed"), c.s.Failed, "cannot decrease the failed counter")
	}
	// An indexed job with as many pods as indexes can be made smaller.
	elastic := isIndexed(c.spec) && equalPointers(c.spec.Completions, c.spec.Parallelism)
	if !elastic && c.s.Succeeded < c.old.Succeeded {
		c.invalid(statusRoot.field("succeeded"), c.s.Succeeded, "cannot decrease the succeeded counter")
	}
	if c.was.successCriteriaMet && !c.is.successCriteriaMet {
		c.wrongConditions("cannot disable the SuccessCriteriaMet=True condition")
	}
	if c.was.complete && !c.was.successCriteriaMet && c.is.successCriteriaMet {
		c.wrongConditions("cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions")
	}
}
