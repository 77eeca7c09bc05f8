package kinds

import (
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// StatefulSets is apps/v1 statefulsets.
func StatefulSets() *Kind {
	k := &Kind{
		GroupVersionKind: appsv1.SchemeGroupVersion.WithKind("StatefulSet"),
		Plural:           "statefulsets",
		Singular:         "statefulset",
		ShortNames:       []string{"sts"},
		Categories:       []string{"all"},
		Namespaced:       true,
		Verbs:            all,
		New:              func() runtime.Object { return new(appsv1.StatefulSet) },
		NewList:          func() runtime.Object { return new(appsv1.StatefulSetList) },
		StoragePrefix:    "statefulsets",
		Default:          defaulting(defaultStatefulSet),
		PrepareForCreate: onCreate(func(s *appsv1.StatefulSet) {
			s.Status = appsv1.StatefulSetStatus{}
			s.Generation = 1
			PreparePodTemplate(&s.Spec.Template, nil)
		}),
		PrepareForUpdate: onUpdate(func(s, old *appsv1.StatefulSet) {
			s.Status = old.Status
			PreparePodTemplate(&s.Spec.Template, &old.Spec.Template)
			nextGeneration(&s.ObjectMeta, &old.ObjectMeta, s.Spec, old.Spec)
		}),
		Validate: checking(func(s *appsv1.StatefulSet) field.ErrorList {
			var f faults
			f.newMeta(&s.ObjectMeta, NameIsDNSLabel)
			f.statefulSet(&specRoot, &s.Spec, nil, false)
			return f.list
		}),
		ValidateUpdate:   checkingUpdate(validateStatefulSetUpdate),
		Warnings:         warningsOf(statefulSetWarnings),
		ValidateName:     NameIsDNSLabel,
		FieldLabels:      metaFieldLabels,
		SelectableFields: namespacedMetaFields,
		Columns: append([]metav1.TableColumnDefinition{
			nameColumn(),
			column("Ready", "string", "Number of the pod with ready state"),
			ageColumn(),
		}, containerColumns()...),
		Row: row(func(s *appsv1.StatefulSet, now time.Time) []any {
			names, images := containerCells(s.Spec.Template.Spec.Containers)
			return []any{s.Name, fmt.Sprintf("%d/%d", s.Status.ReadyReplicas, valueOf(s.Spec.Replicas)), age(s.CreationTimestamp, now), names, images}
		}),
		AllowUnconditionalUpdate: true,
	}
	k.Subresources = map[string]*Subresource{
		"status": {
			Verbs:            viewVerbs,
			PrepareForUpdate: onUpdate(func(s, old *appsv1.StatefulSet) { s.Spec = old.Spec }),
			ValidateUpdate:   checkingUpdate(validateStatefulSetStatus),
		},
		"scale": scaleOf(k, func(s *appsv1.StatefulSet) scaled {
			return scaled{&s.ObjectMeta, &s.Spec.Replicas, s.Status.Replicas, selectorText(s.Spec.Selector)}
		}),
	}
	return k
}

func defaultStatefulSet(set *appsv1.StatefulSet) {
	s := &set.Spec
	DefaultPodTemplate(&s.Template)
	for i := range s.VolumeClaimTemplates {
		c := &s.VolumeClaimTemplates[i]
		if is := (metav1.TypeMeta{APIVersion: "v1", Kind: "PersistentVolumeClaim"}); c.TypeMeta != is {
			c.TypeMeta = is // others may be reading what is there
		}
		defaultClaimSpec(&c.Spec)
		setIfZero(&c.Status.Phase, corev1.ClaimPending)
		roundToMilli(c.Status.Capacity)
		roundToMilli(c.Status.AllocatedResources)
	}
	setIfZero(&s.PodManagementPolicy, appsv1.OrderedReadyPodManagement)
	if s.UpdateStrategy.Type == "" {
		s.UpdateStrategy.Type = appsv1.RollingUpdateStatefulSetStrategyType
		if s.UpdateStrategy.RollingUpdate == nil {
			s.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateStatefulSetStrategy{}
		}
	}
	if u := s.UpdateStrategy.RollingUpdate; u != nil && s.UpdateStrategy.Type == appsv1.RollingUpdateStatefulSetStrategyType {
		if u.Partition == nil {
			u.Partition = ptrTo(int32(0))
		}
		if u.MaxUnavailable == nil {
			u.MaxUnavailable = ptrTo(intstr.FromInt32(1))
		}
	}
	if s.PersistentVolumeClaimRetentionPolicy == nil {
		s.PersistentVolumeClaimRetentionPolicy = &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{}
	}
	setIfZero(&s.PersistentVolumeClaimRetentionPolicy.WhenDeleted, appsv1.RetainPersistentVolumeClaimRetentionPolicyType)
	setIfZero(&s.PersistentVolumeClaimRetentionPolicy.WhenScaled, appsv1.RetainPersistentVolumeClaimRetentionPolicyType)
	if s.Replicas == nil {
		s.Replicas = ptrTo(int32(1))
	}
	if s.RevisionHistoryLimit == nil {
		s.RevisionHistoryLimit = ptrTo(int32(10))
	}
}

// statefulSet checks a specification; old is nil on create. With onlyMeta the pod template's specification is let pass, because the old one was wrong
// already.
func (f *faults) statefulSet(w *where, s, old *appsv1.StatefulSetSpec, onlyMeta bool) {
	switch s.PodManagementPolicy {
	case "":
		f.required(w.field("podManagementPolicy"), "")
	case appsv1.OrderedReadyPodManagement, appsv1.ParallelPodManagement:
	default:
		f.invalid(w.field("podManagementPolicy"), s.PodManagementPolicy, "must be 'OrderedReady' or 'Parallel'")
	}
	f.statefulSetStrategy(w.field("updateStrategy"), &s.UpdateStrategy, old)
	if p := s.PersistentVolumeClaimRetentionPolicy; p != nil {
		at := w.field("persistentVolumeClaimRetentionPolicy")
		policies := []appsv1.PersistentVolumeClaimRetentionPolicyType{appsv1.RetainPersistentVolumeClaimRetentionPolicyType, appsv1.DeletePersistentVolumeClaimRetentionPolicyType}
		knownValue(f, at.field("whenDeleted"), p.WhenDeleted, policies)
		knownValue(f, at.field("whenScaled"), p.WhenScaled, policies)
	}
	if old == nil { // they cannot change, and may be older than the rules
		for i := range s.VolumeClaimTemplates {
			validateClaimSpec(f, w.field("volumeClaimTemplates").at(i).field("spec"), &s.VolumeClaimTemplates[i].Spec, false)
		}
	}
	notNegativeOrNil(f, w.field("replicas"), s.Replicas)
	f.notNegative(w.field("minReadySeconds"), int64(s.MinReadySeconds))
	if s.Ordinals != nil {
		f.notNegative(w.field("ordinals.start"), int64(s.Ordinals.Start))
	}
	if old == nil && s.ServiceName != "" {
		f.dnsLabel(w.field("serviceName"), s.ServiceName)
	}
	f.podSelector(w.field("selector"), s.Selector, "statefulset")
	if selector, err := metav1.LabelSelectorAsSelector(s.Selector); err != nil {
		f.invalid(w.field("selector"), s.Selector, "")
	} else {
		at := w.field("template")
		f.selects(at, selector, &s.Template)
		var oldTemplate *corev1.PodTemplateSpec
		if old != nil {
			oldTemplate = &old.Template
		}
		template := asInSet(s)
		if onlyMeta {
			c := templateCheck(template, oldTemplate)
			c.templateLabels(at, template)
			f.add(c.list)
		} else {
			f.template(at, template, oldTemplate)
		}
	}
	f.runsForEver(w.field("template").field("spec"), &s.Template.Spec, "StatefulSet")
}

// asInSet returns the template as far as it is the user's to say: the controller names the host, and mounts claims over volumes of their names.
func asInSet(s *appsv1.StatefulSetSpec) *corev1.PodTemplateSpec {
	t := s.Template
	t.Spec.Hostname, t.Spec.Subdomain = "", ""
	if len(s.VolumeClaimTemplates) == 0 {
		return &t
	}
	var volumes []corev1.Volume
	var names nameSet
	for i := range s.VolumeClaimTemplates {
		name := s.VolumeClaimTemplates[i].Name
		if names.add(name) {
			volumes = append(volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name}}})
		}
	}
	for _, v := range t.Spec.Volumes {
		if !names.has(v.Name) {
			volumes = append(volumes, v)
		}
	}
	t.Spec.Volumes = volumes
	return &t
}

