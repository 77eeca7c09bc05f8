package kinds

import (
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Leases is coordination.k8s.io/v1 leases: node heartbeats and leader election.
func Leases() *Kind {
	return &Kind{
		GroupVersionKind: coordinationv1.SchemeGroupVersion.WithKind("Lease"),
		Plural:           "leases",
		Singular:         "lease",
		Namespaced:       true,
		Verbs:            all,
		New:              func() runtime.Object { return new(coordinationv1.Lease) },
		NewList:          func() runtime.Object { return new(coordinationv1.LeaseList) },
		StoragePrefix:    "leases",
		PrepareForCreate: onCreate(func(l *coordinationv1.Lease) { dropCoordinatedElection(l, nil) }),
		PrepareForUpdate: onUpdate(dropCoordinatedElection),
		Validate:         checking(validateLease),
		ValidateUpdate: checkingUpdate(func(l, old *coordinationv1.Lease) field.ErrorList {
			return append(ValidateMetaUpdate(&l.ObjectMeta, &old.ObjectMeta), validateLeaseSpec(l)...)
		}),
		ValidateName:     NameIsDNSSubdomain,
		FieldLabels:      metaFieldLabels,
		SelectableFields: namespacedMetaFields,
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("Holder", "string", coordinationv1.LeaseSpec{}.SwaggerDoc()["holderIdentity"]),
			ageColumn(),
		},
		Row: row(func(l *coordinationv1.Lease, now time.Time) []any {
			holder := ""
			if l.Spec.HolderIdentity != nil {
				holder = *l.Spec.HolderIdentity
			}
			return []any{l.Name, holder, age(l.CreationTimestamp, now)}
		}),
		AllowCreateOnUpdate: true,
	}
}

// dropCoordinatedElection clears the fields of coordinated leader election (KEP-4355), which upstream has off by default.
func dropCoordinatedElection(l, old *coordinationv1.Lease) {
	if old == nil || old.Spec.Strategy == nil {
		l.Spec.Strategy = nil
	}
	if old == nil || old.Spec.PreferredHolder == nil {
		l.Spec.PreferredHolder = nil
	}
}

func validateLease(l *coordinationv1.Lease) field.ErrorList {
	return append(ValidateMeta(&l.ObjectMeta, true, NameIsDNSSubdomain), validateLeaseSpec(l)...)
}

func validateLeaseSpec(l *coordinationv1.Lease) (errs field.ErrorList) {
	spec := &l.Spec
	if spec.LeaseDurationSeconds != nil && *spec.LeaseDurationSeconds <= 0 {
		errs = append(errs, field.Invalid(field.NewPath("spec", "leaseDurationSeconds"), *spec.LeaseDurationSeconds, "must be greater than 0"))
	}
	if spec.LeaseTransitions != nil && *spec.LeaseTransitions < 0 {
		errs = append(errs, field.Invalid(field.NewPath("spec", "leaseTransitions"), *spec.LeaseTransitions, "must be greater than or equal to 0"))
	}
	if s := spec.Strategy; s != nil {
		path := field.NewPath("spec", "strategy", "strategy")
		if strings.Contains(string(*s), "/") {
			for _, sentence := range validation.IsQualifiedName(string(*s)) {
				errs = append(errs, field.Invalid(path, *s, sentence))
			}
		} else if *s != coordinationv1.OldestEmulationVersion {
			errs = append(errs, field.NotSupported(path, *s, []coordinationv1.CoordinatedLeaseStrategy{coordinationv1.OldestEmulationVersion}))
		}
	}
	if spec.PreferredHolder != nil && *spec.PreferredHolder != "" && (spec.Strategy == nil || *spec.Strategy == "") {
		errs = append(errs, field.Forbidden(field.NewPath("spec", "preferredHolder"), "may only be specified if `strategy` is defined"))
	}
	return errs
}
