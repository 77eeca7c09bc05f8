package kinds

import (
	"context"
	"fmt"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// scaled is what a kind with a number of replicas tells of one of its objects.
type scaled struct {
	meta     *metav1.ObjectMeta
	replicas **int32 // what is asked for
	current  int32   // what there is
	selector func() (string, error)
}

// scaleOf is the subresource scale of k (autoscaling/v1 Scale), by which autoscalers and kubectl scale set the number of replicas of whatever
// has one. It writes under the rules of k itself.
func scaleOf[T runtime.Object](k *Kind, parts func(T) scaled) *Subresource {
	read := func(parent T) (*autoscalingv1.Scale, error) {
		p := parts(parent)
		selector, err := p.selector()
		if err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
		return &autoscalingv1.Scale{
			ObjectMeta: metav1.ObjectMeta{Name: p.meta.Name, Namespace: p.meta.Namespace, UID: p.meta.UID, ResourceVersion: p.meta.ResourceVersion, CreationTimestamp: p.meta.CreationTimestamp},
			Spec:       autoscalingv1.ScaleSpec{Replicas: valueOf(*p.replicas)},
			Status:     autoscalingv1.ScaleStatus{Replicas: p.current, Selector: selector},
		}, nil
	}
	write := func(old T, scale *autoscalingv1.Scale) (runtime.Object, error) {
		parent := old.DeepCopyObject().(T)
		p := parts(parent)
		if errs := validateScale(scale); len(errs) > 0 {
			return nil, apierrors.NewInvalid(autoscalingv1.SchemeGroupVersion.WithKind("Scale").GroupKind(), p.meta.Name, errs)
		}
		if scale.UID != "" && scale.UID != p.meta.UID {
			gr := k.GroupVersionResource().GroupResource()
			gr.Resource += "/scale"
			return nil, apierrors.NewConflict(gr, p.meta.Name, fmt.Errorf("Precondition failed: UID in precondition: %v, UID in object meta: %v", scale.UID, p.meta.UID))
		}
		*p.replicas = &scale.Spec.Replicas
		p.meta.ResourceVersion = scale.ResourceVersion
		return parent, nil
	}
	return &Subresource{
		Verbs:            viewVerbs,
		Kind:             autoscalingv1.SchemeGroupVersion.WithKind("Scale"),
		PrepareForUpdate: func(ctx context.Context, obj, old runtime.Object) { k.PrepareForUpdate(ctx, obj, old) },
		ValidateUpdate: func(ctx context.Context, obj, old runtime.Object) field.ErrorList {
			return k.ValidateUpdate(ctx, obj, old)
		},
		Read: func(parent runtime.Object) (runtime.Object, error) { return read(parent.(T)) },
		Write: func(parent, sub runtime.Object) (runtime.Object, error) {
			return write(parent.(T), sub.(*autoscalingv1.Scale))
		},
	}
}

// validateScale checks what of a Scale counts: its number, and who owns it.
func validateScale(s *autoscalingv1.Scale) field.ErrorList {
	f := faults{list: metav1validation.ValidateManagedFields(s.ManagedFields, metadataPath.Child("managedFields"))}
	f.notNegative(specRoot.field("replicas"), int64(s.Spec.Replicas))
	return f.list
}

// selectorText writes a label selector as clients put it into a list request.
func selectorText(s *metav1.LabelSelector) func() (string, error) {
	return func() (string, error) {
		selector, err := metav1.LabelSelectorAsSelector(s)
		if err != nil {
			return "", err
		}
		return selector.String(), nil
	}
}
