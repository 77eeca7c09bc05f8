package quota

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apiserver/pkg/admission"
	quota "k8s.io/apiserver/pkg/quota/v1"
)

const (
	claimCount corev1.ResourceName = "count/persistentvolumeclaims"
	// byClass stands between a storage class and what is reckoned for it alone.
	byClass = ".storageclass.storage.k8s.io/"
)

func claims(list Lister) quota.Evaluator {
	resource := corev1.SchemeGroupVersion.WithResource("persistentvolumeclaims")
	return &evaluator[*corev1.PersistentVolumeClaim]{
		resource: resource.GroupResource(), list: list.in(resource), usage: claimUsage,
		counts: func(name corev1.ResourceName) bool {
			if i := strings.LastIndex(string(name), byClass); i >= 0 {
				name = name[i+len(byClass):]
			} else if name == claimCount {
				return true
			}
			return name == corev1.ResourcePersistentVolumeClaims || name == corev1.ResourceRequestsStorage
		},
		handles: func(a admission.Attributes) bool {
			if a.GetSubresource() != "status" {
				return written(a)
			}
			claim, is := a.GetObject().(*corev1.PersistentVolumeClaim)
			old, was := a.GetOldObject().(*corev1.PersistentVolumeClaim)
			return is && was && (!equality.Semantic.DeepEqual(claim.Status.AllocatedResources, old.Status.AllocatedResources) || !equality.Semantic.DeepEqual(attributes(claim), attributes(old)))
		},
		inScope: func(c *corev1.PersistentVolumeClaim, r corev1.ScopedResourceSelectorRequirement) (bool, error) {
			if r.ScopeName != corev1.ResourceQuotaScopeVolumeAttributesClass {
				return false, nil
			}
			return named(r, attributes(c)...)
		},
	}
}

// attributes are the volume attributes classes that a claim has, will have, or is asked to have.
func attributes(c *corev1.PersistentVolumeClaim) []string {
	var names []string
	if n := c.Spec.VolumeAttributesClassName; n != nil {
		names = append(names, *n)
	}
	if n := c.Status.CurrentVolumeAttributesClassName; n != nil {
		names = append(names, *n)
	}
	if m := c.Status.ModifyVolumeStatus; m != nil {
		names = append(names, m.TargetVolumeAttributesClassName)
	}
	return names
}

// claimUsage counts a claim and its bytes, rounded up, as such and for its storage class.
func claimUsage(c *corev1.PersistentVolumeClaim) corev1.ResourceList {
	one := *resource.NewQuantity(1, resource.DecimalSI)
	usage := corev1.ResourceList{claimCount: one, corev1.ResourcePersistentVolumeClaims: one}
	class := c.Annotations[corev1.BetaStorageClassAnnotation]
	if class == "" && c.Spec.StorageClassName != nil {
		class = *c.Spec.StorageClassName
	}
	add := func(name corev1.ResourceName, q resource.Quantity) {
		usage[name] = q
		if class != "" {
			usage[corev1.ResourceName(class+byClass)+name] = q
		}
	}
	add(corev1.ResourcePersistentVolumeClaims, one)
	if size, has := c.Spec.Resources.Requests[corev1.ResourceStorage]; has {
		if allocated, has := c.Status.AllocatedResources[corev1.ResourceStorage]; has && allocated.Cmp(size) > 0 {
			size = allocated
		}
		size = size.DeepCopy()
		size.RoundUp(0)
		add(corev1.ResourceRequestsStorage, size)
	}
	return usage
}
