package kinds

import (
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// ReplicaSets is apps/v1 replicasets.
func ReplicaSets() *Kind {
	k := &Kind{
		GroupVersionKind: appsv1.SchemeGroupVersion.WithKind("ReplicaSet"),
		Plural:           "replicasets",
		Singular:         "replicaset",
		ShortNames:       []string{"rs"},
		Categories:       []string{"all"},
		Namespaced:       true,
		Verbs:            all,
		New:              func() runtime.Object { return new(appsv1.ReplicaSet) },
		NewList:          func() runtime.Object { return new(appsv1.ReplicaSetList) },
		StoragePrefix:    "replicasets",
		Default: defaulting(func(r *appsv1.ReplicaSet) {
			DefaultPodTemplate(&r.Spec.Template)
			if r.Spec.Replicas == nil {
				r.Spec.Replicas = ptrTo(int32(1))
			}
		}),
		PrepareForCreate: onCreate(func(r *appsv1.ReplicaSet) {
			r.Status = appsv1.ReplicaSetStatus{}
			r.Generation = 1
			PreparePodTemplate(&r.Spec.Template, nil)
		}),
		PrepareForUpdate: onUpdate(func(r, old *appsv1.ReplicaSet) {
			r.Status = old.Status
			PreparePodTemplate(&r.Spec.Template, &old.Spec.Template)
			nextGeneration(&r.ObjectMeta, &old.ObjectMeta, r.Spec, old.Spec)
		}),
		Validate: checking(func(r *appsv1.ReplicaSet) field.ErrorList {
			var f faults
			f.newMeta(&r.ObjectMeta, NameIsDNSSubdomain)
			f.replicaSet(&r.Spec, nil)
			return f.list
		}),
		ValidateUpdate: checkingUpdate(func(r, old *appsv1.ReplicaSet) field.ErrorList {
			var f faults
			f.changedMeta(&r.ObjectMeta, &old.ObjectMeta)
			f.replicaSet(&r.Spec, &old.Spec.Template)
			f.immutable(specRoot.field("selector"), r.Spec.Selector, old.Spec.Selector)
			return f.list
		}),
		Warnings: warningsOf(func(r, old *appsv1.ReplicaSet) []string {
			return workloadWarnings(&r.ObjectMeta, metaOf(old), &r.Spec.Template, templatePath, true)
		}),
		ValidateName:     NameIsDNSSubdomain,
		FieldLabels:      metaFieldLabels,
		SelectableFields: namespacedMetaFields,
		Columns: append([]metav1.TableColumnDefinition{
			nameColumn(),
			column("Desired", "integer", appsv1.ReplicaSetSpec{}.SwaggerDoc()["replicas"]),
			column("Current", "integer", appsv1.ReplicaSetStatus{}.SwaggerDoc()["replicas"]),
			column("Ready", "integer", appsv1.ReplicaSetStatus{}.SwaggerDoc()["readyReplicas"]),
			ageColumn(),
		}, append(containerColumns(), wideColumn("Selector", "string", appsv1.ReplicaSetSpec{}.SwaggerDoc()["selector"]))...),
		Row: row(func(r *appsv1.ReplicaSet, now time.Time) []any {
			names, images := containerCells(r.Spec.Template.Spec.Containers)
			return []any{r.Name, int64(valueOf(r.Spec.Replicas)), int64(r.Status.Replicas), int64(r.Status.ReadyReplicas), age(r.CreationTimestamp, now),
				names, images, metav1.FormatLabelSelector(r.Spec.Selector)}
		}),
		AllowUnconditionalUpdate: true,
	}
	k.Subresources = map[string]*Subresource{
		"status": {
			Verbs:            viewVerbs,
			PrepareForUpdate: onUpdate(func(r, old *appsv1.ReplicaSet) { r.Spec = old.Spec }),
			ValidateUpdate: checkingUpdate(func(r, old *appsv1.ReplicaSet) field.ErrorList {
				var f faults
				f.changedMeta(&r.ObjectMeta, &old.ObjectMeta)
				s := &r.Status
				f.replicaCounts(replicaCounts{s.Replicas, s.FullyLabeledReplicas, s.ReadyReplicas, s.AvailableReplicas, s.ObservedGeneration})
				notNegativeOrNil(&f, statusRoot.field("terminatingReplicas"), s.TerminatingReplicas)
				return f.list
			}),
		},
		"scale": scaleOf(k, func(r *appsv1.ReplicaSet) scaled {
			return scaled{&r.ObjectMeta, &r.Spec.Replicas, r.Status.Replicas, selectorText(r.Spec.Selector)}
		}),
	}
	return k
}

// replicaSet checks the specification of a replica set; oldTemplate is nil on create.
func (f *faults) replicaSet(s *appsv1.ReplicaSetSpec, oldTemplate *corev1.PodTemplateSpec) {
	w := &specRoot
	notNegativeOrNil(f, w.field("replicas"), s.Replicas)
	f.notNegative(w.field("minReadySeconds"), int64(s.MinReadySeconds))
	f.replicatedTemplate(w, s.Selector, &s.Template, oldTemplate)
}

// replicaCounts is what replica sets and replication controllers say of their pods.
type replicaCounts struct {
	replicas, fullyLabeled, ready, available int32
	observedGeneration                       int64
}

func (f *faults) replicaCounts(c replicaCounts) {
	w := &statusRoot
	f.notNegative(w.field("replicas"), int64(c.replicas))
	f.notNegative(w.field("fullyLabeledReplicas"), int64(c.fullyLabeled))
	f.notNegative(w.field("readyReplicas"), int64(c.ready))
	f.notNegative(w.field("availableReplicas"), int64(c.available))
	f.notNegative(w.field("observedGeneration"), c.observedGeneration)
	f.notAbove(w.field("fullyLabeledReplicas"), c.fullyLabeled, c.replicas, moreThanReplicas)
	f.notAbove(w.field("readyReplicas"), c.ready, c.replicas, moreThanReplicas)
	f.notAbove(w.field("availableReplicas"), c.available, c.replicas, moreThanReplicas)
	f.notAbove(w.field("availableReplicas"), c.available, c.ready, moreThanReady)
}
