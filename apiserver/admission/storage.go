package admission

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"
)

// What marks a class as the default.
const (
	defaultStorageClassAnnotation     = "storageclass.kubernetes.io/is-default-class"
	betaDefaultStorageClassAnnotation = "storageclass.beta.kubernetes.io/is-default-class"
)

// newestDefault returns the default class, the newest when there are several, of equal age the first by name. Nil: none.
func newestDefault[T metav1.Object](classes []T, isDefault func(T) bool) (found T, ok bool) {
	for _, c := range classes {
		if !isDefault(c) {
			continue
		}
		if !ok {
			found, ok = c, true
			continue
		}
		a, b := c.GetCreationTimestamp(), found.GetCreationTimestamp()
		if age := a.UnixNano() - b.UnixNano(); age > 0 || age == 0 && strings.Compare(c.GetName(), found.GetName()) < 0 {
			found = c
		}
	}
	return found, ok
}

// defaultStorageClass gives claims that name no class the default one.
type defaultStorageClass struct{ cluster *cluster }

func (*defaultStorageClass) Handles(op admission.Operation) bool { return op == admission.Create }

// Admit implements admission.MutationInterface.
func (p *defaultStorageClass) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	claim, ok := claimOf(a)
	if !ok {
		return nil
	}
	if _, annotated := claim.Annotations[corev1.BetaStorageClassAnnotation]; annotated || claim.Spec.StorageClassName != nil {
		return nil
	}
	classes, err := p.cluster.storageClasses(ctx)
	if err != nil {
		return admission.NewForbidden(a, err)
	}
	class, ok := newestDefault(classes, func(c *storagev1.StorageClass) bool {
		return c.Annotations[defaultStorageClassAnnotation] == "true" || c.Annotations[betaDefaultStorageClassAnnotation] == "true"
	})
	if ok {
		claim.Spec.StorageClassName = new(class.Name)
	}
	return nil
}

// claimOf returns the claim that is written itself, not through a subresource.
func claimOf(a admission.Attributes) (*corev1.PersistentVolumeClaim, bool) {
	if a.GetResource().GroupResource() != corev1.Resource("persistentvolumeclaims") || a.GetSubresource() != "" {
		return nil, false
	}
	claim, ok := a.GetObject().(*corev1.PersistentVolumeClaim)
	return claim, ok
}

// defaultIngressClass gives ingresses that name no class the default one.
type defaultIngressClass struct{ cluster *cluster }

func (*defaultIngressClass) Handles(op admission.Operation) bool { return op == admission.Create }

// Admit implements admission.MutationInterface.
func (p *defaultIngressClass) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetResource().GroupResource() != networkingv1.Resource("ingresses") || a.GetSubresource() != "" {
		return nil
	}
	ingress, ok := a.GetObject().(*networkingv1.Ingress)
	if !ok {
		return nil
	}
	if _, annotated := ingress.Annotations["kubernetes.io/ingress.class"]; annotated || ingress.Spec.IngressClassName != nil {
		return nil
	}
	classes, err := p.cluster.ingressClasses(ctx)
	if err != nil {
		return admission.NewForbidden(a, err)
	}
	class, ok := newestDefault(classes, func(c *networkingv1.IngressClass) bool {
		return c.Annotations[networkingv1.AnnotationIsDefaultIngressClass] == "true"
	})
	if ok {
		ingress.Spec.IngressClassName = new(class.Name)
	}
	return nil
}

// Finalizers that keep storage objects until nothing uses them; upstream's controllers of the same names take them off.
const (
	volumeProtection          = "kubernetes.io/pv-protection"
	claimProtection           = "kubernetes.io/pvc-protection"
	attributesClassProtection = "kubernetes.io/vac-protection"
)

// storageProtection puts them on.
type storageProtection struct{}

func (storageProtection) Handles(op admission.Operation) bool { return op == admission.Create }

// Admit implements admission.MutationInterface.
func (storageProtection) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetSubresource() != "" {
		return nil
	}
	var meta *metav1.ObjectMeta
	var finalizer string
	switch object := a.GetObject().(type) {
	case *corev1.PersistentVolume:
		meta, finalizer = &object.ObjectMeta, volumeProtection
	case *corev1.PersistentVolumeClaim:
		meta, finalizer = &object.ObjectMeta, claimProtection
	case *storagev1.VolumeAttributesClass:
		meta, finalizer = &object.ObjectMeta, attributesClassProtection
	default:
		return nil
	}
	if !slices.Contains(meta.Finalizers, finalizer) {
		meta.Finalizers = append(meta.Finalizers, finalizer)
	}
	return nil
}

// claimResize lets only bound claims grow, and only where their class says that its volumes can.
type claimResize struct{ cluster *cluster }

func (*claimResize) Handles(op admission.Operation) bool { return op == admission.Update }

// Validate implements admission.ValidationInterface.
func (p *claimResize) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	claim, ok := claimOf(a)
	old, had := a.GetOldObject().(*corev1.PersistentVolumeClaim)
	if !ok || !had {
		return nil
	}
	was, is := old.Spec.Resources.Requests[corev1.ResourceStorage], claim.Spec.Resources.Requests[corev1.ResourceStorage]
	if is.Cmp(was) <= 0 {
		return nil
	}
	if old.Status.Phase != corev1.ClaimBound {
		return admission.NewForbidden(a, errors.New("Only bound persistent volume claims can be expanded")) //nolint:staticcheck // upstream's sentence
	}
	if name := classOf(claim); name != "" && name == classOf(old) {
		if class, err := p.cluster.storageClass(ctx, name); err == nil && class.AllowVolumeExpansion != nil && *class.AllowVolumeExpansion {
			return nil
		}
	}
	return admission.NewForbidden(a, fmt.Errorf("only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize"))
}

// classOf returns the class of a claim, from the annotation that was there before the field if it has one.
func classOf(c *corev1.PersistentVolumeClaim) string {
	if name, ok := c.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		return name
	}
	if c.Spec.StorageClassName != nil {
		return *c.Spec.StorageClassName
	}
	return ""
}
