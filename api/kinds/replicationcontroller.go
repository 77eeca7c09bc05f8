package kinds

import (
	"context"
	"maps"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/operation"
	"k8s.io/apimachinery/pkg/api/validate"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// ReplicationControllers is core/v1 replicationcontrollers, what replica sets were once.
func ReplicationControllers() *Kind {
	k := &Kind{
		GroupVersionKind: corev1.SchemeGroupVersion.WithKind("ReplicationController"),
		Plural:           "replicationcontrollers",
		Singular:         "replicationcontroller",
		ShortNames:       []string{"rc"},
		Categories:       []string{"all"},
		Namespaced:       true,
		Verbs:            all,
		New:              func() runtime.Object { return new(corev1.ReplicationController) },
		NewList:          func() runtime.Object { return new(corev1.ReplicationControllerList) },
		StoragePrefix:    "controllers",
		Default:          defaulting(defaultReplicationController),
		PrepareForCreate: onCreate(func(c *corev1.ReplicationController) {
			c.Status = corev1.ReplicationControllerStatus{}
			c.Generation = 1
			if c.Spec.Template != nil {
				PreparePodTemplate(c.Spec.Template, nil)
			}
		}),
		PrepareForUpdate: onUpdate(func(c, old *corev1.ReplicationController) {
			c.Status = old.Status
			if c.Spec.Template != nil {
				PreparePodTemplate(c.Spec.Template, old.Spec.Template)
			}
			nextGeneration(&c.ObjectMeta, &old.ObjectMeta, c.Spec, old.Spec)
		}),
		Validate: checking(func(c *corev1.ReplicationController) field.ErrorList {
			var f faults
			f.newMeta(&c.ObjectMeta, NameIsDNSSubdomain)
			f.replicationController(&c.Spec, nil)
			return f.list
		}),
		ValidateUpdate: checkingUpdate(validateReplicationControllerUpdate),
		Warnings: warningsOf(func(c, old *corev1.ReplicationController) []string {
			t := c.Spec.Template
			if old != nil {
				t = old.Spec.Template // upstream warns of the template that goes
			}
			return workloadWarnings(&c.ObjectMeta, metaOf(old), t, templatePath, true)
		}),
		ValidateName: NameIsDNSSubdomain,
		FieldLabels:  []string{"metadata.name", "metadata.namespace", "status.replicas"},
		SelectableFields: selecting(func(c *corev1.ReplicationController) fields.Set {
			set := metaFields(&c.ObjectMeta, true, 1)
			set["status.replicas"] = strconv.Itoa(int(c.Status.Replicas))
			return set
		}),
		Columns: append([]metav1.TableColumnDefinition{
			nameColumn(),
			column("Desired", "integer", corev1.ReplicationControllerSpec{}.SwaggerDoc()["replicas"]),
			column("Current", "integer", corev1.ReplicationControllerStatus{}.SwaggerDoc()["replicas"]),
			column("Ready", "integer", corev1.ReplicationControllerStatus{}.SwaggerDoc()["readyReplicas"]),
			ageColumn(),
		}, append(containerColumns(), wideColumn("Selector", "string", corev1.ReplicationControllerSpec{}.SwaggerDoc()["selector"]))...),
		Row: row(func(c *corev1.ReplicationController, now time.Time) []any {
			var names, images string
			if c.Spec.Template != nil {
				names, images = containerCells(c.Spec.Template.Spec.Containers)
			}
			return []any{c.Name, int64(valueOf(c.Spec.Replicas)), int64(c.Status.Replicas), int64(c.Status.ReadyReplicas), age(c.CreationTimestamp, now),
				names, images, labels.FormatLabels(c.Spec.Selector)}
		}),
		AllowUnconditionalUpdate: true,
		DefaultOrphan:            true,
	}
	k.Subresources = map[string]*Subresource{
		"status": {
			Verbs:            viewVerbs,
			PrepareForUpdate: onUpdate(func(c, old *corev1.ReplicationController) { c.Spec = old.Spec }),
			ValidateUpdate: checkingUpdate(func(c, old *corev1.ReplicationController) field.ErrorList {
				var f faults
				f.changedController(c, old)
				s := &c.Status
				f.replicaCounts(replicaCounts{s.Replicas, s.FullyLabeledReplicas, s.ReadyReplicas, s.AvailableReplicas, s.ObservedGeneration})
				return f.list
			}),
		},
		"scale": scaleOf(k, func(c *corev1.ReplicationController) scaled {
			return scaled{&c.ObjectMeta, &c.Spec.Replicas, c.Status.Replicas, func() (string, error) { return labels.Set(c.Spec.Selector).AsSelector().String(), nil }}
		}),
	}
	return k
}

func defaultReplicationController(c *corev1.ReplicationController) {
	if t := c.Spec.Template; t != nil {
		DefaultPodTemplate(t)
		if t.Labels != nil {
			if len(c.Spec.Selector) == 0 {
				c.Spec.Selector = maps.Clone(t.Labels)
			}
			if len(c.Labels) == 0 {
				c.Labels = maps.Clone(t.Labels)
			}
		}
	}
	if c.Spec.Replicas == nil {
		c.Spec.Replicas = ptrTo(int32(1))
	}
}

// replicationController checks a specification; oldTemplate is nil on create.
func (f *faults) replicationController(s *corev1.ReplicationControllerSpec, oldTemplate *corev1.PodTemplateSpec) {
	w := &specRoot
	f.notNegative(w.field("minReadySeconds"), int64(s.MinReadySeconds))
	if len(s.Selector) == 0 {
		f.required(w.field("selector"), "")
	}
	if s.Replicas == nil {
		f.required(w.field("replicas"), "")
	} else {
		f.notNegative(w.field("replicas"), int64(*s.Replicas))
	}
	at := w.field("template")
	if s.Template == nil {
		f.required(at, "")
		return
	}
	if len(s.Selector) > 0 {
		f.selects(at, labels.Set(s.Selector).AsSelector(), s.Template)
	}
	f.template(at, s.Template, oldTemplate)
	f.runsForEver(at.field("spec"), &s.Template.Spec, "ReplicationController")
}

// changedController checks metadata, with a rule on names that other kinds have for creation only.
func (f *faults) changedController(c, old *corev1.ReplicationController) {
	f.changedMeta(&c.ObjectMeta, &old.ObjectMeta)
	if c.Name != old.Name && c.Name != "" {
		f.add(validate.LongName(context.Background(), operation.Operation{}, metadataPath.Child("name"), &c.Name, nil))
	}
}

// nonConvertible begins the keys of annotations that say what of an object could not be brought over from another version.
const nonConvertible = "non-convertible.kubernetes.io"

func validateReplicationControllerUpdate(c, old *corev1.ReplicationController) field.ErrorList {
	var f faults
	f.changedController(c, old)
	f.replicationController(&c.Spec, old.Spec.Template)
	for key, value := range old.Annotations {
		domain, name, ok := strings.Cut(key, "/")
		switch {
		case !ok || domain != nonConvertible:
		case !strings.Contains(name, "selector"):
			f.keep(&field.Error{Type: field.ErrorTypeNotFound, BadValue: value, Field: name, Detail: "unknown non-convertible field"})
		case !equality.Semantic.DeepEqual(c.Spec.Selector, old.Spec.Selector):
			f.invalid(specRoot.field("selector"), c.Spec.Selector, "cannot update non-convertible selector")
		}
	}
	return f.list
}
