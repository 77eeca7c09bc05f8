package kinds

import (
	"slices"
	"strings"
	"time"

	resourcev1 "k8s.io/api/resource/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// ResourceSlices is resource.k8s.io/v1 resourceslices (KEP-4381).
func ResourceSlices() *Kind {
	return &Kind{
		GroupVersionKind: resourcev1.SchemeGroupVersion.WithKind("ResourceSlice"),
		Plural:           "resourceslices",
		Singular:         "resourceslice",
		Verbs:            all,
		New:              func() runtime.Object { return new(resourcev1.ResourceSlice) },
		NewList:          func() runtime.Object { return new(resourcev1.ResourceSliceList) },
		StoragePrefix:    "resourceslices",
		Default: defaulting(func(s *resourcev1.ResourceSlice) {
			for i := range s.Spec.Devices {
				for j := range s.Spec.Devices[i].Taints {
					if t := &s.Spec.Devices[i].Taints[j]; t.TimeAdded == nil {
						t.TimeAdded = &metav1.Time{Time: time.Now().Truncate(time.Second)}
					}
				}
			}
		}),
		PrepareForCreate: onCreate(func(s *resourcev1.ResourceSlice) { s.Generation = 1 }),
		PrepareForUpdate: onUpdate(func(s, old *resourcev1.ResourceSlice) {
			if !apiequality.Semantic.DeepEqual(s.Spec, old.Spec) {
				s.Generation = old.Generation + 1
			}
		}),
		Validate: checking(func(s *resourcev1.ResourceSlice) field.ErrorList {
			f := faults{list: ValidateMeta(&s.ObjectMeta, false, NameIsDNSSubdomain)}
			f.resourceSlice(&where{name: "spec"}, &s.Spec)
			return f.list
		}),
		ValidateUpdate: checkingUpdate(func(s, old *resourcev1.ResourceSlice) field.ErrorList {
			f := faults{list: ValidateMetaUpdate(&s.ObjectMeta, &old.ObjectMeta)}
			f.resourceSlice(&where{name: "spec"}, &s.Spec)
			f.add(validation.ValidateImmutableField(s.Spec.Pool.Name, old.Spec.Pool.Name, specPath.Child("pool", "name")))
			f.add(validation.ValidateImmutableField(s.Spec.Driver, old.Spec.Driver, specPath.Child("driver")))
			f.add(validation.ValidateImmutableField(s.Spec.NodeName, old.Spec.NodeName, specPath.Child("nodeName")))
			return f.list
		}),
		ValidateName: NameIsDNSSubdomain,
		FieldLabels:  []string{"metadata.name", resourcev1.ResourceSliceSelectorNodeName, resourcev1.ResourceSliceSelectorDriver, resourcev1.ResourceSliceSelectorPoolName},
		SelectableFields: selecting(func(s *resourcev1.ResourceSlice) fields.Set {
			set := metaFields(&s.ObjectMeta, false, 3)
			set[resourcev1.ResourceSliceSelectorNodeName] = ""
			if s.Spec.NodeName != nil {
				set[resourcev1.ResourceSliceSelectorNodeName] = *s.Spec.NodeName
			}
			set[resourcev1.ResourceSliceSelectorDriver] = s.Spec.Driver
			set[resourcev1.ResourceSliceSelectorPoolName] = s.Spec.Pool.Name
			return set
		}),
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("Node", "string", resourcev1.ResourceSliceSpec{}.SwaggerDoc()["nodeName"]),
			column("Driver", "string", resourcev1.ResourceSliceSpec{}.SwaggerDoc()["driver"]),
			column("Pool", "string", resourcev1.ResourcePool{}.SwaggerDoc()["name"]),
			ageColumn(),
		},
		Row: row(func(s *resourcev1.ResourceSlice, now time.Time) []any {
			node := ""
			if s.Spec.NodeName != nil {
				node = *s.Spec.NodeName
			}
			return []any{s.Name, node, s.Spec.Driver, s.Spec.Pool.Name, age(s.CreationTimestamp, now)}
		}),
		AllowUnconditionalUpdate: true,
	}
}

func (f *faults) resourceSlice(w *where, s *resourcev1.ResourceSliceSpec) {
	f.csiDriverName(w.field("driver"), s.Driver)
	f.poolName(w.field("pool").field("name"), s.Pool.Name)
	if s.Pool.ResourceSliceCount <= 0 {
		f.invalid(w.field("pool").field("resourceSliceCount"), s.Pool.ResourceSliceCount, "must be greater than zero")
	}
	if s.Pool.Generation < 0 {
		f.invalid(w.field("pool").field("generation"), s.Pool.Generation, "must be greater than or equal to zero")
	}
	f.sliceNodes(w, s)
	if s.SharedCounters != nil && s.Devices != nil {
		f.invalid(w, "", "only one of `sharedCounters` or `devices` is allowed")
	}
	most := resourcev1.ResourceSliceMaxDevices
	if slices.ContainsFunc(s.Devices, func(d resourcev1.Device) bool { return len(d.Taints) > 0 || len(d.ConsumesCounters) > 0 }) {
		most = resourcev1.ResourceSliceMaxDevicesWithAdvancedFeatures
	}
	devices := w.field("devices")
	if !f.fewEnough(devices, len(s.Devices), most) {
		return
	}
	names := make(map[string]bool, len(s.Devices))
	for i := range s.Devices {
		d, at := &s.Devices[i], devices.at(i)
		f.requestName(at.field("name"), d.Name)
		for j := range d.Taints {
			t, at := &d.Taints[j], at.field("taints").at(j)
			f.qualifiedName(at.field("key"), t.Key)
			f.labelValue(at.field("value"), t.Value)
			oneOf(f, at.field("effect"), t.Effect, deviceTaintEffects)
		}
		if names[d.Name] {
			f.duplicate(at, d.Name)
		}
		names[d.Name] = true
	}
}

// sliceNodes wants one way of saying which nodes can use the devices.
func (f *faults) sliceNodes(w *where, s *resourcev1.ResourceSliceSpec) {
	var set []string
	if n := s.NodeName; n != nil && *n == "" {
		f.invalid(w.field("nodeName"), *n, "must be either unset or set to a non-empty string")
	} else if n != nil {
		set = append(set, "`nodeName`")
		f.dnsSubdomain(w.field("nodeName"), *n)
	}
	if n := s.NodeSelector; n != nil {
		set = append(set, "`nodeSelector`")
		validateNodeSelector(f, w.field("nodeSelector"), n, false)
		if len(n.NodeSelectorTerms) != 1 {
			f.invalid(w.field("nodeSelector").field("nodeSelectorTerms"), n.NodeSelectorTerms, "must have exactly one node selector term")
		}
	}
	if v := s.AllNodes; v != nil && *v {
		set = append(set, "`allNodes`")
	} else if v != nil {
		f.invalid(w.field("allNodes"), *v, "must be either unset or set to true")
	}
	if v := s.PerDeviceNodeSelection; v != nil && *v {
		set = append(set, "`perDeviceNodeSelection`")
	} else if v != nil {
		f.invalid(w.field("perDeviceNodeSelection"), *v, "must be either unset or set to true")
	}
	const one = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required"
	switch len(set) {
	case 0:
		f.required(w, one)
	case 1:
	default:
		f.invalid(w, "{"+strings.Join(set, ", ")+"}", one+", but multiple fields are set")
	}
}
