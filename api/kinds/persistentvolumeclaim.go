package kinds

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// PersistentVolumeClaims is core/v1 persistentvolumeclaims. What a driver says of the volume's health
// (status.healthStatus) is alpha in 1.37 and off: it is dropped unless it is there already.
func PersistentVolumeClaims() *Kind {
	return &Kind{
		GroupVersionKind: corev1.SchemeGroupVersion.WithKind("PersistentVolumeClaim"),
		Plural:           "persistentvolumeclaims",
		Singular:         "persistentvolumeclaim",
		ShortNames:       []string{"pvc"},
		Namespaced:       true,
		Verbs:            all,
		New:              func() runtime.Object { return new(corev1.PersistentVolumeClaim) },
		NewList:          func() runtime.Object { return new(corev1.PersistentVolumeClaimList) },
		StoragePrefix:    "persistentvolumeclaims",
		Default: defaulting(func(c *corev1.PersistentVolumeClaim) {
			setIfZero(&c.Status.Phase, corev1.ClaimPending)
			defaultClaimSpec(&c.Spec)
			roundToMilli(c.Status.Capacity)
			roundToMilli(c.Status.AllocatedResources)
		}),
		PrepareForCreate: onCreate(func(c *corev1.PersistentVolumeClaim) {
			c.Status = corev1.PersistentVolumeClaimStatus{} // Pending is the default of every reader
			settleSource(&c.Spec, nil)
		}),
		PrepareForUpdate: onUpdate(func(c, old *corev1.PersistentVolumeClaim) {
			c.Status = old.Status
			settleSource(&c.Spec, &old.Spec)
		}),
		Validate: checking(func(c *corev1.PersistentVolumeClaim) field.ErrorList {
			return append(ValidateMeta(&c.ObjectMeta, true, NameIsDNSSubdomain), validateClaim(c, nil)...)
		}),
		ValidateUpdate: checkingUpdate(validateClaimUpdate),
		Warnings:       warningsOf(warnClaim),
		ValidateName:   NameIsDNSSubdomain,
		Subresources: map[string]*Subresource{
			"status": {
				Verbs: viewVerbs,
				PrepareForUpdate: onUpdate(func(c, old *corev1.PersistentVolumeClaim) {
					c.Spec = old.Spec
					if old.Status.HealthStatus == nil {
						c.Status.HealthStatus = nil
					}
				}),
				ValidateUpdate: checkingUpdate(validateClaimStatus),
			},
		},
		FieldLabels:      metaFieldLabels,
		SelectableFields: namespacedMetaFields,
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("Status", "string", corev1.PersistentVolumeClaimStatus{}.SwaggerDoc()["phase"]),
			column("Volume", "string", corev1.PersistentVolumeClaimSpec{}.SwaggerDoc()["volumeName"]),
			column("Capacity", "string", corev1.PersistentVolumeClaimStatus{}.SwaggerDoc()["capacity"]),
			column("Access Modes", "string", corev1.PersistentVolumeClaimStatus{}.SwaggerDoc()["accessModes"]),
			column("StorageClass", "string", "StorageClass of the pvc"),
			column("VolumeAttributesClass", "string", "VolumeAttributesClass of the pvc"),
			ageColumn(),
			wideColumn("VolumeMode", "string", corev1.PersistentVolumeClaimSpec{}.SwaggerDoc()["volumeMode"]),
		},
		Row: row(func(c *corev1.PersistentVolumeClaim, now time.Time) []any {
			phase, capacity, modes, class := string(c.Status.Phase), "", "", ""
			if c.DeletionTimestamp != nil {
				phase = "Terminating"
			}
			if c.Spec.VolumeName != "" {
				size := c.Status.Capacity[corev1.ResourceStorage]
				capacity, modes = size.String(), formatAccessModes(c.Status.AccessModes)
			}
			if old, ok := c.Annotations[corev1.BetaStorageClassAnnotation]; ok {
				class = old
			} else if c.Spec.StorageClassName != nil {
				class = *c.Spec.StorageClassName
			}
			return []any{c.Name, phase, c.Spec.VolumeName, capacity, modes, class,
				orUnset(c.Spec.VolumeAttributesClassName), age(c.CreationTimestamp, now), orUnset(c.Spec.VolumeMode)}
		}),
		AllowUnconditionalUpdate: true,
	}
}

