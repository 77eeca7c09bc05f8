package kinds

import (
	"slices"
	"strings"
	"time"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// ResourceClaims is resource.k8s.io/v1 resourceclaims (KEP-4381).
func ResourceClaims() *Kind {
	return &Kind{
		GroupVersionKind: resourcev1.SchemeGroupVersion.WithKind("ResourceClaim"),
		Plural:           "resourceclaims",
		Singular:         "resourceclaim",
		Namespaced:       true,
		Verbs:            all,
		New:              func() runtime.Object { return new(resourcev1.ResourceClaim) },
		NewList:          func() runtime.Object { return new(resourcev1.ResourceClaimList) },
		StoragePrefix:    "resourceclaims",
		Default:          defaulting(func(c *resourcev1.ResourceClaim) { defaultDeviceClaim(&c.Spec.Devices) }),
		PrepareForCreate: onCreate(func(c *resourcev1.ResourceClaim) { c.Status = resourcev1.ResourceClaimStatus{} }),
		PrepareForUpdate: onUpdate(func(c, old *resourcev1.ResourceClaim) { c.Status = old.Status }),
		Validate: checking(func(c *resourcev1.ResourceClaim) field.ErrorList {
			f := faults{list: ValidateMeta(&c.ObjectMeta, true, NameIsDNSSubdomain)}
			f.deviceClaim((&where{name: "spec"}).field("devices"), &c.Spec.Devices)
			return f.list
		}),
		ValidateUpdate: checkingUpdate(func(c, old *resourcev1.ResourceClaim) field.ErrorList {
			errs := append(ValidateMeta(&c.ObjectMeta, true, NameIsDNSSubdomain), ValidateMetaUpdate(&c.ObjectMeta, &old.ObjectMeta)...)
			return append(errs, validation.ValidateImmutableField(c.Spec, old.Spec, specPath)...)
		}),
		ValidateName: NameIsDNSSubdomain,
		Subresources: map[string]*Subresource{
			"status": {
				Verbs:  viewVerbs,
				Resets: []string{"metadata"},
				PrepareForUpdate: onUpdate(func(c, old *resourcev1.ResourceClaim) {
					c.Spec = old.Spec
					metav1.ResetObjectMetaForStatus(&c.ObjectMeta, &old.ObjectMeta)
					dropDeallocated(&c.Status, &old.Status)
				}),
				ValidateUpdate: checkingUpdate(validateClaimedDevices),
			},
		},
		FieldLabels:      metaFieldLabels,
		SelectableFields: namespacedMetaFields,
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("State", "string", "A summary of the current state (allocated, pending, reserved, etc.)."),
			ageColumn(),
		},
		Row: row(func(c *resourcev1.ResourceClaim, now time.Time) []any {
			var states []string
			if c.DeletionTimestamp != nil {
				states = append(states, "deleted")
			}
			switch {
			case c.Status.Allocation != nil:
				states = append(states, "allocated")
				if len(c.Status.ReservedFor) > 0 {
					states = append(states, "reserved")
				}
			case c.DeletionTimestamp == nil:
				states = append(states, "pending")
			}
			return []any{c.Name, strings.Join(states, ","), age(c.CreationTimestamp, now)}
		}),
		AllowUnconditionalUpdate: true,
	}
}

func defaultDeviceClaim(c *resourcev1.DeviceClaim) {
	count := func(mode *resourcev1.DeviceAllocationMode, n *int64) {
		setIfZero(mode, resourcev1.DeviceAllocationModeExactCount)
		if *mode == resourcev1.DeviceAllocationModeExactCount {
			setIfZero(n, 1)
		}
	}
	for i := range c.Requests {
		if e := c.Requests[i].Exactly; e != nil {
			count(&e.AllocationMode, &e.Count)
		}
		for j := range c.Requests[i].FirstAvailable {
			s := &c.Requests[i].FirstAvailable[j]
			count(&s.AllocationMode, &s.Count)
		}
	}
}

// deviceID names one device, or one share of it.
type deviceID struct{ driver, pool, device, share string }

func allocatedDevices(s *resourcev1.ResourceClaimStatus) map[deviceID]bool {
	devices := map[deviceID]bool{}
	if s.Allocation == nil {
		return devices
	}
	for _, r := range s.Allocation.Devices.Results {
		id := deviceID{driver: r.Driver, pool: r.Pool, device: r.Device}
		if r.ShareID != nil {
			id.share = string(*r.ShareID)
		}
		devices[id] = true
	}
	return devices
}