// recreate is an alpha update strategy, which this minor does not offer: only sets that have it may keep it.
const recreate appsv1.StatefulSetUpdateStrategyType = "Recreate"

func (f *faults) statefulSetStrategy(w *where, s *appsv1.StatefulSetUpdateStrategy, old *appsv1.StatefulSetSpec) {
	mayRecreate := old != nil && old.UpdateStrategy.Type == recreate
	switch {
	case s.Type == "":
		f.required(w, "")
	case s.Type == appsv1.OnDeleteStatefulSetStrategyType, s.Type == recreate && mayRecreate:
		if s.RollingUpdate != nil {
			f.invalid(w.field("rollingUpdate"), s.RollingUpdate, "only allowed for updateStrategy 'RollingUpdate'")
		}
	case s.Type == appsv1.RollingUpdateStatefulSetStrategyType:
		u, at := s.RollingUpdate, w.field("rollingUpdate")
		if u == nil {
			return
		}
		notNegativeOrNil(f, at.field("partition"), u.Partition)
		if u.MaxUnavailable != nil {
			at := at.field("maxUnavailable")
			f.countOrShare(at, *u.MaxUnavailable)
			if isNone(u.MaxUnavailable) {
				f.invalid(at, *u.MaxUnavailable, "cannot be 0")
			}
			f.atMostAll(at, *u.MaxUnavailable)
		}
	case mayRecreate:
		f.invalid(w, s, "must be 'RollingUpdate', 'OnDelete', or 'Recreate'")
	default:
		f.invalid(w, s, "must be 'RollingUpdate' or 'OnDelete'")
	}
}

