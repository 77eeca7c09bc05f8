package kinds

import (
	"strings"
	"time"

	storagev1 "k8s.io/api/storage/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// CSIDrivers is storage.k8s.io/v1 csidrivers (KEP-594, KEP-770).
func CSIDrivers() *Kind {
	return &Kind{
		GroupVersionKind: storagev1.SchemeGroupVersion.WithKind("CSIDriver"),
		Plural:           "csidrivers",
		Singular:         "csidriver",
		Verbs:            all,
		New:              func() runtime.Object { return new(storagev1.CSIDriver) },
		NewList:          func() runtime.Object { return new(storagev1.CSIDriverList) },
		StoragePrefix:    "csidrivers",
		Default:          defaulting(defaultCSIDriver),
		PrepareForUpdate: onUpdate(func(d, old *storagev1.CSIDriver) {
			if !apiequality.Semantic.DeepEqual(d.Spec, old.Spec) {
				d.Generation = old.Generation + 1
			}
		}),
		Validate: checking(func(d *storagev1.CSIDriver) field.ErrorList {
			return append(ValidateMeta(&d.ObjectMeta, false, NameIsDNSSubdomain), validateCSIDriver(&d.Spec)...)
		}),
		ValidateUpdate: checkingUpdate(func(d, old *storagev1.CSIDriver) field.ErrorList {
			errs := append(ValidateMetaUpdate(&d.ObjectMeta, &old.ObjectMeta), validateCSIDriver(&d.Spec)...)
			errs = append(errs, validation.ValidateImmutableField(d.Spec.AttachRequired, old.Spec.AttachRequired, specPath.Child("attachedRequired"))...)
			return append(errs, validation.ValidateImmutableField(d.Spec.VolumeLifecycleModes, old.Spec.VolumeLifecycleModes, specPath.Child("volumeLifecycleModes"))...)
		}),
		Warnings: warningsOf(func(d, old *storagev1.CSIDriver) []string {
			changed := old == nil || !apiequality.Semantic.DeepEqual(d.Spec.TokenRequests, old.Spec.TokenRequests)
			if changed && len(d.Spec.TokenRequests) > 0 && d.Spec.ServiceAccountTokenInSecrets == nil {
				return []string{warnTokenNotSecret}
			}
			return nil
		}),
		ValidateName:     NameIsDNSSubdomain,
		FieldLabels:      metaFieldLabels,
		SelectableFields: clusterMetaFields,
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("AttachRequired", "boolean", storagev1.CSIDriverSpec{}.SwaggerDoc()["attachRequired"]),
			column("PodInfoOnMount", "boolean", storagev1.CSIDriverSpec{}.SwaggerDoc()["podInfoOnMount"]),
			column("StorageCapacity", "boolean", storagev1.CSIDriverSpec{}.SwaggerDoc()["storageCapacity"]),
			column("TokenRequests", "string", storagev1.CSIDriverSpec{}.SwaggerDoc()["tokenRequests"]),
			column("RequiresRepublish", "boolean", storagev1.CSIDriverSpec{}.SwaggerDoc()["requiresRepublish"]),
			column("Modes", "string", storagev1.CSIDriverSpec{}.SwaggerDoc()["volumeLifecycleModes"]),
			ageColumn(),
		},
		Row: row(func(d *storagev1.CSIDriver, now time.Time) []any {
			set := func(v *bool, unset bool) bool {
				if v == nil {
					return unset
				}
				return *v
			}
			tokens := "<unset>"
			if d.Spec.TokenRequests != nil {
				audiences := make([]string, len(d.Spec.TokenRequests))
				for i, t := range d.Spec.TokenRequests {
					audiences[i] = t.Audience
				}
				tokens = strings.Join(audiences, ",")
			}
			modes := make([]string, len(d.Spec.VolumeLifecycleModes))
			for i, m := range d.Spec.VolumeLifecycleModes {
				modes[i] = string(m)
			}
			return []any{d.Name, set(d.Spec.AttachRequired, true), set(d.Spec.PodInfoOnMount, false), set(d.Spec.StorageCapacity, false),
				tokens, set(d.Spec.RequiresRepublish, false), orNone(strings.Join(modes, ",")), age(d.CreationTimestamp, now)}
		}),
	}
}

