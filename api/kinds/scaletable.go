package kinds

import (
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
)

// Scales is what the subresources named scale show (autoscaling/v1 Scale), for printing. It is no resource of its own.
func Scales() *Kind {
	return &Kind{
		GroupVersionKind: autoscalingv1.SchemeGroupVersion.WithKind("Scale"),
		New:              func() runtime.Object { return new(autoscalingv1.Scale) },
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("Desired", "integer", "Number of desired replicas"),
			column("Available", "integer", "Number of actual replicas"),
			column("Age", "date", metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"]),
		},
		Row: row(func(s *autoscalingv1.Scale, now time.Time) []any {
			age := "<unknown>"
			if !s.CreationTimestamp.IsZero() {
				age = duration.HumanDuration(now.Sub(s.CreationTimestamp.Time))
			}
			return []any{s.Name, int64(s.Spec.Replicas), int64(s.Status.Replicas), age}
		}),
	}
}
