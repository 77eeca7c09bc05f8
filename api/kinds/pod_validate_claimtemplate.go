package kinds

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
)

// templateMeta checks the metadata of a template whose objects get only labels and annotations from it.
func (f *faults) templateMeta(w *where, m *metav1.ObjectMeta) {
	f.add(validation.ValidateAnnotations(m.Annotations, w.field("annotations").path()))
	f.add(metavalidation.ValidateLabels(m.Labels, w.field("labels").path()))
	for _, g := range [...]given{
		{"name", m.Name != ""}, {"generateName", m.GenerateName != ""}, {"namespace", m.Namespace != ""}, {"selfLink", m.SelfLink != ""},
		{"uID", m.UID != ""}, {"resourceVersion", m.ResourceVersion != ""}, {"generation", m.Generation != 0},
		{"creationTimestamp", !m.CreationTimestamp.IsZero()}, {"deletionTimestamp", m.DeletionTimestamp != nil},
		{"deletionGracePeriodSeconds", m.DeletionGracePeriodSeconds != nil}, {"ownerReferences", m.OwnerReferences != nil},
		{"finalizers", m.Finalizers != nil}, {"managedFields", m.ManagedFields != nil},
	} {
		if g.set {
			f.forbidden(w.field(g.name), "cannot be set")
		}
	}
}

// validateClaimSpec checks the specification of a persistent volume claim; with anyValue malformed label
// values in the selector pass, because the old object has some.
func validateClaimSpec(f *faults, w *where, s *corev1.PersistentVolumeClaimSpec, anyValue bool) {
	validateClaimSpecUpdate(f, w, s, anyValue, false)
}

// validateClaimSpecUpdate is validateClaimSpec; with anyGroup malformed API groups of data sources pass as well.
func validateClaimSpecUpdate(f *faults, w *where, s *corev1.PersistentVolumeClaimSpec, anyValue, anyGroup bool) {
	if len(s.AccessModes) == 0 {
		f.required(w.field("accessModes"), "at least 1 access mode is required")
	}
	f.labelSelector(w.field("selector"), s.Selector, anyValue)
	validateAccessModes(f, w.field("accessModes"), s.AccessModes)
	at := w.field("resources").key("storage")
	if size, ok := s.Resources.Requests[corev1.ResourceStorage]; !ok {
		f.required(at, "")
	} else if size.Sign() <= 0 {
		f.invalid(at, size.String(), "must be greater than zero")
	}
	f.className(w.field("storageClassName"), s.StorageClassName)
	if s.VolumeMode != nil {
		knownValue(f, w.field("volumeMode"), *s.VolumeMode, volumeModes)
	}
	validateClaimSource(f, w, s, anyGroup)
	f.className(w.field("volumeAttributesClassName"), s.VolumeAttributesClassName)
}

func (f *faults) className(w *where, name *string) {
	if name != nil && *name != "" {
		f.dnsSubdomain(w, *name)
	}
}

// validateAccessModes checks the access modes of a volume or claim.
func validateAccessModes(f *faults, w *where, modes []corev1.PersistentVolumeAccessMode) {
	alone, others := false, false
	for _, mode := range modes {
		switch mode {
		case corev1.ReadWriteOncePod:
			alone = true
		case corev1.ReadOnlyMany, corev1.ReadWriteMany, corev1.ReadWriteOnce:
			others = true
		default:
			notSupported(f, w, mode, accessModes)
		}
	}
	if alone && others {
		f.forbidden(w, "may not use ReadWriteOncePod with other access modes")
	}
}

// validateClaimSource checks where the content of a new volume comes from: dataSource, its wider successor dataSourceRef
// (KEP-1495), or both if they say the same.
func validateClaimSource(f *faults, w *where, s *corev1.PersistentVolumeClaimSpec, anyGroup bool) {
	if d := s.DataSource; d != nil {
		dataSource(f, w.field("dataSource"), d.APIGroup, d.Kind, d.Name, anyGroup)
	}
	elsewhere := false
	if d := s.DataSourceRef; d != nil {
		at := w.field("dataSourceRef")
		dataSource(f, at, d.APIGroup, d.Kind, d.Name, anyGroup)
		if d.Namespace != nil && *d.Namespace != "" {
			elsewhere = true
			f.dnsLabel(at.field("namespace"), *d.Namespace)
		}
	}
	if s.DataSource == nil || s.DataSourceRef == nil {
		return
	}
	d, r := s.DataSource, s.DataSourceRef
	switch {
	case elsewhere:
		f.invalid(w, w.field("dataSource").path(), "may not be specified when dataSourceRef.namespace is specified")
	case !equality.Semantic.DeepEqual(d.APIGroup, r.APIGroup) || d.Kind != r.Kind || d.Name != r.Name:
		f.invalid(w, w.field("dataSource").path(), "must match dataSourceRef")
	}
}

func dataSource(f *faults, w *where, group *string, kind, name string, anyGroup bool) {
	f.needs(w.field("name"), name)
	f.needs(w.field("kind"), kind)
	if group != nil && *group != "" {
		if !anyGroup {
			f.dnsSubdomain(w.field("apiGroup"), *group)
		}
	} else if kind != "PersistentVolumeClaim" {
		f.invalid(w, kind, "must be 'PersistentVolumeClaim' when referencing the default apiGroup")
	}
}

// csiDriverName checks the name of a CSI driver: a subdomain in any case, up to 63 bytes.
func (f *faults) csiDriverName(w *where, name string) {
	if name == "" {
		f.required(w, "")
		return
	}
	if len(name) > 63 {
		f.tooLong(w, "", 63)
	}
	f.each(w, name, utilvalidation.IsDNS1123Subdomain(strings.ToLower(name)))
}
