package kinds

import (
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Namespaces is core/v1 namespaces. Their contents are removed by the namespace controller while spec.finalizers
// names it; the finalize subresource is how it says that it is done.
func Namespaces() *Kind {
	return &Kind{
		GroupVersionKind: corev1.SchemeGroupVersion.WithKind("Namespace"),
		Plural:           "namespaces",
		Singular:         "namespace",
		ShortNames:       []string{"ns"},
		Verbs:            noCollectionDelete,
		New:              func() runtime.Object { return new(corev1.Namespace) },
		NewList:          func() runtime.Object { return new(corev1.NamespaceList) },
		StoragePrefix:    "namespaces",
		Default:          defaulting(defaultNamespace),
		PrepareForCreate: onCreate(prepareNamespace),
		PrepareForUpdate: onUpdate(func(ns, old *corev1.Namespace) {
			ns.Spec.Finalizers = old.Spec.Finalizers
			ns.Status = old.Status
		}),
		Validate:       checking(validateNamespace),
		ValidateUpdate: checkingUpdate(validateNamespaceUpdate),
		ValidateName:   NameIsDNSLabel,
		Subresources: map[string]*Subresource{
			"status": {
				Verbs: viewVerbs,
				PrepareForUpdate: onUpdate(func(ns, old *corev1.Namespace) {
					ns.Spec = old.Spec
				}),
				ValidateUpdate: checkingUpdate(validateNamespaceStatus),
			},
			"finalize": {
				Verbs: []string{"update"},
				PrepareForUpdate: onUpdate(func(ns, old *corev1.Namespace) {
					ns.Status = old.Status
				}),
				ValidateUpdate: checkingUpdate(validateNamespaceFinalize),
			},
		},
		FieldLabels: []string{"metadata.name", "status.phase"},
		SelectableFields: selecting(func(ns *corev1.Namespace) fields.Set {
			set := metaFields(&ns.ObjectMeta, false, 2)
			set["status.phase"] = string(ns.Status.Phase)
			set["name"] = ns.Name // upstream keeps this older spelling for stored selectors
			return set
		}),
		Columns: []metav1.TableColumnDefinition{
			nameColumn(), column("Status", "string", "The status of the namespace"), ageColumn(),
		},
		Row: row(func(ns *corev1.Namespace, now time.Time) []any {
			return []any{ns.Name, string(ns.Status.Phase), age(ns.CreationTimestamp, now)}
		}),
		AllowUnconditionalUpdate: true,
	}
}

func defaultNamespace(ns *corev1.Namespace) {
	labelNamespace(ns)
	if ns.Status.Phase == "" {
		ns.Status.Phase = corev1.NamespaceActive
	}
}

// labelNamespace gives every namespace its name as a label, so that selectors can name it (KEP-2161).
func labelNamespace(ns *corev1.Namespace) {
	if ns.Name == "" || ns.Labels[corev1.LabelMetadataName] == ns.Name {
		return // others may be reading the label that is there
	}
	if ns.Labels == nil {
		ns.Labels = make(map[string]string, 1)
	}
	ns.Labels[corev1.LabelMetadataName] = ns.Name
}

func prepareNamespace(ns *corev1.Namespace) {
	labelNamespace(ns)
	ns.Status = corev1.NamespaceStatus{Phase: corev1.NamespaceActive}
	if !slices.Contains(ns.Spec.Finalizers, corev1.FinalizerKubernetes) {
		ns.Spec.Finalizers = append(ns.Spec.Finalizers, corev1.FinalizerKubernetes)
	}
}

func validateNamespace(ns *corev1.Namespace) field.ErrorList {
	errs := ValidateMeta(&ns.ObjectMeta, false, NameIsDNSLabel)
	return append(errs, validateNamespaceFinalizers(ns)...)
}

func validateNamespaceFinalizers(ns *corev1.Namespace) (errs field.ErrorList) {
	path := field.NewPath("spec", "finalizers")
	for _, f := range ns.Spec.Finalizers {
		errs = append(errs, validateFinalizerName(string(f), path)...)
	}
	return errs
}

// validateFinalizerName wants a qualified name; those without a domain are Kubernetes' own.
func validateFinalizerName(name string, path *field.Path) (errs field.ErrorList) {
	for _, sentence := range validation.IsQualifiedName(name) {
		errs = append(errs, field.Invalid(path, name, sentence))
	}
	if !strings.Contains(name, "/") && name != string(corev1.FinalizerKubernetes) &&
		name != metav1.FinalizerOrphanDependents && name != metav1.FinalizerDeleteDependents {
		errs = append(errs, field.Invalid(path, name, "name is neither a standard finalizer name nor is it fully qualified"))
	}
	return errs
}

func validateNamespaceUpdate(ns, old *corev1.Namespace) field.ErrorList {
	errs := validateNamespace(ns)
	return append(errs, ValidateMetaUpdate(&ns.ObjectMeta, &old.ObjectMeta)...)
}

func validateNamespaceStatus(ns, old *corev1.Namespace) field.ErrorList {
	errs := ValidateMetaUpdate(&ns.ObjectMeta, &old.ObjectMeta)
	path := field.NewPath("status", "Phase")
	if ns.DeletionTimestamp.IsZero() {
		if ns.Status.Phase != corev1.NamespaceActive {
			errs = append(errs, field.Invalid(path, ns.Status.Phase, "may only be 'Active' if `deletionTimestamp` is empty"))
		}
	} else if ns.Status.Phase != corev1.NamespaceTerminating {
		errs = append(errs, field.Invalid(path, ns.Status.Phase, "may only be 'Terminating' if `deletionTimestamp` is not empty"))
	}
	return errs
}

func validateNamespaceFinalize(ns, old *corev1.Namespace) field.ErrorList {
	errs := ValidateMetaUpdate(&ns.ObjectMeta, &old.ObjectMeta)
	path := field.NewPath("spec", "finalizers")
	for i, f := range ns.Spec.Finalizers {
		errs = append(errs, validateFinalizerName(string(f), path.Index(i))...)
	}
	return errs
}
