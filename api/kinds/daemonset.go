package kinds

import (
	"strconv"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// DaemonSets is apps/v1 daemonsets.
func DaemonSets() *Kind {
	return &Kind{
		GroupVersionKind: appsv1.SchemeGroupVersion.WithKind("DaemonSet"),
		Plural:           "daemonsets",
		Singular:         "daemonset",
		ShortNames:       []string{"ds"},
		Categories:       []string{"all"},
		Namespaced:       true,
		Verbs:            all,
		New:              func() runtime.Object { return new(appsv1.DaemonSet) },
		NewList:          func() runtime.Object { return new(appsv1.DaemonSetList) },
		StoragePrefix:    "daemonsets",
		Default:          defaulting(defaultDaemonSet),
		PrepareForCreate: onCreate(func(d *appsv1.DaemonSet) {
			d.Status = appsv1.DaemonSetStatus{}
			d.Generation = 1
			setTemplateGeneration(d, max(templateGeneration(d), 1))
			PreparePodTemplate(&d.Spec.Template, nil)
		}),
		PrepareForUpdate: onUpdate(func(d, old *appsv1.DaemonSet) {
			PreparePodTemplate(&d.Spec.Template, &old.Spec.Template)
			d.Status = old.Status
			generation := templateGeneration(old)
			if templateChanged(d, old) {
				generation++
			}
			setTemplateGeneration(d, generation)
			nextGeneration(&d.ObjectMeta, &old.ObjectMeta, d.Spec, old.Spec)
		}),
		Validate: checking(func(d *appsv1.DaemonSet) field.ErrorList {
			var f faults
			f.newMeta(&d.ObjectMeta, NameIsDNSSubdomain)
			f.daemonSet(&d.Spec, nil)
			return f.list
		}),
		ValidateUpdate: checkingUpdate(func(d, old *appsv1.DaemonSet) field.ErrorList {
			var f faults
			f.changedMeta(&d.ObjectMeta, &old.ObjectMeta)
			f.immutable(specRoot.field("selector"), d.Spec.Selector, old.Spec.Selector)
			f.daemonSet(&d.Spec, &old.Spec)
			return f.list
		}),
		Warnings: warningsOf(func(d, old *appsv1.DaemonSet) []string {
			if old != nil && !templateChanged(d, old) {
				return nil
			}
			return PodTemplateWarnings(&d.Spec.Template, templatePath)
		}),
		ValidateName: NameIsDNSSubdomain,
		Subresources: map[string]*Subresource{
			"status": {
				Verbs:            viewVerbs,
				PrepareForUpdate: onUpdate(func(d, old *appsv1.DaemonSet) { d.Spec = old.Spec; setTemplateGeneration(d, templateGeneration(old)) }),
				ValidateUpdate:   checkingUpdate(validateDaemonSetStatus),
			},
		},
		FieldLabels:      metaFieldLabels,
		SelectableFields: namespacedMetaFields,
		Columns: append([]metav1.TableColumnDefinition{
			nameColumn(),
			column("Desired", "integer", appsv1.DaemonSetStatus{}.SwaggerDoc()["desiredNumberScheduled"]),
			column("Current", "integer", appsv1.DaemonSetStatus{}.SwaggerDoc()["currentNumberScheduled"]),
			column("Ready", "integer", appsv1.DaemonSetStatus{}.SwaggerDoc()["numberReady"]),
			column("Up-to-date", "integer", appsv1.DaemonSetStatus{}.SwaggerDoc()["updatedNumberScheduled"]),
			column("Available", "integer", appsv1.DaemonSetStatus{}.SwaggerDoc()["numberAvailable"]),
			column("Node Selector", "string", corev1.PodSpec{}.SwaggerDoc()["nodeSelector"]),
			ageColumn(),
		}, append(containerColumns(), wideColumn("Selector", "string", appsv1.DaemonSetSpec{}.SwaggerDoc()["selector"]))...),
		Row: row(func(d *appsv1.DaemonSet, now time.Time) []any {
			names, images := containerCells(d.Spec.Template.Spec.Containers)
			s := &d.Status
			return []any{d.Name, int64(s.DesiredNumberScheduled), int64(s.CurrentNumberScheduled), int64(s.NumberReady), int64(s.UpdatedNumberScheduled), int64(s.NumberAvailable),
				labels.FormatLabels(d.Spec.Template.Spec.NodeSelector), age(d.CreationTimestamp, now), names, images, metav1.FormatLabelSelector(d.Spec.Selector)}
		}),
		AllowUnconditionalUpdate: true,
	}
}

// The generation of a daemon set's template was a field once, and is an annotation since apps/v1. Each write brings it up to date.

func templateGeneration(d *appsv1.DaemonSet) int64 {
	n, _ := strconv.ParseInt(d.Annotations[appsv1.DeprecatedTemplateGeneration], 10, 64) // what is no number counts as none
	return n
}

func setTemplateGeneration(d *appsv1.DaemonSet, n int64) {
	if d.Annotations == nil {
		d.Annotations = map[string]string{}
	}
	d.Annotations[appsv1.DeprecatedTemplateGeneration] = strconv.FormatInt(n, 10)
}

func templateChanged(d, old *appsv1.DaemonSet) bool {
	return !equality.Semantic.DeepEqual(d.Spec.Template, old.Spec.Template)
}

func defaultDaemonSet(d *appsv1.DaemonSet) {
	setTemplateGeneration(d, templateGeneration(d))
	s := &d.Spec
	DefaultPodTemplate(&s.Template)
	setIfZero(&s.UpdateStrategy.Type, appsv1.RollingUpdateDaemonSetStrategyType)
	if s.UpdateStrategy.Type == appsv1.RollingUpdateDaemonSetStrategyType {
		if s.UpdateStrategy.RollingUpdate == nil {
			s.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateDaemonSet{}
		}
		if s.UpdateStrategy.RollingUpdate.MaxUnavailable == nil {
			s.UpdateStrategy.RollingUpdate.MaxUnavailable = ptrTo(intstr.FromInt32(1))
		}
		if s.UpdateStrategy.RollingUpdate.MaxSurge == nil {
			s.UpdateStrategy.RollingUpdate.MaxSurge = ptrTo(intstr.FromInt32(0))
		}
	}
	if s.RevisionHistoryLimit == nil {
		s.RevisionHistoryLimit = ptrTo(int32(10))
	}
}

// daemonSet checks a specification; old is nil on create.
func (f *faults) daemonSet(s, old *appsv1.DaemonSetSpec) {
	w := &specRoot
	f.labelSelector(w.field("selector"), s.Selector, old != nil && metav1validation.LabelSelectorHasInvalidLabelValue(old.Selector))
	at := w.field("template")
	if selector, err := metav1.LabelSelectorAsSelector(s.Selector); err == nil {
		f.selects(at, selector, &s.Template)
	}
	if s.Selector != nil && len(s.Selector.MatchLabels)+len(s.Selector.MatchExpressions) == 0 {
		f.invalid(w.field("selector"), s.Selector, "empty selector is invalid for daemonset")
	}
	if old == nil {
		f.template(at, &s.Template, nil)
	} else {
		f.template(at, &s.Template, &old.Template)
	}
	f.runsForEver(at.field("spec"), &s.Template.Spec, "DaemonSet")
	f.notNegative(w.field("minReadySeconds"), int64(s.MinReadySeconds))
	f.daemonSetStrategy(w.field("updateStrategy"), &s.UpdateStrategy)
	notNegativeOrNil(f, w.field("revisionHistoryLimit"), s.RevisionHistoryLimit)
}

func (f *faults) daemonSetStrategy(w *where, s *appsv1.DaemonSetUpdateStrategy) {
	switch s.Type {
	case appsv1.OnDeleteDaemonSetStrategyType:
	case appsv1.RollingUpdateDaemonSetStrategyType:
		u, at := s.RollingUpdate, w.field("rollingUpdate")
		if u == nil || u.MaxUnavailable == nil || u.MaxSurge == nil {
			f.required(at, "")
			return
		}
		f.countOrShare(at.field("maxUnavailable"), *u.MaxUnavailable)
		f.countOrShare(at.field("maxSurge"), *u.MaxSurge)
		f.atMostAll(at.field("maxUnavailable"), *u.MaxUnavailable)
		f.atMostAll(at.field("maxSurge"), *u.MaxSurge)
		switch noUnavailable, noSurge := isNone(u.MaxUnavailable), isNone(u.MaxSurge); {
		case !noUnavailable && !noSurge:
			f.invalid(at.field("maxSurge"), *u.MaxSurge, "may not be set when maxUnavailable is non-zero")
		case noUnavailable && noSurge:
			f.required(at.field("maxUnavailable"), "cannot be 0 when maxSurge is 0")
		}
	default:
		f.keep(field.NotSupported(w.path(), s, []appsv1.DaemonSetUpdateStrategyType{appsv1.RollingUpdateDaemonSetStrategyType, appsv1.OnDeleteDaemonSetStrategyType}))
	}
}

func validateDaemonSetStatus(d, old *appsv1.DaemonSet) field.ErrorList {
	var f faults
	f.changedMeta(&d.ObjectMeta, &old.ObjectMeta)
	w, s := &statusRoot, &d.Status
	f.notNegative(w.field("currentNumberScheduled"), int64(s.CurrentNumberScheduled))
	f.notNegative(w.field("numberMisscheduled"), int64(s.NumberMisscheduled))
	f.notNegative(w.field("desiredNumberScheduled"), int64(s.DesiredNumberScheduled))
	f.notNegative(w.field("numberReady"), int64(s.NumberReady))
	f.notNegative(w.field("observedGeneration"), s.ObservedGeneration)
	f.notNegative(w.field("updatedNumberScheduled"), int64(s.UpdatedNumberScheduled))
	f.notNegative(w.field("numberAvailable"), int64(s.NumberAvailable))
	f.notNegative(w.field("numberUnavailable"), int64(s.NumberUnavailable))
	notNegativeOrNil(&f, w.field("collisionCount"), s.CollisionCount)
	f.notDecremented(w.field("collisionCount"), s.CollisionCount, old.Status.CollisionCount)
	return f.list
}
