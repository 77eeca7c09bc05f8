package kinds

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/diff"
	contentvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// PersistentVolumes is core/v1 persistentvolumes.
func PersistentVolumes() *Kind {
	return &Kind{
		GroupVersionKind: corev1.SchemeGroupVersion.WithKind("PersistentVolume"),
		Plural:           "persistentvolumes",
		Singular:         "persistentvolume",
		ShortNames:       []string{"pv"},
		Verbs:            all,
		New:              func() runtime.Object { return new(corev1.PersistentVolume) },
		NewList:          func() runtime.Object { return new(corev1.PersistentVolumeList) },
		StoragePrefix:    "persistentvolumes",
		Default: defaulting(func(v *corev1.PersistentVolume) {
			setIfZero(&v.Status.Phase, corev1.VolumePending)
			setIfZero(&v.Spec.PersistentVolumeReclaimPolicy, corev1.PersistentVolumeReclaimRetain)
			if v.Spec.VolumeMode == nil {
				v.Spec.VolumeMode = ptrTo(corev1.PersistentVolumeFilesystem)
			}
			defaultVolumeSpec(&v.Spec)
		}),
		PrepareForCreate: onCreate(func(v *corev1.PersistentVolume) {
			v.Status = corev1.PersistentVolumeStatus{Phase: corev1.VolumePending, LastPhaseTransitionTime: ptrTo(metav1.Now())}
		}),
		PrepareForUpdate: onUpdate(func(v, old *corev1.PersistentVolume) { v.Status = old.Status }),
		Validate: checking(func(v *corev1.PersistentVolume) field.ErrorList {
			return append(ValidateMeta(&v.ObjectMeta, false, NameIsDNSSubdomain), validateVolume(v, false)...)
		}),
		ValidateUpdate: checkingUpdate(validateVolumeUpdate),
		Warnings:       warningsOf(warnVolume),
		ValidateName:   NameIsDNSSubdomain,
		Subresources: map[string]*Subresource{
			"status": {
				Verbs: viewVerbs,
				PrepareForUpdate: onUpdate(func(v, old *corev1.PersistentVolume) {
					v.Spec = old.Spec
					stampPhase(&v.Status, &old.Status)
				}),
				ValidateUpdate: checkingUpdate(func(v, old *corev1.PersistentVolume) field.ErrorList {
					errs := ValidateMetaUpdate(&v.ObjectMeta, &old.ObjectMeta)
					if v.ResourceVersion == "" {
						errs = append(errs, field.Required(field.NewPath("resourceVersion"), ""))
					}
					return errs
				}),
			},
		},
		FieldLabels:      metaFieldLabels,
		SelectableFields: clusterMetaFields,
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("Capacity", "string", corev1.PersistentVolumeSpec{}.SwaggerDoc()["capacity"]),
			column("Access Modes", "string", corev1.PersistentVolumeSpec{}.SwaggerDoc()["accessModes"]),
			column("Reclaim Policy", "string", corev1.PersistentVolumeSpec{}.SwaggerDoc()["persistentVolumeReclaimPolicy"]),
			column("Status", "string", corev1.PersistentVolumeStatus{}.SwaggerDoc()["phase"]),
			column("Claim", "string", corev1.PersistentVolumeSpec{}.SwaggerDoc()["claimRef"]),
			column("StorageClass", "string", "StorageClass of the pv"),
			column("VolumeAttributesClass", "string", "VolumeAttributesClass of the pv"),
			column("Reason", "string", corev1.PersistentVolumeStatus{}.SwaggerDoc()["reason"]),
			ageColumn(),
			wideColumn("VolumeMode", "string", corev1.PersistentVolumeSpec{}.SwaggerDoc()["volumeMode"]),
		},
		Row: row(func(v *corev1.PersistentVolume, now time.Time) []any {
			claim, phase, class := "", string(v.Status.Phase), v.Spec.StorageClassName
			if ref := v.Spec.ClaimRef; ref != nil {
				claim = ref.Namespace + "/" + ref.Name
			}
			if v.DeletionTimestamp != nil {
				phase = "Terminating"
			}
			if old, ok := v.Annotations[corev1.BetaStorageClassAnnotation]; ok {
				class = old
			}
			size := v.Spec.Capacity[corev1.ResourceStorage]
			return []any{v.Name, size.String(), formatAccessModes(v.Spec.AccessModes), string(v.Spec.PersistentVolumeReclaimPolicy), phase, claim, class,
				orUnset(v.Spec.VolumeAttributesClassName), v.Status.Reason, age(v.CreationTimestamp, now), orUnset(v.Spec.VolumeMode)}
		}),
		AllowUnconditionalUpdate: true,
	}
}

