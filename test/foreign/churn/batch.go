package churn

import (
	"context"
	"fmt"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func jobSpec(app string) batchv1.JobSpec {
	pod := template(app)
	pod.Spec.RestartPolicy = corev1.RestartPolicyNever
	return batchv1.JobSpec{Completions: ptr(int32(3)), Parallelism: ptr(int32(2)), Template: pod}
}

// job runs to its end, once plain, once indexed, once suspended first; one of them goes by itself a moment after its end.
func (t *turn) job(ctx context.Context) error {
	jobs := t.Kube.BatchV1().Jobs(t.ns)
	complete := func(name string) error {
		return t.until(ctx, "job "+name+" to be complete", func(ctx context.Context) (bool, error) {
			j, err := jobs.Get(ctx, name, metav1.GetOptions{})
			return err == nil && j.Status.CompletionTime != nil && j.Status.Succeeded == 3, err
		})
	}
	plain := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "plain"}, Spec: jobSpec("plain")}
	indexed := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "indexed"}, Spec: jobSpec("indexed")}
	indexed.Spec.CompletionMode = ptr(batchv1.IndexedCompletion)
	suspended := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "suspended"}, Spec: jobSpec("suspended")}
	suspended.Spec.Suspend = ptr(true)
	for _, j := range []*batchv1.Job{plain, indexed, suspended} {
		if _, err := jobs.Create(ctx, j, metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	for _, name := range []string{"plain", "indexed"} {
		if err := complete(name); err != nil {
			return err
		}
	}
	if _, err := jobs.Patch(ctx, "suspended", types.StrategicMergePatchType, []byte(`{"spec":{"suspend":false}}`), metav1.PatchOptions{}); err != nil {
		return err
	}
	if err := complete("suspended"); err != nil {
		return err
	}
	brief := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "brief"}, Spec: jobSpec("brief")}
	brief.Spec.TTLSecondsAfterFinished = ptr(int32(1))
	if _, err := jobs.Create(ctx, brief, metav1.CreateOptions{}); err != nil {
		return err
	}
	return t.until(ctx, "the finished job to go", func(ctx context.Context) (bool, error) {
		_, err := jobs.Get(ctx, "brief", metav1.GetOptions{})
		return err != nil, ignoreNotFound(err)
	})
}

// cronJob is made with a schedule of every minute, and its first job is waited for.
func (t *turn) cronJob(ctx context.Context) error {
	crons := t.Kube.BatchV1().CronJobs(t.ns)
	c := &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Name: "clock"}, Spec: batchv1.CronJobSpec{Schedule: "* * * * *", ConcurrencyPolicy: batchv1.ForbidConcurrent,
		JobTemplate: batchv1.JobTemplateSpec{Spec: jobSpec("clock")}}}
	if _, err := crons.Create(ctx, c, metav1.CreateOptions{}); err != nil {
		return err
	}
	if err := t.until(ctx, "the clock's first job", func(ctx context.Context) (bool, error) {
		l, err := t.Kube.BatchV1().Jobs(t.ns).List(ctx, metav1.ListOptions{})
		if err != nil || len(l.Items) == 0 {
			return false, err
		}
		return l.Items[0].Status.CompletionTime != nil, nil
	}); err != nil {
		return err
	}
	if _, err := crons.Patch(ctx, "clock", types.MergePatchType, []byte(`{"spec":{"suspend":true}}`), metav1.PatchOptions{}); err != nil {
		return err
	}
	c, err := crons.Get(ctx, "clock", metav1.GetOptions{})
	if err == nil && c.Status.LastScheduleTime == nil {
		err = fmt.Errorf("a job ran and the cron job does not know when")
	}
	return err
}
