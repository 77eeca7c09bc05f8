package kinds

import (
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Deployments is apps/v1 deployments.
func Deployments() *Kind {
	k := &Kind{
		GroupVersionKind: appsv1.SchemeGroupVersion.WithKind("Deployment"),
		Plural:           "deployments",
		Singular:         "deployment",
		ShortNames:       []string{"deploy"},
		Categories:       []string{"all"},
		Namespaced:       true,
		Verbs:            all,
		New:              func() runtime.Object { return new(appsv1.Deployment) },
		NewList:          func() runtime.Object { return new(appsv1.DeploymentList) },
		StoragePrefix:    "deployments",
		Default:          defaulting(defaultDeployment),
		PrepareForCreate: onCreate(func(d *appsv1.Deployment) {
			d.Status = appsv1.DeploymentStatus{}
			d.Generation = 1
			PreparePodTemplate(&d.Spec.Template, nil)
		}),
		PrepareForUpdate: onUpdate(func(d, old *appsv1.Deployment) {
			d.Status = old.Status
			PreparePodTemplate(&d.Spec.Template, &old.Spec.Template)
			nextGeneration(&d.ObjectMeta, &old.ObjectMeta, d.Spec, old.Spec)
			// Annotations count too: they are copied to the replica sets.
			nextGeneration(&d.ObjectMeta, &old.ObjectMeta, d.Annotations, old.Annotations)
		}),
		Validate: checking(func(d *appsv1.Deployment) field.ErrorList {
			var f faults
			f.newMeta(&d.ObjectMeta, NameIsDNSSubdomain)
			f.deployment(&d.Spec, nil)
			return f.list
		}),
		ValidateUpdate: checkingUpdate(func(d, old *appsv1.Deployment) field.ErrorList {
			var f faults
			f.changedMeta(&d.ObjectMeta, &old.ObjectMeta)
			f.deployment(&d.Spec, &old.Spec)
			f.immutable(specRoot.field("selector"), d.Spec.Selector, old.Spec.Selector)
			return f.list
		}),
		Warnings: warningsOf(func(d, old *appsv1.Deployment) []string {
			return workloadWarnings(&d.ObjectMeta, metaOf(old), &d.Spec.Template, templatePath, true)
		}),
		ValidateName:     NameIsDNSSubdomain,
		FieldLabels:      metaFieldLabels,
		SelectableFields: namespacedMetaFields,
		Columns: append([]metav1.TableColumnDefinition{
			nameColumn(),
			column("Ready", "string", "Number of the pod with ready state"),
			column("Up-to-date", "string", appsv1.DeploymentStatus{}.SwaggerDoc()["updatedReplicas"]),
			column("Available", "string", appsv1.DeploymentStatus{}.SwaggerDoc()["availableReplicas"]),
			ageColumn(),
		}, append(containerColumns(), wideColumn("Selector", "string", appsv1.DeploymentSpec{}.SwaggerDoc()["selector"]))...),
		Row: row(func(d *appsv1.Deployment, now time.Time) []any {
			names, images := containerCells(d.Spec.Template.Spec.Containers)
			selector, err := selectorText(d.Spec.Selector)()
			if err != nil {
				selector = "<invalid>"
			}
			return []any{d.Name, fmt.Sprintf("%d/%d", d.Status.ReadyReplicas, valueOf(d.Spec.Replicas)), int64(d.Status.UpdatedReplicas), int64(d.Status.AvailableReplicas),
				age(d.CreationTimestamp, now), names, images, selector}
		}),
		AllowUnconditionalUpdate: true,
	}
	k.Subresources = map[string]*Subresource{
		"status": {
			Verbs:  viewVerbs,
			Resets: []string{"metadata.labels"},
			PrepareForUpdate: onUpdate(func(d, old *appsv1.Deployment) {
				d.Spec = old.Spec
				d.Labels = old.Labels
			}),
			ValidateUpdate: checkingUpdate(validateDeploymentStatus),
		},
		"scale": scaleOf(k, func(d *appsv1.Deployment) scaled {
			return scaled{&d.ObjectMeta, &d.Spec.Replicas, d.Status.Replicas, selectorText(d.Spec.Selector)}
		}),
	}
	return k
}

func defaultDeployment(d *appsv1.Deployment) {
	s := &d.Spec
	DefaultPodTemplate(&s.Template)
	if s.Replicas == nil {
		s.Replicas = ptrTo(int32(1))
	}
	setIfZero(&s.Strategy.Type, appsv1.RollingUpdateDeploymentStrategyType)
	if s.Strategy.Type == appsv1.RollingUpdateDeploymentStrategyType {
		if s.Strategy.RollingUpdate == nil {
			s.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{}
		}
		quarter := intstr.FromString("25%")
		if s.Strategy.RollingUpdate.MaxUnavailable == nil {
			s.Strategy.RollingUpdate.MaxUnavailable = ptrTo(quarter)
		}
		if s.Strategy.RollingUpdate.MaxSurge == nil {
			s.Strategy.RollingUpdate.MaxSurge = ptrTo(quarter)
		}
	}
	if s.RevisionHistoryLimit == nil {
		s.RevisionHistoryLimit = ptrTo(int32(10))
	}
	if s.ProgressDeadlineSeconds == nil {
		s.ProgressDeadlineSeconds = ptrTo(int32(600))
	}
}

// deployment checks the specification of a deployment; old is nil on create.
func (f *faults) deployment(s, old *appsv1.DeploymentSpec) {
	w := &specRoot
	notNegativeOrNil(f, w.field("replicas"), s.Replicas)
	if old == nil {
		f.replicatedTemplate(w, s.Selector, &s.Template, nil)
	} else {
		f.replicatedTemplate(w, s.Selector, &s.Template, &old.Template)
	}
	f.deploymentStrategy(w.field("strategy"), &s.Strategy)
	f.notNegative(w.field("minReadySeconds"), int64(s.MinReadySeconds))
	notNegativeOrNil(f, w.field("revisionHistoryLimit"), s.RevisionHistoryLimit)
	if deadline := s.ProgressDeadlineSeconds; deadline != nil {
		at := w.field("progressDeadlineSeconds")
		f.notNegative(at, int64(*deadline))
		if *deadline <= s.MinReadySeconds {
			f.invalid(at, *deadline, "must be greater than minReadySeconds")
		}
	}
}

func (f *faults) deploymentStrategy(w *where, s *appsv1.DeploymentStrategy) {
	switch s.Type {
	case appsv1.RecreateDeploymentStrategyType:
		if s.RollingUpdate != nil {
			f.forbidden(w.field("rollingUpdate"), "may not be specified when strategy `type` is 'Recreate'")
		}
	case appsv1.RollingUpdateDeploymentStrategyType:
		at := w.field("rollingUpdate")
		u := s.RollingUpdate
		if u == nil || u.MaxUnavailable == nil || u.MaxSurge == nil {
			f.required(at, "this should be defaulted and never be nil")
			return
		}
		f.countOrShare(at.field("maxUnavailable"), *u.MaxUnavailable)
		f.countOrShare(at.field("maxSurge"), *u.MaxSurge)
		if isNone(u.MaxUnavailable) && isNone(u.MaxSurge) {
			f.invalid(at.field("maxUnavailable"), *u.MaxUnavailable, "may not be 0 when `maxSurge` is 0")
		}
		f.atMostAll(at.field("maxUnavailable"), *u.MaxUnavailable)
	default:
		f.keep(field.NotSupported(w.path(), s, []appsv1.DeploymentStrategyType{appsv1.RecreateDeploymentStrategyType, appsv1.RollingUpdateDeploymentStrategyType}))
	}
}

func validateDeploymentStatus(d, old *appsv1.Deployment) field.ErrorList {
	var f faults
	f.changedMeta(&d.ObjectMeta, &old.ObjectMeta)
	w, s := &statusRoot, &d.Status
	f.notNegative(w.field("observedGeneration"), s.ObservedGeneration)
	f.notNegative(w.field("replicas"), int64(s.Replicas))
	f.notNegative(w.field("updatedReplicas"), int64(s.UpdatedReplicas))
	f.notNegative(w.field("readyReplicas"), int64(s.ReadyReplicas))
	f.notNegative(w.field("availableReplicas"), int64(s.AvailableReplicas))
	f.notNegative(w.field("unavailableReplicas"), int64(s.UnavailableReplicas))
	notNegativeOrNil(&f, w.field("terminatingReplicas"), s.TerminatingReplicas)
	notNegativeOrNil(&f, w.field("collisionCount"), s.CollisionCount)
	f.notAbove(w.field("updatedReplicas"), s.UpdatedReplicas, s.Replicas, moreThanReplicas)
	f.notAbove(w.field("readyReplicas"), s.ReadyReplicas, s.Replicas, moreThanReplicas)
	f.notAbove(w.field("availableReplicas"), s.AvailableReplicas, s.Replicas, moreThanReplicas)
	f.notAbove(w.field("availableReplicas"), s.AvailableReplicas, s.ReadyReplicas, moreThanReady)
	f.notDecremented(w.field("collisionCount"), s.CollisionCount, old.Status.CollisionCount)
	return f.list
}