func defaultCSIDriver(d *storagev1.CSIDriver) {
	s := &d.Spec
	if s.AttachRequired == nil {
		s.AttachRequired = ptrTo(true)
	}
	for _, v := range []**bool{&s.PodInfoOnMount, &s.StorageCapacity, &s.RequiresRepublish, &s.SELinuxMount, &s.PreventPodSchedulingIfMissing} {
		if *v == nil {
			*v = ptrTo(false)
		}
	}
	if s.FSGroupPolicy == nil {
		s.FSGroupPolicy = ptrTo(storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy)
	}
	if len(s.VolumeLifecycleModes) == 0 {
		s.VolumeLifecycleModes = append(s.VolumeLifecycleModes, storagev1.VolumeLifecyclePersistent)
	}
}

// warnTokenNotSecret is upstream's advice for drivers that get tokens among the attributes of a volume, which they may log.
const warnTokenNotSecret = "spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible logging of tokens in volume attributes"

// Bounds of a token that a driver asks for.
const (
	minDriverTokenSeconds = 10 * 60
	maxDriverTokenSeconds = 1 << 32
)

// validateCSIDriver says attachedRequired where attachRequired is meant, as upstream does.
func validateCSIDriver(s *storagev1.CSIDriverSpec) (errs field.ErrorList) {
	required := func(name string, v *bool) {
		if v == nil {
			errs = append(errs, field.Required(specPath.Child(name), ""))
		}
	}
	required("attachedRequired", s.AttachRequired)
	required("podInfoOnMount", s.PodInfoOnMount)
	required("storageCapacity", s.StorageCapacity)
	if p := s.FSGroupPolicy; p != nil {
		switch *p {
		case storagev1.FileFSGroupPolicy, storagev1.NoneFSGroupPolicy, storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy:
		default:
			errs = append(errs, field.NotSupported(specPath.Child("fsGroupPolicy"), *p,
				[]storagev1.FSGroupPolicy{storagev1.FileFSGroupPolicy, storagev1.NoneFSGroupPolicy, storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy}))
		}
	}
	seen := map[string]bool{}
	for i, t := range s.TokenRequests {
		at := specPath.Child("tokenRequests").Index(i)
		if seen[t.Audience] {
			errs = append(errs, field.Duplicate(at.Child("audience"), t.Audience))
			continue
		}
		seen[t.Audience] = true
		if t.ExpirationSeconds == nil {
			continue
		}
		if *t.ExpirationSeconds < minDriverTokenSeconds {
			errs = append(errs, field.Invalid(at.Child("expirationSeconds"), *t.ExpirationSeconds, "may not specify a duration less than 10 minutes"))
		}
		if *t.ExpirationSeconds > maxDriverTokenSeconds {
			errs = append(errs, field.Invalid(at.Child("expirationSeconds"), *t.ExpirationSeconds, "may not specify a duration larger than 2^32 seconds"))
		}
	}
	for _, m := range s.VolumeLifecycleModes {
		switch m {
		case storagev1.VolumeLifecyclePersistent, storagev1.VolumeLifecycleEphemeral:
		default:
			errs = append(errs, field.NotSupported(specPath.Child("volumeLifecycleModes"), m,
				[]storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent, storagev1.VolumeLifecycleEphemeral}))
		}
	}
	required("seLinuxMount", s.SELinuxMount)
	if p := s.NodeAllocatableUpdatePeriodSeconds; p != nil && *p < 10 {
		errs = append(errs, field.Invalid(specPath.Child("nodeAllocatableUpdatePeriodSeconds"), *p, "must be greater than or equal to 10 seconds"))
	}
	if v := s.ServiceAccountTokenInSecrets; v != nil && len(s.TokenRequests) == 0 {
		errs = append(errs, field.Invalid(specPath.Child("serviceAccountTokenInSecrets"), *v, "serviceAccountTokenInSecrets is set but no tokenRequests are specified"))
	}
	required("preventPodSchedulingIfMissing", s.PreventPodSchedulingIfMissing)
	return errs
}
