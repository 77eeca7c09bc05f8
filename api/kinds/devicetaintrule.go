package kinds

import (
	"time"

	resourcev1 "k8s.io/api/resource/v1"
	resourcev1beta2 "k8s.io/api/resource/v1beta2"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// DeviceTaintRules is resource.k8s.io/v1 devicetaintrules (KEP-5055), stored as v1beta2.
func DeviceTaintRules() *Kind {
	kind := resourcev1.SchemeGroupVersion.WithKind("DeviceTaintRule")
	taint := resourcev1.DeviceTaint{}.SwaggerDoc()
	return &Kind{
		GroupVersionKind: kind,
		Plural:           "devicetaintrules",
		Singular:         "devicetaintrule",
		Verbs:            all,
		New:              func() runtime.Object { return new(resourcev1.DeviceTaintRule) },
		NewList:          func() runtime.Object { return new(resourcev1.DeviceTaintRuleList) },
		StoragePrefix:    "devicetaintrules",
		Hub: storedAs(kind, resourcev1beta2.SchemeGroupVersion.WithKind("DeviceTaintRule"),
			func() message { return new(resourcev1.DeviceTaintRule) }, func() message { return new(resourcev1beta2.DeviceTaintRule) }),
		HubOpens: true,
		Default: defaulting(func(r *resourcev1.DeviceTaintRule) {
			if r.Spec.Taint.TimeAdded == nil {
				r.Spec.Taint.TimeAdded = sinceNow()
			}
		}),
		PrepareForCreate: onCreate(func(r *resourcev1.DeviceTaintRule) {
			r.Status = resourcev1.DeviceTaintRuleStatus{}
			r.Generation = 1
		}),
		PrepareForUpdate: onUpdate(func(r, old *resourcev1.DeviceTaintRule) {
			r.Status = old.Status
			// The time is that of the effect: tolerations count from it.
			if r.Spec.Taint.Effect != old.Spec.Taint.Effect && r.Spec.Taint.TimeAdded.Equal(old.Spec.Taint.TimeAdded) {
				r.Spec.Taint.TimeAdded = sinceNow()
			}
			if !apiequality.Semantic.DeepEqual(r.Spec, old.Spec) {
				r.Generation = old.Generation + 1
			}
		}),
		Validate: checking(func(r *resourcev1.DeviceTaintRule) field.ErrorList {
			f := faults{list: ValidateMeta(&r.ObjectMeta, false, NameIsDNSSubdomain)}
			f.deviceTaintRule(&r.Spec, nil)
			return f.list
		}),
		ValidateUpdate: checkingUpdate(func(r, old *resourcev1.DeviceTaintRule) field.ErrorList {
			f := faults{list: ValidateMetaUpdate(&r.ObjectMeta, &old.ObjectMeta)}
			f.deviceTaintRule(&r.Spec, &old.Spec)
			return f.list
		}),
		ValidateName: NameIsDNSSubdomain,
		Subresources: map[string]*Subresource{"status": {
			Verbs:  viewVerbs,
			Resets: []string{"metadata"},
			PrepareForUpdate: onUpdate(func(r, old *resourcev1.DeviceTaintRule) {
				r.Spec = old.Spec
				metav1.ResetObjectMetaForStatus(&r.ObjectMeta, &old.ObjectMeta)
			}),
			ValidateUpdate: checkingUpdate(func(r, old *resourcev1.DeviceTaintRule) field.ErrorList {
				errs := ValidateMetaUpdate(&r.ObjectMeta, &old.ObjectMeta)
				path := field.NewPath("status", "conditions")
				errs = append(errs, metav1validation.ValidateConditions(r.Status.Conditions, path)...)
				if n := len(r.Status.Conditions); n > resourcev1.DeviceTaintRuleStatusMaxConditions {
					errs = append(errs, field.TooMany(path, n, resourcev1.DeviceTaintRuleStatusMaxConditions))
				}
				return errs
			}),
		}},
		FieldLabels:      metaFieldLabels,
		SelectableFields: clusterMetaFields,
		Columns: []metav1.TableColumnDefinition{
			nameColumn(), column("Key", "string", taint["key"]), column("Value", "string", taint["value"]), column("Effect", "string", taint["effect"]),
			column("TimeAdded", "string", taint["timeAdded"]), ageColumn(),
		},
		Row: row(func(r *resourcev1.DeviceTaintRule, now time.Time) []any {
			t, added := &r.Spec.Taint, ""
			if t.TimeAdded != nil {
				added = age(*t.TimeAdded, now)
			}
			return []any{r.Name, t.Key, t.Value, string(t.Effect), added, age(r.CreationTimestamp, now)}
		}),
	}
}

// sinceNow is the present as it is stored: to the second.
func sinceNow() *metav1.Time { return &metav1.Time{Time: time.Now().Truncate(time.Second)} }

func (f *faults) deviceTaintRule(s, old *resourcev1.DeviceTaintRuleSpec) {
	w := &where{name: "spec"}
	if d, at := s.DeviceSelector, w.field("deviceSelector"); d != nil {
		if d.Driver != nil {
			f.csiDriverName(at.field("driver"), *d.Driver)
		}
		if d.Pool != nil {
			f.poolName(at.field("pool"), *d.Pool)
		}
		if d.Device != nil {
			f.requestName(at.field("device"), *d.Device)
		}
	}
	at := w.field("taint")
	f.qualifiedName(at.field("key"), s.Taint.Key)
	if s.Taint.Value != "" {
		f.labelValue(at.field("value"), s.Taint.Value)
	}
	if old == nil || s.Taint.Effect != old.Taint.Effect { // an effect that is stored may be one of a newer release
		oneOf(f, at.field("effect"), s.Taint.Effect, deviceTaintEffects)
	}
}
