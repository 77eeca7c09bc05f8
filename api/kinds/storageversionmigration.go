package kinds

import (
	"strings"
	"time"

	storagemigrationv1 "k8s.io/api/storagemigration/v1"
	storagemigrationv1beta1 "k8s.io/api/storagemigration/v1beta1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// StorageVersionMigrations is storagemigration.k8s.io/v1 storageversionmigrations (KEP-4192), stored as v1beta1: the wish that every object of a resource be
// written anew, and how far that is.
func StorageVersionMigrations() *Kind {
	return &Kind{
		GroupVersionKind: storagemigrationv1.SchemeGroupVersion.WithKind("StorageVersionMigration"),
		Plural:           "storageversionmigrations",
		Singular:         "storageversionmigration",
		Verbs:            all,
		New:              func() runtime.Object { return new(storagemigrationv1.StorageVersionMigration) },
		NewList:          func() runtime.Object { return new(storagemigrationv1.StorageVersionMigrationList) },
		StoragePrefix:    "storageversionmigrations",
		Hub: storedAs(storagemigrationv1.SchemeGroupVersion.WithKind("StorageVersionMigration"), storagemigrationv1beta1.SchemeGroupVersion.WithKind("StorageVersionMigration"),
			func() message { return new(storagemigrationv1.StorageVersionMigration) }, func() message { return new(storagemigrationv1beta1.StorageVersionMigration) }),
		HubOpens: true,
		PrepareForCreate: onCreate(func(m *storagemigrationv1.StorageVersionMigration) {
			m.Status = storagemigrationv1.StorageVersionMigrationStatus{}
		}),
		PrepareForUpdate: onUpdate(func(m, old *storagemigrationv1.StorageVersionMigration) { m.Status = old.Status }),
		Validate:         checking(validateMigration),
		ValidateUpdate: checkingUpdate(func(m, old *storagemigrationv1.StorageVersionMigration) field.ErrorList {
			errs := append(validateMigration(m), ValidateMetaUpdate(&m.ObjectMeta, &old.ObjectMeta)...)
			return append(errs, validation.ValidateImmutableField(m.Spec, old.Spec, specPath)...)
		}),
		ValidateName: NameIsDNSSubdomain,
		Subresources: map[string]*Subresource{
			"status": {
				Verbs:  viewVerbs,
				Resets: []string{"metadata"},
				PrepareForUpdate: onUpdate(func(m, old *storagemigrationv1.StorageVersionMigration) {
					m.Spec = old.Spec
					metav1.ResetObjectMetaForStatus(&m.ObjectMeta, &old.ObjectMeta)
				}),
				ValidateUpdate: checkingUpdate(validateMigrationStatus),
			},
		},
		FieldLabels:      metaFieldLabels,
		SelectableFields: clusterMetaFields,
		Columns: []metav1.TableColumnDefinition{
			column("Name", "string", metav1.ObjectMeta{}.SwaggerDoc()["name"]), // without a format, as upstream's
			column("Resource", "string", "GroupResource to migrate"),
			column("Status", "string", "Status of the migration"),
		},
		Row: row(func(m *storagemigrationv1.StorageVersionMigration, _ time.Time) []any {
			status := "Unknown"
			for _, c := range m.Status.Conditions {
				switch storagemigrationv1.MigrationConditionType(c.Type) {
				case storagemigrationv1.MigrationRunning, storagemigrationv1.MigrationSucceeded, storagemigrationv1.MigrationFailed:
					if c.Status == metav1.ConditionTrue {
						status = c.Type
					}
				}
			}
			return []any{m.Name, m.Spec.Resource.String(), status}
		}),
	}
}

func validateMigration(m *storagemigrationv1.StorageVersionMigration) field.ErrorList {
	errs := ValidateMeta(&m.ObjectMeta, false, NameIsDNSSubdomain)
	path, of := specPath.Child("resource"), m.Spec.Resource
	if of.Resource == "" {
		errs = append(errs, field.Required(path.Child("resource"), "resource is required to be set"))
	} else if sentences := utilvalidation.IsDNS1035Label(of.Resource); len(sentences) > 0 {
		errs = append(errs, field.Invalid(path.Child("resource"), of.Resource, strings.Join(sentences, ",")))
	}
	if of.Group != "" {
		if sentences := utilvalidation.IsDNS1123Subdomain(of.Group); len(sentences) > 0 {
			errs = append(errs, field.Invalid(path.Child("group"), of.Group, strings.Join(sentences, ",")))
		}
	}
	return errs
}

// validateMigrationStatus: the version up to which objects are migrated is set once, and a migration ends once.
func validateMigrationStatus(m, old *storagemigrationv1.StorageVersionMigration) field.ErrorList {
	errs := ValidateMetaUpdate(&m.ObjectMeta, &old.ObjectMeta)
	path := field.NewPath("status")
	version := m.Status.ResourceVersion
	if version != "" {
		if _, err := resourceversion.CompareResourceVersion(version, version); err != nil {
			errs = append(errs, field.Invalid(path.Child("resourceVersion"), version, err.Error()))
		}
	}
	conditions := path.Child("conditions")
	errs = append(errs, metav1validation.ValidateConditions(m.Status.Conditions, conditions)...)
	if was := old.Status.ResourceVersion; was != "" && was != version {
		errs = append(errs, field.Invalid(path.Child("resourceVersion"), version, "field is immutable"))
	}
	ended := func(m *storagemigrationv1.StorageVersionMigration, how storagemigrationv1.MigrationConditionType) bool {
		return meta.IsStatusConditionTrue(m.Status.Conditions, string(how))
	}
	fault := func(sentence string) { errs = append(errs, field.Invalid(conditions, m.Status.Conditions, sentence)) }
	if ended(m, storagemigrationv1.MigrationSucceeded) && ended(m, storagemigrationv1.MigrationFailed) {
		fault("Both success and failed conditions cannot be true at the same time")
	}
	if ended(old, storagemigrationv1.MigrationSucceeded) && !ended(m, storagemigrationv1.MigrationSucceeded) {
		fault("Success condition cannot be set to false once it is true")
	}
	if ended(old, storagemigrationv1.MigrationFailed) && !ended(m, storagemigrationv1.MigrationFailed) {
		fault("Failed condition cannot be set to false once it is true")
	}
	return errs
}
