package kinds

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // time zones are the same on every machine

	"github.com/robfig/cron/v3"
	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// longestCronJobName leaves room for what is added to it in the names of its jobs.
const longestCronJobName = 52

// CronJobs is batch/v1 cronjobs.
func CronJobs() *Kind {
	jobPath := specPath.Child("jobTemplate", "spec")
	return &Kind{
		GroupVersionKind: batchv1.SchemeGroupVersion.WithKind("CronJob"),
		Plural:           "cronjobs",
		Singular:         "cronjob",
		ShortNames:       []string{"cj"},
		Categories:       []string{"all"},
		Namespaced:       true,
		Verbs:            all,
		New:              func() runtime.Object { return new(batchv1.CronJob) },
		NewList:          func() runtime.Object { return new(batchv1.CronJobList) },
		StoragePrefix:    "cronjobs",
		Default:          defaulting(defaultCronJob),
		PrepareForCreate: onCreate(func(j *batchv1.CronJob) {
			j.Status = batchv1.CronJobStatus{}
			j.Generation = 1
			dropJobAlphaFields(&j.Spec.JobTemplate.Spec, nil)
			PreparePodTemplate(&j.Spec.JobTemplate.Spec.Template, nil)
		}),
		PrepareForUpdate: onUpdate(func(j, old *batchv1.CronJob) {
			j.Status = old.Status
			dropJobAlphaFields(&j.Spec.JobTemplate.Spec, &old.Spec.JobTemplate.Spec)
			PreparePodTemplate(&j.Spec.JobTemplate.Spec.Template, &old.Spec.JobTemplate.Spec.Template)
			nextGeneration(&j.ObjectMeta, &old.ObjectMeta, j.Spec, old.Spec)
		}),
		Validate: checking(func(j *batchv1.CronJob) field.ErrorList {
			var f faults
			f.newMeta(&j.ObjectMeta, NameIsDNSSubdomain)
			f.cronJob(&j.Spec, nil)
			if len(j.Name) > longestCronJobName {
				f.invalid(metadataRoot.field("name"), j.Name, fmt.Sprintf("must be no more than %d characters", longestCronJobName))
			}
			return f.list
		}),
		ValidateUpdate: checkingUpdate(func(j, old *batchv1.CronJob) field.ErrorList {
			var f faults
			f.changedMeta(&j.ObjectMeta, &old.ObjectMeta)
			f.cronJob(&j.Spec, &old.Spec)
			return f.list
		}),
		Warnings: warningsOf(func(j, old *batchv1.CronJob) []string {
			warnings := jobWarnings(&j.ObjectMeta, metaOf(old), &j.Spec.JobTemplate.Spec, jobPath)
			if old != nil && strings.Contains(j.Spec.Schedule, "TZ") {
				warnings = append(warnings, "cannot use TZ or CRON_TZ in spec.spec.schedule, use timeZone instead, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details")
			}
			return warnings
		}),
		ValidateName: NameIsDNSSubdomain,
		Subresources: map[string]*Subresource{
			"status": {
				Verbs:            viewVerbs,
				PrepareForUpdate: onUpdate(func(j, old *batchv1.CronJob) { j.Spec = old.Spec }),
				ValidateUpdate: checkingUpdate(func(j, old *batchv1.CronJob) field.ErrorList {
					return ValidateMetaUpdate(&j.ObjectMeta, &old.ObjectMeta)
				}),
			},
		},
		FieldLabels:      metaFieldLabels,
		SelectableFields: namespacedMetaFields,
		Columns: append([]metav1.TableColumnDefinition{
			nameColumn(),
			column("Schedule", "string", batchv1.CronJobSpec{}.SwaggerDoc()["schedule"]),
			column("Timezone", "string", batchv1.CronJobSpec{}.SwaggerDoc()["timeZone"]),
			column("Suspend", "boolean", batchv1.CronJobSpec{}.SwaggerDoc()["suspend"]),
			column("Active", "integer", batchv1.CronJobStatus{}.SwaggerDoc()["active"]),
			column("Last Schedule", "string", batchv1.CronJobStatus{}.SwaggerDoc()["lastScheduleTime"]),
			ageColumn(),
		}, append(containerColumns(), wideColumn("Selector", "string", batchv1.JobSpec{}.SwaggerDoc()["selector"]))...),
		Row: row(cronJobRow),

		AllowUnconditionalUpdate: true,
	}
}

