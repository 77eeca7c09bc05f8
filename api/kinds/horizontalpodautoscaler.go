package kinds

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// HorizontalPodAutoscalers is autoscaling/v2 horizontalpodautoscalers, the version in which they are stored.
func HorizontalPodAutoscalers() *Kind {
	return &Kind{
		GroupVersionKind: autoscalingv2.SchemeGroupVersion.WithKind("HorizontalPodAutoscaler"),
		Plural:           "horizontalpodautoscalers",
		Singular:         "horizontalpodautoscaler",
		ShortNames:       []string{"hpa"},
		Categories:       []string{"all"},
		Namespaced:       true,
		Verbs:            all,
		New:              func() runtime.Object { return new(autoscalingv2.HorizontalPodAutoscaler) },
		NewList:          func() runtime.Object { return new(autoscalingv2.HorizontalPodAutoscalerList) },
		StoragePrefix:    "horizontalpodautoscalers",
		Convert:          convertAutoscaler,
		Default:          defaulting(defaultAutoscaler),
		PrepareForCreate: onCreate(func(a *autoscalingv2.HorizontalPodAutoscaler) {
			a.Status = autoscalingv2.HorizontalPodAutoscalerStatus{}
			a.Generation = 1
		}),
		PrepareForUpdate: onUpdate(func(a, old *autoscalingv2.HorizontalPodAutoscaler) {
			a.Status = old.Status
			nextGeneration(&a.ObjectMeta, &old.ObjectMeta, a.Spec, old.Spec)
		}),
		Validate: checking(func(a *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
			var f faults
			f.newMeta(&a.ObjectMeta, NameIsDNSSubdomain)
			f.autoscaler(&a.Spec, nil)
			return f.list
		}),
		ValidateUpdate: checkingUpdate(func(a, old *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
			var f faults
			f.changedMeta(&a.ObjectMeta, &old.ObjectMeta)
			f.autoscaler(&a.Spec, &old.Spec)
			return f.list
		}),
		ValidateName: NameIsDNSSubdomain,
		Subresources: map[string]*Subresource{
			"status": {
				Verbs:            viewVerbs,
				Versions:         []schema.GroupVersion{autoscalingv1.SchemeGroupVersion},
				PrepareForUpdate: onUpdate(func(a, old *autoscalingv2.HorizontalPodAutoscaler) { a.Spec = old.Spec }),
				ValidateUpdate: checkingUpdate(func(a, old *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
					var f faults
					f.changedMeta(&a.ObjectMeta, &old.ObjectMeta)
					for i := range a.Status.Conditions {
						notNegativeOrNil(&f, statusRoot.field("conditions").at(i).field("observedGeneration"), a.Status.Conditions[i].ObservedGeneration)
					}
					f.notNegative(statusRoot.field("currentReplicas"), int64(a.Status.CurrentReplicas))
					f.notNegative(statusRoot.field("desiredReplicas"), int64(a.Status.DesiredReplicas))
					return f.list
				}),
			},
		},
		FieldLabels:      metaFieldLabels,
		SelectableFields: namespacedMetaFields,
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("Reference", "string", autoscalingv2.HorizontalPodAutoscalerSpec{}.SwaggerDoc()["scaleTargetRef"]),
			column("Targets", "string", autoscalingv2.HorizontalPodAutoscalerSpec{}.SwaggerDoc()["metrics"]),
			column("MinPods", "string", autoscalingv2.HorizontalPodAutoscalerSpec{}.SwaggerDoc()["minReplicas"]),
			column("MaxPods", "string", autoscalingv2.HorizontalPodAutoscalerSpec{}.SwaggerDoc()["maxReplicas"]),
			column("Replicas", "string", autoscalingv2.HorizontalPodAutoscalerStatus{}.SwaggerDoc()["currentReplicas"]),
			ageColumn(),
		},
		Row:                      row(autoscalerRow),
		AllowUnconditionalUpdate: true,
	}
}

