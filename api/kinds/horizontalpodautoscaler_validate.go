package kinds

import (
	"fmt"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

const (
	longestScalingPeriod = 1800 // seconds
	longestStabilization = 3600 // seconds
)

// autoscaler checks a specification; old is nil on create.
func (f *faults) autoscaler(s, old *autoscalingv2.HorizontalPodAutoscalerSpec) {
	w := &specRoot
	notNegativeOrNil(f, w.field("minReplicas"), s.MinReplicas)
	switch at := w.field("maxReplicas"); {
	case s.MaxReplicas == 0:
		f.required(at, "")
	case s.MaxReplicas < 0:
		f.invalid(at, s.MaxReplicas, "must be greater than or equal to 1")
	}
	if s.MinReplicas != nil && s.MaxReplicas < *s.MinReplicas {
		f.invalid(w.field("maxReplicas"), s.MaxReplicas, "must be greater than or equal to `minReplicas`")
	}
	target := groupNeeded
	switch {
	case old != nil && old.ScaleTargetRef.APIVersion == s.ScaleTargetRef.APIVersion && old.ScaleTargetRef.Kind == s.ScaleTargetRef.Kind:
		target = anyAPIVersion
	case s.ScaleTargetRef.Kind == "ReplicationController":
		target = groupOptional
	}
	f.reference(w.field("scaleTargetRef"), &s.ScaleTargetRef, target)
	described := groupOptional
	if old != nil {
		for i := range old.Metrics {
			if m := &old.Metrics[i]; m.Type == autoscalingv2.ObjectMetricSourceType && m.Object != nil && apiVersionFault(m.Object.DescribedObject.APIVersion, described) != nil {
				described = anyAPIVersion
				break
			}
		}
	}
	toZero := s.MinReplicas != nil && *s.MinReplicas == 0
	for i := range s.Metrics {
		m := &s.Metrics[i]
		f.metric(w.field("metrics").at(i), m, described)
		toZero = toZero && m.Type != autoscalingv2.ObjectMetricSourceType && m.Type != autoscalingv2.ExternalMetricSourceType
	}
	if toZero {
		f.forbidden(w.field("metrics"), "must specify at least one Object or External metric to support scaling to zero replicas")
	}
	if b := s.Behavior; b != nil {
		f.scalingRules(w.field("behavior").field("scaleUp"), b.ScaleUp)
		f.scalingRules(w.field("behavior").field("scaleDown"), b.ScaleDown)
	}
}

// apiVersionRule says what the apiVersion of a reference may be.
type apiVersionRule int

const (
	groupNeeded apiVersionRule = iota
	groupOptional
	anyAPIVersion // it was there before the rule
)

func apiVersionFault(version string, rule apiVersionRule) error {
	if rule == anyAPIVersion {
		return nil
	}
	gv, err := schema.ParseGroupVersion(version)
	if err == nil && rule == groupNeeded && gv.Group == "" {
		err = fmt.Errorf("apiVersion must specify API group")
	}
	return err
}

func (f *faults) reference(w *where, r *autoscalingv2.CrossVersionObjectReference, rule apiVersionRule) {
	f.pathSegment(w.field("kind"), r.Kind, "")
	f.pathSegment(w.field("name"), r.Name, "")
	if err := apiVersionFault(r.APIVersion, rule); err != nil {
		f.invalid(w.field("apiVersion"), r.APIVersion, err.Error())
	}
}

// pathSegment checks a required name that stands in a URL.
func (f *faults) pathSegment(w *where, name, missing string) {
	if name == "" {
		f.required(w, missing)
		return
	}
	f.each(w, name, content.IsPathSegmentName(name))
}

// metricTypes in upstream's order.
var metricTypes = []autoscalingv2.MetricSourceType{autoscalingv2.ContainerResourceMetricSourceType, autoscalingv2.ExternalMetricSourceType,
	autoscalingv2.ObjectMetricSourceType, autoscalingv2.PodsMetricSourceType, autoscalingv2.ResourceMetricSourceType}

// metric checks one metric: that it has the source that its type names, and no other, and that source; of several the first in upstream's order.
func (f *faults) metric(w *where, m *autoscalingv2.MetricSpec, described apiVersionRule) {
	if m.Type == "" {
		f.required(w.field("type"), "must specify a metric source type")
	}
	knownValue(f, w.field("type"), m.Type, metricTypes)
	switch {
	case m.Object != nil:
		f.objectMetric(w.field("object"), m.Object, described)
	case m.External != nil:
		f.externalMetric(w.field("external"), m.External)
	case m.Pods != nil:
		at := w.field("pods")
		f.metricTarget(at, &m.Pods.Metric, &m.Pods.Target)
		if m.Pods.Target.AverageValue == nil {
			f.required(at.field("target").field("averageValue"), "must specify a positive target averageValue")
		}
	case m.Resource != nil:
		at := w.field("resource")
		if m.Resource.Name == "" {
			f.required(at.field("name"), "must specify a resource name")
		}
		f.useTarget(at.field("target"), &m.Resource.Target)
	case m.ContainerResource != nil:
		f.containerMetric(w.field("containerResource"), m.ContainerResource)
	}
	f.metricSources(w, m)
}

// metricSources checks that a metric has the source of its type, and none besides.
func (f *faults) metricSources(w *where, m *autoscalingv2.MetricSpec) {
	sources := [...]struct {
		name string
		of   autoscalingv2.MetricSourceType
		set  bool
	}{
		{"object", autoscalingv2.ObjectMetricSourceType, m.Object != nil}, {"external", autoscalingv2.ExternalMetricSourceType, m.External != nil},
		{"pods", autoscalingv2.PodsMetricSourceType, m.Pods != nil}, {"resource", autoscalingv2.ResourceMetricSourceType, m.Resource != nil},
		{"containerResource", autoscalingv2.ContainerResourceMetricSourceType, m.ContainerResource != nil},
	}
	n := 0
	for _, s := range sources {
		if s.set {
			n++
		} else if s.of == m.Type {
			f.required(w.field(s.name), "must populate information for the given metric source")
		}
	}
	for _, s := range sources {
		if n > 1 && s.set && s.of != m.Type {
			f.forbidden(w.field(s.name), "must populate the given metric source only")
		}
	}
}

func (f *faults) objectMetric(w *where, s *autoscalingv2.ObjectMetricSource, described apiVersionRule) {
	f.reference(w.field("describedObject"), &s.DescribedObject, described)
	f.metricTarget(w, &s.Metric, &s.Target)
	if s.Target.Value == nil && s.Target.AverageValue == nil {
		f.required(w.field("target").field("averageValue"), "must set either a target value or averageValue")
	}
}

func (f *faults) externalMetric(w *where, s *autoscalingv2.ExternalMetricSource) {
	f.metricTarget(w, &s.Metric, &s.Target)
	switch value, average := s.Target.Value != nil, s.Target.AverageValue != nil; {
	case !value && !average:
		f.required(w.field("target").field("averageValue"), "must set either a target value for metric or a per-pod target")
	case value && average:
		f.forbidden(w.field("target").field("value"), "may not set both a target value for metric and a per-pod target")
	}
}

func (f *faults) containerMetric(w *where, s *autoscalingv2.ContainerResourceMetricSource) {
	if s.Name == "" {
		f.required(w.field("name"), "must specify a resource name")
	} else {
		f.containerResourceName(w.field("name"), s.Name)
	}
	if s.Container == "" {
		f.required(w.field("container"), "must specify a container")
	} else {
		f.dnsLabel(w.field("container"), s.Container)
	}
	f.useTarget(w.field("target"), &s.Target)
}

// metricTarget checks which metric it is and how much of it shall be.
func (f *faults) metricTarget(w *where, m *autoscalingv2.MetricIdentifier, t *autoscalingv2.MetricTarget) {
	f.pathSegment(w.field("metric").field("name"), m.Name, "must specify a metric name")
	f.target(w.field("target"), t)
}

// useTarget checks how much of a resource shall be used: an amount, or a share of what is requested.
func (f *faults) useTarget(w *where, t *autoscalingv2.MetricTarget) {
	f.target(w, t)
	switch share, amount := t.AverageUtilization != nil, t.AverageValue != nil; {
	case !share && !amount:
		f.required(w.field("averageUtilization"), "must set either a target raw value or a target utilization")
	case share && amount:
		f.forbidden(w.field("averageValue"), "may not set both a target raw value and a target utilization")
	}
}

func (f *faults) target(w *where, t *autoscalingv2.MetricTarget) {
	if t.Type == "" {
		f.required(w.field("type"), "must specify a metric target type")
	}
	switch t.Type {
	case autoscalingv2.UtilizationMetricType, autoscalingv2.ValueMetricType, autoscalingv2.AverageValueMetricType:
	default:
		f.invalid(w.field("type"), t.Type, "must be either Utilization, Value, or AverageValue")
	}
	if t.Value != nil && t.Value.Sign() != 1 {
		f.invalid(w.field("value"), t.Value, "must be positive")
	}
	if t.AverageValue != nil && t.AverageValue.Sign() != 1 {
		f.invalid(w.field("averageValue"), t.AverageValue, "must be positive")
	}
	if t.AverageUtilization != nil && *t.AverageUtilization < 1 {
		f.invalid(w.field("averageUtilization"), *t.AverageUtilization, "must be greater than 0")
	}
}

func (f *faults) scalingRules(w *where, r *autoscalingv2.HPAScalingRules) {
	if r == nil {
		return
	}
	if window := r.StabilizationWindowSeconds; window != nil {
		at := w.field("stabilizationWindowSeconds")
		if *window < 0 {
			f.invalid(at, *window, "must be greater than or equal to zero")
		}
		f.atMost(at, *window, longestStabilization)
	}
	if p := r.SelectPolicy; p != nil {
		knownValue(f, w.field("selectPolicy"), *p, []autoscalingv2.ScalingPolicySelect{autoscalingv2.DisabledPolicySelect, autoscalingv2.MaxChangePolicySelect, autoscalingv2.MinChangePolicySelect})
	}
	at := w.field("policies")
	if len(r.Policies) == 0 {
		f.required(at, "must specify at least one Policy")
	}
	for i := range r.Policies {
		p, at := &r.Policies[i], at.at(i)
		knownValue(f, at.field("type"), p.Type, []autoscalingv2.HPAScalingPolicyType{autoscalingv2.PercentScalingPolicy, autoscalingv2.PodsScalingPolicy})
		if p.Value <= 0 {
			f.invalid(at.field("value"), p.Value, "must be greater than zero")
		}
		if p.PeriodSeconds <= 0 {
			f.invalid(at.field("periodSeconds"), p.PeriodSeconds, "must be greater than zero")
		}
		f.atMost(at.field("periodSeconds"), p.PeriodSeconds, longestScalingPeriod)
	}
	if r.Tolerance != nil && r.Tolerance.Sign() < 0 {
		f.invalid(w.field("tolerance"), r.Tolerance.String(), "must be greater than or equal to 0")
	}
}

func (f *faults) atMost(w *where, value, limit int32) {
	if value > limit {
		f.invalid(w, value, fmt.Sprintf("must be less than or equal to %v", limit))
	}
}
