package kinds

import (
	"math"
	"time"

	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	contentvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// VolumeAttachments is storage.k8s.io/v1 volumeattachments.
func VolumeAttachments() *Kind {
	return &Kind{
		GroupVersionKind: storagev1.SchemeGroupVersion.WithKind("VolumeAttachment"),
		Plural:           "volumeattachments",
		Singular:         "volumeattachment",
		Verbs:            all,
		New:              func() runtime.Object { return new(storagev1.VolumeAttachment) },
		NewList:          func() runtime.Object { return new(storagev1.VolumeAttachmentList) },
		StoragePrefix:    "volumeattachments",
		Default: defaulting(func(a *storagev1.VolumeAttachment) {
			if v := a.Spec.Source.InlineVolumeSpec; v != nil {
				defaultVolumeSpec(v)
			}
		}),
		PrepareForCreate: onCreate(func(a *storagev1.VolumeAttachment) { a.Status = storagev1.VolumeAttachmentStatus{} }),
		PrepareForUpdate: onUpdate(func(a, old *storagev1.VolumeAttachment) { a.Status = old.Status }),
		Validate:         checking(validateAttachment),
		ValidateUpdate:   checkingUpdate(validateAttachmentUpdate),
		ValidateName:     NameIsDNSSubdomain,
		Subresources: map[string]*Subresource{
			"status": {
				Verbs:  viewVerbs,
				Resets: []string{"metadata"},
				PrepareForUpdate: onUpdate(func(a, old *storagev1.VolumeAttachment) {
					a.Spec = old.Spec
					metav1.ResetObjectMetaForStatus(&a.ObjectMeta, &old.ObjectMeta)
				}),
				ValidateUpdate: checkingUpdate(validateAttachmentUpdate),
			},
		},
		FieldLabels:      metaFieldLabels,
		SelectableFields: clusterMetaFields,
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			{Name: "Attacher", Type: "string", Format: "name", Description: storagev1.VolumeAttachmentSpec{}.SwaggerDoc()["attacher"]},
			column("PV", "string", storagev1.VolumeAttachmentSource{}.SwaggerDoc()["persistentVolumeName"]),
			column("Node", "string", storagev1.VolumeAttachmentSpec{}.SwaggerDoc()["nodeName"]),
			column("Attached", "boolean", storagev1.VolumeAttachmentStatus{}.SwaggerDoc()["attached"]),
			ageColumn(),
		},
		Row: row(func(a *storagev1.VolumeAttachment, now time.Time) []any {
			volume := ""
			if p := a.Spec.Source.PersistentVolumeName; p != nil {
				volume = *p
			}
			return []any{a.Name, a.Spec.Attacher, volume, a.Spec.NodeName, a.Status.Attached, age(a.CreationTimestamp, now)}
		}),
	}
}

func validateAttachmentUpdate(a, old *storagev1.VolumeAttachment) field.ErrorList {
	errs := append(ValidateMetaUpdate(&a.ObjectMeta, &old.ObjectMeta), validateAttachment(a)...)
	return append(errs, validation.ValidateImmutableField(a.Spec, old.Spec, specPath)...)
}

// Bounds of what an attacher reports.
const (
	maxAttachmentMetadataSize = 256 << 10
	maxVolumeErrorMessage     = 1024
)

func validateAttachment(a *storagev1.VolumeAttachment) field.ErrorList {
	f := faults{list: ValidateMeta(&a.ObjectMeta, false, NameIsDNSSubdomain)}
	spec := &where{name: "spec"}
	f.csiDriverName(spec.field("attacher"), a.Spec.Attacher)
	const one = "must specify exactly one of inlineVolumeSpec and persistentVolumeName"
	source := spec.field("source")
	switch inline, name := a.Spec.Source.InlineVolumeSpec, a.Spec.Source.PersistentVolumeName; {
	case inline == nil && name == nil:
		f.required(source, one)
	case inline != nil && name != nil:
		f.forbidden(source, one)
	case name != nil && *name == "":
		f.required(source.field("persistentVolumeName"), "must specify non empty persistentVolumeName")
	case inline != nil:
		check := podCheck{}
		check.volumeSpec(source.field("inlineVolumeSpec"), inline, "", volumeInline, false)
		f.add(check.list)
	}
	f.dnsSubdomain(spec.field("nodeName"), a.Spec.NodeName)

	status := &where{name: "status"}
	size := 0
	for k, v := range a.Status.AttachmentMetadata {
		size += len(k) + len(v)
	}
	if size > maxAttachmentMetadataSize {
		f.tooLong(status.field("attachmentMetadata"), "", maxAttachmentMetadataSize)
	}
	f.volumeError(status.field("attachError"), a.Status.AttachError)
	f.volumeError(status.field("detachError"), a.Status.DetachError)
	if name := a.Spec.Source.PersistentVolumeName; name != nil {
		f.dnsSubdomain(source.field("persistentVolumeName"), *name)
	}
	return f.list
}

func (f *faults) volumeError(w *where, e *storagev1.VolumeError) {
	if e == nil {
		return
	}
	if len(e.Message) > maxVolumeErrorMessage {
		f.tooLong(w.field("message"), "", maxVolumeErrorMessage)
	}
	if e.ErrorCode != nil && *e.ErrorCode < 0 {
		f.invalid(w.field("errorCode"), *e.ErrorCode, contentvalidation.InclusiveRangeError(0, math.MaxInt32))
	}
}