func statusDevice(d *resourcev1.AllocatedDeviceStatus) deviceID {
	id := deviceID{driver: d.Driver, pool: d.Pool, device: d.Device}
	if d.ShareID != nil {
		id.share = *d.ShareID
	}
	return id
}

// dropDeallocated removes the reports on devices that the claim does not have any longer (KEP-4817).
func dropDeallocated(s, old *resourcev1.ResourceClaimStatus) {
	had, has := allocatedDevices(old), allocatedDevices(s)
	s.Devices = slices.DeleteFunc(s.Devices, func(d resourcev1.AllocatedDeviceStatus) bool {
		id := statusDevice(&d)
		return had[id] && !has[id]
	})
	if len(s.Devices) == 0 {
		s.Devices = nil
	}
}

// validateClaimedDevices checks a write of a claim's status.
func validateClaimedDevices(c, old *resourcev1.ResourceClaim) field.ErrorList {
	f := faults{list: ValidateMetaUpdate(&c.ObjectMeta, &old.ObjectMeta)}
	w, s := &where{name: "status"}, &c.Status
	reserved := w.field("reservedFor")
	if f.fewEnough(reserved, len(s.ReservedFor), resourcev1.ResourceClaimReservedForMaxSize) {
		for i, r := range s.ReservedFor {
			f.needs(reserved.at(i).field("resource"), r.Resource)
			f.needs(reserved.at(i).field("name"), r.Name)
			f.needs(reserved.at(i).field("uid"), string(r.UID))
			if slices.ContainsFunc(s.ReservedFor[:i], func(o resourcev1.ResourceClaimConsumerReference) bool { return o.UID == r.UID }) {
				f.duplicate(reserved.at(i), r.UID)
			}
		}
	}
	devices := allocatedDevices(s)
	for i := range s.Devices {
		d, at := &s.Devices[i], w.field("devices").at(i)
		f.csiDriverName(at.field("driver"), d.Driver)
		f.poolName(at.field("pool"), d.Pool)
		f.requestName(at.field("device"), d.Device)
		if !devices[statusDevice(d)] {
			f.invalid(at, d.Device, "must be an allocated device in the claim")
		}
		f.add(metav1validation.ValidateConditions(d.Conditions, at.field("conditions").path()))
		if d.Data != nil && len(d.Data.Raw) > 0 {
			f.jsonObject(at.field("data"), d.Data, resourcev1.AllocatedDeviceStatusDataMaxLength)
		}
	}
	switch {
	case len(s.ReservedFor) == 0:
	case s.Allocation == nil:
		f.forbidden(reserved, "may not be specified when `allocated` is not set")
	case c.DeletionTimestamp != nil && slices.ContainsFunc(s.ReservedFor, func(r resourcev1.ResourceClaimConsumerReference) bool {
		return !slices.Contains(old.Status.ReservedFor, r)
	}):
		f.forbidden(reserved, "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set")
	}
	allocation := w.field("allocation")
	switch {
	case s.Allocation == nil:
	case old.Status.Allocation != nil:
		f.add(validation.ValidateImmutableField(s.Allocation, old.Status.Allocation, allocation.path()))
	default:
		f.allocation(allocation, s.Allocation, requestNames(&c.Spec.Devices))
	}
	return f.list
}

func (f *faults) allocation(w *where, a *resourcev1.AllocationResult, names map[string]bool) {
	results := w.field("devices").field("results")
	if f.fewEnough(results, len(a.Devices.Results), resourcev1.AllocationResultsMaxSize) {
		for i := range a.Devices.Results {
			r, at := &a.Devices.Results[i], results.at(i)
			f.requestRef(at.field("request"), r.Request, names)
			f.csiDriverName(at.field("driver"), r.Driver)
			f.poolName(at.field("pool"), r.Pool)
			f.requestName(at.field("device"), r.Device)
			for j := range r.Tolerations {
				f.deviceToleration(at.field("tolerations").at(j), &r.Tolerations[j])
			}
		}
	}
	config := w.field("devices").field("config")
	if f.fewEnough(config, len(a.Devices.Config), 2*resourcev1.DeviceConfigMaxSize) { // the class's and the claim's
		for i := range a.Devices.Config {
			c, at := &a.Devices.Config[i], config.at(i)
			oneOf(f, at.field("source"), c.Source, []resourcev1.AllocationConfigSource{resourcev1.AllocationConfigSourceClaim, resourcev1.AllocationConfigSourceClass})
			f.requestRefs(at.field("requests"), c.Requests, names)
			f.deviceConfig(at, &c.DeviceConfiguration)
		}
	}
	if a.NodeSelector != nil {
		validateNodeSelector(f, w.field("nodeSelector"), a.NodeSelector, false)
	}
}
