package apiserver

import (
	"context"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"

	"wherry.dev/wherry/lifecycle"
	"wherry.dev/wherry/trace"
)

// recorder keeps spans for tests.
type recorder struct {
	mu    sync.Mutex
	spans []trace.Span // guarded by mu
}

func (r *recorder) Record(s trace.Span) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.spans = append(r.spans, s)
}

func (r *recorder) stages(uid string) map[lifecycle.Stage]trace.Span {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := map[lifecycle.Stage]trace.Span{}
	for _, s := range r.spans {
		if s.PodUID == uid {
			out[s.Stage] = s
		}
	}
	return out
}

// TestLifeOfAPod takes a pod through every verb over a connection, in both encodings, and checks what others see of it.
func TestLifeOfAPod(t *testing.T) {
	w := start(t, nil)
	for _, protobuf := range []bool{false, true} {
		name := map[bool]string{false: "json", true: "protobuf"}[protobuf]
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			defer cancel()
			pods := w.client(t, protobuf).CoreV1().Pods("default")

			watcher, err := pods.Watch(ctx, metav1.ListOptions{LabelSelector: "name=" + name})
			if err != nil {
				t.Fatal(err)
			}
			defer watcher.Stop()
			next := func(want watch.EventType) *corev1.Pod {
				t.Helper()
				select {
				case e := <-watcher.ResultChan():
					if e.Type != want {
						t.Fatalf("event %s %v, want %s", e.Type, e.Object, want)
					}
					return e.Object.(*corev1.Pod)
				case <-ctx.Done():
					t.Fatalf("no %s event", want)
				}
				return nil
			}

			created, err := pods.Create(ctx, testPod(name), metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if created.UID == "" || created.ResourceVersion == "" || created.CreationTimestamp.IsZero() || created.Status.Phase != corev1.PodPending {
				t.Fatalf("incomplete: %+v", created.ObjectMeta)
			}
			if len(created.ManagedFields) != 1 || created.ManagedFields[0].Manager != "harness" || created.ManagedFields[0].Operation != metav1.ManagedFieldsOperationUpdate {
				t.Fatalf("managed fields: %+v", created.ManagedFields)
			}
			if e := next(watch.Added); e.UID != created.UID || e.ResourceVersion != created.ResourceVersion {
				t.Fatalf("event shows another object")
			}
			if _, err := pods.Create(ctx, testPod(name), metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
				t.Fatalf("second create: %v", err)
			}

			got, err := pods.Get(ctx, name, metav1.GetOptions{})
			if err != nil || got.UID != created.UID {
				t.Fatalf("get: %v %v", got, err)
			}
			list, err := pods.List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + name})
			if err != nil || len(list.Items) != 1 || list.Items[0].UID != created.UID || list.ResourceVersion == "" {
				t.Fatalf("list: %v %v", list, err)
			}

			got.Labels["x"] = "y"
			updated, err := pods.Update(ctx, got, metav1.UpdateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			next(watch.Modified)
			if _, err := pods.Update(ctx, got, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
				t.Fatalf("update of an old version: %v", err)
			}
			same, err := pods.Update(ctx, updated, metav1.UpdateOptions{})
			if err != nil || same.ResourceVersion != updated.ResourceVersion {
				t.Fatalf("an update that changes nothing wrote: %v %v", same.ResourceVersion, err)
			}

			patched, err := pods.Patch(ctx, name, types.StrategicMergePatchType, []byte(`{"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True"}]}}`), metav1.PatchOptions{}, "status")
			if err != nil || patched.Status.Phase != corev1.PodRunning || len(patched.Status.Conditions) != 1 {
				t.Fatalf("status patch: %v %v", patched.Status, err)
			}
			next(watch.Modified)
			if _, err := pods.Patch(ctx, name, types.MergePatchType, []byte(`{"metadata":{"labels":{"x":null}}}`), metav1.PatchOptions{}); err != nil {
				t.Fatal(err)
			}
			if p := next(watch.Modified); p.Labels["x"] != "" {
				t.Fatalf("merge patch left %v", p.Labels)
			}
			if _, err := pods.Patch(ctx, name, types.JSONPatchType, []byte(`[{"op":"add","path":"/metadata/annotations","value":{"a":"b"}}]`), metav1.PatchOptions{}); err != nil {
				t.Fatal(err)
			}
			next(watch.Modified)
			if _, err := pods.Apply(ctx, applycorev1.Pod(name, "default").WithLabels(map[string]string{"applied": "yes"}), metav1.ApplyOptions{FieldManager: "applier"}); err != nil {
				t.Fatal(err)
			}
			if p := next(watch.Modified); p.Labels["applied"] != "yes" || p.Labels["app"] != "web" {
				t.Fatalf("apply made %v", p.Labels)
			}
			_, err = pods.Apply(ctx, applycorev1.Pod(name, "default").WithLabels(map[string]string{"app": "other"}), metav1.ApplyOptions{FieldManager: "applier"})
			if !apierrors.IsConflict(err) {
				t.Fatalf("apply over another manager's field: %v", err)
			}

			if err := pods.Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			if p := next(watch.Modified); p.DeletionTimestamp == nil || p.DeletionGracePeriodSeconds == nil || *p.DeletionGracePeriodSeconds != 30 {
				t.Fatalf("not marked: %+v", p.ObjectMeta)
			}
			zero, other := int64(0), types.UID("other")
			if err := pods.Delete(ctx, name, metav1.DeleteOptions{GracePeriodSeconds: &zero, Preconditions: &metav1.Preconditions{UID: &other}}); !apierrors.IsConflict(err) {
				t.Fatalf("delete of another UID: %v", err)
			}
			if err := pods.Delete(ctx, name, metav1.DeleteOptions{GracePeriodSeconds: &zero, Preconditions: &metav1.Preconditions{UID: &created.UID}}); err != nil {
				t.Fatal(err)
			}
			next(watch.Deleted)
			if _, err := pods.Get(ctx, name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				t.Fatalf("after deletion: %v", err)
			}
			stages := w.traces.stages(string(created.UID))
			for _, s := range []lifecycle.Stage{lifecycle.Request, lifecycle.Authenticate, lifecycle.Authorize, lifecycle.Admit, lifecycle.Store, lifecycle.Delete, lifecycle.Forget} {
				if span, ok := stages[s]; !ok || span.End.Before(span.Start) {
					t.Errorf("span of %s: %+v", s, span)
				}
			}
		})
	}
}
