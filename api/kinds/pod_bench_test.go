package kinds

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// The server defaults, prepares and validates every pod that is created: these bound what that adds to a write.
func BenchmarkPodCreate(b *testing.B) {
	for _, name := range []string{"ordinary", "rich"} {
		b.Run(name, func(b *testing.B) {
			pod := &corev1.Pod{}
			*pod = *benchPod(b, name)
			kind, ctx := Pods(), context.Background()
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				p := pod.DeepCopy()
				b.StartTimer()
				kind.Default(p)
				kind.PrepareForCreate(ctx, p)
				if errs := kind.Validate(ctx, p); len(errs) > 0 {
					b.Fatal(errs)
				}
			}
		})
	}
}

// BenchmarkPodDefaultAndValidate is the hot path without the copy and the preparation, on a defaulted pod.
func BenchmarkPodDefaultAndValidate(b *testing.B) {
	pod := benchPod(b, "ordinary")
	kind, ctx := Pods(), context.Background()
	b.ReportAllocs()
	for b.Loop() {
		kind.Default(pod)
		if errs := kind.Validate(ctx, pod); len(errs) > 0 {
			b.Fatal(errs)
		}
	}
}

// BenchmarkPodStatusUpdate is what each report of a kubelet costs.
func BenchmarkPodStatusUpdate(b *testing.B) {
	old := benchPod(b, "ordinary")
	kind, ctx := Pods(), context.Background()
	kind.Default(old)
	kind.PrepareForCreate(ctx, old)
	old.UID, old.ResourceVersion = "u", "7"
	pod := old.DeepCopy()
	pod.Status.Phase = corev1.PodRunning
	status := kind.Subresources["status"]
	b.ReportAllocs()
	for b.Loop() {
		status.PrepareForUpdate(ctx, pod, old)
		if errs := status.ValidateUpdate(ctx, pod, old); len(errs) > 0 {
			b.Fatal(errs)
		}
	}
}

func benchPod(b *testing.B, name string) *corev1.Pod {
	b.Helper()
	pod, err := tryDecodePod(podFile(b, name))
	if err != nil {
		b.Fatal(err)
	}
	return pod
}