// HorizontalPodAutoscalersV1 is autoscaling/v1 horizontalpodautoscalers, the same stored objects as seen by clients that know no metric but the use of CPU.
// What else there is they find, and may keep, in annotations.
func HorizontalPodAutoscalersV1() *Kind {
	k := HorizontalPodAutoscalers()
	stored := *k
	k.GroupVersionKind = autoscalingv1.SchemeGroupVersion.WithKind("HorizontalPodAutoscaler")
	k.New = func() runtime.Object { return new(autoscalingv1.HorizontalPodAutoscaler) }
	k.NewList = func() runtime.Object { return new(autoscalingv1.HorizontalPodAutoscalerList) }
	k.Hub = &Hub{
		New:       stored.New,
		HubIsKind: stored.GroupVersionKind,
		ToHub: func(served runtime.Object) (runtime.Object, error) {
			return autoscalerFromV1(served.(*autoscalingv1.HorizontalPodAutoscaler)), nil
		},
		FromHub: func(stored runtime.Object) (runtime.Object, error) {
			return autoscalerToV1(stored.(*autoscalingv2.HorizontalPodAutoscaler))
		},
	}
	k.Default = defaulting(func(a *autoscalingv1.HorizontalPodAutoscaler) {
		if a.Spec.MinReplicas == nil {
			a.Spec.MinReplicas = ptrTo(int32(1))
		}
	})
	// The rules are the stored version's.
	preparing := func(f func(ctx context.Context, obj, old runtime.Object)) func(context.Context, runtime.Object, runtime.Object) {
		return func(ctx context.Context, obj, old runtime.Object) {
			served := obj.(*autoscalingv1.HorizontalPodAutoscaler)
			hub := autoscalerFromV1(served)
			var oldHub runtime.Object
			if old != nil {
				oldHub = autoscalerFromV1(old.(*autoscalingv1.HorizontalPodAutoscaler))
			}
			f(ctx, hub, oldHub)
			if back, err := autoscalerToV1(hub); err == nil {
				*served = *back
			}
		}
	}
	prepareCreate := preparing(func(ctx context.Context, obj, _ runtime.Object) { stored.PrepareForCreate(ctx, obj) })
	k.PrepareForCreate = func(ctx context.Context, obj runtime.Object) { prepareCreate(ctx, obj, nil) }
	k.PrepareForUpdate = preparing(stored.PrepareForUpdate)
	checkingBoth := func(f func(context.Context, runtime.Object, runtime.Object) field.ErrorList) func(context.Context, runtime.Object, runtime.Object) field.ErrorList {
		return func(ctx context.Context, obj, old runtime.Object) field.ErrorList {
			return f(ctx, autoscalerFromV1(obj.(*autoscalingv1.HorizontalPodAutoscaler)), autoscalerFromV1(old.(*autoscalingv1.HorizontalPodAutoscaler)))
		}
	}
	k.Validate = func(ctx context.Context, obj runtime.Object) field.ErrorList {
		return stored.Validate(ctx, autoscalerFromV1(obj.(*autoscalingv1.HorizontalPodAutoscaler)))
	}
	k.ValidateUpdate = checkingBoth(stored.ValidateUpdate)
	status := stored.Subresources["status"]
	k.Subresources = map[string]*Subresource{
		"status": {Verbs: viewVerbs, Versions: []schema.GroupVersion{stored.GroupVersionKind.GroupVersion()}, PrepareForUpdate: preparing(status.PrepareForUpdate), ValidateUpdate: checkingBoth(status.ValidateUpdate)},
	}
	k.Row = row(func(a *autoscalingv1.HorizontalPodAutoscaler, now time.Time) []any {
		return autoscalerRow(autoscalerFromV1(a), now)
	})
	return k
}

func autoscalerRow(a *autoscalingv2.HorizontalPodAutoscaler, now time.Time) []any {
	low := "<unset>"
	if a.Spec.MinReplicas != nil {
		low = fmt.Sprint(*a.Spec.MinReplicas)
	}
	return []any{a.Name, a.Spec.ScaleTargetRef.Kind + "/" + a.Spec.ScaleTargetRef.Name, metricsText(a.Spec.Metrics, a.Status.CurrentMetrics), low,
		int64(a.Spec.MaxReplicas), int64(a.Status.CurrentReplicas), age(a.CreationTimestamp, now)}
}

// metricsText prints the first two metrics as current/target.
func metricsText(specs []autoscalingv2.MetricSpec, statuses []autoscalingv2.MetricStatus) string {
	const shown = 2
	if len(specs) == 0 {
		return "<none>"
	}
	var words []string
	for i := range specs[:min(len(specs), shown)] {
		var status autoscalingv2.MetricStatus
		if i < len(statuses) {
			status = statuses[i]
		}
		words = append(words, metricText(&specs[i], &status))
	}
	text := strings.Join(words, ", ")
	if more := len(specs) - shown; more > 0 {
		text += fmt.Sprintf(" + %d more...", more)
	}
	return text
}

