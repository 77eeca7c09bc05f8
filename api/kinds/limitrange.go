package kinds

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// LimitRanges is core/v1 limitranges. They are enforced by admission.
func LimitRanges() *Kind {
	return &Kind{
		GroupVersionKind: corev1.SchemeGroupVersion.WithKind("LimitRange"),
		Plural:           "limitranges",
		Singular:         "limitrange",
		ShortNames:       []string{"limits"},
		Namespaced:       true,
		Verbs:            all,
		New:              func() runtime.Object { return new(corev1.LimitRange) },
		NewList:          func() runtime.Object { return new(corev1.LimitRangeList) },
		StoragePrefix:    "limitranges",
		Default: defaulting(func(r *corev1.LimitRange) {
			for i := range r.Spec.Limits {
				defaultLimits(&r.Spec.Limits[i])
			}
		}),
		PrepareForCreate: onCreate(func(r *corev1.LimitRange) {
			if r.Name == "" {
				r.Name = string(uuid.NewUUID())
			}
		}),
		Validate: checking(func(r *corev1.LimitRange) field.ErrorList {
			var f faults
			f.newMeta(&r.ObjectMeta, NameIsDNSSubdomain)
			f.limits(r)
			return f.list
		}),
		ValidateUpdate: checkingUpdate(func(r, old *corev1.LimitRange) field.ErrorList {
			var f faults
			f.changedMeta(&r.ObjectMeta, &old.ObjectMeta)
			f.newMeta(&r.ObjectMeta, NameIsDNSSubdomain)
			f.limits(r)
			return f.list
		}),
		ValidateName:     NameIsDNSSubdomain,
		FieldLabels:      metaFieldLabels,
		SelectableFields: namespacedMetaFields,
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("Created At", "date", metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"]),
		},
		Row: row(func(r *corev1.LimitRange, _ time.Time) []any {
			return []any{r.Name, r.CreationTimestamp.UTC().Format(time.RFC3339)}
		}),
		AllowCreateOnUpdate:      true,
		AllowUnconditionalUpdate: true,
	}
}

// defaultLimits takes the default limit from the maximum, and the default request from the default limit or the minimum.
func defaultLimits(l *corev1.LimitRangeItem) {
	if l.Type == corev1.LimitTypeContainer {
		fill := func(to *corev1.ResourceList, from corev1.ResourceList) {
			if *to == nil {
				*to = corev1.ResourceList{}
			}
			for name, amount := range from {
				if _, has := (*to)[name]; !has {
					(*to)[name] = amount.DeepCopy()
				}
			}
		}
		fill(&l.Default, l.Max)
		fill(&l.DefaultRequest, l.Default)
		fill(&l.DefaultRequest, l.Min)
	}
	for _, list := range []corev1.ResourceList{l.Max, l.Min, l.Default, l.DefaultRequest, l.MaxLimitRequestRatio} {
		roundToMilli(list)
	}
}

func (f *faults) limits(r *corev1.LimitRange) {
	seen := map[corev1.LimitType]bool{}
	for i := range r.Spec.Limits {
		l, w := &r.Spec.Limits[i], specRoot.field("limits").at(i)
		f.limitType(w.field("type"), l.Type)
		if seen[l.Type] {
			f.duplicate(w.field("type"), l.Type)
		}
		seen[l.Type] = true
		f.limit(w, l)
	}
}

func (f *faults) limitType(w *where, t corev1.LimitType) {
	if wrong := validation.IsQualifiedName(string(t)); len(wrong) > 0 {
		f.eachNumber(w, t, wrong)
		return
	}
	switch t {
	case corev1.LimitTypePod, corev1.LimitTypeContainer, corev1.LimitTypePersistentVolumeClaim:
	default:
		if !strings.Contains(string(t), "/") {
			f.invalid(w, t, "must be a standard limit type or fully qualified")
		}
	}
}