func validateStatefulSetUpdate(s, old *appsv1.StatefulSet) field.ErrorList {
	var f faults
	f.changedMeta(&s.ObjectMeta, &old.ObjectMeta)
	wrongAlready := breaks(func(f *faults) { f.statefulSet(&specRoot, &old.Spec, &old.Spec, false) })
	f.statefulSet(&specRoot, &s.Spec, &old.Spec, wrongAlready)
	f.immutable(specRoot.field("selector"), s.Spec.Selector, old.Spec.Selector)
	f.immutable(specRoot.field("volumeClaimTemplates"), s.Spec.VolumeClaimTemplates, old.Spec.VolumeClaimTemplates)
	f.immutable(specRoot.field("serviceName"), s.Spec.ServiceName, old.Spec.ServiceName)
	f.immutable(specRoot.field("podManagementPolicy"), s.Spec.PodManagementPolicy, old.Spec.PodManagementPolicy)
	return f.list
}

func validateStatefulSetStatus(set, old *appsv1.StatefulSet) field.ErrorList {
	var f faults
	w, s := &statusRoot, &set.Status
	f.notNegative(w.field("replicas"), int64(s.Replicas))
	f.notNegative(w.field("readyReplicas"), int64(s.ReadyReplicas))
	f.notNegative(w.field("currentReplicas"), int64(s.CurrentReplicas))
	f.notNegative(w.field("updatedReplicas"), int64(s.UpdatedReplicas))
	f.notNegative(w.field("availableReplicas"), int64(s.AvailableReplicas))
	f.notNegative(w.field("observedGeneration"), s.ObservedGeneration)
	notNegativeOrNil(&f, w.field("collisionCount"), s.CollisionCount)
	f.notAbove(w.field("readyReplicas"), s.ReadyReplicas, s.Replicas, moreThanReplicas)
	f.notAbove(w.field("currentReplicas"), s.CurrentReplicas, s.Replicas, moreThanReplicas)
	f.notAbove(w.field("updatedReplicas"), s.UpdatedReplicas, s.Replicas, moreThanReplicas)
	f.notAbove(w.field("availableReplicas"), s.AvailableReplicas, s.Replicas, moreThanReplicas)
	f.notAbove(w.field("availableReplicas"), s.AvailableReplicas, s.ReadyReplicas, "cannot be greater than status.readyReplicas")
	f.changedMeta(&set.ObjectMeta, &old.ObjectMeta)
	f.notDecremented(w.field("collisionCount"), s.CollisionCount, old.Status.CollisionCount)
	return f.list
}

func statefulSetWarnings(s, old *appsv1.StatefulSet) []string {
	a := advice{list: workloadWarnings(&s.ObjectMeta, metaOf(old), &s.Spec.Template, templatePath, false)}
	for i := range s.Spec.VolumeClaimTemplates {
		w := specRoot.field("volumeClaimTemplates").at(i)
		if old != nil {
			w = w.field("Spec") // upstream's spelling
		}
		a.claimSpec(w, &s.Spec.VolumeClaimTemplates[i].Spec)
	}
	if l := s.Spec.RevisionHistoryLimit; l != nil && *l < 0 {
		a.add("spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended")
	}
	return a.list
}