func metricText(s *autoscalingv2.MetricSpec, status *autoscalingv2.MetricStatus) string {
	var target *autoscalingv2.MetricTarget
	var current *autoscalingv2.MetricValueStatus
	switch t := s.Type; {
	case t == autoscalingv2.ExternalMetricSourceType && s.External != nil:
		if target = &s.External.Target; status.External != nil {
			current = &status.External.Current
		}
	case t == autoscalingv2.ObjectMetricSourceType && s.Object != nil:
		if target = &s.Object.Target; status.Object != nil {
			current = &status.Object.Current
		}
	case t == autoscalingv2.PodsMetricSourceType && s.Pods != nil:
		now := "<unknown>"
		if status.Pods != nil {
			now = quantityText(status.Pods.Current.AverageValue)
		}
		return now + "/" + quantityText(s.Pods.Target.AverageValue)
	case t == autoscalingv2.ResourceMetricSourceType && s.Resource != nil:
		if status.Resource != nil {
			current = &status.Resource.Current
		}
		return useText(s.Resource.Name, &s.Resource.Target, current)
	case t == autoscalingv2.ContainerResourceMetricSourceType && s.ContainerResource != nil:
		if status.ContainerResource != nil {
			current = &status.ContainerResource.Current
		}
		return useText(s.ContainerResource.Name, &s.ContainerResource.Target, current)
	default:
		return "<unknown type>"
	}
	if target.AverageValue != nil {
		now := "<unknown>"
		if current != nil && current.AverageValue != nil {
			now = current.AverageValue.String()
		}
		return now + "/" + target.AverageValue.String() + " (avg)"
	}
	now := "<unknown>"
	if current != nil {
		now = quantityText(current.Value)
	}
	return now + "/" + quantityText(target.Value)
}

// useText prints the use of a resource, as an amount or as a share of what is requested.
func useText(name corev1.ResourceName, target *autoscalingv2.MetricTarget, current *autoscalingv2.MetricValueStatus) string {
	now, want := "<unknown>", "<auto>"
	if target.AverageValue != nil {
		if current != nil {
			now = quantityText(current.AverageValue)
		}
		return fmt.Sprintf("%s: %s/%s", name, now, target.AverageValue.String())
	}
	if current != nil && current.AverageUtilization != nil {
		now = fmt.Sprintf("%d%%", *current.AverageUtilization)
	}
	if target.AverageUtilization != nil {
		want = fmt.Sprintf("%d%%", *target.AverageUtilization)
	}
	return fmt.Sprintf("%s: %s/%s", name, now, want)
}

func quantityText(q *quantity) string {
	if q == nil {
		return "<nil>"
	}
	return q.String()
}

func defaultAutoscaler(a *autoscalingv2.HorizontalPodAutoscaler) {
	a.Annotations = withoutOtherVersions(a.Annotations)
	s := &a.Spec
	if s.MinReplicas == nil {
		s.MinReplicas = ptrTo(int32(1))
	}
	if len(s.Metrics) == 0 {
		s.Metrics = []autoscalingv2.MetricSpec{cpuMetric(80)}
	}
	if s.Behavior == nil {
		return
	}
	percent := autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: 15}
	pods := autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PodsScalingPolicy, Value: 4, PeriodSeconds: 15}
	defaultScaling(&s.Behavior.ScaleUp, pods, percent)
	if s.Behavior.ScaleUp.StabilizationWindowSeconds == nil {
		s.Behavior.ScaleUp.StabilizationWindowSeconds = ptrTo(int32(0))
	}
	defaultScaling(&s.Behavior.ScaleDown, percent) // its window is the controller's to say
}

func defaultScaling(rules **autoscalingv2.HPAScalingRules, policies ...autoscalingv2.HPAScalingPolicy) {
	if *rules == nil {
		*rules = &autoscalingv2.HPAScalingRules{}
	}
	if (*rules).SelectPolicy == nil {
		(*rules).SelectPolicy = ptrTo(autoscalingv2.MaxChangePolicySelect)
	}
	if (*rules).Policies == nil {
		(*rules).Policies = policies
	}
}

// cpuMetric asks for a share of the CPU that is requested, in percent.
func cpuMetric(utilization int32) autoscalingv2.MetricSpec {
	return autoscalingv2.MetricSpec{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{
		Name: corev1.ResourceCPU, Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: &utilization}}}
}

// withoutOtherVersions returns annotations without those in which other versions hold what they have no fields for. The argument is left alone.
func withoutOtherVersions(annotations map[string]string) map[string]string {
	out := annotations
	for _, key := range autoscalerAnnotations {
		if _, has := out[key]; !has {
			continue
		}
		if len(out) == len(annotations) {
			out = maps.Clone(annotations)
		}
		delete(out, key)
	}
	return out
}
