package kinds

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	contentvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// CSINodes is storage.k8s.io/v1 csinodes (KEP-557). What a driver says of its storage's health (status.storageHealth) is
// alpha in 1.37 and off: it is dropped unless it is there already.
func CSINodes() *Kind {
	dropHealth := func(n, old *storagev1.CSINode) {
		if old == nil || len(old.Status.StorageHealth) == 0 {
			n.Status.StorageHealth = nil
		}
	}
	return &Kind{
		GroupVersionKind: storagev1.SchemeGroupVersion.WithKind("CSINode"),
		Plural:           "csinodes",
		Singular:         "csinode",
		Verbs:            all,
		New:              func() runtime.Object { return new(storagev1.CSINode) },
		NewList:          func() runtime.Object { return new(storagev1.CSINodeList) },
		StoragePrefix:    "csinodes",
		PrepareForCreate: onCreate(func(n *storagev1.CSINode) { n.Status = storagev1.CSINodeStatus{} }),
		PrepareForUpdate: onUpdate(func(n, old *storagev1.CSINode) {
			n.Status = old.Status
			dropHealth(n, old)
		}),
		Validate: checking(validateCSINode),
		ValidateUpdate: checkingUpdate(func(n, old *storagev1.CSINode) field.ErrorList {
			errs := append(ValidateMetaUpdate(&n.ObjectMeta, &old.ObjectMeta), validateCSINode(n)...)
			for i := range old.Spec.Drivers {
				for j := range n.Spec.Drivers {
					was, is := old.Spec.Drivers[i], n.Spec.Drivers[j]
					if was.Name != is.Name {
						continue
					}
					was.Allocatable, is.Allocatable = nil, nil // how many volumes fit may change (KEP-4876)
					errs = append(errs, validation.ValidateImmutableField(is, was, specPath.Child("drivers"))...)
				}
			}
			return errs
		}),
		ValidateName: NameIsDNSSubdomain,
		Subresources: map[string]*Subresource{
			"status": {
				Verbs:  viewVerbs,
				Resets: []string{"metadata"},
				PrepareForUpdate: onUpdate(func(n, old *storagev1.CSINode) {
					n.Spec = old.Spec
					metav1.ResetObjectMetaForStatus(&n.ObjectMeta, &old.ObjectMeta)
					dropHealth(n, old)
				}),
				ValidateUpdate: checkingUpdate(func(n, old *storagev1.CSINode) field.ErrorList {
					return append(ValidateMetaUpdate(&n.ObjectMeta, &old.ObjectMeta), validateStorageHealth(n.Status.StorageHealth)...)
				}),
			},
		},
		FieldLabels:      metaFieldLabels,
		SelectableFields: clusterMetaFields,
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("Drivers", "integer", "Drivers indicates the number of CSI drivers registered on the node"),
			ageColumn(),
		},
		Row: row(func(n *storagev1.CSINode, now time.Time) []any {
			return []any{n.Name, int64(len(n.Spec.Drivers)), age(n.CreationTimestamp, now)}
		}),
	}
}

// maxCSINodeID bounds the name that a driver has for a node, in bytes.
const maxCSINodeID = 256

func validateCSINode(n *storagev1.CSINode) field.ErrorList {
	f := faults{list: ValidateMeta(&n.ObjectMeta, false, NameIsDNSSubdomain)}
	drivers := (&where{name: "spec"}).field("drivers")
	names := map[string]bool{}
	for i := range n.Spec.Drivers {
		d, at := &n.Spec.Drivers[i], drivers.at(i)
		f.csiDriverName(at.field("name"), d.Name)
		f.needs(at.field("nodeID"), d.NodeID)
		if len(d.NodeID) > maxCSINodeID {
			f.invalid(at.field("nodeID"), d.NodeID, fmt.Sprintf("must be %d characters or less", maxCSINodeID))
		}
		if d.Allocatable != nil && d.Allocatable.Count != nil {
			f.notNegative(at.field("allocatable").field("count"), int64(*d.Allocatable.Count))
		}
		if names[d.Name] {
			f.duplicate(at.field("name"), d.Name)
		}
		names[d.Name] = true
		keys := map[string]bool{}
		for _, key := range d.TopologyKeys {
			f.needs(at, key)
			if keys[key] {
				f.duplicate(at, key)
			}
			keys[key] = true
			f.each(at, key, contentvalidation.IsQualifiedName(key))
		}
	}
	return f.list
}

// Bounds of what a driver says of its storage's health.
const (
	maxHealthConditions = 16
	maxHealthReason     = 256
	maxHealthMessage    = 1024
)

func validateStorageHealth(health []storagev1.StorageHealth) field.ErrorList {
	var f faults
	list := (&where{name: "status"}).field("storageHealth")
	names := map[string]bool{}
	for i := range health {
		h, at := &health[i], list.at(i)
		if names[h.Name] {
			f.duplicate(at, h.Name)
		}
		names[h.Name] = true
		f.csiDriverName(at.field("name"), h.Name)
		conditions := at.field("healthConditions")
		if len(h.HealthConditions) > maxHealthConditions {
			f.add(field.ErrorList{field.TooMany(conditions.path(), len(h.HealthConditions), maxHealthConditions)})
			continue
		}
		for j := range h.HealthConditions {
			f.healthCondition(conditions.at(j), &h.HealthConditions[j])
		}
	}
	return f.list
}

func (f *faults) healthCondition(w *where, c *storagev1.StorageHealthCondition) {
	knownValue(f, w.field("status"), c.Status, []storagev1.StorageHealthStatusType{storagev1.StorageDegraded, storagev1.StorageUnreachable})
	if c.Reason == "" {
		f.required(w.field("reason"), "")
	} else {
		f.each(w.field("reason"), c.Reason, metav1validation.IsValidConditionReason(c.Reason))
		if len(c.Reason) > maxHealthReason {
			f.tooLong(w.field("reason"), c.Reason, maxHealthReason)
		}
	}
	if len(c.Message) > maxHealthMessage {
		f.tooLong(w.field("message"), c.Message, maxHealthMessage)
	}
	if c.AccessMode != nil {
		knownValue(f, w.field("accessMode"), *c.AccessMode, accessModes)
	}
	if c.VolumeMode != nil {
		knownValue(f, w.field("volumeMode"), *c.VolumeMode, []corev1.PersistentVolumeMode{corev1.PersistentVolumeFilesystem, corev1.PersistentVolumeBlock})
	}
}
