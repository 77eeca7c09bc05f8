package kinds

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// NameFunc says what is wrong with a name, one sentence for each fault; nothing when it is right. With prefix true the
// name is a metadata.generateName, to which letters will be added, so a trailing dash is right.
type NameFunc = func(name string, prefix bool) []string

// metadataPath is where every object keeps its metadata.
var metadataPath = field.NewPath("metadata")

// NameIsDNSSubdomain accepts RFC 1123 subdomains, the rule of most kinds.
func NameIsDNSSubdomain(name string, prefix bool) []string {
	return validation.NameIsDNSSubdomain(name, prefix)
}

// NameIsDNSLabel accepts RFC 1123 labels (namespaces, services, jobs' pods).
func NameIsDNSLabel(name string, prefix bool) []string {
	return validation.NameIsDNSLabel(name, prefix)
}

// NameIsDNS1035Label accepts RFC 1035 labels, which begin with a letter (services before 1.34).
func NameIsDNS1035Label(name string, prefix bool) []string {
	return validation.NameIsDNS1035Label(name, prefix)
}

// NameIsPathSegment accepts whatever can stand in a URL path (RBAC kinds, whose names contain colons).
func NameIsPathSegment(name string, prefix bool) []string {
	if prefix {
		return content.IsPathSegmentPrefix(name)
	}
	return content.IsPathSegmentName(name)
}

// ValidateMeta checks the metadata of an object that is to be created: name (generated already), generateName,
// namespace, labels, annotations and their total size (256 KiB), ownerReferences, finalizers, generation, managedFields.
func ValidateMeta(m *metav1.ObjectMeta, namespaced bool, name NameFunc) field.ErrorList {
	return validateMetaAt(m, namespaced, name, metadataPath)
}

// validateMetaAt is ValidateMeta for metadata inside an object (pod and claim templates).
func validateMetaAt(m *metav1.ObjectMeta, namespaced bool, name NameFunc, path *field.Path) field.ErrorList {
	errs := validation.ValidateObjectMeta(m, namespaced, name, path)
	return append(errs, validateLegacyFinalizers(m.Finalizers, path)...)
}

// ValidateMetaUpdate checks m as the replacement of old: what ValidateMeta checks but the name, and that
// name, namespace, uid, creationTimestamp and the deletion fields are as they were, that generation does not shrink,
// that a resourceVersion is there, and that an object on its way out gets no new finalizers.
func ValidateMetaUpdate(m, old *metav1.ObjectMeta) field.ErrorList {
	errs := validation.ValidateObjectMetaUpdate(m, old, metadataPath)
	return append(errs, validateLegacyFinalizers(m.Finalizers, metadataPath)...)
}

// validateLegacyFinalizers accepts a finalizer without a domain only if it is one of Kubernetes' own.
func validateLegacyFinalizers(finalizers []string, path *field.Path) (errs field.ErrorList) {
	for i, f := range finalizers {
		switch {
		case strings.Contains(f, "/"):
		case f == string(corev1.FinalizerKubernetes), f == metav1.FinalizerOrphanDependents, f == metav1.FinalizerDeleteDependents:
		default:
			errs = append(errs, field.Invalid(path.Child("finalizers").Index(i), f, "name is neither a standard finalizer name nor is it fully qualified"))
		}
	}
	return errs
}

// metaFieldLabels are the field selectors that every kind accepts. Kinds append theirs: the slice is at its capacity.
var metaFieldLabels = []string{"metadata.name", "metadata.namespace"}

// metaFields returns the values of metaFieldLabels in a set with room for extra more. Objects without a namespace
// leave it out, as upstream does for cluster-scoped kinds.
func metaFields(m *metav1.ObjectMeta, namespaced bool, extra int) fields.Set {
	set := make(fields.Set, 2+extra)
	set["metadata.name"] = m.Name
	if namespaced {
		set["metadata.namespace"] = m.Namespace
	}
	return set
}