func orUnset[T ~string](v *T) string {
	if v == nil {
		return "<unset>"
	}
	return string(*v)
}

// formatAccessModes prints the known modes in a fixed order, each once.
func formatAccessModes(modes []corev1.PersistentVolumeAccessMode) string {
	var words []string
	for _, known := range [...]struct {
		mode corev1.PersistentVolumeAccessMode
		word string
	}{{corev1.ReadWriteOnce, "RWO"}, {corev1.ReadOnlyMany, "ROX"}, {corev1.ReadWriteMany, "RWX"}, {corev1.ReadWriteOncePod, "RWOP"}} {
		for _, m := range modes {
			if m == known.mode {
				words = append(words, known.word)
				break
			}
		}
	}
	return strings.Join(words, ",")
}

// stampPhase notes when the phase changed (KEP-3762), unless the client has said so.
func stampPhase(s, old *corev1.PersistentVolumeStatus) {
	switch at := s.LastPhaseTransitionTime; {
	case s.Phase == old.Phase && at == nil:
		s.LastPhaseTransitionTime = old.LastPhaseTransitionTime
	case s.Phase != old.Phase && (at == nil || at.Equal(old.LastPhaseTransitionTime)):
		s.LastPhaseTransitionTime = ptrTo(metav1.Now())
	}
}

func defaultVolumeSpec(s *corev1.PersistentVolumeSpec) {
	roundToMilli(s.Capacity)
	if h := s.HostPath; h != nil && h.Type == nil {
		h.Type = ptrTo(corev1.HostPathUnset)
	}
	if v := s.ISCSI; v != nil {
		defaultISCSI(&v.ISCSIInterface)
	}
	if v := s.RBD; v != nil {
		defaultRBD(&v.RBDPool, &v.RadosUser, &v.Keyring)
	}
	if v := s.AzureDisk; v != nil {
		defaultAzureDisk(v)
	}
	if v := s.ScaleIO; v != nil {
		defaultScaleIO(&v.StorageMode, &v.FSType)
	}
}

// validateVolume checks all but the metadata; with anyValue malformed label values in the node affinity pass.
func validateVolume(v *corev1.PersistentVolume, anyValue bool) field.ErrorList {
	var c podCheck
	c.volumeSpec(&where{name: "spec"}, &v.Spec, v.Name, volumeStored, anyValue)
	if _, ok := v.Annotations[corev1.MountOptionAnnotation]; ok && !takesMountOptions(&v.Spec.PersistentVolumeSource) {
		c.keep(field.Forbidden(metadataPath.Child("annotations", corev1.MountOptionAnnotation), "may not specify mount options for this volume type"))
	}
	return c.list
}

// takesMountOptions tells the types that knew mount options when they were an annotation.
func takesMountOptions(s *corev1.PersistentVolumeSource) bool {
	return s.GCEPersistentDisk != nil || s.AWSElasticBlockStore != nil || s.Glusterfs != nil || s.NFS != nil || s.RBD != nil || s.Quobyte != nil ||
		s.ISCSI != nil || s.Cinder != nil || s.CephFS != nil || s.AzureFile != nil || s.VsphereVolume != nil || s.AzureDisk != nil || s.PhotonPersistentDisk != nil
}

func validateVolumeUpdate(v, old *corev1.PersistentVolume) field.ErrorList {
	anyValue := old.Spec.NodeAffinity != nil && hasOddValues(old.Spec.NodeAffinity.Required)
	errs := append(ValidateMetaUpdate(&v.ObjectMeta, &old.ObjectMeta), ValidateMeta(&v.ObjectMeta, false, NameIsDNSSubdomain)...)
	errs = append(errs, validateVolume(v, anyValue)...)
	source := v.Spec.PersistentVolumeSource
	if is, was := source.CSI, old.Spec.CSI; is != nil && was != nil && was.ControllerExpandSecretRef == nil && is.ControllerExpandSecretRef != nil {
		without := *is // the secret for growing may be named later
		without.ControllerExpandSecretRef = nil
		source.CSI = &without
	}
	if !apiequality.Semantic.DeepEqual(source, old.Spec.PersistentVolumeSource) {
		errs = append(errs, field.Forbidden(specPath.Child("persistentvolumesource"),
			fmt.Sprintf("spec.persistentvolumesource is immutable after creation\n%v", diff.Diff(old.Spec.PersistentVolumeSource, source))))
	}
	errs = append(errs, validation.ValidateImmutableField(v.Spec.VolumeMode, old.Spec.VolumeMode, field.NewPath("volumeMode"))...)
	if old.Spec.NodeAffinity != nil && !sameAffinity(v.Spec.NodeAffinity, old.Spec.NodeAffinity) {
		errs = append(errs, field.Invalid(field.NewPath("nodeAffinity"), v.Spec.NodeAffinity, validation.FieldImmutableErrorMsg+", except for updating from beta label to GA"))
	}
	if v.Spec.VolumeAttributesClassName == nil && old.Spec.VolumeAttributesClassName != nil {
		errs = append(errs, field.Forbidden(specPath.Child("volumeAttributesClassName"), "update from non-nil value to nil is forbidden"))
	}
	return errs
}