func cronJobRow(j *batchv1.CronJob, now time.Time) []any {
	s := &j.Spec
	last, zone, suspend := "<none>", "<none>", "<unset>"
	if t := j.Status.LastScheduleTime; t != nil {
		last = age(*t, now)
	}
	if s.TimeZone != nil {
		zone = *s.TimeZone
	}
	if s.Suspend != nil {
		suspend = printedBool(*s.Suspend)
	}
	names, images := containerCells(s.JobTemplate.Spec.Template.Spec.Containers)
	return []any{j.Name, s.Schedule, zone, suspend, int64(len(j.Status.Active)), last, age(j.CreationTimestamp, now), names, images, metav1.FormatLabelSelector(s.JobTemplate.Spec.Selector)}
}

// printedBool writes a truth as Python does, for reasons lost in time.
func printedBool(b bool) string {
	s := strconv.FormatBool(b)
	return strings.ToUpper(s[:1]) + s[1:]
}

func defaultCronJob(j *batchv1.CronJob) {
	s := &j.Spec
	defaultJobParts(&s.JobTemplate.Spec)
	setIfZero(&s.ConcurrencyPolicy, batchv1.AllowConcurrent)
	if s.Suspend == nil {
		s.Suspend = ptrTo(false)
	}
	if s.SuccessfulJobsHistoryLimit == nil {
		s.SuccessfulJobsHistoryLimit = ptrTo(int32(3))
	}
	if s.FailedJobsHistoryLimit == nil {
		s.FailedJobsHistoryLimit = ptrTo(int32(1))
	}
}

// cronJob checks a specification; old is nil on create.
func (f *faults) cronJob(s, old *batchv1.CronJobSpec) {
	w := &specRoot
	if s.Schedule == "" {
		f.required(w.field("schedule"), "")
	} else {
		f.schedule(w.field("schedule"), s, old != nil && strings.Contains(old.Schedule, "TZ"))
	}
	notNegativeOrNil(f, w.field("startingDeadlineSeconds"), s.StartingDeadlineSeconds)
	if s.TimeZone != nil && (old == nil || !equalPointers(s.TimeZone, old.TimeZone)) {
		f.timeZone(w.field("timeZone"), *s.TimeZone)
	}
	oneOf(f, w.field("concurrencyPolicy"), s.ConcurrencyPolicy, []batchv1.ConcurrencyPolicy{batchv1.AllowConcurrent, batchv1.ForbidConcurrent, batchv1.ReplaceConcurrent})
	at, job := w.field("jobTemplate").field("spec"), &s.JobTemplate.Spec
	if old == nil {
		f.job(at, job, nil)
	} else {
		f.job(at, job, &old.JobTemplate.Spec)
	}
	if job.Selector != nil {
		f.invalid(at.field("selector"), job.Selector, "`selector` will be auto-generated")
	}
	if isTrue(job.ManualSelector) {
		f.keep(field.NotSupported(at.field("manualSelector").path(), *job.ManualSelector, []string{"nil", "false"}))
	}
	notNegativeOrNil(f, w.field("successfulJobsHistoryLimit"), s.SuccessfulJobsHistoryLimit)
	notNegativeOrNil(f, w.field("failedJobsHistoryLimit"), s.FailedJobsHistoryLimit)
}

// schedule checks a schedule in crontab's format. A time zone in it is let pass where there was one already.
func (f *faults) schedule(w *where, s *batchv1.CronJobSpec, zoned bool) {
	if err := parseSchedule(s.Schedule); err != nil {
		f.invalid(w, s.Schedule, err.Error())
	}
	switch hasZone := strings.Contains(s.Schedule, "TZ"); {
	case zoned && hasZone && s.TimeZone != nil:
		f.invalid(w, s.Schedule, "cannot use both timeZone field and TZ or CRON_TZ in schedule")
	case !zoned && hasZone:
		f.invalid(w, s.Schedule, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead")
	}
}

// parseSchedule makes an error of the parser's panics ("TZ=0" is one).
func parseSchedule(text string) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("invalid schedule format: %v", r)
		}
	}()
	_, err = cron.ParseStandard(text)
	return err
}

// zonePart is what a part of a time zone's name may be (the theory file of the tz database, and digits and + for old names).
var zonePart = regexp.MustCompile(`^[A-Za-z\.\-_0-9+]{1,14}$`)

func (f *faults) timeZone(w *where, zone string) {
	if zone == "" {
		f.invalid(w, zone, "timeZone must be nil or non-empty string")
		return
	}
	for part := range strings.SplitSeq(zone, "/") {
		if part == "." || part == ".." || strings.HasPrefix(part, "-") || !zonePart.MatchString(part) {
			f.invalid(w, zone, "unknown time zone "+zone)
			return
		}
	}
	if strings.EqualFold(zone, "Local") {
		f.invalid(w, zone, "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones")
	}
	if _, err := time.LoadLocation(zone); err != nil {
		f.invalid(w, zone, err.Error())
	}
}