// settleSource makes dataSource and its successor dataSourceRef say the same (KEP-1495). old is nil on create. Namespaces
// other than the claim's own are alpha in 1.37 and off.
func settleSource(s, old *corev1.PersistentVolumeClaimSpec) {
	if r := s.DataSourceRef; r != nil && r.Namespace != nil && *r.Namespace != "" && (old == nil || old.DataSourceRef == nil) {
		s.DataSourceRef = nil
	}
	had := old != nil && (old.DataSource != nil || old.DataSourceRef != nil)
	if !had && s.DataSourceRef == nil && !isKnownSource(s.DataSource) {
		s.DataSource = nil // was always ignored
	}
	mirrorSource(s)
}

// mirrorSource fills in the one of dataSource and dataSourceRef that is missing.
func mirrorSource(s *corev1.PersistentVolumeClaimSpec) {
	group := func(g *string) *string {
		if g == nil {
			return nil
		}
		return ptrTo(*g)
	}
	switch d, r := s.DataSource, s.DataSourceRef; {
	case d != nil && r == nil:
		s.DataSourceRef = &corev1.TypedObjectReference{APIGroup: group(d.APIGroup), Kind: d.Kind, Name: d.Name}
	case d == nil && r != nil && (r.Namespace == nil || *r.Namespace == ""):
		s.DataSource = &corev1.TypedLocalObjectReference{APIGroup: group(r.APIGroup), Kind: r.Kind, Name: r.Name}
	}
}

func isKnownSource(d *corev1.TypedLocalObjectReference) bool {
	if d == nil {
		return false
	}
	group := ""
	if d.APIGroup != nil {
		group = *d.APIGroup
	}
	return d.Kind == "PersistentVolumeClaim" && group == "" || d.Kind == "VolumeSnapshot" && group == "snapshot.storage.k8s.io"
}

// validateClaim checks the specification; what is wrong in the old one already may stay.
func validateClaim(c, old *corev1.PersistentVolumeClaim) field.ErrorList {
	var f faults
	anyValue, anyGroup := false, false
	if old != nil {
		anyValue = len(metav1validation.ValidateLabelSelector(old.Spec.Selector, metav1validation.LabelSelectorValidationOptions{}, nil)) > 0
		anyGroup = old.Spec.DataSource != nil && old.Spec.DataSource.APIGroup != nil || old.Spec.DataSourceRef != nil && old.Spec.DataSourceRef.APIGroup != nil
	}
	validateClaimSpecUpdate(&f, &where{name: "spec"}, &c.Spec, anyValue, anyGroup)
	return f.list
}

func validateClaimUpdate(c, old *corev1.PersistentVolumeClaim) field.ErrorList {
	oldSpec := *old.Spec.DeepCopy()
	mirrorSource(&oldSpec)
	errs := append(ValidateMetaUpdate(&c.ObjectMeta, &old.ObjectMeta), ValidateMeta(&c.ObjectMeta, true, NameIsDNSSubdomain)...)
	errs = append(errs, validateClaim(c, old)...)

	// The rest is what may not change, with what may made the same in both.
	rest := *c.Spec.DeepCopy()
	if old.Spec.VolumeName == "" {
		oldSpec.VolumeName = rest.VolumeName // bound once
	}
	const annotation = corev1.BetaStorageClassAnnotation
	oldClass, annotated := old.Annotations[annotation]
	newClass, stillAnnotated := c.Annotations[annotation]
	switch {
	case annotated && oldSpec.StorageClassName == nil && rest.StorageClassName != nil && *rest.StorageClassName == oldClass && (!stillAnnotated || newClass == oldClass):
		rest.StorageClassName = nil // moved from the annotation to the field
	default:
		if newClass != oldClass {
			errs = append(errs, field.Invalid(metadataPath.Child("annotations", annotation), newClass, validation.FieldImmutableErrorMsg))
		}
		if oldSpec.StorageClassName == nil && rest.StorageClassName != nil && (!annotated || *rest.StorageClassName == oldClass) {
			rest.StorageClassName = oldSpec.StorageClassName // given later to a claim without
		}
	}
	if c.Status.Phase == corev1.ClaimBound {
		if rest.Resources.Requests != nil {
			rest.Resources.Requests[corev1.ResourceStorage] = oldSpec.Resources.Requests[corev1.ResourceStorage]
		}
		rest.VolumeAttributesClassName = oldSpec.VolumeAttributesClassName
	}
	if !apiequality.Semantic.DeepEqual(rest, oldSpec) {
		errs = append(errs, field.Forbidden(specPath, fmt.Sprintf(
			"spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n%v", diff.Diff(oldSpec, rest))))
	}
	was, is := old.Spec.Resources.Requests[corev1.ResourceStorage], c.Spec.Resources.Requests[corev1.ResourceStorage]
	if has := old.Status.Capacity[corev1.ResourceStorage]; is.Cmp(was) < 0 && is.Cmp(has) <= 0 { // KEP-1790: back to what there is, to recover
		errs = append(errs, field.Forbidden(specPath.Child("resources", "requests", "storage"), "field can not be less than status.capacity"))
	}
	errs = append(errs, validation.ValidateImmutableField(c.Spec.VolumeMode, old.Spec.VolumeMode, field.NewPath("volumeMode"))...)
	if class := c.Spec.VolumeAttributesClassName; !equalPointers(class, old.Spec.VolumeAttributesClassName) && old.Status.CurrentVolumeAttributesClassName != nil {
		const when = "is forbidden when status.currentVolumeAttributesClassName is not nil"
		switch at := specPath.Child("volumeAttributesClassName"); {
		case class == nil:
			errs = append(errs, field.Forbidden(at, "update to nil "+when))
		case *class == "":
			errs = append(errs, field.Forbidden(at, "update to empty string "+when))
		}
	}
	return errs
}