// hasOddValues reports whether a node selector has values that no label can have.
func hasOddValues(s *corev1.NodeSelector) bool {
	if s == nil {
		return false
	}
	for _, t := range s.NodeSelectorTerms {
		for _, e := range t.MatchExpressions {
			for _, v := range e.Values {
				if len(contentvalidation.IsValidLabelValue(v)) > 0 {
					return true
				}
			}
		}
	}
	return false
}

// stableLabels are the labels that have taken the place of beta ones.
var stableLabels = map[string]string{
	corev1.LabelFailureDomainBetaZone:   corev1.LabelTopologyZone,
	corev1.LabelFailureDomainBetaRegion: corev1.LabelTopologyRegion,
	"beta.kubernetes.io/os":             corev1.LabelOSStable,
	"beta.kubernetes.io/arch":           corev1.LabelArchStable,
	corev1.LabelInstanceType:            corev1.LabelInstanceTypeStable,
}

// sameAffinity reports whether is says what was says, but for beta labels that have become stable ones.
func sameAffinity(is, was *corev1.VolumeNodeAffinity) bool {
	if is == nil || is.Required == nil || was.Required == nil {
		return apiequality.Semantic.DeepEqual(is, was)
	}
	was = was.DeepCopy()
	for i := range min(len(is.Required.NodeSelectorTerms), len(was.Required.NodeSelectorTerms)) {
		now, then := &is.Required.NodeSelectorTerms[i], &was.Required.NodeSelectorTerms[i]
		for _, lists := range [][2][]corev1.NodeSelectorRequirement{{now.MatchExpressions, then.MatchExpressions}, {now.MatchFields, then.MatchFields}} {
			for j := range min(len(lists[0]), len(lists[1])) {
				// A key taken away passes here, as with upstream: it is refused as no key.
				if stable := stableLabels[lists[1][j].Key]; stable == lists[0][j].Key {
					lists[1][j].Key = stable
				}
			}
		}
	}
	return apiequality.Semantic.DeepEqual(is, was)
}

func warnVolume(v, _ *corev1.PersistentVolume) []string {
	var a advice
	annotations, spec := (&where{name: "metadata"}).field("annotations"), &where{name: "spec"}
	if _, ok := v.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		a.say(annotations.key(corev1.BetaStorageClassAnnotation), `deprecated since v1.8; use "storageClassName" attribute instead`)
	}
	if _, ok := v.Annotations[corev1.MountOptionAnnotation]; ok {
		a.say(annotations.key(corev1.MountOptionAnnotation), `deprecated since v1.31; use "mountOptions" attribute instead`)
	}
	if v.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle {
		a.say(spec.field("persistentVolumeReclaimPolicy"), "The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.")
	}
	if n := v.Spec.NodeAffinity; n != nil && n.Required != nil {
		terms := spec.field("nodeAffinity").field("required").field("nodeSelectorTerms")
		for i := range n.Required.NodeSelectorTerms {
			a.nodeSelectorTerm(terms.at(i), &n.Required.NodeSelectorTerms[i], false)
		}
	}
	for _, gone := range [...]struct {
		set        bool
		name, when string
	}{
		{v.Spec.CephFS != nil, "cephfs", "deprecated in v1.28, non-functional in v1.31+"},
		{v.Spec.PhotonPersistentDisk != nil, "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"},
		{v.Spec.ScaleIO != nil, "scaleIO", "deprecated in v1.16, non-functional in v1.22+"},
		{v.Spec.StorageOS != nil, "storageOS", "deprecated in v1.22, non-functional in v1.25+"},
		{v.Spec.Glusterfs != nil, "glusterfs", "deprecated in v1.25, non-functional in v1.26+"},
		{v.Spec.RBD != nil, "rbd", "deprecated in v1.28, non-functional in v1.31+"},
	} {
		if gone.set {
			a.say(spec.field(gone.name), "%s", gone.when)
		}
	}
	return a.list
}