func (f *faults) limit(w *where, l *corev1.LimitRangeItem) {
	names := map[corev1.ResourceName]bool{}
	list := func(field string, list corev1.ResourceList) {
		for _, name := range slices.Sorted(maps.Keys(list)) {
			names[name] = true
			at := w.field(field).key(string(name))
			if l.Type == corev1.LimitTypePod || l.Type == corev1.LimitTypeContainer {
				f.containerResourceName(at, name)
			} else {
				f.resourceName(at, name)
			}
		}
	}
	list("max", l.Max)
	list("min", l.Min)
	defaults, requests := l.Default, l.DefaultRequest
	if l.Type == corev1.LimitTypePod {
		if len(l.Default) > 0 {
			f.forbidden(w.field("default"), "may not be specified when `type` is 'Pod'")
		}
		if len(l.DefaultRequest) > 0 {
			f.forbidden(w.field("defaultRequest"), "may not be specified when `type` is 'Pod'")
		}
		defaults, requests = nil, nil
	}
	list("default", defaults)
	list("defaultRequest", requests)
	if l.Type == corev1.LimitTypePersistentVolumeClaim {
		_, hasMin := l.Min[corev1.ResourceStorage]
		_, hasMax := l.Max[corev1.ResourceStorage]
		if !hasMin && !hasMax {
			f.required(w.field("limits"), "either minimum or maximum storage value is required, but neither was provided")
		}
	}
	list("maxLimitRequestRatio", l.MaxLimitRequestRatio)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		amount := func(list corev1.ResourceList) *quantity {
			if q, has := list[name]; has {
				return &q
			}
			return nil
		}
		f.bounds(w, name, bounds{amount(l.Min), amount(l.Max), amount(defaults), amount(requests), amount(l.MaxLimitRequestRatio)})
	}
}

// bounds is what a limit says of one resource; nil where it says nothing.
type bounds struct{ min, max, limit, request, ratio *quantity }

// bounds checks that the amounts of one resource go together.
func (f *faults) bounds(w *where, name corev1.ResourceName, b bounds) {
	ordered := func(low, high, value *quantity, field, names string) {
		if low != nil && high != nil && low.Cmp(*high) > 0 {
			lowName, highName, _ := strings.Cut(names, "|")
			f.invalid(w.field(field).key(string(name)), *value, fmt.Sprintf("%s value %s is greater than %s value %s", lowName, low.String(), highName, high.String()))
		}
	}
	ordered(b.min, b.max, b.min, "min", "min|max")
	ordered(b.min, b.request, b.request, "defaultRequest", "min|default request")
	ordered(b.request, b.max, b.request, "defaultRequest", "default request|max")
	ordered(b.request, b.limit, b.request, "defaultRequest", "default request|default limit")
	ordered(b.min, b.limit, b.min, "default", "min|default")
	ordered(b.limit, b.max, b.max, "default", "default|max")
	if b.ratio != nil {
		at := w.field("maxLimitRequestRatio").key(string(name))
		if b.ratio.Cmp(*resource.NewQuantity(1, resource.DecimalSI)) < 0 {
			f.invalid(at, *b.ratio, fmt.Sprintf("ratio %s is less than 1", b.ratio.String()))
		}
		if b.min != nil && b.max != nil {
			if ratio, most := ratios(b); ratio > most {
				f.invalid(at, *b.ratio, fmt.Sprintf("ratio %s is greater than max/min = %f", b.ratio.String(), most))
			}
		}
	}
	if !isOvercommitted(name) && b.limit != nil && b.request != nil && b.limit.Cmp(*b.request) != 0 {
		f.invalid(w.field("defaultRequest").key(string(name)), *b.request, fmt.Sprintf("default value %s must equal to defaultRequest value %s in %s", b.limit.String(), b.request.String(), name))
	}
}

// ratios returns the wanted ratio and the largest that maximum and minimum allow, reckoned in thousandths where these fit.
func ratios(b bounds) (ratio, most float64) {
	if b.ratio.Value() < resource.MaxMilliValue && b.min.Value() < resource.MaxMilliValue && b.max.Value() < resource.MaxMilliValue {
		return float64(b.ratio.MilliValue()) / 1000, float64(b.max.MilliValue()) / float64(b.min.MilliValue())
	}
	return float64(b.ratio.Value()), float64(b.max.Value()) / float64(b.min.Value())
}
