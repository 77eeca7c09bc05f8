package kinds

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const (
	// HighestUserPriority is the highest value a user's priority class may have; the system's own are above it.
	HighestUserPriority = int32(1_000_000_000)
	systemPriorityStart = 2 * HighestUserPriority
)

// SystemPriorityClasses returns the two classes that every cluster has, made by the server when they are missing.
func SystemPriorityClasses() []*schedulingv1.PriorityClass {
	preempt := corev1.PreemptLowerPriority
	class := func(name string, value int32, description string) *schedulingv1.PriorityClass {
		return &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Value: value, Description: description, PreemptionPolicy: &preempt}
	}
	return []*schedulingv1.PriorityClass{
		class("system-node-critical", systemPriorityStart+1000, "Used for system critical pods that must not be moved from their current node."),
		class("system-cluster-critical", systemPriorityStart, "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary."),
	}
}

// PriorityClasses is scheduling.k8s.io/v1 priorityclasses. That there is one global default at most is admission's to see to.
func PriorityClasses() *Kind {
	return &Kind{
		GroupVersionKind: schedulingv1.SchemeGroupVersion.WithKind("PriorityClass"),
		Plural:           "priorityclasses",
		Singular:         "priorityclass",
		ShortNames:       []string{"pc"},
		Verbs:            all,
		New:              func() runtime.Object { return new(schedulingv1.PriorityClass) },
		NewList:          func() runtime.Object { return new(schedulingv1.PriorityClassList) },
		StoragePrefix:    "priorityclasses",
		Default: defaulting(func(c *schedulingv1.PriorityClass) {
			if c.PreemptionPolicy == nil {
				preempt := corev1.PreemptLowerPriority
				c.PreemptionPolicy = &preempt
			}
		}),
		PrepareForCreate: onCreate(func(c *schedulingv1.PriorityClass) { c.Generation = 1 }),
		Validate:         checking(validatePriorityClass),
		ValidateUpdate:   checkingUpdate(validatePriorityClassUpdate),
		ValidateName:     NameIsDNSSubdomain,
		FieldLabels:      metaFieldLabels,
		SelectableFields: clusterMetaFields,
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("Value", "integer", schedulingv1.PriorityClass{}.SwaggerDoc()["value"]),
			column("Global-Default", "boolean", schedulingv1.PriorityClass{}.SwaggerDoc()["globalDefault"]),
			ageColumn(),
			column("PreemptionPolicy", "string", schedulingv1.PriorityClass{}.SwaggerDoc()["preemptionPolicy"]),
		},
		Row: row(func(c *schedulingv1.PriorityClass, now time.Time) []any {
			policy := string(corev1.PreemptLowerPriority)
			if c.PreemptionPolicy != nil {
				policy = string(*c.PreemptionPolicy)
			}
			return []any{c.Name, int64(c.Value), c.GlobalDefault, age(c.CreationTimestamp, now), policy}
		}),
		AllowUnconditionalUpdate: true,
	}
}

func validatePriorityClass(c *schedulingv1.PriorityClass) field.ErrorList {
	errs := ValidateMeta(&c.ObjectMeta, false, NameIsDNSSubdomain)
	if strings.HasPrefix(c.Name, "system-") {
		if err := checkSystemClass(c); err != nil {
			errs = append(errs, field.Forbidden(metadataPath.Child("name"), "priority class names with 'system-' prefix are reserved for system use only. error: "+err.Error()))
		}
	} else if c.Value > HighestUserPriority {
		errs = append(errs, field.Forbidden(field.NewPath("value"), fmt.Sprintf("maximum allowed value of a user defined priority is %v", HighestUserPriority)))
	}
	if p := c.PreemptionPolicy; p != nil {
		switch *p {
		case corev1.PreemptLowerPriority, corev1.PreemptNever:
		case "":
			errs = append(errs, field.Required(field.NewPath("preemptionPolicy"), ""))
		default:
			errs = append(errs, field.NotSupported(field.NewPath("preemptionPolicy"), *p, []corev1.PreemptionPolicy{corev1.PreemptLowerPriority, corev1.PreemptNever}))
		}
	}
	return errs
}

// checkSystemClass accepts only the system's own classes, as they are.
func checkSystemClass(c *schedulingv1.PriorityClass) error {
	for _, s := range SystemPriorityClasses() {
		if s.Name != c.Name {
			continue
		}
		switch {
		case s.Value != c.Value:
			return fmt.Errorf("value of %v PriorityClass must be %v", s.Name, s.Value)
		case s.GlobalDefault != c.GlobalDefault:
			return fmt.Errorf("globalDefault of %v PriorityClass must be %v", s.Name, s.GlobalDefault)
		}
		return nil
	}
	return fmt.Errorf("%v is not a known system priority class", c.Name)
}

func validatePriorityClassUpdate(c, old *schedulingv1.PriorityClass) field.ErrorList {
	errs := ValidateMetaUpdate(&c.ObjectMeta, &old.ObjectMeta)
	if c.Value != old.Value {
		errs = append(errs, field.Forbidden(field.NewPath("value"), "may not be changed in an update."))
	}
	if !equalPointers(c.PreemptionPolicy, old.PreemptionPolicy) {
		errs = append(errs, field.Invalid(field.NewPath("preemptionPolicy"), c.PreemptionPolicy, "field is immutable"))
	}
	return errs
}