// resizeStates are how far a claim's volume may have come on its way to another size.
var resizeStates = []corev1.ClaimResourceStatus{
	corev1.PersistentVolumeClaimControllerResizeInProgress, corev1.PersistentVolumeClaimControllerResizeInfeasible,
	corev1.PersistentVolumeClaimNodeResizeInProgress, corev1.PersistentVolumeClaimNodeResizeInfeasible, corev1.PersistentVolumeClaimNodeResizePending,
}

func validateClaimStatus(c, old *corev1.PersistentVolumeClaim) field.ErrorList {
	f := faults{list: ValidateMetaUpdate(&c.ObjectMeta, &old.ObjectMeta)}
	if c.ResourceVersion == "" {
		f.required(&where{name: "resourceVersion"}, "")
	}
	if len(c.Spec.AccessModes) == 0 {
		f.required((&where{name: "Spec"}).field("accessModes"), "")
	}
	status := &where{name: "status"}
	for name, size := range c.Status.Capacity {
		if size.Value() < 0 {
			f.invalid(status.field("capacity").key(string(name)), size.Value(), "must be a valid resource quantity")
		}
	}
	if h := c.Status.HealthStatus; h != nil {
		for i := range h.HealthConditions {
			if reason := h.HealthConditions[i].Reason; reason != "" {
				f.each(status.field("healthStatus").field("healthConditions").at(i).field("reason"), reason, metav1validation.IsValidConditionReason(reason))
			}
		}
	}
	at := status.field("allocatedResourceStatuses")
	for name, state := range c.Status.AllocatedResourceStatuses {
		f.claimResource(at, string(name))
		known := false
		for _, s := range resizeStates {
			known = known || s == state
		}
		if !known {
			f.keep(field.NotSupported(at.path(), name, resizeStates))
		}
	}
	at = status.field("allocatedResources")
	for name, size := range c.Status.AllocatedResources {
		switch here := at.key(string(name)); {
		case !f.claimResource(at, string(name)):
		case size.Value() < 0:
			f.invalid(here, size.Value(), "must be a valid resource quantity")
		case size.Sign() < 0:
			f.invalid(here, size.String(), "must be greater than or equal to 0")
		}
	}
	return f.list
}

// claimResource checks the name of a resource of a claim: storage, or one with a domain of its own. It reports whether it is right.
func (f *faults) claimResource(w *where, name string) bool {
	before := len(f.list)
	if f.qualifiedName(w, name); len(f.list) > before {
		return false
	}
	if native := !strings.Contains(name, "/") || strings.Contains(name, corev1.ResourceDefaultNamespacePrefix); native && name != string(corev1.ResourceStorage) {
		f.keep(field.NotSupported(w.path(), name, []corev1.ResourceName{corev1.ResourceStorage}))
		return false
	}
	return true
}

func warnClaim(c, _ *corev1.PersistentVolumeClaim) []string {
	var a advice
	if _, ok := c.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		a.say((&where{name: "metadata"}).field("annotations").key(corev1.BetaStorageClassAnnotation), `deprecated since v1.8; use "storageClassName" attribute instead`)
	}
	a.claimSpec(&where{name: "spec"}, &c.Spec)
	return a.list
}
