package kinds

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// ComponentStatuses is core/v1 componentstatuses: how the parts of the control plane are, asked when somebody wants to know. Deprecated upstream since 1.19.
func ComponentStatuses() *Kind {
	return &Kind{
		GroupVersionKind: corev1.SchemeGroupVersion.WithKind("ComponentStatus"),
		Plural:           "componentstatuses",
		Singular:         "componentstatus",
		ShortNames:       []string{"cs"},
		Verbs:            []string{"get", "list"},
		Computed:         true,
		New:              func() runtime.Object { return new(corev1.ComponentStatus) },
		NewList:          func() runtime.Object { return new(corev1.ComponentStatusList) },
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("Status", "string", "Status of the component conditions"),
			column("Message", "string", "Message of the component conditions"),
			column("Error", "string", "Error of the component conditions"),
		},
		Row: row(func(c *corev1.ComponentStatus, _ time.Time) []any {
			for _, healthy := range c.Conditions {
				if healthy.Type != corev1.ComponentHealthy {
					continue
				}
				word := "Unhealthy"
				if healthy.Status == corev1.ConditionTrue {
					word = "Healthy"
				}
				return []any{c.Name, word, healthy.Message, healthy.Error}
			}
			return []any{c.Name, "Unknown", "", ""}
		}),
	}
}
